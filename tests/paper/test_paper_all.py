"""`pmm paper all` on the tiny embedded world: plan, runs, reports; what was changed is found."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmm.paper.reporting.pages import html_page
from pmm.paper.reporting.verify_report import read_facts, verify
from pmm.storage.home import Home

ASKED = ("all", "--models", "pmmrec,sasrec")


@pytest.fixture(scope="session")  # its home is the session's: made again, all would be there
def made(small: list[str], pmm: Any, tmp_path_factory: Any) -> Path:
    """A folder with the report of everything, in all forms."""
    planned = pmm("paper", "plan", *ASKED, *small, "--no-measure").stdout
    count, to_do = map(int, re.findall(r"(\d+) runs, (\d+) of them to do", planned)[0])
    assert count == to_do > 25
    pmm("paper", "run", *ASKED, *small, "--jobs", 2)
    assert f"{count} runs, 0 of them to do" in pmm("paper", "plan", *ASKED, *small).stdout
    folder: Path = tmp_path_factory.mktemp("reports")
    to = [word for ending in ("html", "md", "csv") for word in ("--to", folder / f"r.{ending}")]
    pmm("paper", "report", *ASKED, *small, *to)
    return folder


def test_every_cell_has_its_run_and_the_papers_figure(made: Path) -> None:
    _, facts = read_facts(made / "r.html")
    assert [table["name"] for table in facts["tables"]] == [
        *(f"table{number}" for number in range(2, 9)),
        "figure3",
    ]
    for table in facts["tables"]:
        assert table["cells"], table["name"]
        assert all(cell["found"] for cell in table["cells"]), table["name"]
    cells = [cell for table in facts["tables"] for cell in table["cells"]]
    of = {(c["id"].split("-")[0], c["metric"], c["column"]): c for c in cells}
    assert of["table3", "ndcg@50", "PMMRec"]["paper"] == 11.83
    assert of["table4", "hr@10", "PMMRec w/o PT, all objectives"]["paper"] == 14.30
    assert of["table5", "hr@10", "w. PT-I"]["paper"] == 17.54
    assert of["table6", "hr@10", "HM"]["paper"] == 18.74
    assert of["table7", "hr@10", "both"]["paper"] == 2.0387
    assert of["table7", "hr@10", "both, held out"]["paper"] is None
    assert of["table8", "ndcg@10", "only NCL"]["paper"] == 7.01


def test_the_figures_are_those_of_the_evaluations(made: Path, paper_home: Home) -> None:
    _, facts = read_facts(made / "r.md")
    for table in facts["tables"]:
        if table["kind"] != "ranks":
            continue
        for cell in table["cells"]:
            (file,) = cell["files"]
            path = paper_home.root / file["path"]
            metrics = json.loads((path.parent / "metrics.json").read_text())
            expected = {
                "ranks.parquet": lambda m=metrics: m["model"],
                "ranks-chosen.parquet": lambda m=metrics: m["popularity_mix"]["chosen"],
                "ranks-cold.parquet": lambda m=metrics: m["cold_start"]["held_out"]["model"],
                "ranks-cold-all.parquet": lambda m=metrics: m["cold_start"]["all"]["model"],
            }[path.name]()
            assert cell["found"]["mean"] == pytest.approx(expected[cell["metric"]], abs=1e-12)


def test_what_decides_a_run_stands_in_its_recipe(made: Path, paper_home: Home) -> None:
    _, facts = read_facts(made / "r.html")
    cells = {(c["id"].split("-")[0], c["column"]): c for t in facts["tables"] for c in t["cells"]}

    def recipe(table: str, column: str) -> str:
        return (paper_home.run(cells[table, column]["files"][0]["run"]) / "recipe.toml").read_text()

    def of_start(table: str, column: str) -> str:
        start = re.search(r'run = "(.*)"', recipe(table, column))
        assert start
        return (Path(start[1]) / "recipe.toml").read_text()

    assert 'family = "icl"' in of_start("table8", "only NCL")
    assert "nid = 0.0" in of_start("table8", "w/o NID")
    assert "nid = 1.0" in of_start("table8", "all")
    assert 'transfer = "user"' in recipe("table5", "w. PT-U")
    assert 'modality = "vision"' in recipe("table7", "V")
    assert 'loss = "full"' in recipe("table4", "SASRec, full softmax")
    assert "patience = 0" in recipe("figure3", "w. PT")
    assert "width = 16" in recipe("table4", "SASRec")


def test_fig_3_begins_before_the_first_step_and_has_test_items(made: Path) -> None:
    _, facts = read_facts(made / "r.html")
    curves = facts["tables"][-1]["curves"]
    assert {curve["column"] for curve in curves} == {"w/o PT", "w. PT-I", "w. PT-U", "w. PT"}
    assert all(curve["points"][0][0] == 0 for curve in curves)
    assert all(test is not None for curve in curves for _, _, test in curve["points"])


@pytest.mark.usefixtures("made")
def test_a_row_has_what_somebody_needs_to_make_it_again(paper_home: Home) -> None:
    lines = (paper_home.root / "paper" / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["run"] for row in rows}) == len(rows)
    for row in rows:
        assert row["command"].startswith("pmm train --stage")
        assert str(paper_home.root) not in json.dumps(row)
        assert row["hardware"]["cores"] >= 1
        assert row["cpu_seconds"] > 0
        assert row["data"]
        if row["dataset"]:
            assert {"none", "cold, held_out", "cold, all"} <= row["metrics"].keys()
            assert "ranks.parquet" in row["ranks"]


def test_a_report_is_checked_from_its_files_alone(made: Path, paper_home: Home, pmm: Any) -> None:
    for name in ("r.html", "r.md"):
        cells, faults = verify(paper_home, made / name)
        assert (cells > 60, faults) == (True, [])
    said = pmm("paper", "verify", made / "r.html", "--home", paper_home.root).stdout
    assert re.fullmatch(r"\d+ cells are as their files say\.\n", said)


def change_value(facts: dict[str, Any]) -> None:
    facts["tables"][1]["cells"][0]["found"]["mean"] += 0.001


def change_test(facts: dict[str, Any]) -> None:
    cell = next(c for c in facts["tables"][3]["cells"] if "test" in c["found"])
    cell["found"]["test"]["holm"] /= 2


def make_bold(facts: dict[str, Any]) -> None:
    cell = next(c for c in facts["tables"][2]["cells"] if not c["found"].get("bold"))
    cell["found"]["bold"] = True


def change_paper(facts: dict[str, Any]) -> None:
    facts["tables"][1]["cells"][0]["paper"] = 99.0


def change_statistics(facts: dict[str, Any]) -> None:
    facts["tables"][0]["cells"][0]["found"]["mean"] += 1


def change_curve(facts: dict[str, Any]) -> None:
    facts["tables"][-1]["curves"][0]["points"][0][1] += 0.01


@pytest.mark.parametrize(
    "change",
    [change_value, change_test, make_bold, change_paper, change_statistics, change_curve],
)
def test_a_changed_report_is_found(
    made: Path, paper_home: Home, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    _, facts = read_facts(made / "r.html")
    change(facts)
    (tmp_path / "r.html").write_text(html_page(facts), encoding="utf-8")
    assert verify(paper_home, tmp_path / "r.html")[1]


@pytest.mark.parametrize("ending", ["html", "md"])
def test_a_cell_that_only_shows_something_else_is_found(
    made: Path, paper_home: Home, tmp_path: Path, ending: str, pmm: Any
) -> None:
    text, facts = read_facts(made / f"r.{ending}")
    cell = facts["tables"][3]["cells"][2]
    shown = f"{100 * cell['found']['mean']:.2f}"
    row = re.search(rf'<td id="{cell["id"]}".*?</td>|\| [^|]*<!--{cell["id"]}-->', text)
    assert row
    changed = text.replace(row[0], row[0].replace(shown, "77.77"))
    assert changed != text
    (tmp_path / f"r.{ending}").write_text(changed, encoding="utf-8")
    home = ("--home", paper_home.root)
    said = pmm("paper", "verify", tmp_path / f"r.{ending}", *home, status=1).stdout
    assert "77.77" in said
    assert "1 faults" in said


def test_changed_and_missing_ranks_are_found(made: Path, paper_home: Home, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(paper_home.root / "runs", home.root / "runs")
    shutil.copytree(paper_home.root / "targets", home.root / "targets")
    assert verify(home, made / "r.html")[1] == []
    _, facts = read_facts(made / "r.html")
    path = home.root / facts["tables"][1]["cells"][0]["files"][0]["path"]
    table = pq.read_table(path)
    rank_U = table["rank"].to_numpy().copy()
    rank_U[np.argmax(rank_U)] = 1
    place = table.schema.get_field_index("rank")
    changed = table.set_column(place, "rank", pa.array(rank_U, pa.int32()))
    pq.write_table(changed.cast(table.schema), path)
    faults = verify(home, made / "r.html")[1]
    assert any("other bytes" in fault for fault in faults)
    assert any("mean" in fault for fault in faults)
    path.unlink()
    assert any("is not there" in fault for fault in verify(home, made / "r.html")[1])


def test_the_page_asks_no_other_host_and_is_csv_too(made: Path) -> None:
    text = (made / "r.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "http" not in text.replace("http-equiv", "")
    lines = (made / "r.csv").read_text(encoding="utf-8").splitlines()
    _, facts = read_facts(made / "r.html")
    assert len(lines) == 1 + sum(len(table["cells"]) for table in facts["tables"])


@pytest.mark.usefixtures("made")
def test_what_is_missing_is_empty(small: list[str], pmm: Any) -> None:
    asked = ("table4", "--models", "pmmrec,sasrec,unisrec", "--seeds", 2)
    text = pmm("paper", "report", *asked, *small).stdout
    row = next(line for line in text.splitlines() if line.startswith("| HM Shoes, HR@10"))
    cells = [re.sub(r"<!--.*?-->", "", cell).strip() for cell in row.split(" | ")]
    assert cells[2] == "<br>9.22<br>"
    assert "±" not in row
