"""The item encoder without packing gives what the packed one gives, whatever the fusion."""

from typing import Any

import pytest
import torch

from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions

KINDS: list[dict[str, Any]] = [{"fusion": "merge", "fusion_pool": pool} for pool in ("mean", "cls")]
KINDS += [
    {"fusion": kind, "modality_pool": pool}
    for kind in ("concat", "sum", "film", "gated", "co_attention")
    for pool in ("mean", "cls")
]
KINDS += [{"modality": side, "fusion": "concat"} for side in ("text", "vision")]
KINDS += [{"modality": "text"}, {"modality": "vision", "modality_pool": "cls"}]
KINDS += [{"fusion_type_embedding": False}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_item_is_what_many_packed_ones_are(shop: Any, kind: dict[str, Any]) -> None:
    torch.manual_seed(5)
    options: PmmrecOptions = shop.with_options(width=32, **kind)
    model = Pmmrec(options).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms start at constants that hide mistakes
            parameter.data += 0.1 * torch.randn_like(parameter)
    one = model.one_item()
    assert one is not None
    shards = shop.shards()
    with torch.inference_mode():
        for number in (1, 3, 4, 5):  # 4 has no picture, 5 no text
            items = shards.items(torch.tensor([number]).numpy(), read=options.reads)
            if not bool((items.has_text_I | items.has_picture_I).any()):
                continue
            given = []
            sides = ((one.text, items.token_IT), (one.vision, items.picture_I3HW))
            for (module, content), has in zip(
                sides, (items.has_text_I, items.has_picture_I), strict=True
            ):
                if module is None:
                    continue
                made = module(content) if bool(has) else torch.zeros(1, 2, 32)
                given += [made, torch.full(made.shape[:2], bool(has))]
            expected = model.encode_items(items)
            torch.testing.assert_close(one.item(*given), expected, atol=1e-5, rtol=1e-4)
