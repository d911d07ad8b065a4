"""Recommendations for all users of a target or of a file, into a Parquet file.

Users are ranked in pieces: memory is that of one piece, whatever their number.
"""

import hashlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pmm.arrays import Int64s
from pmm.errors import InputError, PmmError, StaleArtefact
from pmm.ingest.targets.target_tables import open_target
from pmm.progress import progress
from pmm.recommend.batch.excluded_ids import read_excluded
from pmm.recommend.batch.history_spool import SpooledHistories, cut, spool
from pmm.recommend.batch.new_item_file import NewItemFile
from pmm.recommend.batch.piece_folder import HISTORIES_FOLDER, PieceFolder
from pmm.recommend.batch.recommend_options import EVERY_USER, RecommendRequest
from pmm.recommend.item_index import IndexChoice
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.many_users import HistoryRanker
from pmm.recommend.open_run import open_model, version_of
from pmm.runs.loading import saved_recipe
from pmm.storage.artefact import read_manifest
from pmm.storage.home import Home, whole_path
from pmm.storage.schemas import RECOMMENDATIONS
from pmm.storage.snapshot import Snapshot
from pmm.storage.verify import sha256_of

logger = logging.getLogger(__name__)

SHOWN = 5
"""Unknown ids that are named."""


class StandsAlone(Protocol):
    """What answers without a home folder: a bundle."""

    @property
    def version(self) -> str:
        """Of the weights."""

    @property
    def target(self) -> str:
        """Whose items it has."""

    @property
    def shards(self) -> str:
        """Fingerprint of what its items were made of."""

    def load(self, device: str, *, index: IndexChoice = "auto") -> LoadedModel:
        """The model, ready to answer."""


def recommend_as_asked(
    request: RecommendRequest, bundle: StandsAlone | None = None
) -> dict[str, Any]:
    """Write the recommendations that are asked for.

    A run that was stopped goes on with the first piece that is not there.

    Args:
        request: what is asked.
        bundle: what `request.run` is where it is no run.

    Returns:
        What stands in `FILE.about.json` beside the file: users, rows, what was skipped, and what it
        was made of.

    Raises:
        PmmError: as `open_model` and `open_histories`; the file is there, made of another request;
            another process writes it; or the disk is full.
    """
    out = whole_path(request.out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; expected is the name of a file")
    inputs = _Inputs.of(request, bundle)
    pieces = PieceFolder(out, RECOMMENDATIONS, inputs.asked(), request.again("overwrite"))
    with pieces.held():
        if not request.overwrite and (found := pieces.found()) is not None:
            logger.info("%s is there already, made of the same: nothing to do", out)
            pieces.drop_own()
            return found
        try:
            pieces.begin(overwrite=request.overwrite)
            return _made(request, inputs, pieces)
        except PmmError:
            pieces.drop_without_pieces()
            raise


def _made(request: RecommendRequest, inputs: "_Inputs", pieces: PieceFolder) -> dict[str, Any]:
    # Users together are ranked by one product with all items, so nothing is gained by an index.
    model = inputs.open()
    if model.version != inputs.version:
        raise StaleArtefact(f"{inputs.run} was trained anew meanwhile. Run the same again")
    new = inputs.items.add_to(model) if inputs.items is not None else {}
    return _Work(request, inputs, pieces, model).run(new)


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What is read, and its digests."""

    request: RecommendRequest
    home: Home
    run: Path
    target: str
    version: str
    shards: str | None
    """Fingerprint; None where there are none."""
    bundle: StandsAlone | None
    exclude: tuple[str, ...]
    items: NewItemFile | None
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: RecommendRequest, bundle: StandsAlone | None) -> "_Inputs":
        """Look at all that a request names, before anything is loaded."""
        home, run = request.place()
        if bundle is not None:
            _require_file(request)
        target = bundle.target if bundle else _target_of(request, home, run)
        items = None if request.items is None else NewItemFile(request.items, request.images)
        digests = {}
        if request.users == EVERY_USER:
            digests["users"] = open_target(home, target).fingerprint
        else:
            digests["users"] = _sha256(Path(request.users), "--users")
        if items is not None and request.items is not None:
            digests["items"] = _sha256(request.items, "--items")
            digests["images"] = _sha256_of_all(items.pictures)
        return cls(
            request=request,
            home=home,
            run=run,
            target=target,
            version=bundle.version if bundle else version_of(run),
            shards=bundle.shards if bundle else _fingerprint(home, target),
            bundle=bundle,
            exclude=read_excluded(request.exclude),
            items=items,
            digests=digests,
        )

    def asked(self) -> dict[str, Any]:
        """All that the answers follow from."""
        request = self.request
        return {
            **self.digests,
            "users are": "all" if request.users == EVERY_USER else "a file",
            "before_test": request.before_test,
            "k": request.k,
            "keep_history": request.keep_history,
            "exclude": _sha256_of_texts(self.exclude),
            "category": sorted(request.category),
            "popularity": request.popularity,
            "target": self.target,
            "model": self.version,
            "shards": self.shards,
            "users_per_piece": request.users_per_piece,
        }

    def open(self) -> LoadedModel:
        """What answers."""
        device = self.request.device
        if self.bundle is not None:
            return self.bundle.load(device, index="exact")
        return open_model(self.home, self.run, device=device, target=self.target, index="exact")


def _require_file(request: RecommendRequest) -> None:
    """Refuse what a bundle does not have."""
    if request.target is not None:
        raise InputError(
            f"{request.run} is a bundle, which has the items of one target: leave out --target"
        )
    if request.users == EVERY_USER:
        raise InputError(
            f"{request.run} is a bundle, which does not have the histories of all users: name a "
            "file of them with --users FILE"
        )


def _target_of(request: RecommendRequest, home: Home, run: Path) -> str:
    names = saved_recipe(run).names
    if request.target is None and len(names) > 1:
        raise InputError(f"{run} was trained on {', '.join(names)}: say which one with --target")
    return home.find_target(request.target or names[0])


def _fingerprint(home: Home, target: str) -> str | None:
    found = read_manifest(home.shards(target))
    return None if found is None else found.fingerprint


def _sha256(path: Path, option: str) -> str:
    try:
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder; expected is one file")
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read ({error.strerror})") from error


def _sha256_of_all(paths: Sequence[Path]) -> str:
    """Over names and contents; a file that cannot be read counts as such."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            content = sha256_of(path)
        except OSError:
            content = "missing"
        whole.update(f"{path.name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _sha256_of_texts(texts: Sequence[str]) -> str:
    """Of a set of ids; "" of none."""
    return hashlib.sha256("\0".join(sorted(texts)).encode()).hexdigest() if texts else ""


class _Work:
    """The pieces of one request."""

    def __init__(
        self,
        request: RecommendRequest,
        inputs: _Inputs,
        pieces: PieceFolder,
        model: LoadedModel,
    ) -> None:
        self._request, self._inputs, self._pieces, self._model = request, inputs, pieces, model
        state = model.state
        self._ids = pa.array(state.ids[: len(state)], pa.string())
        newest = [state.find(each) for each in state.ids[: len(state)]]
        self._newest_N = np.array(newest, np.int64)
        """Where the content of a row's item stands now."""

    def run(self, new: dict[str, int]) -> dict[str, Any]:
        """Make the pieces that are not there, and merge all; what is told of the file."""
        histories = self._histories()
        ranker = self._model.ranker(self._request.wanted(self._inputs.exclude))
        self._tell_unknown_exclusions()
        count = -(-histories.users // self._request.users_per_piece)
        planned = False
        with progress(histories.users, "Recommending", "users") as bar:
            there = 0
            for number, of, users, read in histories.pieces():
                if self._pieces.has(number, of):
                    there += 1
                    bar.advance(users)
                    continue
                if there and not planned:
                    logger.info("%d of %d pieces are there already", there, count)
                began = time.monotonic()
                size = self._pieces.write(number, *self._ranked(ranker, read()), of)
                bar.advance(users)
                if not planned and number + 1 < count:
                    self._plan(histories.users, users, time.monotonic() - began, size, number + 1)
                planned = True
        told = self._totals(count)
        return self._pieces.merge(
            count,
            {
                "run": self._inputs.run.name,
                "model": self._inputs.version,
                "target": self._inputs.target,
                "items": int(self._model.state.offered_N.sum()),
                "k": self._request.k,
                **told,
                **new,
                "rows_left_out": histories.dropped,
            },
        )

    def _histories(self) -> "_Histories":
        request, per_piece = self._request, self._request.users_per_piece
        if request.users == EVERY_USER:
            return self._of_target(per_piece)
        found = spool(
            Path(request.users),
            set(self._model.state.ids),
            self._pieces.folder / HISTORIES_FOLDER,
            per_piece,
        )
        if _sha256(Path(request.users), "--users") != self._inputs.digests["users"]:
            raise StaleArtefact(f"{request.users} changed while it was read. Run the same again")

        def pieces() -> "Iterator[_Piece]":
            for number in range(-(-found.users // per_piece)):
                users = min(per_piece, found.users - number * per_piece)
                of = found.digest(number)
                yield number, of, users, partial(self._from_ids, found, number)

        return _Histories(users=found.users, dropped=found.dropped, pieces=pieces)

    def _from_ids(self, found: SpooledHistories, number: int) -> "_Rows":
        table = found.piece(number)
        lists = table["items"].combine_chunks()
        items = pc.list_flatten(lists)
        place_P = pc.index_in(items, value_set=self._ids).fill_null(-1).to_numpy().astype(np.int64)
        row_P = np.where(place_P < 0, -1, self._newest_N[place_P])
        count_B = pc.list_value_length(lists).to_numpy().astype(np.int64)
        strange = items.filter(pa.array(row_P < 0))
        return _Rows(table["user_id"].combine_chunks(), row_P, count_B, strange)

    def _of_target(self, per_piece: int) -> "_Histories":
        place = self._inputs.home.target(self._inputs.target) / "sequences.parquet"
        seen = Snapshot(place, f"the target {self._inputs.target}", "the same command")
        columns = ["user_id", "train", "valid", "test"]
        with seen.reading(), pq.ParquetFile(place) as file:
            users = file.metadata.num_rows

        def pieces() -> "Iterator[_Piece]":
            with seen.reading(), pq.ParquetFile(place) as file:
                batches = file.iter_batches(min(per_piece, 65_536), columns=columns)
                tables = (pa.Table.from_batches([batch]) for batch in batches)
                for number, table in enumerate(cut(tables, per_piece)):
                    of = f"{self._inputs.digests['users']}, {number}"
                    yield number, of, table.num_rows, partial(self._from_numbers, table)

        return _Histories(users=users, dropped={}, pieces=pieces)

    def _from_numbers(self, table: pa.Table) -> "_Rows":
        """Histories of the target's users by the numbers of items, the last one too if wanted."""
        train = table["train"].combine_chunks()
        count_B = pc.list_value_length(train).to_numpy().astype(np.int64)
        last = ["valid"] if self._request.before_test else ["valid", "test"]
        total_B = count_B + len(last)
        start_B = np.cumsum(total_B) - total_B
        item_P = np.empty(int(total_B.sum()), np.int64)
        shift_B = start_B - (np.cumsum(count_B) - count_B)
        at = np.repeat(shift_B, count_B) + np.arange(int(count_B.sum()))
        item_P[at] = pc.list_flatten(train).to_numpy()
        for place, name in enumerate(last):
            item_P[start_B + count_B + place] = table[name].to_numpy()
        row_P = self._newest_N[item_P - 1]
        users = table["user_id"].combine_chunks()
        return _Rows(users, row_P, total_B, pa.array([], pa.string()))

    def _ranked(self, ranker: HistoryRanker, rows: "_Rows") -> tuple[pa.Table, dict[str, Any]]:
        """The piece of some histories, and what is to be told of it."""
        known_P = rows.row_P >= 0
        of_user_P = np.repeat(np.arange(len(rows.count_B)), rows.count_B)[known_P]
        known_B = np.bincount(of_user_P, minlength=len(rows.count_B))
        found = ranker.rank(np.split(rows.row_P[known_P], np.cumsum(known_B)[:-1]))
        start_B = np.cumsum(found.count_B) - found.count_B
        user_P = np.repeat(np.arange(len(rows.users), dtype=np.int32), found.count_B)
        rank_P = np.arange(len(user_P)) - np.repeat(start_B, found.count_B) + 1
        columns = {
            "user_id": pa.DictionaryArray.from_arrays(pa.array(user_P), rows.users),
            "item_id": self._ids.take(pa.array(found.row_P)),
            "rank": pa.array(rank_P, pa.int32()),
            "score": pa.array(found.score_P, pa.float32()),
        }
        return pa.table(columns), {
            "users": len(rows.users),
            "popular_users": int(np.count_nonzero(known_B == 0)),
            "users_without_items": int(np.count_nonzero(found.count_B == 0)),
            "unknown_ids": len(rows.strange),
            "unknown_first": [each[:60] for each in rows.strange.unique()[:SHOWN].to_pylist()],
        }

    def _plan(self, users: int, done: int, seconds: float, size: int, pieces: int) -> None:
        """Say from the first piece how long all will take, and how large it will be."""
        rate = done / max(seconds, 1e-9)
        left = max(0, users - pieces * self._request.users_per_piece)
        whole = size * users / max(1, done)
        logger.info(
            "%s users x %s items: %s users took %.1f s (%s/s), so the rest takes about %s; %s will "
            "hold about %s, and its pieces as much until then",
            f"{users:,}",
            f"{len(self._model.state):,}",
            f"{done:,}",
            seconds,
            f"{rate:,.0f}",
            _duration(left / rate),
            self._pieces.out.name,
            _megabytes(whole),
        )
        free = shutil.disk_usage(self._pieces.out.parent).free
        if free < 2 * whole:
            logger.warning(
                "%s: %s are free, about %s are needed",
                self._pieces.out.parent,
                _megabytes(free),
                _megabytes(2 * whole),
            )

    def _totals(self, count: int) -> dict[str, Any]:
        totals: Counter[str] = Counter()
        first: dict[str, None] = {}
        for number in range(count):
            told = self._pieces.told(number)
            totals.update({name: n for name, n in told.items() if isinstance(n, int)})
            first |= dict.fromkeys(told["unknown_first"])
        return {**totals, "unknown_first": list(first)[:SHOWN]}

    def _tell_unknown_exclusions(self) -> None:
        find = self._model.state.find
        strange = [each for each in self._inputs.exclude if find(each) is None]
        if strange:
            logger.warning(
                "--exclude: %s ids are not in the catalogue, e.g. %r",
                f"{len(strange):,}",
                strange[0][:60],
            )


@dataclass(frozen=True)
class _Rows:
    """Histories as rows of the catalogue, one user after the other."""

    users: pa.Array
    row_P: Int64s
    """-1 for what the catalogue does not have."""
    count_B: Int64s
    strange: pa.Array
    """The ids of these."""


_Piece = tuple[int, str, int, Callable[[], _Rows]]
"""Number, digest of its histories, users, and what reads them."""


@dataclass(frozen=True, kw_only=True)
class _Histories:
    users: int
    dropped: dict[str, int]
    """Rows that were left out, by reason."""
    pieces: Callable[[], Iterator[_Piece]]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
