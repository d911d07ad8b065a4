"""The commands as a user types them, on the tiny embedded world, from raw files to a gallery."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pmm.cli import main
from pmm.demo.small_encoders import SmallSizes, save_small_encoders

SIZES = SmallSizes(width=32, blocks=2, heads=1, vocabulary=400)


def pmm(
    *arguments: object, capsys: pytest.CaptureFixture[str] | None = None, status: int = 0
) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    out = capsys.readouterr() if capsys else None
    assert ended.value.code == status, out
    return (out.err if status else out.out) if out else ""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with raw files, targets, encoders and shards of HM Shoes."""
    home = tmp_path_factory.mktemp("shop")
    pmm("world", "--size", "tiny", "--to", home / "raw" / "hm")
    pmm("ingest", "hm", "--home", home)
    save_small_encoders(home / "encoders", ["a red shoe", "blau"], seed=0, sizes=SIZES)
    text = home / "encoders" / "text"
    pmm("shard", "--home", home, "--target", "hm shoes", "--text-encoder", text, "--workers", 1)
    return home


def train(home: Path, name: str, *more: object) -> list[object]:
    folder = home / "encoders"
    return [
        *("train", "--home", home, "--stage", "scratch", "--target", "HM Shoes", "--name", name),
        *("--text-encoder", folder / "text", "--vision-encoder", folder / "vision"),
        *("--batch-users", 16, "--set", "train.patience=0", *more),
    ]


@pytest.fixture(scope="module")
def run(shop: Path) -> Path:
    pmm(*train(shop, "one", "--epochs", 1))
    pmm("evaluate", shop / "runs" / "one")
    return shop / "runs" / "one"


def test_a_run_leaves_its_recipe_its_log_its_first_batch_and_its_pictures(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"recipe.toml", "run.json", "log.jsonl", "metrics.json", "ranks.parquet"}
    for picture in ("curves.png", "first_batch.png", "gallery.png"):
        with Image.open(run / picture) as image:
            assert min(image.size) > 200
    assert 'target = "HM Shoes"' in (run / "recipe.toml").read_text()


def test_metrics_stand_beside_popularity_and_random(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("model", "popularity", "random"):
        assert (
            0 <= metrics[name]["ndcg@10"] <= metrics[name]["hr@10"] <= metrics[name]["hr@50"] <= 1
        )


def test_a_second_run_of_the_same_name_is_refused(
    shop: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = pmm(*train(shop, run.name), capsys=capsys, status=1)
    assert "--resume" in message
    assert "--overwrite" in message


def test_the_cache_is_written_once_and_found_by_the_training_that_it_is_for(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shop / "encoders"
    frozen = (
        *("--text-encoder", folder / "text", "--vision-encoder", folder / "vision"),
        *("--train-blocks", 0),
    )
    cache = ("cache", "--home", shop, "--target", "hm shoes", *frozen)
    first = pmm(*cache, capsys=capsys).splitlines()[:-1]
    assert [line.rpartition(": ")[2] for line in first] == ["written"] * 2
    assert all((Path(line.rpartition(": ")[0]) / "manifest.json").is_file() for line in first)
    again = pmm(*cache, capsys=capsys).splitlines()[:-1]
    assert again == [line.replace("written", "unchanged, nothing to do") for line in first]
    other = pmm(*cache, "--storage", "fp32", "--modality", "text", capsys=capsys)
    assert other.count("written") == 1
    with pytest.raises(SystemExit):
        main([str(each) for each in train(shop, "frozen", "--epochs", 1, "--train-blocks", 0)])
    assert capsys.readouterr().err.count("trunk on HM Shoes: found") == 2
    recipe = (shop / "runs" / "frozen" / "recipe.toml").read_text()
    assert recipe.count("train_blocks = 0") == 2


def test_what_has_not_changed_is_not_done_again(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (shop / "shards").rglob("*") if p.is_file()}
    assert "unchanged" in pmm("ingest", "hm", "--home", shop, capsys=capsys)
    text = shop / "encoders" / "text"
    said = pmm(
        *("shard", "--home", shop, "--target", "HM Shoes", "--text-encoder", text), capsys=capsys
    )
    assert "unchanged" in said
    after = {p: p.stat().st_mtime_ns for p in (shop / "shards").rglob("*") if p.is_file()}
    assert {p: t for p, t in after.items() if p.suffix != ".lock"} == {
        p: t for p, t in before.items() if p.suffix != ".lock"
    }


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    "artefact", ["tables/hm", "targets/hm-shoes", "shards/hm-shoes", "runs/one"]
)
def test_inspect_shows_any_artefact(
    shop: Path,
    artefact: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = pmm("inspect", shop / artefact, "--verify", capsys=capsys)
    assert len(said.splitlines()) > 10
    assert (tmp_path / "contact-sheet.png").exists() == artefact.startswith("shards")


def test_inspect_finds_a_changed_byte(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "targets" / "hm-clothes"
    copy.parent.mkdir()
    subprocess.run(["cp", "-r", shop / "targets" / "hm-clothes", copy], check=True)
    data = bytearray((copy / "items.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "items.parquet").write_bytes(data)
    assert "items.parquet has other content" in pmm(
        "inspect", copy, "--verify", capsys=capsys, status=1
    )


def test_shards_of_a_target_that_was_ingested_anew_are_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "copy"
    subprocess.run(["cp", "-r", shop, home], check=True)
    pmm("ingest", "hm", "--home", home, "--item-core", 0, capsys=capsys)
    message = pmm(*train(home, "stale"), capsys=capsys, status=1)
    assert "Run: pmm shard --target 'HM Shoes' --text-encoder " in message


def test_a_text_encoder_with_other_tokens_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = save_small_encoders(tmp_path, ["quite other words"] * 9, seed=1, sizes=SIZES)
    message = pmm(*train(shop, "other", "--text-encoder", other), capsys=capsys, status=1)
    assert "pmm shard" in message


def test_shards_of_a_local_encoder_ask_where_it_is(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = pmm(
        *("train", "--home", shop, "--target", "HM Shoes", "--name", "x"), capsys=capsys, status=1
    )
    assert f"Say where it is: --text-encoder {shop / 'encoders' / 'text'}" in message


def test_a_misspelt_recipe_key_names_the_nearest(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = pmm(*train(shop, "x", "--set", "train.epoch=3"), capsys=capsys, status=1)
    assert 'unknown key "train.epoch" (did you mean "epochs"?)' in message


def test_a_terminated_run_says_how_to_go_on_and_goes_on(shop: Path) -> None:
    arguments = train(shop, "stopped", "--epochs", 400, "--overwrite")
    command = [sys.executable, "-m", "pmm", *map(str, arguments)]
    log = shop / "runs" / "stopped" / "log.jsonl"
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not evaluations(log) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(child.pid, signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "--resume" in out
    assert "--overwrite" not in out
    done = max(line["epoch"] for line in evaluations(log))
    pmm(*train(shop, "stopped", "--epochs", int(done) + 1, "--resume"))
    assert max(line["epoch"] for line in evaluations(log)) >= int(done) + 1


def evaluations(log: Path) -> list[dict[str, float]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if '"kind": "evaluation"' in line]


def test_the_demo_ends_in_one_table_and_pictures_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = ("demo", "--home", tmp_path, "--size", "tiny", "--epochs", 1)
    first, second = pmm(*demo, capsys=capsys), pmm(*demo, capsys=capsys)
    for name in ("scratch", "pre-trained", "popularity", "random", "oracle"):
        rows = [line for line in first.splitlines() if line.startswith(f"{name} ")]
        assert rows[0] in second.splitlines()
    run = tmp_path / "runs" / "demo-finetuned"
    for picture in ("gallery.png", "validation.png"):
        with Image.open(run / picture) as image:
            assert image.width > 700
    report = json.loads((run / "transfer.json").read_text())
    assert report


def test_usage_errors_exit_2_and_the_version_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    pmm("shard", status=2)
    pmm("nonsense", status=2)
    assert "Did you mean 'train'?" in pmm("trian", capsys=capsys, status=2)
    assert "Did you mean 'amazon'?" in pmm("ingest", "amazom", capsys=capsys, status=2)
    assert pmm("--version", capsys=capsys).startswith("pmm ")


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pmm.demo.demo.run_demo", stopped)
    assert "Run the same command to go on" in pmm(
        "demo", "--home", tmp_path, capsys=capsys, status=130
    )
