"""The order of training samples: a permutation that is computed, never stored.

Which sample stands at a position is a pure function of (seed, epoch, position), so that a loader
has nothing to remember and any number of workers agree.
"""

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

# Four rounds suffice with pseudo-random functions (Luby and Rackoff, 1988); the function here is
# only a mixer. That every sample is equally likely at every position is tested by counting.
_ROUNDS = 8
# A network of few bits reaches few of the orders, so even a handful of samples goes through 64
# values.
_LEAST_HALF_BITS = 3


def shuffled(
    positions: npt.NDArray[np.int64], n: int, *, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """The samples at some positions of the epoch's permutation of 0..n-1.

    A Feistel network keyed by seed and epoch permutes the next power of four; a position that falls
    outside 0..n-1 is sent through again until it falls inside (cycle walking).

    >>> shuffled(np.arange(10), 10, seed=0, epoch=0).tolist()
    [3, 1, 4, 9, 2, 7, 5, 0, 6, 8]
    >>> shuffled(np.arange(3, 5), 10, seed=0, epoch=0).tolist()
    [9, 2]
    """
    # Not `rng.permutation(n)`: every process would have to make and hold it, and again after a
    # resume; of this, any position can be asked for alone. The domain is less than four times n, so
    # a position that falls outside comes back inside after a few steps.
    half = max(_LEAST_HALF_BITS, ((n - 1).bit_length() + 1) // 2)
    keys = _keys(seed, epoch)
    found = _feistel(positions.astype(np.uint64), half, keys)
    outside = found >= n
    while outside.any():
        found[outside] = _feistel(found[outside], half, keys)
        outside = found >= n
    return found.astype(np.int64)


def drawn_below(
    bounds: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    what: str,
) -> npt.NDArray[np.int64]:
    """A random whole number below each bound: a pure function of (seed, epoch, number, what).

    Args:
        bounds: 1 or above.
        numbers: of whom or what it is drawn for.
        seed: of the run.
        epoch: each has draws of its own.
        what: the name of the draw.

    >>> drawn_below(np.array([1, 9, 9]), np.array([5, 5, 6]), seed=0, epoch=0, what="die").tolist()
    [0, 0, 6]
    """
    key, other = _keys(seed, epoch, what)[:2]
    mixed = _mixed(_mixed(numbers.astype(np.uint64) ^ np.uint64(key)) ^ np.uint64(other))
    return (mixed % bounds.astype(np.uint64)).astype(np.int64)


def _keys(seed: int, epoch: int, what: str = "order") -> list[int]:
    digest = hashlib.sha512(f"{what} {seed} {epoch}".encode()).digest()
    return [int.from_bytes(digest[8 * k : 8 * k + 8], "little") for k in range(_ROUNDS)]


def _feistel(values: npt.NDArray[np.uint64], half: int, keys: list[int]) -> npt.NDArray[np.uint64]:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ np.uint64(key)) & mask)
    return (left << shift) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): each bit depends on all others."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


Mixing = Literal["proportional", "equal"]
