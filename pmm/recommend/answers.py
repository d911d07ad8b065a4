"""What can be asked of a finished run, and what it answers. Raw ids in, raw ids out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pmm.errors import InputError

MOST = 10_000
"""Items that are answered at most."""

Share = float | Literal["chosen"]
"""alpha of `pmm.evaluate.popularity_mix`, or what the run's validation items chose."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which recommendations are asked for."""

    k: int = 10
    """How many; fewer come only where fewer are allowed."""
    exclude: Sequence[str] = ()
    """Ids that are never recommended."""
    allow: Sequence[str] | None = None
    """Ids of which alone some are recommended; None: all."""
    categories: Sequence[str] = ()
    """Items of one of these alone; none: of any."""
    keep_history: bool = False
    """Whether items of the history may come again."""
    popularity: Share = 0.0
    """How much popularity the ranking holds: 0 ranks by what fits, as `ranks.parquet` does, and
    serves new items best; "chosen" is the share of the best hit ratio."""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not 1 <= self.k <= MOST:
            raise InputError(f"k must be from 1 to {MOST:,}, found {self.k}")
        for name in ("exclude", "allow", "categories"):
            if isinstance(getattr(self, name), str):
                raise InputError(f"{name} must be a list of ids, found one string")
        if isinstance(self.popularity, str):
            if self.popularity != "chosen":
                raise InputError(f'popularity must be a number or "chosen": {self.popularity!r}')
        elif not math.isfinite(self.popularity):
            raise InputError(f"popularity must be a finite number, found {self.popularity}")


@dataclass(frozen=True)
class Scored:
    """An item of an answer."""

    item_id: str
    score: float
    """What items are ordered by: the logit of the model, less what is the same for all items."""


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """Recommendations for one history."""

    items: tuple[Scored, ...]
    """Best first."""
    unknown: tuple[str, ...] = ()
    """Ids of the history that the catalogue does not have; they were skipped."""
    popular: bool = False
    """Nothing of the history is known, so these are the popular items."""


@dataclass(frozen=True)
class Contribution:
    """An item of a history, and what it did for a recommendation."""

    item_id: str
    effect: float
    """How much lower the score would be without it; negative: it spoke against."""


@dataclass(frozen=True, kw_only=True)
class NewItem:
    """An item that training did not see, or new content of one that it did."""

    item_id: str
    text: str = ""
    image: bytes | None = None
    """A picture file: JPEG, PNG, WebP … of any size."""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TestUser:
    """A user of the test set, by raw ids."""

    __test__ = False  # pytest would take the name for a test

    user_id: str
    history: tuple[str, ...]
    """All before the true next item, oldest first."""
    target: str
    """The true next item."""
    rank: int | None = None
    """That the evaluation gave it, 1 is best; None: it was not evaluated."""


@dataclass(frozen=True, kw_only=True)
class ItemCard:
    """What is known of an item."""

    item_id: str
    text: str
    categories: tuple[str, ...]
    has_picture: bool
    count: int
    """Training occurrences."""
    new: bool
    """Whether it was added after training."""
    withdrawn: bool
    """Whether it is kept in histories alone."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "categories": list(self.categories)}
