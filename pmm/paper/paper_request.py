"""What `pmm paper` can be asked: which table, on which data, how, and where the report goes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.model.model_entry import Objectives
from pmm.runs.request import RecipeRequest

Artefact = Literal[
    "table2", "table3", "table4", "table5", "table6", "table7", "table8", "figure3", "all"
]
ItemsOf = Literal["encoders", "vectors"]
Ranking = Literal["chosen", "none"]


@dataclass(frozen=True, kw_only=True)
class PaperRequest(RecipeRequest):
    """Which of the paper's tables, and how its runs are trained."""

    table: Annotated[Artefact, Flag(argument=True)] = field(kw_only=False)
    """table2 to table8, figure3, or all."""
    sources: Annotated[tuple[str, ...], Flag(group="data", commas=True, shown="those here")] = ()
    """What to pre-train on, by name, with commas between."""
    targets: Annotated[tuple[str, ...], Flag(group="data", commas=True, shown="those here")] = ()
    """Downstream datasets by name, with commas between."""
    models: Annotated[tuple[str, ...], Flag(group="model", commas=True, shown="all")] = ()
    """Only the columns of these systems, with commas between."""
    seeds: Annotated[int, Flag(group="training")] = 1
    """How many seeds, 0 and up; a claim needs three."""
    preset: Annotated[str, Flag(group="model")] = "default"
    """paper or official for PMMRec; systems that lack it keep their default."""
    items: Annotated[ItemsOf | None, Flag(group="model", shown="the recipe's")] = None
    """What PMMRec's items are made of; vectors need no GPU. MoRec++ has encoders in any case."""
    objectives: Annotated[Objectives | None, Flag(group="model", shown="all")] = None
    """Of PMMRec's pre-training, but for the ablations."""
    epochs: Annotated[int | None, Flag(group="training", shown="the recipe's")] = None
    """Of every training, at most."""
    pretrain_epochs: Annotated[int | None, Flag(group="training", shown="--epochs")] = None
    """Of the pre-trainings, at most."""

    def __post_init__(self) -> None:
        low = [
            f"--{name.replace('_', '-')} must be at least 1"
            for name in ("seeds", "epochs", "pretrain_epochs")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        if low:
            raise InputError("; ".join(low))


@dataclass(frozen=True, kw_only=True)
class PlanRequest(PaperRequest):
    """What `pmm paper plan` can be asked."""

    measure: Annotated[bool, Flag(group="output", name="--measure/--no-measure")] = True
    """Train a few steps of each kind of run that nothing is known of, for the estimate."""


@dataclass(frozen=True, kw_only=True)
class CampaignRequest(PaperRequest):
    """What `pmm paper run` can be asked."""

    jobs: Annotated[int, Flag(group="training")] = 1
    """Runs at once, each with one thread where there are several."""
    max_minutes: Annotated[float, Flag(group="training", shown="no limit")] = 0.0
    """Stop after so long; the same command goes on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jobs < 1 or not self.max_minutes >= 0:
            raise InputError("--jobs must be at least 1, --max-minutes at least 0")


@dataclass(frozen=True, kw_only=True)
class PaperReportRequest(PaperRequest):
    """What `pmm paper report` can be asked."""

    to: Annotated[tuple[Path, ...], Flag(group="output", shown="print Markdown")] = ()
    """A file that ends in .html, .md or .csv; repeatable."""
    ranking: Annotated[Ranking, Flag(group="data")] = "chosen"
    """Rankings with the share of popularity that the validation items chose, or without."""
    rows: Annotated[tuple[Path, ...], Flag(group="data")] = ()
    """Rows of a former campaign (claims.jsonl), shown beside; repeatable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [str(path) for path in self.to if path.suffix not in (".html", ".md", ".csv")]
        if wrong:
            raise InputError(f"--to {', '.join(wrong)}: end it in .html, .md or .csv")


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """What `pmm paper verify` can be asked."""

    report: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """A report of `pmm paper report`, .html or .md."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts, with the runs."""
