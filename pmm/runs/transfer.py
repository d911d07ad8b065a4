"""Which tensors of a pre-trained run a fine-tuning takes over (paper III-E), and a report of it.

A mode loads exactly its parts. Nothing is matched by guess: a tensor that a mode should load and
the run does not hold is an error, and so is a mode that loads nothing.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pmm.errors import BrokenArtefact, InputError, StaleArtefact
from pmm.model import registry
from pmm.model.model_entry import Transfer
from pmm.model.protocol import Recommender
from pmm.runs.loading import command_to_train_again
from pmm.runs.recipe import Start
from pmm.runs.weights import BEST, frozen_digests, kept_tensors, read_tensors
from pmm.storage.artefact import atomic_file, storage_errors, write_json

REPORT = "transfer.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of every tensor, of the new model and of the run."""

    run: str
    transfer: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    """Of the new model, initialised at random or from the public encoder."""
    frozen: tuple[str, ...]
    """Of the new model's encoders, never trained: from their own source, as the run's were."""
    left_behind: tuple[str, ...]
    """Of the run, without a place in the new model or not of this mode."""

    def __str__(self) -> str:
        return (
            f"{self.transfer} transfer from {self.run}: {len(self.loaded)} tensors loaded, "
            f"{len(self.fresh)} fresh, {len(self.frozen)} frozen, {len(self.left_behind)} left "
            f"behind ({REPORT} names them)"
        )


def take_over(model: Recommender, start: Start) -> Report:
    """Copy a mode's tensors from a run's best checkpoint into a new model.

    Raises:
        MissingArtefact, BrokenArtefact: the run has no whole checkpoint.
        BrokenArtefact: a tensor of the mode is missing there or has another shape.
        StaleArtefact: the run's frozen encoder is not the new model's.
        InputError: nothing matches.
    """
    path = Path(start.run) / BEST
    made_by = command_to_train_again(Path(start.run))
    tensors, about = read_tensors(path, made_by=made_by)
    own, parts = own_weights(model), parts_of(model, start.transfer)
    # Adapters are what a fine-tuning adds: the run that it starts from has none to take over.
    wanted = [name for name in own if _part(name) in parts and ".adapter." not in name]
    _require_fitting(path, start.transfer, parts, wanted, own, tensors, set(model.state_dict()))
    sides = [*parts, *model.frozen_by]
    _require_same_trunks(path, sides, model, about.get("frozen_parts", {}), made_by)
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(tensors[name])
    return Report(
        run=start.run,
        transfer=start.transfer,
        loaded=tuple(wanted),
        fresh=tuple(name for name in own if name not in set(wanted)),
        frozen=tuple(name for name in model.state_dict() if name not in own),
        left_behind=tuple(name for name in tensors if name not in set(wanted)),
    )


def own_weights(model: Recommender) -> dict[str, Tensor]:
    """Name -> weight of all that is a run's own: what trains, and what it took over and froze."""
    kept = kept_tensors(model)
    return {name: each for name, each in kept.items() if isinstance(each, nn.Parameter)}


def parts_of(model: Recommender, transfer: Transfer) -> tuple[str, ...]:
    """The parts of a model that a mode takes over.

    Raises:
        InputError: the model does not have that mode.
    """
    entry = registry.entry(model.options.name)
    transfers = entry.parts(model.options) if entry.parts else entry.transfers
    if transfer not in transfers:
        raise InputError(
            f"{model.options.name} has no {transfer} transfer: it has "
            f"{', '.join(transfers) or 'none'}"
        )
    return transfers[transfer]


def write_report(run_dir: Path, report: Report) -> None:
    """Keep the report with the run."""
    with storage_errors(run_dir), atomic_file(run_dir / REPORT) as temporary:
        write_json(temporary, asdict(report))


def _part(name: str) -> str:
    return name.partition(".")[0]


def _require_fitting(
    path: Path,
    transfer: Transfer,
    parts: Sequence[str],
    wanted: list[str],
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    places: Set[str],
) -> None:
    held, built = {_part(name) for name in tensors}, {_part(name) for name in wanted}
    lacking = [part for part in parts if part not in held]
    unbuilt = [part for part in parts if part not in built]
    if lacking or not wanted:
        raise InputError(
            f"{path} cannot start a {transfer} transfer: it holds no {' and no '.join(lacking)} "
            f"(it has {', '.join(sorted(held))})"
        )
    if unbuilt:
        raise InputError(
            f"a {transfer} transfer takes over {', '.join(unbuilt)}, which the new model does not "
            "train. Choose another --transfer, or a model that has them"
        )
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    faults += [
        f"{name} has no place in the new model"
        for name in tensors
        if _part(name) in built and name not in places
    ]
    if faults:
        raise BrokenArtefact(
            f"{path} does not fit the new model ({len(faults)} tensors): " + "; ".join(faults[:3])
        )


def _require_same_trunks(
    path: Path,
    parts: Sequence[str],
    model: Recommender,
    before: Mapping[str, str],
    made_by: str,
) -> None:
    """The trained top of an encoder is worth nothing on another trunk."""
    now = frozen_digests(model)
    for part in ("text", "vision"):
        if part in parts and part not in before:
            raise BrokenArtefact(
                f"{path} does not say on which frozen {part} encoder it was trained. Train it "
                f"again: {made_by}"
            )
        if part in parts and now.get(part) != before[part]:
            raise StaleArtefact(
                f"{path} was trained on a frozen {part} encoder {before[part][:8]}, "
                f"the new model has {now.get(part, 'none')[:8]}. Give the same --{part}-encoder"
            )
