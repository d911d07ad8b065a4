"""Two requests that differ in what decides the result have two names."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from pmm.errors import InputError
from pmm.runs.names import LONGEST, run_folder_of, run_name
from pmm.runs.request import TrainRequest
from pmm.storage.home import Home, slug

HOME = Home(Path("/data"))
STARTS = [Path(f"/data/runs/pretrain{end}") for end in ("", "-unisrec", "-vqrec", "-morec")]
SCRATCH: list[dict[str, Any]] = [
    {},
    {"model": "sasrec"},
    {"model": "sasrec", "preset": "original"},
    {"preset": "paper"},
    {"modality": "text"},
    {"modality": "vision"},
    {"objectives": "all"},
    {"seed": 1},
    {"seed": 2},
    {"lr": 1e-3},
    {"batch_users": 8},
    {"train_blocks": 0},
    {"train_blocks": "all"},
    {"text_encoder": "xlm-roberta-base"},
    {"text_encoder": "/some/where/text"},
    {"text_encoder": "/else/where/text"},
    {"vision_encoder": "/some/where/text"},
    {"set": ("model.width=64",)},
    {"set": ("model.width=64", "model.fusion_pool=cls")},
    {"set": ("model.fusion_pool=cls",)},
]
REQUESTS = [
    *(TrainRequest(target=target, **each) for target in ("Bili", "HM Shoes") for each in SCRATCH),
    *(TrainRequest(stage="pretrain", model=m) for m in (None, "unisrec", "vqrec", "morec")),
    TrainRequest(stage="pretrain", mixing="equal"),
    TrainRequest(stage="pretrain", objectives="dap"),
    TrainRequest(stage="pretrain", sources=("HM", "Kwai")),
    *(
        TrainRequest(stage="finetune", target="Bili Food", start=start, transfer=transfer)
        for start, transfer in itertools.product(STARTS, ("full", "user", "text"))
    ),
]


def test_requests_that_differ_have_names_that_differ() -> None:
    names = [run_name(HOME, each) for each in REQUESTS]
    assert len(set(names)) == len(names)
    assert all(slug(name) == name and len(name.encode()) <= LONGEST for name in names)


@pytest.mark.parametrize(
    "changes", [{"epochs": 3}, {"device": "cpu"}, {"set": ("train.log_every=3",)}]
)
def test_what_a_resumed_run_may_change_is_no_part_of_its_name(changes: dict[str, Any]) -> None:
    asked = TrainRequest(target="HM Shoes", **changes)
    assert run_name(HOME, asked) == "hm-shoes-scratch"


def test_what_is_as_by_default_is_no_part_of_a_name() -> None:
    start = STARTS[1]
    said = TrainRequest(stage="finetune", target="Bili Food", start=start, transfer="full")
    unsaid = TrainRequest(stage="finetune", target="Bili Food", start=start)
    assert run_name(HOME, said) == run_name(HOME, unsaid)
    assert run_name(HOME, TrainRequest(stage="pretrain", objectives="all")) == "pretrain"


def test_runs_of_one_name_in_two_homes_are_two_starts(tmp_path: Path) -> None:
    names = set()
    for root in (tmp_path / "here", tmp_path / "there"):
        start = root / "runs" / "pretrain"
        start.mkdir(parents=True)
        asked = TrainRequest(stage="finetune", target="Bili Food", start=start)
        names.add(run_name(Home(tmp_path / "here"), asked))
    assert len(names) == 2
    assert "bili-food-finetune-from-pretrain" in names


def test_a_recipe_file_is_part_of_a_name(tmp_path: Path) -> None:
    names = set()
    for width in (32, 64):
        recipe = tmp_path / f"{width}.toml"
        recipe.write_text(f"[model]\nwidth = {width}\n")
        names.add(run_name(HOME, TrainRequest(target="HM Shoes", recipe=recipe)))
    assert names == {"hm-shoes-scratch-width-32", "hm-shoes-scratch-width-64"}


def test_a_run_of_a_former_name_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path)
    asked: dict[str, Any] = {"target": "HM Shoes", "preset": "paper", "home": tmp_path}
    (tmp_path / "runs" / "hm-shoes-scratch").mkdir(parents=True)
    assert run_folder_of(home, TrainRequest(**asked)).name == "hm-shoes-scratch-paper"
    assert run_folder_of(home, TrainRequest(**asked, resume=True)).name == "hm-shoes-scratch"


@pytest.mark.parametrize("pointer", [".", "inside/.."])
def test_a_folder_is_found_by_any_path_and_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pointer: str
) -> None:
    home, place = Home(tmp_path / "home"), tmp_path / "bundle (2), ours"
    (place / "inside").mkdir(parents=True)
    assert home.find_run(place) == place
    monkeypatch.chdir(place)
    assert home.find_run(Path(pointer)) == place


def test_a_run_is_found_by_how_its_name_begins(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("hm-shoes-scratch-seed-1", "bili-scratch-seed-1", "bili-scratch-seed-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert home.find_run(Path("hm-shoes-scratch")).name == "hm-shoes-scratch-seed-1"
    assert home.find_run(Path("kwai-scratch")).name == "kwai-scratch"
    with pytest.raises(InputError, match="bili-scratch-seed-1, bili-scratch-seed-2"):
        home.find_run(Path("bili-scratch"))
