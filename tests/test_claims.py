"""The claims' plan of runs, and the page that is made from their rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.claims import DOWNSTREAM, SHOWN, SYSTEMS, Claims, Run, plan
from benchmarks.claims_page import (
    Rows,
    epochs_to_reach,
    interval,
    main_table,
    of_held_out,
    paper_table,
    systems_table,
    transfer_table,
    write_page,
)

RUNS = list(plan())


def row(seed: int, run: str, hits: float, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "run": run, "test": {"hr@10": hits}, **more}


def test_every_run_has_a_name_of_its_own_and_stands_behind_the_one_it_starts_from() -> None:
    names = [run.name for run in RUNS]
    assert len(set(names)) == len(names)
    for run in RUNS:
        assert (run.start != "") == (run.stage == "finetune")
        assert not run.start or names.index(run.start) < names.index(run.name)


def test_the_plan_has_each_target_of_the_paper_and_each_source_alone() -> None:
    on = {(run.target, run.start) for run in RUNS}
    for target in DOWNSTREAM:
        starts = {start for each, start in on if each == target}
        assert {"", "pre", "pre-bili", "pre-kwai", "pre-hm", "pre-amazon"} <= starts
        models = {run.model for run in RUNS if run.target == target and not run.start}
        assert models == set(SYSTEMS)
    for target in SHOWN:
        transfers = {run.transfer for run in RUNS if run.target == target and run.start == "pre"}
        assert transfers == {"full", "item", "user", "text", "vision"}


def test_a_tuned_run_stands_behind_its_search_and_has_no_preset() -> None:
    names = [run.name for run in RUNS]
    for run in RUNS:
        assert not (run.tuned and run.preset)
        if run.tuned:
            assert names.index(run.tuned) < names.index(run.name)


def test_a_fine_tuning_waits_for_its_start_and_a_run_with_a_row_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def measured(_self: Claims, seed: int, run: Run) -> dict[str, Any]:
        assert not run.start or run.start in done
        done.append(run.name)
        return {"seed": seed, "run": run.name}

    monkeypatch.setattr(Claims, "_done", measured)
    monkeypatch.setattr(Claims, "write", lambda _self: None)
    monkeypatch.setattr("benchmarks.claims.prepare", lambda *_: None)
    monkeypatch.setattr("benchmarks.claims._oracle", lambda *_: {})
    rows = tmp_path / "rows.jsonl"
    Claims(tmp_path, rows, 2).measure(0, {1, 2})
    assert sorted(done) == sorted(run.name for run in RUNS if run.claim in (1, 2))
    Claims(tmp_path, rows, 2).measure(0, {1, 2})
    names = [json.loads(line)["run"] for line in rows.read_text().splitlines()]
    assert len(names) == len(set(names)) == len(done) + len(DOWNSTREAM)


def test_the_page_has_means_over_seeds_and_marks_what_is_not_measured() -> None:
    oracle = {"popularity": {"hr@10": 0.05}, "random": {"hr@10": 0.01}}
    cold = {"items_cold": {"hr@10": 0.4}}
    rows = Rows(
        [row(seed, "oracle HM Shoes", 0.5, **oracle, **cold) for seed in range(3)]
        + [
            row(seed, "hm-shoes-full", 0.1, mix={"chosen": {"hr@10": hits}})
            for seed, hits in enumerate((0.2, 0.3, 0.4))
        ]
        + [row(0, "hm-shoes-tuned-pmmrec", 0.25, items_cold={"hr@10": 0.2})]
    )
    line = main_table(rows, ["HM Shoes"]).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("HM Shoes", "50.00 ± 0.00", "30.00 ± 24.84", "25.00 (1)", "-"),
        *("5.00 ± 0.00", "1.00 ± 0.00", "-5.00 (1)", "60%", "50%"),
        *("40.00 ± 0.00", "-", "20.00 (1)", "-"),
    ]


def test_how_soon_a_run_reaches_another_ones_best() -> None:
    scratch = row(0, "hm-shoes-tuned-pmmrec", 0.2, valid=[[1, 0.1], [2, 0.2], [3, 0.15]])
    full = row(0, "hm-shoes-full", 0.2, valid=[[1, 0.2], [2, 0.3], [3, 0.3]])
    assert epochs_to_reach(full, scratch) == 0.5
    assert epochs_to_reach(scratch, full) is None
    lines = transfer_table(Rows([scratch, full]), ["HM Shoes"]).splitlines()
    assert "| full | 20.00 (1) | 0.50 (1 of 1) |" in lines
    assert "| item | - | - |" in lines
    lines = transfer_table(
        Rows([{**full, "run": "hm-shoes-tuned-pmmrec"}, {**scratch, "run": "hm-shoes-full"}]),
        ["HM Shoes"],
    )
    assert "| full | 20.00 (1) | never |" in lines


def test_a_figure_with_the_chosen_share_stands_beside_the_one_without() -> None:
    mix = {"none": {"hr@10": 0.2}, "chosen": {"hr@10": 0.3, "ndcg@10": 0.1}}
    cuts = {"held_out": {"model": {"hr@10": 0.4}}}
    rows = Rows([row(0, "hm-shoes-paper", 0.2, mix=mix, cold_start=cuts)])
    line = paper_table(rows, ["HM Shoes"]).splitlines()[-1]
    assert line == "| `paper`, scratch | 30.00 (1) | 20.00 (1) | 40.00 (1) |"


def test_the_page_names_the_pictures_that_it_draws(tmp_path: Path) -> None:
    curve = {"valid": [[1, 0.1], [2, 0.2]]}
    rows = [row(0, f"hm-shoes-{name}", 0.2, **curve) for name in ("tuned-pmmrec", "full", "item")]
    page = tmp_path / "claims.md"
    names = {"targets": [], "ablations": [], "strays": [], "sources": [], "systems": []}
    how = {"trials": 6, "steps": 600, "epochs": 3}
    write_page(rows, shown=["HM Shoes", "Kwai Movie"], page=page, how=how, **names)
    assert page.read_text().count("](claims-hm-shoes.png)") == 1
    with Image.open(tmp_path / "claims-hm-shoes.png") as image:
        assert image.width > 700
    assert not (tmp_path / "claims-kwai-movie.png").exists()


def test_what_is_above_ours_stands_in_bold() -> None:
    runs = {"full": 0.3, "tuned-pmmrec": 0.2, "tuned-sasrec": 0.25, "unisrec-full": 0.35}
    made = [row(0, f"hm-shoes-{name}", hits) for name, hits in runs.items()]
    oracle = row(0, "oracle HM Shoes", 0.5, popularity={"hr@10": 0.05})
    neighbours = row(0, "hm-shoes-tuned-carca", 0.1, **{"item kNN": {"hr@10": 0.31}})
    rows = Rows([*made, oracle, neighbours])
    systems = ["pmmrec", "sasrec", "carca", "unisrec"]
    header, _, *lines = systems_table(rows, ["HM Shoes"], systems).split("\n")
    assert header == "| system | HM Shoes | mean |"
    assert lines == [
        "| oracle | 50.00 (1) | 50.00 |",
        "| PMMRec, pre-trained | 30.00 (1) | 30.00 |",
        "| PMMRec | 20.00 (1) | 20.00 |",
        "| UniSRec, pre-trained | ***35.00 (1)*** | ***35.00*** |",
        "| SASRec | **25.00 (1)** | **25.00** |",
        "| CARCA++ | 10.00 (1) | 10.00 |",
        "| item kNN | ***31.00 (1)*** | ***31.00*** |",
        "| popularity | 5.00 (1) | 5.00 |",
    ]
    held_out = {"model": {"hr@10": 0.2}, "popularity": {"hr@10": 0.1}}
    cold = row(0, "hm-shoes-tuned-carca", 0.1, cold_start={"held_out": held_out})
    lines = systems_table(Rows([cold, oracle]), ["HM Shoes"], systems, of_held_out).split("\n")
    assert lines[2:] == ["| CARCA++ | 20.00 (1) | 20.00 |", "| popularity | 10.00 (1) | 10.00 |"]


def test_a_mean_over_targets_needs_all_of_them() -> None:
    made = [row(0, "hm-shoes-tuned-sasrec", 0.2), row(0, "kwai-food-tuned-sasrec", 0.4)]
    for targets, expected in ((["HM Shoes"], "20.00"), (["HM Shoes", "Kwai Food"], "30.00")):
        lines = systems_table(Rows(made), targets, ["sasrec"]).split("\n")
        assert lines[2].endswith(f"| {expected} |")
    lines = systems_table(Rows(made), ["HM Shoes", "Kwai Movie"], ["sasrec"]).split("\n")
    assert lines[2] == "| SASRec | 20.00 (1) | - | - |"


def test_a_run_that_was_still_rising_is_marked() -> None:
    rising, ended = [[1, 0.1], [2, 0.2]], [[1, 0.2], [2, 0.1]]
    made = [
        row(seed, f"hm-shoes-tuned-{name}", 0.2, valid=valid)
        for name, curves in (("sasrec", (rising, rising, ended)), ("fdsa", (rising, ended, ended)))
        for seed, valid in enumerate(curves)
    ]
    lines = systems_table(Rows(made), ["HM Shoes"], ["sasrec", "fdsa"]).split("\n")
    assert lines[2].startswith("| SASRec | 20.00 ± 0.00° |")
    assert lines[3].startswith("| FDSA | 20.00 ± 0.00 |")


def test_an_interval_needs_two_seeds() -> None:
    assert interval([0.5]) == "50.00 (1)"
    assert "±" in interval([0.5, 0.6])
