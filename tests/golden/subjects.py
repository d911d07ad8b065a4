"""What the golden tests look at. No other file of theirs imports anything of pmm.

The imports stand at the top, one plain line each, so that a program can rewrite them.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from pmm.cli import app
from pmm.data.batch import Batch
from pmm.demo.public_encoders import put_public_encoders
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.hm import ingest_hm
from pmm.ingest.sources.video.bili import ingest_bili
from pmm.ingest.sources.video.datasets import VideoFiles
from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.model import registry
from pmm.model.baselines.morec import MorecOptions
from pmm.model.build import build_model
from pmm.model.features.item_features import ItemFeatures
from pmm.model.features.quantise import learn_codes
from pmm.model.model_entry import Asked
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, Weights, preset
from pmm.runs.former_recipes import saved_values
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.weights import kept_tensors
from pmm.shards.items import Items
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.artefact import build, fingerprint
from pmm.storage.home import Home
from pmm.storage.toml import dump, merge, resolve
from pmm.train.optimiser import parameter_groups
from pmm.train.train_run import store_activations, train
from pmm.world import generate
from pmm.world.formats.csv_writer import write_csv
from pmm.world.formats.raw_formats import write_raw

N = 12
"""Items of the catalogue on which models are built."""
SIZES = SmallSizes(width=32, blocks=3, heads=2, vocabulary=300, picture=32, patch=16)
TEXTS = ["red cotton shirt", "blue denim jeans", "红色连衣裙", "Kleid für Kinder"] * 5
WORLD_SEED = 3

# --- Models ---------------------------------------------------------------------------------------

Options = Any
"""Of any model."""


def _pmmrec() -> dict[str, Options]:
    found: dict[str, Options] = {}
    for name in ("default", "paper", "official"):
        for modality in ("both", "text", "vision"):
            for objectives in ("dap", "all"):
                weights = Weights()
                if objectives == "all":
                    weights = ALL_OBJECTIVES if modality == "both" else Weights(nid=1.0, rcl=1.0)
                options = replace(preset(name), modality=modality, weights=weights)
                found[f"pmmrec-{name}-{modality}-{objectives}"] = options
    return found


def _morec() -> dict[str, Options]:
    fusions = ("merge", "concat", "sum", "film", "gated", "co_attention")
    found: dict[str, Options] = {f"morec-{name}": MorecOptions(fusion=name) for name in fusions}
    for modality in ("text", "vision"):
        found[f"morec-concat-{modality}"] = MorecOptions(modality=modality)
    return found


BASELINES = [name for name in registry.models() if name not in ("pmmrec", "morec")]


def _baselines() -> dict[str, Options]:
    found: dict[str, Options] = {}
    for name in BASELINES:
        entry = registry.entry(name)
        for preset_name in ("default", "original"):
            options = entry.settings[preset_name].options
            found[f"{name}-{preset_name}"] = options
            if name in ("unisrec", "vqrec", "peterrec"):
                for stage in ("pretrain", "finetune"):
                    staged = entry.at_stage(options, Asked(stage=stage, preset=preset_name))
                    found[f"{name}-{preset_name}-{stage}"] = staged
    more: dict[str, tuple[str, dict[str, Any]]] = {
        "sasrec-full": ("sasrec", {"loss": "full"}),
        "sasrec-bpr": ("sasrec", {"loss": "bpr"}),
        "sasrec-cosine": ("sasrec", {"loss": "cosine", "similarity": "cosine", "tau": 0.1}),
        "sasrec-xavier": ("sasrec", {"table_std": 0.0}),
        "gru4rec-dense": ("gru4rec", {"dense": True}),
        "nextitnet-dense": ("nextitnet", {"dense": True}),
        "peterrec-dense": ("peterrec", {"dense": True}),
        "peterrec-parallel": ("peterrec", {"adapters": True, "insertion": "parallel"}),
        "fdsa-both": ("fdsa", {"features": "both"}),
        "carca-bce-causal": ("carca", {"loss": "bce"}),
        "carca-bce-seeing": ("carca", {"loss": "bce", "causal": False}),
        "carca-no-residual": ("carca", {"residual": False}),
        "unisrec-transductive": ("unisrec", {"transductive": True}),
        "unisrec-vision": ("unisrec", {"features": "vision"}),
        "unisrec-bce": ("unisrec", {"loss": "bce"}),
        "vqrec-straight": ("vqrec", {"permutation": "straight"}),
        "vqrec-official": ("vqrec", {"permutation": "official"}),
        "vqrec-in-batch": ("vqrec", {"loss": "in_batch"}),
    }
    for label, (name, changes) in more.items():
        found[label] = replace(registry.entry(name).settings["default"].options, **changes)
    return found


MODELS: dict[str, Options] = {**_pmmrec(), **_morec(), **_baselines()}
"""Name -> options of every model whose start is kept."""


def small_encoders(folder: Path) -> tuple[Path, Path]:
    """Text encoder and vision tower, of random weights."""
    return save_small_encoders(folder, TEXTS, seed=1, sizes=SIZES)


def _with_encoders(options: Options, encoders: tuple[Path, Path]) -> Options:
    if options.content == "none":
        return options
    text = replace(options.text, encoder=str(encoders[0]))
    vision = replace(options.vision, encoder=str(encoders[1]))
    return replace(options, text=text, vision=vision)


def drawn_features(options: Options) -> ItemFeatures | None:
    """Frozen vectors for a baseline that reads any."""
    if options.reads != "none" or options.content == "none":
        return None
    draw = Generator().manual_seed(0)
    widths = {"text": (10,), "vision": (6,), "both": (10, 6)}[options.features]
    fields = tuple(torch.randn(N, width, generator=draw) for width in widths)
    return ItemFeatures(fields, torch.ones(N, dtype=torch.bool))


def built(name: str, encoders: tuple[Path, Path]) -> nn.Module:
    """A model as its first step finds it.

    The codes of items, which are learned by an algorithm of their own, are counted ones.
    """
    options = _with_encoders(MODELS[name], encoders)
    torch.manual_seed(0)
    model = build_model(options, N, drawn_features(options), fresh=False)
    for tensor in model.state_dict().values():
        if tensor.dtype == torch.uint8:
            tensor.copy_((torch.arange(tensor.numel()) * 7 % 251).view(tensor.shape))
    return model


def some_batch() -> Batch:
    """Three users over eleven items, two of which lack a text or a picture."""
    draw = Generator().manual_seed(0)
    n = N - 1
    lengths = torch.randint(2, 10, (n, 1), generator=draw)
    mask = torch.arange(int(lengths.max())) < lengths
    token = torch.randint(5, 261, mask.shape, generator=draw)
    token[:, 0] = 0
    has_text, has_picture = torch.ones(2, n, dtype=torch.bool)
    has_text[3] = has_picture[6] = False
    items = Items(
        item_I=torch.arange(1, n + 1),
        token_IT=torch.where(mask, token, 1),
        token_mask_IT=mask,
        picture_I3HW=torch.randint(0, 256, (n, 3, 32, 32), generator=draw, dtype=torch.uint8),
        has_text_I=has_text,
        has_picture_I=has_picture,
    )
    slots = torch.tensor([[0, 0, 0, 1, 2, 3], [4, 2, 5, 6, 7, 8], [0, 9, 10, 1, 11, 4]])
    counts = torch.tensor([2, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1])
    return Batch(items=items, slot_BS=slots, log_p_I=(counts / counts.sum()).log())


def losses(model: nn.Module, *, training: bool) -> dict[str, float]:
    """The losses of the batch; in training, too, the length of the gradient of all that trains."""
    model.train(training)
    torch.manual_seed(1)
    parts = model(some_batch(), Generator().manual_seed(3))
    found = {name: float(each.detach()) for name, each in parts.items()}
    if training:
        parts["loss"].backward()
        squares = [float(each.grad.square().sum()) for each in model.parameters() if _moves(each)]
        found["gradient"] = sum(squares) ** 0.5
        model.zero_grad()
    return found


def _moves(tensor: Tensor) -> bool:
    return tensor.grad is not None


def start_of(name: str, encoders: tuple[Path, Path]) -> dict[str, Any]:
    """All that is kept of a model's start: tensors in order, groups of the optimiser, losses."""
    model = built(name, encoders)
    parameters, kept = dict(model.named_parameters()), kept_tensors(model)
    tensors = {}
    for key, tensor in model.state_dict().items():
        what = "buffer"
        if key in parameters:
            what = "trains" if parameters[key].requires_grad else "frozen"
        stored = "kept" if key in kept else "left"
        flat = tensor.float().flatten()
        values = " ".join(f"{each:.6e}" for each in [*flat[:3].tolist(), flat.abs().mean().item()])
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        tensors[key] = f"{what} {stored} {shape} | {values}"
    return {
        "tensors": tensors,
        "kept": sorted(kept),
        "groups": groups(model, parameters, decay_norms=False),
        "groups that decay norms": groups(model, parameters, decay_norms=True),
        "loss": losses(model, training=False),
        "loss in training": losses(model, training=True),
    }


def groups(
    model: nn.Module, parameters: Mapping[str, Tensor], *, decay_norms: bool
) -> dict[str, Any]:
    """The optimiser's groups: what each decays by, and the names of its tensors in order."""
    names = {id(tensor): name for name, tensor in parameters.items()}
    found = parameter_groups(model, lr=1.0, weight_decay=0.1, decay_norms=decay_norms)
    return {
        each["name"]: [each["weight_decay"], " ".join(names[id(t)] for t in each["params"])]
        for each in found
    }


def codes_of_clusters() -> list[list[int]]:
    """Codes of forty items in five clusters, part by part.

    They are numbered as they first come: which is which depends on the processor's rounding.
    """
    draw = Generator().manual_seed(0)
    centre_CF = 10 * torch.randn(5, 16, generator=draw)
    x_NF = centre_CF[torch.arange(40) % 5] + 0.01 * torch.randn(40, 16, generator=draw)
    everything = torch.ones(40, dtype=torch.bool)
    code_NK = learn_codes(x_NF, everything, parts=2, centroids=5, seed=0).encode(x_NF)
    rows: list[list[int]] = code_NK.T.tolist()
    return [[list(dict.fromkeys(row)).index(code) for code in row] for row in rows]


# --- The home -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A home with the tiny world."""

    home: Home
    encoders: Path
    """The public ones, text/ and vision/, with their recipe.toml."""
    manifests: dict[str, Any] = field(default_factory=dict)
    """What `read_manifests` found before anything else was written."""
    activations: dict[str, list[float]] = field(default_factory=dict)

    def without_place(self, text: str) -> str:
        """A text in which the home is called HOME."""
        return text.replace(str(self.home.root), "HOME")


SHARDED = ("HM Shoes", "my Kwai Movie", "Amazon Shoes", "Bili Food", "Kwai Food")
OLD = {"Old Shoes": "HM Shoes", "Old Food": "Bili Food"}
"""Targets whose fingerprint knows no path -> what they are copies of; for runs of before."""


def make_home(root: Path) -> Made:
    """Write the world in five formats, ingest all, shard and store activations of one of each."""
    home, world = Home(root), generate("tiny", WORLD_SEED)
    formats = {"hm": "kaggle", "amazon": "2018", "bili": "ninerec", "kwai": "microlens"}
    for platform, layout in formats.items():
        write_raw(world, platform, home.raw(platform), layout)
    own = root / "raw" / "own"
    write_csv(world, "Kwai Movie", own)
    encoders = root / "encoders"
    put_public_encoders(encoders)
    options = IngestOptions()
    ingest_hm(home, None, [], options)
    ingest_amazon(home, AmazonFiles(raw=None, images=home.raw("amazon") / "images"), [], options)
    ingest_bili(home, VideoFiles(), [], options)
    kwai = KwaiFiles(item_categories=home.raw("kwai") / "item_categories.csv")
    ingest_kwai(home, kwai, [], options)
    files = CsvFiles(
        interactions=own / "interactions.csv", items=own / "items.csv", images=own / "images"
    )
    ingest_csv(home, "my Kwai Movie", files, options)
    for name, origin in OLD.items():
        _copy_target(home, name, origin)
    for target in (*SHARDED, *OLD):
        write_shards(home, target, ShardOptions(text_encoder=str(encoders / "text"), workers=1))
    made = Made(home, encoders)
    store_activations(home, resolved(made, "pmmrec", TrainRequest(target="HM Shoes")))
    return replace(made, manifests=read_manifests(made), activations=read_activations(made))


def _copy_target(home: Home, name: str, origin: str) -> None:
    def write(draft: Path) -> dict[str, int]:
        shutil.copytree(home.target(origin), draft, dirs_exist_ok=True)
        (draft / "manifest.json").unlink()
        card = json.loads((draft / "card.json").read_text(encoding="utf-8"))
        (draft / "card.json").write_text(json.dumps({**card, "target": name}), encoding="utf-8")
        return {}

    config = {"source": name, "copy": origin}
    build(home.target(name), kind="target", config=config, inputs={}, write=write)


ROOMS = ("tables", "targets", "shards", "activations")
"""In the order in which one is made from the other."""


def read_manifests(made: Made) -> dict[str, dict[str, Any]]:
    """Every manifest of the home by its place; files by name with their sha256.

    The tables' config names the folder of the pictures, so the fingerprints of tables, and of all
    that is made from them, depend on where the home lies. They are computed once more with HOME for
    it, by the rule that must give the true ones too. Left out are sha256 of files that hold that
    path (card.json), and of activations, which another processor rounds differently.
    """
    found: dict[str, dict[str, Any]] = {}
    anywhere: dict[str, str] = {}
    for room in ROOMS:
        for path in sorted((made.home.root / room).rglob("manifest.json")):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            config, inputs = {"kind": manifest["kind"], **manifest["config"]}, manifest["inputs"]
            true = manifest["fingerprint"]
            manifest.pop("checksum", None)  # of all the rest, the home's path included
            assert fingerprint(config, inputs) == true, f"{path}: another rule for fingerprints"
            config = json.loads(made.without_place(json.dumps(config, ensure_ascii=False)))
            inputs = {name: anywhere.get(each, each) for name, each in inputs.items()}
            anywhere[true] = fingerprint(config, inputs)
            manifest |= {"fingerprint": anywhere[true], "inputs": inputs}
            manifest["config"] = {name: config[name] for name in manifest["config"]}
            for name, entry in manifest["files"].items():
                kept = entry["bytes" if room == "activations" else "sha256"]
                manifest["files"][name] = "holds a path" if name == "card.json" else kept
            found[_place(made, path.parent)] = manifest
    return found


def _place(made: Made, folder: Path) -> str:
    """Where an artefact stands below the home; of activations without their fingerprint."""
    place = folder.relative_to(made.home.root).as_posix()
    return place.rpartition("-")[0] if place.startswith("activations") else place


def cards(made: Made) -> dict[str, Any]:
    """Every card of tables and targets."""
    found = {}
    for room in ("tables", "targets"):
        for path in sorted((made.home.root / room).glob("*/card.json")):
            text = made.without_place(path.read_text(encoding="utf-8"))
            found[path.parent.relative_to(made.home.root).as_posix()] = json.loads(text)
    return found


def read_activations(made: Made) -> dict[str, list[float]]:
    """First values and mean size of each file of stored activations."""
    found = {}
    for path in sorted((made.home.root / "activations").rglob("*.npy")):
        stored = np.load(path).astype(np.float64)
        name = f"{_place(made, path.parent)}/{path.name}"
        found[name] = [*stored[0, :3].tolist(), float(np.abs(stored).mean())]
    return found


# --- Recipes --------------------------------------------------------------------------------------


def resolved(made: Made, model: str, request: TrainRequest, run: str = "new") -> Recipe:
    """The recipe of a run for which nothing is said but the encoders' places."""
    reads = registry.entry(model).settings["default"].options.content != "none"
    places = {side: {"encoder": str(made.encoders / side)} for side in ("text", "vision")}
    values = {"model": places} if reads else {}
    return resolve_run(made.home, made.home.run(run), request, values)


def _requests() -> dict[str, tuple[str, dict[str, Any]]]:
    shoes: dict[str, Any] = {"target": "hm shoes"}
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in ("default", "paper", "official"):
        found[f"pmmrec-{name}"] = ("pmmrec", {**shoes, "preset": name})
    for modality in ("text", "vision"):
        found[f"pmmrec-{modality}"] = ("pmmrec", {**shoes, "modality": modality})
    found["pmmrec-all"] = ("pmmrec", {**shoes, "objectives": "all"})
    found["morec"] = ("morec", {**shoes, "model": "morec"})
    sources = ("my kwai movie", "Bili Food")
    pretrain: dict[str, Any] = {"stage": "pretrain", "sources": sources}
    found["pmmrec-pretrain"] = ("pmmrec", pretrain)
    for transfer in ("full", "text"):
        found[f"pmmrec-finetune-{transfer}"] = (
            "pmmrec",
            {**shoes, "stage": "finetune", "start": Path("before"), "transfer": transfer},
        )
    for name in BASELINES:
        for preset_name in (None, "original"):
            label, own = f"{name}-{preset_name or 'default'}", {"model": name}
            own |= {"preset": preset_name} if preset_name else {}
            found[label] = (name, {**shoes, **own})
            if registry.entry(name).transfers:
                found[f"{label}-pretrain"] = (name, {**pretrain, **own})
                start = {"stage": "finetune", "start": Path(f"{label}-pretrain")}
                found[f"{label}-finetune"] = (name, {**shoes, **own, **start})
    return found


REQUESTS = _requests()
"""Name -> model and request of every recipe that is kept."""


def recipe_text(made: Made, name: str) -> str:
    """The resolved recipe as TOML, the home's place left out.

    A fine-tuning starts from the run "before", or from a folder that holds the recipe of the
    pre-training alone.
    """
    model, given = REQUESTS[name]
    start = given.get("start")
    if start is not None and start.name == "before":
        place_run(made, "pmmrec", as_name="before")
    elif start is not None:
        folder = made.home.run(start.name)
        folder.mkdir(parents=True, exist_ok=True)
        before = resolved(made, model, TrainRequest(**REQUESTS[start.name][1]))
        (folder / "recipe.toml").write_text(dump(before), encoding="utf-8")
    return made.without_place(dump(resolved(made, model, TrainRequest(**given))))


# --- Runs that were made before -------------------------------------------------------------------

RUNS = Path(__file__).parent / "runs"
KEPT = ("recipe.toml", "run.json", "log.jsonl", "transfer.json", "checkpoint")
_SHORT = {"epochs": 2, "batch_users": 32, "patience": 0, "lr": 2e-3, "precision": "fp32"}
_SMALL: dict[str, Any] = {"width": 16, "user_blocks": 1, "max_length": 6}
_FROZEN = {"text": {"train_blocks": 0}, "vision": {"train_blocks": 0}}
MADE_BEFORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sasrec": ({"target": "Old Shoes", "model": "sasrec"}, {"model": _SMALL}),
    "pmmrec": ({"target": "Old Shoes", "objectives": "all"}, {"model": {**_SMALL, **_FROZEN}}),
    "unisrec": (
        {"stage": "pretrain", "sources": ("Old Food",), "model": "unisrec"},
        {"model": {**_SMALL, "inner": 32}},
    ),
    "finetuned": (
        {"target": "Old Shoes", "stage": "finetune", "start": Path("pmmrec"), "transfer": "user"},
        {"model": {"weights": {"dap": 1.0}}},
    ),
}
"""Name -> request and values of each run below runs/."""


def _recipe_of(made: Made, name: str) -> Recipe:
    request, values = MADE_BEFORE[name]
    given = merge({"train": {**_SHORT, "device": "cpu"}}, values)
    if request.get("model") != "sasrec":
        places = {side: {"encoder": str(made.encoders / side)} for side in ("text", "vision")}
        given = merge(given, {"model": places})
    return resolve_run(made.home, made.home.run(name), TrainRequest(**request), given)


def train_again(made: Made, name: str) -> None:
    """Train a run and put what is needed of it below runs/."""
    place = made.home.run(name)
    train(made.home, place, _recipe_of(made, name), existing="overwrite")
    shutil.rmtree(RUNS / name, ignore_errors=True)
    (RUNS / name).mkdir(parents=True)
    for each in KEPT:
        if (place / each).is_dir():
            shutil.copytree(place / each, RUNS / name / each)
        elif (place / each).is_file():
            text = made.without_place((place / each).read_text(encoding="utf-8"))
            (RUNS / name / each).write_text(text, encoding="utf-8")


def place_run(made: Made, name: str, *, as_name: str = "") -> Path:
    """A copy of a run below runs/ in the home, with the places of this machine."""
    place = made.home.run(as_name or name)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(RUNS / name, place)
    recipe = place / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("HOME", str(made.home.root)), encoding="utf-8")
    return place


def metrics_of(made: Made, place: Path, target: str | None = None) -> dict[str, Any]:
    """What an evaluation says of a run; ranks' digest left out."""
    options = EvaluateOptions(gallery_users=0)
    found = evaluate_run(made.home, place, options, device="cpu", target=target)
    found.pop("ranks_sha256")
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def resume(made: Made, place: Path, *, epochs: int) -> dict[str, Any]:
    """Go on with a run by its own recipe, for some epochs in all."""
    values = merge(saved_values(place / "recipe.toml"), {"train": {"epochs": epochs}})
    return train(made.home, place, resolve(Recipe, values), existing="resume")


def last_loss(place: Path) -> float:
    """The loss of the last step in a run's log."""
    lines = (place / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses_of_steps = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    return float(losses_of_steps[-1])


def resolve_to_resume(made: Made, name: str, place: Path) -> Recipe:
    """What the command line makes of `--resume` without any other option."""
    request = dict(MADE_BEFORE[name][0])
    return resolve_run(made.home, place, TrainRequest(**request), {}, resume=True)


def without_unread_options(text: str, name: str) -> str:
    """A saved recipe's lines without those of options that its model does not have any more."""
    known = {each.name for each in fields(registry.entry(name).options)}
    kept, table = [], ""
    for line in text.split("\n"):
        table = line if line.startswith("[") else table
        if table.startswith("[model.") and table[7:-1] not in known:
            continue
        if table == "[model]" and " = " in line and line.split(" = ")[0] not in known:
            continue
        kept.append(line)
    return "\n".join(kept)


def recipe_text_of(made: Made, recipe: Recipe | Path) -> str:
    """A recipe, or that of a run's folder, as TOML."""
    if isinstance(recipe, Path):
        return made.without_place((recipe / "recipe.toml").read_text(encoding="utf-8"))
    return made.without_place(dump(recipe))


# --- Help -----------------------------------------------------------------------------------------

COMMAND_LINE: Callable[..., Any] = app
"""The typer application of the command line."""
