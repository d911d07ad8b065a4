"""Any runs in one table: what shares a row, what a column counts, what is marked, the files."""

import csv
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmm.comparison.comparison_options import TableRequest
from pmm.comparison.run_columns import Column
from pmm.comparison.runs_table import make_table, table_as_asked
from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.metrics import hit_rate, ndcg
from pmm.statistics.over_seeds import over_seeds

RNG = np.random.default_rng(4)


def weak(n: int = 500) -> np.ndarray:
    return RNG.integers(1, 90, n)


def strong(n: int = 500) -> np.ndarray:
    return RNG.integers(1, 25, n)


def test_runs_that_differ_in_their_seed_alone_share_a_row(make_run: Any) -> None:
    ranks = [weak() for _ in range(3)]
    runs = [make_run(f"sasrec-seed{k}", each, seed=k) for k, each in enumerate(ranks)]
    runs.append(make_run("faster", weak(), seed=0, train=["lr = 0.01"]))
    runs.append(make_run("again", weak(), seed=0))
    runs.append(make_run("other-data", weak(), seed=4, shards="t" * 64))
    table = make_table(TableRequest(runs=tuple(runs)))
    assert [(row.name, len(row.runs)) for row in table.rows] == [
        ("sasrec", 3),
        ("faster", 1),
        ("again", 1),
        ("other-data", 1),
    ]
    rates = [hit_rate(each, 10) for each in ranks]
    assert table.rows[0].cells[0] == over_seeds(rates)
    shown = table_as_asked(TableRequest(runs=tuple(runs)))
    assert f"{100 * statistics.mean(rates):.2f} ± " in shown
    apart = make_table(TableRequest(runs=tuple(runs), apart=True))
    assert [row.name for row in apart.rows] == [each.name for each in runs]


def test_seeds_of_a_fine_tuning_start_from_seeds_of_the_same_pre_training(make_run: Any) -> None:
    starts = [make_run(f"pre-{k}", None, seed=k, model="unisrec") for k in (0, 1)]
    starts.append(make_run("longer", None, seed=2, model="unisrec", train=["epochs = 99"]))
    runs = [
        make_run(f"tuned-{k}", weak(), seed=k, model="unisrec", stage="finetune", start=start)
        for k, start in enumerate(starts)
    ]
    table = make_table(TableRequest(runs=tuple(runs)))
    assert [len(row.runs) for row in table.rows] == [2, 1]


def test_columns_are_those_of_their_users(make_run: Any) -> None:
    rank, chosen = weak(), strong()
    counts = RNG.integers(0, 20, 500)
    run = make_run("one", rank, counts=counts, chosen=chosen)
    request = TableRequest(
        runs=(run,),
        metrics=("hr@10", "ndcg@20"),
        on=("all", "warm", "cold"),
        popularity=("none", "chosen", "balanced"),
    )
    table = make_table(request)
    found = dict(zip(table.columns, table.rows[0].cells, strict=True))
    assert len(found) == 18
    for on, some in (("all", counts >= 0), ("warm", counts >= 10), ("cold", counts < 10)):
        for share, ranks in (("none", rank), ("chosen", chosen)):
            hr, gain = (found[Column(name, on, share)] for name in ("hr@10", "ndcg@20"))
            assert hr is not None
            assert gain is not None
            assert hr.mean == pytest.approx(hit_rate(ranks[some], 10))
            assert gain.mean == pytest.approx(ndcg(ranks[some], 20))
        assert found[Column("hr@10", on, "balanced")] is None  # what is missing is empty
    assert "HR@10, cold items, chosen alpha" in table_as_asked(request)


def marked(table: Any) -> set[tuple[str, str]]:
    return {(table.rows[r].name, str(table.columns[c])) for r, c in table.best}


def test_the_best_is_marked_only_beyond_noise(make_run: Any) -> None:
    base = weak()
    runs = [make_run("base", base), make_run("good", np.maximum(1, base // 2), model="gru4rec")]
    near = make_run("near", np.maximum(1, base // 2 + RNG.integers(-1, 2, 500)), model="nextitnet")
    table = make_table(TableRequest(runs=tuple(runs)))
    assert marked(table) == {("good", "HR@10"), ("good", "NDCG@10")}
    assert table.tests == 2
    table = make_table(TableRequest(runs=(*runs, near), metrics=("hr@20",)))
    assert marked(table) == set()
    alone = make_table(TableRequest(runs=(runs[0],)))
    assert (marked(alone), alone.tests) == (set(), 0)


def test_runs_on_other_users_are_shown_and_never_marked(make_run: Any) -> None:
    runs = [make_run("a", weak()), make_run("b", strong(400), model="gru4rec")]
    runs.append(make_run("c", weak(60), target="Kwai Food"))
    table = make_table(TableRequest(runs=tuple(runs)))
    assert marked(table) == set()
    text = table_as_asked(TableRequest(runs=tuple(runs)))
    assert re.search(r"c +Kwai Food", text)


def test_marks_of_seeds_are_of_the_users_means(make_run: Any) -> None:
    base = weak()
    runs = [make_run(f"x-{k}", RNG.permutation(base), seed=k) for k in range(2)]
    runs += [make_run(f"y-{k}", strong(), seed=k, model="gru4rec") for k in range(2)]
    table = make_table(TableRequest(runs=tuple(runs)))
    assert [row.name for row in table.rows] == ["x", "y"]
    assert marked(table) == {("y", "HR@10"), ("y", "NDCG@10")}


class Cells(HTMLParser):
    """The texts of a page's cells, and whether one fetches something."""

    def __init__(self) -> None:
        super().__init__()
        self.texts, self.bold, self.links, self._in = list[str](), list[str](), list[str](), ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._in in ("td", "th", "b") and data.strip():
            self.texts.append(data)
            self.bold += [data] if self._in == "b" else []


def test_each_kind_of_file_holds_the_table(make_run: Any, tmp_path: Path) -> None:
    base = weak()
    runs = (make_run("a & <b>", base), make_run("good", np.maximum(1, base // 3), model="gru4rec"))

    def written(ending: str) -> str:
        to = tmp_path / f"table{ending}"
        assert "2 rows" in table_as_asked(TableRequest(runs=runs, metrics=("hr@10",), to=to))
        return to.read_text(encoding="utf-8")

    rate, best = f"{100 * hit_rate(base, 10):.2f}", hit_rate(np.maximum(1, base // 3), 10)
    markdown = written(".md").splitlines()
    assert markdown[2:4] == [f"| a & <b> | {rate} |", f"| good | **{100 * best:.2f}** |"]
    rows = list(csv.DictReader(written(".csv").splitlines()))
    assert [float(row["HR@10"]) for row in rows] == [hit_rate(base, 10), best]
    assert [row["HR@10, best beyond noise"] for row in rows] == ["0", "1"]
    cells = Cells()
    cells.feed(written(".html"))
    assert cells.texts == ["run", "HR@10", "a & <b>", rate, "good", f"{100 * best:.2f}"]
    assert (cells.bold, cells.links) == ([f"{100 * best:.2f}"], [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metrics": ("hit@10",)}, "--metrics hit@10"),
        ({"on": ("colds",)}, 'did you mean "cold"'),
        ({"popularity": ("some",)}, "--popularity some"),
        ({"to": Path("table.xlsx")}, "must end in .md, .csv, .html"),
    ],
)
def test_what_no_table_has_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        TableRequest(runs=(Path("a"),), **options)


def test_what_is_not_there_says_what_makes_it(make_run: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match=r"Run: pmm evaluate .*none$"):
        make_table(TableRequest(runs=(make_run("none", None),)))
    with pytest.raises(MissingArtefact, match=r"Run: pmm evaluate .*one --cold$"):
        make_table(TableRequest(runs=(make_run("one", weak()),), on=("cold-cuts",)))
    both = make_run("both", None)
    sources = 'stage = "pretrain"\nsources = ["HM", "Bili"]\n[model]\nname = "unisrec"\n'
    (both / "recipe.toml").write_text(sources)
    with pytest.raises(InputError, match="say which one with --target"):
        make_table(TableRequest(runs=(both,)))
    with pytest.raises(InputError, match="there is no folder"):
        table_as_asked(TableRequest(runs=(tmp_path,), to=tmp_path / "no" / "table.md"))
