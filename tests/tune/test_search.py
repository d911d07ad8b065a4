"""A search goes on to the rows that it would have had, and cannot end below the defaults."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmm.errors import BrokenArtefact, InputError, PmmError, RecipeError, StaleArtefact
from pmm.model import registry
from pmm.model.registry import space_of
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.storage.dotted_names import nested, value_at
from pmm.storage.home import Home
from pmm.storage.toml import read_recipe, resolve
from pmm.train import trainer
from pmm.train.train_run import train
from pmm.tune import proposals
from pmm.tune import search as module
from pmm.tune.proposals import propose
from pmm.tune.search import tune
from pmm.tune.trial_rows import trials_table

pytest.importorskip("optuna", reason="the extra `tune` is not installed")

TIMES = {"seconds"}
REQUEST = TrainRequest(target="HM", model="sasrec")
SEED = 7  # whose six trials have both similarities
USER_ENCODER = {
    "user_encoder": "transformer",
    "user_positions": "absolute",
    "user_convolution": 0,
    "user_norm": "post",
}
VALUES: dict[str, Any] = {
    "model": {"max_length": 6, "user_blocks": 1, "width": 16, **USER_ENCODER},
    "train": {"epochs": 4, "batch_users": 8, "max_steps": 4, "weight_decay": 0.0},
}


@pytest.fixture(scope="module", autouse=True)
def _learns_early() -> Iterator[None]:
    """The sampler learns from the third trial on, so that few trials are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposals, "STARTUP", 2)
        yield


@pytest.fixture
def home(shop: Any, tmp_path: Path) -> Home:
    """The shop's shards in a home of their own."""
    for part in ("shards", "targets"):
        shutil.copytree(shop.home.root / part, tmp_path / "home" / part)
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def whole(
    _learns_early: None, shop: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, dict[str, Any]]:
    """A search of six trials; from the third on the sampler learns."""
    root = tmp_path_factory.mktemp("whole")
    for part in ("shards", "targets"):
        shutil.copytree(shop.home.root / part, root / part)
    return Home(root), tune(Home(root), REQUEST, VALUES, budget=6, seed=SEED)


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found["rows"]]


def lines(home: Home) -> list[str]:
    return (home.root / "tuning" / "hm" / "sasrec" / "trials.jsonl").read_text().splitlines()


class Killed(BaseException):
    """Nothing in the program catches this."""


def cut_at(monkeypatch: pytest.MonkeyPatch, steps: int, error: BaseException) -> None:
    """Raise at one step, counted over all trials."""
    real, done = trainer.Trainer._step, []

    def step(self: trainer.Trainer, batch: Any) -> None:
        done.append(batch)
        if len(done) == steps + 1:
            raise error
        real(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_step", step)


def test_the_first_trial_is_a_run_of_the_defaults(whole: tuple[Home, dict[str, Any]]) -> None:
    home, found = whole
    plain = resolve_run(
        home, home.run("plain"), REQUEST, {**VALUES, "train": {**VALUES["train"], "seed": SEED}}
    )
    trial = resolve(Recipe, read_recipe(home.run("hm-sasrec-tune-1") / "recipe.toml"))
    assert trial == plain
    first = found["rows"][0]
    assert first["parameters"] == {
        "train.lr": 1e-3,
        "model.dropout": 0.1,
        "model.loss": "in_batch",
        "model.similarity": "dot",
        "model.logq": "off",
    }
    assert first["hr@10"] == train(home, home.run("plain"), plain)["best_hr@10"]
    assert found["best"]["hr@10"] >= first["hr@10"]


def test_every_trial_has_a_run_a_row_and_the_same_steps(
    whole: tuple[Home, dict[str, Any]],
) -> None:
    home, found = whole
    assert [row["number"] for row in found["rows"]] == list(range(1, 7))
    written = [json.loads(line) for line in lines(home)]
    assert [{k: v for k, v in row.items() if k != "crc32"} for row in written] == found["rows"]
    assert {row["steps"] for row in found["rows"]} == {4}
    assert all((home.run(row["run"]) / "checkpoint").is_dir() for row in found["rows"])
    tried = [json.dumps(row["parameters"]) for row in found["rows"]]
    assert len(set(tried)) == 6
    assert found["ended"] == "budget"


def test_a_row_has_the_validation_metrics_of_its_best_epoch(
    whole: tuple[Home, dict[str, Any]],
) -> None:
    home, found = whole
    for row in found["rows"]:
        log = (home.run(row["run"]) / "log.jsonl").read_text().splitlines()
        evaluations = [each for each in map(json.loads, log) if each["kind"] == "evaluation"]
        rankings = [
            (each[f"{ranking}hr@10"], each[f"{ranking}ndcg@10"])
            for each in evaluations
            for ranking in ("", "mixed_")
            if f"{ranking}hr@10" in each
        ]
        assert (row["hr@10"], row["ndcg@10"]) == max(rankings, key=lambda found: found[0])


def test_tau_is_tried_with_the_cosine_alone(whole: tuple[Home, dict[str, Any]]) -> None:
    _, found = whole
    for row in found["rows"]:
        parameters = row["parameters"]
        assert ("model.tau" in parameters) == (parameters["model.similarity"] == "cosine")
    assert {row["parameters"]["model.similarity"] for row in found["rows"]} == {"dot", "cosine"}


def test_given_values_are_kept_in_all_trials(whole: tuple[Home, dict[str, Any]]) -> None:
    home, found = whole
    for row in found["rows"]:
        assert not row["parameters"].keys() & {"model.width", "train.weight_decay"}
        recipe = resolve(Recipe, read_recipe(home.run(row["run"]) / "recipe.toml"))
        assert (recipe.model.width, recipe.train.weight_decay, recipe.train.seed) == (16, 0.0, SEED)


def test_the_best_recipe_trains_the_best_trial(whole: tuple[Home, dict[str, Any]]) -> None:
    home, found = whole
    again = resolve_run(home, home.run("again"), REQUEST, read_recipe(Path(found["recipe"])))
    assert again == resolve(Recipe, read_recipe(Path(found["run"]) / "recipe.toml"))
    assert found["best"]["hr@10"] == max(row["hr@10"] for row in found["rows"])
    text = Path(found["recipe"]).read_text()
    assert f"validation HR@10 {100 * found['best']['hr@10']:.2f}" in text
    assert found["next"][1] in text


@pytest.mark.parametrize("steps", [2, 18])
def test_a_killed_search_goes_on_to_the_same_rows(
    whole: tuple[Home, dict[str, Any]], home: Home, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """In the first trial, and where the sampler has learnt."""
    saved = {"train": {**VALUES["train"], "save_every": 1}}
    with monkeypatch.context() as patch:
        cut_at(patch, steps, Killed())
        with pytest.raises(Killed):
            tune(home, REQUEST, {**VALUES, **saved}, budget=6, seed=SEED)
    assert len(lines(home)) == steps // 4
    found = tune(home, REQUEST, {**VALUES, **saved}, budget=6, seed=SEED)
    assert rows(found) == rows(whole[1])


def test_a_row_cut_off_by_a_kill_is_trained_again(
    whole: tuple[Home, dict[str, Any]], home: Home
) -> None:
    tune(home, REQUEST, VALUES, budget=3, seed=SEED)
    path = home.root / "tuning" / "hm" / "sasrec" / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    found = tune(home, REQUEST, VALUES, budget=3, seed=SEED)
    assert rows(found) == rows(whole[1])[:3]
    assert len(lines(home)) == 3


def test_the_budget_counts_what_was_done_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tune(home, REQUEST, VALUES, budget=2, seed=SEED)
    more = tune(home, REQUEST, VALUES, budget=3, seed=SEED)
    assert more["rows"][:2] == first["rows"]
    assert len(more["rows"]) == 3
    monkeypatch.setattr(module, "train", None)  # nothing is trained any more
    assert tune(home, REQUEST, VALUES, budget=2, seed=SEED) == first
    assert len(lines(home)) == 3


def test_a_failed_trial_is_a_row_and_the_search_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(monkeypatch, 5, PmmError("the loss of step 2 is nan."))
    found = tune(home, REQUEST, VALUES, budget=3)
    assert [row["state"] for row in found["rows"]] == ["finished", "failed", "finished"]
    assert found["rows"][1]["error"] == "the loss of step 2 is nan."
    assert found["rows"][1]["hr@10"] is None
    assert "2 failed" in trials_table(found["rows"]).splitlines()[-1]


def test_rates_without_a_number_fail_every_trial_and_say_so(home: Home) -> None:
    absurd = {"train": {**VALUES["train"], "lr": 1e38}, "model": VALUES["model"]}
    with pytest.raises(PmmError, match="all 2 trials failed, the first with: ") as raised:
        tune(home, REQUEST, absurd, budget=2)
    assert type(raised.value) is PmmError
    assert [json.loads(line)["state"] for line in lines(home)] == ["failed", "failed"]


def test_another_error_ends_the_search(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(monkeypatch, 4, InputError("no such thing"))
    with pytest.raises(InputError, match="no such thing"):
        tune(home, REQUEST, VALUES, budget=3)
    assert len(lines(home)) == 1


def test_an_interrupted_trial_is_no_row(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train", lambda *_, **__: {"ended": "interrupted"})
    found = tune(home, REQUEST, VALUES, budget=2)
    assert (found["ended"], found["rows"], found["best"], found["next"]) == (
        "interrupted",
        [],
        None,
        [],
    )


def test_a_search_does_not_go_on_with_other_options(home: Home) -> None:
    tune(home, REQUEST, VALUES, budget=1)
    other = {**VALUES, "train": {**VALUES["train"], "max_steps": 5}}
    with pytest.raises(RecipeError, match=r"train\.max_steps was 4, is 5.*--overwrite"):
        tune(home, REQUEST, other, budget=1)
    with pytest.raises(RecipeError, match="seed was 0, is 1"):
        tune(home, REQUEST, VALUES, budget=1, seed=1)
    found = tune(home, REQUEST, other, budget=1, overwrite=True)
    assert found["rows"][0]["steps"] == 5
    about = home.root / "tuning" / "hm" / "sasrec" / "search.json"
    about.write_text(about.read_text().replace('"shards": "', '"shards": "0'))
    with pytest.raises(BrokenArtefact, match="other content than it was written with"):
        tune(home, REQUEST, other, budget=1)
    (about.parent / ".sums" / "search.json").unlink()  # as of a search of before
    with pytest.raises(StaleArtefact, match="searched on shards 0"):
        tune(home, REQUEST, other, budget=1)
    about.write_text("{")
    with pytest.raises(BrokenArtefact, match="--overwrite"):
        tune(home, REQUEST, other, budget=1)


def test_rows_of_another_search_are_refused(home: Home) -> None:
    tune(home, REQUEST, VALUES, budget=2)
    path = home.root / "tuning" / "hm" / "sasrec" / "trials.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(BrokenArtefact, match=r"trials\.jsonl:1 is no row of trial 1"):
        tune(home, REQUEST, VALUES, budget=2)


def test_minutes_end_a_trial(home: Home) -> None:
    found = tune(home, REQUEST, VALUES, budget=1, minutes=1e-9)
    assert found["rows"][0]["ended"] == "max_minutes"
    assert "max_minutes" not in read_recipe(Path(found["recipe"]))["train"]


def test_wrong_input_is_refused_before_anything_is_written(home: Home) -> None:
    everything = {"train.lr": 1.0, "train.weight_decay": 0.0, "model.width": 16}
    everything |= {"model.dropout": 0.1, "model.similarity": "dot", "model.logq": "on"}
    everything["model.loss"] = "in_batch"
    everything |= {f"model.{name}": value for name, value in USER_ENCODER.items()}
    wrong: list[tuple[TrainRequest, dict[str, Any], dict[str, Any], str]] = [
        (REQUEST, VALUES, {"budget": 0}, "--budget 0"),
        (REQUEST, VALUES, {"budget": 1, "seed": -1}, "--seed -1"),
        (REQUEST, VALUES, {"budget": 1, "minutes": float("nan")}, "--minutes nan"),
        (TrainRequest(stage="pretrain"), {}, {"budget": 1}, "--stage scratch or finetune"),
        (REQUEST, nested(everything), {"budget": 1}, "nothing to search"),
    ]
    for request, values, options, message in wrong:
        with pytest.raises(InputError, match=message):
            tune(home, request, values, **options)
    with pytest.raises(RecipeError, match="did you mean"):
        tune(home, REQUEST, {"train": {"epoch": 1}}, budget=1)
    assert not (home.root / "tuning").exists()


def test_a_missing_optuna_names_the_extra(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pmmrec\[tune\]"):
        tune(home, REQUEST, VALUES, budget=1)


def test_every_model_has_a_space() -> None:
    assert all(space_of(name) for name in registry.models())
    with pytest.raises(InputError, match='no model "sasrecc": did you mean "sasrec"'):
        space_of("sasrecc")


@pytest.mark.parametrize("model", sorted(registry.models()))
def test_what_is_searched_can_be_set(home: Home, shop: Any, model: Any) -> None:
    request = TrainRequest(target="HM", model=model)
    sides = {"text": {"encoder": shop.options.text.encoder}}
    sides |= {"vision": {"encoder": shop.options.vision.encoder}}
    reads = {} if model in ("sasrec", "gru4rec", "nextitnet") else {"model": sides}
    search = module._prepare(home, request, reads, budget=1, seed=0, minutes=0.0)
    first = propose(search.space, search.base, [], seed=0)
    assert search.recipe(first) == resolve_run(home, home.run("x"), request, search.values)
    row = {"number": 1, "parameters": first, "hr@10": 0.5}
    drawn = propose(search.space, search.base, [row], seed=0)
    assert drawn.keys() <= search.space.keys() <= space_of(model).keys()
    recipe = search.recipe(drawn)
    assert {path: value_at(recipe, path) for path in drawn} == drawn


def test_a_fine_tuning_is_searched_from_its_run(home: Home, shop: Any) -> None:
    """Its width is that of the run, and it stands beside the search from scratch."""
    options = {"model": {"width": 16, "max_length": 6, "user_blocks": 1}, "train": VALUES["train"]}
    options["model"]["text"] = {"encoder": shop.options.text.encoder}
    request = TrainRequest(target="HM", model="unisrec")
    train(home, home.run("before"), resolve_run(home, home.run("before"), request, options))
    after = TrainRequest(stage="finetune", target="HM", start=home.run("before"))
    found = tune(home, after, {"train": VALUES["train"]}, budget=2)
    assert Path(found["folder"]) == home.tuning("hm") / "unisrec-finetune-from-before"
    assert [row["run"] for row in found["rows"]] == [
        "hm-unisrec-finetune-from-before-tune-1",
        "hm-unisrec-finetune-from-before-tune-2",
    ]
    assert found["rows"][0]["parameters"].keys() == {"train.lr", "model.dropout", "model.tau"}
    assert f"--from {home.run('before')}" in found["next"][1]
    again = resolve_run(home, home.run("again"), after, read_recipe(Path(found["recipe"])))
    assert again == resolve(Recipe, read_recipe(Path(found["run"]) / "recipe.toml"))
