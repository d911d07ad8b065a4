"""Figures of cells, against sums by hand and another implementation of the tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.paper.reporting.cells import CellFiles, fill
from pmm.paper.reporting.former_rows import former_rows
from pmm.paper.reporting.verify_report import read_facts
from pmm.storage.schemas import RANKS

CLAIMS = Path(__file__).parents[2] / "benchmarks"


def ranks(root: Path, name: str, rank_Q: Any, user_Q: Any = None) -> dict[str, str]:
    user_Q = np.arange(len(rank_Q)) if user_Q is None else user_Q
    columns = {"user": user_Q, "target": rank_Q, "rank": rank_Q}
    columns |= {"candidates": np.full(len(rank_Q), 99), "train_count": rank_Q}
    pq.write_table(pa.table(columns).cast(RANKS.schema), root / name)
    return {"run": name, "path": name, "sha256": ""}


def filled(root: Path, columns: dict[str, list[dict[str, str]]], against: str = "") -> Any:
    cells = [
        {"dataset": "d", "metric": "hr@10", "column": key, "files": files, "paper": None}
        | {"against": against if key != against else ""}
        for key, files in columns.items()
    ]
    table = {"kind": "ranks", "datasets": ["d"], "metrics": ["hr@10"], "cells": cells}
    table |= {"columns": [{"key": key, "ranked": "test"} for key in columns]}
    table |= {"ours": "", "rivals": []}
    fill(table, CellFiles(root))
    return {cell["column"]: cell["found"] for cell in cells}


def test_mean_and_interval_over_seeds(tmp_path: Path) -> None:
    hits = (20, 30, 40)
    files = [ranks(tmp_path, f"{n}.parquet", np.where(np.arange(100) < n, 1, 50)) for n in hits]
    found = filled(tmp_path, {"one": files})["one"]
    assert found["mean"] == pytest.approx(0.3)
    assert found["half"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_only_a_lead_beyond_noise_is_bold(tmp_path: Path) -> None:
    good = ranks(tmp_path, "good.parquet", np.where(np.arange(400) < 300, 1, 50))
    poor = ranks(tmp_path, "poor.parquet", np.where(np.arange(400) < 100, 1, 50))
    near = ranks(tmp_path, "near.parquet", np.where(np.arange(400) < 299, 1, 50))
    found = filled(tmp_path, {"good": [good], "poor": [poor]}, against="poor")
    assert found["good"]["bold"]
    assert found["good"]["test"]["difference"] == pytest.approx(0.5)
    found = filled(tmp_path, {"good": [good], "near": [near], "poor": [poor]}, against="poor")
    assert not any(each.get("bold") for each in found.values())


def test_the_p_values_are_corrected_for_all_tests_of_the_table(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    drawn = {name: rng.integers(1, 30, 300) for name in "abc"}
    drawn["b"] = np.where(rng.random(300) < 0.2, 1, drawn["a"])
    files = {name: [ranks(tmp_path, f"{name}.parquet", rank)] for name, rank in drawn.items()}
    found = filled(tmp_path, files, against="a")
    hit = {name: (rank <= 10).astype(float) for name, rank in drawn.items()}
    for name in "bc":
        expected = stats.wilcoxon(hit[name] - hit["a"], correction=False, method="approx").pvalue
        test = found[name]["test"]
        assert test["p"] == pytest.approx(expected, rel=1e-6)
        assert test["holm"] >= test["p"]
    best = max(found.values(), key=lambda each: each["mean"])
    every = sorted([found["b"]["test"]["p"], found["c"]["test"]["p"], best["lead"]["p"]])
    assert min(found[name]["test"]["holm"] for name in "bc") >= every[0]
    smallest = min([found["b"]["test"], found["c"]["test"], best["lead"]], key=lambda t: t["p"])
    assert smallest["holm"] == pytest.approx(min(1.0, 3 * smallest["p"]))


def test_a_user_with_several_cuts_counts_once_in_a_test(tmp_path: Path) -> None:
    user_Q = np.repeat(np.arange(20), 50)
    one = ranks(tmp_path, "one.parquet", np.where(user_Q < 10, 1, 50), user_Q)
    two = ranks(tmp_path, "two.parquet", np.where(user_Q < 6, 1, 50), user_Q)
    found = filled(tmp_path, {"one": [one], "two": [two]}, against="two")
    assert found["one"]["mean"] == pytest.approx(0.5)
    assert found["one"]["test"]["p"] > 0.01  # four users differ, not two hundred questions


def test_runs_on_other_users_are_not_tested_against_each_other(tmp_path: Path) -> None:
    one = ranks(tmp_path, "one.parquet", np.ones(50, int))
    two = ranks(tmp_path, "two.parquet", np.full(60, 50))
    found = filled(tmp_path, {"one": [one], "two": [two]}, against="two")
    assert "test" not in found["one"]
    assert not found["one"].get("bold")


@pytest.mark.parametrize("content", ["", "no facts", "pmm-paper-facts:{]:end-of-facts"])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.html").write_text(content)
    with pytest.raises(InputError, match=r"no report of the paper.s tables"):
        read_facts(tmp_path / "r.html")
    with pytest.raises(InputError, match="cannot be read"):
        read_facts(tmp_path / "absent.html")


def test_rows_of_former_campaigns_are_read(tmp_path: Path) -> None:
    for name in ("claims.jsonl", "claims_of_former_defaults.jsonl", "hm_systems.jsonl"):
        rows = former_rows(CLAIMS / name)
        assert len(rows) > 5, name
        assert all(len(row) == 6 for row in rows)
    lines = [
        {"seed": n, "run": "hm-shoes-full", "target": "HM Shoes", "test": {"hr@10": value}}
        for n, value in enumerate((0.2, 0.3, 0.4))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert former_rows(path) == [["HM Shoes", "hm-shoes-full", "3", "30.00 ± 24.84", "", ""]]
    path.write_text("[]\n")
    with pytest.raises(InputError, match=r"rows.jsonl:1 is no row"):
        former_rows(path)
