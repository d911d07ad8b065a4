"""A user's encoding and ten best items: beside RePlay's SASRec, compiled by OpenVINO.

    python -m venv ENV && ENV/bin/pip install 'replay-rec[torch]' openvino onnx onnxscript
    pmm export RUN --to BUNDLE --onnx
    python -m benchmarks.serve_replay --python ENV/bin/python --run HOME/runs/RUN \\
        [--onnx BUNDLE/onnx/user.onnx] [--items 20000]

The run is a SASRec on ids; RePlay's gets its width, blocks, heads and length, and weights that are
drawn, since they change no time. Ours is the run's own encoder, in torch and as the ONNX graph that
a bundle holds, over as many items, made from its items. Both answer one user at a time with one
thread, histories as long as the window.
RePlay's way to an answer is one graph, the encoding and all scores, and torch's topk; its encoding
alone is the same graph with one item to score. This file is also the program that runs in ENV.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKED, FIRST = 500, 50
"""Users whose answers are timed, after some that are not."""


def quantiles(answer: Callable[[int], object]) -> list[float]:
    """Median and 99th percentile by the processor and by the clock, in ms."""
    import numpy as np

    taken = np.zeros((2, ASKED))
    for user in range(-FIRST, ASKED):
        start, begun = time.perf_counter(), time.process_time()
        answer(user + FIRST)
        if user >= 0:
            taken[:, user] = time.process_time() - begun, time.perf_counter() - start
    return [float(np.quantile(each, q) * 1e3) for each in taken for q in (0.5, 0.99)]


def peer(job: dict[str, Any]) -> dict[str, list[float]]:
    """RePlay's times; runs in its environment."""
    import torch
    from replay.data import FeatureHint, FeatureSource, FeatureType  # type: ignore[import-not-found]
    from replay.data.nn import (  # type: ignore[import-not-found]
        TensorFeatureInfo,
        TensorFeatureSource,
        TensorSchema,
    )
    from replay.models.nn.sequential.compiled import (  # type: ignore[import-not-found]
        SasRecCompiled,
    )
    from replay.models.nn.sequential.sasrec import SasRec  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    items, length = job["items"], job["max_length"]
    schema = TensorSchema(
        TensorFeatureInfo(
            name="item_id",
            cardinality=items,
            padding_value=items,
            is_seq=True,
            embedding_dim=job["width"],
            feature_type=FeatureType.CATEGORICAL,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        )
    )
    model = SasRec(
        schema,
        block_count=job["user_blocks"],
        head_count=job["user_heads"],
        hidden_size=job["width"],
        max_seq_len=length,
    ).eval()
    draw = torch.Generator().manual_seed(0)
    asked = torch.randint(0, items, (FIRST + ASKED, 1, length), generator=draw)
    real, one = torch.ones((1, length), dtype=torch.bool), torch.zeros(1, dtype=torch.long)

    def batch(user: int) -> dict[str, Any]:
        return {"feature_tensor": {"item_id": asked[user]}, "padding_mask": real}

    whole = SasRecCompiled.compile(model, mode="one_query", num_threads=1)
    few = SasRecCompiled.compile(model, mode="one_query", num_candidates_to_score=1, num_threads=1)
    return {
        "encoding": quantiles(lambda user: few.predict(batch(user), one)),
        "answer": quantiles(lambda user: torch.topk(whole.predict(batch(user)), 10)),
    }


class Onnx:
    """The encoder of a run, its user's part by onnxruntime with one thread."""

    def __init__(self, encoder: Any, graph: Path) -> None:
        """Open the graph."""
        onnxruntime = importlib.import_module("onnxruntime")

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        """All else is the run's."""
        return getattr(self._encoder, name)

    def users(self, e_BLW: Any, valid_BL: Any) -> Any:
        """What users are scored with."""
        return self._session.run(["user"], {"e": e_BLW, "valid": valid_BL})[0]


def ours(
    run: Path, items: int, graph: Path | None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Times of a run's encoder and answers, and the job for the peer."""
    import numpy as np
    import torch

    from benchmarks.serve import grown
    from pmm.recommend.answers import Wanted
    from pmm.recommend.catalogue_state import GrowingCatalogue
    from pmm.recommend.loaded_model import LoadedModel
    from pmm.recommend.many_users import windows_of
    from pmm.recommend.open_run import open_model
    from pmm.runs.loading import saved_recipe
    from pmm.storage.home import Home

    torch.set_num_threads(1)
    home = Home(run.parent.parent)
    opened = open_model(home, run, device="cpu", index="exact")
    state, options = opened.state, saved_recipe(run).model
    made = grown(state.score_ND, items, 0.5, 1)
    ids = [str(row) for row in range(items)]
    catalogue = GrowingCatalogue(ids, made, made, np.ones(items, np.int64))
    encoder: Any = opened.encoder if graph is None else Onnx(opened.encoder, graph)
    model = LoadedModel(encoder, catalogue, opened._source, version="", index="exact")
    draw = np.random.default_rng(0)
    asked = draw.integers(0, items, (FIRST + ASKED, options.max_length))
    wanted = Wanted(k=10)

    def encode(user: int) -> object:
        return model.encoder.users(*windows_of(model.state, [asked[user]], options.max_length))

    def answer(user: int) -> object:
        return model.recommend([[ids[row] for row in asked[user]]], wanted)

    job = {key: getattr(options, key) for key in ("width", "user_blocks", "user_heads")}
    job |= {"items": items, "max_length": options.max_length}
    return {"encoding": quantiles(encode), "answer": quantiles(answer)}, job


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="of the environment that has RePlay")
    parser.add_argument("--run", type=Path, required=True, help="folder of a SASRec on ids")
    parser.add_argument("--onnx", type=Path, help="the user encoder of the run's bundle")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    mine, job = ours(given.run.resolve(), given.items, None)
    beside = {"pmm, torch": mine}
    done = subprocess.run(
        [given.python, str(Path(__file__).resolve())],
        input=json.dumps(job),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"RePlay's side failed:\n{done.stderr[-3_000:]}")
    beside["RePlay, OpenVINO"] = json.loads(done.stdout.splitlines()[-1])
    if given.onnx is not None:
        beside["pmm, ONNX"], _ = ours(given.run.resolve(), given.items, given.onnx)
    lines = ["| | ms processor p50 | p99 | ms clock p50 | p99 |", "|---|---|---|---|---|"]
    for what in ("encoding", "answer"):
        for name, found in beside.items():
            cells = " | ".join(f"{each:.2f}" for each in found[what])
            lines.append(f"| {what}: {name} | {cells} |")
    shape = ", ".join(f"{key} {value}" for key, value in job.items())
    lines += [
        "",
        f"SASRec, {shape}; one thread, one user at a time, {ASKED} users. "
        "Other work ran meanwhile.",
    ]
    table = "\n".join(lines)
    print(table)
    if not given.no_record:
        from benchmarks.results import record

        record("serve: beside RePlay", table)


if __name__ == "__main__":
    if sys.stdin.isatty() or len(sys.argv) > 1:
        main()
    else:
        print(json.dumps(peer(json.load(sys.stdin))))
