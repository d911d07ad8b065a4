"""Splits and cold-start cuts of ordered sequences.

All functions take the R rows of a target grouped by user and in order of time within a user:
`user` [R] ascending codes, `item` [R]. A part is one of TRAIN, VALID, TEST, or LEFT_OUT.
"""

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Int32s
from pmm.errors import InputError

TRAIN, VALID, TEST, LEFT_OUT = 0, 1, 2, -1
LEAST = 3
"""Interactions that a sequence needs: one each to train, validate and test."""

TIME_POINTS = (0.8, 0.9)
"""Temporal split: shares of all interactions before the validation and before the test point."""

Parts = NDArray[np.int8]


def starts_of(user: Int32s) -> NDArray[np.int64]:
    """[R] position of the first row of each row's user.

    >>> starts_of(np.array([0, 0, 4, 4, 4], np.int32)).tolist()
    [0, 0, 2, 2, 2]
    """
    # Rows of a user stand together, so a change of the code is a beginning: no sort, no grouping.
    first = np.flatnonzero(np.diff(user, prepend=-1))
    return np.repeat(first, np.diff(first, append=len(user)))


def leave_one_out(user: Int32s) -> Parts:
    """Last row of a user = test, the one before = valid, the rest train (paper IV-A).

    Users with fewer than three rows are left out.

    >>> leave_one_out(np.array([0, 0, 0, 0, 1, 1], np.int32)).tolist()
    [0, 0, 1, 2, -1, -1]
    """
    parts = np.full(len(user), TRAIN, np.int8)
    if not len(user):
        return parts
    # By position, not by time: of two rows with the same time the later in the file is the last.
    last = np.flatnonzero(np.diff(user, append=user[-1] + 1))
    sizes = np.diff(last, prepend=-1)
    parts[np.repeat(sizes < LEAST, sizes)] = LEFT_OUT
    enough = last[sizes >= LEAST]
    parts[enough], parts[enough - 1] = TEST, VALID
    return parts


def temporal(user: Int32s, timestamp: NDArray[np.int64] | None) -> Parts:
    """Split at two points in time that are the same for all users, so that no training row is
    later than a validation target, and no validation target later than a test target.

    The points are the times that 80% and 90% of the rows precede. Training is all before the
    first point; a user's validation target is their first row at or after the first point and
    before the second; the test target their first row at or after the second. Users need all
    three. What a user does after a target within the same span is left out.

    >>> temporal(np.zeros(10, np.int32), np.arange(10)).tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]

    Raises:
        InputError: there are no times, or no user has all three parts.
    """
    if timestamp is None:
        raise InputError(
            "--split temporal needs times, and this source has none. Without --split each user's "
            "last two items are held out"
        )
    # Shares of the rows, not of the span of time: a shop that grows has most of its rows at the
    # end, and 80 % of the span could leave half of them for the test.
    ordered = np.sort(timestamp)
    valid_from, test_from = (int(ordered[int(share * len(ordered))]) for share in TIME_POINTS)
    span = (timestamp >= valid_from).astype(np.int8) + (timestamp >= test_from)
    fresh = np.diff(user, prepend=-1) != 0
    fresh |= np.diff(span, prepend=-1) != 0  # the first row of a user in a span
    parts = np.where((span == TRAIN) | fresh, span, LEFT_OUT).astype(np.int8)
    size = int(user[-1]) + 1
    has = [np.bincount(user[parts == part], minlength=size) > 0 for part in (TRAIN, VALID, TEST)]
    # Users who lack a part go whole: a training history without a target would count as a user in
    # the statistics, and a target without a history cannot be ranked.
    parts[~np.logical_and.reduce(has)[user]] = LEFT_OUT
    if not (parts == TEST).any():
        raise InputError(
            "--split temporal leaves no user: none has interactions before "
            f"{valid_from}, between it and {test_from}, and after that (UTC seconds). Without "
            "--split each user's last two items are held out"
        )
    return parts


def cold_cuts(
    user: Int32s, item: Int32s, is_cold: NDArray[np.bool_]
) -> tuple[Int32s, Int32s, Int32s]:
    """Every cut of a full sequence that ends on a cold item (paper IV-A), history not empty.

    A user with n cold items has n histories, each a prefix of the next: written out they would
    grow with the square of n. So a cut is named by its position; its history is all before it.

    >>> user, item = np.array([0, 0, 0, 4, 4], np.int32), np.array([1, 2, 2, 2, 1], np.int32)
    >>> [each.tolist() for each in cold_cuts(user, item, np.array([False, False, True]))]
    [[0, 0], [1, 2], [2, 2]]

    Args:
        user: [R] ascending.
        item: [R] numbers 1..N.
        is_cold: [N + 1].

    Returns:
        (user [C], position within the user's sequence [C], target [C]) of C cuts.
    """
    start = starts_of(user)
    ends = np.flatnonzero(is_cold[item])
    ends = ends[ends > start[ends]]
    return user[ends], (ends - start[ends]).astype(np.int32), item[ends]
