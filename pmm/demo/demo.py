"""`pmm demo`: the whole way on the embedded world, from raw files to recommendations."""

import json
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from pmm.advice import command as command_line
from pmm.demo.world_datasets import (
    ingest_platforms,
    oracle_table,
    place_encoders,
    shard_targets,
    write_platforms,
)
from pmm.errors import PmmError, RecipeError, StaleArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.evaluate.metrics import summarise
from pmm.evaluate.report import mix_lines, rankings_table
from pmm.inspect import rows_account
from pmm.messages import configure_logging
from pmm.runs.folder import LOG
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.shards.kinds import Split
from pmm.storage.home import SOURCES, Home
from pmm.storage.toml import merge, read_recipe_beside
from pmm.train import curves
from pmm.train.train_run import train
from pmm.world import World, generate
from pmm.world.platforms import Size

logger = logging.getLogger(__name__)

TARGET = "HM Shoes"
PRETRAINED, SCRATCH, FINETUNED = "demo-pretrained", "demo-scratch", "demo-finetuned"
PRETRAIN_EPOCHS, EPOCHS = 3, 6
VECTORS: dict[str, Any] = {"model": {"items": "vectors", "width": 128}}
"""Items from frozen vectors: an epoch takes seconds without a GPU. Width as the baselines'."""
STEPS = 8
_GRACE = 10.0
"""Seconds in which the training beside may stop by itself."""


def run_demo(home: Home, *, size: Size, epochs: int | None, seed: int, command: str = "") -> str:
    """Write the world, ingest, shard; pre-train on its sources, fine-tune on a target; rank.

    Run again, it does only what is not done yet.

    Args:
        home: where everything is put.
        size: how large the world is.
        epochs: of each training at most; None for what the demo was measured with.
        seed: of the world, the weights and the trainings.
        command: as the user typed it, for run.json.

    Returns:
        One table (scratch, pre-trained, popularity, random, the world's oracle), and where to look.
    """
    started = time.monotonic()
    world = generate(size, seed)
    encoders = _prepare(home, world)
    _train(home, encoders, epochs, seed, command)
    with _step(
        8, "rank the whole catalogue", command_line("evaluate", home.run(FINETUNED), cold=True)
    ):
        wanted = EvaluateOptions(cold=True)
        metrics = {n: evaluate_run(home, home.run(n), wanted) for n in (SCRATCH, FINETUNED)}
        oracle = {split: summarise(oracle_table(home, world, TARGET, split)) for split in _SPLITS}
        plot = home.run(FINETUNED) / "validation.png"
        _draw(home, plot, oracle["valid"]["hr@10"])
    best = metrics[FINETUNED]
    rankings = {
        "scratch": metrics[SCRATCH]["popularity_mix"]["chosen"],
        "pre-trained": best["popularity_mix"]["chosen"],
        "popularity": best["popularity"],
        "random": best["random"],
    }
    return "\n".join(
        [
            "",
            rankings_table(best, {**rankings, "oracle": oracle["test"]}),
            "",
            "The pre-trained model, by how much popularity its ranking holds; cold items occur "
            "fewer than ten times in training:",
            *mix_lines(best),
            "",
            _shares_of_the_oracle(best, oracle["test"]),
            f"Validation by epoch, from scratch and pre-trained: {plot}",
            f"Histories, true next items and top tens: {home.run(FINETUNED) / 'gallery.png'}",
            f"{time.monotonic() - started:,.0f} s",
            "",
            "Next: " + command_line("serve", FINETUNED, home=home.option),
            "It answers over HTTP, with a page to try it, also with items of your own. In a "
            "checkout make serve-demo installs what that needs, and starts it.",
        ]
    )


def _shares_of_the_oracle(metrics: Mapping[str, Any], oracle: Mapping[str, Any]) -> str:
    """What the model reaches of the best that any could, and what both do on cold items."""
    mixes = metrics["popularity_mix"]
    share = mixes["chosen"]["hr@10"] / oracle["hr@10"]
    told = (
        f"The pre-trained model reaches {share:.0%} of the oracle's HR@10, the best that any model "
        "could reach in this world."
    )
    possible, cold = oracle["cold"].get("hr@10"), mixes["none"]["cold"].get("hr@10")
    if possible is not None and cold is not None:
        told += (
            f" On cold items: {100 * cold:.1f} without a share of popularity, the oracle "
            f"{100 * possible:.1f}, as it knows how popular they are."
        )
    return told


def _prepare(home: Home, world: World) -> Path:
    """Everything up to shards; the folder of the encoders."""
    at_home, public = home.option, home.root / "encoders" / "public"
    to_write = command_line("world", format="hm", to=home.raw("hm"))
    to_shard = command_line("shard", target=TARGET, text_encoder=public / "text", home=at_home)
    with _step(1, "raw files of the embedded world's four platforms", to_write):
        for name, counts in write_platforms(home, world).items():
            _say(f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    with _step(2, "filter and split", command_line("ingest", "hm", home=at_home)):
        cards = ingest_platforms(home)
        _say("\n".join(rows_account(card) for card in cards if "rows" in card))
    with _step(3, "the world's public encoders", command_line("world", encoders=public)):
        encoders = place_encoders(home)
    with _step(4, "pictures to 224x224, texts to tokens, shards", to_shard):
        counts = shard_targets(home, [*SOURCES, TARGET], encoders / "text")
        _say(", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return encoders


def _train(home: Home, encoders: Path, epochs: int | None, seed: int, command: str) -> None:
    """Pre-train and fine-tune; from scratch in a process beside."""
    training = {"train": {"epochs": min(epochs or EPOCHS, EPOCHS), "seed": seed}}
    recipe = merge(read_recipe_beside(encoders / "recipe.toml"), VECTORS, training)
    longer = {"train": {"epochs": min(epochs or PRETRAIN_EPOCHS, PRETRAIN_EPOCHS)}}
    start = TrainRequest(
        stage="finetune", target=TARGET, start=home.run(PRETRAINED), transfer="full"
    )
    vectors = [f"model.{name}={value}" for name, value in VECTORS["model"].items()]
    said = {"recipe": encoders / "recipe.toml", "set": vectors, "home": home.option}
    tune = command_line(
        "train", stage="finetune", target=TARGET, from_=home.run(PRETRAINED), **said
    )
    with _one_thread(), _beside(home, SCRATCH, TrainRequest(target=TARGET), recipe, command):
        before = command_line("train", stage="pretrain", objectives="dap", **said)
        with _step(5, "pre-train on four sources", before):
            request = TrainRequest(stage="pretrain", objectives="dap")  # docs/log.md says why
            _say(_trained(home, PRETRAINED, request, merge(recipe, longer), command))
        with _step(6, "fine-tune on one target", tune):
            _say(_trained(home, FINETUNED, start, recipe, command))
    scratch = command_line("train", stage="scratch", target=TARGET, **said)
    with _step(7, "the same from scratch", scratch):
        _say(f"was trained beside: {home.root / 'logs' / SCRATCH}.txt")


_SPLITS: tuple[Split, ...] = ("test", "valid")


@contextmanager
def _step(number: int, what: str, command: str) -> Iterator[None]:
    logger.info("[%d/%d] %s   (%s)", number, STEPS, what, command)
    started = time.monotonic()
    yield
    _say(f"{time.monotonic() - started:,.1f} s")


def _say(text: str) -> None:
    logger.info("\n".join(f"      {line}" for line in text.splitlines()))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step of small encoders is too short to be shared: two threads take longer than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _beside(home: Home, *training: Any) -> Iterator[None]:
    """Train a run in a process of its own meanwhile; what it prints goes to logs/NAME.txt.

    Raises:
        PmmError: it failed; the log says why.
    """
    log = home.root / "logs" / f"{training[0]}.txt"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_train_beside, args=(log, home, *training))
    process.start()
    try:
        yield
    except BaseException:
        process.join(_GRACE)  # Ctrl-C reaches both; a second signal would end it unsaved
        process.terminate()
        raise
    finally:
        process.join()
    if process.exitcode:
        raise PmmError(f"the training beside failed (status {process.exitcode}): see {log}")


def _train_beside(log: Path, home: Home, *training: Any) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file), _one_thread():
        configure_logging()  # a new process has none
        try:
            print(_trained(home, *training))
        except KeyboardInterrupt:
            sys.exit(130)


def _trained(
    home: Home, name: str, request: TrainRequest, values: Mapping[str, Any], command: str = ""
) -> str:
    """Train a run, or go on with it; one that a demo with other options left is replaced.

    Raises:
        KeyboardInterrupt: somebody stopped it; its state is saved.
    """
    place = home.run(name)
    recipe = resolve_run(home, place, request, values)
    try:
        result = train(home, place, recipe, existing="resume", command=command)
    except (RecipeError, StaleArtefact):
        result = train(home, place, recipe, existing="overwrite", command=command)
    if result["ended"] == "interrupted":
        raise KeyboardInterrupt
    return json.dumps(result)


def _draw(home: Home, path: Path, oracle: float) -> None:
    """The validation curves of both runs, between popularity and the oracle."""
    logs = {
        "pre-trained": curves.read_log(home.run(FINETUNED) / LOG),
        "scratch": curves.read_log(home.run(SCRATCH) / LOG),
    }
    last = [each for each in logs["scratch"] if each["kind"] == "evaluation"][-1]
    levels = {"oracle": oracle, "popularity": last["popularity_hr@10"]}
    curves.draw_validation(
        logs, path, title=f"{TARGET}: pre-trained and from scratch", levels=levels
    )
