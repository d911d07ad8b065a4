"""`pmm paper run`: what has no row yet is trained and evaluated, several at once, in order.

Killed anywhere and started again it goes on: a run with its row is not done again, a training that
was broken off resumes, and one on data that has changed since begins anew.
"""

import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pmm.errors import PmmError
from pmm.paper.experiment import Experiment
from pmm.paper.paper_datasets import digest, users_of
from pmm.paper.running.command_processes import CommandEnd, Worker
from pmm.paper.running.result_rows import ResultRows, made_row
from pmm.storage.artefact import atomic_file, storage_errors, write_json
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json

logger = logging.getLogger(__name__)

STOPPED = (130, 143)
"""Exit status of a command that a signal ended."""


@dataclass
class _Task:
    """A run that is being made."""

    name: str
    experiment: Experiment
    worker: Worker
    words: list[str]
    trained: CommandEnd | None = None
    told: dict[str, Any] = field(default_factory=dict)


class Campaign:
    """The runs of a plan in a home folder."""

    def __init__(self, home: Home, experiments: Mapping[str, Experiment], device: str = "") -> None:
        """Read what is there.

        Args:
            home: the home folder.
            experiments: name -> what is wanted, starts before what starts from them.
            device: where everything is computed; "" = as each recipe says.

        Raises:
            MissingArtefact, BrokenArtefact: a dataset cannot be read. BrokenArtefact: a row.
        """
        self.home, self.experiments, self.device = home, dict(experiments), device
        self.rows = ResultRows(home)
        names = dict.fromkeys(name for each in experiments.values() for name in each.datasets)
        self.digests = {name: digest(home, name) for name in names}

    def data_of(self, experiment: Experiment) -> dict[str, str]:
        """Dataset -> its digest now, of all that decide a run."""
        return {name: self.digests[name] for name in experiment.datasets}

    def users_of(self, experiment: Experiment) -> int:
        """How many users it is trained on; errors as `users_of`."""
        own = experiment.sources if experiment.stage == "pretrain" else (experiment.dataset,)
        return sum(users_of(self.home, name) for name in own)

    def is_done(self, name: str) -> bool:
        """Whether a run has its row, of the data that is there now."""
        return self.rows.fits(name, self.data_of(self.experiments[name]))

    @property
    def missing(self) -> list[str]:
        """Names of the runs without a row, in the order of the plan."""
        return [name for name in self.experiments if not self.is_done(name)]

    def run(self, jobs: int, max_minutes: float = 0.0) -> bool:
        """Make what is missing.

        Args:
            jobs: processes at once.
            max_minutes: stop after so long; what trains then is saved. 0: no limit.

        Returns:
            whether nothing is missing any more.

        Raises:
            PmmError: a command failed; what else was running is finished before.
            KeyboardInterrupt: somebody stopped it; what was running is saved.
        """
        ends = time.monotonic() + 60 * max_minutes if max_minutes else None
        waiting = self.missing
        idle = [Worker() for _ in range(min(jobs, max(1, len(waiting))))]
        workers, busy, failed = list(idle), list[_Task](), list[str]()
        stopping = False
        try:
            while busy or (waiting and not stopping and not failed):
                late = ends is not None and time.monotonic() > ends
                if late and not stopping:
                    stopping = True
                    _interrupt(busy)
                if not (stopping or failed):
                    self._hand_out(waiting, idle, busy)
                for task in self._finished(busy, 0.5):
                    busy.remove(task)
                    idle.append(task.worker)
                    if (problem := self._next(task, stopping, busy, idle)) is not None:
                        failed.append(problem)
        except KeyboardInterrupt:
            logger.warning("stopping: what trains is saved after its step")
            self._save_what_runs(busy)
            raise
        finally:
            for worker in workers:
                worker.close()
        if failed:
            raise PmmError("\n".join(failed))
        return not self.missing

    def _save_what_runs(self, busy: list[_Task]) -> None:
        """Pass Ctrl-C on, once; a second one while this waits ends everything at once."""
        _interrupt(busy)
        for task in busy:
            task.worker.ended()

    def _hand_out(self, waiting: list[str], idle: list[Worker], busy: list[_Task]) -> None:
        """Give runs whose start is there to processes that have nothing to do."""
        for name in list(waiting):
            experiment = self.experiments[name]
            start = experiment.start and experiment.start.name(self.home)
            if idle and (not start or self.is_done(start)):
                waiting.remove(name)
                words = [*experiment.training(self.home), *self._how_to_go_on(name)]
                task = _Task(name, experiment, idle.pop(), words)
                busy.append(task)
                self._begin(task, words)

    def _begin(self, task: _Task, words: list[str]) -> None:
        device = ["--device", self.device] if self.device else []
        task.worker.begin([*words, *device, "--home", str(self.home.root)], self._log(task.name))

    def _log(self, name: str) -> Path:
        return self.home.root / "paper" / "logs" / f"{name}.txt"

    def _how_to_go_on(self, name: str) -> list[str]:
        """--resume, or --overwrite where the data are others than when the run was begun."""
        mark = self.home.root / "paper" / "begun" / f"{name}.json"
        data = self.data_of(self.experiments[name])
        try:
            before = parse_json(mark.read_bytes())
        except (OSError, *JSON_ERRORS):
            before = None
        with storage_errors(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(mark) as temporary:
                write_json(temporary, data)
        if not (self.home.run(name) / "recipe.toml").exists():
            return []
        return ["--resume"] if before in (None, data) else ["--overwrite"]

    def _finished(self, busy: list[_Task], seconds: float) -> list[_Task]:
        """The tasks whose command has ended, after waiting a while for one."""
        ready = wait([task.worker.pipe for task in busy], seconds)
        return [task for task in busy if task.worker.pipe in ready]

    def _next(
        self, task: _Task, stopping: bool, busy: list[_Task], idle: list[Worker]
    ) -> str | None:
        """Evaluate what is trained, write the row of what is evaluated; what went wrong, if so."""
        try:
            ended = task.worker.ended()
        except PmmError:
            if stopping:  # a process that a signal met before it could save anything
                return None
            raise
        if ended.status in STOPPED and stopping:
            return None
        if ended.status:
            said = shlex.join(["pmm", *task.words, "--home", str(self.home.root)])
            return f"{said} failed: see {self._log(task.name)}"
        if task.trained is None:
            task.trained = ended
            task.told["command"] = self._told(task.words)
            if task.experiment.dataset and not stopping:
                cold = (self.home.target(task.experiment.dataset) / "manifest.json").exists()
                task.words = task.experiment.evaluation(self.home, cold=cold)
                idle.remove(task.worker)
                busy.append(task)
                self._begin(task, task.words)
                return None
            if task.experiment.dataset:
                return None
        else:
            task.told["evaluated"] = self._told(task.words)
            task.told["evaluation_seconds"] = round(ended.seconds, 1)
            task.told["evaluation_cpu_seconds"] = round(ended.cpu_seconds, 1)
        data = self.data_of(task.experiment)
        task.told |= {"kind": task.experiment.kind, "users": self.users_of(task.experiment)}
        row = made_row(self.home, task.experiment, data, task.told, task.trained)
        self.rows.add(row)
        logger.info("%s", said_of(row, len(self.missing)))
        return None

    def _told(self, words: list[str]) -> str:
        """A command for a row: a place of this machine tells nobody anything."""
        said = shlex.join(["pmm", *words])
        return said.replace(str(self.home.root), "HOME").replace(" --resume", "")


def _interrupt(busy: list[_Task]) -> None:
    for task in busy:
        task.worker.interrupt()


def said_of(row: Mapping[str, Any], left: int) -> str:
    """A line on a run that is done.

    >>> said_of({"run": "a", "seconds": 2.0, "metrics": {"none": {"hr@10": 0.125}}}, 3)
    'a: HR@10 12.50, 2 s; 3 to go'
    """
    measured = row.get("metrics")
    figure = f"HR@10 {100 * measured['none']['hr@10']:.2f}, " if measured else ""
    return f"{row['run']}: {figure}{row['seconds']:,.0f} s; {left} to go"
