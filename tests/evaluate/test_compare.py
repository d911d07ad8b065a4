"""The paired bootstrap of two rankings against a literal one, and its refusals."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.compare import compare_ranks, compare_runs, comparison_table
from pmm.evaluate.metrics import hit_rate, ndcg
from pmm.storage.schemas import RANKS, write_table

RNG = np.random.default_rng(0)
ONE, OTHER = RNG.integers(1, 200, 400), RNG.integers(1, 60, 400)


def write_ranks(folder: Path, rank: np.ndarray, *, target: int = 1) -> Path:
    folder.mkdir()
    n = len(rank)
    columns = {
        "user": np.arange(n),
        "target": np.full(n, target),
        "rank": rank,
        "candidates": np.full(n, 200),
        "train_count": np.full(n, 5),
    }
    table = pa.table({k: pa.array(v.astype(np.int32)) for k, v in columns.items()})
    write_table(folder / "ranks.parquet", table, RANKS)
    return folder


def test_values_are_those_of_the_metrics() -> None:
    found = {each.name: each for each in compare_ranks(ONE, OTHER, draws=10)}
    for k in (10, 20, 50):
        assert found[f"hr@{k}"].first == pytest.approx(hit_rate(ONE, k))
        assert found[f"ndcg@{k}"].second == pytest.approx(ndcg(OTHER, k))


def test_intervals_are_those_of_drawing_users_one_by_one() -> None:
    found = compare_ranks(ONE, OTHER, draws=20_000)[0]
    gain = (OTHER <= 10).astype(float) - (ONE <= 10)
    drawn = gain[RNG.integers(0, len(gain), (20_000, len(gain)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    # A user's share is 1/400; two bootstraps of 20,000 draws differ by a third of it, rounded up.
    assert found.low == pytest.approx(low, abs=1.01 / 400)
    assert found.high == pytest.approx(high, abs=1.01 / 400)
    assert found.low < found.difference < found.high


def test_all_questions_of_a_user_are_drawn_together() -> None:
    user = np.repeat(np.arange(100), 4)  # and each has the same rank four times
    one, other = np.repeat(ONE[:100], 4), np.repeat(OTHER[:100], 4)
    single = compare_ranks(ONE[:100], OTHER[:100], draws=2_000)[0]
    order = RNG.permutation(400)
    found = compare_ranks(one[order], other[order], user_Q=user[order], draws=2_000)[0]
    assert (found.low, found.high) == pytest.approx((single.low, single.high))
    apart = compare_ranks(one, other, draws=2_000)[0]
    assert apart.high - apart.low == pytest.approx((found.high - found.low) / 2, rel=0.1)


def test_users_with_more_questions_weigh_more() -> None:
    user = np.repeat(np.arange(60), np.arange(60) % 5 + 1)
    one, other = ONE[: len(user)], OTHER[: len(user)]
    found = compare_ranks(one, other, user_Q=user, draws=4_000)[0]
    gain, means = (other <= 10).astype(float) - (one <= 10), []
    for _ in range(4_000):
        drawn = RNG.integers(0, 60, 60)
        means.append(np.concatenate([gain[user == each] for each in drawn]).mean())
    assert found.difference == pytest.approx(gain.mean())
    # A question's share is 1/180.
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=3 / 180)


def test_a_run_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    run = write_ranks(tmp_path / "a", ONE)
    assert {(each.low, each.high) for each in compare_runs(run, run)} == {(0.0, 0.0)}


def test_other_targets_or_users_cannot_be_compared(tmp_path: Path) -> None:
    first = write_ranks(tmp_path / "a", ONE)
    with pytest.raises(InputError, match="different splits"):
        compare_runs(first, write_ranks(tmp_path / "b", ONE, target=2))
    with pytest.raises(InputError, match="different splits"):
        compare_runs(first, write_ranks(tmp_path / "c", ONE[:-1]))
    for asked, option in (("test", ""), ("valid", " --split valid"), ("cold-all", " --cold")):
        with pytest.raises(MissingArtefact, match=f"Run: pmm evaluate .*none{option}$"):
            compare_runs(tmp_path / "none", tmp_path / "none", asked=asked)


def test_a_pretrained_run_is_compared_on_a_target_that_it_ranked(tmp_path: Path) -> None:
    own = write_ranks(tmp_path / "own", ONE)
    (own / "recipe.toml").write_text('target = "HM Shoes"\nmodel = {}\n')
    other = write_ranks(tmp_path / "other", OTHER)
    sources = 'stage = "pretrain"\nsources = ["HM", "Bili"]\nmodel = {}\n'
    (other / "recipe.toml").write_text(sources)
    (own / "ranks-cold.parquet").write_bytes((own / "ranks.parquet").read_bytes())
    with pytest.raises(MissingArtefact, match=r"other --cold --target 'HM Shoes'$"):
        compare_runs(own, other, asked="cold", target="HM Shoes")
    (other / "ranks.parquet").rename(other / "ranks-hm-shoes.parquet")
    found = compare_runs(own, other, target="HM Shoes")[0]
    assert found.first == pytest.approx((ONE <= 10).mean())
    assert found.second == pytest.approx((OTHER <= 10).mean())


def test_a_run_on_several_sources_is_asked_which(tmp_path: Path) -> None:
    """Its evaluation leaves one file a source: evaluating it again would not help."""
    own, both = write_ranks(tmp_path / "own", ONE), write_ranks(tmp_path / "both", OTHER)
    (own / "recipe.toml").write_text('target = "HM"\nmodel = {}\n')
    sources = 'stage = "pretrain"\nsources = ["HM", "Bili"]\nmodel = {}\n'
    (both / "recipe.toml").write_text(sources)
    (both / "ranks.parquet").rename(both / "ranks-hm.parquet")
    with pytest.raises(InputError, match="trained on HM, Bili: say which one with --target"):
        compare_runs(own, both)
    assert compare_runs(own, both, target="HM")[0].second == pytest.approx((OTHER <= 10).mean())


def test_the_table_marks_what_the_interval_excludes() -> None:
    table = comparison_table("one", "other", compare_ranks(ONE, OTHER))
    assert table.count("*") == 6
    assert "*" not in comparison_table("one", "one", compare_ranks(ONE, ONE))
