"""What `pmm recommend` can be asked."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pmm.advice import command, said_options
from pmm.errors import InputError
from pmm.flags import Flag
from pmm.recommend.answers import Share, Wanted
from pmm.storage.home import Home, place_of_run, whole_path

EVERY_USER = "all"
"""In place of a file of histories."""


@dataclass(frozen=True, kw_only=True)
class RecommendRequest:
    """Recommendations of a run for many users."""

    run: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """Folder of a run, or its name; or the folder of a bundle."""
    out: Annotated[Path, Flag(metavar="FILE.parquet")]
    """Where the recommendations go: columns user_id, item_id, rank, score."""
    users: Annotated[str, Flag(group="data", metavar="FILE|all")] = EVERY_USER
    """Histories from a CSV, JSON-lines or Parquet file, or all users of the target."""
    before_test: Annotated[bool, Flag(group="data")] = False
    """All users of the target as the test has them: their last item is not in the history."""
    k: Annotated[int, Flag(group="data", name="--k")] = 50
    """Items for each user; fewer come only where fewer are allowed."""
    keep_history: Annotated[bool, Flag(group="data", name="--keep-history/--exclude-history")] = (
        False
    )
    """Whether items that a user has had already may come again."""
    exclude: Annotated[tuple[str, ...], Flag(group="data", metavar="ID|FILE")] = ()
    """An item that nobody is recommended, or a file of such; repeatable."""
    category: Annotated[tuple[str, ...], Flag(group="data")] = ()
    """Only items of this category; repeatable."""
    popularity: Annotated[Share, Flag(group="data", metavar="NUMBER|chosen")] = 0.0
    """Share of popularity in the ranking: 0 ranks by what fits, chosen is what validation chose."""
    items: Annotated[Path | None, Flag(group="data")] = None
    """New items that training never saw, a CSV: item_id, text[, image][, category]."""
    images: Annotated[Path | None, Flag(group="data")] = None
    """Folder of the pictures of the new items, by the path in `image` or by the item's id."""
    target: Annotated[str | None, Flag(group="data", shown="its own")] = None
    """Another dataset, whose items are recommended without training."""
    device: Annotated[str, Flag(group="training")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    home: Annotated[Path | None, Flag(group="output", shown="that of the run")] = None
    """Folder of all artefacts."""
    overwrite: Annotated[bool, Flag(group="output")] = False
    """Begin anew where the file, or part of it, was made for another request."""
    users_per_piece: int = 8_192
    """Users whose recommendations are written at a time; a kill costs so many at most."""

    def __post_init__(self) -> None:
        if isinstance(self.popularity, str) and self.popularity != "chosen":
            with contextlib.suppress(ValueError):  # refused below
                object.__setattr__(self, "popularity", float(self.popularity))
        object.__setattr__(self, "users", str(self.users))
        self.wanted(())
        if self.users_per_piece < 1:
            raise InputError(f"users_per_piece must be at least 1, found {self.users_per_piece}")
        if self.before_test and self.users != EVERY_USER:
            raise InputError("--before-test is of the target's users: leave it or --users out")
        if self.images is not None and self.items is None:
            raise InputError("--images are pictures of new items: name these with --items FILE.csv")
        if self.out.suffix != ".parquet":
            raise InputError(f"--out {self.out}: a Parquet file is written, so end it in .parquet")

    def wanted(self, exclude: tuple[str, ...]) -> Wanted:
        """What each user is answered.

        Args:
            exclude: ids, where files of them have been read.

        Raises:
            InputError: k or popularity are out of range.
        """
        return Wanted(
            k=self.k,
            exclude=exclude,
            categories=self.category,
            keep_history=self.keep_history,
            popularity=self.popularity,
        )

    def place(self) -> tuple[Home, Path]:
        """The home folder and the run's folder."""
        return place_of_run(self.home, self.run)

    def again(self, how: Literal["", "overwrite"] = "") -> str:
        """The command that asks for the same."""
        said = said_options(self, ("overwrite",))
        return command(
            "recommend",
            whole_path(self.run) if self.run.exists() else self.run,
            **said,
            overwrite=how == "overwrite",
        )
