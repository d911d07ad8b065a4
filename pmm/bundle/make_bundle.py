"""`pmm export`: a finished run as one folder that stands alone."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pmm.advice import command
from pmm.bundle.bundle_options import BundleOptions, ExportRequest
from pmm.bundle.bundle_tables import write_items, write_users, write_vectors
from pmm.bundle.draft import replaced_folder
from pmm.bundle.encoder_configs import without_places, write_text_config, write_vision_config
from pmm.bundle.layout import (
    CARD,
    FORMAT,
    HEADER,
    METRICS,
    MODEL,
    RECIPE,
    SCALERS,
    SIDES,
    TOKENIZER,
    BundleHeader,
    EncoderHeader,
    FeatureHeader,
    PopularityHeader,
    encoder_weights,
    header_of_reading,
)
from pmm.bundle.model_card import write_card
from pmm.bundle.model_tensors import model_tensors, module_tensors, write_model_tensors
from pmm.bundle.onnx_graphs import require_exporter, write_graphs
from pmm.bundle.push import push_bundle, require_repository
from pmm.bundle.sums import write_sums
from pmm.bundle.torch_bundle import scaler_tensors
from pmm.evaluate.catalogue import rank_mixes
from pmm.evaluate.evaluation import questions, ranks_file
from pmm.model.features.frozen_vectors import TextVectors, WholeEncoder, whole_encoder
from pmm.model.protocol import ModelOptions
from pmm.recommend.item_reader import ContentReading
from pmm.recommend.open_run import OpenedRun, open_run
from pmm.runs.folder import RUN, written_name
from pmm.runs.loading import saved_recipe
from pmm.runs.recipe import Recipe, encoder_specs
from pmm.shards.kinds import Side
from pmm.storage.artefact import write_json
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json
from pmm.storage.schemas import RANKS, SEQUENCES, read_table
from pmm.storage.seal import require_sealed
from pmm.storage.toml import dump
from pmm.version import __version__

logger = logging.getLogger(__name__)


def export_as_asked(request: ExportRequest) -> dict[str, Any]:
    """Export as `pmm export` is asked to.

    Returns:
        bundle (its folder), items, pictures, users, bytes; pushed, where it was uploaded.

    Raises:
        PmmError: as of `export_run`, or the model hub does not take it.
    """
    home, run_dir = request.place()
    options = BundleOptions(
        onnx=request.onnx, pictures=request.pictures, test_users=request.test_users
    )
    place = request.to.expanduser().absolute()
    if request.push_to is not None:
        require_repository(request.push_to)
    header = export_run(
        home,
        run_dir,
        place,
        options,
        device=request.device,
        target=request.target,
        overwrite=request.overwrite,
    )
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    told = {name: getattr(header, name) for name in ("items", "pictures", "users")}
    done = {"bundle": str(place), "bytes": size, **told}
    if request.push_to is not None:
        done["pushed"] = push_bundle(place, request.push_to)
    return done


def export_run(
    home: Home,
    run_dir: Path,
    place: Path,
    options: BundleOptions | None = None,
    *,
    device: str = "auto",
    target: str | None = None,
    overwrite: bool = False,
) -> BundleHeader:
    """Write the bundle of a run; whole or not at all.

    Args:
        home: where the shards are.
        run_dir: the run's folder.
        place: the bundle's folder.
        options: what it holds beside the model.
        device: where the items are encoded.
        target: whose items; None = those that it was trained on.
        overwrite: replace a bundle that is there.

    Raises:
        PmmError: as `pmm.recommend.open_run.open_model`; the place cannot be written, or holds a
            bundle already or something else.
    """
    options = options or BundleOptions()
    if options.onnx:
        require_exporter()
    with replaced_folder(place, overwrite=overwrite) as draft:
        opened = open_run(home, run_dir, device=device, target=target)
        header = _written(draft, opened, run_dir, options, target)
        command_line = command("export", run_dir.name, to="DIR", target=target, onnx=options.onnx)
        write_card(
            draft / CARD,
            header,
            data=_data(opened, run_dir),
            ranks=dict(_ranks(run_dir, target)),
            command=command_line,
        )
        write_json(draft / HEADER, header.as_json())
        write_sums(draft)
    return header


def _written(
    draft: Path, opened: OpenedRun, run_dir: Path, options: BundleOptions, target: str | None
) -> BundleHeader:
    """All files but the header and the card."""
    model, about, state = opened.run.model, opened.run.about, opened.answering.state
    encoder = opened.answering.encoder
    reading = None if encoder.cannot_add else opened.reading()
    if reading is not None and reading.tokenizer is not None:
        (draft / TOKENIZER).write_text(reading.tokenizer.serialised, encoding="utf-8")
    write_vectors(draft, state.input_NW, state.score_ND)
    pictures = write_items(
        draft, opened.items.ids, opened.items, state.count_N, pictures=options.pictures
    )
    write_model_tensors(draft / MODEL, model_tensors(model))
    features = opened.run.features
    if features is not None and scaler_tensors(features):
        write_model_tensors(draft / SCALERS, scaler_tensors(features))
    whole = _write_encoders(draft, model.options, reading)
    if options.onnx:
        widths = (state.input_NW.shape[1], state.score_ND.shape[1])
        on = next(model.parameters()).device
        try:
            write_graphs(draft, model.to(torch.device("cpu")), widths, reading, whole)
        finally:
            model.to(on)
    _write_recipe(draft, run_dir, model.options)
    metrics = run_dir / METRICS
    if target is None and metrics.is_file():
        require_sealed(metrics, again=f"Run: {command('evaluate', run_dir)}")
        (draft / METRICS).write_bytes(metrics.read_bytes())
    vision, chosen = model.encoders().vision, opened.answering.chosen
    return BundleHeader(
        format=FORMAT,
        pmm=__version__,
        name=written_name(run_dir) or run_dir.name,
        model=model.options.name,
        target=opened.run.shards.target,
        version=opened.answering.version,
        precision=about["precision"],
        max_length=encoder.max_length,
        temperature=encoder.temperature,
        by_product=encoder.by_product,
        cannot_add=encoder.cannot_add,
        content=model.options.content,
        reads=model.options.reads,
        items=len(state),
        input_width=state.input_NW.shape[1],
        score_width=state.score_ND.shape[1],
        pictures=pictures,
        users=_write_users(draft, opened, options.test_users),
        shards=opened.run.shards.fingerprint,
        reading=header_of_reading(reading),
        features=_feature_headers(opened),
        tower_size=vision.picture_size[0] if vision is not None else 0,
        popularity=PopularityHeader(alpha=chosen.alpha, kappa=chosen.kappa) if chosen else None,
        encoders=_origins(run_dir, model.options),
        onnx=options.onnx,
    )


def _feature_headers(opened: OpenedRun) -> tuple[FeatureHeader, ...]:
    found = opened.run.features
    if found is None:
        return ()
    return tuple(
        FeatureHeader(side=side, width=field_NF.shape[1], digest=digest)  # type: ignore[arg-type]
        for (side, digest), field_NF in zip(found.made_by.items(), found.fields, strict=True)
    )


def _write_encoders(
    draft: Path, options: ModelOptions, reading: ContentReading | None
) -> dict[Side, WholeEncoder]:
    """The configs of what runs on content; the whole encoders of models on frozen vectors."""
    specs, found = encoder_specs(options), dict[Side, WholeEncoder]()
    for side in _sides(options.reads if options.reads != "none" else options.content):
        whole = None
        if options.reads == "none":
            if reading is None:
                continue
            whole = found[side] = whole_encoder(specs[side], "cpu", reading.picture_size)
            write_model_tensors(draft / encoder_weights(side), module_tensors(whole))
        if side == "text":
            pooling = whole.pooling if isinstance(whole, TextVectors) else ""
            write_text_config(draft, specs[side], pooling)
        else:
            write_vision_config(draft, specs[side])
    return found


def _sides(read: str) -> tuple[Side, ...]:
    return tuple(side for side in SIDES if read in (side, "both"))


def _write_recipe(draft: Path, run_dir: Path, options: ModelOptions) -> None:
    """The run's recipe with the options of the model that is in the bundle, and no path."""
    recipe: Recipe = saved_recipe(run_dir)
    specs = {side: without_places(spec) for side, spec in encoder_specs(options).items()}
    start = recipe.start and replace(recipe.start, run=Path(recipe.start.run).name)
    plain = replace(options, **specs) if specs else options
    (draft / RECIPE).write_text(dump(replace(recipe, model=plain, start=start)), encoding="utf-8")


def _write_users(draft: Path, opened: OpenedRun, most: int) -> int:
    """Test users spread over all, with the ranks of their true next items; how many."""
    shards = opened.run.shards
    asked = questions(shards, "test")
    if not most or not len(asked):
        return 0
    count = min(most, len(asked))
    asked = asked.take(np.linspace(0, len(asked) - 1, count).round().astype(np.int64))
    rank_U = rank_mixes(opened.run.model, opened.catalogue, asked, dtype=opened.dtype)[0]
    histories = [asked.history[k] - 1 for k in range(count)]
    ids = _user_ids(opened)
    users = [ids[user] for user in asked.user_U.tolist()]
    write_users(draft, users, histories, asked.target_U - 1, rank_U)
    return count


def _user_ids(opened: OpenedRun) -> list[str]:
    """Raw ids of all users; their numbers where the target is not there any more."""
    shards = opened.run.shards
    if shards.home is not None and shards.home.target(shards.target).exists():
        path = shards.home.target(shards.target) / "sequences.parquet"
        ids: list[str] = read_table(path, SEQUENCES, ["user_id"])["user_id"].to_pylist()
        return ids
    return [str(user) for user in range(shards.n_users)]


def _origins(run_dir: Path, options: ModelOptions) -> tuple[EncoderHeader, ...]:
    """Where the encoders came from, as the training wrote it; of a folder its name alone."""
    try:
        told = parse_json((run_dir / RUN).read_bytes()).get("encoders") or {}
    except JSON_ERRORS:
        told = {}
    found = []
    for side in _sides(options.content):
        each = told.get(side) if isinstance(told, dict) else None
        said = {
            key: str(each[key])
            for key in ("library", "license", "source")
            if isinstance(each, dict) and key in each
        }
        if Path(said.get("source", "")).is_absolute():
            said["source"] = f"a local folder, {Path(said['source']).name}"
        found.append(EncoderHeader(side=side, **said))
    return tuple(found)


def _data(opened: OpenedRun, run_dir: Path) -> Mapping[str, Any]:
    """What the model card says of the data."""
    shards, recipe = opened.run.shards, saved_recipe(run_dir)
    inputs = shards.manifest.inputs
    trained = ", ".join(recipe.names)
    start = f"{Path(recipe.start.run).name} ({recipe.start.transfer})" if recipe.start else ""
    sequences = shards.sequences()
    return {
        "trained on": trained,
        **({"started from": start} if start else {}),
        "stage": recipe.stage,
        "items of": shards.target,
        "users": f"{shards.n_users:,}",
        "items": f"{shards.n_items:,}",
        "training interactions": f"{len(sequences.train.values):,}",
        "split": "leave one out: the last item of each user is the test, the second last the "
        "validation, all before is training",
        "sha256 of shards": shards.fingerprint,
        **{f"sha256 of {name}": digest for name, digest in sorted(inputs.items())},
        "weights": opened.answering.version,
        "step": opened.run.about.get("step", "?"),
    }


def _ranks(run_dir: Path, target: str | None) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """What evaluations of these items left: all users, and the cold items that were held out."""
    parts = (("all users", "test"), ("cold items, held out", "cold"))
    for name, part in parts:
        path = run_dir / ranks_file(run_dir, part, target)  # type: ignore[arg-type]
        if path.is_file():
            require_sealed(path, again=f"Run: {command('evaluate', run_dir)}")
            rank_Q = read_table(path, RANKS)["rank"].to_numpy()
            if len(rank_Q):
                yield name, rank_Q
