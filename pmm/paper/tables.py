"""The paper's tables: which column is which run, on which datasets, against what it is held."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from pmm.errors import InputError, nearest
from pmm.evaluate.metrics import CUTOFFS
from pmm.model import registry
from pmm.paper.experiment import Experiment, fitting
from pmm.paper.paper_datasets import Datasets, find_datasets
from pmm.paper.paper_request import PaperRequest
from pmm.paper.printed import STATISTICS, printed
from pmm.runs.train_options import TrainOptions
from pmm.storage.dotted_names import flat
from pmm.storage.home import Home
from pmm.storage.toml import merge, parse_assignments, read_recipe_beside

SYSTEMS = {
    "GRURec": "gru4rec",
    "NextItNet": "nextitnet",
    "SASRec": "sasrec",
    "FDSA": "fdsa",
    "CARCA++": "carca",
    "UniSRec": "unisrec",
    "VQRec": "vqrec",
    "MoRec++": "morec",
    "PMMRec": "pmmrec",
}
"""The paper's nine systems by its names, in the order of Table III."""
WITH_RECIPE = ("pmmrec", "morec")
"""Systems that a recipe file is for; of it the others take the encoders alone."""
TABLES = ("table2", "table3", "table4", "table5", "table6", "table7", "table8", "figure3")
FLOOR = "SASRec, full softmax"
"""A column beside the paper's: the floor that a model on content must beat."""
EVERY = tuple(f"{kind}@{k}" for kind in ("hr", "ndcg") for k in CUTOFFS)
AT_TEN = ("hr@10", "ndcg@10")

_ELSEWHERE = ("train.device", "model.name")
"""Recipe values that do not decide a run's result, or that its column decides."""

Maker = Callable[[str, int], Experiment]
"""(dataset, seed) -> the run of a cell."""


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column of a table."""

    key: str
    """Also the name in the paper's printed figures, where it has the column."""
    make: Maker | None = None
    """None: nothing is trained for it (Table II)."""
    against: str = ""
    """The column whose users its own are held against."""
    ranked: str = "test"
    """"test"; of cold items "cold" (held out) or "cold-all" (the paper's way)."""
    printed_as: str | None = None
    """Its name in the paper's figures, where that is not its key; "" has none there."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or figure."""

    name: str
    title: str
    caption: str
    datasets: tuple[str, ...]
    columns: tuple[TableColumn, ...]
    metrics: tuple[str, ...] = AT_TEN
    ours: str = ""
    """The column whose improvement is told, as the paper does."""
    rivals: tuple[str, ...] = ()
    """Over the best of these."""
    kind: str = "ranks"
    """"ranks", "statistics" (Table II) or "curves" (Fig. 3)."""
    missing: tuple[str, ...] = field(default=())
    """What cannot be had here, and why."""

    def experiments(self, seeds: int) -> Iterator[Experiment]:
        """What it needs, row by row, for seeds 0 to `seeds` - 1."""
        for seed in range(seeds):
            for dataset in self.datasets:
                for column in self.columns:
                    if column.make is not None:
                        yield column.make(dataset, seed)


@dataclass(frozen=True, kw_only=True)
class Makers:
    """Makes the runs of cells as a request asks."""

    request: PaperRequest
    sources: tuple[str, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    """Recipe values that are asked for every system that has them."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Those of the recipe file."""

    @classmethod
    def of(cls, request: PaperRequest, sources: tuple[str, ...]) -> "Makers":
        """With the values of a request; errors as of `RecipeRequest.values`."""
        from_file = read_recipe_beside(request.recipe) if request.recipe else {}
        asked = merge(
            {"model": {"items": request.items}} if request.items else {},
            {"train": {"epochs": request.epochs}} if request.epochs else {},
            _without(request.values(), from_file),
            parse_assignments(request.set),
        )
        given = {path: value for path, value in flat(asked).items() if path not in _ELSEWHERE}
        own = {path: value for path, value in flat(from_file).items() if path not in _ELSEWHERE}
        return cls(request=request, sources=sources, given=given, recipe=own)

    def scratch(self, dataset: str, seed: int, model: str = "pmmrec", **how: Any) -> Experiment:
        """A training on the dataset alone."""
        return self._one("scratch", model, dataset=dataset, seed=seed, **how)

    def pretrained(self, seed: int, model: str = "pmmrec", **how: Any) -> Experiment:
        """On all sources, or those in `how`."""
        if model == "pmmrec":
            how.setdefault("objectives", self.request.objectives or "all")
        values = dict(how.pop("values", {}))
        if self.request.pretrain_epochs:
            values = {"train.epochs": self.request.pretrain_epochs, **values}
        how = {"sources": self.sources, **how}
        return self._one("pretrain", model, seed=seed, values=values, **how)

    def finetuned(
        self, dataset: str, seed: int, model: str = "pmmrec", transfer: str = "full", **how: Any
    ) -> Experiment:
        """On the dataset, from a pre-training as `how` says."""
        values = how.pop("own_values", {})
        start = self.pretrained(seed, model, **how)
        own = {"start": start, "transfer": transfer, "values": values}
        return self._one("finetune", model, dataset=dataset, seed=seed, **own)

    def _one(self, stage: Any, model: str, **how: Any) -> Experiment:
        own = dict(how.pop("values", {}))
        preset = self.request.preset
        recipe = self.recipe if model in WITH_RECIPE else _encoders(self.recipe)
        values = fitting(model, {**recipe, **self.given, **own})
        known = preset in registry.entry(model).settings and preset != "default"
        return Experiment(
            stage=stage, model=model, preset=preset if known else None, values=values, **how
        )


def _without(values: Mapping[str, Any], left_out: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values but for those of the recipe file, which are not for every system."""
    held = flat(left_out)
    found: dict[str, Any] = {}
    for path, value in flat(values).items():
        if path not in held or held[path] != value:
            found = merge(found, _at(path, value))
    return found


def _at(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


def _encoders(values: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("model.text.encoder", "model.vision.encoder")
    return {path: value for path, value in values.items() if path in wanted}


def tables_of(request: PaperRequest, datasets: Datasets) -> list[PaperTable]:
    """The tables that a request asks for, on these datasets.

    Raises:
        InputError: no such system or preset.
    """
    for model in request.models:
        if model not in registry.models():
            raise InputError(f'there is no model "{model}": {nearest(model, registry.models())}')
    presets = registry.entry("pmmrec").settings
    if request.preset not in presets:
        raise InputError(f'no preset "{request.preset}": {nearest(request.preset, presets)}')
    makers = Makers.of(request, datasets.sources)
    names = TABLES if request.table == "all" else (request.table,)
    return [_only(request.models, _BUILDERS[name](makers, datasets)) for name in names]


def _only(models: Sequence[str], table: PaperTable) -> PaperTable:
    """The table with the columns of some systems."""
    if not models or table.kind == "statistics" or not table.datasets:
        return table
    kept = tuple(
        column
        for column in table.columns
        if column.make is not None and column.make(table.datasets[0], 0).model in models
    )
    held = {column.key for column in kept}
    kept = tuple(
        column if column.against in held else replace(column, against="") for column in kept
    )
    return replace(table, columns=kept, ours=table.ours if table.ours in held else "")


def _needs(sources: Sequence[str]) -> tuple[str, ...]:
    return () if sources else ("pre-trained columns: there are no sources here (--sources)",)


def _table2(_: Makers, datasets: Datasets) -> PaperTable:
    columns = tuple(TableColumn(key=name) for name in STATISTICS)
    return PaperTable(
        name="table2",
        title="Table II: datasets after preprocessing",
        caption="The difference is in per cent of the paper's figure.",
        datasets=datasets.every,
        columns=columns,
        metrics=("hr@10",),
        kind="statistics",
    )


def _table3(makers: Makers, datasets: Datasets) -> PaperTable:
    def on_source(dataset: str, seed: int, model: str) -> Experiment:
        how = {"objectives": "all"} if model == "pmmrec" else {}
        return makers.scratch(dataset, seed, model, **how)

    columns = [
        TableColumn(
            key=name,
            make=partial(on_source, model=model),
            against="" if name == "PMMRec" else "PMMRec",
        )
        for name, model in SYSTEMS.items()
    ]
    return PaperTable(
        name="table3",
        title="Table III: nine systems on the sources",
        caption="From scratch on each source; PMMRec with all objectives.",
        datasets=datasets.sources,
        columns=(*columns, _floor(makers, "PMMRec")),
        metrics=EVERY,
        ours="PMMRec",
        rivals=tuple(name for name in SYSTEMS if name != "PMMRec"),
    )


def _floor(makers: Makers, against: str) -> TableColumn:
    full = {"model.loss": "full"}
    make = partial(makers.scratch, model="sasrec", values=full)
    return TableColumn(key=FLOOR, make=make, against=against, printed_as="")


def _table4(makers: Makers, datasets: Datasets) -> PaperTable:
    columns = [TableColumn(key="SASRec", make=partial(makers.scratch, model="sasrec"))]
    for name in ("UniSRec", "VQRec", "MoRec++"):
        columns += _pair(makers, name, SYSTEMS[name])
    every = partial(makers.scratch, objectives="all")
    alone, with_all = "PMMRec w/o PT", "PMMRec w/o PT, all objectives"
    columns += [
        TableColumn(key=alone, make=makers.scratch),
        TableColumn(key=with_all, make=every, against=alone, printed_as=alone),
        *_pair(makers, "PMMRec", "pmmrec")[1:],
        _floor(makers, "PMMRec w. PT"),
    ]
    return PaperTable(
        name="table4",
        title="Table IV: transfer to the downstream datasets",
        caption="w/o PT: from scratch; w. PT: pre-trained on all sources, then fine-tuned. The "
        "paper does not say whether PMMRec w/o PT learns by the next item alone or by all "
        "objectives: both are here, beside the same printed figure. The improvement is over PMMRec "
        "w/o PT, as most of the printed ones are; those of HM Clothes and HM Shoes follow from no "
        "two printed figures.",
        datasets=datasets.targets,
        columns=tuple(_possible(columns, makers)),
        ours="PMMRec w. PT" if makers.sources else "",
        rivals=(alone,),
        missing=_needs(makers.sources),
    )


def _pair(makers: Makers, name: str, model: str) -> list[TableColumn]:
    return [
        TableColumn(key=f"{name} w/o PT", make=partial(makers.scratch, model=model)),
        TableColumn(
            key=f"{name} w. PT",
            make=partial(makers.finetuned, model=model),
            against=f"{name} w/o PT",
        ),
    ]


def _possible(columns: Sequence[TableColumn], makers: Makers) -> Iterator[TableColumn]:
    """Without sources only what starts from scratch."""
    for column in columns:
        pretrained = getattr(column.make, "func", column.make) == makers.finetuned
        if makers.sources or not pretrained:
            yield (
                column
                if makers.sources or "w. PT" not in column.against
                else replace(column, against="")
            )


def _transfers(makers: Makers, **own: Any) -> list[TableColumn]:
    """Without pre-training, then by item encoders, user encoder, and whole."""
    found = [TableColumn(key="w/o PT", make=partial(makers.scratch, **_scratch(own)))]
    for key, transfer in (("w. PT-I", "item"), ("w. PT-U", "user"), ("w. PT", "full")):
        make = partial(makers.finetuned, transfer=transfer, **own)
        found.append(TableColumn(key=key, make=make, against="w/o PT"))
    return found


def _scratch(own: Mapping[str, Any]) -> dict[str, Any]:
    return {"values": own["own_values"]} if "own_values" in own else {}


def _table5(makers: Makers, datasets: Datasets) -> PaperTable:
    columns: list[TableColumn] = []
    for short, modality in (("T", "text"), ("V", "vision")):
        alone = f"{short} w/o PT"
        columns += [
            TableColumn(key=alone, make=partial(makers.scratch, modality=modality)),
            TableColumn(
                key=f"{short} w. PT",
                make=partial(makers.finetuned, transfer=modality),
                against=alone,
            ),
        ]
    columns += _transfers(makers)
    return PaperTable(
        name="table5",
        title="Table V: what is transferred",
        caption="T: text alone, V: picture alone, else both. w. PT-I: the item encoders are taken "
        "over, w. PT-U: the user encoder, w. PT: both.",
        datasets=datasets.targets,
        columns=tuple(_possible(columns, makers)),
        missing=_needs(makers.sources),
    )


def _table6(makers: Makers, datasets: Datasets) -> PaperTable:
    columns = [
        TableColumn(key="ID", make=partial(makers.scratch, model="sasrec")),
        TableColumn(key="w/o PT", make=makers.scratch),
        *(
            TableColumn(
                key=source,
                make=partial(makers.finetuned, sources=(source,)),
                against="w/o PT",
            )
            for source in makers.sources
        ),
    ]
    return PaperTable(
        name="table6",
        title="Table VI: pre-trained on a single source",
        caption="ID: SASRec. Under a source's name: pre-trained there alone, then fine-tuned.",
        datasets=datasets.targets,
        columns=tuple(columns),
        missing=_needs(makers.sources),
    )


def _table7(makers: Makers, datasets: Datasets) -> PaperTable:
    makes: dict[str, Maker] = {"SASRec": partial(makers.scratch, model="sasrec")}
    for key, modality in (("T", "text"), ("V", "vision"), ("both", None)):
        makes[key] = partial(makers.scratch, modality=modality, objectives="all")
    columns = []
    for ranked, ending in (("cold-all", ""), ("cold", ", held out")):
        for key, make in makes.items():
            columns.append(
                TableColumn(
                    key=key + ending,
                    make=make,
                    against="" if key == "SASRec" else f"SASRec{ending}",
                    ranked=ranked,
                    printed_as="" if ending else key,
                )
            )
    return PaperTable(
        name="table7",
        title="Table VII: cold items",
        caption="Cuts of users' sequences that end on an item with fewer than ten occurrences in "
        "training. First the paper's way: all of them, also those inside the training part. Then "
        "only those that are held out. Ranked without a share of popularity.",
        datasets=datasets.sources,
        columns=tuple(columns),
    )


ABLATIONS: dict[str, dict[str, Any]] = {
    "w/o NICL": {"model.weights.nicl": 0.0},
    "only VCL": {"model.nicl.family": "vcl"},
    "only NCL": {"model.nicl.family": "icl"},
    "w/o NID": {"model.weights.nid": 0.0},
    "w/o RCL": {"model.weights.rcl": 0.0},
    "all": {},
}
"""Column of Table VIII -> what its pre-training has otherwise."""


def _table8(makers: Makers, datasets: Datasets) -> PaperTable:
    columns = [
        TableColumn(
            key=key,
            make=partial(makers.finetuned, objectives="all", values=values),
            against="" if key == "all" else "all",
        )
        for key, values in ABLATIONS.items()
    ]
    shown = {dataset for dataset, _, _ in printed("table8")}
    some = tuple(name for name in datasets.targets if name in shown)
    targets = datasets.targets if makers.request.targets else some or datasets.targets
    return PaperTable(
        name="table8",
        title="Table VIII: pre-training without one objective",
        caption='"only NCL" is ICL (Eq. 7): section IV-G calls it NCL, "removing the next-item '
        "positive samples\", and no equation defines an NCL. The paper's rows HM Shoes and "
        "Amazon Shoes end at Table IV's figures of HM Clothes and Amazon Clothes: they are "
        "mislabelled there, and stand here as printed.",
        datasets=targets if makers.sources else (),
        columns=tuple(columns) if makers.sources else (),
        missing=_needs(makers.sources),
    )


def _figure3(makers: Makers, datasets: Datasets) -> PaperTable:
    own = {"train.patience": 0, **_by_epoch()}
    return PaperTable(
        name="figure3",
        title="Fig. 3: convergence with and without pre-training",
        caption="Early stopping is off. The paper's figure is a drawing and has no numbers.",
        datasets=datasets.targets,
        columns=tuple(_possible(_transfers(makers, own_values=own), makers)),
        metrics=("hr@10",),
        kind="curves",
        missing=_needs(makers.sources),
    )


def _by_epoch() -> dict[str, Any]:
    """Evaluation of the start and of the test items, where the trainer has it."""

    known = {each.name for each in fields(TrainOptions)}
    return {f"train.{name}": True for name in ("eval_start", "eval_test") if name in known}


_BUILDERS: dict[str, Callable[[Makers, Datasets], PaperTable]] = {
    "table2": _table2,
    "table3": _table3,
    "table4": _table4,
    "table5": _table5,
    "table6": _table6,
    "table7": _table7,
    "table8": _table8,
    "figure3": _figure3,
}


def asked_tables(home: Home, request: PaperRequest) -> tuple[Datasets, list[PaperTable]]:
    """What a home holds, and the tables of a request; errors as `find_datasets`, `tables_of`."""
    datasets = find_datasets(home, request.sources, request.targets)
    return datasets, tables_of(request, datasets)
