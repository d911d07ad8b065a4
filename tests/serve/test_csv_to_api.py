"""The tutorial "From a CSV to an API": every command and every call, as a reader types them."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "tutorials" / "csv-to-api.md"
HOST = "http://127.0.0.1:8000"


@contextmanager
def serving(words: tuple[str, ...], folder: Path) -> Iterator[str]:
    """`pmm serve` as typed, on a free port; yields its address, and stops it as Ctrl-C does."""
    command = [sys.executable, "-m", "pmm", *words[1:], "--port", "0"]
    env = {name: value for name, value in os.environ.items() if name != "PMM_HOME"}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=env) as made:
        assert made.stdout is not None
        for line in made.stdout:
            if found := re.search(r"answers at (http://127\.0\.0\.1:\d+)/", line):
                break
        else:
            raise AssertionError(f"it ended with {made.wait()}")
        yield found[1]
        made.send_signal(signal.SIGINT)
        assert made.wait(timeout=60) in (0, 130)


def called(words: tuple[str, ...], address: str, folder: Path) -> Any:
    """What a call of the page answers; None where it goes into a file."""
    said = [each.replace(HOST, address) for each in words[1:]]
    done = subprocess.run(
        ["curl", "--fail-with-body", "--silent", "--noproxy", "*", *said],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (shlex.join(words), done.stdout)
    return None if "--output" in words else json.loads(done.stdout)


def test_a_shops_csv_becomes_an_api(tmp_path: Path, load_file: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    pages = load_file(HERE.parent / "docs" / "pages.py")
    started, answers = time.monotonic(), list[Any]()
    commands = [each.words for each in pages.commands_of(PAGE) if each.not_run is None]
    at = next(k for k, words in enumerate(commands) if words[:2] == ("pmm", "serve"))
    for words in commands[:at]:
        pages.run(words, tmp_path)
    with serving(commands[at], tmp_path) as address:
        for words in commands[at + 1 :]:
            if words[0] == "curl":
                answers.append(called(words, address, tmp_path))
        (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
        done = subprocess.run(
            [sys.executable, "-c", program.replace(HOST, address)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 600  # the ten minutes of the page's name
    found, first, _, put, near, again, gone = answers
    assert len(found["items"]) == 3
    wanted = [each["item_id"] for each in first["items"]]
    assert [line.split()[1] for line in done.stdout.splitlines()] == wanted
    assert put["item"]["new"]
    assert near["items"]
    assert "my-sandals" in {each["item_id"] for each in again["items"]}
    assert gone == {"item_id": "my-sandals", "withdrawn": True}
    for words in commands[at + 1 :]:
        if words[0] == "pmm":
            pages.run(words, tmp_path)
