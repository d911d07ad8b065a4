"""What is damaged, made again from what is whole: only as it was, and only in its place.

Nothing is deleted that cannot be made again: an artefact is replaced when the new one is whole, and
only by one of the same inputs and options, which its fingerprint tells.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.check.check_artefacts import ROOMS, expected_fingerprint, readable_manifest
from pmm.check.check_runs import EVALUATION, damaged_files
from pmm.check.finding import Finding
from pmm.errors import InputError, PmmError, StaleArtefact
from pmm.ingest.sources import source_registry
from pmm.ingest.sources.hm import CATEGORY_COLUMNS
from pmm.ingest.targets.rules import rule_of
from pmm.ingest.targets.target_tables import IngestOptions, command_to_ingest, write_targets
from pmm.runs.loading import load_run, saved_recipe
from pmm.runs.recipe import Recipe, encoder_specs
from pmm.runs.weights import BEST
from pmm.shards.kinds import Split
from pmm.shards.shard_options import ShardOptions
from pmm.storage.artefact import MANIFEST, Built, open_artefact, rebuilding
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json
from pmm.storage.verify import require_whole

logger = logging.getLogger(__name__)

_ORDER = (*ROOMS.values(), "run")


def repair(home: Home, found: Sequence[Finding]) -> list[str]:
    """Make again what is damaged, as far as it can be; one line on each."""
    damaged = [each for each in found if each.state == "damaged" and each.kind in _ORDER]
    makers: dict[str, Callable[[Home, Path, str], None]] = {
        "tables": _ingest,
        "target": _target,
        "shards": _shard,
        "activations": _cache,
    }
    told = []
    for each in sorted(damaged, key=lambda each: _ORDER.index(each.kind)):
        logger.info("%s: making it again", each.place)
        try:
            if each.kind == "run":
                _evaluate(home, each.place)
            else:
                mark = expected_fingerprint(home, each.place)
                if not mark:
                    raise InputError("its manifest is damaged, so what it was is not known")
                makers[each.kind](home, each.place, mark)
            told.append(f"{each.place}: made again")
        except PmmError as error:
            told.append(f"{each.place}: cannot be made again by itself ({error})")
    return told


def _first(ways: Iterator[Callable[[], object]]) -> None:
    """Try one way after the other until one does it; the last one's error where none does."""
    last: PmmError = InputError("nothing says from what it was made")
    for way in ways:
        try:
            way()
        except PmmError as error:
            logger.debug("%s", error)
            last = error
        else:
            return
    raise last


def _ingest(home: Home, place: Path, mark: str) -> None:
    """Tables, from raw files where they usually lie, or beside the pictures."""
    manifest = readable_manifest(place)
    config = manifest.config if manifest else _config_of(place)
    source = str(config.get("source", place.name))
    name = source.lower()
    if name not in source_registry.source_names() or name == "csv":
        raise InputError(
            f"{source} was ingested from files of the user's: give them once more to "
            + command("ingest", "csv")
        )
    entry = source_registry.find_source(name)

    def ways() -> Iterator[Callable[[], object]]:
        for raw in _raw_folders(home, source):
            # What is made from the tables is another step: of it nothing is written here.
            yield partial(_tables_alone, entry, entry.request(home=home.root, raw=raw), place)

    with rebuilding({place: mark}):
        _first(ways())
    _require_back(place, mark)


def _tables_alone(entry: source_registry.SourceEntry, request: Any, place: Path) -> None:
    """Ingest until the tables are there; that no target may be written then is no error."""
    before = (place / MANIFEST).stat().st_mtime_ns if (place / MANIFEST).exists() else 0
    try:
        entry.ingest(request)
    except StaleArtefact:
        if not (place / MANIFEST).exists() or (place / MANIFEST).stat().st_mtime_ns == before:
            raise


def _target(home: Home, place: Path, mark: str) -> None:
    """A target, from its source's tables."""
    manifest = readable_manifest(place)
    config = manifest.config if manifest else _config_of(place)
    try:
        options = IngestOptions.read(config)
        name, source = str(config["target"]), str(config["source"])
        rule = rule_of(config["rule"])
    except JSON_ERRORS as error:
        raise InputError(f"its manifest does not say how it was made ({error})") from error
    tables, again = home.tables(source), command_to_ingest(home, source)
    found = open_artefact(tables, kind="tables", made_by=again)
    require_whole(tables, found.files, made_by=again)
    built = Built(place=tables, manifest=found, fresh=False)
    with rebuilding({place: mark}):
        write_targets(home, built, {name: rule}, CATEGORY_COLUMNS, [name], options)
    _require_back(place, mark)


def _config_of(place: Path) -> dict[str, Any]:
    """What a target's or a source's damaged manifest still says."""
    try:
        found: dict[str, Any] = parse_json((place / "manifest.json").read_bytes())["config"]
        return found if isinstance(found, dict) else {}
    except JSON_ERRORS:
        if place.parent.name == "tables":
            return {"source": place.name}
        raise InputError("its manifest is damaged, so its options are not known") from None


def _raw_folders(home: Home, source: str) -> Iterator[Path | None]:
    yield None  # where the source's raw files usually lie
    manifest = readable_manifest(home.tables(source))
    pictures = manifest.config.get("pictures") if manifest else None
    if isinstance(pictures, str):
        yield from list(Path(pictures).parents)[:3]


def _shard(home: Home, place: Path, mark: str) -> None:
    """Shards, from their target and the tokenizers that the home knows of."""
    from pmm.shards.write import write_shards

    manifest = readable_manifest(place)
    config = manifest.config if manifest else _config_of(place)
    names = {
        "max_tokens",
        "text_prefix",
        "picture_size",
        "jpeg_quality",
        "max_pixels",
        "items_per_shard",
    }
    values = {name: config[name] for name in names if name in config}
    without = manifest is not None and not manifest.counts.get("pictures", 1)

    def ways() -> Iterator[Callable[[], object]]:
        for encoder in _text_encoders(home, str(config.get("text_encoder", ""))):
            options = ShardOptions(text_encoder=encoder, allow_no_pictures=without, **values)
            yield partial(write_shards, home, place.name, options)

    with rebuilding({place: mark}):
        _first(ways())
    _require_back(place, mark)


def _text_encoders(home: Home, name: str) -> Iterator[str]:
    """Where a tokenizer may be had: folders that runs name, the home's own, or the hub."""
    seen = {
        str(spec.encoder)
        for recipe in _recipes(home)
        for side, spec in encoder_specs(recipe.model).items()
        if side == "text"
    }
    yield from sorted(each for each in seen if Path(each).name == name or each == name)
    yield from (str(each) for each in sorted(home.root.glob(f"*/{name}")) if each.is_dir())
    yield name


def _cache(home: Home, place: Path, mark: str) -> None:
    """Activations, by the encoders of runs on the target."""
    from pmm.model.features.frozen_vectors import vectors_trunk
    from pmm.model.features.trunks import trunks_of
    from pmm.shards.activations import Trunk, place_of, write_activations
    from pmm.shards.read import Shards

    shards = Shards.of(home, place.parent.name)
    manifest = readable_manifest(place)
    config = manifest.config if manifest else _config_of(place)
    storage = config.get("storage", "fp16")

    def trunks(recipe: Recipe) -> Iterator[tuple[Trunk, Shards]]:
        specs = encoder_specs(recipe.model)
        if "vectors" not in config:
            for trunk in trunks_of(_model(recipe, shards)):
                yield trunk, shards
        elif config["side"] in specs:
            yield vectors_trunk(specs[config["side"]], shards)

    with rebuilding({place: mark}):
        for recipe in _recipes(home):
            try:
                for trunk, read in trunks(recipe):
                    if place_of(place.parent, trunk, storage, shards) == place:
                        write_activations(place.parent, read, trunk, storage=storage)
                        return
            except PmmError as error:
                logger.debug("%s", error)
    raise InputError(
        "no run of this home names the encoders that it was made with. A training with them makes "
        "it again"
    )


def _model(recipe: Recipe, shards: Any) -> Any:
    from pmm.model.build import build_model
    from pmm.runs.compatibility import require_pictures

    if recipe.model.content == "none" or recipe.model.reads == "none":
        raise InputError(f"{recipe.model.name} has no encoders")
    model = build_model(recipe.model, shards.n_items, None, fresh=False)
    require_pictures(shards, model)
    return model.eval()


def _recipes(home: Home) -> Iterator[Recipe]:
    """Those of the home's runs that can be read, each pair of encoders once."""
    seen = set()
    for run_dir in sorted((home.root / "runs").glob("*")):
        try:
            recipe = saved_recipe(run_dir)
        except PmmError:
            continue
        key = repr([(recipe.model.name, recipe.model.content), encoder_specs(recipe.model)])
        if key not in seen:
            seen.add(key)
            yield recipe


def _evaluate(home: Home, run_dir: Path) -> None:
    """The files of evaluations, from best weights that are whole."""
    from pmm.evaluate.evaluate_options import EvaluateOptions
    from pmm.evaluate.evaluation import evaluate_run

    damaged = damaged_files(run_dir)
    own = [name for name in damaged if any(Path(name).match(each) for each in EVALUATION)]
    others = sorted(damaged.keys() - own)
    if BEST in damaged or not own:
        raise InputError(f"{', '.join(others)}: only another training writes it")
    names = {re.sub(r"^(metrics|ranks|gallery)(-cold-all|-cold)?", "", Path(n).stem) for n in own}
    for suffix in sorted(names):
        split: Split = "valid" if suffix.endswith("-valid") else "test"
        target = suffix.removesuffix("-valid").strip("-") or None
        cold = (run_dir / f"ranks-cold{suffix}.parquet").is_file()
        load_run(home, run_dir, target=target)
        evaluate_run(home, run_dir, EvaluateOptions(split=split, cold=cold), target=target)
    if others:
        raise InputError(f"its evaluation is made again, but {', '.join(others)} cannot be")


def _require_back(place: Path, mark: str) -> None:
    manifest = readable_manifest(place)
    if manifest is None or manifest.fingerprint != mark:
        raise InputError("nothing here makes it as it was")
