"""How a model is trained: options, without anything that computes."""

import math
from dataclasses import dataclass
from typing import Literal

from pmm.data.categories import SequenceRule
from pmm.data.windows import WindowRule
from pmm.shards.kinds import Storage

Precision = Literal["auto", "fp32", "bf16", "fp16"]


LearningRateSchedule = Literal["constant", "linear"]


TrackerName = Literal["tensorboard", "wandb", "mlflow"]


_MOST = {"epochs": 1 << 31, "batch_users": 1 << 31, "micro_batches": 1 << 31, "seed": (1 << 63) - 1}
_MOST |= {"max_steps": 1 << 62, "warmup_steps": 1 << 62, "ahead": 1 << 10, "eval_every": 1 << 31}
_MOST |= {"log_every": 1 << 31, "save_every": 1 << 31, "patience": 1 << 31}
"""What a machine can count with; more is a slip or damage."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a model is trained (docs/paper.md R34, R43)."""

    seed: int = 0
    """Of weights, order and dropout."""
    epochs: int = 30
    """At most so many; early stopping usually ends a run before. 0 has no limit."""
    batch_users: int = 64
    """Users of a batch."""
    windows: WindowRule = "last"
    """Which of a user's training items are read, L + 1 at a time: "last" the latest (the paper),
    "random" some in a row, others in each epoch, "all" every one, in rows that overlap by one item.

    With "all" an epoch has more rows, and two rows of a batch may be of one user."""
    sequences: SequenceRule = "whole"
    """A user's training items as they are, or one sequence for each category that they are in:
    those of a shop's departments follow each other, not those between.

    Pre-training of PMMRec takes "by category" where `model.negatives` is "category"."""
    micro_batches: int = 1
    """Parts of a batch that go through the model one after the other, to use less memory.

    Their gradients are averaged. Users of other parts are then no negatives (an in-batch loss has
    fewer of them), so the result is another one than of the batch as a whole."""
    recompute: bool = False
    """Keep few activations for the backward pass and compute the others again: less memory, about a
    third more time, the same gradients."""
    lr: float = 1e-4
    """Of everything but the encoders."""
    encoder_lr: float = 1e-4
    """Of the encoders' top blocks."""
    warmup_steps: int = 0
    """Steps over which the learning rates rise from near 0."""
    schedule: LearningRateSchedule = "constant"
    """"linear": after the warm-up the learning rates fall to 0 at the end of the last epoch."""
    weight_decay: float = 0.1
    """Of everything but the encoders, norms and biases."""
    beta2: float = 0.999
    """Of AdamW, the memory of squared gradients."""
    decay_norms: bool = False
    """Decay norms and biases too, as the published code does."""
    patience: int = 10
    """Evaluations without a better validation HR@10 after which a run ends; 0 never ends one."""
    choose_popularity: bool = True
    """Validation ranks without and with a share of popularity, and the better one counts; after
    training more shares are tried on the validation items, and the chosen one is stored with the
    best weights (`pmm.evaluate.popularity_mix`)."""
    eval_every: int = 1
    """Epochs between evaluations."""
    eval_start: bool = False
    """Also rank the validation items before the first step, as epoch 0 of the curves. It is only
    recorded: neither the best weights nor the end of a run depend on it."""
    eval_test: bool = False
    """Each evaluation also ranks the test items, recorded as test_hr@10 and the like. They are
    never chosen by: not the best weights, nor a share of popularity, nor when a run ends."""
    precision: Precision = "auto"
    """Of the matrix products; weights and optimiser state are always float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    max_steps: int = 0
    """End after so many steps; 0 has no limit."""
    max_minutes: float = 0.0
    """End after so long, resumed time included; 0 has no limit."""
    log_every: int = 10
    """Steps between two lines of the log."""
    save_every: int = 500
    """Steps between two checkpoints inside an epoch; there is one after each epoch anyway."""
    cache: Storage | Literal["off"] = "fp16"
    """How the outputs of the encoders' frozen trunks are stored; "off" computes them in each step.

    The dropout in frozen blocks is off either way (docs/paper.md R12)."""
    ahead: int = 2
    """Batches (and threads) prepared ahead of the step."""

    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where the run can be watched, beside its log.jsonl (`pmm.runs.trackers`)."""

    def __post_init__(self) -> None:
        least = {"epochs": 0, "batch_users": 2, "eval_every": 1, "log_every": 1, "save_every": 1}
        least |= {"micro_batches": 1}
        least |= dict.fromkeys(("lr", "encoder_lr", "weight_decay", "patience"), 0)
        least |= dict.fromkeys(("max_steps", "max_minutes", "warmup_steps", "seed"), 0)
        least |= {"ahead": 1}
        low = [
            f"{name} must be at least {n}"
            for name, n in least.items()
            if not getattr(self, name) >= n
        ]
        low += [
            f"{name} must be at most {n:,}" for name, n in _MOST.items() if getattr(self, name) > n
        ]
        low += [
            f"{name} must be finite"
            for name in ("lr", "encoder_lr", "weight_decay")
            if not math.isfinite(getattr(self, name))
        ]
        if not 0 <= self.beta2 < 1:
            low.append("beta2 must be at least 0 and below 1")
        if self.batch_users < 2 * self.micro_batches:
            low.append("batch_users must be at least twice micro_batches")
        if not self.epochs and self.schedule != "constant":
            low.append(
                f'schedule = "{self.schedule}" ends at the last epoch, and epochs = 0 has none: '
                "set epochs (--epochs)"
            )
        if not any((self.epochs, self.patience, self.max_steps, self.max_minutes)):
            low.append("epochs, patience, max_steps and max_minutes are 0: the run would never end")
        if low:
            raise ValueError("; ".join(low))

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """What the learning rates are multiplied by in a step, which is counted from 0.

        >>> options = TrainOptions(epochs=2, warmup_steps=2, schedule="linear")
        >>> [round(options.lr_factor(step, 3), 2) for step in range(6)]
        [0.33, 0.67, 1.0, 0.75, 0.5, 0.25]
        """
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "constant":
            return warm
        whole = self.epochs * steps_per_epoch
        return min(warm, (whole - step) / max(1, whole - self.warmup_steps))
