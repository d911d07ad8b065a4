"""`pmm report`: what its tables say is what ranks and logs say; runs are grouped; wrong input."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pmm.cli import main
from pmm.errors import BrokenArtefact, InputError, MissingArtefact
from pmm.evaluate.metrics import summarise
from pmm.report.data_sections import leak_audit
from pmm.report.make_report import make_report
from pmm.report.report_blocks import (
    Chart,
    Command,
    DataTable,
    RunReport,
    Section,
    UserGallery,
    written,
)
from pmm.report.report_request import ReportRequest, write_report
from pmm.report.reported_run import Evaluation, ReportedRun, read_runs
from pmm.report.result_sections import warm_and_cold
from pmm.report.slices import LENGTHS, by_length, history_lengths, repeated_targets
from pmm.report.systems import MEASURES, System
from pmm.runs.train_options import TrainOptions
from pmm.statistics.over_seeds import Spread
from pmm.storage.home import Home
from pmm.storage.schemas import RANKS, SEQUENCES, read_table


@pytest.fixture(scope="module")
def report(reported: Any) -> RunReport:
    places = [(reported.home, each) for each in (reported.first, reported.second, reported.ids)]
    return make_report(read_runs(places, "test"), users=2, split="test", device="cpu")[0]


def section(report: RunReport, title: str) -> Section:
    found = [s for part in report.parts for s in part.sections if s.title == title]
    assert len(found) == 1, title
    return found[0]


def table(report: RunReport, title: str, which: int = 0) -> DataTable:
    blocks = [each for each in section(report, title).blocks if isinstance(each, DataTable)]
    return blocks[which]


def ranks_of(run: Path, name: str = "ranks") -> Any:
    return read_table(run / f"{name}.parquet", RANKS)["rank"].to_numpy()


def literal(rank_U: Any) -> list[float]:
    """HR and NDCG by one loop over users."""
    hits = [100 * sum(r <= k for r in rank_U) / len(rank_U) for k in (10, 20, 50)]
    gains = [sum(100 / np.log2(r + 1) for r in rank_U if r <= k) for k in (10, 20, 50)]
    return [*hits, *(each / len(rank_U) for each in gains)]


def close(cells: Any) -> list[Any]:
    return [pytest.approx(each.mean) for each in cells]


def test_two_seeds_are_one_row_with_the_interval_of_their_mean(
    report: RunReport, reported: Any
) -> None:
    found = table(report, "Results")
    assert found.header[4:] == [name.upper() for name in MEASURES]
    rows = {(row[0], row[1]): row for row in found.rows}
    both = [literal(ranks_of(run)) for run in (reported.first, reported.second)]
    assert both[0] != both[1]
    model, ids = rows["model", "alpha 0"], rows["ids", "alpha 0"]
    assert model[2:4] == [2, len(ranks_of(reported.first))]
    assert close(model[4:]) == [(a + b) / 2 for a, b in zip(*both, strict=True)]
    # Student's t of two values: 12.706 times half of their difference.
    halves = [12.7062 * abs(a - b) / 2 for a, b in zip(*both, strict=True)]
    assert [each.half for each in model[4:]] == pytest.approx(halves, rel=1e-4)
    assert ids[2] == 1
    assert close(ids[4:]) == literal(ranks_of(reported.ids))
    assert all(each.half is None for each in ids[4:])
    chosen = rows["ids", "alpha 0.75 (chosen)"]
    assert close(chosen[4:]) == literal(ranks_of(reported.ids, "ranks-chosen"))
    assert {"popularity", "random"} <= {name for name, _ in rows}


def test_classes_of_users_are_those_of_a_literal_loop(report: RunReport, reported: Any) -> None:
    run = reported.ids
    ranks = read_table(run / "ranks.parquet", RANKS).to_pylist()
    users = read_table(reported.home.target("HM") / "sequences.parquet", SEQUENCES).to_pylist()
    histories = [[*user["train"], user["valid"]] for user in users]
    wanted: dict[tuple[str, str], list[int]] = {}
    for row, user, history in zip(ranks, users, histories, strict=True):
        assert user["test"] == row["target"]
        length = next(n for n, lo, hi in LENGTHS if lo <= len(history) <= (hi or 10**9))
        count = row["train_count"]
        bucket = "0" if not count else "1-4" if count < 5 else "5-9" if count < 10 else "10-49"
        repeat = "repeated" if user["test"] in history else "new"
        for title, name in (
            ("By length of the history", length),
            ("By popularity of the next item", "50+" if count >= 50 else bucket),
            ("New and repeated targets", repeat),
            ("Warm and cold items", "cold" if count < 10 else "warm"),
        ):
            wanted.setdefault((title, name), []).append(row["rank"])
    found = {}
    for title in {title for title, _ in wanted}:
        for first, share, name, n, *cells in table(report, title).rows:
            if (first, share) == ("ids", "alpha 0"):
                found[title, written(name)] = (n, close(cells))
    assert found == {key: (len(ranks), literal(ranks)) for key, ranks in wanted.items()}
    assert {name for _, name in wanted} >= {"1-4", "5-9", "cold", "new", "repeated"}


def test_bounds_of_classes_and_what_is_left_without_the_cold_ones() -> None:
    found = by_length(np.array([1, 4, 5, 9, 10, 19, 20, 49, 50, 999]))
    assert [np.flatnonzero(each).tolist() for each in found.values()] == [
        [2 * k, 2 * k + 1] for k in range(5)
    ]
    rng = np.random.default_rng(5)
    columns = {name: rng.integers(1, 60, 300) for name in ("user", "target", "rank", "candidates")}
    ranks = pa.table({**columns, "train_count": rng.integers(0, 30, 300)}).cast(RANKS.schema)
    metrics = {"model": summarise(ranks), "items": 60}
    evaluation = Evaluation(target="x", metrics=metrics, ranks={"none": ranks})
    about: Any = {"place": Path("r"), "home": Home(Path()), "about": {}, "recipe": {}, "log": []}
    run = ReportedRun(**about, evaluations=[evaluation])
    system = System(name="r", style=0, runs=[(run, evaluation)])
    (made,) = [b for b in warm_and_cold([system]).blocks if isinstance(b, DataTable)]
    warm_U = ranks["train_count"].to_numpy() >= 10
    for row, inside_U in zip(made.rows, (warm_U, ~warm_U), strict=True):
        assert row[3] == inside_U.sum()
        assert close(row[4:]) == literal(columns["rank"][inside_U])


@pytest.mark.parametrize("split", ["test", "valid"])
def test_lengths_and_repeats_of_both_splits(reported: Any, split: Any) -> None:
    sequences = read_table(reported.home.target("HM") / "sequences.parquet", SEQUENCES)
    rows = sequences.to_pylist()
    histories = [row["train"] + ([row["valid"]] if split == "test" else []) for row in rows]
    assert history_lengths(sequences, split).tolist() == [len(each) for each in histories]
    repeats = [row[split] in had for row, had in zip(rows, histories, strict=True)]
    assert repeated_targets(sequences, split).tolist() == repeats


def test_curves_are_those_of_the_logs(report: RunReport) -> None:
    charts = [
        each for each in section(report, "Metrics by epoch").blocks if isinstance(each, Chart)
    ]
    assert [each.title for each in charts] == [
        "HR@10 on the validation items",
        "NDCG@10 on the validation items",
        "HR@10 on the test items",
    ]
    assert [(line.name, [p.y for p in line.points]) for line in charts[2].lines] == [
        (name, [pytest.approx(9.0)]) for name in ("model-seed-0", "model-seed-1", "ids")
    ]
    names = ["model-seed-0", "model-seed-1", "ids"]
    assert [line.name for line in charts[0].lines] == names
    assert [line.style for line in charts[0].lines] == [0, 0, 1]
    points = [(point.x, point.y) for point in charts[1].lines[2].points]
    assert points == [(0.0, 4.0), (1.0, 11.0), (2.0, 16.0)]
    assert charts[1].lines[2].points[1].said == "ids: epoch 1, NDCG@10 11.00"


def test_only_what_differs_in_the_recipes_is_listed(report: RunReport) -> None:
    rows = {row[0]: row[1:] for row in table(report, "Differences of the recipes").rows}
    assert rows["train.seed"] == ["0", "1", "0"]
    assert rows["model.name"] == ["pmmrec", "pmmrec", "sasrec"]
    assert "train.lr" not in rows
    assert "target" not in rows
    assert all(len(set(values)) > 1 for values in rows.values())
    some = {row[0]: row[1:] for row in table(report, "Differences of the recipes", 1).rows}
    assert all("-" in values for values in some.values())
    assert some["model.modality"][2] == "-"
    assert not rows.keys() & some.keys()


def test_time_is_counted_from_the_log(report: RunReport) -> None:
    found = table(report, "Time and hardware")
    row = dict(zip(found.header, found.rows[0], strict=True))
    assert row["Steps"] == 20
    assert row["Parameters"] == 123_456
    seconds = 20 * TrainOptions().batch_users / 100  # two records of ten steps, at 100 users/s
    assert row["Training, min"] == pytest.approx(seconds / 60)
    assert row["Validation, min"] == pytest.approx(4.5 / 60)
    assert row["Waiting, %"] == pytest.approx(25)


def test_galleries_show_the_best_and_the_worst_users(report: RunReport, reported: Any) -> None:
    blocks = section(report, "Best and worst users").blocks
    galleries = [each for each in blocks if isinstance(each, UserGallery)]
    assert len(galleries) == 2  # of two seeds the first
    rank_U = ranks_of(reported.first)
    shown = [
        [int(re.search(r"rank ([\d,]+) of", row.heading)[1].replace(",", "")) for row in rows]  # type: ignore[index]
        for rows in (galleries[0].best, galleries[0].worst)
    ]
    assert shown == [sorted(rank_U)[:2], sorted(rank_U)[::-1][:2]]
    for row in (*galleries[0].best, *galleries[0].worst):
        rank = int(re.search(r"rank ([\d,]+) of", row.heading)[1])  # type: ignore[index]
        hits = [tile.hit for tile in row.recommended]
        assert len(hits) == 5
        assert hits == [place == rank for place in range(1, 6)]
        assert 1 <= len(row.history) <= 5
    assert any(tile.jpeg for row in galleries[0].best for tile in row.history)


def test_a_gallery_that_cannot_be_made_is_said_and_the_rest_is_there(
    reported: Any, tmp_path: Path
) -> None:
    place = tmp_path / "no-weights"
    shutil.copytree(reported.ids, place)
    shutil.rmtree(place / "checkpoint")
    found, _ = make_report(
        read_runs([(reported.home, place)], "test"), users=1, split="test", device="cpu"
    )
    (gallery,) = (
        each
        for each in section(found, "Best and worst users").blocks
        if isinstance(each, UserGallery)
    )
    assert "has no evaluated weights yet. Run: pmm train" in gallery.note
    assert (gallery.best, gallery.worst) == ((), ())
    assert table(found, "Results").rows


def test_targets_stand_apart_and_so_do_other_users_of_the_same_target(
    reported: Any, tmp_path: Path
) -> None:
    import json

    from pmm.storage.seal import SEALS

    other, anew = tmp_path / "other", tmp_path / "anew"
    for place in (other, anew):
        shutil.copytree(reported.ids, place, ignore=shutil.ignore_patterns(SEALS))
    for place, changes in ((other, {"target": "Shop 2"}), (anew, {"items": 29})):
        metrics = json.loads((place / "metrics.json").read_text())
        (place / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    places = [(reported.home, each) for each in (reported.ids, other, anew)]
    found, targets = make_report(read_runs(places, "test"), users=0, split="test")
    titles = ["HM", "Shop 2", "HM, version 2 of its data", "The runs"]
    assert [part.title for part in found.parts] == titles
    assert targets == 3
    lengths = [s for s in found.parts[1].sections if s.title == "By length of the history"]
    assert "The tables of Shop 2 are not there" in str(lengths[0].blocks[0])


def test_an_audit_is_made_where_it_is_asked_for_and_named_where_not(
    report: RunReport, reported: Any, tmp_path: Path
) -> None:
    asked = section(report, "Leaks").blocks
    assert isinstance(asked[1], Command)
    assert asked[1].text.startswith("pmm audit HM")
    elsewhere = read_runs([(Home(tmp_path), reported.ids)], "test")
    without, _ = make_report(elsewhere, users=0, split="test", audit=True)
    assert "HM cannot be audited: " in str(section(without, "Leaks").blocks[0])
    rows = [f"u{u},i{(u + k) % 9},{100 * u + k}" for u in range(12) for k in range(6)]
    (tmp_path / "taken.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    columns = ["--columns", "user,item,timestamp"]
    taken = ["--interactions", str(tmp_path / "taken.csv"), *columns, "--missing-image", "keep"]
    with pytest.raises(SystemExit) as ended:
        main(["ingest", "csv", "--name", "tiny", *taken, "--home", str(tmp_path / "home")])
    assert ended.value.code == 0
    found = leak_audit(Home(tmp_path / "home"), "tiny", asked=True)
    assert isinstance(found.blocks[0], DataTable)
    verdicts = {str(row[0]): row[1] for row in found.blocks[0].rows}
    assert {"later in time", "repeats", "pictures"} <= verdicts.keys()
    assert set(verdicts.values()) <= {"look at this", "to know", "fine", "not known"}
    assert verdicts["pictures"] == "not known"


# --- The command.


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return int(str(ended.value.code))


def test_the_same_runs_give_the_same_bytes(
    reported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, home = [reported.first, reported.ids], ["--home", reported.home.root]
    for name in ("a.html", "b.html", "a.md"):
        assert run(*runs, *home, "--users", "1", "--to", tmp_path / name) == 0
    said = capsys.readouterr().out
    assert "2 runs on 1 target, 0." in said
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.html", "a.md", "b.html"]


def test_a_run_given_twice_counts_once(reported: Any) -> None:
    assert len(read_runs([(reported.home, reported.ids)] * 2, "test")) == 1


def test_runs_that_were_not_evaluated_are_all_named_with_the_command(
    reported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        shutil.copytree(reported.ids, tmp_path / name)
        for path in (*(tmp_path / name).glob("metrics*"), *(tmp_path / name).glob("ranks*")):
            path.unlink()
    to = ["--to", tmp_path / "page.html", "--home", reported.home.root]
    assert run(tmp_path / "one", reported.ids, tmp_path / "two", *to) == 1
    said = capsys.readouterr().err
    home = shlex.quote(str(reported.home.root))
    for name in ("one", "two"):
        place = tmp_path / name
        assert f"{place} has not been evaluated. Run: pmm evaluate {place} --home {home}" in said
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(
        MissingArtefact, match=r"evaluated on its valid items\. Run: .*--split valid"
    ):
        read_runs([(reported.home, reported.ids)], "valid")


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("page.pdf", "--to page.pdf must end in .html or .md. Run: pmm report first --to "),
        ("page", "must end in .html or .md"),
        (".", "is a folder: name the file. Run: pmm report first --to "),
        ("nowhere/page.html", "there is no folder"),
    ],
)
def test_another_file_than_a_page_is_refused(
    to: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        write_report(ReportRequest((Path("first"),), to=Path(to)))


def test_a_number_of_users_that_no_page_holds_is_refused() -> None:
    with pytest.raises(InputError, match="--users must be from 0 to 20, found 21"):
        ReportRequest((Path("first"),), to=Path("page.html"), users=21)


def test_ranks_that_do_not_belong_to_the_metrics_are_refused(reported: Any, tmp_path: Path) -> None:
    from pmm.storage.seal import SEALS

    place = tmp_path / "mixed"
    shutil.copytree(reported.second, place, ignore=shutil.ignore_patterns(SEALS))
    shutil.copy(reported.ids / "ranks.parquet", place / "ranks.parquet")
    with pytest.raises(BrokenArtefact, match=r"made of other ranks than ranks.parquet. Run: pmm"):
        read_runs([(reported.home, place)], "test")


def test_the_spread_of_one_seed_is_shown_without_an_interval() -> None:
    assert written(Spread(mean=1.5, half=None, n=1)) == "1.50"
