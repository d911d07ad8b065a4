"""The files of the video platforms, read back by the standard library alone."""

import csv
import io
import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from pmm.world import World
from pmm.world.formats.defects import NO_DEFECTS, Defects
from pmm.world.formats.microlens_writer import plain_id, write_microlens
from pmm.world.formats.ninerec_writer import DATASETS, write_ninerec
from pmm.world.formats.pmmrec_writer import write_pmmrec
from pmm.world.formats.raw_files import item_picture, item_text, subject_of
from pmm.world.lmdb_image import LMDB_Image

TEXTS = Defects(missing_texts=0.1, markup=0.1)
BILI_FOOD = "Downstream_datasets/Bili_Food/Bili_Food"


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def walks(world: World, name: str) -> dict[str, list[str]]:
    drawn, raw = world.sequences(name), world.item_ids(name)
    return {
        user: [raw[each] for each in drawn.items[drawn.starts[u] : drawn.starts[u + 1]]]
        for u, user in enumerate(world.user_ids(name))
    }


def by_time(pairs: list[list[str]]) -> dict[str, list[str]]:
    """User -> items, from rows of user, item, time."""
    found: dict[str, list[str]] = {}
    for user, item, _ in sorted(pairs, key=lambda row: int(row[2])):
        found.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("platform", DATASETS)
def test_ninerec_holds_every_walk_item_and_cover(
    tiny: World, tmp_path: Path, platform: str
) -> None:
    write_ninerec(tiny, platform, tmp_path, NO_DEFECTS)
    for name, place in DATASETS[platform].items():
        stem = tmp_path / place / Path(place).name
        pairs = rows(Path(f"{stem}_pair.csv"))
        assert by_time([[user, item, time] for item, user, time in pairs]) == walks(tiny, name)
        assert {len(time) for _, _, time in pairs} == {13 if platform == "Kwai" else 10}
        items = rows(Path(f"{stem}_item.csv"))
        assert [row[0] for row in items] == list(tiny.item_ids(name))
        for number, (_, chinese, english) in enumerate(items):
            assert chinese == item_text(tiny, name, number).title
            assert english.isascii()
            assert ", episode" in english
        covers = {path.stem for path in Path(f"{stem}_cover").iterdir()}
        assert covers == {row[0] for row in items} == {r[0] for r in rows(Path(f"{stem}_url.csv"))}


def test_ninerec_can_have_the_user_first(tiny: World, tmp_path: Path) -> None:
    write_ninerec(tiny, "Bili", tmp_path, NO_DEFECTS, item_first=False)
    assert by_time(rows(tmp_path / f"{BILI_FOOD}_pair.csv")) == walks(tiny, "Bili Food")


def test_english_titles_of_equal_attributes_differ_by_the_episode_only(
    tiny: World, tmp_path: Path
) -> None:
    write_ninerec(tiny, "Bili", tmp_path, NO_DEFECTS)
    shown: dict[tuple[int, ...], set[str]] = {}
    for number, row in enumerate(rows(tmp_path / f"{BILI_FOOD}_item.csv")):
        values = tuple(tiny.items("Bili Food").values[number, :3].tolist())
        shown.setdefault(values, set()).add(row[2].rsplit(",", 1)[0])
    assert {len(titles) for titles in shown.values()} == {1}
    assert len({next(iter(titles)) for titles in shown.values()}) == len(shown) > 20


def test_planted_titles_are_spoilt_in_both_languages(tiny: World, tmp_path: Path) -> None:
    said = write_ninerec(tiny, "Bili", tmp_path, TEXTS)["Bili Food"]
    for column in (1, 2):
        titles = [row[column] for row in rows(tmp_path / f"{BILI_FOOD}_item.csv")]
        assert titles.count("") == said["missing_texts"] > 1
        assert sum("&amp;" in title for title in titles) == said["markup_texts"] > 1


@pytest.mark.parametrize(
    ("platform", "stem"), [("Bili", "bili_food/bilibili_food"), ("Kwai", "kwai/kuaishou")]
)
def test_pmmrec_holds_every_walk_title_and_picture(
    tiny: World, tmp_path: Path, platform: str, stem: str
) -> None:
    said = write_pmmrec(tiny, platform, tmp_path, NO_DEFECTS)
    name = "Bili Food" if platform == "Bili" else "Kwai"
    lines = (tmp_path / f"{stem}_users.tsv").read_text(encoding="utf-8").splitlines()
    found = {user: items.split(" ") for user, items in (line.split("\t") for line in lines)}
    assert found == walks(tiny, name)
    assert said[name]["rows"] == sum(len(walk) for walk in found.values())
    texts = (tmp_path / f"{stem}_items_texts.tsv").read_text(encoding="utf-8").splitlines()
    titles = [item_text(tiny, name, number).title for number in range(len(texts))]
    expected = zip(tiny.item_ids(name), titles, strict=True)
    assert [tuple(line.split("\t")) for line in texts] == list(expected)
    pictures = {path.stem for path in (tmp_path / f"{stem}_items_images").iterdir()}
    assert pictures == set(tiny.item_ids(name))


def stored(path: Path) -> dict[bytes, bytes]:
    with (
        lmdb.open(str(path), subdir=False, lock=False, readonly=True) as store,
        store.begin() as reading,
    ):
        return {bytes(key): bytes(value) for key, value in reading.cursor()}


def test_the_store_holds_pickles_of_the_published_class_and_their_keys(
    tiny: World, tmp_path: Path
) -> None:
    write_pmmrec(tiny, "Bili", tmp_path, NO_DEFECTS, pictures="lmdb")
    values = stored(tmp_path / "bili_food" / "bilibili_food_items_images.lmdb")
    keys = pickle.loads(values.pop(b"__keys__"))
    assert keys == [name[1:].encode() for name in tiny.item_ids("Bili Food")]
    assert pickle.loads(values.pop(b"__len__")) == len(keys) == len(values)
    assert sorted(keys) == sorted(values)
    assert b"LMDB_Image" in values[keys[0]]
    for number, key in enumerate(keys):
        image: Any = pickle.loads(values[key])
        assert type(image) is LMDB_Image
        assert image.id == int(key)
        pixels = np.frombuffer(image.image, np.uint8).reshape(*image.size, image.channels)
        drawn = np.asarray(item_picture(tiny, "Bili Food", number)).astype(int)
        assert np.abs(pixels - drawn).mean() < 4  # JPEG at quality 90


def test_planted_pictures_of_the_store_are_what_the_writer_says(
    tiny: World, tmp_path: Path
) -> None:
    planted = Defects(missing_pictures=0.1, broken_pictures=0.1, odd_pictures=0.1)
    said = write_pmmrec(tiny, "Kwai", tmp_path, planted, pictures="lmdb")["Kwai"]
    values = stored(tmp_path / "kwai" / "kuaishou_items_images.lmdb")
    assert len(pickle.loads(values.pop(b"__keys__"))) == len(values) - 1 == said["pictures"]
    assert len(values) - 1 == said["items"] - said["missing_pictures"]
    del values[b"__len__"]
    texts = sum(value.startswith(b"<html>") for value in values.values())
    assert texts == said["text_files_as_pictures"] > 0
    cut = 0
    for value in values.values():
        try:
            pickle.load(io.BytesIO(value))
        except (pickle.UnpicklingError, EOFError):
            cut += 1
    assert cut - texts == said["truncated_pictures"] > 0


@pytest.mark.parametrize("pairs", ["csv", "tsv"])
@pytest.mark.parametrize("crlf", [False, True])
def test_microlens_holds_every_walk_title_cover_and_category(
    tiny: World, tmp_path: Path, pairs: str, crlf: bool
) -> None:
    write_microlens(tiny, tmp_path, NO_DEFECTS, pairs=pairs, crlf=crlf)
    true = {
        plain_id(user): [plain_id(item) for item in walk]
        for user, walk in walks(tiny, "Kwai").items()
    }
    path = tmp_path / f"MicroLens-50k_pairs.{pairs}"
    if pairs == "csv":
        header, *actions = rows(path)
        assert header == ["user", "item", "timestamp"]
        assert by_time(actions) == true
    else:
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        assert {user: items.split(" ") for user, items in lines} == true
    names, *titles = rows(tmp_path / "MicroLens-50k_titles.csv")
    ids = [plain_id(item) for item in tiny.item_ids("Kwai")]
    assert names == ["item", "title"]
    expected = [[each, item_text(tiny, "Kwai", n).title] for n, each in enumerate(ids)]
    assert titles == expected
    head, *parts = rows(tmp_path / "item_categories.csv")
    assert head == ["item", "category"]
    assert parts == [[each, subject_of(tiny, "Kwai", n)] for n, each in enumerate(ids)]
    assert (b"\r\n" in (tmp_path / "MicroLens-50k_titles.csv").read_bytes()) is crlf
    assert {path.stem for path in (tmp_path / "MicroLens-50k_covers").iterdir()} == set(ids)


def test_another_form_of_the_pairs_takes_the_place_of_the_first(
    tiny: World, tmp_path: Path
) -> None:
    write_microlens(tiny, tmp_path, pairs="csv")
    write_microlens(tiny, tmp_path, pairs="tsv")
    assert [path.name for path in tmp_path.glob("*pairs*")] == ["MicroLens-50k_pairs.tsv"]
    write_microlens(tiny, tmp_path, pairs="csv")
    assert [path.name for path in tmp_path.glob("*pairs*")] == ["MicroLens-50k_pairs.csv"]


def test_an_odd_picture_went_through_its_file_into_the_store(tiny: World, tmp_path: Path) -> None:
    write_pmmrec(tiny, "Bili", tmp_path / "files", Defects(odd_pictures=0.1))
    write_pmmrec(tiny, "Bili", tmp_path / "store", Defects(odd_pictures=0.1), pictures="lmdb")
    values = stored(tmp_path / "store" / "bili_food" / "bilibili_food_items_images.lmdb")
    modes = set()
    for path in (tmp_path / "files" / "bili_food" / "bilibili_food_items_images").iterdir():
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
                modes.add(picture.mode)
        except OSError:
            continue
        assert pickle.loads(values[path.stem[1:].encode()]).image == pixels.tobytes()
    assert {"L", "CMYK", "RGBA", "RGB"} <= modes
