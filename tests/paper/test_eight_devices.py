"""recipes/eight-devices.toml: one step on eight parts is the mean of eight devices' gradients."""

from pathlib import Path

from pmm.runs.train_options import TrainOptions
from pmm.storage.toml import read_recipe, resolve

RECIPE = Path(__file__).parents[2] / "recipes" / "eight-devices.toml"


def test_the_recipe_loads_and_has_the_papers_users_on_each_device() -> None:
    values = read_recipe(RECIPE)
    assert values.keys() == {"train"}
    options = resolve(TrainOptions, values["train"])
    assert options.batch_users // options.micro_batches == 64
    assert options.micro_batches == 8
