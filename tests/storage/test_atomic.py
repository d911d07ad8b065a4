"""Temporary names of several processes, and what dead ones left."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pmm.storage import atomic
from pmm.storage.atomic import atomic_file, atomic_files, is_left_behind, reserve, temporary_name


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "digest"
    with atomic_file(path) as one:
        one.write_text("one")
        with atomic_file(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["digest"]


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    own = temporary_name(tmp_path / "x")
    machine = own.name.split("-")[1]
    dead = tmp_path / f".tmp-{machine}-{dead_process()}-0123abcd-x"
    elsewhere = tmp_path / f".tmp-00000000-{dead_process()}-0123abcd-x"
    former, old = tmp_path / ".tmp-x", tmp_path / ".tmp-y"  # as older versions called them
    for path in (own, dead, elsewhere, former, old):
        path.write_text("half")
    day = time.time() - 2 * 24 * 3600
    os.utime(old, (day, day))
    with atomic_file(tmp_path / "z") as temporary:
        temporary.write_text("whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {own.name, elsewhere.name, former.name, "z"}
    assert not is_left_behind(tmp_path / "gone")


def test_files_that_belong_together_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    names = ["ranks", "metrics"]
    for name in names:
        (tmp_path / name).write_text("old")

    def refuse() -> None:
        raise OSError(errno.ENOSPC, "full")

    for before in (refuse, None):
        try:
            with atomic_files(before=before) as temporary_of:
                for name in names:
                    temporary_of(tmp_path / name).write_text("new")
        except OSError:
            assert before is refuse
        expected = "old" if before else "new"
        assert [(tmp_path / name).read_text() for name in names] == [expected] * 2
        assert {each.name for each in tmp_path.iterdir()} == set(names)


def test_a_reader_never_meets_the_last_file_beside_others_of_another_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, seen = ["ranks", "gallery", "metrics"], []
    for name in names:
        (tmp_path / name).write_text("old")
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        made = real(self, target)
        seen.append({n: (tmp_path / n).read_text() for n in names if (tmp_path / n).exists()})
        return made

    monkeypatch.setattr(Path, "replace", replace)
    with atomic_files() as temporary_of:
        for name in names:
            temporary_of(tmp_path / name).write_text("new")
    assert [each.get("metrics") for each in seen] == [None, None, "new"]
    assert seen[-1] == dict.fromkeys(names, "new")


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_reserves_nothing_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "posix_fallocate", fails, raising=False)
    with (tmp_path / "x").open("wb") as file:
        reserve(file, 10)
