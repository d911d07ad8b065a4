"""AdamW over a model's tensors: what decays, and what has the encoders' learning rate."""

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from pmm.model.protocol import Recommender
from pmm.runs.train_options import TrainOptions


def make_optimiser(model: Recommender, options: TrainOptions) -> AdamW:
    """AdamW over the model's groups (docs/paper.md R34), fused."""
    groups = parameter_groups(
        model, lr=options.lr, weight_decay=options.weight_decay, decay_norms=options.decay_norms
    )
    for group in groups:
        if group["name"] in ("text", "vision"):
            group["lr"] = options.encoder_lr
        group["peak_lr"] = group["lr"]
    return AdamW(groups, betas=(0.9, options.beta2), fused=True)


def parameter_groups(
    model: Recommender, *, lr: float, weight_decay: float, decay_norms: bool = False
) -> list[dict[str, Any]]:
    """AdamW's groups (docs/paper.md R34): each trainable tensor in exactly one, none empty.

    The encoders (`text.`, `vision.`) never decay. Of the rest (projections, fusion, user encoder, a
    table of item ids) everything does with `decay_norms` (the published code), else all but norms
    and biases. Nor does a part with a learning rate of its own, which is a group of its own.
    """
    norms = {
        id(tensor)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for tensor in module.parameters()
    }
    groups: dict[str, list[Tensor]] = {"text": [], "vision": [], "rest": [], "norms": []}
    groups |= {part: [] for part in model.own_rates}
    for name, tensor in model.named_parameters():
        if not tensor.requires_grad:
            continue
        room = name.split(".", 1)[0]
        spared = not decay_norms and (id(tensor) in norms or name.endswith(".bias"))
        apart = room in ("text", "vision", *model.own_rates)
        groups[room if apart else "norms" if spared else "rest"].append(tensor)
    return [
        {
            "name": name,
            "params": tensors,
            "lr": lr * model.own_rates.get(name, 1.0),
            "weight_decay": weight_decay * (name == "rest"),
        }
        for name, tensors in groups.items()
        if tensors
    ]
