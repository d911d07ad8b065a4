"""The folder of a run or a bundle -> a model that serves, its search, and its test users."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from pmm.advice import command
from pmm.bundle.open_bundle import Bundle, bundle_at
from pmm.errors import InputError, MissingArtefact
from pmm.recommend.loaded_model import LoadedModel
from pmm.serve.item_search import ItemSearch, ListedItem
from pmm.serve.tested_users import TestedUsers
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json
from pmm.storage.schemas import RANKS, SEQUENCES, read_table


@dataclass(kw_only=True)
class ServedModel:
    """A model with all that a server answers by."""

    name: str
    """Of its folder."""
    place: Path
    target: str
    """Whose items it answers with."""
    model: LoadedModel
    users: TestedUsers
    search: ItemSearch = field(default_factory=ItemSearch)
    applied: int = 0
    """The last record of the log of items that it knows."""
    since: str = ""
    """When it began to serve."""

    @property
    def version(self) -> str:
        """Of its weights."""
        return self.model.version

    def begin(self) -> None:
        """Note that it serves from now on."""
        self.since = datetime.now(UTC).isoformat(timespec="seconds")

    def fill_search(self) -> None:
        """Read the catalogue for searches, beside the answers that are given meanwhile."""

        def items() -> Iterator[ListedItem]:
            count_N = self.model.state.count_N
            for row, (item_id, text, categories) in enumerate(self.model.trained_items()):
                yield ListedItem(
                    row=row,
                    item_id=item_id,
                    text=text,
                    count=int(count_N[row]),
                    categories=categories,
                )

        # No process waits for it when it ends.
        threading.Thread(
            target=lambda: self.search.fill(items()), name="pmm-search", daemon=True
        ).start()


def load_served(
    place: Path, home: Home, *, device: str = "auto", target: str | None = None, onnx: bool = False
) -> ServedModel:
    """A model by its folder, which begins to read its catalogue for searches; as `open_served`."""
    served = open_served(place, home, device=device, target=target, onnx=onnx)
    served.fill_search()
    return served


def open_served(
    place: Path, home: Home, *, device: str = "auto", target: str | None = None, onnx: bool = False
) -> ServedModel:
    """A model by its folder.

    Args:
        place: the folder of a run or of a bundle.
        home: where the shards of a run are.
        device: where to compute.
        target: whose items it answers with; None: its own.
        onnx: answer from a bundle's graphs, without torch.

    Raises:
        PmmError: there is none, or it cannot be used; as `pmm.recommend.open_run.open_model`.
    """
    if bundle := bundle_at(place):
        return _of_bundle(bundle, device=device, target=target, onnx=onnx)
    if not (place / "recipe.toml").is_file():
        made_by = command("train", target="NAME", name=place.name)
        raise MissingArtefact(f"{place} is neither a run nor a bundle. Run: {made_by}")
    if onnx:
        made_by = command("export", place, to="DIR", onnx=True)
        raise InputError(f"{place} is a run, which has no ONNX graphs. Run: {made_by}")
    from pmm.recommend.open_run import open_model
    from pmm.runs.loading import targets_of

    model = open_model(home, place, device=device, target=target)
    name = home.find_target(target or targets_of(place)[0])
    users = users_of_run(place, home, name, model.state.ids)
    return ServedModel(name=place.name, place=place, target=name, model=model, users=users)


def _of_bundle(bundle: Bundle, *, device: str, target: str | None, onnx: bool) -> ServedModel:
    place = bundle.place
    if target is not None and target != bundle.target:
        raise InputError(
            f"{place} is a bundle, which has the items of {bundle.target}: leave out --target"
        )
    model = bundle.load(device, onnx=onnx)
    users = TestedUsers.of(bundle.users())
    return ServedModel(name=place.name, place=place, target=bundle.target, model=model, users=users)


def users_of_run(place: Path, home: Home, target: str, ids: Sequence[str]) -> TestedUsers:
    """The test users of a target that a run answers for; none where its tables are not here.

    Args:
        place: the folder of the run, which may have evaluated them.
        home: where the target is.
        target: its name.
        ids: raw ids of its items.
    """
    from pmm.runs.loading import is_own

    table = home.target(target) / "sequences.parquet"
    if not table.is_file():
        return TestedUsers.none()
    read = read_table(table, SEQUENCES)
    ranks: dict[int, int] = {}
    if is_own(place, target) and (place / "ranks.parquet").is_file():
        known = read_table(place / "ranks.parquet", RANKS, ["user", "rank"])
        ranks = dict(zip(known["user"].to_pylist(), known["rank"].to_pylist(), strict=True))
    columns = {
        "user_id": read["user_id"],
        "history": _with_last(read["train"], read["valid"]),
        "target": read["test"],
        "rank": pa.array([ranks.get(each) for each in read["user"].to_pylist()], pa.int32()),
    }
    return TestedUsers(pa.table(columns), ids, _kept_history(place))


def _with_last(lists: pa.ChunkedArray, last: pa.ChunkedArray) -> pa.Array:
    """Each list with one more value at its end."""
    pairs = zip(lists.to_pylist(), last.to_pylist(), strict=True)
    return pa.array([[*each, one] for each, one in pairs], pa.list_(pa.int32()))


def _kept_history(place: Path) -> bool:
    """Whether the evaluation ranked the items of histories, too."""
    try:
        return bool(parse_json((place / "metrics.json").read_bytes()).get("keep_history", False))
    except JSON_ERRORS:
        return False
