"""One flipped bit in any file below a home: refused by the command that reads it, or no effect.

Each kind of file is spoilt several times, by seed. Commands that hold something else than the
digests against the crash of a library run in a process of their own.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pmm.check.check_home import check_home
from pmm.check.repair import repair
from pmm.errors import ArtefactError, BrokenArtefact, PmmError
from pmm.evaluate.compare import compare_runs
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.features.trunks import with_activations
from pmm.runs.folder import read_records, shards_of
from pmm.runs.loading import load_run, saved_recipe
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.tars import TarWriter
from pmm.shards.write import write_shards
from pmm.storage.artefact import open_artefact
from pmm.storage.home import Home
from pmm.train.train_run import train

FLIPS = int(os.environ.get("PMM_FLIPS", "4"))
"""A kind; more of them by hand."""
RUN = "first"


@pytest.fixture(scope="module")
def made(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shop's home with activations and an evaluated run."""
    root = tmp_path_factory.mktemp("flips") / "home"
    # Without vectors that tests of other models have left.
    shutil.copytree(shop.home.root, root, ignore=shutil.ignore_patterns("activations"))
    home = Home(root)
    options = TrainOptions(epochs=1, batch_users=8, cache="fp16", trackers=())
    train(home, home.run(RUN), Recipe(target="HM", model=shop.options, train=options))
    evaluate_run(home, home.run(RUN), EvaluateOptions(gallery_users=0))
    return root


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(made, tmp_path / "home")))


def flip(path: Path, seed: int) -> None:
    """One bit, by seed; of every fourth seed the file is cut instead."""
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if seed % 4 == 3:
        del content[place:]
    else:
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def of_shards(home: Home) -> Any:
    shards = Shards.of(home, "HM")
    items = shards.items(np.arange(1, shards.n_items + 1))
    return (
        [each.tolist() for each in (items.token_IT, items.picture_I3HW.flatten()[::7])],
        [shards.record(item) for item in range(1, shards.n_items + 1)],
        shards.sequences().train.values.tolist(),
        shards.sequences().test.tolist(),
    )


def of_run(home: Home) -> Any:
    run = home.run(RUN)
    model, shards, about = load_run(home, run, device="cpu")
    held = with_activations(shards, model, None, write=False)
    items = held.items(np.arange(1, shards.n_items + 1))
    states = [items.text_hidden_ITD, items.picture_hidden_IPD]
    found = [each.float().sum().item() for each in states if each is not None]
    weights = [float(each.double().sum()) for each in model.state_dict().values()]
    return found, weights, about["step"], vars(saved_recipe(run)), shards_of(run)


def of_last(home: Home) -> Any:
    tensors, about = read_tensors(home.run(RUN) / "checkpoint/last.safetensors", made_by="x")
    return {name: each.double().sum().item() for name, each in sorted(tensors.items())}, about


def of_log(home: Home) -> Any:
    path = home.run(RUN) / "log.jsonl"
    return read_records(path, path.read_bytes())


def of_ranks(home: Home) -> Any:
    return compare_runs(home.run(RUN), home.run(RUN), draws=10)


def of_target(home: Home) -> Any:
    manifest = open_artefact(home.target("HM"), kind="target", made_by="x", verify=True)
    return manifest.files, manifest.counts, manifest.config


KINDS: dict[str, Callable[[Home], Any]] = {
    "targets/hm/manifest.json": of_target,
    "targets/hm/items.parquet": of_target,
    "targets/hm/sequences.parquet": of_target,
    "shards/hm/manifest.json": of_shards,
    "shards/hm/index.json": of_shards,
    "shards/hm/offsets.parquet": of_shards,
    "shards/hm/items-00000.tar": of_shards,
    "shards/hm/sequences-00000.tar": of_shards,
    "activations/hm/*/manifest.json": of_run,
    "activations/hm/*/00000.npy": of_run,
    "activations/hm/*/00000.npy.crc32": of_run,
    f"runs/{RUN}/recipe.toml": of_run,
    f"runs/{RUN}/run.json": of_run,
    f"runs/{RUN}/.sums/recipe.toml": of_run,
    f"runs/{RUN}/{BEST}": of_run,
    f"runs/{RUN}/checkpoint/last.safetensors": of_last,
    f"runs/{RUN}/log.jsonl": of_log,
    f"runs/{RUN}/ranks.parquet": of_ranks,
}


@pytest.fixture(scope="module")
def whole(made: Path) -> dict[str, Any]:
    """What is read of the whole home, by the name of the reader."""
    return {read.__name__: read(Home(made)) for read in set(KINDS.values())}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_or_a_cut_is_refused_or_has_no_effect(
    kind: str, home: Home, whole: dict[str, Any]
) -> None:
    read = KINDS[kind]
    (path, *_) = sorted(home.root.glob(kind))
    content, refused, noticed = path.read_bytes(), 0, 0
    for seed in range(FLIPS):
        flip(path, seed)
        try:
            found = read(home)
        except PmmError as error:
            told, noticed = str(error), noticed + 1
            refused += path.parent.name in told or path.name in told
        else:
            if path.name != "log.jsonl" or found:  # a cut log is one that a kill has cut
                same = whole[read.__name__]
                assert found == (same[: len(found)] if path.name == "log.jsonl" else same)
        path.write_bytes(content)
    assert refused == noticed  # each message names the file, or the folder
    assert refused or kind.endswith(".sums/recipe.toml")
    print(f"{kind}: {FLIPS} tried, {refused} refused")
    assert read(home) == whole[read.__name__]


def spoil(home: Home, pattern: str, seed: int = 0) -> Path:
    (path, *_) = sorted(home.root.glob(pattern))
    flip(path, seed)
    return path


def test_a_check_finds_what_is_damaged_and_changes_nothing(home: Home) -> None:
    assert {each.state for each in check_home(home)} == {"whole"}
    names = ("shards/hm/items-00000.tar", "activations/hm/text-*/00000.npy", f"runs/{RUN}/{BEST}")
    for name in names:
        spoil(home, name)
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    damaged = {
        each.place.name.partition("-")[0] for each in check_home(home) if each.state != "whole"
    }
    assert damaged == {"hm", "text", RUN}
    assert {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()} == before


def test_a_repair_makes_all_again_but_weights(home: Home) -> None:
    files = ["shards/hm/items-00000.tar", "shards/hm/index.json"]
    files += ["activations/hm/text-*/00000.npy", "activations/hm/vision-*/00000.npy.crc32"]
    files += [f"runs/{RUN}/ranks.parquet", f"runs/{RUN}/metrics.json"]
    found = {next(iter(home.root.glob(name))): b"" for name in files}
    found = {path: path.read_bytes() for path in found}
    for name in files:
        spoil(home, name)
    spoil(home, f"runs/{RUN}/checkpoint/last.safetensors")
    told = "\n".join(repair(home, check_home(home)))
    assert "last.safetensors cannot be" in told
    assert {path: path.read_bytes() for path in found} == found
    assert [each.place.name for each in check_home(home) if each.state != "whole"] == [RUN]


def test_a_repair_never_writes_what_would_be_another(home: Home) -> None:
    """The target has changed meanwhile: the shards would be others, so they stay as they are."""
    spoil(home, "shards/hm/items-00000.tar")
    card = home.target("HM") / "card.json"
    flip(card, 0)
    before = (home.shards("HM") / "items-00000.tar").read_bytes()
    told = "\n".join(repair(home, check_home(home)))
    assert told.count("cannot be made again") >= 1
    assert (home.shards("HM") / "items-00000.tar").read_bytes() == before


def test_sharding_again_mends_the_damaged_piece_only(home: Home, shop: Any) -> None:
    text = shop.options.text.encoder
    options = ShardOptions(text_encoder=text, picture_size=32, items_per_shard=8, workers=1)
    place = home.shards("HM")
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()}
    spoil(home, "shards/hm/items-00000.tar")
    assert write_shards(home, "HM", options).fresh
    after = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()}
    assert {n: content for n, (_, content) in after.items()} == {
        n: content for n, (_, content) in before.items()
    }
    kept = [name for name in before if before[name][0] == after[name][0]]
    assert not any(name.startswith("items-00000") for name in kept)
    assert not write_shards(home, "HM", options).fresh


SEGFAULTS = """
    import sys
    from pathlib import Path
    from pmm.errors import BrokenArtefact
    from pmm.shards.sequence_shards import read_sequences
    try:
        found = read_sequences(Path(sys.argv[1]), 1, made_by="pmm shard")
        print(int(found.train.values.sum()), len(found))
    except BrokenArtefact as error:
        print("refused", error)
"""


def test_arrow_blocks_that_lie_are_refused_before_they_are_followed(tmp_path: Path) -> None:
    """Offsets beyond the values end the interpreter wherever they are used."""
    offsets = pa.array([0, 3, 1_000_000_000, 5], pa.int32()).buffers()[1]
    values = pa.array([1, 2, 3, 4, 5], pa.int32())
    inner = pa.list_(pa.field("element", pa.int32(), nullable=False))
    train = pa.Array.from_buffers(inner, 3, [None, offsets], children=[values])
    numbers = pa.array([0, 1, 2], pa.int32())
    fields = [pa.field(name, pa.int32(), nullable=False) for name in ("user", "valid", "test")]
    fields.insert(1, pa.field("train", inner, nullable=False))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema(fields)) as writer:
        batch = pa.RecordBatch.from_arrays(
            [numbers, train, numbers, numbers], schema=pa.schema(fields)
        )
        writer.write_batch(batch)
    with TarWriter(tmp_path / "sequences-00000.tar") as tar:
        tar.add("00000000.arrow", sink.getvalue().to_pybytes())
    command = [sys.executable, "-c", textwrap.dedent(SEGFAULTS), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout[:7]) == (0, "refused"), ended


def test_a_manifest_of_before_is_still_read(home: Home) -> None:
    path = home.target("HM") / "manifest.json"
    found = json.loads(path.read_text())
    del found["checksum"]
    path.write_text(json.dumps(found))
    assert open_artefact(path.parent, kind="target", made_by="x", verify=True).kind == "target"


@pytest.mark.parametrize(
    "spoilt",
    [
        '"bytes": ', '"sha256": ', '"inputs": ', '"kind": ', '"counts": ',
    ],
)  # fmt: skip
def test_a_manifest_of_before_with_a_spoilt_key_is_no_traceback(home: Home, spoilt: str) -> None:
    path = home.target("HM") / "manifest.json"
    found = json.loads(path.read_text())
    del found["checksum"]
    path.write_text(json.dumps(found).replace(spoilt, spoilt.replace('"', '"x', 1)))
    with pytest.raises(ArtefactError, match="pmm x"):
        open_artefact(path.parent, kind="target", made_by="pmm x")


@pytest.mark.parametrize("line", [b"\xff\xfe", b"{}x", b"[]", b"[" * 100_000, b'{"a": 1e}'])
def test_a_damaged_record_names_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(BrokenArtefact, match=r"log.jsonl:2 is damaged"):
        read_records(path, b'{"kind": "step"}\n' + line + b"\n")


@pytest.mark.parametrize("value", [0, -1, 10**18, 10**30])
@pytest.mark.parametrize("name", ["user_heads", "max_length", "user_blocks", "width"])
def test_absurd_sizes_in_a_recipe_are_refused(home: Home, name: str, value: int) -> None:
    path = home.run(RUN) / "recipe.toml"
    lines = path.read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith(f"{name} = "))
    lines[at] = f"{name} = {value}"
    shutil.rmtree(path.parent / ".sums")  # of a run of before
    path.write_text("\n".join(lines))
    if (name, value) in (("width", 0), ("user_blocks", 0)):  # the encoder's; a mean of the window
        saved_recipe(path.parent)
        return
    with pytest.raises(PmmError, match=name):
        load_run(home, path.parent, device="cpu")
