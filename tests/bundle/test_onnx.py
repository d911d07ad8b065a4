"""A bundle's ONNX graphs answer as torch does, to 1e-4, and without torch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pmm.bundle import onnx_graphs
from pmm.bundle.bundle_options import BundleOptions
from pmm.bundle.make_bundle import export_run
from pmm.bundle.open_bundle import Bundle, open_bundle
from pmm.errors import BrokenArtefact, InputError
from pmm.model import registry
from pmm.model.features.frozen_vectors import trunk_of
from pmm.recommend.answers import NewItem, Wanted
from pmm.recommend.item_reader import ContentReading
from pmm.recommend.loaded_model import LoadedModel
from pmm.shards.kinds import Side

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in registry.models()}
CASES["pmmrec on vectors"] = ("pmmrec", {"items": "vectors"})
ONE_MORE: dict[str, dict[str, Any]] = {
    "rope, convolution, norms in front": {
        "user_positions": "rope",
        "user_convolution": 3,
        "user_norm": "pre",
    },
    "hstu": {"user_encoder": "hstu", "user_positions": "rope"},
}


CASES |= {how: ("sasrec", changes) for how, changes in ONE_MORE.items()}
IN_THE_GATE = ("pmmrec", "pmmrec on vectors", *ONE_MORE)
"""What an export costs, seconds a graph, leaves no room for the rest: PMM_FUZZ=10 tries all."""
TRIED = [each for each in CASES if int(os.environ.get("PMM_FUZZ", "1")) > 1 or each in IN_THE_GATE]


@contextmanager
def whole_encoders_once() -> Iterator[None]:
    """The whole encoders of the shop are exported once, whatever model reads their vectors."""
    real = onnx_graphs._write_side_graph
    known: dict[str, tuple[bytes, torch.Tensor]] = {}

    def write(path: Path, side: Side, module: torch.nn.Module, reading: ContentReading) -> Any:
        if not isinstance(module, onnx_graphs._WholeSide):
            return real(path, side, module, reading)
        weights = trunk_of(module.whole).about["weights"]
        if weights not in known:
            made = real(path, side, module, reading)
            known[weights] = path.read_bytes(), made
        path.write_bytes(known[weights][0])
        return known[weights][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graphs, "_write_side_graph", write)
        yield


@pytest.fixture(scope="module")
def exported(
    shop: Any, runs: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Path]]:
    """The bundle of a case; made once, as an export takes seconds."""
    made: dict[str, Path] = {}

    def bundle_of(case: str) -> Path:
        if case not in made:
            name, changes = CASES[case]
            folder = tmp_path_factory.mktemp("exported")
            run = runs.make_run(shop, folder / "run", runs.options_of(shop, name, **changes))
            export_run(shop.home, run, folder / "bundle", BundleOptions(onnx=True))
            made[case] = folder / "bundle"
        return made[case]

    with whole_encoders_once():
        yield bundle_of


def new_items(shop: Any, content: str) -> list[NewItem]:
    """All kinds that the model can read: both, texts of several lengths, pictures alone."""
    pictures = [(shop.home.root / "pictures" / f"{k}.png").read_bytes() for k in (1, 2, 3)]
    words = ["a", "a red article", "article number 12 sort 3 " * 20]
    found = [
        NewItem(item_id=f"both {k}", text=text, image=image)
        for k, (text, image) in enumerate(zip(words, pictures, strict=True))
    ]
    if content != "vision":
        found += [NewItem(item_id=f"words {k}", text=text) for k, text in enumerate(words)]
    if content != "text":
        found += [NewItem(item_id=f"shown {k}", image=each) for k, each in enumerate(pictures)]
    return found


def scores(model: LoadedModel, histories: list[list[str]]) -> Any:
    """Of all items, by id."""
    wanted = Wanted(k=len(model.state), keep_history=True)
    order = {item_id: k for k, item_id in enumerate(model.state.ids)}
    found = np.full((len(histories), len(order)), np.nan)
    for row, answer in enumerate(model.recommend(histories, wanted)):
        for each in answer.items:
            found[row, order[each.item_id]] = each.score
    return found


@pytest.mark.parametrize("case", TRIED)
def test_onnx_scores_as_torch_on_all_test_users_and_new_items(
    shop: Any, exported: Callable[[str], Path], case: str
) -> None:
    bundle = Bundle(exported(case))
    header = bundle.header
    with_torch, with_onnx = bundle.load(), bundle.load(onnx=True)
    histories = [list(user.history) for user in bundle.users()]
    histories += [each[-2:-1] for each in histories[:3]]  # alone, in a batch of short ones
    assert len(histories) == 27
    expected = scores(with_torch, histories)
    assert np.abs(scores(with_onnx, histories) - expected).max() < 1e-4
    one = scores(with_onnx, histories[:1])
    assert np.abs(one - expected[:1]).max() < 1e-4
    if header.cannot_add:
        with pytest.raises(InputError, match="holds something of each single item"):
            with_onnx.add_items([NewItem(item_id="new", text="words")])
        return
    added = new_items(shop, header.content)
    for model in (with_torch, with_onnx):
        model.add_items(added)
    rows = [with_torch.state.find(each.item_id) for each in added]
    for vectors in ("input_NW", "score_ND"):
        one, other = (getattr(model.state, vectors)[rows] for model in (with_torch, with_onnx))
        assert np.abs(one - other).max() < 1e-4
    histories += [[added[0].item_id, *histories[0]], [added[-1].item_id]]
    assert np.abs(scores(with_onnx, histories) - scores(with_torch, histories)).max() < 1e-4
    with pytest.raises(InputError, match="no text and no picture that the model reads"):
        with_onnx.add_items([NewItem(item_id="empty")])
    if header.content != "text":
        with pytest.raises(InputError, match="cannot be read: not-a-picture"):
            with_onnx.add_items([NewItem(item_id="bad", text="words", image=b"no picture")])


WITHOUT = """
import json, sys
from importlib.machinery import PathFinder

ABSENT = ("torch", "torchvision", "transformers", "open_clip", "timm")
looked_for = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in ABSENT else looked_for(name, path, target)

PathFinder.find_spec = find_spec
import pmm

model = pmm.load(sys.argv[1], onnx=True)
ids = list(model.model.state.ids)
model.add_items([{"item_id": "new", "text": "a red article", "image": sys.argv[2]}])
model.add_items([{"item_id": "shown", "image": sys.argv[2]}])
found = model.recommend([ids[3], "new"], k=5)
near, why = model.similar("new", 3), model.explain([ids[3], "new"], ids[0])
loaded = [n for n in sys.modules if n.partition(".")[0] in ABSENT]
print(json.dumps({"found": found, "near": near, "why": why, "loaded": loaded}))
"""


@pytest.mark.parametrize("case", ["sasrec", "gru4rec", "nextitnet", *ONE_MORE])
def test_every_user_encoder_is_exported_for_windows_of_all_lengths(
    exported: Callable[[str], Path], case: str
) -> None:
    bundle = Bundle(exported(case))
    header = bundle.header
    one, other = bundle.load().encoder, bundle.load(onnx=True).encoder
    draw = np.random.default_rng(0)
    for users in (1, 2, 5):
        for length in range(1, header.max_length + 1):
            valid_BL = np.arange(length) >= draw.integers(0, length, (users, 1))
            e_BLW = draw.normal(size=(users, length, header.input_width)).astype(np.float32)
            e_BLW *= valid_BL[:, :, None]
            difference = one.users(e_BLW, valid_BL) - other.users(e_BLW, valid_BL)
            assert np.abs(difference).max() < 1e-4


@pytest.mark.parametrize("case", ["pmmrec", "pmmrec on vectors"])
def test_neither_torch_nor_transformers_is_imported(
    shop: Any, exported: Callable[[str], Path], case: str
) -> None:
    place = exported(case)
    picture = shop.home.root / "pictures" / "3.png"
    command = [sys.executable, "-c", WITHOUT, str(place), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["loaded"] == []
    model = open_bundle(place)
    image = picture.read_bytes()
    model.add_items([NewItem(item_id="new", text="a red article", image=image)])
    model.add_items([NewItem(item_id="shown", image=image)])
    expected = model.recommend([[model.state.ids[3], "new"]], Wanted(k=5))[0].items
    assert [item_id for item_id, _ in told["found"]] == [each.item_id for each in expected]
    assert [score for _, score in told["found"]] == pytest.approx(
        [each.score for each in expected], abs=1e-4
    )


def test_graphs_of_a_bundle_that_took_its_place_are_not_read(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    place = Path(shutil.copytree(exported("pmmrec"), tmp_path / "bundle"))
    model = open_bundle(place, onnx=True)
    header = json.loads((place / "bundle.json").read_bytes())
    (place / "bundle.json").write_text(json.dumps(header | {"version": "of-other-weights"}))
    with pytest.raises(BrokenArtefact, match="was replaced since this model was loaded"):
        model.add_items([NewItem(item_id="new", text="a red article")])


def test_a_graph_that_is_none_is_told(exported: Callable[[str], Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(exported("gru4rec"), tmp_path / "bundle"))
    bundle = Bundle(place)
    (place / "onnx" / "user.onnx").write_bytes(b"no graph")
    with pytest.raises(BrokenArtefact, match="cannot be read as ONNX"):
        bundle.load(onnx=True)
    with pytest.raises(BrokenArtefact, match=r"onnx/user\.onnx has other content"):
        Bundle(place)


def test_without_the_exporter_nothing_is_begun(
    shop: Any, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "gru4rec"))
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(InputError, match=r"--onnx needs onnx and onnxscript.*pmmrec\[export\]"):
        export_run(shop.home, run, tmp_path / "bundle", BundleOptions(onnx=True))
    assert not (tmp_path / "bundle").exists()
