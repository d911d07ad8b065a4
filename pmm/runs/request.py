"""What a user asks of a training, apart from single values of the recipe."""

from dataclasses import dataclass
from pathlib import Path

from pmm.data.order import Mixing
from pmm.errors import InputError
from pmm.model.entry import Objectives, Stage, Transfer
from pmm.shards.kinds import Modality


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the command line was asked for, apart from single values."""

    stage: Stage = "scratch"
    model: str | None = None
    """By its name in `pmm.model.registry`. None: what the recipe file or the resumed run says, else
    PMMRec."""
    target: str | None = None
    sources: tuple[str, ...] = ()
    """Empty: the four of the paper."""
    mixing: Mixing | None = None
    start: Path | None = None
    """The run that a fine-tuning starts from."""
    transfer: Transfer | None = None
    objectives: Objectives | None = None
    """None: all four in pre-training, DAP alone elsewhere."""
    modality: Modality | None = None
    preset: str | None = None
    """One that the model has. None: the default. "original" is of the baselines, "paper" and
    "official" are of PMMRec."""

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: names the options.
        """
        if self.stage == "pretrain" and self.target:
            raise InputError("--stage pretrain is trained on --sources, not on a --target")
        if self.stage != "pretrain" and not self.target:
            raise InputError(f'--stage {self.stage} needs --target, e.g. --target "HM Shoes"')
        if self.stage != "pretrain" and (self.sources or self.mixing):
            raise InputError("--sources and --mixing belong to --stage pretrain")
        if self.stage == "finetune" and self.start is None:
            raise InputError("--stage finetune needs --from RUN, the folder of a pre-trained run")
        if self.stage != "finetune" and (self.start or self.transfer):
            raise InputError("--from and --transfer belong to --stage finetune")
        if self.stage == "finetune" and self.modality:
            raise InputError("in --stage finetune --transfer text or vision says the modality")
