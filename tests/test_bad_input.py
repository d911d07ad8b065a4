"""Bad input, as a user meets it: one clear message, exit 1, and earlier artefacts stay whole."""

import errno
import gzip
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pmm.cli import main
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.storage import artefact
from pmm.storage.artefact import open_artefact

Spoil = Callable[[Path], None]


def run(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    assert run("world", "--size", "tiny", "--to", home / "raw" / "hm") == 0
    assert run("ingest", "hm", "--home", home) == 0
    sizes = SmallSizes(width=32, blocks=2, heads=1, vocabulary=400)
    save_small_encoders(home / "encoders", ["a red shoe"], seed=0, sizes=sizes)
    assert run(*shard(home)) == 0
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def shard(home: Path) -> tuple[object, ...]:
    text = home / "encoders" / "text"
    return ("shard", "--home", home, "--target", "HM", "--text-encoder", text, "--workers", 1)


def whole(home: Path) -> list[str]:
    """The fingerprints of targets and shards; fails where any artefact is damaged.

    Tables follow the raw files, so they may be new, but they too must be whole.
    """
    found = []
    for manifest in sorted(home.glob("*/*/manifest.json")):
        kind = json.loads(manifest.read_text())["kind"]
        made = open_artefact(manifest.parent, kind=kind, made_by="", verify=True)
        found += [made.fingerprint] if kind != "tables" else []
    assert len(found) == 4
    return found


def transactions(home: Path) -> Path:
    return home / "raw" / "hm" / "transactions_train.csv"


def rewrite(change: Callable[[str], str]) -> Spoil:
    def spoil(home: Path) -> None:
        path = transactions(home)
        path.write_text(change(path.read_text()))

    return spoil


def cut_gz(home: Path) -> None:
    packed = gzip.compress(transactions(home).read_bytes(), mtime=0)
    transactions(home).write_bytes(packed[: len(packed) // 2])


def no_pictures(home: Path) -> None:
    shutil.rmtree(home / "raw" / "hm" / "images")
    (home / "raw" / "hm" / "images").mkdir()


INGEST = {
    "a missing file": (lambda home: transactions(home).unlink(), "kaggle"),
    "a missing column": (rewrite(lambda text: text.replace("article_id", "thing")), "article_id"),
    "a wrong delimiter": (rewrite(lambda text: text.replace(",", "^")), "customer_id"),
    "dates that are none": (rewrite(lambda text: text.replace("-", "~")), "t_dat"),
    "a truncated gz": (cut_gz, "transactions_train.csv"),
    "an empty file": (lambda home: transactions(home).write_text(""), "transactions_train.csv"),
    "no pictures at all": (no_pictures, "--missing-image text-only"),
}


@pytest.mark.parametrize("name", INGEST)
def test_bad_raw_files_are_one_message_and_harm_nothing(
    home: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, hint = INGEST[name]
    before = whole(home)
    spoil(home)
    assert run("ingest", "hm", "--home", home) == 1
    said = capfd.readouterr().err
    assert said.count("Error: ") == 1
    assert "Traceback" not in said
    assert hint.casefold() in said.casefold()
    assert whole(home) == before


COMMANDS = {
    "an empty core": (("ingest", "hm", "--user-core", 500), "--user-core"),
    "an unknown target": (("shard", "--target", "HM Shoos"), 'did you mean "HM Shoes"'),
    "a target not ingested": (("shard", "--target", "Kwai Movie"), "pmm ingest"),
    "a target not sharded": (("train", "--target", "HM Shoes"), "pmm shard"),
    "a run that is not there": (("evaluate", "nowhere"), "pmm train"),
    "a path that is not there": (("inspect", "nowhere"), "not there"),
    "a recipe that is not there": (("train", "--target", "HM", "--recipe", "x.toml"), "x.toml"),
    "an encoder that is not there": (("shard", "--target", "HM", "--text-encoder", "./x"), "./x"),
    "a sample of no users": (("ingest", "hm", "--users", 0), "--users 0"),
    "a name that leaves the home": (
        ("ingest", "csv", "--name", "../x", "--interactions", "a", "--items", "b"),
        "'../x'",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_arguments_are_one_message_and_harm_nothing(
    home: Path, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMM_HOME", str(home))
    before = whole(home)
    arguments, hint = COMMANDS[name]
    assert run(*arguments) == 1
    said = capfd.readouterr().err
    assert said.count("Error: ") == 1
    assert hint in said
    assert whole(home) == before


@pytest.mark.parametrize("command", ["ingest", "shard"])
def test_a_full_disk_is_one_message_and_harms_nothing(
    home: Path, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = whole(home)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(artefact, "_sync", full)
    options = (*shard(home), "--force") if command == "shard" else ("--user-core", 4)
    arguments = options if command == "shard" else ("ingest", "hm", "--home", home, *options)
    assert run(*arguments) == 1
    assert "is full" in capfd.readouterr().err
    assert whole(home) == before


def test_a_home_that_cannot_be_written_is_one_message(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    raw = made / "raw" / "hm"
    assert run("ingest", "hm", "--raw", raw, "--home", tmp_path / "file" / "home") == 1
    assert "--home" in capfd.readouterr().err


TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        *[("ingest", source, "--raw", TOO_LONG) for source in ("amazon", "bili", "hm", "kwai")],
        ("ingest", "csv", "--name", "q", "--preset", "movielens", "--raw", TOO_LONG),
        ("world", "--size", "tiny", "--to", TOO_LONG),
        ("inspect", TOO_LONG),
        pytest.param(
            ("world", "--size", "tiny", "--to", "/proc/none/here"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no folders"),
        ),
    ],
)
def test_a_path_that_cannot_be_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert re.search(r"^Error: .*(too long|No such file)", capfd.readouterr().err)


def test_a_cut_tar_is_one_message_that_says_what_to_run(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tar = home / "shards" / "hm" / "items-00000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    folder = home / "encoders"
    arguments = ("--text-encoder", folder / "text", "--vision-encoder", folder / "vision")
    assert run("train", "--home", home, "--target", "HM", *arguments) == 1
    said = capfd.readouterr().err
    assert "items-00000.tar" in said
    assert "Run: pmm shard --target HM " in said
    assert "--text-encoder " in said
