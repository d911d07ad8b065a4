"""What PMMRec is made of, by the columns of docs/paper.md."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from pmm.data.categories import Negatives
from pmm.errors import InputError
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.losses.contrastive import ContrastOptions, RobustOptions
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.noised_items import CorruptionOptions
from pmm.model.pmmrec.fusion import Pool
from pmm.model.protocol import ModelOptions, faults_of_sizes
from pmm.model.user_encoders.choice import UserEncoderKind, UserEncoderOptions
from pmm.model.user_encoders.transformer import UserPositions
from pmm.shards.kinds import Modality, Reads

PmmrecPreset = Literal["default", "paper", "official"]
"""The columns of docs/paper.md."""
Fusion = Literal["merge", "concat", "sum", "film", "gated", "co_attention"]
ItemPart = Literal["encoders", "vectors"]
"""What an item's vector comes from: encoders whose top blocks train, or vectors that whole frozen
encoders made of it once (`pmm.model.pmmrec.vector_items`)."""
Residual = Literal["none", "item"]
Candidates = Literal["auto", "batch", "catalogue"]
"""Among which items the next one is told apart: the softmax over the items of a batch, or over all
of the catalogue. "auto": the catalogue for items of vectors, the batch for encoders, which cannot
encode the whole catalogue at each step."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the objectives in their sum (paper Eq. 12; R26); one with 0 is not computed."""

    dap: float = 1.0
    nicl: float = 0.0
    nid: float = 0.0
    rcl: float = 0.0

    def __post_init__(self) -> None:
        values = list(vars(self).values())
        if min(values) < 0 or not sum(values) > 0:
            raise ValueError("weights must be 0 or above, and one of them above 0")


ALL_OBJECTIVES = Weights(nicl=1.0, nid=1.0, rcl=1.0)
"""Of pre-training: the unweighted sum of Eq. 12."""


@dataclass(frozen=True, kw_only=True)
class PmmrecOptions(UserEncoderOptions, ModelOptions):
    """What the model is made of; the defaults are the column `default` of docs/paper.md."""

    name: str = "pmmrec"
    """Of the model in the registry."""
    text: TextSpec = field(default_factory=TextSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    modality: Modality = "both"
    """With one modality the other encoder and the fusion are not built, and its data never read."""
    items: ItemPart = "encoders"
    """"encoders": text and pictures through encoders that are fine-tuned, as in the paper.
    "vectors": their frozen vectors through a small network; an epoch takes seconds. What is said
    of fusion and pooling counts for "encoders" alone."""
    width: int = 0
    """Width d of items and users; 0 takes the text encoder's (with none, the vision tower's), or
    128 for "vectors"."""
    max_length: int = 20
    """L, the most recent items that the user encoder reads (R32)."""
    dropout: float = 0.1
    """Of the fusion block and the user encoder."""
    fusion: Fusion = "merge"
    """What makes an item's vector of text and picture. "merge": attention over the tokens of both
    (Eq. 3). MoRec++'s: of one vector a modality ("concat", "sum", "film", "gated"), or tokens that
    attend to those of the other side ("co_attention")."""
    fusion_pool: Pool = "mean"
    """Of "merge" alone, as the next."""
    fusion_type_embedding: bool = True
    modality_pool: Pool = "mean"
    """The item's vector from one modality: masked mean of its tokens, or the class token (R4)."""
    modality_gelu: bool = True
    """A GELU behind that vector where the fusion is not "merge"."""
    residual: Residual = "none"
    """"item": a trained vector of each item of the target's catalogue is added to what its content
    gives. It is dropped on transfer, other targets are ranked without, and pre-training has none
    (`pmm.model.item_parts.item_residual`)."""
    residual_from: int = 10
    """Training occurrences that an item has at least to have one: the others are cold, as
    `--cold-below` of the ingest says, and keep their content's vector."""
    residual_drop: float = 0.3
    """Share of a batch's items that are without it while training."""
    residual_rate: float = 1.0
    """Its learning rate, as a multiple of train.lr; it has no weight decay."""
    user_encoder: UserEncoderKind = "hstu"
    user_blocks: int = 1
    user_heads: int = 2
    user_positions: UserPositions = "rope"
    user_convolution: int = 3
    dap_candidates: Candidates = "auto"
    """Among the catalogue what is said of logq, reject and negatives counts for NICL alone.
    Pre-training takes "batch"."""
    dap_prior: float = 0.5
    """Among the catalogue: this share of the logarithm of an item's popularity in training is added
    to its logit while training. What the scores learn is then how well an item fits beyond that, so
    items that nobody had are not pushed down; ranking gives popularity back
    (`train.choose_popularity`). 1 is what a batch's items amount to, which are drawn by their
    popularity; 0 learns the whole of it."""
    dap_logq: LogQ = "off"
    """Off, one model serves warm and cold items: how much popularity a ranking holds is chosen when
    ranking (`train.choose_popularity`)."""
    dap_reject: Reject = "same_ids"
    dap_similarity: Similarity = "cosine"
    dap_tau: float = 0.0
    """Divides the logits. 0: what fits the similarity, 0.1 for the cosine and 1 for the product."""
    dap_tau_learned: bool = False
    """Whether it trains on from there, by its logarithm, between 0.01 and 10."""
    negatives: Negatives = "batch"
    """Of DAP and NICL: all other items of a batch, or those of the item's own source or category
    alone. Pre-training from the default preset takes "category" where the sources have any, else
    "source" (docs/paper.md)."""
    weights: Weights = field(default_factory=Weights)
    nicl: ContrastOptions = field(default_factory=ContrastOptions)
    corruption: CorruptionOptions = field(default_factory=CorruptionOptions)
    """Of the sequences that NID and RCL read."""
    nid_relu: bool = False
    """The ReLU in front of the softmax that Eq. 10 prints (R27)."""
    rcl: RobustOptions = field(default_factory=RobustOptions)

    def __post_init__(self) -> None:
        found = faults_of_sizes(self, {"width": 0, "residual_from": 0})
        if self.dap_candidates == "catalogue" and self.items != "vectors":
            found.append('dap_candidates = "catalogue" needs items = "vectors"')
        if not 0 <= self.dap_prior < math.inf:
            found.append("dap_prior must be 0 or above")
        if not 0 <= self.residual_drop < 1:
            found.append("residual_drop must be at least 0 and below 1")
        if not 0 < self.residual_rate < math.inf:
            found.append("residual_rate must be above 0")
        if found:
            raise ValueError("; ".join(found))

    @property
    def candidates(self) -> Literal["batch", "catalogue"]:
        """Among which items the next one is told apart."""
        if self.dap_candidates == "auto":
            return "catalogue" if self.items == "vectors" else "batch"
        return self.dap_candidates

    @property
    def temperature(self) -> float:
        """What divides the logits of next-item prediction, or is learned from there."""
        return self.dap_tau or (0.1 if self.dap_similarity == "cosine" else 1.0)

    @property
    def reads(self) -> Reads:
        """Nothing where items are made of vectors."""
        return self.modality if self.items == "encoders" else "none"

    @property
    def content(self) -> Modality:
        """As content or as vectors."""
        return self.modality

    @property
    def of_one_target(self) -> tuple[str, ...]:
        """The residuals."""
        return ("residual",) if self.residual == "item" else ()

    def elsewhere(self) -> Self:
        """Without residuals."""
        return replace(self, residual="none")


def preset(name: PmmrecPreset) -> PmmrecOptions:
    """The options of a column of docs/paper.md.

    `paper` leaves out four things that stand in the paper: the printed negatives of Eq. 5 to 8,
    which its own sentences contradict (R13); the factors 1 / (B (L - 1)) and 1 / (B L) of Eq. 5, 9
    and 10, as sequences differ in length (R18); 50 words of a text (R36: the shards have so many
    tokens, `pmm shard --max-tokens`); and ranking over all items, those of the history too (R42:
    `pmm evaluate --keep-history`). `official` cannot have dropout in the frozen blocks (R12) as the
    published code has.

    >>> preset("paper").fusion_pool, preset("official").vision.image_norm
    ('cls', 'half')
    """
    match name:
        case "default":
            return PmmrecOptions()
        case "paper":
            return PmmrecOptions(
                dap_candidates="batch",
                dap_similarity="dot",
                dap_tau=1.0,
                fusion_pool="cls",
                modality_pool="cls",
                fusion_type_embedding=False,
                user_encoder="transformer",
                user_blocks=2,
                user_positions="absolute",
                user_convolution=0,
                corruption=CorruptionOptions(last_item=True),
                nid_relu=True,
                rcl=RobustOptions(similarity="dot", tau=1.0),
            )
        case "official":
            vision = VisionSpec(image_norm="half")
            return PmmrecOptions(
                vision=vision,
                dap_candidates="batch",
                dap_similarity="dot",
                dap_tau=1.0,
                fusion_type_embedding=False,
                user_encoder="transformer",
                user_blocks=2,
                user_positions="absolute",
                user_convolution=0,
                dap_logq="on",
            )
    raise InputError(f"no preset {name!r} (default, paper, official)")
