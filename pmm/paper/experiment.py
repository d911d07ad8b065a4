"""One training of one seed and its evaluation, as everything that decides what comes of it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pmm.model import registry
from pmm.model.model_entry import Objectives, Stage, Transfer
from pmm.runs.names import run_name, shortened
from pmm.runs.request import TrainRequest
from pmm.shards.kinds import Modality
from pmm.storage.home import Home

_ROOM = 81
"""Bytes of a name in words; a digest of all that decides the run comes behind."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training and its evaluation."""

    stage: Stage = "scratch"
    dataset: str = ""
    """What it is trained on and evaluated on; "" of a pre-training."""
    sources: tuple[str, ...] = ()
    model: str = "pmmrec"
    preset: str | None = None
    start: "Experiment | None" = None
    transfer: Transfer | None = None
    modality: Modality | None = None
    objectives: Objectives | None = None
    seed: int = 0
    values: tuple[tuple[str, Any], ...] = ()
    """Further values of the recipe: dotted path and value."""

    def chain(self) -> "Iterator[Experiment]":
        """The run that it starts from, then itself."""
        if self.start is not None:
            yield from self.start.chain()
        yield self

    @property
    def datasets(self) -> tuple[str, ...]:
        """All data that decide it: its own, and those of the run that it starts from."""
        own = self.sources if self.stage == "pretrain" else (self.dataset,)
        return tuple(dict.fromkeys([*own, *(self.start.datasets if self.start else ())]))

    @property
    def kind(self) -> str:
        """What decides how long a step takes, but for the data.

        >>> Experiment(model="unisrec", dataset="HM").kind
        'unisrec'
        """
        modality = self.transfer if self.transfer in ("text", "vision") else self.modality
        every = [self.model, modality, self.objectives, dict(self.values).get("model.items")]
        stage = "pretrain" if self.stage == "pretrain" else None
        return " ".join(str(each) for each in [*every, stage] if each)

    def name(self, home: Home) -> str:
        """Of its run: `pmm.runs.names` in words, then a digest of every value.

        Folders below the home folder are named from there: a home that is moved keeps its names.
        """
        words = run_name(home, self._request(home))
        return f"{shortened(words, _ROOM)}-{self.digest(home)}"

    def digest(self, home: Home) -> str:
        """Of all that decides it."""
        identity = {
            **{name: value for name, value in vars(self).items() if name != "start"},
            "values": [[path, _below(home, value)] for path, value in sorted(self.values)],
            "start": self.start.digest(home) if self.start else None,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]

    def _request(self, home: Home) -> TrainRequest:
        """The training without further values: a digest stands for those."""
        return TrainRequest(
            stage=self.stage,
            sources=self.sources,
            target=self.dataset or None,
            model=self.model,
            preset=self.preset,
            start=home.run(self.start.name(home)) if self.start else None,
            transfer=self.transfer,
            modality=self.modality,
            objectives=self.objectives,
            seed=self.seed or None,
        )

    def training(self, home: Home) -> list[str]:
        """The words of the command that trains it, but for `--home`."""
        options: dict[str, Any] = {
            "--name": self.name(home),
            "--model": self.model,
            "--target": self.dataset,
            "--sources": ",".join(self.sources),
            "--preset": self.preset,
            "--from": str(home.run(self.start.name(home))) if self.start else None,
            "--transfer": self.transfer,
            "--modality": self.modality,
            "--objectives": self.objectives,
            "--seed": str(self.seed),
        }
        words = ["train", "--stage", self.stage]
        for option, value in options.items():
            words += [option, str(value)] if value else []
        for path, value in self.values:
            words += ["--set", f"{path}={json.dumps(value, ensure_ascii=False)}"]
        return words

    def evaluation(self, home: Home, *, cold: bool) -> list[str]:
        """The words of the command that ranks with it, but for `--home`."""
        words = ["evaluate", str(home.run(self.name(home)))]
        words += ["--cold"] if cold else []
        # Neighbours of a model on ids are those of users alone, and take no encoder.
        return words + (["--neighbours"] if self.model == "sasrec" else [])


def with_starts(experiments: "Iterator[Experiment]", home: Home) -> "dict[str, Experiment]":
    """Name -> experiment, each once, none before the one that it starts from."""
    found: dict[str, Experiment] = {}
    for experiment in experiments:
        for each in experiment.chain():
            found.setdefault(each.name(home), each)
    return found


def fitting(model: str, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Of flat recipe values those that a model has, sorted.

    >>> fitting("sasrec", {"model.items": "vectors", "model.width": 32, "train.epochs": 1})
    (('model.width', 32), ('train.epochs', 1))
    """
    known = {each.name for each in fields(registry.entry(model).options)}
    if model != "pmmrec":  # MoRec++ is its fusion, which vectors leave out: it would be PMMRec
        known -= {"items"}
    return tuple(
        (path, value)
        for path, value in sorted(values.items())
        if not path.startswith("model.") or path.split(".")[1] in known
    )


def _below(home: Home, value: Any) -> Any:
    """A folder below the home folder without the way there."""
    root = str(home.root)
    text = isinstance(value, str) and Path(value).is_absolute() and value.startswith(root)
    return "HOME" + value[len(root) :] if text else value
