"""What the program says beside its results, by --verbose and --quiet, and as a library."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmm.cli import main
from pmm.messages import configure_logging, is_quiet
from pmm.progress import Progress


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The former handlers and level come back."""
    logger = logging.getLogger("pmm")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    logger = logging.getLogger("pmm.train.trainer")
    logger.debug("a detail")
    logger.info("an epoch")
    logger.warning("a doubt")
    return capsys.readouterr().err


def test_messages_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()  # twice is once
    assert said(capsys) == "an epoch\na doubt\n"


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(quiet=True)
    assert said(capsys) == "a doubt\n"


def test_verbose_tells_all_with_time_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbose=True)
    lines = said(capsys).splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ pmm.train.trainer: a detail", lines[0])


def test_quiet_shows_no_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmm.progress.LINE_EVERY", 0.0)
    for quiet, lines in ((True, 0), (False, 2)):
        configure_logging(quiet=quiet)
        assert is_quiet() is quiet
        counter = Progress(3, "Sharding", "items")
        counter.advance()
        counter.close()
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_quiet_shows_no_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for quiet in (True, False):
        configure_logging(quiet=quiet)
        Progress(3, "Sharding", "items").close()
        assert (capsys.readouterr().err == "") is quiet


def test_both_at_once_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["-v", "-q", "inspect", str(tmp_path)])
    assert "Error: --verbose and --quiet ask for opposites" in capsys.readouterr().err


def test_an_error_is_told_though_quiet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["--quiet", "inspect", str(tmp_path / "nothing")])
    assert "nothing is not there" in capsys.readouterr().err


def test_as_a_library_nothing_is_set_up_and_nothing_is_said() -> None:
    code = (
        "import logging, pmm.train.train_run\n"
        "logger = logging.getLogger('pmm')\n"
        "logging.getLogger('pmm.train').warning('a doubt')\n"
        "assert [type(each).__name__ for each in logger.handlers] == ['NullHandler']\n"
        "assert logger.level == 0 and not logging.getLogger().handlers\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
