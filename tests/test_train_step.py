"""The literal step of the benchmark is the same maths as ours."""

from pathlib import Path

import pytest
import torch

from benchmarks.train_step import DATASETS, build, draw_batch, literal_loss, with_stored


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_the_literal_step_and_ours_have_the_same_loss_and_gradients(
    pool: str, tmp_path: Path
) -> None:
    model = build(tmp_path, pool=pool, tiny=True).eval()
    batch = draw_batch(DATASETS[0], users=3, vocabulary=500)
    assert int((batch.slot_BS > 0).sum()) < batch.slot_BS.numel() / 2  # most slots are padding
    found = []
    for loss in (
        lambda: literal_loss(model, batch),
        lambda: model.loss(with_stored(model, batch))["loss"],
    ):
        model.zero_grad()
        value = loss()
        value.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((value.detach(), grads))
    (one, first), (other, second) = found
    assert torch.isclose(one, other, rtol=1e-3)
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        assert torch.allclose(left, right, rtol=1e-2, atol=1e-3 * float(left.abs().max()) + 1e-6)
