"""Bundles come from elsewhere: what is damaged or hostile is refused with a sentence."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import pmm
from pmm.bundle.make_bundle import export_run
from pmm.bundle.open_bundle import Bundle, open_bundle
from pmm.errors import (
    BrokenArtefact,
    InputError,
    MissingArtefact,
    PmmError,
    StaleArtefact,
    StorageError,
)
from pmm.recommend.answers import NewItem


@pytest.fixture(scope="module")
def whole(shop: Any, runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run = runs.make_run(shop, folder / "run", runs.options_of(shop, "pmmrec", items="vectors"))
    export_run(shop.home, run, folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def sum_again(place: Path) -> None:
    """As somebody would who means harm, so that what lies behind the sums is met."""
    files = sorted(
        each for each in place.rglob("*") if each.is_file() and each.name != "SHA256SUMS"
    )
    lines = [
        f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.relative_to(place)}\n"
        for each in files
    ]
    (place / "SHA256SUMS").write_text("".join(lines))


def files_of(place: Path) -> list[str]:
    return sorted(str(each.relative_to(place)) for each in place.rglob("*") if each.is_file())


def test_a_changed_byte_of_any_file_is_found(bundle: Path) -> None:
    for name in files_of(bundle):
        path = bundle / name
        content = path.read_bytes()
        at = len(content) // 2
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises((BrokenArtefact, StaleArtefact)):
            Bundle(bundle)
        path.write_bytes(content)
    Bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    for name in set(files_of(bundle)) - {"SHA256SUMS", "bundle.json"}:
        (bundle / name).rename(bundle / "aside")
        with pytest.raises(BrokenArtefact, match=f"{name} is missing"):
            Bundle(bundle)
        (bundle / "aside").rename(bundle / name)


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="is no bundle"):
        open_bundle(tmp_path)
    with pytest.raises(MissingArtefact, match="is no bundle"):
        open_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line",
    [
        f"{'0' * 64}  ../outside",
        f"{'0' * 64}  /etc/hostname",
        f"{'0' * 64}  onnx/../../outside",
        f"{'0' * 64}  .hidden",
        f"{'0' * 64}  a\\b",
        f"{'0' * 63}  short",
        "no sum at all",
    ],
)
def test_names_that_climb_out_of_the_folder_are_refused(bundle: Path, line: str) -> None:
    with (bundle / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BrokenArtefact, match="is no sum of a file in the bundle"):
        Bundle(bundle)


def test_links_that_lead_out_and_what_is_no_file_are_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "recipe.toml", tmp_path / "recipe.toml")
    (bundle / "recipe.toml").symlink_to(tmp_path / "recipe.toml")
    with pytest.raises(BrokenArtefact, match="outside the folder"):
        Bundle(bundle)
    (bundle / "recipe.toml").unlink()
    os.mkfifo(bundle / "recipe.toml")
    with pytest.raises(BrokenArtefact, match="no plain file"):
        Bundle(bundle)


def change_header(place: Path, **changes: Any) -> None:
    found = json.loads((place / "bundle.json").read_text())
    (place / "bundle.json").write_text(json.dumps(found | changes))


def spoil_header(**changes: Any) -> Callable[[Path], None]:
    return lambda place: change_header(place, **changes)


def spoil_vectors(**changes: Any) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        arrays = load_file(place / "items.safetensors")
        save_file(arrays | changes, place / "items.safetensors")

    return spoil


def spoil_table(name: str, column: str, values: Callable[[list[Any]], list[Any]]) -> Any:
    def spoil(place: Path) -> None:
        table = pq.read_table(place / name)
        at = table.schema.get_field_index(column)
        changed = pa.array(values(table[column].to_pylist()), table[column].type)
        pq.write_table(table.set_column(at, table.schema.field(column), changed), place / name)

    return spoil


def rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        text = (place / name).read_text()
        assert old in text
        (place / name).write_text(text.replace(old, new))

    return spoil


def drop(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


SPOILT: dict[str, Callable[[Path], None]] = {
    "no model": drop("model.safetensors"),
    "no tokenizer": drop("tokenizer.json"),
    "no config": drop("encoders/vision/open_clip_config.json"),
    "items without end": spoil_header(items=1 << 40),
    "no items": spoil_header(items=0),
    "other items": spoil_header(items=29),
    "endless windows": spoil_header(max_length=1 << 30),
    "a width that no memory holds": spoil_header(input_width=1 << 19),
    "more pictures": spoil_header(pictures=30),
    "other content": spoil_header(content="none"),
    "an unknown key": spoil_header(run_this="rm"),
    "a list for a number": spoil_header(items=[30]),
    "no features": spoil_header(features=[]),
    "absurd features": spoil_header(features=[{"side": "text", "width": -1, "digest": ""}]),
    "wide features": spoil_header(
        features=[{"side": s, "width": 1 << 19, "digest": ""} for s in ("text", "vision")]
    ),
    "vectors that are no numbers": spoil_vectors(input=np.full((30, 32), np.nan, np.float32)),
    "vectors of other items": spoil_vectors(input=np.zeros((29, 32), np.float32)),
    "vectors of another type": spoil_vectors(input=np.zeros((30, 32), np.float64)),
    "an id twice": spoil_table("items.parquet", "item_id", lambda ids: [ids[1], *ids[1:]]),
    "a picture behind the end": spoil_table(
        "items.parquet", "picture_offset", lambda at: [1 << 50, *at[1:]]
    ),
    "users of items that are not there": spoil_table(
        "users.parquet", "target", lambda rows: [99, *rows[1:]]
    ),
    "another model": rewrite("recipe.toml", 'name = "pmmrec"', 'name = "nobody"'),
    "another width": rewrite("recipe.toml", "width = 32", "width = 64"),
    "no recipe": rewrite("recipe.toml", "[model]", "[["),
    "an endless encoder": rewrite(
        "encoders/text/config.json", '"num_hidden_layers": 2', '"num_hidden_layers": 1000000000'
    ),
    "a huge encoder": rewrite(
        "encoders/text/config.json", '"intermediate_size": ', '"intermediate_size": 1000000000'
    ),
    "code of its own": rewrite(
        "encoders/text/config.json",
        "{",
        '{"auto_map": {"AutoModel": "evil.Model"},',
    ),
    "no JSON": rewrite("tokenizer.json", "{", "["),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_does_not_fit_together_is_refused_though_its_sums_are_right(
    bundle: Path, how: str
) -> None:
    SPOILT[how](bundle)
    sum_again(bundle)

    def use() -> None:
        found = Bundle(bundle)
        found.users()
        model = found.load()
        model.add_items([NewItem(item_id="new", text="words", image=model.picture("0000000001"))])

    if how == "code of its own":
        use()  # by the family's own code
    else:
        with pytest.raises(PmmError):
            use()


def test_a_bundle_of_a_later_version_says_so(bundle: Path) -> None:
    change_header(bundle, format=2, pmm="9.0")
    sum_again(bundle)
    with pytest.raises(StaleArtefact, match=r"made by pmm 9\.0.*Update"):
        Bundle(bundle)


def test_a_pickle_beside_it_is_never_read(bundle: Path) -> None:
    (bundle / "encoders" / "text" / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    model = open_bundle(bundle)
    model.add_items([NewItem(item_id="new", text="a red article")])
    assert model.state.find("new") is not None


def test_what_takes_the_place_of_a_bundle_is_not_taken_for_it(bundle: Path) -> None:
    model = open_bundle(bundle)
    item = model.state.ids[0]
    before = (bundle / "pictures.tar").read_bytes()
    # As an export with --overwrite does while a server has the bundle open.
    shutil.copytree(bundle, bundle.with_name("newer"))
    bundle.rename(bundle.with_name("older"))
    bundle.with_name("newer").rename(bundle)
    change_header(bundle, version="of-other-weights")
    (bundle / "pictures.tar").write_bytes(bytes(len(before)))
    with pytest.raises(BrokenArtefact, match="was replaced since this model was loaded"):
        model.add_items([NewItem(item_id="new", text="a red article")])
    picture = model.picture(item)
    assert picture is not None
    assert picture in before


def test_a_place_that_holds_something_else_is_left_alone(
    shop: Any, runs: Any, tmp_path: Path
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "sasrec"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="no bundle of pmm"):
        export_run(shop.home, run, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    with pytest.raises(StorageError, match="Choose another folder with --to"):
        export_run(shop.home, run, tmp_path / "mine" / "letter.txt" / "bundle")
    export_run(shop.home, run, tmp_path / "bundle")
    with pytest.raises(InputError, match="--overwrite"):
        export_run(shop.home, run, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "bundle.json").stat().st_ino
    export_run(shop.home, run, tmp_path / "bundle", overwrite=True)
    assert (tmp_path / "bundle" / "bundle.json").stat().st_ino != before
    assert sorted(each.name for each in tmp_path.iterdir() if "bundle" in each.name) == [
        ".bundle.lock",
        "bundle",
    ]


KILLED = """
import sys
from pathlib import Path
import pmm.bundle.make_bundle as making
from pmm.storage.home import Home

real = making.write_sums

def slow(*args, **named):
    real(*args, **named)
    print("here", flush=True)
    sys.stdin.read()

making.write_sums = slow
making.export_run(Home(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), overwrite=True)
"""


def test_an_export_that_is_killed_leaves_the_bundle_that_was_there(
    shop: Any, runs: Any, tmp_path: Path
) -> None:
    """At the last moment, when all files of the new one are written."""
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "sasrec"))
    export_run(shop.home, run, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "SHA256SUMS").read_bytes()
    command = [sys.executable, "-c", KILLED, shop.home.root, run, tmp_path / "bundle"]
    child = subprocess.Popen(
        [str(each) for each in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    while child.stdout.readline().strip() != b"here":
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (tmp_path / ".bundle.partial").is_dir()
    assert (tmp_path / "bundle" / "SHA256SUMS").read_bytes() == before
    open_bundle(tmp_path / "bundle")
    export_run(shop.home, run, tmp_path / "bundle", overwrite=True)
    assert not (tmp_path / ".bundle.partial").exists()


def test_a_kill_between_the_two_renames_is_put_right(shop: Any, runs: Any, tmp_path: Path) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "sasrec"))
    export_run(shop.home, run, tmp_path / "bundle")
    (tmp_path / "bundle").rename(tmp_path / ".bundle.old")
    with pytest.raises(InputError, match="--overwrite"):
        export_run(shop.home, run, tmp_path / "bundle")
    assert len(pmm.load(tmp_path / "bundle").recommend(["0000000001"], k=3)) == 3


@pytest.mark.parametrize("kilobytes", [16, 160, 400])
def test_a_full_disk_is_one_message_and_leaves_nothing(
    shop: Any, runs: Any, tmp_path: Path, mount_disk: Any, kilobytes: int
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "pmmrec", items="vectors"))
    with mount_disk(tmp_path / "disk", kilobytes << 10) as disk:
        with pytest.raises(StorageError, match="is full"):
            export_run(shop.home, run, disk / "bundle")
        assert [each.name for each in disk.iterdir()] == [".bundle.lock"]
