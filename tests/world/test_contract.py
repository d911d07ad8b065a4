"""What is promised of the demo-size world, measured on every source and target."""

import pytest

from pmm.world import World, generate
from pmm.world.describe import describe
from pmm.world.platforms import TARGETS

NAMES = [target.name for target in TARGETS]
Row = dict[str, str | int | float]


@pytest.fixture(scope="module")
def measured() -> dict[str, Row]:
    return dict(zip(NAMES, describe(generate("demo", seed=0)), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_best_model_is_right_between_three_and_six_times_of_ten(
    measured: dict[str, Row], name: str
) -> None:
    assert 0.3 <= measured[name]["oracle"] <= 0.6


@pytest.mark.parametrize("name", NAMES)
def test_popularity_reaches_under_a_fifth(measured: dict[str, Row], name: str) -> None:
    assert measured[name]["popularity"] < measured[name]["oracle"] / 5


@pytest.mark.parametrize("name", NAMES)
def test_one_modality_reaches_clearly_less_than_both(measured: dict[str, Row], name: str) -> None:
    assert measured[name]["text_oracle"] < 0.8 * measured[name]["oracle"]
    assert measured[name]["picture_oracle"] < 0.8 * measured[name]["oracle"]


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_item_pairs_reach_under_half(measured: dict[str, Row], name: str) -> None:
    assert measured[name]["pairs"] < measured[name]["oracle"] / 2


@pytest.mark.parametrize("name", NAMES)
def test_sequences_are_about_as_long_as_in_table_ii(measured: dict[str, Row], name: str) -> None:
    assert measured[name]["length"] == pytest.approx(measured[name]["paper_length"], rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_the_items_is_cold(measured: dict[str, Row], name: str) -> None:
    sparse = measured[name]["paper_density"] < 10
    assert measured[name]["cold_share"] > (0.65 if sparse else 0.15)


def test_a_target_without_anybody_left_is_described_by_its_sizes(tiny: World) -> None:
    assert [row["target"] for row in describe(tiny, ["hm shoes", "Kwai"])] == ["HM Shoes", "Kwai"]
