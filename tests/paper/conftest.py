"""A home with one source and one target of the tiny embedded world, and the commands on it."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from pmm.demo.world_datasets import place_encoders, shard_targets
from pmm.ingest.sources.hm import ingest_hm
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home
from pmm.world import generate
from pmm.world.formats.raw_formats import write_raw

Pmm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def paper_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Sharded: HM, a source, and HM Shoes, a target."""
    home = Home(tmp_path_factory.mktemp("paper"))
    write_raw(generate("tiny", 0), "hm", home.raw("hm"))
    ingest_hm(home, None, ["HM", "HM Shoes"], IngestOptions())
    shard_targets(home, ["HM", "HM Shoes"], place_encoders(home) / "text")
    return home


@pytest.fixture(scope="session")
def small(paper_home: Home) -> list[str]:
    """Options that make every run as small as it can be."""
    recipe = paper_home.root / "encoders" / "public" / "recipe.toml"
    options = ["--home", str(paper_home.root), "--recipe", str(recipe), "--items", "vectors"]
    options += ["--epochs", "1", "--set", "model.width=16", "--set", "train.max_steps=3"]
    return [*options, "--set", "train.trackers=[]"]


@pytest.fixture(scope="session")
def pmm() -> Pmm:
    """`pmm WORDS` in a process of its own."""

    def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pmm", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
