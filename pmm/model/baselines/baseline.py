"""Baselines: an item encoder and a user encoder from one grid, trained to name the next item.

A baseline is a name with its cell of the grid and its options; what several have is shared: the
user encoders, the frozen vectors, the losses. MoRec++ trains encoders and is made of PMMRec's parts
(`pmm.model.pmmrec.pmmrec`).

Shape suffixes: I distinct items, N items of the catalogue, R prediction rows, F width of frozen
vectors, D width, W what the user encoder is given of an item, B users, S = L + 1 slots, L inputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.model.baselines.adaptor import MixtureAdaptor
from pmm.model.baselines.carca import CarcaEncoder, CarcaHead, ItemMix
from pmm.model.baselines.code_items import CodeItems, CodePermutation, fake_codes
from pmm.model.baselines.fdsa import FdsaEncoder
from pmm.model.baselines.item_table import ItemTable
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.item_features import Features, ItemFeatures, Scaling
from pmm.model.features.quantise import learn_codes, learn_codes_faiss
from pmm.model.losses.next_item import (
    LogQ,
    Reject,
    Similarity,
    in_batch_softmax,
    own_columns,
    predicted,
    scored_items,
    softmax_over_slots,
)
from pmm.model.losses.of_baselines import (
    SameTarget,
    binary_cross_entropy,
    bpr,
    cosine_softmax,
    draw_negatives,
    full_softmax,
    prediction_rows,
    sequence_softmax,
)
from pmm.model.user_encoders.dilated_convolutions import Insertion, NextItNetEncoder
from pmm.model.user_encoders.gru import GruEncoder
from pmm.model.user_encoders.post_norm import PostNormEncoder
from pmm.model.user_encoders.transformer import UserEncoder
from pmm.shards.items import Items
from pmm.shards.kinds import Reads

BaselineName = Literal[
    "sasrec", "gru4rec", "nextitnet", "fdsa", "carca", "unisrec", "vqrec", "peterrec"
]
Loss = Literal["in_batch", "full", "bce", "bpr", "cosine"]
Order = Literal["none", "straight", "official"]
ItemKind = Literal["ids", "ids+features", "adaptor", "projection", "codes"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a baseline stands in the grid."""

    items: ItemKind
    """What stands for an item: its row of a table, that and its frozen vectors, or what a mixture
    of experts, a linear layer or a table of codes makes of the frozen vectors alone."""
    users: Literal["sasrec", "gru", "nextitnet", "post_norm", "fdsa", "carca"]
    """What reads a user's items."""

    @property
    def knows_ids(self) -> bool:
        """Whether items are known by their numbers, which mean nothing on other data."""
        return self.items in ("ids", "ids+features")

    @property
    def reads(self) -> str:
        """What is known of an item, in words."""
        return {"ids": "ids", "ids+features": "ids and frozen vectors"}.get(
            self.items, "frozen vectors"
        )


GRID: dict[BaselineName, Cell] = {
    "sasrec": Cell(items="ids", users="sasrec"),
    "gru4rec": Cell(items="ids", users="gru"),
    "nextitnet": Cell(items="ids", users="nextitnet"),
    "fdsa": Cell(items="ids+features", users="fdsa"),
    "carca": Cell(items="ids+features", users="carca"),
    "unisrec": Cell(items="adaptor", users="post_norm"),
    "vqrec": Cell(items="codes", users="post_norm"),
    "peterrec": Cell(items="projection", users="nextitnet"),
}


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """What a baseline is made of; `baseline_options` has each one's defaults and their sources."""

    name: BaselineName = "sasrec"
    width: int = 128
    """Width d of items and users."""
    max_length: int = 20
    """L, the most recent items that the user encoder reads (R32)."""
    dropout: float = 0.1
    table_std: float = 0.02
    """Of the table of ids at the start, whose values are normal; 0: Xavier-normal, as in the
    published code, which is slow to learn on a small catalogue (docs/log.md)."""
    user_blocks: int = 2
    """Of Transformers and CARCA; layers of the GRU; repeats of NextItNet's pair of blocks."""
    dense: bool = False
    """GRURec, NextItNet, PeterRec: a linear layer behind the user encoder, as RecBole has it."""
    user_heads: int = 2
    inner: int = 256
    """Width of the feed-forward layers of FDSA's, UniSRec's and VQ-Rec's Transformers."""
    loss: Loss = "in_batch"
    """"in_batch": PMMRec's softmax over the batch's slots. "full": over all items. "bce", "bpr":
    one drawn negative at each input. "cosine": over the batch's targets, UniSRec's and VQ-Rec's
    pre-training."""
    logq: LogQ = "on"
    """Of the in-batch softmax, as `reject`; both mean what PMMRec's `dap_...` mean."""
    reject: Reject = "same_ids"
    similarity: Similarity = "dot"
    """Of "in_batch" and "full"; "cosine" is by cosine, "bce" and "bpr" by product."""
    tau: float = 1.0
    text: TextSpec = field(default_factory=TextSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    features: Features = "none"
    """Whose frozen vectors are read."""
    scaling: Scaling = "none"
    """Of the frozen vectors, before anything reads them."""
    causal: bool = True
    """CARCA: no position sees later items; False as published."""
    residual: bool = True
    """CARCA: the score's multiplicative residual."""
    transductive: bool = False
    """UniSRec: a vector of its own for each item is added to the adaptor's."""
    same_target: SameTarget = "masked"
    """"cosine": what rows with the same next item do to each other."""
    sequence_weight: float = 0.0
    """UniSRec: weight of the contrast of a sequence with one that lost items."""
    fake_ratio: float = 0.75
    """VQ-Rec: the probability with which a digit of a synthetic negative is drawn anew."""
    parts: int = 32
    """VQ-Rec: codes of an item."""
    centroids: int = 256
    """VQ-Rec: values of a code."""
    quantiser: Literal["own", "faiss"] = "own"
    """VQ-Rec: what learns the codes; "faiss" as published, which must be installed."""
    permutation: Order = "none"
    """VQ-Rec: whether the first epochs learn which code's vector each code of this catalogue shall
    have; "official" as published, where nothing is learned (`pmm.model.baselines.code_items`)."""
    permutation_epochs: int = 5
    """VQ-Rec: how many epochs; nothing else trains in them."""
    adapters: bool = False
    """PeterRec: patches in every block; where they are, nothing else of the user encoder but the
    blocks' second norms trains."""
    insertion: Insertion = "serial"
    """PeterRec: whether an adapter reads its convolution's output or its input."""
    freeze_users: bool = False
    """UniSRec, VQ-Rec: the user encoder's positions and blocks do not train."""

    def __post_init__(self) -> None:
        least = {"width": 1, "max_length": 1, "user_blocks": 0, "user_heads": 1, "inner": 1}
        least |= {"parts": 1, "centroids": 2, "sequence_weight": 0, "permutation_epochs": 0}
        least["table_std"] = 0
        faults = [
            f"{name} must be at least {n}" for name, n in least.items() if getattr(self, name) < n
        ]
        if not 0 <= self.dropout < 1:
            faults.append("dropout must be at least 0 and below 1")
        if not 0 <= self.fake_ratio <= 1:
            faults.append("fake_ratio must be from 0 to 1")
        if not self.tau > 0:
            faults.append("tau must be above 0")
        reads = GRID[self.name].items != "ids"
        if reads and self.features == "none":
            faults.append(f"{self.name} reads frozen vectors: features must not be none")
        if not reads and self.features != "none":
            faults.append(f"{self.name} reads no frozen vectors: features must be none")
        if self.dense and GRID[self.name].users not in ("gru", "nextitnet"):
            faults.append(f"{self.name} has no linear layer behind its user encoder: no dense")
        coded = (self.permutation, self.quantiser) != ("none", "own")
        if coded and GRID[self.name].items != "codes":
            faults.append(f"{self.name} has no codes: permutation must be none, quantiser own")
        if self.name == "carca" and self.loss not in ("in_batch", "bce"):
            faults.append("carca scores items by attention: its loss is in_batch or bce")
        if self.name == "carca" and self.loss == "in_batch" and not self.causal:
            faults.append("carca: in_batch needs causal, as each position's target lies ahead")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def modality(self) -> Reads:
        """What of an item's content is in a batch: nothing, frozen vectors go by its number."""
        return "none"


FEATURES: dict[BaselineName, Features] = {
    "fdsa": "text",
    "carca": "both",
    "unisrec": "text",
    "vqrec": "text",
    "peterrec": "both",
}


def baseline_options(name: BaselineName, *, original: bool = False) -> BaselineOptions:
    """A baseline's own defaults; with `original` those of its own paper or published code.

    By default all have width 128, twenty items, SASRec's dropout and the loss that PMMRec has too,
    so that the table compares what the models know; docs/paper.md, Baselines, has the sources.
    """
    values = (_DEFAULTS | (_ORIGINAL if original else {})).get(name, {})
    return replace(BaselineOptions(name=name, features=FEATURES.get(name, "none")), **values)


def at_stage(
    options: BaselineOptions, stage: Literal["pretrain", "finetune"], *, original: bool = False
) -> BaselineOptions:
    """What a baseline that transfers is before and after its transfer.

    UniSRec and VQ-Rec compare sequences with a batch's targets first, and with all items of the
    target later, when the user encoder's positions and blocks stand still, and VQ-Rec's codes find
    their places first. PeterRec's user encoder is patched then. With `original` UniSRec has ids
    after the transfer, as published, and VQ-Rec's order of codes is the published one.
    """
    after = stage == "finetune"
    match options.name:
        case "unisrec":
            weight = 0.0 if after else 1e-3
            loss: Loss = "full" if after else "cosine"
            return replace(
                options,
                loss=loss,
                sequence_weight=weight,
                freeze_users=after,
                transductive=after and (original or options.transductive),
            )
        case "vqrec":
            order: Order = "none"
            if after:
                order = "official" if original else "straight"
            loss = "full" if after else "cosine"
            return replace(options, loss=loss, freeze_users=after, permutation=order)
        case "peterrec":
            return replace(options, adapters=after)
    return options


_DEFAULTS: dict[str, dict[str, Any]] = {
    "gru4rec": {"table_std": 0.0},
    "fdsa": {"scaling": "standardise"},
    "carca": {"scaling": "standardise", "user_heads": 4, "dropout": 0.3, "table_std": 0.0},
    "unisrec": {"loss": "full", "similarity": "cosine", "tau": 0.07, "dropout": 0.2},
    "vqrec": {"loss": "full", "similarity": "cosine", "tau": 0.07, "dropout": 0.2},
    "peterrec": {"scaling": "standardise"},
}
_ORIGINAL: dict[str, dict[str, Any]] = {
    "sasrec": {"width": 50, "max_length": 50, "user_heads": 1, "dropout": 0.2, "loss": "bce"},
    "gru4rec": {"width": 100, "user_blocks": 1, "loss": "bpr", "table_std": 0.0},
    "nextitnet": {"width": 100, "loss": "full"},
    "fdsa": {"width": 64, "max_length": 50, "dropout": 0.5, "loss": "full"},
    "carca": {
        "width": 390,
        "table_std": 0.0,
        "max_length": 35,
        "user_blocks": 3,
        "user_heads": 3,
        "dropout": 0.3,
        "loss": "bce",
        "causal": False,
        "residual": False,
    },
    "unisrec": {
        "width": 300,
        "max_length": 50,
        "dropout": 0.5,
        "loss": "full",
        "similarity": "cosine",
        "tau": 0.07,
        "transductive": True,
        "same_target": "official",
    },
    "vqrec": {
        "width": 300,
        "max_length": 50,
        "dropout": 0.5,
        "loss": "full",
        "similarity": "cosine",
        "tau": 0.07,
        "same_target": "official",
    },
    "peterrec": {"width": 256, "user_blocks": 4, "loss": "full", "scaling": "standardise"},
}


class Baseline(nn.Module):
    """A baseline on a catalogue; all its weights are float32."""

    text = vision = None
    """The encoders that PMMRec trains; a baseline reads what they made once for all."""
    recompute = False
    """Asked of every model; there is little to compute again here."""
    feature_NF: Tensor
    permuted: Tensor
    """Whether the order of VQ-Rec's codes is fixed."""
    frozen_by: dict[str, str]
    """"text", "vision" -> digest of the encoder whose frozen vectors are read."""

    def __init__(
        self,
        options: BaselineOptions,
        n_items: int,
        features: ItemFeatures | None = None,
        *,
        fresh: bool = True,
    ) -> None:
        """Build it.

        Args:
            options: which, and of what.
            n_items: N.
            features: of the catalogue (`read_features`), where the baseline reads any.
            fresh: learn the items' codes; False: they come from a checkpoint, as the weights do.
        """
        super().__init__()
        if (features is None) != (options.features == "none"):
            raise ValueError(f"{options.name}: features are read or not, but here they are not so")
        self.options, self.n_items = options, n_items
        self.max_length, self.width = options.max_length, options.width
        self.cell = GRID[options.name]
        fields = () if features is None else features.fields
        self.frozen_by = {} if features is None else dict(features.made_by)
        self.widths = [each_NF.shape[1] for each_NF in fields]
        has_table = self.cell.knows_ids or options.transductive
        self.items = ItemTable(n_items, self.width, std=options.table_std) if has_table else None
        self.adaptor: MixtureAdaptor | None = None
        self.projection: nn.Linear | None = None
        self.codes: CodeItems | None = None
        self.permutation: CodePermutation | None = None
        self.mix: ItemMix | None = None
        self.head: CarcaHead | None = None
        self._build_items(features, fresh)
        if features is not None and self.cell.items != "codes":
            self.register_buffer("feature_NF", features.joined(), persistent=False)
        self.user_encoder = self._build_users()

    def _build_items(self, features: ItemFeatures | None, fresh: bool) -> None:
        options, whole = self.options, sum(self.widths)
        match self.cell.items:
            case "adaptor":
                self.adaptor = MixtureAdaptor(whole, self.width)
            case "projection":
                # Of standardised vectors it makes values of N(0, 0.1): no larger than a table's.
                self.projection = linear = nn.Linear(whole, self.width)
                nn.init.normal_(linear.weight, std=0.1 / math.sqrt(whole))
                nn.init.zeros_(linear.bias)
            case "codes":
                assert features is not None
                code_NK = torch.zeros(self.n_items, options.parts, dtype=torch.uint8)
                if fresh:
                    code_NK = learned_codes(features, options)
                self.codes = CodeItems(code_NK, self.width, options.centroids)
                if options.permutation != "none":
                    self.permutation = CodePermutation(
                        options.parts, options.centroids, mode=options.permutation
                    )
                    self.register_buffer("permuted", torch.tensor(False))
            case "ids+features" if self.cell.users == "carca":
                self.mix = ItemMix(self.width, whole)

    def _build_users(self) -> nn.Module:
        options, length = self.options, self.options.max_length
        blocks, heads, dropout = options.user_blocks, options.user_heads, options.dropout
        match self.cell.users:
            case "sasrec":
                encoder = UserEncoder(
                    self.width, max_length=length, blocks=blocks, heads=heads, dropout=dropout
                )
                # Xavier's would be many times as long as a row of a large table, and hide the item.
                nn.init.zeros_(encoder.position.weight)
                return encoder
            case "gru":
                return GruEncoder(self.width, layers=blocks, dropout=dropout, dense=options.dense)
            case "nextitnet":
                convolutions = NextItNetEncoder(
                    self.width,
                    repeats=blocks,
                    dense=options.dense,
                    adapter=options.insertion if options.adapters else None,
                )
                if options.adapters:
                    convolutions.freeze_for_patching()
                return convolutions
            case "post_norm":
                made = PostNormEncoder(
                    self.width,
                    max_length=length,
                    blocks=blocks,
                    heads=heads,
                    inner=options.inner,
                    dropout=dropout,
                )
                if options.freeze_users:
                    made.input.position.requires_grad_(False)
                    made.transformer.requires_grad_(False)
                return made
            case "fdsa":
                return FdsaEncoder(
                    self.width,
                    fields=self.widths,
                    max_length=length,
                    blocks=blocks,
                    heads=heads,
                    inner=options.inner,
                    dropout=dropout,
                )
            case "carca":
                self.head = CarcaHead(
                    self.width,
                    heads=heads,
                    dropout=dropout,
                    residual=options.residual,
                    causal=options.causal,
                )
                return CarcaEncoder(
                    self.width, blocks=blocks, heads=heads, dropout=dropout, causal=options.causal
                )

    def encode_items(self, items: Items) -> Tensor:
        """What stands for distinct items, [I, W]; their content is not read, but their numbers."""
        return self.of_numbers(items.item_I)

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """The same of items by their catalogue numbers.

        W is D; with FDSA 2 D, the id's vector and the features'; with CARCA 2 D, the item as it
        stands in a profile and as a candidate.
        """
        id_ID = None if self.items is None else self.items.table(item_I)
        if self.codes is not None:
            coded_ID: Tensor = self.codes.of_codes(self.codes.codes(item_I), self._table())
            return coded_ID
        if not self.widths:
            assert id_ID is not None
            return id_ID  # type: ignore[no-any-return]
        feature_IF = self.feature_NF[item_I - 1]
        if self.mix is not None:
            return torch.cat(self.mix(id_ID, feature_IF), dim=1)
        if isinstance(self.user_encoder, FdsaEncoder):
            assert id_ID is not None
            embedded_ID = self.user_encoder.embed_features(
                torch.split(feature_IF, self.widths, dim=1)
            )
            return torch.cat([id_ID, embedded_ID], dim=1)
        made = self.projection if self.adaptor is None else self.adaptor
        assert made is not None
        made_ID: Tensor = made(feature_IF)
        return made_ID if id_ID is None else made_ID + id_ID

    def _table(self) -> Tensor | None:
        """VQ-Rec's vectors of codes where their order is being learned."""
        if self.codes is None or self.permutation is None or self.permuted:
            return None
        table_RD: Tensor = self.permutation(self.codes.table.weight)
        return table_RD

    def begin_epoch(self, epoch: int) -> None:
        """What changes with an epoch, counted from 0: VQ-Rec's order is learned, and then fixed."""
        if self.codes is None or self.permutation is None or self.permuted:
            return
        if epoch >= self.options.permutation_epochs:
            self.codes.permute(self.permutation.fixed())
            self.permuted.fill_(True)

    @property
    def settling(self) -> bool:
        """Whether VQ-Rec's order is still being learned: early stopping waits for its end."""
        return self.permutation is not None and not self.permuted

    def settle_gradients(self) -> None:
        """After the backward pass: while VQ-Rec's order is learned, nothing else moves."""
        if self.permutation is not None and self.settling:
            kept = set(self.permutation.parameters())
            for tensor in self.parameters():
                if tensor not in kept:
                    tensor.grad = None

    def encode_users(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of left-padded windows of items; zeros at padding."""
        if isinstance(self.user_encoder, FdsaEncoder):
            e_BLD, feature_BLD = e_BLW.chunk(2, dim=2)
            hidden_BLD: Tensor = self.user_encoder.join_streams(e_BLD, feature_BLD, valid_BL)
        else:
            hidden_BLD = self.user_encoder(e_BLW[:, :, : self.width], valid_BL)
        return hidden_BLD

    def user_vectors(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """What users are scored with, [B, D]: the hidden state at the last position."""
        if isinstance(self.user_encoder, UserEncoder | PostNormEncoder):
            hidden_B1D: Tensor = self.user_encoder(e_BLW, valid_BL, last=True)
            return hidden_B1D[:, 0]
        return self.encode_users(e_BLW, valid_BL)[:, -1]

    def item_vectors(self, e_IW: Tensor) -> Tensor:
        """What items are scored with, [I, D]: a score is its dot product with the user's vector.

        CARCA's score is none (`scores_of_users`); for it, what its head reads of a candidate.
        """
        if self.head is not None:
            return e_IW[:, self.width :]
        cosine = self.options.similarity == "cosine" or self.options.loss == "cosine"
        return scored_items(e_IW[:, : self.width], "cosine" if cosine else "dot")

    @property
    def scores_of_users(self) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """Scores [B, I] from windows [B, L, W], bool [B, L] and `item_vectors` [I, D].

        None where they are dot products of `user_vectors` and `item_vectors`.
        """
        if self.head is None:
            return None
        head = self.head

        def scores(e_BLW: Tensor, valid_BL: Tensor, item_ID: Tensor) -> Tensor:
            return head.last_scores(self.encode_users(e_BLW, valid_BL), valid_BL, item_ID)

        return scores

    def loss(self, batch: Batch, generator: Generator | None = None) -> Tensor:
        """The loss of the next item at each input, a float32 scalar.

        Args:
            batch: sequences over distinct items.
            generator: of drawn negatives and of what pre-training makes up, on the batch's device.
        """
        item_IW = self.encode_items(batch.items)
        slot_BL = batch.slot_BS[:, :-1]
        e_BLW = functional.pad(item_IW, (0, 0, 1, 0))[slot_BL]
        user_BLD = self.encode_users(e_BLW, slot_BL > 0)
        match self.options.loss:
            case "in_batch":
                return self._in_batch(user_BLD, item_IW, batch)
            case "full":
                every = torch.arange(1, self.n_items + 1, device=slot_BL.device)
                return full_softmax(
                    user_BLD,
                    self.of_numbers(every)[:, : self.width],
                    functional.pad(batch.items.item_I, (1, 0))[batch.slot_BS],
                    similarity=self.options.similarity,
                    tau=self.options.tau,
                )
            case "cosine":
                return self._cosine(user_BLD, item_IW, e_BLW, batch, _given(generator))
            case _:
                return self._drawn(user_BLD, item_IW, batch, _given(generator))

    def _in_batch(self, user_BLD: Tensor, item_IW: Tensor, batch: Batch) -> Tensor:
        options = self.options
        if self.head is not None:
            valid_BL = batch.slot_BS[:, :-1] > 0
            z_BLI = self.head.scores(user_BLD, valid_BL, item_IW[:, self.width :])
            z_RI = z_BLI[predicted(batch.slot_BS)] / options.tau
            return softmax_over_slots(
                z_RI, batch.slot_BS, batch.log_p_I, logq=options.logq, reject=options.reject
            )
        return in_batch_softmax(
            user_BLD,
            item_IW[:, : self.width],
            batch.slot_BS,
            batch.log_p_I,
            logq=options.logq,
            reject=options.reject,
            similarity=options.similarity,
            tau=options.tau,
        )

    def _drawn(
        self, user_BLD: Tensor, item_IW: Tensor, batch: Batch, generator: Generator
    ) -> Tensor:
        """One negative at each input, from outside the user's items."""
        number_BS = functional.pad(batch.items.item_I, (1, 0))[batch.slot_BS]
        negative_BL = draw_negatives(number_BS, self.n_items, generator)
        distinct, place_BL = torch.unique(negative_BL, return_inverse=True)
        known_IW = torch.cat([item_IW, self.of_numbers(distinct)])
        place_BL = place_BL + len(item_IW) + 1
        if self.head is not None:
            return self._pairs(user_BLD, known_IW[:, self.width :], batch.slot_BS, place_BL)
        compare = bpr if self.options.loss == "bpr" else binary_cross_entropy
        return compare(user_BLD, known_IW[:, : self.width], batch.slot_BS, place_BL)

    def _pairs(
        self, profile_BLD: Tensor, known_ID: Tensor, slot_BS: Tensor, negative_BL: Tensor
    ) -> Tensor:
        """CARCA's published loss: the next item and a drawn one at each input."""
        assert self.head is not None
        valid_BL, row_BL = slot_BS[:, :-1] > 0, predicted(slot_BS)
        next_BLD, drawn_BLD = (
            functional.pad(known_ID, (0, 0, 1, 0))[each] for each in (slot_BS[:, 1:], negative_BL)
        )
        z_R = self.head.pair_scores(profile_BLD, valid_BL, next_BLD)[row_BL]
        other_R = self.head.pair_scores(profile_BLD, valid_BL, drawn_BLD)[row_BL]
        total = functional.softplus(-z_R) + functional.softplus(other_R)
        return total.sum() / max(1, len(z_R))

    def _cosine(
        self,
        user_BLD: Tensor,
        item_IW: Tensor,
        e_BLW: Tensor,
        batch: Batch,
        generator: Generator,
    ) -> Tensor:
        """Pre-training of UniSRec and VQ-Rec, at every input."""
        options, rows = self.options, prediction_rows(user_BLD, batch.slot_BS)
        own_BI = own_columns(batch.slot_BS, len(item_IW)) > 0
        made_up_RD = None
        if self.codes is not None:
            code_RK = self.codes.codes(batch.items.item_I[rows.target_N])
            fake_RK = fake_codes(code_RK, options.fake_ratio, generator, options.centroids)
            made_up_RD = self.codes.of_codes(fake_RK, self._table())
        loss = cosine_softmax(
            rows.user_ND,
            item_IW[:, : self.width],
            rows.target_N,
            tau=options.tau,
            same_target=options.same_target,
            barred_NI=own_BI[rows.owner_N],
            synthetic_ND=made_up_RD,
        )
        if not options.sequence_weight:
            return loss
        shorter_BLW, valid_BL = dropped(e_BLW, batch.slot_BS[:, :-1] > 0, generator)
        augmented_BLD = self.encode_users(shorter_BLW, valid_BL)
        some_B = batch.slot_BS[:, -2] > 0
        contrast = sequence_softmax(
            user_BLD[some_B, -1],
            augmented_BLD[some_B, -1],
            batch.slot_BS[some_B, -1] - 1,
            tau=options.tau,
            same_target=options.same_target,
        )
        return loss + options.sequence_weight * contrast

    def forward(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """What training asks of every model: "loss", the scalar to minimise.

        Args:
            batch: sequences over distinct items.
            generator: as of `loss`.
        """
        return {"loss": self.loss(batch, generator)}


def dropped(
    e_BLW: Tensor, valid_BL: Tensor, generator: Generator, keep: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Windows that lost items, those left moved to the right, and which places hold one.

    Each item but a window's first is kept with the probability `keep` (UniSRec's item drop).
    """
    draw_BL = torch.rand(valid_BL.shape, generator=generator, device=generator.device)
    first_BL = valid_BL & (valid_BL.cumsum(1) == 1)
    kept_BL = valid_BL & ((draw_BL.to(valid_BL.device) < keep) | first_BL)
    order_BL = kept_BL.int().argsort(dim=1, stable=True)
    left_BL = kept_BL.gather(1, order_BL)
    moved_BLW = e_BLW.gather(1, order_BL[:, :, None].expand_as(e_BLW))
    return moved_BLW * left_BL[:, :, None], left_BL


def _given(generator: Generator | None) -> Generator:
    if generator is None:
        raise ValueError("drawn negatives need a generator")
    return generator


def learned_codes(features: ItemFeatures, options: BaselineOptions) -> Tensor:
    """VQ-Rec's codes of all items, learned from those that training knows. [N, K]"""
    joined_NF = features.joined()
    sizes = {"parts": options.parts, "centroids": options.centroids}
    if options.quantiser == "faiss":
        quantiser = learn_codes_faiss(joined_NF, features.trained_N, **sizes)
    else:
        quantiser = learn_codes(joined_NF, features.trained_N, **sizes, seed=0)
    return quantiser.encode(joined_NF)
