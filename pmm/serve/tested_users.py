"""The test users of a target: what each had, the true next item, and the rank that it was given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.recommend.answers import MOST, TestUser, Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.serve.limits import CHECKED_DEPTH, CHECKED_USERS

COLUMNS = ("user_id", "history", "target", "rank")


class TestedUsers:
    """Users by row. An item is a number from 1 on, as the target counts them."""

    __test__ = False  # no class of tests

    def __init__(self, users: pa.Table, ids: Sequence[str], keep_history: bool = False) -> None:
        """Take users.

        Args:
            users: user_id (string), history (list of int32, oldest first), target (int32) and rank
                (int32, null where nobody evaluated).
            ids: raw ids of the items that were trained on.
            keep_history: whether the ranks count items of the history too.
        """
        self._users, self._ids = users.select(list(COLUMNS)).combine_chunks(), ids
        self.keep_history = keep_history

    def __len__(self) -> int:
        return int(self._users.num_rows)

    @classmethod
    def of(cls, users: Sequence[TestUser]) -> "TestedUsers":
        """Users that are given one by one."""
        number: dict[str, int] = {}
        for user in users:
            for item_id in (*user.history, user.target):
                number.setdefault(item_id, len(number) + 1)
        columns = {
            "user_id": pa.array([user.user_id for user in users], pa.string()),
            "history": pa.array(
                [[number[each] for each in user.history] for user in users], pa.list_(pa.int32())
            ),
            "target": pa.array([number[user.target] for user in users], pa.int32()),
            "rank": pa.array([user.rank for user in users], pa.int32()),
        }
        return cls(pa.table(columns), [*number])

    @classmethod
    def none(cls) -> "TestedUsers":
        """No users."""
        types = (pa.string(), pa.list_(pa.int32()), pa.int32(), pa.int32())
        return cls(pa.table([pa.array([], each) for each in types], names=list(COLUMNS)), ())

    def spread(self, most: int) -> list[TestUser]:
        """Some users, spread over all, in their order."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int))
        return [self.user(row) for row in rows.tolist()]

    def find(self, user_id: str) -> int | None:
        """The row of a user."""
        row = int(pc.index(self._users["user_id"], pa.scalar(user_id, pa.string())).as_py())
        return None if row < 0 else row

    def user_id(self, row: int) -> str:
        """The raw id."""
        found: str = self._users["user_id"][row].as_py()
        return found

    def user(self, row: int) -> TestUser:
        """All that is known of one."""
        return TestUser(
            user_id=self.user_id(row),
            history=tuple(self.history(row)),
            target=self.target(row),
            rank=self.rank(row),
        )

    def history(self, row: int) -> list[str]:
        """Raw ids of what the user had before the item that was asked for, oldest first."""
        return [self._ids[item - 1] for item in self._users["history"][row].as_py()]

    def target(self, row: int) -> str:
        """The true next item."""
        return self._ids[int(self._users["target"][row].as_py()) - 1]

    def rank(self, row: int) -> int | None:
        """Of the true next item in the evaluation, 1 is best; None: it was not evaluated."""
        rank: int | None = self._users["rank"][row].as_py()
        return rank


@dataclass(frozen=True, kw_only=True)
class RankCheck:
    """How many users have the rank that the evaluation gave them."""

    users: int
    """Who were compared."""
    same: int


def check_ranks(model: LoadedModel, users: TestedUsers) -> RankCheck:
    """Compare served with evaluated ranks, of some users all over the target.

    A rank counts as the same up to 2%: other devices and precisions round otherwise. Ranks beyond
    the depth that is looked at need only be beyond it here, too.
    """
    compared = same = 0
    for user in users.spread(CHECKED_USERS):
        rank = user.rank
        if rank is None:
            continue
        compared += 1
        found = served_rank(model, user, depth=CHECKED_DEPTH, keep_history=users.keep_history)
        if found is None or rank > CHECKED_DEPTH:
            same += (found is None and rank > 0.98 * CHECKED_DEPTH) or found == rank
        else:
            same += abs(found - rank) <= 0.02 * rank
    return RankCheck(users=compared, same=same)


def served_rank(
    model: LoadedModel, user: TestUser, *, depth: int = MOST, keep_history: bool = False
) -> int | None:
    """The rank of a test user's true next item, as `pmm evaluate` defines it.

    It is 1 + the number of others that score as high or higher.

    Args:
        model: that answers.
        user: whose item it is.
        depth: None where the rank is beyond.
        keep_history: whether items of the history count.
    """
    seen = set(user.history)
    k = min(MOST, len(model.state), depth + len(seen))
    found = model.recommend([user.history], Wanted(k=k, keep_history=True))[0]
    scores = {each.item_id: each.score for each in found.items}
    if user.target not in scores:
        return None
    others = set(scores) if keep_history else set(scores) - seen | {user.target}
    rank = sum(scores[each] >= scores[user.target] for each in others)
    return None if rank > depth else rank
