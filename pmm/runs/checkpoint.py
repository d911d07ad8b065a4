"""The state of a stopped run: weights, optimiser and position in one safetensors file.

One file is replaced by one rename, so a kill during the write leaves the state before. Random
numbers need no place in it: those of a step are drawn from (seed, step), see `pmm.train.trainer`.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pmm.errors import BrokenArtefact
from pmm.model.protocol import Recommender
from pmm.runs.weights import (
    copy_into,
    kept_tensors,
    read_tensors,
    trained_tensors,
    write_tensors,
)

LAST = "checkpoint/last.safetensors"
"""Below a run's folder: where training goes on with --resume."""


@dataclass(kw_only=True)
class State:
    """Where a run stands; everything but the tensors."""

    step: int = 0
    """Optimiser steps done."""
    epoch: int = 0
    """The epoch of the next step, from 0."""
    index: int = 0
    """The batch of the next step inside its epoch."""
    best: float = -1.0
    """The best validation HR@10 so far."""
    best_epoch: float = -1.0
    """Epochs done when it was seen."""
    waited: int = 0
    """Evaluations since then without a better one."""
    evaluated_step: int = -1
    """The last step after which there was an evaluation."""
    log_bytes: int = 0
    """Length of log.jsonl; what a killed run wrote beyond it is cut off on resume."""
    seconds: float = 0.0
    """Time spent training, over all its starts."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of the loss scaler, under fp16."""


def save_state(
    run_dir: Path, model: Recommender, optimiser: Optimizer, state: State, *, frozen: str
) -> None:
    """Write checkpoint/last.safetensors.

    Tensors are called `model/<parameter>` and `optimiser/<parameter>/<exp_avg and so on>`.
    """
    trained = trained_tensors(model)
    tensors = {f"model/{name}": tensor for name, tensor in kept_tensors(model).items()}
    for name, parameter in trained.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{name}/{key}"] = value
    write_tensors(run_dir / LAST, tensors, {"state": asdict(state), "frozen": frozen})


def load_state(run_dir: Path, model: Recommender, optimiser: Optimizer, *, made_by: str) -> State:
    """Put a model and its optimiser back to where a run stopped.

    Raises:
        MissingArtefact: the run was stopped before its first checkpoint.
        BrokenArtefact: the file is damaged or holds another model.
        StaleArtefact: the frozen encoders have changed since.
    """
    path = run_dir / LAST
    tensors, about = read_tensors(path, made_by=made_by)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    copy_into(model, parts["model"], about, path=path)
    trained = trained_tensors(model)
    fused = {id(p) for group in optimiser.param_groups if group["fused"] for p in group["params"]}
    for name, tensor in parts["optimiser"].items():
        owner, _, key = name.rpartition("/")
        if owner not in trained:
            raise BrokenArtefact(f"{path}: optimiser state of an unknown tensor {owner}")
        parameter = trained[owner]
        on_device = key != "step" or id(parameter) in fused
        optimiser.state[parameter][key] = tensor.to(parameter.device) if on_device else tensor
    return _state(about.get("state"), path)


def _state(values: Any, path: Path) -> State:
    try:
        return State(**values)
    except (TypeError, AttributeError) as error:
        raise BrokenArtefact(f"{path} was written by another version ({error})") from error
