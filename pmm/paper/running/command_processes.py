"""Processes that run one command of pmm after the other, as the command line does.

Each imports what it needs once, so that a short training does not wait for that. It stands outside
the terminal's reach of Ctrl-C: whoever started it passes a signal on, once.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pmm.errors import PmmError


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How a command ended."""

    status: int
    """As of the command line; 130 where a signal stopped it."""
    seconds: float
    cpu_seconds: float
    """Processor time, which other work on the machine hardly changes."""
    peak_bytes: int
    """Most memory of the process while it ran; 0 where the system does not say."""


class Worker:
    """A process for one command at a time."""

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        make = multiprocessing.get_context("spawn").Process
        self._process = make(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, words: Sequence[str], log: Path) -> None:
        """Start a command; what it prints is added to a file."""
        self.pipe.send((list(words), str(log)))

    def ended(self) -> CommandEnd:
        """How the command ended; waits for it.

        Raises:
            PmmError: the process died, as where the system ended it for want of memory.
        """
        try:
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise PmmError(
                "a process died while it trained: most often there was too little memory. Run the "
                "same command again, with fewer --jobs"
            ) from error
        assert isinstance(found, CommandEnd)
        return found

    def interrupt(self) -> None:
        """As Ctrl-C: a training finishes its step and saves."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)

    def close(self) -> None:
        """Let the process end; one in the middle of a command is ended."""
        self.pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(pipe: Connection) -> None:
    """Commands from a pipe, until it is closed."""
    if hasattr(os, "setsid"):
        os.setsid()
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            words, log = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        ended = run_command(words, Path(log))
        try:
            pipe.send(ended)
        except OSError:
            return


def _end_with_parent() -> None:
    """Stop as by Ctrl-C where the process that gives the commands is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)


def run_command(words: Sequence[str], log: Path) -> CommandEnd:
    """Run `pmm WORDS` in this process; what it prints is added to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    _forget_peak()
    before, started, status = time.process_time(), time.monotonic(), 0
    former = sys.argv
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            sys.argv = ["pmm", *words]
            runpy.run_module("pmm", run_name="__main__")
        except SystemExit as ended:
            status = int(ended.code or 0)
        except KeyboardInterrupt:
            status = 130
        except Exception as error:  # a fault of the program: told in the log, as a command's is
            print(f"{type(error).__name__}: {error}", file=file)
            status = 1
        finally:
            sys.argv = former
    return CommandEnd(
        status=status,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - before,
        peak_bytes=_peak(),
    )


def _forget_peak() -> None:
    """Begin to count the most memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak() -> int:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0
