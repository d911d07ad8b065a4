"""Product quantisation of frozen vectors: each becomes a few small codes (VQ-Rec's item codes).

The codes are those of optimised product quantisation (Ge et al., CVPR 2013): vectors are rotated,
cut into parts, and of each part the nearest of a few centroids is named. VQ-Rec's one coarse
centroid only moves the data; here it is their mean.

Shape suffixes: N vectors, R vectors that are learned from, F width, P width with the zeros that
make it divisible by K parts, E = P / K, C centroids of a part; r vectors that are compared at once.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Generator, Tensor
from torch.nn import functional

from pmm.errors import InputError

MOST_CENTROIDS = 256
"""Of a part: a code is one byte."""
ROWS_PER_CENTROID = 256
"""Learning takes at most so many vectors for each centroid of a part, as faiss does."""
PASSES = 4
"""Of k-means between two rotations, as in faiss."""
DISTANCES_AT_ONCE = 2**24
"""Distances that are held together (64 MB)."""


@dataclass(frozen=True, kw_only=True)
class Quantiser:
    """A rotation and the centroids of each part of what it makes of a vector."""

    mean_F: Tensor
    """Taken away first."""
    rotation_PP: Tensor
    """Orthonormal; a vector x, with its zeros, becomes rotation x."""
    centroid_KCE: Tensor
    """Infinite where a part has fewer distinct values than centroids: nothing gets that code."""

    def encode(self, x_NF: Tensor) -> Tensor:
        """The number of the nearest centroid of each part, uint8 [N, K]."""
        found = [
            _nearest(self._parts(x_rF), self.centroid_KCE).T.to(torch.uint8)
            for x_rF in torch.split(x_NF, _rows_at_once(self.centroid_KCE))
        ]
        return torch.cat(found)

    def decode(self, codes_NK: Tensor) -> Tensor:
        """The vectors [N, F] that codes stand for; finite for codes that `encode` gives."""
        part_K = torch.arange(codes_NK.shape[1], device=codes_NK.device)
        rotated_NP = self.centroid_KCE[part_K, codes_NK.long()].flatten(1)
        return (rotated_NP @ self.rotation_PP)[:, : len(self.mean_F)] + self.mean_F

    def error(self, x_NF: Tensor) -> float:
        """Mean squared distance between vectors and what their codes stand for."""
        parts = torch.split(x_NF, _rows_at_once(self.centroid_KCE))
        squares = [
            (self.decode(self.encode(x_rF)) - x_rF).double().square().sum() for x_rF in parts
        ]
        return float(torch.stack(squares).sum() / len(x_NF))

    def _parts(self, x_rF: Tensor) -> Tensor:
        parts, _, width = self.centroid_KCE.shape
        padded_rP = _pad(x_rF.float() - self.mean_F, parts)
        return _cut(padded_rP @ self.rotation_PP.T, parts, width)


@torch.no_grad()
def learn_codes(
    x_NF: Tensor,
    train_rows: Tensor,
    *,
    parts: int = 32,
    centroids: int = 256,
    iterations: int = 15,
    rotations: int = 10,
    seed: int,
) -> Quantiser:
    """Learn a rotation and centroids that lose little of the vectors.

    K-means of the parts, and the orthonormal matrix that brings the vectors nearest to their
    centroids, take turns. The start is the vectors' principal axes, dealt evenly to the parts: from
    a random rotation, as in faiss, it takes several times as many turns. Of more than 256 vectors a
    centroid, as many are drawn. A width that the parts do not divide is filled up with zeros, which
    then take part in the rotation. On the CPU the result is the same, bit by bit, for the same seed
    and number of threads.

    A part may have fewer distinct values than centroids, as where there are fewer vectors. Then
    each value is a centroid, and those left over are infinite: their codes are never given.

    Args:
        x_NF: vectors, on the device that learns.
        train_rows: which to learn from, as row numbers or as a mask [N]: training items.
        parts: K, the codes of a vector.
        centroids: C, the values of a code; at most 256.
        iterations: passes of k-means before the first rotation, and again behind the last.
        rotations: how often the rotation is fitted; 0 keeps that of the start.
        seed: of the first centroids and of the draw.

    Raises:
        ValueError: sizes that cannot be, no vectors to learn from, or values that are not finite.
    """
    least = {"parts": parts, "centroids": centroids, "iterations": iterations}
    faults = [f"{name} must be at least 1, found {n}" for name, n in least.items() if n < 1]
    if centroids > MOST_CENTROIDS:
        faults.append(f"centroids must be at most {MOST_CENTROIDS}, found {centroids}")
    if faults:
        raise ValueError("; ".join(faults))
    draw = Generator().manual_seed(seed)
    mean_F, x_RP = _training_vectors(x_NF, train_rows, parts)
    most = ROWS_PER_CENTROID * centroids
    if len(x_RP) > most:
        x_RP = x_RP[torch.randperm(len(x_RP), generator=draw)[:most].to(x_RP.device)]
    width = x_RP.shape[1]
    rotation_PP = _balanced_axes(x_RP, parts)
    y_KRE = _cut(x_RP @ rotation_PP.T, parts, width // parts)
    centroid_KCE = _some_values(y_KRE, centroids, draw)
    centroid_KCE = _k_means(y_KRE, centroid_KCE, iterations)
    for turn in range(rotations):
        rotation_PP = _fitted_rotation(x_RP, y_KRE, centroid_KCE)
        y_KRE = _cut(x_RP @ rotation_PP.T, parts, width // parts)
        last = turn == rotations - 1
        centroid_KCE = _k_means(y_KRE, centroid_KCE, iterations if last else PASSES)
    return Quantiser(mean_F=mean_F, rotation_PP=rotation_PP, centroid_KCE=centroid_KCE)


@torch.no_grad()
def learn_codes_faiss(
    x_NF: Tensor, train_rows: Tensor, *, parts: int = 32, centroids: int = 256
) -> Quantiser:
    """The same as VQ-Rec learns it: with faiss, as "OPQ32,IVF1,PQ32x8" over inner products.

    It computes on the CPU, minutes for each thousand vectors of 768, with faiss' own fixed seed.

    Args:
        x_NF, train_rows, parts: as of `learn_codes`.
        centroids: a power of two, at most 256.

    Raises:
        InputError: faiss is not installed.
        ValueError: as of `learn_codes`; or centroids is no power of two; or there are fewer
            training vectors than centroids, which faiss refuses.
    """
    faiss = _faiss()
    bits = centroids.bit_length() - 1
    if centroids != 2**bits or not 1 <= bits <= 8:
        raise ValueError(f"centroids must be a power of two from 2 to 256, found {centroids}")
    mean_F, x_RP = _training_vectors(x_NF, train_rows, parts)
    if len(x_RP) < centroids:
        raise ValueError(f"{len(x_RP)} vectors are fewer than {centroids} centroids")
    width = x_RP.shape[1]
    name = f"OPQ{parts},IVF1,PQ{parts}x{bits}"
    index = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
    index.train((x_RP + _pad(mean_F, parts)).cpu().numpy())
    inverted = faiss.downcast_index(faiss.extract_index_ivf(index))
    turn = faiss.downcast_VectorTransform(index.chain.at(0))
    found = (turn.A, inverted.pq.centroids)
    matrix, flat = (torch.from_numpy(faiss.vector_to_array(each)).to(x_RP) for each in found)
    rotation_PP = matrix.view(width, width)
    # The coarse centroid, turned back: along the vectors' mean, so zero where they have zeros.
    coarse_P = torch.from_numpy(inverted.quantizer.reconstruct(0)).to(x_RP) @ rotation_PP
    return Quantiser(
        mean_F=coarse_P[: len(mean_F)],
        rotation_PP=rotation_PP,
        centroid_KCE=flat.view(parts, centroids, -1),
    )


def _faiss() -> ModuleType:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise InputError(
            "faiss is not installed, and these codes are learned with it. "
            "Run: pip install 'pmmrec[faiss]'"
        ) from error


def _training_vectors(x_NF: Tensor, rows: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Their mean [F], and the vectors [R, P] without it, zeros behind them."""
    x_RF = x_NF[rows].float()
    if not len(x_RF):
        raise ValueError("there are no vectors to learn codes from")
    if not x_RF.isfinite().all():
        raise ValueError("vectors to learn codes from are not finite")
    mean_F = x_RF.double().mean(0).float()
    return mean_F, _pad(x_RF - mean_F, parts)


def _pad(x_F: Tensor, parts: int) -> Tensor:
    """[..., F] -> [..., P], with zeros."""
    return functional.pad(x_F, (0, -x_F.shape[-1] % parts))


def _cut(y_RP: Tensor, parts: int, width: int) -> Tensor:
    """[R, P] -> [K, R, E]."""
    return y_RP.view(len(y_RP), parts, width).transpose(0, 1).contiguous()


def _rows_at_once(centroid_KCE: Tensor) -> int:
    return max(1, DISTANCES_AT_ONCE // (centroid_KCE.shape[0] * centroid_KCE.shape[1]))


def _nearest(y_KRE: Tensor, centroid_KCE: Tensor) -> Tensor:
    """The number of the nearest centroid of each part of each vector, int64 [K, R]."""
    spare_KC = centroid_KCE.isinf().any(2)
    centroid_KCE = centroid_KCE.masked_fill(spare_KC[:, :, None], 0.0)
    square_K1C = centroid_KCE.square().sum(2).masked_fill(spare_KC, torch.inf)[:, None]
    # |y - c|^2 without |y|^2, which is the same for all centroids.
    found = [
        torch.baddbmm(square_K1C, y_KrE, centroid_KCE.transpose(1, 2), alpha=-2).argmin(2)
        for y_KrE in torch.split(y_KRE, _rows_at_once(centroid_KCE), dim=1)
    ]
    return torch.cat(found, dim=1)


def _balanced_axes(x_RP: Tensor, parts: int) -> Tensor:
    """The principal axes as rows, [P, P], dealt so that the parts' variances have like products.

    Best for normally distributed vectors (Ge et al.): axes go one by one, those of
    most variance first, to the part whose product is least so far and that is not full.
    """
    variance_P, axis_PP = torch.linalg.eigh((x_RP.T @ x_RP / len(x_RP)).double())
    log_P = variance_P.clamp(min=1e-12 * float(variance_P.max()) + 1e-30).log()
    log_P = log_P - log_P.min()  # at least 0, so that a part that gets an axis never falls behind
    axes: list[list[int]] = [[] for _ in range(parts)]
    product = [0.0] * parts
    for axis in range(len(log_P) - 1, -1, -1):
        least = min(
            (part for part in range(parts) if len(axes[part]) < len(log_P) // parts),
            key=product.__getitem__,
        )
        axes[least].append(axis)
        product[least] += float(log_P[axis])
    dealt_PP: Tensor = axis_PP.T[torch.tensor(axes).flatten()]
    return dealt_PP.to(x_RP)


def _some_values(y_KRE: Tensor, centroids: int, draw: Generator) -> Tensor:
    """Random rows as first centroids [K, C, E]; infinite where there are fewer rows."""
    parts, rows, width = y_KRE.shape
    chosen = torch.randperm(rows, generator=draw)[:centroids].to(y_KRE.device)
    centroid_KCE = y_KRE.new_full((parts, centroids, width), torch.inf)
    centroid_KCE[:, : len(chosen)] = y_KRE[:, chosen]
    return centroid_KCE


def _k_means(y_KRE: Tensor, centroid_KCE: Tensor, passes: int) -> Tensor:
    """The centroids after so many passes over all parts at once."""
    for _ in range(passes):
        centroid_KCE = _means(y_KRE, _nearest(y_KRE, centroid_KCE), centroid_KCE)
    return centroid_KCE


def _means(y_KRE: Tensor, code_KR: Tensor, centroid_KCE: Tensor) -> Tensor:
    """The mean of each centroid's values. One without any moves to the value that is farthest from
    its own centroid, several to as many; where no value is left that is off, it is infinite.
    """
    parts, centroids = centroid_KCE.shape[:2]
    first_K1 = torch.arange(parts, device=y_KRE.device)[:, None] * centroids
    flat_code = (first_K1 + code_KR).flatten()
    sum_KCE = torch.zeros_like(centroid_KCE).flatten(0, 1)
    sum_KCE = sum_KCE.index_add_(0, flat_code, y_KRE.flatten(0, 1)).view_as(centroid_KCE)
    count_KC = torch.bincount(flat_code, minlength=parts * centroids).view(parts, centroids)
    mean_KCE = sum_KCE / count_KC.clamp(min=1)[:, :, None]
    for part in (count_KC == 0).any(1).nonzero()[:, 0].tolist():
        own_RE = mean_KCE[part, code_KR[part]]
        off_R = (y_KRE[part] - own_RE).square().sum(1)
        empty = (count_KC[part] == 0).nonzero()[:, 0]
        far_off, farthest = off_R.topk(min(len(empty), len(off_R)))
        # What rounding alone leaves of a mean of equal values does not count.
        really = far_off > 1e-12 * y_KRE[part].square().sum(1)[farthest]
        mean_KCE[part, empty] = torch.inf
        mean_KCE[part, empty[: int(really.sum())]] = y_KRE[part, farthest[really]]
    return mean_KCE


def _fitted_rotation(x_RP: Tensor, y_KRE: Tensor, centroid_KCE: Tensor) -> Tensor:
    """The orthonormal matrix that brings the vectors nearest to the centroids of their codes."""
    code_KR = _nearest(y_KRE, centroid_KCE)
    part_K1 = torch.arange(len(code_KR), device=code_KR.device)[:, None]
    wanted_RP = centroid_KCE[part_K1, code_KR].transpose(0, 1).flatten(1)
    left_PP, _, right_PP = torch.linalg.svd((wanted_RP.T @ x_RP).double())
    rotation_PP: Tensor = left_PP @ right_PP
    return rotation_PP.to(x_RP)
