"""MoRec++: PMMRec's encoders under another fusion, with next-item prediction alone.

After Yuan et al. 2023. The paper does not say which fusion it used; those of its published code are
in `pmm.model.pmmrec.item_fusion`. With "merge" it is PMMRec without its auxiliary objectives, the
controlled comparison of the two.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pmm.model.model_entry import DEFAULT, Asked, ModelEntry, Settings
from pmm.model.pmmrec.fusion import Pool
from pmm.model.pmmrec.pmmrec_entry import (
    PARTS,
    SPACE,
    build,
    of_run,
    on_sources,
    parts,
    read_vectors,
    training,
    with_modality,
)
from pmm.model.pmmrec.pmmrec_options import Fusion, PmmrecOptions, Weights


@dataclass(frozen=True, kw_only=True)
class MorecOptions(PmmrecOptions):
    """What MoRec++ is made of: GELU(Linear(class token)) of each encoder, fused, and DAP alone.

    >>> MorecOptions().fusion, MorecOptions().modality_pool, MorecOptions().weights.nicl
    ('concat', 'cls', 0.0)
    """

    name: Literal["morec"] = "morec"
    fusion: Fusion = "concat"
    modality_pool: Pool = "cls"

    def __post_init__(self) -> None:
        super().__post_init__()
        auxiliary = [name for name in ("nicl", "nid", "rcl") if getattr(self.weights, name)]
        if auxiliary:
            raise ValueError(
                f"MoRec++ has no objective {' and no '.join(auxiliary)}: set "
                f"{', '.join(f'weights.{name} = 0' for name in auxiliary)}, or name = 'pmmrec'"
            )


def at_stage(options: MorecOptions, asked: Asked) -> MorecOptions:
    """The modality that is asked for; the objective is the same in every stage, and pre-training
    has no residuals."""
    return replace(on_sources(with_modality(options, asked), asked), weights=Weights())


ENTRY = ModelEntry(
    knows_by="text and picture",
    settings={DEFAULT: Settings(options=MorecOptions())},
    space=SPACE,
    build=build,
    read_vectors=read_vectors,
    transfers=PARTS,
    parts=parts,
    training=training,
    at_stage=at_stage,
    of_run=of_run,
    objectives=("dap",),
    modalities=("both", "text", "vision"),
)
