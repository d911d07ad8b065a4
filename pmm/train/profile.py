"""Where a training step's time goes: `pmm train --profile`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pmm.model.protocol import Recommender
from pmm.text_table import text_table

SKIPPED, COUNTED = 3, 20
"""Steps that are left out at the start (allocators, caches), and steps that are measured then."""


class StepProfile:
    """Seconds of some steps by phase, and of the forward phase by the model's parts.

    On an accelerator each mark waits for the work before it, so the steps that are measured are
    slower there than others.
    """

    def __init__(self, model: Recommender, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._steps = 0
        self._hooks = [
            hook for name, module in _parts(model) for hook in self._around(name, module)
        ]

    @property
    def running(self) -> bool:
        """Whether there are steps to measure yet."""
        return self._steps < SKIPPED + COUNTED

    def end_step(self, waited: float, whole: float) -> None:
        """One more step is done.

        Args:
            waited: seconds in which it waited for its batch.
            whole: seconds from the end of the step before.
        """
        self._steps += 1
        if self._steps <= SKIPPED:
            self._seconds.clear()
            return
        self._add("waiting for data", waited)
        self._add("whole step", whole)
        if not self.running:
            for hook in self._hooks:
                hook.remove()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the block takes counts for a phase: forward, backward or update."""
        start = self._now()
        yield
        self._add(name, self._now() - start)

    def table(self) -> str:
        """Milliseconds a step and the share of each part, once all steps are measured."""
        whole = self._seconds["whole step"]
        forward = {k: v for k, v in self._seconds.items() if k.startswith("  ")}
        rest = self._seconds["forward"] - sum(forward.values())
        rows = [("waiting for data", self._seconds["waiting for data"])]
        rows += [("forward", self._seconds["forward"]), *forward.items()]
        rows += [("  losses and the rest", rest)]
        rows += [(name, self._seconds[name]) for name in ("backward", "update")]
        told = sum(self._seconds[n] for n in ("waiting for data", "forward", "backward", "update"))
        rows += [("between the steps", whole - told), ("whole step", whole)]
        return text_table(
            [f"of {COUNTED} steps", "ms a step", "%"],
            [[name, 1e3 * each / COUNTED, 100 * each / whole] for name, each in rows],
        )

    def _around(self, name: str, module: nn.Module) -> list[Any]:
        started: list[float] = []

        def before(*_: Any) -> None:
            started.append(self._now())

        def after(*_: Any) -> None:
            self._add(f"  {name}", self._now() - started.pop())

        return [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after),
        ]

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _parts(model: Recommender) -> Iterator[tuple[str, nn.Module]]:
    """The parts that are told apart: blocks of the encoders, and the model's other modules."""
    for name, child in model.named_children():
        blocks = getattr(child, "blocks", None) if name in ("text", "vision") else None
        cut: int = getattr(child, "cut", 0)
        if blocks is None:
            yield name.replace("_", " "), child
        else:
            for number, block in enumerate(blocks):
                where = "frozen" if number < cut else "trained"
                yield f"{name}, {where} blocks", block
