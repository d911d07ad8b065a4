import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.ingest.pictures import lmdb_pictures
from pmm.ingest.pictures.lmdb_pictures import ODD_KEY, extract, forget_other_states, store_keys
from pmm.ingest.pictures.pickled_image import (
    NOT_AN_IMAGE,
    RUNS_CODE,
    WRONG_SIZE,
    PickleRefused,
    read_pickled_image,
)
from pmm.world.lmdb_image import LMDB_Image


def pixels(seed=0, height=5, width=7, channels=3):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pickled(image=None, number=1, protocol=4):
    return pickle.dumps(LMDB_Image(pixels() if image is None else image, number), protocol)


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def write_store(tmp_path):
    """Writes an LMDB store as the published scripts do."""

    def write(values, name="bili_food_items_images.lmdb", folder=False):
        path = tmp_path / name
        with (
            lmdb.open(str(path), subdir=folder, map_size=1 << 24) as env,
            env.begin(write=True) as writing,
        ):
            for key, value in values.items():
                writing.put(str(key).encode(), value)
            writing.put(b"__keys__", pickle.dumps([str(k).encode() for k in values]))
            writing.put(b"__len__", pickle.dumps(len(values)))
        return path

    return write


def refused(value):
    with pytest.raises(PickleRefused) as error:
        read_pickled_image(value)
    return str(error.value)


@pytest.mark.parametrize("folder", [False, True])
def test_pictures_come_out_pixel_by_pixel_as_rgb(write_store, home, folder):
    pictures = {1: pixels(1), 20: pixels(2, 9, 4), "BV1x": pixels(3, 224, 224)}
    store = write_store({k: pickled(image) for k, image in pictures.items()}, folder=folder)
    found = extract(home, "Bili Food", store)
    assert found.outcomes == {"ok": 3}
    assert found.folder.parent == home.root / "pictures" / "bili-food"
    for key, image in pictures.items():
        with Image.open(found.folder / f"{key}.png") as picture:
            assert picture.mode == "RGB"
            assert np.array_equal(np.asarray(picture), image)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_grey_pictures_and_those_with_an_alpha_channel_are_read(write_store, home, channels, mode):
    found = extract(home, "B", write_store({1: pickled(pixels(channels=channels))}))
    with Image.open(found.folder / "1.png") as picture:
        assert picture.mode == mode
        assert np.asarray(picture).tobytes() == pixels(channels=channels).tobytes()


@pytest.mark.parametrize("number", [7, "v7", np.int64(7), 2**40])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_pickles_of_the_scripts_are_read_whatever_module_and_id(number, protocol):
    image = read_pickled_image(pickled(number=number, protocol=protocol))
    assert (image.height, image.width, image.channels) == (5, 7, 3)
    assert image.pixels == pixels().tobytes()
    named = pickled(protocol=4).replace(b"pmm.world.lmdb_image", b"any_other_module_xxx")
    assert read_pickled_image(named).pixels == pixels().tobytes()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_asks_to_run_code_does_nothing(tmp_path, protocol):
    place = tmp_path / "made"
    value = LMDB_Image(pixels(), Evil(place))
    for pickle_bomb in (Evil(place), [Evil(place)], value):
        refused(pickle.dumps(pickle_bomb, protocol))
    assert not place.exists()
    assert refused(pickle.dumps(Evil(place), 4)) == RUNS_CODE


def nested(depth):
    """A tuple of itself twice, so often that its hash or its text would take ages."""
    return b"\x80\x04)" + b"".join(
        b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(depth)
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80\x04.",
        b"\x80\x04N.",
        pickle.dumps([1, 2]),
        pickle.dumps({"image": b"x", "size": (1, 1), "channels": 1}),
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",  # a terabyte of bytes
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 62) + b".",
        b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b".",  # a memo of 4 billion entries
        b"\x80\x02" + b"(" * 1_000_000 + b".",
        b"\x80\x02" + b")\x85" * 1_000_000 + b".",
        nested(120) + b".",
        nested(120) + b"}" + b"h\x01Ns.",
        nested(120) + nested(120)[2:] + b"\x93.",
        b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
    ids=range(15),
)
def test_pickles_that_ask_for_much_end_at_once(value):
    began = time.monotonic()
    refused(value)
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": (5, 8)}, WRONG_SIZE),
        ({"size": (-5, -7)}, WRONG_SIZE),
        ({"channels": 2}, WRONG_SIZE),
        ({"image": b""}, WRONG_SIZE),
        ({"size": (0, 7), "image": b""}, WRONG_SIZE),
        ({"size": (10**30, 7)}, WRONG_SIZE),
        ({"size": (5, 7, 3)}, NOT_AN_IMAGE),
        ({"size": "57"}, NOT_AN_IMAGE),
        ({"size": (5.0, 7)}, NOT_AN_IMAGE),
        ({"channels": None}, NOT_AN_IMAGE),
        ({"image": "text"}, NOT_AN_IMAGE),
    ],
)
def test_a_picture_whose_attributes_do_not_fit_has_a_reason(change, reason):
    image = LMDB_Image(pixels(), 1)
    vars(image).update(change)
    assert refused(pickle.dumps(image, 4)) == reason


def test_broken_values_and_odd_keys_are_counted_and_give_no_file(write_store, home, tmp_path):
    values = {
        1: pickled(),
        2: pickled()[:-20],
        3: pickle.dumps(Evil(tmp_path / "made")),
        4: pickle.dumps("x"),
        "../5": pickled(),
        "six.png": pickled(),
    }
    found = extract(home, "B", write_store(values))
    assert found.outcomes == {"ok": 1, NOT_AN_IMAGE: 2, RUNS_CODE: 1, ODD_KEY: 2}
    assert [path.name for path in found.folder.glob("*.png")] == ["1.png"]
    assert not (tmp_path / "made").exists()
    assert list(home.root.rglob("*5*.png")) == []


def test_what_is_written_is_not_written_again(write_store, home):
    store = write_store({n: pickled(pixels(n)) for n in range(3)})
    folder = extract(home, "B", store).folder
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert extract(home, "B", store).outcomes == {"ok": 3}
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_killed_extraction_goes_on_and_mends_what_was_half_written(write_store, home):
    store = write_store({n: pickled(pixels(n)) for n in range(3)})
    folder = extract(home, "B", store).folder
    (folder / "store.json").unlink()
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:-9])
    (folder / "1.png").unlink()
    (folder / "1.png.tmp").write_bytes(b"half")
    kept = (folder / "2.png").stat().st_ino
    assert extract(home, "B", store).outcomes == {"ok": 3}
    assert (folder / "2.png").stat().st_ino == kept
    for n in range(3):
        with Image.open(folder / f"{n}.png") as picture:
            assert np.array_equal(np.asarray(picture), pixels(n))


def test_another_state_of_the_store_has_another_folder(write_store, home):
    first = extract(home, "B", write_store({1: pickled(pixels(1))}))
    second = extract(home, "B", write_store({1: pickled(pixels(2))}))
    assert first.folder != second.folder
    forget_other_states(second)
    assert not first.folder.exists()
    assert (second.folder / "1.png").exists()


def test_an_items_picture_is_under_its_number_or_its_id():
    assert store_keys("v12") == ("v12", "12")
    assert store_keys("12") == ("12",)
    assert store_keys("v1_2") == ("v1_2",)
    assert store_keys("v١٢") == ("v١٢",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _: b"", "is no LMDB store"),
        (lambda _: b"no store at all" * 999, "is no LMDB store"),
        (lambda raw: raw[: 3 * 4096], "damaged or was cut off|is no LMDB store"),
        (lambda raw: raw[: len(raw) * 2 // 3 | 1], "no whole number of its pages"),
    ],
)
def test_a_damaged_store_is_told_even_where_it_ends_its_reader(write_store, home, spoil, message):
    store = write_store({n: pickled(pixels(n, 60, 60)) for n in range(40)})
    store.write_bytes(spoil(store.read_bytes()))
    with pytest.raises(InputError, match=message):
        extract(home, "B", store)
    assert not list(home.root.rglob("store.json"))


def test_a_page_that_hides_one_of_its_entries_is_refused(write_store, home):
    store = write_store({n: pickled(pixels(n)) for n in range(60)})
    raw = bytearray(store.read_bytes())
    leaves = [at for at in range(2 * 4096, len(raw), 4096) if raw[at + 10] & 2]  # P_LEAF
    lower = leaves[0] + 12  # where the page's list of entries ends
    raw[lower : lower + 2] = (int.from_bytes(raw[lower : lower + 2], "little") - 2).to_bytes(
        2, "little"
    )
    store.write_bytes(raw)
    with pytest.raises(InputError, match="61 of its 62 entries are found"):
        extract(home, "B", store)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_store_loses_a_picture_unseen_or_hangs(seed):
    """800 stores with 2,400 bytes turned or cut off; each ends in all its pictures or is told."""
    program = Path(__file__).with_name("damaged_stores.py")
    found = subprocess.run(
        [sys.executable, str(program), str(seed), "200"], capture_output=True, text=True, check=True
    )
    ends = json.loads(found.stdout)
    assert ends.keys() == {"told", "signal", "entries 24"}
    assert ends["entries 24"] > 100


@pytest.mark.parametrize("seed", range(12))
def test_bytes_turned_anywhere_in_a_store_end_in_pictures_or_are_refused(write_store, home, seed):
    rng = random.Random(seed)
    store = write_store({n: pickled(pixels(n)) for n in range(30)})
    raw = bytearray(store.read_bytes())
    for _ in range(rng.randrange(1, 30)):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    store.write_bytes(raw)
    try:
        found = extract(home, "B", store)
    except InputError:
        return
    assert found.outcomes.get("ok", 0) == len(list(found.folder.glob("*.png")))


def test_a_missing_store_is_refused(home, tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        extract(home, "B", tmp_path / "none.lmdb")


def test_the_reading_process_reports_what_it_does(write_store, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    assert lmdb_pictures._main(write_store({1: pickled()}), folder) == 0
    assert '"outcomes": {"ok": 1}' in capsys.readouterr().out
