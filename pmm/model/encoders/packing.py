"""Tokens of several items behind one another, without padding between them.

What works on each token by itself (projections, norms, feed-forward layers, dropout) then computes
nothing for padding; only attention pads, and there in groups of items of about the same length.

Shape suffixes: N tokens of all items, I items, K tokens of the longest item, D width, H heads, E
width of a head; n and i: tokens and items of a group.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

GROUPS, LEAST_GROUP = 6, 16
"""Attention runs in at most GROUPS groups of at least LEAST_GROUP items: each is one more call,
but the more there are, the less each pads."""


@dataclass(frozen=True)
class _Block:
    """Consecutive items as a rectangle of so many rows and columns."""

    first: int
    last: int
    rows: int
    columns: int
    place_n: Tensor | None
    """Where each token stands in the flattened rectangle; None: it is full."""
    valid_iK: Tensor | None
    """True where a token stands; None: everywhere."""
    keys_i11K: Tensor | None
    """The attention mask of the same; an item without tokens sees its first place, against NaN."""

    def spread(self, token_n: Tensor) -> Tensor:
        """[n, ...] -> [i, K, ...], zeros behind the end of an item."""
        if self.place_n is not None:
            # By numbers, not by a mask: a mask's True entries would have to be counted first, and
            # the accelerator would have to wait for it.
            empty = token_n.new_zeros(self.rows * self.columns, *token_n.shape[1:])
            token_n = empty.index_copy(0, self.place_n, token_n)
        return token_n.reshape(self.rows, self.columns, *token_n.shape[1:])

    def pack(self, token_iK: Tensor) -> Tensor:
        """The reverse of `spread`."""
        flat = token_iK.flatten(0, 1)
        return flat if self.place_n is None else flat.index_select(0, self.place_n)


class Packing:
    """How the tokens of I items lie behind one another.

    Any order of the items is right; ascending lengths pad least.

    Args:
        lengths: tokens of each item, 0 allowed.
        device: where the tokens are.
    """

    def __init__(self, lengths: npt.NDArray[np.int64], device: torch.device) -> None:
        self.lengths, self.device = lengths, device
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._whole = self._block(0, len(lengths))
        self._groups: list[_Block] | None = None

    @classmethod
    def of_mask(cls, mask_IK: Tensor) -> "Packing":
        """Of right-padded tokens."""
        return cls(mask_IK.sum(1).cpu().numpy().astype(np.int64), mask_IK.device)

    def __len__(self) -> int:
        """N, the tokens of all items."""
        return int(self._starts[-1])

    def _block(self, first: int, last: int) -> _Block:
        lengths = self.lengths[first:last]
        columns = int(lengths.max(initial=0))
        begin, end = int(self._starts[first]), int(self._starts[last])
        if len(lengths) * columns == end - begin:
            # Always so with pictures, whose tokens are equally many: packed and padded are the same
            # tensor, and nothing is copied.
            return _Block(begin, end, len(lengths), columns, None, None, None)
        valid = np.arange(columns) < lengths[:, None]
        # A softmax over no key at all is NaN, and its gradient makes NaN of every weight; what the
        # one key of an empty item gives is dropped when the tokens are packed again.
        keys = np.arange(columns) < np.maximum(lengths, 1)[:, None]
        place_n, valid_iK, keys_iK = (
            torch.from_numpy(each).to(self.device) for each in (np.flatnonzero(valid), valid, keys)
        )
        keys_i11K = keys_iK[:, None, None, :]
        return _Block(begin, end, len(lengths), columns, place_n, valid_iK, keys_i11K)

    def pack(self, padded_IKD: Tensor) -> Tensor:
        """The tokens [N, D] of right-padded ones; K may be larger than the longest item."""
        return self._whole.pack(padded_IKD[:, : self._whole.columns])

    def spread(self, token_ND: Tensor) -> Tensor:
        """Right-padded tokens [I, K, D], zeros at the padding; K is the longest item's length."""
        return self._whole.spread(token_ND)

    def valid(self) -> Tensor:
        """bool [I, K], True where `spread` puts a token."""
        full = self._whole.valid_iK
        if full is not None:
            return full
        return torch.ones(self._whole.rows, self._whole.columns, device=self.device).bool()

    def mean(self, token_ND: Tensor) -> Tensor:
        """Mean over each item's tokens, [I, D]; zeros where there is none."""
        count_I = torch.from_numpy(np.maximum(self.lengths, 1)).to(self.device)
        return self.spread(token_ND).sum(1) / count_I[:, None]

    def first(self, token_ND: Tensor) -> Tensor:
        """Each item's first token, [I, D]; zeros where there is none."""
        has_I = torch.from_numpy(self.lengths > 0).to(self.device)
        first_J = torch.from_numpy(self._starts[:-1][self.lengths > 0]).to(self.device)
        found_ID = token_ND.new_zeros(len(self.lengths), token_ND.shape[1])
        return found_ID.index_copy(0, has_I.nonzero()[:, 0], token_ND.index_select(0, first_J))

    def only_first(self, token_ND: Tensor) -> tuple[Tensor, "Packing"]:
        """Each item's first token, and their packing."""
        first_J = torch.from_numpy(self._starts[:-1][self.lengths > 0]).to(self.device)
        return token_ND.index_select(0, first_J), Packing(np.minimum(self.lengths, 1), self.device)

    def without_first(self, token_ND: Tensor) -> tuple[Tensor, "Packing"]:
        """The tokens behind each item's first, and their packing."""
        later = np.ones(len(self), dtype=np.bool_)
        later[self._starts[:-1][self.lengths > 0]] = False
        place_N = torch.from_numpy(np.flatnonzero(later)).to(self.device)
        shorter = Packing(np.maximum(self.lengths - 1, 0), self.device)
        return token_ND.index_select(0, place_N), shorter

    def groups(self) -> list[slice]:
        """Consecutive items that are padded together."""
        count = max(1, min(GROUPS, len(self.lengths) // LEAST_GROUP))
        ends = np.linspace(0, len(self.lengths), count + 1).astype(int).tolist()
        return [slice(first, last) for first, last in itertools.pairwise(ends)]

    def _blocks(self) -> list[_Block]:
        """The rectangles of `groups`, without those that have no token."""
        if self._groups is None:
            parts = [self._block(items.start, items.stop) for items in self.groups()]
            self._groups = [part for part in parts if part.columns]
        return self._groups

    def by_groups(self, token_ND: Tensor, run: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What comes of all tokens, [N, D], by a function of right-padded ones.

        Args:
            token_ND: packed.
            run: takes [i, K, D] and a mask bool [i, K], True at tokens, of which each row has one
                at least: the first of an item without any is zeros. Returns [i, K, D].
        """
        found = [token_ND[:0]]
        for group in self._blocks():
            padded_iKD = group.spread(token_ND[group.first : group.last])
            keys_i11K = group.keys_i11K
            full = padded_iKD.new_ones(padded_iKD.shape[:2], dtype=torch.bool)
            mask_iK = full if keys_i11K is None else keys_i11K[:, 0, 0]
            found.append(group.pack(run(padded_iKD, mask_iK)))
        return torch.cat(found)

    def attend(
        self, query_NHE: Tensor, key_NHE: Tensor, value_NHE: Tensor, *, dropout: float = 0.0
    ) -> Tensor:
        """Attention of each token to the tokens of its item, [N, H, E].

        Args:
            query_NHE, key_NHE, value_NHE: projected tokens, by head.
            dropout: probability of dropping an attention weight.
        """
        # In groups of about the same length: padding all items to the longest here would cost what
        # packing saves everywhere else. The published step pads every slot to 50 tokens; it takes
        # 17.8 times as long, for this and for its frozen blocks (benchmarks/results.md,
        # train_step).
        found = [query_NHE[:0]]
        for group in self._blocks():
            query_iHKE, key_iHKE, value_iHKE = (
                group.spread(each[group.first : group.last]).transpose(1, 2)
                for each in (query_NHE, key_NHE, value_NHE)
            )
            attended_iHKE = functional.scaled_dot_product_attention(
                query_iHKE,
                key_iHKE,
                value_iHKE,
                attn_mask=group.keys_i11K,
                dropout_p=dropout,
            )
            found.append(group.pack(attended_iHKE.transpose(1, 2)))
        return torch.cat(found)


def beside(one: Packing, other: Packing) -> tuple[Packing, Tensor, Tensor]:
    """The packing of each item's tokens in one, followed by those in the other.

    Returns:
        the packing, and where the tokens of the one and of the other stand in it, int64.
    """
    lengths = np.stack([one.lengths, other.lengths], axis=1)
    is_other = np.repeat(np.tile([False, True], len(lengths)), lengths.flatten())
    here, there = (
        torch.from_numpy(np.flatnonzero(which)).to(one.device) for which in (~is_other, is_other)
    )
    return Packing(lengths.sum(1), one.device), here, there


def merge(parts: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """The tokens of all parts at their places, [N, D]."""
    whole = parts[0].new_zeros(sum(map(len, parts)), parts[0].shape[1])
    for part, place in zip(parts, places, strict=True):
        whole = whole.index_copy(0, place, part)
    return whole
