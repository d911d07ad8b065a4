"""The world's public encoders: small ones, taught on its public corpus, that come with PMM.

They stand to the world as XLM-RoBERTa and CLIP stand to real data: pre-trained on texts and
pictures of the kind that the platforms have, on none of their items, and on no user.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image

from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.demo.teaching import Telling, teach
from pmm.errors import InputError
from pmm.world.corpus import Thing, draw_corpus

SIZES = SmallSizes(width=64, blocks=2, heads=1, patch=56, vocabulary=2048)
TRAIN_BLOCKS = 1
"""Blocks of each that train in PMMRec; the other one is the frozen trunk."""

RECIPE: dict[str, dict[str, Any]] = {
    "model": {
        "dap_similarity": "cosine",
        "dap_tau": 0.1,
        "text": {"encoder": "./text", "train_blocks": TRAIN_BLOCKS},
        "vision": {"encoder": "./vision", "train_blocks": TRAIN_BLOCKS},
    },
    "train": {
        "batch_users": 32,
        "lr": 2e-3,
        "encoder_lr": 5e-4,
        "warmup_steps": 50,
        "schedule": "linear",
        "patience": 0,
    },
}
"""What learns in minutes on a CPU with them (docs/log.md); it lies beside them as recipe.toml."""

_SHIPPED = Path(__file__).parents[1] / "world" / "encoders"
_THINGS, _STEPS, _PEAK = 8_000, 3_000, 2e-3


def put_public_encoders(folder: Path) -> tuple[Path, Path]:
    """Copy the encoders that come with PMM into a folder, with a recipe for them.

    Returns:
        The text encoder's folder and the vision tower's, as `save_small_encoders`.
    """
    shutil.copytree(_SHIPPED, folder, dirs_exist_ok=True)
    _write_recipe(folder)
    return folder / "text", folder / "vision"


def teach_public_encoders(
    folder: Path, *, things: int = _THINGS, steps: int = _STEPS, seed: int = 0
) -> float:
    """Make and teach them anew, as those that come with PMM were made; ten minutes on one core.

    Args:
        folder: where they go; it must not hold encoders yet.
        things: of the public corpus.
        steps: of training.
        seed: of the weights and of the training.

    Returns:
        The loss at the end, in nats.

    Raises:
        InputError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: choose another folder")
    corpus = list(draw_corpus(things))
    texts = [text for thing in corpus for text in thing.texts]
    save_small_encoders(folder, texts, seed=seed, sizes=SIZES)
    tellings = (telling(corpus, 0), telling(corpus, 1))
    loss = teach(folder, tellings, blocks=SIZES.blocks, steps=steps, lr=_PEAK, seed=seed)
    _write_recipe(folder)
    return loss


def _write_recipe(folder: Path) -> None:
    (folder / "recipe.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")


def telling(corpus: list[Thing], side: int) -> Telling:
    """One of the two tellings of things, its pictures squashed to the tower's size."""
    size = (SIZES.picture, SIZES.picture)
    pixels = [
        np.asarray(thing.photographs[side].resize(size, Image.Resampling.BICUBIC))
        for thing in corpus
    ]
    return Telling(
        texts=[thing.texts[side] for thing in corpus],
        picture_N3HW=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
    )
