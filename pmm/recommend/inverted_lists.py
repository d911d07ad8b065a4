"""Items in lists of near ones, one byte a number, in faiss: a query looks into the best lists.

What is ranked is an inner product, and the longest items win it from afar. So lists are made of
vectors with one number more, which gives all the same length: of those the highest inner product is
the nearest. Lists are asked in the order of what their items may score: the score of their mean,
and three deviations above it.

A share of popularity is one number more of each item, multiplied by what the query says.

Nothing here changes once it is made, so that any number of threads search it; `grown` makes another
one, whose lists are asked for what they hold by then.

Shape suffixes: N items, R items that are added, D width, W width of any values, P width of what
faiss holds (D, the length that is filled up, the share, zeros to a multiple of eight), C lists, L
lists that are asked, S a sample of the items.
"""

import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s, Int32s, Int64s
from pmm.errors import InputError

ITEMS_OF_A_LIST = 250
"""About; then a list is asked in the time that is spent on choosing it."""
MOST_PER_ROOT = 2.0
"""Lists for each root of the number of items: of a million 2,000, made in half a minute."""
SAMPLE = 64
"""Items for each list, of which the lists are learned."""
MARGIN = 0.5
"""Of the range of each number, that is left on both sides for items that are added."""
ITEMS_AT_ONCE = 65_536
DEVIATIONS = 3.0
"""Above its mean, for what a list may hold."""


@dataclass(frozen=True, kw_only=True)
class InvertedLists:
    """Items by list."""

    ivf: Any
    """faiss' IndexIVFScalarQuantizer, one byte a number, over inner products."""
    centroid_CP: Float32s
    list_N: Int32s
    """The list of each item."""
    vectors: "Moments"
    """Of the items' vectors."""
    shares: "Moments"
    """Of their shares of popularity, up to the most."""
    most: float
    length: float
    """To which items are filled up."""

    def __len__(self) -> int:
        return len(self.list_N)

    @property
    def size_C(self) -> Int64s:
        """Items of each list."""
        return self.vectors.count_C

    @property
    def nbytes(self) -> int:
        """Of memory, about: a byte a number, eight an id, and the lists' own numbers."""
        own = (self.centroid_CP, self.list_N, self.vectors.mean_CW)
        codes = len(self) * (self.centroid_CP.shape[1] + 8)
        return int(codes + sum(each.nbytes for each in own))

    def in_order(self, user_D: Float32s, factor: float) -> Int64s:
        """Lists, the one that may hold the best items first, [C]."""
        length = float(np.linalg.norm(user_D))
        near_C = self.vectors.mean_CW @ user_D + (DEVIATIONS * length) * self.vectors.spread_C
        if factor:
            near_C = near_C + factor * self.shares.mean_CW[:, 0]
            near_C = near_C + (DEVIATIONS * abs(factor)) * self.shares.spread_C
        order_C: Int64s = np.argsort(-near_C)
        return order_C

    def allowed_in(self, allowed_N: NDArray[np.bool_]) -> Int64s:
        """How many of each list's items are allowed, [C]."""
        of_lists = self.list_N[: len(allowed_N)]
        if 2 * np.count_nonzero(allowed_N) < len(allowed_N):
            return np.bincount(of_lists[np.flatnonzero(allowed_N)], minlength=len(self.size_C))
        refused = of_lists[np.flatnonzero(~allowed_N)]
        found_C: Int64s = self.size_C - np.bincount(refused, minlength=len(self.size_C))
        if len(allowed_N) < len(self):
            behind = self.list_N[len(allowed_N) :]
            found_C = found_C - np.bincount(behind, minlength=len(self.size_C))
        return found_C

    def search(
        self,
        user_D: Float32s,
        factor: float,
        list_L: Int64s,
        allowed_N: NDArray[np.bool_],
        count: int,
    ) -> Int64s:
        """The rows that look best in some lists, in no order; only allowed ones, fewer if so."""
        faiss = load_faiss()
        user_1P = np.zeros((1, self.centroid_CP.shape[1]), dtype=np.float32)
        user_1P[0, : len(user_D)] = user_D
        user_1P[0, len(user_D) + 1] = factor
        near_1L = user_1P @ self.centroid_CP[list_L].T
        bits = np.packbits(allowed_N, bitorder="little")
        chosen = faiss.SearchParametersIVF(nprobe=len(list_L), sel=faiss.IDSelectorBitmap(bits))
        row_K, near_K = np.empty(count, np.int64), np.empty(count, np.float32)
        # faiss' own wrapper takes the number of lists from the index alone, which threads share.
        point = faiss.swig_ptr
        self.ivf.search_preassigned_c(
            1,
            point(user_1P),
            count,
            point(np.ascontiguousarray(list_L)),
            point(near_1L),
            point(near_K),
            point(row_K),
            False,
            chosen,
        )
        return row_K[row_K >= 0]

    def grown(self, score_RD: Float32s, share_R: Float32s) -> "InvertedLists":
        """Lists that hold some items more, behind the others."""
        ivf = load_faiss().clone_index(self.ivf)
        list_R = _put(ivf, score_RD, share_R, self.length)
        lists, most = len(self.size_C), np.minimum(share_R, self.most)[:, None]
        return replace(
            self,
            ivf=ivf,
            list_N=np.concatenate([self.list_N, list_R]),
            vectors=self.vectors.joined(moments(score_RD, list_R, lists)),
            shares=self.shares.joined(moments(most, list_R, lists)),
        )


@dataclass(frozen=True)
class Moments:
    """How many values lists hold, where they lie, and how far from there."""

    count_C: Int64s
    mean_CW: Float32s
    squares_C: Float32s
    """Sum of the squared distances from the mean."""

    @cached_property
    def spread_C(self) -> Float32s:
        """Deviation of a list's values from their mean, in any direction."""
        values_C = np.maximum(1, self.count_C * self.mean_CW.shape[1])
        spread_C: Float32s = np.sqrt(self.squares_C / values_C).astype(np.float32)
        return spread_C

    def joined(self, more: "Moments") -> "Moments":
        """Of the values of both."""
        count_C = self.count_C + more.count_C
        part_C = more.count_C / np.maximum(1, count_C)
        apart_CW = more.mean_CW - self.mean_CW
        mean_CW = self.mean_CW + part_C[:, None] * apart_CW
        between_C = self.count_C * part_C * _squares(apart_CW)
        squares_C = self.squares_C + more.squares_C + between_C
        return Moments(count_C, mean_CW.astype(np.float32), squares_C.astype(np.float32))


def moments(x_RW: Float32s, list_R: Int32s, lists: int) -> Moments:
    """Of values by the list of each."""
    count_C = np.bincount(list_R, minlength=lists)
    mean_CW, squares_C = np.zeros((lists, x_RW.shape[1]), np.float32), np.zeros(lists, np.float32)
    for each, rows in enumerate(np.split(np.argsort(list_R, kind="stable"), count_C.cumsum()[:-1])):
        if len(rows):
            held = x_RW[rows]
            mean_CW[each] = held.mean(0)
            squares_C[each] = _squares(held - mean_CW[each]).sum()
    return Moments(count_C, mean_CW, squares_C)


def make_lists(
    score_ND: Float32s, share_N: Float32s, *, most: float = np.inf, seed: int = 0
) -> InvertedLists:
    """Learn lists of a sample of the items, and put all into them.

    Args:
        score_ND: the items' vectors.
        share_N: their share of popularity, as a query multiplies it.
        most: a list is not asked sooner for a higher share: such items are scanned beside.
        seed: of the sample.

    Raises:
        InputError: faiss is not installed.
    """
    faiss = load_faiss()
    n = len(score_ND)
    length = float(np.sqrt(_squares(score_ND).max(initial=0.0)))
    lists = max(1, int(min(MOST_PER_ROOT * n**0.5, n / ITEMS_OF_A_LIST)))
    draw = np.random.default_rng(seed)
    rows_S = np.sort(draw.choice(n, min(n, lists * SAMPLE), replace=False))
    sample_SP = _filled(score_ND[rows_S], np.zeros(len(rows_S), np.float32), length)
    means = faiss.Kmeans(sample_SP.shape[1], lists, niter=10, seed=1, min_points_per_centroid=1)
    means.train(sample_SP)
    # Without their share, in which all lists are equally far from an item.
    nearest = faiss.IndexFlatL2(sample_SP.shape[1])
    nearest.add(means.centroids)
    ivf = faiss.IndexIVFScalarQuantizer(
        nearest,
        sample_SP.shape[1],
        lists,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        True,
    )
    ivf.sq.rangestat_arg = MARGIN
    ivf.train(_filled(score_ND[rows_S], share_N[rows_S], length))
    list_N = _put(ivf, score_ND, share_N, length)
    return InvertedLists(
        ivf=ivf,
        centroid_CP=means.centroids,
        list_N=list_N,
        vectors=moments(score_ND, list_N, lists),
        shares=moments(np.minimum(share_N, most)[:, None], list_N, lists),
        most=most,
        length=length,
    )


def load_faiss() -> ModuleType:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise InputError(
            "faiss is not installed, and the approximate index is made with it. "
            "Run: pip install 'pmmrec[faiss]'"
        ) from error


def _put(ivf: Any, score_RD: Float32s, share_R: Float32s, length: float) -> Int32s:
    """Add items, and say into which lists they went."""
    faiss, lists = load_faiss(), []
    for start in range(0, len(score_RD), ITEMS_AT_ONCE):
        part = slice(start, start + ITEMS_AT_ONCE)
        filled_RP = _filled(score_RD[part], share_R[part], length)
        list_R = ivf.quantizer.search(filled_RP, 1)[1][:, 0]
        point = faiss.swig_ptr
        ivf.add_core(len(filled_RP), point(filled_RP), None, point(list_R))
        lists.append(list_R.astype(np.int32))
    return np.concatenate(lists) if lists else np.zeros(0, np.int32)


def _filled(score_RD: Float32s, share_R: Float32s, length: float) -> Float32s:
    """What faiss holds of items, [R, P]."""
    width = score_RD.shape[1]
    filled_RP = np.zeros((len(score_RD), -(-(width + 2) // 8) * 8), dtype=np.float32)
    filled_RP[:, :width] = score_RD
    filled_RP[:, width] = np.sqrt(np.maximum(length**2 - _squares(score_RD), 0))
    filled_RP[:, width + 1] = share_R
    return filled_RP


def _squares(x_RD: Float32s) -> Float32s:
    found: Float32s = np.einsum("rd,rd->r", x_RD, x_RD)
    return found
