"""Every stage on a small real file system that is full: one message, nothing lost, and it goes on.

A few levels of free space a stage; `PMM_FILL_LEVELS=20` tries as many as one likes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pmm.cli import main
from pmm.demo.public_encoders import put_public_encoders
from pmm.storage.artefact import open_artefact
from pmm.world.formats.csv_writer import write_csv
from pmm.world.generate import generate

LEVELS = int(os.environ.get("PMM_FILL_LEVELS", "4"))
assert LEVELS % 2 == 0
SIZE = 48 << 20


@dataclass(frozen=True)
class Disk:
    """A file system of its own, with a home in it, and raw files and encoders outside."""

    home: Path
    beside: Path

    def fill(self, free: int) -> None:
        """Leave so many bytes free."""
        filler = self.home.parent / "filler"
        filler.unlink(missing_ok=True)
        found = os.statvfs(self.home)
        size = found.f_bavail * found.f_frsize - free
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def make_room(self) -> None:
        (self.home.parent / "filler").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, mount_disk: Any) -> Iterator[Disk]:
    root = tmp_path_factory.mktemp("disk")
    place, beside = root / "mounted", root / "beside"
    beside.mkdir()
    with mount_disk(place, SIZE):
        write_csv(generate("tiny"), "HM Shoes", beside / "raw")
        put_public_encoders(beside / "encoders")
        yield Disk(place / "home", beside)


Ask = Callable[[Disk, int], list[str]]


def ingest(disk: Disk, turn: int) -> list[str]:
    raw = disk.beside / "raw"
    files = ["--interactions", str(raw / "interactions.csv"), "--items", str(raw / "items.csv")]
    files += ["--images", str(raw / "images")]
    return ["ingest", "csv", "--name", "shop", *files, "--user-core", str(4 + turn % 2)]


def shard(disk: Disk, _turn: int) -> list[str]:
    return [*_on("shard"), *_text(disk), "--workers", "1", "--force"]


def cache(disk: Disk, _turn: int) -> list[str]:
    return [*_on("cache"), *_encoders(disk), "--force"]


def train(_disk: Disk, turn: int) -> list[str]:
    return [*_on("train"), "--model", "sasrec", "--epochs", "2", "--name", f"run {turn}"]


def train_content(disk: Disk, turn: int) -> list[str]:
    shutil.rmtree(disk.home / "activations", ignore_errors=True)
    options = [*_encoders(disk), "--epochs", "1", "--name", f"content {turn}"]
    return [*_on("train"), *options, "--set", "train.max_steps=1"]


def tune(_disk: Disk, turn: int) -> list[str]:
    options = ["--model", "sasrec", "--epochs", "1", "--budget", "2"]
    return [*_on("tune"), *options, *(["--overwrite"] if turn else [])]


def evaluate(disk: Disk, turn: int) -> list[str]:
    return ["evaluate", str(disk.home / "runs" / "old"), "--seed", str(turn + 1)]


def inspect(disk: Disk, turn: int) -> list[str]:
    sheet = str(disk.home / f"sheet-{turn}.png")
    return ["inspect", str(disk.home / "shards" / "shop"), "--sheet", sheet]


def _on(command: str) -> list[str]:
    return [command, "--target", "shop"]


def _text(disk: Disk) -> list[str]:
    return ["--text-encoder", str(disk.beside / "encoders" / "text")]


def _encoders(disk: Disk) -> list[str]:
    return ["--recipe", str(disk.beside / "encoders" / "recipe.toml")]


@pytest.fixture(scope="module")
def old(disk: Disk) -> Disk:
    """What was there before the disk filled up: everything up to an evaluated run."""
    disk.home.mkdir()
    for words in (
        ingest(disk, LEVELS - 1),  # which the last level gives back
        [*_on("shard"), *_text(disk), "--workers", "1"],
        [*_on("cache"), *_encoders(disk)],
        [*_on("train"), "--model", "sasrec", "--epochs", "1", "--name", "old"],
        ["evaluate", str(disk.home / "runs" / "old")],
    ):
        assert status(words, disk) == 0
    return disk


def status(words: list[str], disk: Disk) -> int:
    takes_home = words[0] not in ("evaluate", "inspect")
    with pytest.raises(SystemExit) as ended:
        main([*words, *(["--home", str(disk.home)] if takes_home else [])])
    return int(ended.value.code or 0)


def require_whole(disk: Disk, weights: dict[str, str]) -> None:
    """All artefacts are whole, the old run has its weights, an evaluation is of one piece."""
    for manifest in disk.home.glob("*/**/manifest.json"):
        if not any(part.startswith(".") for part in manifest.relative_to(disk.home).parts):
            kind = json.loads(manifest.read_text())["kind"]
            open_artefact(manifest.parent, kind=kind, made_by="", verify=True)
    run = disk.home / "runs" / "old"
    assert sums(run / "checkpoint") == weights
    said = json.loads((run / "metrics.json").read_text())["ranks_sha256"]
    assert said == hashlib.sha256((run / "ranks.parquet").read_bytes()).hexdigest()


def sums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


# A stage, and what it needs at most.
STAGES: list[tuple[Ask, int]] = [
    (ingest, 80_000),
    (shard, 450_000),
    (cache, 400_000),
    (train, 5_500_000),
    (train_content, 12_000_000),
    (tune, 9_000_000),
    (evaluate, 700_000),
    (inspect, 500_000),
]


@pytest.mark.parametrize(("ask", "most"), STAGES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_full_disk_is_one_message_and_the_stage_goes_on_once_there_is_room(
    old: Disk, ask: Ask, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, failed = sums(old.home / "runs" / "old" / "checkpoint"), 0
    for level in range(LEVELS):
        words = ask(old, level)
        old.fill(level * most // LEVELS)
        try:
            capsys.readouterr()
            code = status(words, old)
            said = capsys.readouterr().err
            told = [line for line in said.splitlines() if line.startswith("Error: ")]
            assert (code, len(told)) == ((1, 1) if code else (0, 0)), said
            assert "Traceback" not in said
            if code:
                failed += 1
                assert "full" in told[0] or "No space left" in told[0], said
            require_whole(old, weights)
        finally:
            old.make_room()
        again = [each for each in words if code or each != "--overwrite"]
        if ask in (train, train_content):
            again = [*words, "--resume"]
        assert status(again, old) == 0, capsys.readouterr().err
        require_whole(old, weights)
        for path in (old.home / "runs").glob("*"):
            if path.is_dir() and path.name != "old" and "tune" not in path.name:
                shutil.rmtree(path)
    assert failed, "the disk was never full"
    assert not [p for p in old.home.rglob("*") if p.name.startswith(".tmp-")]
