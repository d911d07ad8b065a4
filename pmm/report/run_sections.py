"""The sections of a report on the runs themselves: recipes, time and hardware."""

from collections.abc import Iterator, Sequence
from typing import Any

from pmm.report.report_blocks import Cell, DataTable, ReportBlock, Section, as_count
from pmm.report.reported_run import ReportedRun

_ABSENT = object()


def recipes(runs: Sequence[ReportedRun]) -> Section:
    """The values in which the recipes differ; what all share is not listed."""
    names = list(dict.fromkeys(name for run in runs for name in run.recipe))
    header = ["Value", *(run.name for run in runs)]
    shared: list[list[Cell]] = []
    lacking: list[list[Cell]] = []
    for name in names:
        values = [run.recipe.get(name, _ABSENT) for run in runs]
        row: list[Cell] = [name, *(_written(value) for value in values)]
        if _ABSENT in values:
            lacking.append(row)
        elif len(runs) == 1 or any(value != values[0] for value in values):
            shared.append(row)
    if len(runs) == 1:
        table = DataTable(title="All values", header=header, rows=shared, folded=True)
        return Section("Recipe", [table])
    if not shared and not lacking:
        return Section("Differences of the recipes", ["There is none."])
    blocks: list[ReportBlock] = [f"{len(shared) + len(lacking)} of {len(names)} values differ."]
    if shared:
        blocks.append(DataTable(title="What differs", header=header, rows=shared))
    if lacking:
        title = "What only some of the runs have"
        blocks.append(DataTable(title=title, header=header, rows=lacking, folded=True))
    return Section("Differences of the recipes", blocks)


def _written(value: Any) -> str:
    if value is _ABSENT:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def costs(runs: Sequence[ReportedRun]) -> Section:
    """Steps, time, hardware and software of each run, as far as they were recorded."""
    rows = [_cost(run) for run in runs]
    header = ["Run", "Seed", "Parameters", "Trained", "Steps", "Epochs", "Best epoch"]
    header += ["Training, min", "Validation, min", "Users/s", "Waiting, %", "Hardware", "Software"]
    about = (
        "Time is that of the logged steps and of ranking the validation items, without starting "
        "and saving. Waiting: share of the time in which a step waited for data. What was not "
        "recorded is empty; memory and energy are not recorded by training."
    )
    blocks: list[ReportBlock] = [about, DataTable(title="By run", header=header, rows=rows)]
    made = [[run.name, str(run.about["command"])] for run in runs if run.about.get("command")]
    if made:
        blocks.append(DataTable(title="How they were made", header=["Run", "Command"], rows=made))
    return Section("Time and hardware", blocks)


def _cost(run: ReportedRun) -> list[Cell]:
    about = run.about
    steps = list(_steps(run))
    training = sum(seconds for seconds, _ in steps)
    asked = [each for each in run.log if each.get("kind") == "evaluation"]
    last = run.log[-1] if run.log else {}
    metrics = run.evaluations[0].metrics
    waited = sum(seconds * share for seconds, share in steps)
    users = sum(
        seconds * float(each["users_per_s"])
        for (seconds, _), each in zip(steps, _log_of(run), strict=True)
    )
    return [
        run.name,
        about.get("seed", run.recipe.get("train.seed")),
        about.get("parameters"),
        about.get("trained"),
        last.get("step"),
        max((as_count(each["epoch"]) for each in asked), default=None),
        as_count(metrics["epoch"]) if "epoch" in metrics else None,
        training / 60 if steps else None,
        sum(float(each.get("seconds", 0)) for each in asked) / 60 if asked else None,
        users / training if training else None,
        100 * waited / training if training else None,
        _hardware(about),
        ", ".join(
            f"{name} {about[key]}"
            for name, key in (("pmm", "pmm"), ("torch", "torch"), ("Python", "python"))
            if key in about
        ),
    ]


def _log_of(run: ReportedRun) -> list[dict[str, Any]]:
    """The records of steps with a speed; of steps that were taken again after a stop, the last."""
    records = [each for each in run.log if each.get("kind") == "step" and each.get("users_per_s")]
    by_step = {int(each["step"]): each for each in records}
    return [by_step[step] for step in sorted(by_step)]


def _steps(run: ReportedRun) -> Iterator[tuple[float, float]]:
    """Seconds and share of waiting of each record of the log."""
    batch, before = int(run.recipe.get("train.batch_users", 0)), 0
    for record in _log_of(run):
        seconds = (record["step"] - before) * batch / float(record["users_per_s"])
        yield seconds, float(record.get("waiting", 0.0))
        before = record["step"]


def _hardware(about: dict[str, Any]) -> str:
    machine = about.get("hardware") or {}
    graphics = list(machine.get("accelerators") or ())
    parts = [about.get("device"), *graphics, machine.get("system")]
    parts += [f"{machine['cores']} cores"] if "cores" in machine else []
    parts += [f"{machine['threads']} threads"] if "threads" in machine else []
    return ", ".join(str(each) for each in parts if each)
