"""Where a training can be watched beside its log.jsonl: TensorBoard, Weights & Biases, MLflow.

They are given what the log is given, after it; nothing that the run computes depends on them.
TensorBoard's event files lie in the run's folder, so that `tensorboard --logdir runs` shows all.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from PIL import Image

from pmm.errors import InputError
from pmm.runs.checkpoint import State
from pmm.runs.folder import Log, read_records, whole_lines
from pmm.runs.train_options import TrackerName
from pmm.storage.artefact import atomic_file, storage_errors, write_json
from pmm.storage.json_files import JSON_ERRORS, parse_json

EVENTS = "events.out.tfevents.*"
"""TensorBoard's files in a run's folder."""
EVALUATED = ".evaluated"
"""Ends the names of those that `pmm evaluate` writes."""
IDS = "trackers.json"
"""The ids of a run's W&B and MLflow runs, so that a resumed one goes on with them."""

_PACKAGES: dict[TrackerName, str] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow-skinny",
}


class Tracker(Protocol):
    """One place where a training can be watched."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, after a step."""
        ...

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG of the run's folder."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed, before anything is written.

    Raises:
        InputError: names them with the command that installs them.
    """
    lacking = [name for name in names if find_spec(name) is None]
    if lacking:
        packages = " ".join(_PACKAGES[name] for name in lacking)
        raise InputError(
            f"train.trackers asks for {', '.join(lacking)}, which is not installed. Run: "
            f"pip install {packages}; or leave it out of train.trackers"
        )


class TrackedLog(Log):
    """A run's log.jsonl, whose records trackers are given too."""

    def __init__(
        self,
        path: Path,
        state: State,
        names: Sequence[TrackerName],
        *,
        about: Mapping[str, Any],
    ) -> None:
        """Open for appending, as `Log`.

        Args:
            path: of log.jsonl, in the run's folder.
            state: at which the run goes on; what log and trackers hold of later steps is cut off.
            names: of the trackers.
            about: the recipe's values, shown by W&B and MLflow.

        Raises:
            InputError: a tracker does not start.
            BrokenArtefact: a record is damaged.
        """
        kept = read_records(path, whole_lines(path, state.log_bytes))
        super().__init__(path, state.log_bytes)
        self._closing = ExitStack()
        self._closing.callback(super().close)
        self._trackers: list[Tracker] = []
        for name in names:
            try:
                tracker = _open(name, path.parent, state.step, about)
            except Exception as error:  # of several libraries, which ask a server or the user
                self.close()
                raise InputError(f"train.trackers: {name} does not start ({error})") from error
            self._closing.enter_context(closing(tracker))
            self._trackers.append(tracker)
            if name == "tensorboard":  # its points at this step went with the later ones
                for record in kept:
                    if record["step"] == state.step:
                        tracker.scalars(scalars_of(record), state.step)

    def write(self, record: Mapping[str, Any], beside: Mapping[str, float] | None = None) -> None:
        """Append a record; `beside` is for the trackers alone, which have no place in the log."""
        super().write(record)
        for tracker in self._trackers:
            tracker.scalars({**scalars_of(record), **(beside or {})}, record["step"])

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a PNG of the run's folder, where there is one."""
        for tracker in self._trackers if path.is_file() else ():
            tracker.picture(name, path, step)

    def close(self) -> None:
        """Close the file and the trackers."""
        self._closing.close()


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record of the log, by names that all trackers take.

    >>> scalars_of({"kind": "step", "step": 9, "epoch": 1, "loss": 2.5, "waiting": 0.25})
    {'train/loss': 2.5, 'speed/waiting': 0.25}
    >>> scalars_of({"kind": "evaluation", "step": 9, "hr@10": 0.5, "cold_hr@10": None})
    {'valid/hr_at_10': 0.5}
    >>> scalars_of({"kind": "evaluation", "step": 9, "test_hr@10": 0.5})
    {'test_by_epoch/hr_at_10': 0.5}
    """
    values = {name: each for name, each in record.items() if name not in ("kind", "step", "epoch")}
    speed = {name: values.pop(name) for name in _SPEED if name in values}
    group = "train/" if record["kind"] == "step" else "valid/"
    # Not "test/", which has what `pmm evaluate` says of the best weights.
    test = {name: values.pop(f"{_TEST}{name}") for name in _of_test(values)}
    return {
        **_numbers(values, group),
        **_numbers(test, "test_by_epoch/"),
        **_numbers(speed, "speed/"),
    }


_TEST = "test_"


def _of_test(values: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix(_TEST) for name in values if name.startswith(_TEST)]


_SPEED = ("users_per_s", "waiting", "seconds")


def show_evaluation(run_dir: Path, suffix: str, metrics: Mapping[str, Any]) -> None:
    """Put an evaluation's metrics and gallery beside a training that TensorBoard shows.

    Args:
        run_dir: the run's folder; without event files of the training nothing is done.
        suffix: which evaluation ("", "-valid"); what a former one showed is replaced.
        metrics: what its metrics.json holds; gallery.png is shown where there is one.

    Raises:
        StorageError: the folder cannot be written.
    """
    if not any(run_dir.glob(EVENTS)):
        return
    ending = f"{EVALUATED}{suffix}"
    name, step = suffix.removeprefix("-") or "test", metrics["step"]
    gallery = run_dir / f"gallery{suffix}.png"
    with storage_errors(run_dir):
        for path in run_dir.glob(EVENTS + ending):
            path.unlink()
        with closing(_TensorBoard(run_dir, suffix=ending)) as tracker:
            tracker.scalars(_numbers(metrics["model"], f"{name}/"), step)
            if gallery.is_file():
                tracker.picture(f"gallery/{name}", gallery, step)


def _numbers(values: Mapping[str, Any], group: str) -> dict[str, float]:
    found = {name: each for name, each in values.items() if isinstance(each, Real)}
    return {f"{group}{name.replace('@', '_at_')}": float(each) for name, each in found.items()}


def drop_shown_evaluations(run_dir: Path) -> None:
    """Remove what `show_evaluation` wrote about weights that are being replaced."""
    for path in run_dir.glob(f"{EVENTS}{EVALUATED}*"):
        path.unlink(missing_ok=True)


def _open(name: TrackerName, run_dir: Path, step: int, about: Mapping[str, Any]) -> Tracker:
    match name:
        case "tensorboard":
            return _TensorBoard(run_dir, purge_step=step)
        case "wandb":
            return _WandB(run_dir, about)
        case "mlflow":
            return _MLflow(run_dir, about)


class _TensorBoard:
    """Event files. A reader drops what earlier files hold from `purge_step` on."""

    def __init__(self, run_dir: Path, *, purge_step: int | None = None, suffix: str = "") -> None:
        from torch.utils.tensorboard import SummaryWriter

        for path in run_dir.glob(EVENTS) if purge_step == 0 else ():  # nothing of them counts
            path.unlink()
        self._hook = threading.excepthook
        threading.excepthook = self._heard
        self._writer = SummaryWriter(str(run_dir), purge_step=purge_step, filename_suffix=suffix)

    def _heard(self, error: threading.ExceptHookArgs) -> None:
        """What fails in its thread (a full disk) is raised here by the next flush: told once."""
        if type(error.thread).__module__.partition(".")[0] != "tensorboard":
            self._hook(error)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # so that a killed run shows what its log says

    def picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._hook


class _WandB:
    """A run of Weights & Biases, which itself refuses points of steps that it has."""

    def __init__(self, run_dir: Path, about: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        ids = _ids(run_dir)
        ids.setdefault("wandb", uuid4().hex[:12])
        _keep_ids(run_dir, ids)
        self._run = wandb.init(
            project="pmm",
            name=run_dir.name,
            id=ids["wandb"],
            resume="allow",
            dir=str(run_dir),
            config=dict(about),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow at the user's tracking URI; what it holds of a step is not repeated."""

    def __init__(self, run_dir: Path, about: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        self._client, ids = MlflowClient(), _ids(run_dir)
        self._last: dict[str, int] = {}
        if "mlflow" not in ids:
            found = self._client.get_experiment_by_name("pmm")
            experiment = found.experiment_id if found else self._client.create_experiment("pmm")
            made = self._client.create_run(experiment, run_name=run_dir.name)
            ids["mlflow"] = made.info.run_id
            _keep_ids(run_dir, ids)
            for name, value in _flat(about):
                self._client.log_param(ids["mlflow"], name, str(value)[:500])
        self._id = ids["mlflow"]
        self._client.update_run(self._id, status="RUNNING")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if name not in self._last:
                history = self._client.get_metric_history(self._id, name)
                self._last[name] = max((each.step for each in history), default=-1)
            if step > self._last[name]:
                self._client.log_metric(self._id, name, value, step=step)
                self._last[name] = step

    def picture(self, name: str, path: Path, step: int) -> None:
        del name, step  # an artefact has a file name only
        self._client.log_artifact(self._id, str(path))

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _ids(run_dir: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = parse_json((run_dir / IDS).read_bytes())
    except JSON_ERRORS:  # damaged: a new run there is better than none here
        return {}
    return found


def _keep_ids(run_dir: Path, ids: Mapping[str, str]) -> None:
    with atomic_file(run_dir / IDS) as temporary:
        write_json(temporary, dict(ids))
