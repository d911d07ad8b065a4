"""Whose a run's folder is, and what is left of it by a kill at any moment of a replacement."""

import os
import sys
from itertools import count
from pathlib import Path

import pytest

from pmm.errors import InputError
from pmm.runs import folder
from pmm.runs.folder import claim, clear, describe, replaced, require_same_name, settle
from pmm.runs.weights import BEST

_EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "shutil.rmtree")
_dies_at: list[int] = []


def _die(event: str, arguments: tuple[object, ...]) -> None:
    if _dies_at and event in _EVENTS and "run" in str(arguments[0]):
        _dies_at[0] -= 1
        if _dies_at[0] < 0:
            os._exit(9)


sys.addaudithook(_die)  # silent but in children that are to die


def make_run(place: Path, recipe: str) -> None:
    with claim(place):
        describe(place, recipe, {"name": place.name})
        (place / BEST).parent.mkdir()
        (place / BEST).write_text("weights")
        for name in ("log.jsonl", "metrics.json", "ranks.parquet"):
            (place / name).write_text("x")


def overwrite(place: Path) -> None:
    with claim(place):
        settle(place, "overwrite")
        with replaced(place):
            describe(place, "new", {"name": place.name})


def forget(place: Path) -> None:
    with claim(place):
        clear(place)


def killed_at(moment: int, place: Path, job: object) -> bool:
    """Do a job in a process that is killed at a moment; whether it came so far."""
    child = os.fork()
    if child == 0:
        _dies_at.append(moment)
        job(place)  # type: ignore[operator]
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("job", [overwrite, forget])
def test_a_kill_at_any_moment_leaves_the_old_run_or_a_folder_that_every_training_takes(
    tmp_path: Path, job: object
) -> None:
    seen = set()
    for moment in count():
        place = tmp_path / f"run-{moment}"
        make_run(place, "old")
        if not killed_at(moment, place, job):
            break
        with claim(place):
            held = (place / "recipe.toml").read_text() if (place / "run.json").exists() else "none"
            seen.add(held)
            names = {path.name for path in place.iterdir()} - {".lock"}
            assert settle(place, "overwrite") is False
            assert settle(place, "resume") is (held != "none")
            if held == "old":  # as it was
                assert names >= {"checkpoint", "log.jsonl", "metrics.json", "ranks.parquet"}
                assert (place / BEST).read_text() == "weights"
            else:  # and nothing of the old beside the new
                assert names <= {"recipe.toml", "run.json", ".sums"}
            if held == "none":
                assert settle(place, "refuse") is False
            else:
                with pytest.raises(InputError, match="--resume"):
                    settle(place, "refuse")
        assert {p.name for p in tmp_path.iterdir() if "run-" in p.name and p.is_dir()} == {
            f"run-{k}" for k in range(moment + 1)
        }
    assert moment > 5
    assert seen == {"old", "new" if job is overwrite else "none"}


def test_a_replacement_that_fails_gives_the_old_run_back(tmp_path: Path) -> None:
    place = tmp_path / "run"
    make_run(place, "old")

    def fails() -> None:
        with replaced(place):
            (place / "recipe.toml").write_text("new")
            raise OSError("odd")

    with claim(place), pytest.raises(OSError, match="odd"):
        fails()
    assert (place / "recipe.toml").read_text() == "old"
    assert (place / BEST).read_text() == "weights"


def test_parts_of_a_run_are_replaced_and_foreign_files_never(tmp_path: Path) -> None:
    place = tmp_path / "run"
    make_run(place, "old")
    (place / "run.json").unlink()
    with claim(place):
        assert settle(place, "overwrite") is False
        for existing in ("resume", "refuse"):
            with pytest.raises(InputError, match=r"parts of a run, but no run\.json.*--overwrite"):
                settle(place, existing)
        (place / "thesis.tex").write_text("mine")
        with pytest.raises(InputError, match="no run of pmm"):
            settle(place, "overwrite")


def test_a_name_of_another_runs_folder_is_refused_with_both(tmp_path: Path) -> None:
    place = tmp_path / "a-b"
    require_same_name(place, "a b")
    with claim(place):
        describe(place, "", {"name": "a b"})
    require_same_name(place, "a b")
    require_same_name(place, "")
    with pytest.raises(InputError, match=r'"A-B".*holds the run "a b"'):
        require_same_name(place, "A-B")


def test_a_run_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    real, link = tmp_path / "elsewhere" / "run", tmp_path / "run"
    real.parent.mkdir()
    make_run(real, "old")
    link.symlink_to(real)
    overwrite(link)
    assert link.is_symlink()
    assert (real / folder.RECIPE).read_text() == "new"
