import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pmm.errors import BrokenArtefact, InputError, MissingArtefact, StaleArtefact, StorageError
from pmm.storage.artefact import Digests, atomic_file, build, open_artefact, require_input


def make(place: Path, text: str = "one", **config: object):
    def write(draft: Path) -> dict[str, int]:
        with atomic_file(draft / "data.txt") as temporary:
            temporary.write_text(text)
        return {"rows": len(text)}

    return build(place, kind="tables", config=config, inputs={"raw": "abc"}, write=write)


def test_an_artefact_knows_its_files_inputs_and_counts(tmp_path: Path) -> None:
    built = make(tmp_path / "a", k=5)
    found = open_artefact(tmp_path / "a", kind="tables", made_by="pmm x", verify=True)
    assert built.fresh
    assert found == built.manifest
    assert found.files["data.txt"]["bytes"] == 3
    assert (found.config, found.inputs, found.counts) == ({"k": 5}, {"raw": "abc"}, {"rows": 3})


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    make(tmp_path / "a", k=5)
    before = (tmp_path / "a" / "data.txt").stat().st_ino
    assert not make(tmp_path / "a", k=5).fresh
    assert (tmp_path / "a" / "data.txt").stat().st_ino == before


def test_a_changed_option_rebuilds(tmp_path: Path) -> None:
    first = make(tmp_path / "a", k=5).manifest.fingerprint
    second = make(tmp_path / "a", "two", k=6)
    assert second.fresh
    assert second.manifest.fingerprint != first
    assert (tmp_path / "a" / "data.txt").read_text() == "two"


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a", k=5)
    make(tmp_path / "b", k=5)
    names = ["manifest.json", "data.txt"]
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [
        (tmp_path / "b" / n).read_bytes() for n in names
    ]


def test_a_failed_write_leaves_the_old_artefact_whole(tmp_path: Path) -> None:
    make(tmp_path / "a", k=5)

    def fails(draft: Path) -> dict[str, int]:
        (draft / "data.txt").write_text("half")
        raise InputError("bad row")

    with pytest.raises(InputError):
        build(tmp_path / "a", kind="tables", config={}, inputs={}, write=fails)
    open_artefact(tmp_path / "a", kind="tables", made_by="pmm x", verify=True)
    assert (tmp_path / "a" / "data.txt").read_text() == "one"


@pytest.mark.parametrize("rename", range(2))
def test_a_kill_between_the_renames_of_a_swap_loses_nothing(tmp_path: Path, rename: int) -> None:
    make(tmp_path / "a", "one", k=5)
    program = f"""
        import os, signal
        from pathlib import Path
        from tests_make import make
        rename, calls = Path.rename, []
        def dying(self, target):
            if len(calls) == {rename}:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(self)
            return rename(self, target)
        Path.rename = dying
        make(Path({str(tmp_path / "a")!r}), "two", k=6)
    """
    (tmp_path / "tests_make.py").write_text(Path(__file__).read_text())
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    open_artefact(tmp_path / "a", kind="tables", made_by="pmm x", verify=True)
    assert (tmp_path / "a" / "data.txt").read_text() in {"one", "two"}
    make(tmp_path / "a", "two", k=6)
    assert sorted(p.name for p in tmp_path.glob(".a.*")) == [".a.lock"]


def test_finished_pieces_survive_a_failure_and_are_kept(tmp_path: Path) -> None:
    seen = []

    def pieces(draft: Path) -> dict[str, int]:
        seen.append(sorted(p.name for p in draft.iterdir()))
        if not (draft / "one").exists():
            with atomic_file(draft / "one") as temporary:
                temporary.write_text("1")
            raise InputError("stopped")
        return {}

    with pytest.raises(InputError):
        build(tmp_path / "a", kind="x", config={}, inputs={}, write=pieces)
    build(tmp_path / "a", kind="x", config={}, inputs={}, write=pieces)
    assert seen == [[], ["one"]]


def test_a_missing_artefact_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="Run: pmm shard --target HM"):
        open_artefact(tmp_path / "a", kind="shards", made_by="pmm shard --target HM")


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "data.txt").write_text("longer than before")
    with pytest.raises(BrokenArtefact, match=r"data\.txt has 18 bytes, expected 3"):
        open_artefact(tmp_path / "a", kind="tables", made_by="pmm x")


def test_a_damaged_file_of_the_same_size_is_found_on_verify(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "data.txt").write_text("two")
    with pytest.raises(BrokenArtefact, match="other content"):
        open_artefact(tmp_path / "a", kind="tables", made_by="pmm x", verify=True)


def test_a_changed_input_makes_an_artefact_stale(tmp_path: Path) -> None:
    manifest = make(tmp_path / "a").manifest
    require_input(tmp_path / "a", manifest, "raw", "abc", made_by="pmm x")
    with pytest.raises(StaleArtefact, match="made from raw abc, but raw is now def"):
        require_input(tmp_path / "a", manifest, "raw", "def", made_by="pmm x")


def test_a_garbled_manifest_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{half")
    with pytest.raises(BrokenArtefact, match="Run: pmm x"):
        open_artefact(tmp_path / "a", kind="tables", made_by="pmm x")


def test_a_full_disk_is_one_clear_message_and_keeps_the_old(tmp_path: Path) -> None:
    make(tmp_path / "a")

    def full(draft: Path) -> dict[str, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(draft / "data.txt"))

    with pytest.raises(StorageError, match="is full"):
        build(tmp_path / "a", kind="tables", config={"k": 1}, inputs={}, write=full)
    open_artefact(tmp_path / "a", kind="tables", made_by="pmm x", verify=True)


def test_a_home_that_cannot_be_written_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="--home"):
        make(tmp_path / "file" / "tables" / "hm")


def test_two_writers_of_one_artefact_do_not_meet(tmp_path: Path) -> None:
    def nested(_: Path) -> dict[str, int]:
        with pytest.raises(StorageError, match="another pmm process"):
            make(tmp_path / "a")
        return {}

    build(tmp_path / "a", kind="tables", config={}, inputs={}, write=nested)


def test_digests_go_by_content_and_remember_it(tmp_path: Path) -> None:
    old = time.time() - 60
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
        os.utime(tmp_path / name, (old, old))
    digests = Digests(tmp_path / "home")
    assert digests.file(tmp_path / "a") == digests.file(tmp_path / "b")
    assert digests.files(tmp_path, ["a"]) != digests.files(tmp_path, ["b"])
    assert digests.files(tmp_path, ["a", "gone"]) != digests.files(tmp_path, ["a"])
    (tmp_path / "a").write_text("else")
    assert digests.file(tmp_path / "a") != digests.file(tmp_path / "b")
    assert len(list((tmp_path / "home" / ".digests").iterdir())) == 5


def test_a_manifest_holds_nothing_that_varies(tmp_path: Path) -> None:
    make(tmp_path / "a", k=1)
    found = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert str(tmp_path) not in json.dumps(found)
    names = {"kind", "version", "fingerprint", "config", "inputs", "files", "counts"}
    assert set(found) == {*names, "checksum"}
