"""Shards: what they hold, that their bytes never vary, and what a kill leaves behind."""

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pmm.errors import InputError, MissingArtefact, PmmError, StorageError
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.home import Home
from pmm.storage.schemas import SHARD_ITEMS, read_table

Make = Callable[..., Home]


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def with_(options: ShardOptions, **changes: object) -> ShardOptions:
    return dataclasses.replace(options, **changes)


@pytest.fixture(scope="module")
def home(make_home: Make, options: ShardOptions) -> Home:
    """34 items of which 5 is missing, 7 is text, 8 is cut; sharded."""
    home = make_home()
    pictures = home.root / "pictures"
    (pictures / "5.jpg").unlink()
    (pictures / "7.jpg").write_text("no picture")
    (pictures / "8.jpg").write_bytes((pictures / "8.jpg").read_bytes()[:-50])
    write_shards(home, "hm", options)
    return home


def test_items_without_a_readable_picture_keep_their_rows(home: Home) -> None:
    table = read_table(home.shards("HM") / "items-00000.parquet", SHARD_ITEMS).to_pylist()
    reasons = {row["item"]: row["reason"] for row in table if row["status"] == "text-only"}
    assert reasons == {5: "missing", 7: "not-a-picture", 8: "truncated"}
    assert [row["item"] for row in table] == list(range(1, 11))
    assert (table[0]["width"], table[0]["height"], len(table[0]["sha256"])) == (120, 90, 64)


ODD_PICTURES = """
import os, sys
from pathlib import Path
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.home import Home
home, tokenizer = sys.argv[1:]
options = ShardOptions(text_encoder=tokenizer, picture_size=32, items_per_shard=10, workers=1)
write_shards(Home(Path(home)), "hm", options)
"""


def test_pictures_that_never_end_and_links_out_of_the_folder_have_a_reason(
    make_home: Make, options: ShardOptions
) -> None:
    home = make_home(n_items=10)
    pictures = home.root / "pictures"
    for name in ("2", "3", "4", "6", "7", "8"):
        (pictures / f"{name}.jpg").rename(home.root / f"{name}.jpg")
    os.mkfifo(pictures / "2.jpg")
    (pictures / "3.jpg").symlink_to("/dev/zero")
    (pictures / "4.jpg").symlink_to(home.root / "4.jpg")
    (pictures / "6.jpg").symlink_to("1.jpg")
    (pictures / "8.jpg").symlink_to("2.jpg")
    with (pictures / "7.jpg").open("wb") as file:
        file.truncate(1 << 40)
    # In a process that can be ended: what is tested would wait for ever.
    command = [sys.executable, "-c", ODD_PICTURES, str(home.root), options.text_encoder]
    subprocess.run(command, check=True, timeout=120)
    table = read_table(home.shards("HM") / "items-00000.parquet", SHARD_ITEMS).to_pylist()
    reasons = {row["item"]: row["reason"] for row in table if row["status"] == "text-only"}
    unreadable = dict.fromkeys((2, 3, 4, 8), "unreadable")
    assert reasons == unreadable | {7: "too-large"}
    assert table[5]["sha256"] == table[0]["sha256"]


def test_counts_and_index(home: Home) -> None:
    manifest = json.loads((home.shards("HM") / "manifest.json").read_text())
    reasons = {f"text_only_{r}": 1 for r in ("missing", "not-a-picture", "truncated")}
    assert manifest["counts"] == {
        **{"items": 34, "pictures": 31, "text_only": 3, "users": 9},
        **reasons,
    }
    index = json.loads((home.shards("HM") / "index.json").read_text())
    assert index["item_shards"][3] == {"tar": "items-00003.tar", "first": 31, "last": 34}
    assert str(home.root) not in json.dumps(manifest) + json.dumps(index)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files open
def test_webdataset_reads_the_items(home: Home) -> None:
    tars = sorted(str(path) for path in home.shards("HM").glob("items-*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    gc.collect()
    assert [sample["__key__"] for sample in samples] == [str(k) for k in range(1, 35)]
    assert samples[0]["jpg"].shape == (32, 32, 3)
    assert samples[0]["json"]["item_id"] == "../1/é\t'鞋"
    assert samples[0]["tokens.npy"].dtype == np.int32
    assert ["jpg" in sample for sample in samples].count(False) == 3
    assert samples[4]["json"]["reason"] == "missing"


def test_tars_hold_nothing_that_varies(home: Home) -> None:
    with tarfile.open(home.shards("HM") / "items-00000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:4]] == ["1.json", "1.jpg", "1.tokens.npy", "2.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_nothing_is_done_when_nothing_changed(home: Home, options: ShardOptions) -> None:
    again = with_(options, workers=2, allow_no_pictures=True, pictures=home.root / "pictures")
    assert not write_shards(home, "HM", again).fresh


def test_any_number_of_workers_gives_the_same_bytes(make_home: Make, options: ShardOptions) -> None:
    homes = make_home(), make_home()
    for each, workers in zip(homes, (1, 2), strict=True):
        write_shards(each, "HM", with_(options, workers=workers))
    one, two = (contents(each.shards("HM")) for each in homes)
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []


@pytest.mark.parametrize(
    "change",
    [{"jpeg_quality": 91}, {"picture_size": 40}, {"items_per_shard": 9}, {"max_tokens": 8}],
)
def test_a_changed_option_makes_new_shards(
    home: Home, options: ShardOptions, change: dict[str, int]
) -> None:
    place = home.shards("HM")
    before = json.loads((place / "manifest.json").read_text())["fingerprint"]
    assert write_shards(home, "HM", with_(options, **change)).manifest.fingerprint != before
    assert write_shards(home, "HM", options).manifest.fingerprint == before


def test_a_changed_picture_makes_new_shards(
    make_home: Make, options: ShardOptions, draw_picture: Callable[..., object]
) -> None:
    home = make_home(n_items=4)
    first = write_shards(home, "HM", options).manifest
    draw_picture(99).save(home.root / "pictures" / "2.jpg")  # type: ignore[attr-defined]
    second = write_shards(home, "HM", options)
    assert second.fresh
    assert second.manifest.files["items-00000.tar"] != first.files["items-00000.tar"]


KILLED = """
import os, signal, sys
from pathlib import Path
import pmm.shards.workers as workers
from pmm.storage.home import Home
from pmm.shards.write import (write_shards)
from pmm.shards.shard_options import (ShardOptions)

written, limit = workers.write_item_shard, int(sys.argv[3])
def write(folder, shard, *rest, **named):
    if shard == limit:
        (folder / f".tmp-items-{shard:05d}.tar").write_bytes(b"half a tar")
        os.kill(os.getpid(), signal.SIGKILL)
    written(folder, shard, *rest, **named)
workers.write_item_shard = write
options = ShardOptions(text_encoder=sys.argv[2], picture_size=32, items_per_shard=10, workers=1)
write_shards(Home(Path(sys.argv[1])), "HM", options)
"""


def test_after_a_kill_finished_shards_are_kept_and_the_bytes_are_the_same(
    make_home: Make, options: ShardOptions
) -> None:
    home = make_home()
    arguments = [str(home.root), options.text_encoder, "2"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not home.shards("HM").exists()
    (draft,) = home.shards("HM").parent.glob("*.partial")
    finished = {p.name: p.stat() for p in draft.glob("items-*")}
    assert sorted(finished) == [f"items-0000{k}.{e}" for k in (0, 1) for e in ("parquet", "tar")]
    write_shards(home, "HM", with_(options, workers=2))
    place = home.shards("HM")
    for name, before in finished.items():
        after = (place / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    kept = contents(place)
    write_shards(home, "HM", options, force=True)
    assert contents(place) == kept


WAITS = """
import os, sys, time
from pathlib import Path
from pmm.storage.home import Home
from pmm.shards import write
from pmm.shards.write import (write_shards)
from pmm.shards.shard_options import (ShardOptions)
options = ShardOptions(text_encoder=sys.argv[2], picture_size=32, items_per_shard=1, workers=2)
if __name__ == "__main__":
    write_shards(Home(Path(sys.argv[1])), "HM", options)
"""


def test_no_worker_outlives_a_killed_parent(
    make_home: Make, options: ShardOptions, tmp_path: Path
) -> None:
    home = make_home(n_items=400)
    program = tmp_path / "waits.py"
    program.write_text(WAITS)
    parent = subprocess.Popen(
        [sys.executable, str(program), str(home.root), options.text_encoder],
        start_new_session=True,
    )
    shards = home.shards("HM").parent
    deadline = time.monotonic() + 60
    while not list(shards.glob("*.partial/items-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    while group(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group(parent.pid) == []


def group(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def test_a_worker_that_dies_gives_one_clear_error(
    make_home: Make, options: ShardOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(n_items=20)
    monkeypatch.setattr("pmm.shards.workers._work", _dies)
    with pytest.raises(PmmError, match=r"ended from outside .* fewer --workers"):
        write_shards(home, "HM", with_(options, workers=2))
    monkeypatch.undo()
    assert write_shards(home, "HM", options).fresh


def _dies(*_: object) -> int:
    os._exit(9)


def test_a_full_disk_in_a_worker_is_a_storage_error(
    make_home: Make, options: ShardOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pmm.shards.workers.write_item_shard", full)
    with pytest.raises(StorageError, match="full"):
        write_shards(make_home(n_items=3), "HM", options)


def test_a_target_without_pictures_needs_an_option(make_home: Make, options: ShardOptions) -> None:
    home = make_home(n_items=12, images=False)
    with pytest.raises(InputError, match=r"no item of HM names a picture.*--allow-no-pictures"):
        write_shards(home, "HM", options)
    counts = write_shards(home, "HM", with_(options, allow_no_pictures=True)).manifest.counts
    assert (counts["pictures"], counts["text_only_no-image"]) == (0, 12)


def test_pictures_that_are_not_where_they_should_be_are_one_error(
    make_home: Make, options: ShardOptions, tmp_path: Path
) -> None:
    home = make_home(n_items=3)
    with pytest.raises(InputError, match=r"none of the 3 pictures of HM is below .*1.jpg"):
        write_shards(home, "HM", with_(options, pictures=tmp_path))
    (home.root / "pictures").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"pictures, is not there.*--pictures DIR"):
        write_shards(home, "HM", options)
    assert write_shards(home, "HM", with_(options, pictures=tmp_path / "moved")).fresh


def test_pictures_none_of_which_can_be_read_are_one_error(
    make_home: Make, options: ShardOptions
) -> None:
    home = make_home(n_items=2)
    for path in (home.root / "pictures").iterdir():
        path.write_text("text")
    with pytest.raises(InputError, match=r"not a single picture of HM .*\(2 not-a-picture\)"):
        write_shards(home, "HM", options)
    assert not home.shards("HM").exists()


def test_a_target_that_was_not_ingested_is_missing(tmp_path: Path, options: ShardOptions) -> None:
    with pytest.raises(MissingArtefact, match="pmm ingest"):
        write_shards(Home(tmp_path), "HM Shoes", options)


def test_options_out_of_range_are_all_named() -> None:
    with pytest.raises(InputError, match=r"workers is 0.*jpeg_quality is 101"):
        ShardOptions(workers=0, jpeg_quality=101)
