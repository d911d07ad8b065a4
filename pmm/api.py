"""The door for Python: the stages as functions, with the options of the commands, and a run.

Each function takes what the dataclass of its command takes (`pmm.train` the fields of
`pmm.runs.request.TrainRequest`), so that options are declared once and type checkers know them.
Where a path is asked for, a string does as well.

The examples run in a home folder that holds a tiny shop and a run on it; `home` is its place.
"""

import dataclasses
import functools
import inspect
import logging
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

from pmm.advice import command
from pmm.errors import InputError, MissingArtefact, nearest
from pmm.evaluate.evaluate_options import CompareRequest, EvaluateRequest
from pmm.ingest.sources.source_registry import find_source, ingest_from
from pmm.recommend.batch.recommend_options import RecommendRequest
from pmm.runs.request import CacheRequest, EncodersRequest, TrainRequest, TuneRequest
from pmm.shards.shard_options import ShardRequest
from pmm.storage.home import Home, resolve_home
from pmm.storage.json_files import read_json
from pmm.storage.seal import require_sealed

if TYPE_CHECKING:
    import polars as pl

    from pmm.evaluate.compare import Difference
    from pmm.recommend.answers import NewItem, Share
    from pmm.recommend.loaded_model import LoadedModel
    from pmm.runs.recipe import Recipe
    from pmm.shards.read import Shards

Given = ParamSpec("Given")
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class WantedToo(TypedDict, total=False):
    """What `Run.recommend` takes beside k: the other fields of `pmm.recommend.answers.Wanted`."""

    exclude: Sequence[str]
    allow: Sequence[str] | None
    categories: Sequence[str]
    keep_history: bool
    popularity: "Share"


logger = logging.getLogger(__name__)

METRICS, RANKS_TABLE = "metrics.json", "ranks.parquet"


def _asked_as(
    kind: Callable[Given, Request],
) -> Callable[[Callable[[Request], Answer]], Callable[Given, Answer]]:
    """Let a function of a request be called with the request's own fields."""

    def wrap(function: Callable[[Request], Answer]) -> Callable[Given, Answer]:
        @functools.wraps(function)
        def door(*args: Given.args, **options: Given.kwargs) -> Answer:
            return function(_request(kind, args, options))

        door.__signature__ = _plain_signature(kind)  # type: ignore[attr-defined]
        return door

    return wrap


def _plain_signature(kind: Callable[..., Any]) -> inspect.Signature:
    """A dataclass's signature without what its annotations say of the command line."""
    hints = typing.get_type_hints(kind)
    signature = inspect.signature(kind)
    plain = [p.replace(annotation=hints[name]) for name, p in signature.parameters.items()]
    return signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)


def _request(kind: Callable[..., Request], args: Any, options: Mapping[str, Any]) -> Request:
    """A request of options as Python users write them: strings for paths, lists for tuples.

    Raises:
        InputError: an option that the request does not have, or one that is missing.
    """
    assert isinstance(kind, type)
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            raise InputError(f'unknown option "{name}" ({nearest(name, names)})')
    given = dict(zip(_by_place(kind), args, strict=False)) | dict(options)
    absent = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if absent:
        raise InputError(f"say also {', '.join(absent)}")
    made: Request = kind(**{name: _fitted(hints[name], each) for name, each in given.items()})
    return made


def _by_place(kind: type) -> list[str]:
    """The fields of a dataclass that may be given by their place."""
    return [field.name for field in dataclasses.fields(kind) if not field.kw_only]


def _fitted(hint: Any, value: Any) -> Any:
    inner = (hint, *typing.get_args(hint))
    if isinstance(value, str) and Path in inner and str not in inner:
        return Path(value)
    if typing.get_origin(hint) is tuple:
        return (value,) if isinstance(value, str) else tuple(value)
    return value


def ingest(source: str, **options: Any) -> list[dict[str, Any]]:
    """Read a source's raw files into tables and targets (`pmm ingest SOURCE`).

    Args:
        source: "amazon", "hm", "bili", "kwai", "csv", or one that was registered.
        options: of the source's command, with `_` for `-`.

    Returns:
        The cards of the targets: what was kept, and what was dropped for which reason.

    Raises:
        InputError: an unknown source or option, or raw files that cannot be used.

    >>> (card,) = pmm.ingest(
    ...     "csv",
    ...     name="shop",
    ...     interactions=home / "raw" / "interactions.csv",
    ...     items=home / "raw" / "items.csv",
    ...     images=home / "raw" / "images",
    ...     home=home,
    ... )
    >>> card["target"], card["statistics"]["users"] > 100
    ('shop', True)
    """
    kind = find_source(source).request
    return ingest_from(source, _request(kind, (), options))


@_asked_as(ShardRequest)
def shard(request: ShardRequest) -> "Shards":
    """Make WebDataset shards of a target (`pmm shard`) and open them.

    Returns:
        The shards: `n_items`, `n_users`, `picture(item)`, `record(item)`, `sequences()`.

    Raises:
        PmmError: the target has not been ingested, or its tokenizer or pictures cannot be had.

    >>> shards = pmm.shard(target="shop", text_encoder=str(home / "encoders" / "text"), home=home)
    >>> shards.picture(1).shape
    (224, 224, 3)
    """
    from pmm.shards.read import Shards
    from pmm.shards.write import write_shards

    home = resolve_home(request.home)
    name = home.find_target(request.target)
    write_shards(home, name, request, force=request.force)
    return Shards.of(home, name)


@_asked_as(CacheRequest)
def cache(request: CacheRequest) -> dict[str, str]:
    """Store what the frozen parts of the encoders make of each item (`pmm cache`).

    Returns:
        Folder of activations -> "written" or "unchanged, nothing to do".

    Raises:
        PmmError: there are no shards, or the encoders cannot read them.
    """
    from pmm.train.train_run import store_as_asked

    return store_as_asked(request)


@_asked_as(TrainRequest)
def train(request: TrainRequest) -> "Run":
    """Train a model until it ends, or until Ctrl-C (`pmm train`).

    Returns:
        The run; `Run.log` has its losses and validation metrics.

    Raises:
        PmmError: what was asked does not go together, there are no shards, or the loss is no
            number.

    >>> run = pmm.train(target="shop", model="gru4rec", epochs=1, overwrite=True, home=home)
    >>> run.name
    'shop-scratch-gru4rec'
    >>> run.log.filter(kind="evaluation")["epoch"].to_list()
    [1.0]
    """
    from pmm.train.train_run import train_as_asked

    told = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if getattr(request, field.name) != field.default
    }
    said = ", ".join(f"{name}={value!r}" for name, value in told.items())
    result = train_as_asked(request, command=f"pmm.train({said})")
    return Run(place=Path(result["run"]), home=request.place())


@_asked_as(TuneRequest)
def tune(request: TuneRequest) -> dict[str, Any]:
    """Search a model's hyper-parameters (`pmm tune`).

    Returns:
        folder, ended, rows, best, run, recipe and next, as `pmm.tune.search.tune`.

    Raises:
        PmmError: as of that.
    """
    from pmm.tune.search import tune_as_asked

    return tune_as_asked(request)


@_asked_as(EncodersRequest)
def compare_encoders(request: EncodersRequest) -> dict[str, Any]:
    """Several encoders on frozen vectors of a target (`pmm encoders compare`).

    Returns:
        ended, rows (the best first) and table (a Parquet file), as
        `pmm.tune.compare_encoders.compare_as_asked`.

    Raises:
        PmmError: as of that.
    """
    from pmm.tune.compare_encoders import compare_as_asked

    return compare_as_asked(request)


@_asked_as(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> dict[str, Any]:
    """Rank the whole catalogue for every user with a run's best weights (`pmm evaluate`).

    Returns:
        What metrics.json holds, fractions; of a run on several sources those of the last one.

    Raises:
        PmmError: no such run, no shards, or the run does not fit them.

    >>> found = pmm.evaluate("shop-scratch-sasrec", home=home, seed=1)
    >>> 0 <= found["model"]["ndcg@10"] <= found["model"]["hr@10"] <= 1
    True
    """
    from pmm.evaluate.evaluation import evaluate_as_asked

    return list(evaluate_as_asked(request))[-1]


@_asked_as(CompareRequest)
def compare(request: CompareRequest) -> "list[Difference]":
    """The differences of two runs' metrics, with bootstrap intervals (`pmm compare`).

    Raises:
        PmmError: one has not been evaluated, or they ranked other users.
    """
    from pmm.evaluate.compare import compare_as_asked

    return compare_as_asked(request)


@_asked_as(RecommendRequest)
def recommend(request: RecommendRequest) -> dict[str, Any]:
    """The best items for many users, into a Parquet file (`pmm recommend`).

    For a few histories at hand, `Run.recommend` answers at once.

    Returns:
        What `FILE.about.json` holds: users, rows, popular_users, unknown_ids and what the file was
        made of.

    Raises:
        PmmError: no such run, histories that cannot be used, or a file that was made of another
            request.

    >>> told = pmm.recommend("shop-scratch-sasrec", out=home / "best.parquet", k=3, home=home)
    >>> told["rows"] == 3 * told["users"]
    True
    """
    from pmm.bundle.open_bundle import bundle_at
    from pmm.recommend.batch.recommend_all import recommend_as_asked

    return recommend_as_asked(request, bundle_at(request.place()[1]))


def load(
    run: Path | str,
    home: Path | str | None = None,
    *,
    target: str | None = None,
    device: str = "auto",
    onnx: bool = False,
) -> "Run":
    """A run by its folder, by its name in a home folder, or by how its name begins; or a bundle.

    Args:
        run: which; or the folder of a bundle (`pmm export`).
        home: the home folder; a bundle needs none.
        target: whose items `Run.recommend` answers with; None: those that it was trained on.
        device: where that is computed.
        onnx: answer by the ONNX graphs of a bundle, without torch.

    Raises:
        MissingArtefact: there is none.
        InputError: several names begin so, or a bundle is asked for another target, or a run for
            ONNX.

    >>> pmm.load("shop-scratch-sasrec", home=home).recipe.model.name
    'sasrec'
    """
    place = resolve_home(None if home is None else Path(home))
    found = place.find_run(Path(run))
    if _is_bundle(found):
        if target is not None:
            raise InputError(
                f"{found} is a bundle, which has the items of one target: leave it out"
            )
        return Run(place=found, home=place, device=device, onnx=onnx)
    if onnx:
        raise InputError(
            f"{found} is no bundle. Run: {command('export', found, to='DIR', onnx=True)}"
        )
    if not (found / "recipe.toml").is_file():
        made_by = command("train", target="NAME", name=found.name)
        raise MissingArtefact(f"{found} is no run: it has no recipe.toml. Run: {made_by}")
    if home is None:
        place = Home.holding(found, "runs") or place
    return Run(place=found, home=place, target=target, device=device)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: the folder that a training makes, that an evaluation writes into, and that answers.

    Or its bundle, which answers alike and knows the recipe and the metrics.

    The first answer loads the model and encodes the catalogue; then it takes milliseconds. Items
    that are added are there as long as this object is (`pmm serve` keeps them).
    """

    place: Path
    """Its folder."""
    home: Home
    """The home folder, where its shards are."""
    target: str | None = None
    """Whose items it answers with; None: those that it was trained on."""
    device: str = "auto"
    """Where answers are computed."""
    onnx: bool = False
    """Answer by the ONNX graphs of a bundle, without torch."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.place.name

    @property
    def recipe(self) -> "Recipe":
        """All that it was made of.

        Raises:
            MissingArtefact, BrokenArtefact: there is no whole recipe.
        """
        from pmm.runs.loading import saved_recipe

        return saved_recipe(self.place)

    @property
    def metrics(self) -> dict[str, Any]:
        """What the evaluation on the test items wrote, fractions: "model", "popularity", "random".

        Raises:
            MissingArtefact: it has not been evaluated.

        >>> run = pmm.load("shop-scratch-sasrec", home=home)
        >>> sorted(run.metrics["model"].keys() & {"hr@10", "ndcg@10"})
        ['hr@10', 'ndcg@10']
        """
        return read_json(self._evaluated(METRICS), again=f"Run: {command('evaluate', self.place)}")

    @property
    def ranks(self) -> "pl.DataFrame":
        """A row a user: user, target, rank (1 is best), candidates, train_count of the target.

        Raises:
            MissingArtefact: it has not been evaluated.

        >>> ranks = pmm.load("shop-scratch-sasrec", home=home).ranks
        >>> ranks.columns
        ['user', 'target', 'rank', 'candidates', 'train_count']
        """
        import polars as pl

        from pmm.storage.schemas import RANKS, read_table

        frame = pl.from_arrow(read_table(self._evaluated(RANKS_TABLE), RANKS))
        assert isinstance(frame, pl.DataFrame)
        return frame

    @property
    def log(self) -> "pl.DataFrame":
        """The records of its log: steps with their losses, evaluations with their metrics."""
        import polars as pl

        from pmm.train.curves import read_log

        return pl.DataFrame(read_log(self.place / "log.jsonl"), infer_schema_length=None)

    @functools.cached_property
    def model(self) -> "LoadedModel":
        """What answers, with all that can be asked of it; loaded once.

        Raises:
            PmmError: it has no weights yet, or the shards are not those of the training; a bundle
                that is damaged.
        """
        if _is_bundle(self.place):
            from pmm.bundle.open_bundle import open_bundle

            return open_bundle(self.place, self.device, onnx=self.onnx)
        from pmm.recommend.open_run import open_model

        return open_model(self.home, self.place, device=self.device, target=self.target)

    # One string is a sequence of strings, too; nobody asks with one.
    @overload
    def recommend(  # type: ignore[overload-overlap]
        self, history: Sequence[str], k: int = 10, **wanted: Unpack["WantedToo"]
    ) -> list[tuple[str, float]]: ...
    @overload
    def recommend(
        self, history: Sequence[Sequence[str]], k: int = 10, **wanted: Unpack["WantedToo"]
    ) -> list[list[tuple[str, float]]]: ...
    def recommend(
        self,
        history: Sequence[str] | Sequence[Sequence[str]],
        k: int = 10,
        **wanted: Unpack["WantedToo"],
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The best items for a history, or for each of several, by the whole catalogue.

        Ids that the catalogue does not have are skipped, and a history without any known item gets
        the popular items; a warning of the logger "pmm" says so.

        Args:
            history: raw ids, oldest first; or several such.
            k: how many items.
            wanted: exclude, allow, categories, keep_history, popularity, as
                `pmm.recommend.answers.Wanted` has them.

        Returns:
            (item id, score), best first.

        Raises:
            InputError: an option out of its range, or a category that no item has.

        >>> run = pmm.load("shop-scratch-sasrec", home=home)
        >>> best = run.recommend([run.model.state.ids[0]], k=3)
        >>> len(best), best[0][1] >= best[1][1]
        (3, True)
        """
        from pmm.recommend.answers import Wanted

        one = all(isinstance(each, str) for each in history)
        histories = [history] if one else history
        answers = self.model.recommend(
            typing.cast("Sequence[Sequence[str]]", histories), Wanted(k=k, **wanted)
        )
        for answer in answers:
            if answer.unknown:
                logger.warning(
                    "not in the catalogue, and skipped: %s", ", ".join(answer.unknown[:10])
                )
            if answer.popular:
                logger.warning("no item of the history is known: these are the popular items")
        found = [[(each.item_id, each.score) for each in answer.items] for answer in answers]
        return found[0] if one else found

    def similar(self, item_id: str, k: int = 10) -> list[tuple[str, float]]:
        """The items nearest to one, with the cosine of what items are scored with.

        Raises:
            InputError: there is no such item.
        """
        return [(each.item_id, each.score) for each in self.model.similar(item_id, k)]

    def explain(self, history: Sequence[str], item_id: str) -> list[tuple[str, float]]:
        """Which items of a history carried a recommendation: how much lower the item's score is
        without each, the one that did most first.

        Raises:
            InputError: there is no such item, or none of the history is known.
        """
        return [(each.item_id, each.effect) for each in self.model.explain(history, item_id)]

    def add_items(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Let items that training did not see be recommended from now on.

        Args:
            items: of each `item_id`, and `text` or `image` (a path, or the bytes of a picture file)
                or both, and `categories`, if it has any. An id that is there gets new content.

        Raises:
            InputError: a key that items do not have, a picture that cannot be read, or a model that
                knows items one by one.
        """
        self.model.add_items([_new_item(each) for each in items])

    def remove_items(self, ids: Sequence[str]) -> None:
        """Recommend items no more; histories keep them.

        Raises:
            InputError: there is no such item.
        """
        self.model.remove_items(ids)

    def _evaluated(self, name: str) -> Path:
        path = self.place / name
        if not path.is_file() and _is_bundle(self.place):
            raise MissingArtefact(
                f"the bundle {self.place} has no {name}: ask the run that it was made of"
            )
        if not path.is_file():
            raise MissingArtefact(f"{path} is not there. Run: {command('evaluate', self.place)}")
        require_sealed(path, again=f"Run: {command('evaluate', self.place)}")
        return path


def _is_bundle(place: Path) -> bool:
    """Whether a folder is a bundle; a run's has none of its files."""
    from pmm.bundle.open_bundle import is_bundle

    return is_bundle(place)


def _new_item(given: Mapping[str, Any]) -> "NewItem":
    """An item as Python users write it.

    Raises:
        InputError: a key that items do not have, or a picture file that is not there.
    """
    from pmm.recommend.answers import NewItem

    names = [field.name for field in dataclasses.fields(NewItem)]
    for name in given:
        if name not in names:
            raise InputError(f'items have no "{name}" ({nearest(name, names)})')
    if not isinstance(given.get("item_id"), str):
        raise InputError('each new item needs its "item_id", a string')
    image = given.get("image")
    if isinstance(image, str | Path):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"{given['image']} cannot be read: {error.strerror}") from error
    categories = given.get("categories", ())
    return NewItem(
        item_id=given["item_id"],
        text=str(given.get("text") or ""),
        image=image,
        categories=(categories,) if isinstance(categories, str) else tuple(categories),
    )
