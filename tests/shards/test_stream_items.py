"""Item shards as a stream: the same items as by offset, from a folder or a URL."""

import functools
import http.server
import io
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from pmm.cli import main
from pmm.errors import BrokenArtefact
from pmm.inspect import describe
from pmm.shards.items import Items
from pmm.shards.kinds import Reads
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.stream_items import stream_items, stream_samples
from pmm.shards.tars import TarWriter
from pmm.shards.write import write_shards
from pmm.storage.home import Home

Make = Callable[..., Home]


@pytest.fixture(scope="module")
def shards(make_home: Make, options: ShardOptions) -> Shards:
    """34 items in four tars; item 5 has no picture."""
    home = make_home()
    (home.root / "pictures" / "5.jpg").unlink()
    write_shards(home, "HM", options)
    return Shards.of(home, "HM")


@pytest.fixture
def damaged(shards: Shards, tmp_path: Path) -> Path:
    """A copy that can be spoilt, without the manifest that would tell of it first."""
    leave = shutil.ignore_patterns("manifest.json")
    return Path(shutil.copytree(shards.place, tmp_path / "hm", ignore=leave))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(shards: Shards) -> Iterator[str]:
    """The URL of the shards' folder, on this machine."""
    handler = functools.partial(_Quiet, directory=str(shards.place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def same(one: Items, other: Items) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(a is b is None or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)


def by_offset(shards: Shards, chunk: int, read: Reads) -> list[Items]:
    starts = range(1, shards.n_items + 1, chunk)
    numbers = [np.arange(k, min(k + chunk, shards.n_items + 1)) for k in starts]
    return [shards.items(each, read=read) for each in numbers]


@pytest.mark.parametrize("read", ["both", "text", "vision", "none"])
@pytest.mark.parametrize("chunk", [1, 7, 10, 100])
def test_a_stream_gives_what_random_access_gives(shards: Shards, chunk: int, read: Reads) -> None:
    expected = by_offset(shards, chunk, read)
    for found in (shards.iterate(chunk, read=read), stream_items(shards.place, chunk, read=read)):
        assert [same(*pair) for pair in zip(expected, found, strict=True)] == [True] * len(expected)


@pytest.mark.parametrize("read", ["both", "text"])
def test_shards_behind_a_url_give_the_same(shards: Shards, served: str, read: Reads) -> None:
    found = list(stream_items(served, 7, read=read))
    assert len(found) == 5
    assert all(map(same, by_offset(shards, 7, read), found))


def test_a_colon_in_a_path_makes_no_url_of_it(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shards.place, tmp_path / "shop:hm")
    monkeypatch.chdir(tmp_path)
    assert len(list(stream_items(Path("shop:hm"), 10))) == 4


def test_what_webdataset_opens_can_be_streamed(shards: Shards) -> None:
    tars = [f"pipe:cat {shards.place}/items-00000.tar", f"file:{shards.place}/items-00001.tar"]
    found = list(stream_samples(tars, parts={"json", "jpg"}, made_by="pmm"))
    assert [each.item for each in found] == list(range(1, 21))
    assert [sorted(each.parts) for each in found[3:5]] == [["jpg", "json"], ["json"]]


# WebDataset's own stage leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_our_stage_gives_what_webdatasets_own_gives(shards: Shards) -> None:
    tars = sorted(map(str, shards.place.glob("items-*.tar")))
    theirs = webdataset.WebDataset(tars, shardshuffle=False, nodesplitter=None, empty_check=False)
    ours = stream_samples(tars, parts={"json", "jpg", "tokens.npy"}, made_by="pmm")
    for expected, found in zip(theirs, ours, strict=True):
        assert expected["__key__"] == str(found.item)
        assert {k: v for k, v in expected.items() if k[0] != "_"} == dict(found.parts)


def test_the_command_line_inspects_shards_behind_a_url(
    served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", served, "--rows", "1", "--sheet", str(tmp_path / "sheet.png")])
    assert ended.value.code == 0
    assert served in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_inspect_shows_shards_behind_a_url(served: str, tmp_path: Path) -> None:
    told = describe(served, rows=2, sheet=tmp_path / "sheet.png").splitlines()
    assert "first of 34 items" in told
    assert sum('"item_id": "../' in line for line in told) == 2
    assert (tmp_path / "sheet.png").is_file()
    told = describe(f"{served}/items-00000.tar", rows=1).splitlines()
    assert told[0] == "items-00000.tar: 29 members"
    assert told[1].startswith("  1.json  ")
    assert len(told) == 4


def test_some_items_in_batches_come_in_one_pass(shards: Shards) -> None:
    batches = [np.array([2, 3, 5]), np.array([6]), np.array([29, 34])]
    found = list(shards.in_order(batches))
    assert all(map(same, [shards.items(each) for each in batches], found))
    with pytest.raises(ValueError, match="ascending"):
        list(shards.in_order([np.array([3]), np.array([2])]))


@pytest.mark.parametrize("keep", [0, 100, 512, 2000, 20_000])
def test_a_tar_that_is_cut_off_is_named_with_the_command(damaged: Path, keep: int) -> None:
    tar = damaged / "items-00002.tar"
    tar.write_bytes(tar.read_bytes()[:keep])
    with pytest.raises(BrokenArtefact, match=r"items-00002.tar is cut off .*pmm shard .*--force"):
        list(stream_items(damaged, 8))


def test_a_lost_end_mark_is_seen(damaged: Path) -> None:
    tar = damaged / "items-00003.tar"
    tar.write_bytes(tar.read_bytes()[:-1024])
    with pytest.raises(BrokenArtefact, match=r"items-00003.tar is cut off before its end mark"):
        list(stream_items(damaged, 8))


def test_a_missing_tar_is_named(damaged: Path) -> None:
    (damaged / "items-00001.tar").unlink()
    with pytest.raises(BrokenArtefact, match=r"items-00001.tar cannot be read \(No such file"):
        list(stream_items(damaged, 8))


def test_a_missing_tar_behind_a_url_is_named(served: str) -> None:
    with pytest.raises(BrokenArtefact, match=r"http.*/items-00009.tar cannot be read .*exit 22"):
        list(stream_samples([f"{served}/items-00009.tar"], parts={"jpg"}, made_by="pmm"))
    with pytest.raises(BrokenArtefact, match=r"http.*/hm/index.json cannot be read"):
        list(stream_items(f"{served}/hm", 8))


def test_an_unknown_kind_of_url_is_named() -> None:
    with pytest.raises(BrokenArtefact, match=r"nowhere://x.tar cannot be read .*no gopen handler"):
        list(stream_samples(["nowhere://x.tar"], parts={"jpg"}, made_by="pmm"))


def test_a_tar_without_an_item_is_no_catalogue(damaged: Path) -> None:
    tar = damaged / "items-00001.tar"
    with tarfile.open(tar) as whole:
        members = [m for m in whole.getmembers() if not m.name.startswith("13.")]
        contents = [whole.extractfile(m).read() for m in members]  # type: ignore[union-attr]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as fewer:
        for member, content in zip(members, contents, strict=True):
            fewer.addfile(member, io.BytesIO(content))
    with pytest.raises(BrokenArtefact, match=r"item 14 in .*items-00001.tar in place of item 13"):
        list(stream_items(damaged, 8))


def test_what_is_no_tar_or_no_item_is_named(damaged: Path) -> None:
    tar = damaged / "items-00000.tar"
    tar.write_bytes(b"x" * 2048)
    with pytest.raises(BrokenArtefact, match=r"items-00000.tar is no tar at byte 0"):
        list(stream_items(damaged, 8))
    with TarWriter(tar) as other:
        other.add("shoe.jpg", b"x")
    with pytest.raises(BrokenArtefact, match=r"items-00000.tar holds shoe, which is no item's"):
        list(stream_items(damaged, 8))


def test_a_damaged_picture_or_token_list_is_named(damaged: Path) -> None:
    tar = damaged / "items-00001.tar"
    content = tar.read_bytes()
    with tarfile.open(tar) as whole:
        places = {m.name: m.offset_data for m in whole.getmembers()}
    for name, what in (
        ("12.jpg", "picture of item 12"),
        ("14.tokens.npy", "token list of item 14"),
    ):
        spoilt = bytearray(content)
        spoilt[places[name] : places[name] + 10] = b"\xff" * 10
        tar.write_bytes(spoilt)
        with pytest.raises(BrokenArtefact, match=f"{what} is damaged .*--force"):
            list(stream_items(damaged, 8))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count files in")
def test_a_stream_that_is_left_early_leaves_nothing_open(shards: Shards) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    streams = (shards.in_order([np.arange(1, 35)[k : k + 3] for k in range(0, 34, 3)]),)
    for stream in streams:
        next(stream)
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
        stream.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
