"""PMMRec: items from their text and picture, users from their items (paper III).

Shape suffixes: I distinct items, T text tokens, P picture tokens, N packed tokens of all items, D
width, B users, S = L + 1 slots, L inputs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pmm.arrays import Int64s
from pmm.data.batch import Batch
from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import called
from pmm.model.encoders.packing import Packing
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import load_vision
from pmm.model.features.item_features import ItemFeatures
from pmm.model.item_parts.item_residual import ItemResidual
from pmm.model.losses.contrastive import cross_modal_contrast, robust_contrast
from pmm.model.losses.next_item import in_batch_softmax, scored_items
from pmm.model.losses.noised_items import corrupt, noised_item_detection, window
from pmm.model.losses.of_baselines import full_softmax
from pmm.model.pmmrec.fusion import MergeFusion
from pmm.model.pmmrec.item_fusion import CoAttention, VectorFusion
from pmm.model.pmmrec.one_item import one_item
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.model.pmmrec.vector_items import VectorHead, VectorInput, vector_inputs
from pmm.model.protocol import Encoders, OneItem, Recommender
from pmm.model.text_encoders.load_text import load_text
from pmm.model.user_encoders.choice import make_user_encoder
from pmm.shards.items import Items

TAUS = (0.01, 10.0)
"""Between which a learned temperature stays: CLIP's least one, and one that makes all alike."""
VECTOR_WIDTH = 128
"""D where items are made of vectors and no width is given: no encoder has one to take."""


@dataclass(frozen=True)
class ItemVectors:
    """What the encoders make of I distinct items, each [I, D]."""

    item_ID: Tensor
    """What stands for the item: fused, or of the one modality that the model reads."""
    text_ID: Tensor | None = None
    """Of the text alone; None where no objective asks for it."""
    picture_ID: Tensor | None = None


class Pmmrec(nn.Module, Recommender):
    """The backbone with its objectives; all its weights are float32."""

    options: PmmrecOptions
    prior_N: Tensor | None
    """What is added to the logit of each item of the catalogue while training."""

    def __init__(
        self,
        options: PmmrecOptions,
        features: ItemFeatures | None = None,
        *,
        count_N: Int64s | None = None,
    ) -> None:
        """Build it with fresh weights.

        Args:
            options: see there.
            features: the items' frozen vectors, where items are made of them.
            count_N: how often each item of the catalogue occurs in training, for residuals, which
                need it, and for the share of popularity in the softmax; None: all as popular.

        Raises:
            InputError: an encoder cannot be had, or options do not fit each other.
        """
        super().__init__()
        self.options = options
        self._recompute = False
        self.max_length = options.max_length
        by_encoders = options.items == "encoders"
        read = [side for side in ("text", "vision") if options.modality in (side, "both")]
        self.text = load_text(options.text) if by_encoders and "text" in read else None
        _require_poolable(self.text, options)
        self.vision = load_vision(options.vision) if by_encoders and "vision" in read else None
        widths = [encoder.width for encoder in (self.text, self.vision) if encoder is not None]
        self.width = options.width or [*widths, VECTOR_WIDTH][0]
        self.text_projection = _projection(self.text, self.width)
        self.vision_projection = _projection(self.vision, self.width)
        fused = by_encoders and options.modality == "both"
        self.fusion = _fusion(options, self.width) if fused else None
        self.text_vectors: VectorInput | None = None
        self.vision_vectors: VectorInput | None = None
        self.vector_head: VectorHead | None = None
        if not by_encoders:
            found = dict(zip(read, vector_inputs(features), strict=True))
            self.text_vectors, self.vision_vectors = found.get("text"), found.get("vision")
            self.vector_head = VectorHead(self.width, dropout=options.dropout)
            self.frozen_by = dict(features.made_by) if features else {}
        self.user_encoder = make_user_encoder(
            options,
            self.width,
            max_length=options.max_length,
            blocks=options.user_blocks,
            heads=options.user_heads,
            dropout=options.dropout,
        )
        if options.weights.nicl and options.modality != "both":
            raise InputError(
                "the objective nicl aligns text and picture, but the model reads "
                f"{options.modality} only: set model.weights.nicl = 0"
            )
        self.detector = nn.Linear(self.width, 3) if options.weights.nid else None
        """Of noised items: unchanged, shuffled, replaced (Eq. 10)."""
        if self.detector is not None:
            nn.init.xavier_normal_(self.detector.weight)
            nn.init.zeros_(self.detector.bias)
        self._add_what_next_item_prediction_asks_for(options, count_N)

    def _add_what_next_item_prediction_asks_for(
        self, options: PmmrecOptions, count_N: Int64s | None
    ) -> None:
        """The share of popularity, and what trains at a rate of its own."""
        prior_N: Tensor | None = None
        if count_N is not None and options.candidates == "catalogue" and options.dap_prior:
            prior_N = _prior(options.dap_prior, count_N)
        self.register_buffer("prior_N", prior_N, persistent=False)
        self.log_tau: nn.Parameter | None = None
        if options.dap_tau_learned:
            self.log_tau = nn.Parameter(torch.tensor(math.log(options.temperature)))
            self.own_rates = {"log_tau": 1.0}
        self.residual: ItemResidual | None = None
        if options.residual == "item":  # drawn last: the other weights of a seed are as without
            assert count_N is not None
            has_N = torch.from_numpy(count_N >= options.residual_from)
            self.residual = ItemResidual(has_N, self.width, drop=options.residual_drop)
            self.own_rates = {**self.own_rates, "residual": options.residual_rate}

    def encoders(self) -> Encoders:
        """Those of the modalities that it reads."""
        return Encoders(text=self.text, vision=self.vision)

    @property
    def recompute(self) -> bool:
        """Whether the backward pass computes the item encoder's activations again."""
        return self._recompute

    @recompute.setter
    def recompute(self, wanted: bool) -> None:
        self._recompute = wanted
        for encoder in self.encoders():
            encoder.recompute = wanted

    def encode_items(self, items: Items) -> Tensor:
        """Vectors [I, D] of distinct items.

        An encoder runs only on the items that have its modality.
        An item without anything that this model reads gets a finite vector that says nothing.
        """
        return self.item_parts(items).item_ID

    def item_parts(self, items: Items, *, apart: bool = False) -> ItemVectors:
        """Vectors of distinct items, with `apart` those of each modality too (both modalities).

        Their tokens are packed (`pmm.model.encoders.packing`) in the order of the texts' lengths;
        what comes out does not depend on it, but for dropout's draws.

        Residuals are part of what stands for the item, not of a modality's vector.
        """
        found = self._of_content(items, apart=apart)
        if self.residual is None:
            return found
        return replace(found, item_ID=found.item_ID + self.residual(items.item_I))

    def _of_content(self, items: Items, *, apart: bool) -> ItemVectors:
        """Vectors by content alone."""
        if self.vector_head is not None:
            return self._of_vectors(self.vector_head, items.item_I, apart=apart)
        if self.text is None:
            return ItemVectors(self._pooled(*self.picture_tokens(items)))
        lengths_I = (items.token_mask_IT & items.has_text_I[:, None]).sum(1)
        order_I = lengths_I.argsort(stable=True)
        found = self._parts(items.map(lambda each: each[order_I]), apart)
        back_I = order_I.argsort()
        parts = {name: each for name, each in vars(found).items() if each is not None}
        return ItemVectors(**{name: each_ID[back_I] for name, each_ID in parts.items()})

    def _parts(self, items: Items, apart: bool) -> ItemVectors:
        text = self.text_tokens(items)
        if self.fusion is None:
            return ItemVectors(self._pooled(*text))
        picture = self.picture_tokens(items)
        if isinstance(self.fusion, VectorFusion):
            vectors = self._pooled(*text), self._pooled(*picture)
            fused_ID = self.fusion(*vectors, items.has_text_I, items.has_picture_I)
            return ItemVectors(fused_ID, *vectors) if apart else ItemVectors(fused_ID)
        inputs: tuple[Tensor | Packing, ...] = (*text, *picture)
        if isinstance(self.fusion, CoAttention):
            (text_ITD, text_IT), (picture_IPD, picture_IP) = _padded(*text), _padded(*picture)
            inputs = text_ITD, picture_IPD, text_IT, picture_IP
        fused_ID = called(self.fusion, *inputs, recompute=self.recompute)
        if not apart:
            return ItemVectors(fused_ID)
        return ItemVectors(fused_ID, self._pooled(*text), self._pooled(*picture))

    def _of_vectors(self, head: VectorHead, item_I: Tensor, *, apart: bool) -> ItemVectors:
        """Vectors of items by number; of a modality alone as if the item lacked the other."""
        sides = [each for each in (self.text_vectors, self.vision_vectors) if each is not None]
        inner = [side(item_I) for side in sides]
        item_ID = head(*inner)
        return (
            ItemVectors(item_ID, *(head(each) for each in inner)) if apart else ItemVectors(item_ID)
        )

    def _catalogue(self) -> Tensor:
        """Vectors of all items that frozen vectors are held of, [N, D]."""
        assert self.vector_head is not None
        sides = [each for each in (self.text_vectors, self.vision_vectors) if each is not None]
        item_N = torch.arange(1, len(sides[0].has_N) + 1, device=sides[0].has_N.device)
        every_ND = self._of_vectors(self.vector_head, item_N, apart=False).item_ID
        return every_ND if self.residual is None else every_ND + self.residual(item_N)

    def encode_vectors(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Items that the catalogue does not have, [R, D]; arguments as of `Recommender`."""
        if self.vector_head is None:
            return super().encode_vectors(vectors)
        sides = {"text": self.text_vectors, "vision": self.vision_vectors}
        inner = []
        for name, side in sides.items():
            if side is not None:
                x_RF = vectors[name].to(side.mean_F)
                inner.append(side.of_vectors(x_RF, (x_RF != 0).any(1)))
        made_RD: Tensor = self.vector_head(*inner)
        return made_RD

    def one_item(self) -> OneItem | None:
        """Its encoders with their projections, and the fusion."""
        if self.vector_head is not None:
            return None
        return one_item(
            self.options,
            text=(self.text, self.text_projection),
            vision=(self.vision, self.vision_projection),
            fusion=self.fusion,
        )

    def _pooled(self, token_ND: Tensor, packing: Packing) -> Tensor:
        """An item's vector from the projected tokens of one modality (R4, R5). [I, D]

        Zeros for an item that lacks it.
        """
        first = self.options.modality_pool == "cls"
        vector_ID = packing.first(token_ND) if first else packing.mean(token_ND)
        plain = self.options.fusion == "merge" or not self.options.modality_gelu
        return vector_ID if plain else functional.gelu(vector_ID)

    def _projected(
        self, projection: nn.Module, hidden_ND: Tensor, packing: Packing
    ) -> tuple[Tensor, Packing]:
        """Tokens of the model's width; only the class tokens where no other would be looked at."""
        options = self.options
        by_vectors = options.fusion != "merge" and not isinstance(self.fusion, CoAttention)
        if by_vectors and options.modality_pool == "cls":
            hidden_ND, packing = packing.only_first(hidden_ND)
        return projection(hidden_ND), packing

    def text_tokens(self, items: Items) -> tuple[Tensor, Packing]:
        """Projected tokens [N, D] of the items that have text."""
        assert self.text is not None
        assert self.text_projection is not None
        mask_IT = items.token_mask_IT & items.has_text_I[:, None]
        packing = Packing.of_mask(mask_IT)
        if items.text_hidden_ITD is not None:
            hidden_ND = packing.pack(items.text_hidden_ITD).float()
        else:
            hidden_ND = self.text.packed_trunk(items.token_IT, mask_IT, packing)
        return self._projected(self.text_projection, self.text.top(hidden_ND, packing), packing)

    def picture_tokens(self, items: Items) -> tuple[Tensor, Packing]:
        """Projected tokens [N, D], class token first, of the items that have a picture."""
        assert self.vision is not None
        assert self.vision_projection is not None
        rows_J = items.has_picture_I.nonzero()[:, 0]
        lengths_I = self.vision.tokens * items.has_picture_I.cpu().numpy().astype(np.int64)
        packing = Packing(lengths_I, items.has_picture_I.device)
        if not len(rows_J):
            none_ND = torch.zeros(0, self.width, device=rows_J.device)
            return none_ND, packing
        if items.picture_hidden_IPD is not None:
            hidden_JPD = self.vision.top(_pick(items.picture_hidden_IPD, rows_J).float())
        else:
            hidden_JPD = self.vision(_pick(items.picture_I3HW, rows_J))
        return self._projected(self.vision_projection, hidden_JPD.flatten(0, 1), packing)

    def encode_users(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of left-padded windows of item vectors; zeros at padding."""
        return self.user_encoder(e_BLD, valid_BL)  # type: ignore[no-any-return]

    def user_vectors(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """What users are scored with, [B, D]: the hidden state at the last position."""
        return self.user_encoder(e_BLD, valid_BL, last=True)[:, 0]  # type: ignore[no-any-return]

    def item_vectors(self, e_ID: Tensor) -> Tensor:
        """What items are scored with, [I, D]: a score is its dot product with the user's vector.

        The vectors of `encode_items` themselves, but of length 1 where the loss compares by
        cosine.
        """
        return scored_items(e_ID, self.options.dap_similarity)

    @property
    def temperature(self) -> float:
        """That of next-item prediction."""
        if self.log_tau is None:
            return self.options.temperature
        return float(self.log_tau.detach().exp().clamp(*TAUS))

    def _tau(self) -> float | Tensor:
        """The temperature as the loss has it: a tensor [] where it trains."""
        if self.log_tau is None:
            return self.options.temperature
        # The weight itself is put back, as behind a clamp it would have no gradient to come back.
        with torch.no_grad():
            self.log_tau.clamp_(*map(math.log, TAUS))
        return self.log_tau.exp()

    def loss(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """The objectives of a batch as float32 scalars (paper Eq. 12).

        Args:
            batch: sequences over distinct items.
            generator: of the corruption that NID and RCL read, on the batch's device; needed where
                one of them has a weight.

        Returns:
            "loss", the weighted sum to minimise, and each of its parts by name, unweighted and
            without gradient; "tau" beside them where it is learned.
        """
        weights = self.options.weights
        vectors = self.item_parts(batch.items, apart=bool(weights.nicl))
        with_padding_ID = functional.pad(vectors.item_ID, (0, 0, 1, 0))
        slot_BL = batch.slot_BS[:, :-1]
        user_BLD = self.encode_users(with_padding_ID[slot_BL], slot_BL > 0)
        parts: dict[str, Tensor] = {}
        if weights.dap:
            parts["dap"] = self._next_item(user_BLD, vectors.item_ID, batch)
        if weights.nicl:
            parts["nicl"] = self._contrast(vectors, batch)
        if weights.nid or weights.rcl:
            if generator is None:
                raise ValueError("the corruption of sequences needs a generator")
            parts |= self._denoised(with_padding_ID, user_BLD, batch, generator)
        total = torch.stack([getattr(weights, name) * loss for name, loss in parts.items()]).sum()
        if self.log_tau is not None:
            parts["tau"] = self.log_tau.exp()  # to be logged
        return {"loss": total, **{name: loss.detach() for name, loss in parts.items()}}

    def _denoised(
        self, with_padding_ID: Tensor, user_BLD: Tensor, batch: Batch, generator: Generator
    ) -> dict[str, Tensor]:
        """NID and RCL, as far as they have a weight; only the user encoder runs again."""
        options, weights, parts = self.options, self.options.weights, dict[str, Tensor]()
        noisy = corrupt(batch.slot_BS, len(batch.items.item_I), options.corruption, generator)
        noisy_BLD = self.encode_users(with_padding_ID[noisy.slot_BL], noisy.slot_BL > 0)
        if self.detector is not None:
            logits_BL3 = self.detector(noisy_BLD)
            parts["nid"] = noised_item_detection(logits_BL3, noisy.label_BL, relu=options.nid_relu)
        if weights.rcl:
            plain_BL = window(batch.slot_BS, options.corruption)
            if options.corruption.last_item:  # else it is what DAP has read
                user_BLD = self.encode_users(with_padding_ID[plain_BL], plain_BL > 0)
            parts["rcl"] = robust_contrast(user_BLD, noisy_BLD, plain_BL > 0, options.rcl)
        return parts

    def _next_item(self, user_BLD: Tensor, item_ID: Tensor, batch: Batch) -> Tensor:
        if self.options.candidates == "catalogue":
            return full_softmax(
                user_BLD,
                self._catalogue(),
                batch.numbers(),
                similarity=self.options.dap_similarity,
                tau=self._tau(),
                prior_I=self.prior_N,
            )
        return in_batch_softmax(
            user_BLD,
            item_ID,
            batch.slot_BS,
            batch.log_p_I,
            logq=self.options.dap_logq,
            reject=self.options.dap_reject,
            similarity=self.options.dap_similarity,
            tau=self._tau(),
            group_I=self._groups(batch),
        )

    def _groups(self, batch: Batch) -> Tensor | None:
        """The group of each item, where negatives are of the own group.

        Raises:
            ValueError: they are, and the batch does not say.
        """
        if self.options.negatives == "batch":
            return None
        if batch.group_I is None:
            raise ValueError(
                f'negatives = "{self.options.negatives}" needs batches that say the items\' groups'
            )
        return batch.group_I

    def _contrast(self, vectors: ItemVectors, batch: Batch) -> Tensor:
        assert vectors.text_ID is not None
        assert vectors.picture_ID is not None
        has = batch.items.has_text_I, batch.items.has_picture_I
        if self.text_vectors is not None and self.vision_vectors is not None:
            item_I = batch.items.item_I
            has = self.text_vectors.has(item_I), self.vision_vectors.has(item_I)
        return cross_modal_contrast(
            vectors.text_ID,
            vectors.picture_ID,
            batch.slot_BS,
            *has,
            self.options.nicl,
            group_I=self._groups(batch),
        )

    def forward(self, batch: Batch, generator: Generator | None = None) -> dict[str, Tensor]:
        """The same as `loss` (what a wrapper for several processes calls)."""
        return self.loss(batch, generator)

    def trained_names(self) -> list[str]:
        """Names of the tensors that train."""
        return [name for name, tensor in self.named_parameters() if tensor.requires_grad]


def _require_poolable(text: TextEncoder | None, options: PmmrecOptions) -> None:
    """Refuse to read a text at a first token that knows nothing of it.

    Raises:
        InputError: its encoder reads from left to right, and `modality_pool` is "cls".
    """
    if text is not None and text.causal and options.modality_pool == "cls":
        raise InputError(
            f"the text encoder {text.source!r} reads from left to right, so a text's first token "
            'knows nothing of the others: set model.modality_pool = "mean"'
        )


def _prior(share: float, count_N: Int64s) -> Tensor:
    """That share of ln p of each item, float32 [N], where each item counts as seen once more."""
    seen_N = torch.tensor(count_N, dtype=torch.float64) + 1  # a copy: counts may be read-only
    return (share * (seen_N / seen_N.sum()).log()).float()


def _projection(encoder: nn.Module | None, width: int) -> nn.Linear | None:
    """Linear to the model's width on each token (R9); Xavier-normal weight, zero bias."""
    if encoder is None:
        return None
    linear = nn.Linear(int(encoder.width), width)  # type: ignore[arg-type]
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _fusion(options: PmmrecOptions, width: int) -> MergeFusion | VectorFusion | CoAttention:
    """What makes one vector of both modalities.

    Raises:
        InputError: the width cannot be cut into the heads of its attention.
    """
    if options.fusion == "merge":
        return MergeFusion(
            width,
            pool=options.fusion_pool,
            type_embedding=options.fusion_type_embedding,
            dropout=options.dropout,
        )
    if options.fusion == "co_attention":
        return CoAttention(width, dropout=options.dropout)
    return VectorFusion(width, options.fusion)


def _padded(token_ND: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Right-padded tokens [I, K, D] and where they are real [I, K], with K at least 1."""
    token_IKD, valid_IK = packing.spread(token_ND), packing.valid()
    more = 1 - min(1, token_IKD.shape[1])
    return functional.pad(token_IKD, (0, 0, 0, more)), functional.pad(valid_IK, (0, more))


def _pick(all_IX: Tensor, rows_J: Tensor) -> Tensor:
    """Some rows; without a copy where they are all."""
    return all_IX if len(rows_J) == len(all_IX) else all_IX[rows_J]
