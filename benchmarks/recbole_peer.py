"""RecBole's SASRec, the peer that trains and ranks on item ids, in an environment of its own.

It is made below the system's temporary folder if it is not there yet. This file is also the program
that runs there: it reads a job from its standard input and writes what it measured as JSON.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PEER = Path(tempfile.gettempdir()) / "pmm-benchmark-recbole"
DATASET, ANSWER = "drawn", "answer: "

_RECBOLE = "recbole==1.2.1"
_IMPORTED = (
    *("numpy<2", "pandas<3", "scipy", "scikit-learn", "pyyaml", "tqdm", "tensorboard"),
    *("texttable", "psutil", "tabulate", "colorlog==4.7.2", "colorama==0.4.4"),
)
"""What SASRec's path through RecBole imports; its whole list asks for a ray that few Pythons have.
It reads tables as pandas 2 does and takes names from NumPy that NumPy 2 has not."""


def install() -> str | None:
    """Make RecBole's environment unless it is there; its version, or None without it.

    torch is lent from the environment that this runs in, so that both sides run the same build.
    """
    python = PEER / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    try:
        if not _lends_torch():
            shutil.rmtree(PEER, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
            for wanted in (("--no-deps", _RECBOLE), _IMPORTED):
                subprocess.run(
                    [*pip, "install", "--quiet", *wanted],
                    check=True,
                    timeout=600,
                    capture_output=True,
                )
            _lend_torch()
        told = subprocess.run([*pip, "show", "recbole"], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"RecBole cannot be installed ({error})", file=sys.stderr)
        return None
    found = re.search(r"Version: (\S+)", told.stdout.decode())
    return found[1] if found else "?"


def _lend_torch() -> None:
    """Put the folder that holds torch behind the peer's own packages."""
    import torch

    folder = Path(torch.__file__).parents[1]
    own = next((PEER / "lib").glob("python*/site-packages"))
    (own / "lent.pth").write_text(f"{folder}\n", encoding="utf-8")


def _lends_torch() -> bool:
    """Whether the environment is whole, and lent from this one."""
    import torch

    found = [path.read_text().strip() for path in (PEER / "lib").glob("*/site-packages/lent.pth")]
    return found == [str(Path(torch.__file__).parents[1])]


def run(job: Mapping[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """Do a job (see `_answer`) in a process of its own, with `folder` for what RecBole writes."""
    lent = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(PEER / "bin" / "python"), str(Path(__file__).resolve())],
        input=json.dumps(job),
        cwd=folder,
        env={**os.environ, **lent},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(ANSWER):
            found: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
            return found
    raise SystemExit(f"RecBole failed:\n{done.stderr[-3000:]}")


def _answer(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train, then rank all users' test items; this runs in RecBole's environment.

    Args:
        job: "model" (RecBole's name) and its "config", "evaluations"; "best": whether the weights
            of the epoch that did best on the validation items are ranked, else those of the last.

    Returns:
        train and evaluate: seconds of each epoch and of each evaluation; ready: seconds until the
        data was loaded; hr@10, ndcg@10; numpy and pandas: versions.
    """
    from importlib.metadata import version

    from recbole.config import Config  # type: ignore[import-not-found]
    from recbole.data import (  # type: ignore[import-not-found]
        create_dataset,
        data_preparation,
    )
    from recbole.utils import (  # type: ignore[import-not-found]
        get_model,
        get_trainer,
        init_seed,
    )

    start = time.perf_counter()
    config = Config(model=job["model"], dataset=DATASET, config_dict=dict(job["config"]))
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    ready = time.perf_counter() - start
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    train: list[float] = []
    epoch = trainer._train_epoch

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        loss = epoch(*args, **kwargs)
        train.append(time.perf_counter() - start)
        return loss

    trainer._train_epoch = timed
    best, kept = bool(job["best"]), dict[str, Any]()

    def keep(*_: Any, **__: Any) -> None:  # its own file cannot be read with torch's new defaults
        kept.update({name: each.clone() for name, each in model.state_dict().items()})

    trainer._save_checkpoint = keep
    trainer.fit(train_data, valid_data if best else None, verbose=False, saved=best)
    if best:
        model.load_state_dict(kept)
    evaluate, metrics = [], {}
    for _ in range(job["evaluations"]):
        start = time.perf_counter()
        metrics = trainer.evaluate(test_data, load_best_model=False)
        evaluate.append(time.perf_counter() - start)
    return {
        "train": train,
        "evaluate": evaluate,
        "ready": ready,
        "hr@10": metrics["hit@10"],
        "ndcg@10": metrics["ndcg@10"],
        "numpy": version("numpy"),
        "pandas": version("pandas"),
    }


if __name__ == "__main__":
    print(ANSWER + json.dumps(_answer(json.load(sys.stdin))), flush=True)
