"""What each table needs, and how runs are named; nothing is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmm.errors import InputError, MissingArtefact
from pmm.paper.experiment import Experiment, with_starts
from pmm.paper.paper_datasets import Datasets, find_datasets
from pmm.paper.paper_request import PaperRequest
from pmm.paper.printed import printed
from pmm.paper.tables import SYSTEMS, TABLES, asked_tables, tables_of
from pmm.storage.home import SOURCES, TARGETS, Home

HOME = Home(Path("/data"))
ALL = Datasets(sources=SOURCES, targets=TARGETS)


def request(table: Any = "all", **how: Any) -> PaperRequest:
    return PaperRequest(table, **how)


def planned(table: Any = "all", datasets: Datasets = ALL, **how: Any) -> dict[str, Experiment]:
    asked = request(table, **how)
    tables = tables_of(asked, datasets)
    return with_starts((e for t in tables for e in t.experiments(asked.seeds)), HOME)


def test_on_the_real_fourteen_every_printed_figure_has_its_cell() -> None:
    for table in tables_of(request(), ALL):
        columns = {
            column.key if column.printed_as is None else column.printed_as
            for column in table.columns
        }
        for dataset, metric, column in printed(table.name):
            assert dataset in table.datasets
            assert metric in table.metrics
            assert column in columns or (column == "Improv." and table.ours)


def test_no_two_runs_have_one_name_and_none_stands_before_its_start() -> None:
    made = planned(seeds=3)
    assert len({each.digest(HOME) for each in made.values()}) == len(made)
    names = list(made)
    for name, each in made.items():
        assert len(name.encode()) <= 90
        assert each.start is None or names.index(each.start.name(HOME)) < names.index(name)


def test_tables_share_the_runs_that_they_have_in_common() -> None:
    fourth, fifth = planned("table4"), planned("table5")
    assert "bili-food-finetune" in " ".join(fourth.keys() & fifth.keys())
    assert len(planned()) < sum(len(planned(name)) for name in TABLES)


def test_all_that_decides_a_run_is_in_its_name() -> None:
    start = Experiment(stage="pretrain", sources=("HM",))
    one = Experiment(stage="finetune", dataset="HM Shoes", start=start, transfer="full")
    others = [
        replace(one, dataset="HM Clothes"),
        replace(one, start=replace(start, sources=("Bili",))),
        replace(one, start=replace(start, seed=1)),
        replace(one, start=replace(start, objectives="dap")),
        replace(one, start=replace(start, values=(("train.epochs", 3),))),
        replace(one, transfer="item"),
        replace(one, seed=1),
        replace(one, preset="paper"),
        replace(one, values=(("train.epochs", 1),)),
        replace(one, values=(("train.patience", 0),)),
        replace(one, values=(("model.width", 8),)),
        replace(one, model="unisrec"),
    ]
    assert len({each.name(HOME) for each in [one, *others]}) == 1 + len(others)


def test_a_home_that_is_moved_keeps_the_names() -> None:
    def named(root: str) -> str:
        values = (("model.text.encoder", f"{root}/encoders/text"),)
        return Experiment(dataset="HM", values=values).name(Home(Path(root)))

    assert named("/one") == named("/two")


def test_the_options_reach_every_system_that_has_them(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\ndap_tau = 0.2\n[model.text]\nencoder = "./text"\n')
    (tmp_path / "text").mkdir()
    how = {"recipe": recipe, "items": "vectors", "epochs": 2, "set": ("model.width=48",)}
    for each in planned("table3", **how).values():
        values = dict(each.values)
        assert values["train.epochs"] == 2
        assert values["model.width"] == 48
        assert ("model.dap_tau" in values) == (each.model in ("pmmrec", "morec"))
        assert ("model.items" in values) == (each.model == "pmmrec")
        reads = each.model not in ("gru4rec", "nextitnet", "sasrec")
        assert (values.get("model.text.encoder") == str(tmp_path / "text")) == reads


def test_the_presets_and_the_lengths_of_trainings() -> None:
    made = planned("table4", preset="paper", epochs=5, pretrain_epochs=2)
    for each in made.values():
        assert each.preset == ("paper" if each.model == "pmmrec" else None)
        assert dict(each.values)["train.epochs"] == (2 if each.stage == "pretrain" else 5)


def test_table_three_has_the_nine_systems_and_the_floor() -> None:
    made = planned("table3", Datasets(sources=("HM",), targets=()))
    assert sorted(each.model for each in made.values()) == sorted([*SYSTEMS.values(), "sasrec"])


def test_any_target_and_any_source_do() -> None:
    mine = Datasets(sources=("mine",), targets=("other",))
    tables = {table.name: table for table in tables_of(request(), mine)}
    assert tables["table8"].datasets == ("other",)
    assert "mine" in {column.key for column in tables["table6"].columns}
    assert {each.sources for each in planned("table6", mine).values() if each.sources} == {
        ("mine",)
    }


def test_without_sources_what_starts_from_scratch_is_left() -> None:
    alone = Datasets(sources=(), targets=("shop",))
    for table in tables_of(request(), alone):
        for experiment in table.experiments(1):
            assert experiment.stage == "scratch"
    assert all(table.missing for table in tables_of(request("table8"), alone))


def test_what_the_home_holds_is_found(paper_home: Home, tmp_path: Path) -> None:
    found = find_datasets(paper_home, (), ())
    assert (found.sources, found.targets) == (("HM",), ("HM Shoes",))
    with pytest.raises(MissingArtefact, match="pmm shard --target 'HM Clothes'"):
        find_datasets(paper_home, (), ("HM Clothes",))
    with pytest.raises(InputError, match="twice"):
        find_datasets(paper_home, ("HM", "hm"), ())
    with pytest.raises(MissingArtefact, match="has no shards"):
        find_datasets(Home(tmp_path), (), ())
    with pytest.raises(InputError, match="did you mean"):
        asked_tables(paper_home, request("table3", models=("sasrek",)))
    with pytest.raises(InputError, match="no preset"):
        asked_tables(paper_home, request("table3", preset="papers"))


def test_the_papers_figures_are_as_printed() -> None:
    counts = {f"table{n}": len(printed(f"table{n}")) for n in range(2, 9)}
    assert counts == {
        **{"table2": 70, "table3": 240, "table4": 200, "table5": 160},
        **{"table6": 120, "table7": 32, "table8": 48},
    }
    assert printed("table4")["Kwai Food", "hr@10", "VQRec w. PT"] == 26.21
    assert printed("table5")["Bili Cartoon", "ndcg@10", "V w. PT"] == 6.24
    assert printed("table6")["Kwai Movie", "ndcg@10", "HM"] == 3.39
    # What several tables print of one run is the same figure in each.
    for dataset in TARGETS:
        for metric in ("hr@10", "ndcg@10"):
            fourth, fifth, sixth = (printed(f"table{n}") for n in (4, 5, 6))
            for ours in ("w/o PT", "w. PT"):
                here = fourth[dataset, metric, f"PMMRec {ours}"]
                assert here == fifth[dataset, metric, ours]
            assert fourth[dataset, metric, "SASRec"] == sixth[dataset, metric, "ID"]
            assert fifth[dataset, metric, "w/o PT"] == sixth[dataset, metric, "w/o PT"]
