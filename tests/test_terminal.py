"""What strangers wrote into ids, titles and file names never reaches the terminal as a command."""

import io
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import pmm.cli
from pmm.cli import main
from pmm.errors import InputError
from pmm.progress import Progress
from pmm.terminal import EscapedStream, escaped, one_line
from pmm.text_table import text_table

HOSTILE = (
    *("\x1b[31m", "\x9b31m", "\x07", "\x08", "\x7f", "\x00", "\x85", "\r", "\x0b", "\x0c"),
    *("\u202e", "\u202a", "\u202b", "\u202c", "\u202d", "\u2066", "\u2067", "\u2068", "\u2069"),
    *("\u200e", "\u200f", "\u061c", "\u2028", "\u2029", "\ufeff", "\udc9b", "\U000e0041", "\ue000"),
)
FORBIDDEN = re.compile(f"[{re.escape(''.join({each[0] for each in HOSTILE}))}]")
READABLE = (
    *("שלום עולם", "مرحبا بالعالم", "می‌خواهم", "漢字かな", "한국어", "ภาษาไทย", "हिन्दी क्ष"),
    *(
        "👩‍👩‍👧‍👦",
        "🏳️‍🌈",
        "❤️",
        "1️⃣",
        "👍🏽",
        "🇩🇪",
        "été",
        "e\u0301",
        "a\xa0b",
        "\u3000",
        "葛\U000e0100",
    ),
)


@pytest.mark.parametrize("sign", HOSTILE)
def test_what_commands_a_terminal_is_escaped(sign: str) -> None:
    shown = escaped(f"a{sign}b")
    assert shown.isprintable()
    assert shown.encode("ascii").decode("unicode_escape") == f"a{sign}b"


@pytest.mark.parametrize("text", READABLE)
def test_what_people_write_stays_readable(text: str) -> None:
    assert escaped(text) == one_line(text) == text


def test_cells_of_tables_stay_on_their_line() -> None:
    lines = text_table(["item"], [["a\nError: b\tc"]]).splitlines()
    assert lines == ["item", r"a\nError: b\tc"]


def commanded(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line, where the command does `run`."""
    monkeypatch.setattr(pmm.cli, "app", lambda args: run())  # noqa: ARG005
    with pytest.raises(SystemExit):
        main([])


HOSTILE_TEXT = "x".join(HOSTILE)


def say_by_print() -> None:
    print(HOSTILE_TEXT, HOSTILE_TEXT)
    print(HOSTILE_TEXT, file=sys.stderr)
    sys.stdout.writelines([HOSTILE_TEXT])


def say_by_log() -> None:
    logging.getLogger("pmm.any").warning("%s", HOSTILE_TEXT)


def say_by_warning() -> None:
    warnings.warn(HOSTILE_TEXT, stacklevel=1)
    sys.stderr.write(HOSTILE_TEXT)


def say_by_error() -> None:
    raise InputError(f"no item {HOSTILE_TEXT}")


def say_by_progress() -> None:
    bar = Progress(3, HOSTILE_TEXT, HOSTILE_TEXT)
    bar.advance(1, note=HOSTILE_TEXT)
    bar.close()


@pytest.mark.parametrize(
    "say", [say_by_print, say_by_log, say_by_warning, say_by_error, say_by_progress]
)
def test_whatever_way_a_text_is_said_it_goes_through_one_door(
    say: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("pmm").handlers.clear()
    monkeypatch.setattr("pmm.progress.LINE_EVERY", 0.0)
    pmm.cli.configure_logging()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", _as_python_does)
        commanded(say, monkeypatch)
    out, err = capsys.readouterr()
    assert r"\u202e" in out + err
    assert not FORBIDDEN.search(out + err)


def _as_python_does(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
    """What pytest has put its own in place of."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


class Terminal(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_bars_overwrite_themselves_and_their_labels_do_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", EscapedStream(terminal))
    say_by_progress()
    assert any(piece.startswith("\r") for piece in terminal.pieces)
    assert not any(FORBIDDEN.search(piece.removeprefix("\r")) for piece in terminal.pieces)
    assert r"\x1b[31m" in terminal.getvalue()


def test_a_program_error_is_told_with_escapes(tmp_path: Path) -> None:
    code = "import pmm.cli\ndef fail(args): raise KeyError('\\x9b' + chr(0x202e)) from ValueError("
    code += "chr(27))\npmm.cli.app = fail\npmm.cli.main([])"
    code = code.replace("KeyError(", "RuntimeError(")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
    assert ended.returncode == 1
    assert not FORBIDDEN.search(ended.stderr.decode())
    assert rb"RuntimeError: \x9b\u202e" in ended.stderr


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop whose ids, titles, columns and file name are hostile."""
    folder = tmp_path / "sh\x1b[2Jop\u202e"
    folder.mkdir()
    bad = ["i\x1b[31m1", "i\x9b2", "i\u202e3", "i\u2066 4", "i\r5", "i\u20286"]
    items = "item_id,title,genres\n" + "".join(f'"{i}","t\u202e{i}","g{i}"\n' for i in bad)
    rows = [f'"u\x9b{u}","{i}",{1_400_000_000 + n}\n' for u in bad for n, i in enumerate(bad)]
    (folder / "it\x1bems.csv").write_text(items, newline="", encoding="utf-8")
    (folder / "in\u202eter.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(rows), newline="", encoding="utf-8"
    )
    return folder


def said(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    out, err = capfd.readouterr()
    assert not FORBIDDEN.search(out + err)
    return out + err


def test_a_shop_of_hostile_ids_through_the_commands(
    shop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "ho\x1bme"
    ingest = ["ingest", "csv", "--name", "Shop", "--home", str(home)]
    ingest += ["--user-core", "0", "--item-core", "0", "--missing-image", "text-only"]
    files = [
        "--interactions",
        str(shop / "in\u202eter.csv"),
        "--items",
        str(shop / "it\x1bems.csv"),
    ]
    told = said([*ingest, *files], capfd)
    assert "36 rows read, 36 kept" in told
    for place in ("targets/shop", "tables/shop", "targets/shop/items.parquet"):
        told = said(["--verbose", "inspect", str(home / place)], capfd)
        assert r"\u202e" in told
    assert r"i\x1b[31m1" in told
    said(["inspect", str(home)], capfd)
    swapped = [ingest[0], *ingest[1:], files[0], files[3], files[2], files[1]]
    assert "Error: " in said(swapped, capfd)
    assert "Error: " in said([*ingest, "--interactions", str(shop / "\x1bnone\x9b")], capfd)
    assert "Error: " in said(["inspect", str(tmp_path / "\x1b]0;x\x07")], capfd)
    assert "Error: " in said(["train", "--target", "\x1b[31mno", "--home", str(home)], capfd)
    assert "No such option" in said(["inspect", "--\x1b[31m"], capfd)
