"""The evaluations of runs over one another: a picture of any kind, and rows."""

import csv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pmm.comparison.comparison_options import CurvesRequest
from pmm.comparison.overlay import overlay_as_asked
from pmm.errors import BrokenArtefact, InputError, MissingArtefact
from pmm.runs.folder import Log


def logged(make_run: Any, name: str, rates: list[float], *, test: bool = False) -> Path:
    place: Path = make_run(name, None)
    log = Log(place / "log.jsonl", 0)
    log.write({"kind": "step", "step": 1, "loss": 3.0})
    for epoch, rate in enumerate(rates):
        record = {"kind": "evaluation", "step": 10 * epoch, "epoch": epoch}
        record |= {f"{kind}@{k}": rate for kind in ("hr", "ndcg") for k in (10, 20, 50)}
        log.write(record | ({"test_hr@10": rate / 2} if test else {}))
    log.close()
    return place


def test_rows_are_those_of_the_logs(make_run: Any, tmp_path: Path) -> None:
    runs = (logged(make_run, "a", [0.1, 0.2]), logged(make_run, "b", [0.3, 0.4], test=True))
    assert "2 runs, 4 evaluations" in overlay_as_asked(
        CurvesRequest(runs=runs, to=tmp_path / "curves.csv")
    )
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    found = [(row["run"], float(row["epoch"]), row["items"], row["hr@10"]) for row in rows]
    assert found == [
        ("a", 0, "valid", "0.1"),
        ("a", 1, "valid", "0.2"),
        ("b", 0, "valid", "0.3"),
        ("b", 0, "test", "0.15"),
        ("b", 1, "valid", "0.4"),
        ("b", 1, "test", "0.2"),
    ]
    assert rows[3]["ndcg@10"] == ""


def test_a_picture_shows_every_run_and_is_the_same_each_time(make_run: Any, tmp_path: Path) -> None:
    runs = (logged(make_run, "first & best", [0.1, 0.2]), logged(make_run, "b", [0.3], test=True))
    texts = []
    for name in ("one.svg", "two.svg"):
        overlay_as_asked(CurvesRequest(runs=runs, to=tmp_path / name, metric="ndcg@20"))
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    for shown in ("first &amp; best", "NDCG@20", "epoch"):
        assert shown in texts[0]
    assert "test items" not in texts[0]  # of NDCG@20 nothing was recorded
    for options, wanted in (({}, True), ({"test": False}, False)):
        overlay_as_asked(CurvesRequest(runs=runs, to=tmp_path / "hr.svg", **options))
        assert ("b, test items" in (tmp_path / "hr.svg").read_text()) == wanted
    overlay_as_asked(CurvesRequest(runs=runs, to=tmp_path / "curves.png"))
    with Image.open(tmp_path / "curves.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (720, 504))


def test_what_has_no_curve_is_refused(make_run: Any, tmp_path: Path) -> None:
    to = tmp_path / "curves.png"
    with pytest.raises(MissingArtefact, match=r"has no log\.jsonl.*Run: pmm train"):
        overlay_as_asked(CurvesRequest(runs=(make_run("none", None),), to=to))
    with pytest.raises(InputError, match="not been evaluated while it trained"):
        overlay_as_asked(CurvesRequest(runs=(logged(make_run, "young", []),), to=to))
    damaged = logged(make_run, "damaged", [0.1])
    (damaged / "log.jsonl").write_text("{no\n")
    with pytest.raises(BrokenArtefact, match="damaged"):
        overlay_as_asked(CurvesRequest(runs=(damaged,), to=to))
    with pytest.raises(InputError, match=r"must end in \.png, \.svg, \.csv"):
        CurvesRequest(runs=(damaged,), to=tmp_path / "curves.pdf")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        overlay_as_asked(CurvesRequest(runs=(damaged,), to=tmp_path / "folder.png"))
    assert not to.exists()
