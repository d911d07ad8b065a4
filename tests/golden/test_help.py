"""The help of every command, as a terminal of a hundred columns shows it.

`PMM_GOLDEN=write python -m pytest tests/golden` writes the golden files anew (see conftest.py).
"""

from typing import Any

import pytest
import typer
from pmm_golden_compare import FOLDER, check_text
from pmm_golden_subjects import COMMAND_LINE
from typer.testing import CliRunner


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of a command and of all below it."""
    below = command.list_commands(None) if hasattr(command, "list_commands") else []
    deeper = {name: command.get_command(None, name) for name in below}
    return [path, *(each for name in below for each in commands(deeper[name], (*path, name)))]


COMMANDS = commands(typer.main.get_command(COMMAND_LINE))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: "-".join(("pmm", *path)))
def test_the_help_of_a_command_is_that_of_before(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PMM_HOME", raising=False)
    shown = CliRunner().invoke(COMMAND_LINE, [*path, "--help"], prog_name="pmm", terminal_width=100)
    assert shown.exit_code == 0
    check_text(f"help/{'-'.join(('pmm', *path))}.txt", shown.output)


def test_no_command_is_gone_and_none_is_new() -> None:
    names = {f"{'-'.join(('pmm', *path))}.txt" for path in COMMANDS}
    assert {path.name for path in (FOLDER / "help").iterdir()} == names
