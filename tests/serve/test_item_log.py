"""The log of live items: what was acknowledged is there after any end, and nothing is half."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pmm.errors import BrokenArtefact, StorageError
from pmm.recommend.answers import NewItem
from pmm.serve import item_log
from pmm.serve.item_log import DiskFull, ItemLog

VECTORS = np.arange(3, dtype=np.float32), np.arange(2, dtype=np.float32) / 3


def item(name: str, picture: bytes | None = None) -> NewItem:
    return NewItem(item_id=name, text=f"text of {name}", image=picture, categories=("a", "b"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.log"


def content(log: ItemLog) -> dict[str, tuple[str, bytes | None, bool]]:
    """All that it knows."""
    found = {}
    for each in log.since(0):
        read = log.read(each.item_id)
        text, image = (read[0].text, read[0].image) if read else ("", None)
        found[each.item_id] = (text, image, each.withdrawn)
    return found


def test_an_item_is_read_back_as_it_was_put(path: Path) -> None:
    log = ItemLog(path)
    put = item("é/ 'x'", b"\xff\x00picture")
    log.put(put, VECTORS, "v1")
    log.withdraw("trained")
    log.close()
    again = ItemLog(path)
    read = again.read("é/ 'x'")
    assert read is not None
    assert read[0] == put
    assert read[2] == "v1"
    assert [each.tolist() for each in read[1]] == [each.tolist() for each in VECTORS]
    assert again.read("trained") is None
    assert [(e.item_id, e.withdrawn, e.picture) for e in again.since(0)] == [
        ("trained", True, False),
        ("é/ 'x'", False, True),
    ]
    assert len(again) == 1
    again.close()


def test_a_withdrawn_item_keeps_its_content_and_a_new_one_brings_it_back(path: Path) -> None:
    log = ItemLog(path)
    log.put(item("a"), VECTORS, "v")
    log.withdraw("a")
    assert content(log) == {"a": ("text of a", None, True)}
    log.put(item("a", b"p"), VECTORS, "v")
    log.close()
    again = ItemLog(path)
    assert content(again) == {"a": ("text of a", b"p", False)}
    assert again.since(2)[0].changed == 3
    assert again.since(3) == []
    again.close()


def test_a_torn_end_at_any_byte_loses_only_what_was_not_whole(path: Path) -> None:
    log = ItemLog(path)
    states, ends = [content(log)], [path.stat().st_size]
    for change in range(4):
        if change == 2:
            log.withdraw("i0")
        else:
            log.put(item(f"i{change}", bytes(range(change * 20))), VECTORS, "v")
        states.append(content(log))
        ends.append(path.stat().st_size)
    log.close()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        cut = ItemLog(path)
        expected = sum(end <= length for end in ends) - 1
        assert content(cut) == states[max(0, expected)], length
        cut.put(item("next"), VECTORS, "v")  # and it goes on
        cut.close()
        again = ItemLog(path)
        assert "next" in content(again)
        again.close()


def test_damage_in_the_middle_is_no_torn_end(path: Path) -> None:
    log = ItemLog(path)
    for name in "abc":
        log.put(item(name, b"picture"), VECTORS, "v")
    log.close()
    whole = path.read_bytes()
    for place in (len(item_log.HEADER) + 2, len(item_log.HEADER) + 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BrokenArtefact, match="damaged at byte"):
            ItemLog(path)
        assert len(path.read_bytes()) == len(whole)
    path.write_bytes(b"something else entirely")
    with pytest.raises(BrokenArtefact, match="no log of items"):
        ItemLog(path)


def test_rewriting_keeps_what_counts_and_drops_the_rest(path: Path) -> None:
    log = ItemLog(path)
    for turn in range(5):
        for name in "abc":
            log.put(item(name, bytes([turn]) * 1000), VECTORS, "old")
    log.withdraw("b")
    log.withdraw("trained")
    before, size, numbers = content(log), path.stat().st_size, log.since(0)
    other = np.ones(4, np.float32), np.ones(5, np.float32)
    log.rewrite(lambda name: (other, "new") if name == "a" else None)
    assert content(log) == before
    assert path.stat().st_size < size / 4
    assert [(e.item_id, e.changed, e.put) for e in log.since(0)] == [
        (e.item_id, e.changed, e.put) for e in numbers
    ]
    read = {name: log.read(name) for name in "ab"}
    assert read["a"] is not None
    assert read["b"] is not None
    assert (read["a"][2], len(read["a"][1][0]), read["b"][2]) == ("new", 4, "old")
    log.put(item("d"), VECTORS, "v")
    log.close()
    again = ItemLog(path)
    assert content(again) == before | {"d": ("text of d", None, False)}
    again.close()


def test_garbage_is_taken_away_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_log, "_GARBAGE", 10_000)
    log = ItemLog(path)
    for turn in range(60):
        log.put(item("a", bytes([turn]) * 1_000), VECTORS, "v")
    assert path.stat().st_size < 15_000
    assert content(log)["a"][1] == bytes([59]) * 1_000
    log.close()


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_full_disk_leaves_the_log_as_it_was(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ItemLog(path)
    log.put(item("a"), VECTORS, "v")
    before, real, failed = path.read_bytes(), getattr(os, call), []

    def full(handle: int, *args: object) -> object:
        if failed:
            return real(handle, *args)
        failed.append(call)
        if call == "pwrite":  # half of it finds room
            real(handle, bytes(args[0])[:20], args[1])  # type: ignore[call-overload]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFull, match="is full, so nothing was added"):
        log.put(item("b"), VECTORS, "v")
    assert path.read_bytes() == before
    assert log.get("b") is None
    log.put(item("c"), VECTORS, "v")
    log.close()
    again = ItemLog(path)
    assert content(again).keys() == {"a", "c"}
    again.close()


def test_a_log_whose_failed_append_cannot_be_undone_takes_nothing_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ItemLog(path)

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="Input/output error"):
        log.put(item("a"), VECTORS, "v")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="restart"):
        log.put(item("b"), VECTORS, "v")
    log.close()


def test_a_kill_while_the_log_is_rewritten_leaves_all_items(path: Path) -> None:
    log = ItemLog(path)
    for name in range(40):
        log.put(item(f"i{name}", bytes(20_000)), VECTORS, "v")
    before = content(log)
    log.close()
    generator = np.random.default_rng(0)
    for _ in range(15):
        child = os.fork()
        if child == 0:  # no fixture and no handler of pytest runs in it
            own = ItemLog(path)
            while True:
                own.rewrite()
        os.kill(child, 0)
        signal.sigtimedwait([], float(generator.uniform(0.002, 0.05)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        again = ItemLog(path)
        assert content(again) == before
        again.close()
    assert not path.with_name("items.log.new").exists()
