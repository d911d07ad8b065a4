"""Every model, from a run and from its bundle, with torch and without: served as evaluated."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmm.bundle.bundle_options import BundleOptions
from pmm.bundle.make_bundle import export_run
from pmm.errors import InputError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model import registry
from pmm.serve.load_served import load_served, open_served
from pmm.serve.serving import Serving
from pmm.serve.tested_users import check_ranks
from pmm.storage.schemas import RANKS, read_table

K = 30
"""The whole catalogue of the shop."""


@pytest.mark.parametrize("name", sorted(registry.models()))
def test_every_model_is_served_as_it_was_evaluated(
    shop: Any, runs_of_tests: Any, make_client: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    run = runs_of_tests.make_run(shop, tmp_path / "run", runs_of_tests.options_of(shop, name))
    evaluate_run(shop.home, run, EvaluateOptions(gallery_users=0))
    evaluated = read_table(run / "ranks.parquet", RANKS)["rank"].to_pylist()
    export_run(shop.home, run, tmp_path / "bundle", BundleOptions())
    for place in (run, tmp_path / "bundle"):
        serving = Serving(tmp_path / f"data of {place.name}", lambda at: load_served(at, shop.home))
        users = serving.start(place).users.spread(1_000)
        body = {"histories": [each.history for each in users], "k": K, "keep_history": True}
        with make_client(serving) as client:
            results = client.post("/recommend/batch", json=body).json()["results"]
        serving.close()
        served = []
        for user, result in zip(users, results, strict=True):
            score = {each["item_id"]: each["score"] for each in result["items"]}
            others = set(score) - set(user.history) | {user.target}
            served.append(sum(score[each] >= score[user.target] for each in others))
        assert served == evaluated
        assert [each.rank for each in users] == evaluated


@pytest.fixture(scope="module")
def graphs(shop: Any, served_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with ONNX graphs, the quickest to export."""
    pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    place: Path = tmp_path_factory.mktemp("graphs") / "bundle"
    export_run(shop.home, served_runs / "ids", place, BundleOptions(onnx=True))
    return place


def test_graphs_are_served_as_evaluated(shop: Any, graphs: Path) -> None:
    served = open_served(graphs, shop.home, onnx=True)
    check = check_ranks(served.model, served.users)
    assert check.users == check.same == len(served.users)


def test_what_a_bundle_or_a_run_cannot_is_said(shop: Any, graphs: Path, served_runs: Path) -> None:
    with pytest.raises(InputError, match="has the items of HM: leave out --target"):
        open_served(graphs, shop.home, target="other")
    with pytest.raises(InputError, match="has no ONNX graphs"):
        open_served(served_runs / "first", shop.home, onnx=True)


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

ABSENT = ("torch", "torchvision", "transformers", "open_clip", "timm")
looked_for = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in ABSENT else looked_for(name, path, target)

PathFinder.find_spec = find_spec
from pmm.cli import main

main(["serve", sys.argv[1], "--onnx", "--port", "0", "--home", sys.argv[2]])
"""


def test_a_bundle_is_served_where_torch_is_not_installed(graphs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(graphs), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = next((line for line in server.stdout if "answers at" in line), "")
        try:
            asked = urllib.request.Request(
                said.split("answers at ")[1].strip() + "recommend",
                json.dumps({"history": ["0000000003"], "k": 4}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(asked) as answer:
                assert len(json.load(answer)["items"]) == 4
        finally:
            server.terminate()
            server.communicate()
    assert server.returncode == 0
