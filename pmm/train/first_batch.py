"""The first batch of a run, written out: what the model really sees."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pmm.data.batch import Batch
from pmm.data.training_set import TrainingSet
from pmm.shards import contact_sheet
from pmm.storage.artefact import atomic_file, storage_errors, write_json

SHOWN = 24
"""Pictures on the contact sheet."""


def describe(batch: Batch) -> dict[str, Any]:
    """Shapes, types, ranges and shares of a batch."""
    items = batch.items
    tensors = {
        **{
            f"items.{name}": tensor
            for name in items.__dataclass_fields__
            if (tensor := getattr(items, name)) is not None
        },
        "slot_BS": batch.slot_BS,
        "log_p_I": batch.log_p_I,
        **({} if batch.group_I is None else {"group_I": batch.group_I}),
    }
    nothing_I = ~items.has_picture_I & ~items.has_text_I
    return {
        "tensors": {name: _tensor(tensor) for name, tensor in tensors.items()},
        "users": len(batch.slot_BS),
        "slots": batch.slot_BS.numel(),
        "padding_share": round(float((batch.slot_BS == 0).float().mean()), 6),
        "distinct_items": len(items.item_I),
        "text_only_items": int((~items.has_picture_I).sum()),
        "picture_only_items": int((~items.has_text_I).sum()),
        "items_without_content": int(nothing_I.sum()),
        "text_padding_share": round(float((~items.token_mask_IT).float().mean()), 6),
    }


def write(run_dir: Path, batch: Batch, data: TrainingSet) -> None:
    """Write first_batch.json and first_batch.png (the first items with their texts).

    There is no picture of items whose content is not read.
    """
    with storage_errors(run_dir), atomic_file(run_dir / "first_batch.json") as temporary:
        write_json(temporary, describe(batch))
    if data.read != "none":
        _draw(run_dir / "first_batch.png", batch, data)


def _draw(path: Path, batch: Batch, data: TrainingSet) -> None:
    items = batch.items
    numbers = items.item_I[:SHOWN].tolist()
    records = [data.record(item) for item in numbers]
    captions = [
        f"{item}: {record['item_id']}{'' if record['picture'] else ' [text only]'}\n"
        f"{record['text']}"
        for item, record in zip(numbers, records, strict=True)
    ]
    if data.read == "text":
        pictures = np.zeros((len(numbers), 64, 64, 3), dtype=np.uint8)
    else:  # of stored activations the picture behind them
        pictures = np.stack([data.picture(item) for item in numbers])
    title = f"{data.target}: first {len(numbers)} of the {len(items.item_I)} items of batch 0"
    with storage_errors(path):
        contact_sheet.draw(path, pictures, captions, title=title)


def _tensor(tensor: Tensor) -> dict[str, Any]:
    about: dict[str, Any] = {
        "shape": list(tensor.shape),
        "type": str(tensor.dtype).removeprefix("torch."),
    }
    if tensor.numel():
        shown = tensor if tensor.dtype != torch.bool else tensor.int()
        about |= {"least": shown.min().item(), "most": shown.max().item()}
    return about
