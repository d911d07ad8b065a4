"""Many runs against one and against the strongest floor: the tests of each, corrected together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmm.cli import main
from pmm.comparison.comparison_options import CompareManyRequest
from pmm.comparison.many_runs import compare_many, many_lines, mark
from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.compare import compare_ranks, compare_runs, comparison_table
from pmm.statistics.holm import holm

RNG = np.random.default_rng(3)
WEAK, SAME, STRONG = RNG.integers(1, 120, 400), RNG.integers(1, 120, 400), RNG.integers(1, 30, 400)


def request(*runs: Path, **options: Any) -> CompareManyRequest:
    return CompareManyRequest(runs=runs, **options)


def test_differences_are_those_of_two_and_p_values_those_of_all(make_run: Any) -> None:
    runs = [make_run("weak", WEAK), make_run("same", SAME), make_run("strong", STRONG)]
    (found,) = compare_many(request(*runs, metrics=("hr@10", "ndcg@50")))
    p_values = []
    for name, ranks in (("same", SAME), ("strong", STRONG)):
        two = {each.name: each for each in compare_ranks(WEAK, ranks)}
        for each, metric in zip(found.runs.rows[name], ("hr@10", "ndcg@50"), strict=True):
            wanted = two[metric]
            assert (each.first, each.second) == (wanted.first, wanted.second)
            assert (each.low, each.high) == (wanted.low, wanted.high)
            p_values.append(wanted.p or 0)
    assert found.floor is not None  # the strong run, as all three are of SASRec
    assert found.floor.reference == "strong"
    for ranks in (WEAK, SAME):
        two = {each.name: each for each in compare_ranks(STRONG, ranks)}
        p_values += [two[metric].p or 0 for metric in ("hr@10", "ndcg@50")]
    rows = [*found.runs.rows.values(), *found.floor.rows.values()]
    assert [each.p for row in rows for each in row] == pytest.approx(holm(p_values))


def test_only_what_is_beyond_noise_is_marked_however_many_are_shown(make_run: Any) -> None:
    """Of a dozen runs without any difference one would be marked if it were looked at alone."""
    rng = np.random.default_rng(6)
    reference = rng.integers(1, 40, 300)
    others = [rng.integers(1, 40, 300) for _ in range(12)]
    raw = [compare_ranks(reference, each, draws=2_000)[0].p or 0 for each in others]
    assert min(raw) < 0.05
    runs = [make_run("first", reference, model="gru4rec")]
    runs += [make_run(f"n{k}", each, model="gru4rec") for k, each in enumerate(others)]
    runs.append(make_run("good", np.maximum(1, reference // 3), model="gru4rec"))
    (found,) = compare_many(request(*runs, metrics=("hr@10",)))
    assert [name for name, row in found.runs.rows.items() if mark(row[0])] == ["good"]
    text = "\n".join(many_lines([found], "test"))
    assert text.count("*") == 2  # and the note
    assert "13 differences" in text


def test_the_reference_is_the_first_or_the_one_that_is_named(make_run: Any) -> None:
    runs = [make_run("weak", WEAK), make_run("same", SAME), make_run("strong", STRONG)]
    assert compare_many(request(*runs))[0].runs.reference == "weak"
    (found,) = compare_many(request(*runs, against=runs[2]))
    assert (found.runs.reference, list(found.runs.rows)) == ("strong", ["weak", "same"])
    (found,) = compare_many(request(*runs[:2], against=runs[2]))
    assert (found.runs.reference, list(found.runs.rows)) == ("strong", ["weak", "same"])
    assert found.floor is None  # the strongest floor is the reference
    assert "It is the reference above." in many_lines([found], "test")


def test_two_runs_are_shown_as_ever(make_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    weak, strong = make_run("weak", WEAK), make_run("strong", STRONG)
    wanted = comparison_table("weak", "strong", compare_runs(weak, strong))
    for typed in ([weak, strong], [strong, "--against", weak]):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *map(str, typed)])
        assert ended.value.code == 0
        assert capsys.readouterr().out.rstrip("\n") == wanted
    with pytest.raises(SystemExit):
        main(["compare", str(weak), str(strong), "--metrics", "hr@20"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_runs_are_grouped_by_target_and_one_alone_is_refused(make_run: Any) -> None:
    runs = [make_run(f"a{k}", each) for k, each in enumerate((WEAK, STRONG))]
    runs += [
        make_run(f"b{k}", each[:50], target="Kwai Food") for k, each in enumerate((SAME, WEAK))
    ]
    found = compare_many(request(*runs))
    assert [(each.target, each.users, each.runs.reference) for each in found] == [
        ("HM", 400, "a0"),
        ("Kwai Food", 50, "b0"),
    ]
    with pytest.raises(InputError, match=r"b0 is the only run on Kwai Food.*pmm table a0 a1 b0"):
        compare_many(request(*runs[:3]))
    with pytest.raises(InputError, match="several targets"):
        compare_many(request(*runs, against=runs[0]))


def test_what_cannot_be_compared_is_refused(make_run: Any) -> None:
    one, other = make_run("one", WEAK), make_run("other", SAME)
    with pytest.raises(InputError, match="at least two runs"):
        compare_many(request(one))
    with pytest.raises(InputError, match="named twice"):
        compare_many(request(one, other, one))
    with pytest.raises(InputError, match="different splits"):
        compare_many(request(one, other, make_run("fewer", WEAK[:-1])))
    with pytest.raises(MissingArtefact, match=r"Run: pmm evaluate .*none$"):
        compare_many(request(one, other, make_run("none", None)))
    with pytest.raises(InputError, match='did you mean "hr@10"'):
        request(one, other, metrics=("hr@11",))


def test_floors_are_ranked_again_and_the_strongest_is_named(
    make_run: Any, users: int, floor_metrics: dict[str, Any], home_of_shop: Any
) -> None:
    def run(name: str, ranks: np.ndarray, **how: Any) -> Path:
        place: Path = make_run(name, ranks, home=home_of_shop.root, model="gru4rec", **how)
        return place

    runs = [
        run("f1", np.full(users, 12)),
        run("f2", np.full(users, 1)),
        run("f3", np.full(users, 3)),
    ]
    (found,) = compare_many(request(*runs))
    assert [each.name for each in found.floors] == ["popularity"]
    popularity = floor_metrics["popularity"]
    assert found.floors[0].rates["hr@10"] == popularity["hr@10"]
    known = run("f4", np.full(users, 2), metrics=floor_metrics)
    (found,) = compare_many(request(*runs, known))
    assert {each.name for each in found.floors} == {"popularity", "item kNN"}
    for each in found.floors:
        assert each.rates["ndcg@20"] == pytest.approx(floor_metrics[each.name]["ndcg@20"])
    strongest = max(floor_metrics, key=lambda name: floor_metrics[name]["hr@10"])
    assert found.floors[0].rates["hr@10"] == floor_metrics[strongest]["hr@10"]
    assert found.floor is not None
    assert list(found.floor.rows) == ["f1", "f2", "f3", "f4"]
    assert found.floor.rows["f2"][0].p is not None
    assert "Strongest floor: " in "\n".join(many_lines([found], "test"))


def test_without_shards_a_floor_is_what_was_measured_and_has_no_test(
    make_run: Any, floor_metrics: dict[str, Any]
) -> None:
    told = {"popularity": {**floor_metrics["popularity"], "hr@10": 0.125}}
    runs = [
        make_run(f"g{k}", each, model="gru4rec", metrics=told)
        for k, each in enumerate((WEAK, SAME, STRONG))
    ]
    (found,) = compare_many(request(*runs))
    assert found.floors[0].rank_Q is None
    assert found.floor is not None
    (hr, _) = found.floor.rows["g2"]
    assert (hr.first, hr.second, hr.p) == (0.125, (STRONG <= 10).mean(), None)
    assert "shards of that target are not there" in "\n".join(many_lines([found], "test"))
