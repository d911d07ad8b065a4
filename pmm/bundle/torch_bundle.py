"""A bundle opened with torch: a model is built of recipe and configs, then its tensors put in.

Shape suffixes: F width of frozen vectors.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pmm.arrays import Int64s
from pmm.bundle.encoder_configs import spec_in
from pmm.bundle.layout import (
    AGAIN,
    MODEL,
    RECIPE,
    SCALERS,
    BundleHeader,
    encoder_weights,
    reading_in,
    require_unchanged,
)
from pmm.bundle.model_tensors import model_tensors, module_tensors, put_back, read_model_tensors
from pmm.errors import BrokenArtefact, PmmError
from pmm.model.build import build_model
from pmm.model.features.frozen_vectors import WholeEncoder, trunk_of, whole_encoder
from pmm.model.features.item_features import ItemFeatures, Scaler
from pmm.model.protocol import ModelOptions, Recommender
from pmm.recommend.torch_encoder import TorchEncoder
from pmm.runs.device import pick_device, pick_precision
from pmm.runs.former_recipes import with_former_defaults
from pmm.runs.recipe import Recipe, encoder_specs
from pmm.shards.activations import Trunk
from pmm.shards.kinds import Side
from pmm.storage.toml import parse_toml, resolve


def torch_encoder(place: Path, header: BundleHeader, count_N: Int64s, device: str) -> TorchEncoder:
    """The model of a bundle on a device.

    Raises:
        BrokenArtefact: its files do not fit one another.
        InputError: the device is not there, or memory does not hold the model.
    """
    on = pick_device(device)
    options = options_in(place)
    with torch.random.fork_rng(devices=[]):
        model = _model(place, header, options, count_N)
    assert isinstance(model, nn.Module)
    model = model.to(on).eval()

    def whole(side: Side) -> Trunk:
        require_unchanged(place, header)
        trunk = trunk_of(whole_encoder_in(place, header, options, side, on))
        known = {each.side: each.digest for each in header.features}
        if trunk.about["weights"] != known.get(side):
            raise BrokenArtefact(
                f"{place / encoder_weights(side)} is not the encoder that the model was trained "
                f"with. {AGAIN}"
            )
        return trunk

    return TorchEncoder(
        model,
        n_items=header.items,
        reading=lambda: reading_in(place, header),
        whole=whole,
        dtype=pick_precision(header.precision, on),
    )


def options_in(place: Path) -> ModelOptions:
    """The options of a bundle's model, its encoders those of the bundle.

    Raises:
        BrokenArtefact, RecipeError: the recipe cannot be read, or holds what no recipe has.
    """
    path = place / RECIPE
    try:
        values = with_former_defaults(parse_toml(path, "utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error}). {AGAIN}") from error
    options = resolve(Recipe, values, origin=str(path)).model
    specs = {
        side: spec_in(place, side, spec)  # type: ignore[arg-type]
        for side, spec in encoder_specs(options).items()
    }
    return replace(options, **specs) if specs else options


def _model(
    place: Path, header: BundleHeader, options: ModelOptions, count_N: Int64s
) -> Recommender:
    if (options.content, options.reads) != (header.content, header.reads):
        raise BrokenArtefact(f"{place / RECIPE} is not the recipe of its header. {AGAIN}")
    features = _features(place, header)
    try:
        model = build_model(options, header.items, features, fresh=False, train_count=count_N)
    except (PmmError, MemoryError):
        raise
    except Exception as error:  # sizes that fit one another nowhere fail anywhere
        raise BrokenArtefact(f"{place / RECIPE} makes no model ({error}). {AGAIN}") from error
    vision = model.encoders().vision
    if vision is not None and vision.takes(header.tower_size):
        vision.fit(header.tower_size)
    assert isinstance(model, nn.Module)
    put_back(model, model_tensors(model), place / MODEL)
    return model


def _features(place: Path, header: BundleHeader) -> ItemFeatures | None:
    """Frozen vectors of one item that stand for those of the catalogue: what a model takes of them
    is how wide they are, which encoders made them, and how those of new items are scaled."""
    if not header.features:
        return None
    found = read_model_tensors(place / SCALERS) if (place / SCALERS).is_file() else {}

    def scaler(side: str) -> Scaler:
        held = {name: found.get(f"{side}.{name}") for name in ("mean_F", "scale_F", "matrix_FF")}
        return Scaler(**held)

    return ItemFeatures(
        fields=tuple(torch.ones(1, each.width) for each in header.features),
        trained_N=torch.tensor([True]),
        made_by={each.side: each.digest for each in header.features},
        scalers=tuple(scaler(each.side) for each in header.features),
    )


def scaler_tensors(features: ItemFeatures) -> Mapping[str, Tensor]:
    """What `_features` reads back."""
    return {
        f"{side}.{name}": tensor
        for side, scaler in zip(features.made_by, features.scalers, strict=True)
        for name, tensor in vars(scaler).items()
        if tensor is not None
    }


def whole_encoder_in(
    place: Path, header: BundleHeader, options: ModelOptions, side: Side, device: torch.device
) -> WholeEncoder:
    """A whole encoder of a bundle, of a model on frozen vectors.

    Raises:
        BrokenArtefact, InputError: it cannot be built, or is another one than the model was trained
            with.
    """
    size = header.reading.picture_size if header.reading else 0
    with torch.random.fork_rng(devices=[]):
        found = whole_encoder(encoder_specs(options)[side], "cpu", size)
    put_back(found, module_tensors(found), place / encoder_weights(side))
    return found.to(device)
