import dataclasses
import tomllib
from pathlib import Path
from typing import Literal

import pytest

from pmm.errors import InputError, RecipeError
from pmm.storage.toml import dump, merge, read_recipe, resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    lr: float = 1e-4
    epochs: int = 10
    device: str | None = None
    betas: tuple[float, ...] = (0.9, 0.999)
    amp: bool = False

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError("lr must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class All:
    target: str
    pool: Literal["mean", "cls"] = "mean"
    train: Train = dataclasses.field(default_factory=Train)


def test_what_is_not_given_keeps_its_default() -> None:
    found = resolve(All, {"target": "HM", "train": {"lr": 1, "betas": [0.5]}})
    assert found == All(target="HM", train=Train(lr=1.0, betas=(0.5,)))


def test_all_errors_come_at_once_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(All, {"trian": {}, "pool": "max", "train": {"epoch": 3, "epochs": "ten"}})
    text = str(caught.value)
    for part in (
        'unknown key "trian" (did you mean "train"?)',
        "pool = 'max' should be one of 'mean', 'cls'",
        'unknown key "train.epoch" (did you mean "epochs"?)',
        "train.epochs = 'ten' should be of type int",
        '"target" is missing',
    ):
        assert part in text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed:
    blocks: int | Literal["all"] = 2
    cache: Literal["fp16", "fp32"] | Literal["off"] = "fp16"


def test_a_number_or_a_word() -> None:
    assert resolve(Mixed, {"blocks": "all", "cache": "off"}) == Mixed(blocks="all", cache="off")
    assert resolve(Mixed, {"blocks": 3}).blocks == 3
    for values, fault in (
        ({"blocks": "some"}, "blocks = 'some' should be one of 'all', of type int"),
        ({"blocks": 1.5}, "blocks = 1.5 should be of type int"),
        ({"cache": "on"}, "cache = 'on' should be one of 'fp16', 'fp32', 'off'"),
        ({"cache": 3}, "cache = 3 should be one of 'fp16', 'fp32', 'off'"),
    ):
        with pytest.raises(RecipeError, match=fault):
            resolve(Mixed, values)


def test_true_is_no_number() -> None:
    with pytest.raises(RecipeError, match="epochs = True"):
        resolve(All, {"target": "HM", "train": {"epochs": True}})


def test_a_range_that_the_dataclass_checks_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="lr must be positive"):
        resolve(All, {"target": "HM", "train": {"lr": -1.0}})


def test_a_dumped_recipe_reads_back_as_it_was(tmp_path: Path) -> None:
    recipe = All(target='H"M', pool="cls", train=Train(betas=(0.1, 0.2)))
    (tmp_path / "r.toml").write_text(dump(recipe, header="made by a test\nin two lines"))
    assert resolve(All, read_recipe(tmp_path / "r.toml")) == recipe
    assert (tmp_path / "r.toml").read_text().startswith("# made by a test\n# in two lines\n")


def test_later_layers_win_key_by_key() -> None:
    assert merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"b": 4}) == {
        "a": {"x": 1, "y": 3},
        "b": 4,
    }


def test_a_recipe_that_is_no_toml_or_not_there_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(RecipeError, match="no valid TOML"):
        read_recipe(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "gone.toml")


def test_every_shipped_recipe_is_valid_toml_with_its_claim_on_top() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert tomllib.loads(path.read_text())
        for claim in ("command:", "duration:", "hardware:", "expected:", "seen:"):
            assert any(claim in line for line in head), f"{path.name} lacks {claim}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a." * 100_000 + "a = 1", "hundred parts"),
        ("'a' . " * 100_000 + "a = 1", "hundred parts"),
        ("[" + "a." * 5000 + "a]", "hundred parts"),
        ("a = " + "[" * 100_000, "without end"),
        ("# " + "x" * (1 << 20), "more than 1 MiB"),
    ],
)
def test_a_recipe_that_would_take_hours_is_refused_at_once(
    tmp_path: Path, content: str, why: str
) -> None:
    (tmp_path / "r.toml").write_text(content)
    with pytest.raises(RecipeError, match=why):
        read_recipe(tmp_path / "r.toml")
