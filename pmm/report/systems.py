"""Runs as the rows of tables: those that differ in the seed alone are one system."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pmm.evaluate.metrics import CUTOFFS
from pmm.report.reported_run import Evaluation, ReportedRun
from pmm.statistics.over_seeds import Spread, over_seeds

MEASURES = tuple(f"{kind}@{k}" for kind in ("hr", "ndcg") for k in CUTOFFS)
SHARES = ("none", "chosen", "balanced")
"""Shares of popularity, as metrics.json names them."""


@dataclass(frozen=True, kw_only=True)
class System:
    """The seeds of one system on one target."""

    name: str
    style: int
    """Of its lines in charts."""
    runs: Sequence[tuple[ReportedRun, Evaluation]]

    @property
    def target(self) -> str:
        """The dataset that was ranked."""
        return self.runs[0][1].target

    @property
    def seeds(self) -> int:
        """How many runs it has."""
        return len(self.runs)

    def shares(self) -> list[str]:
        """The shares of popularity with which every run was ranked; "none" is always there."""
        mixes = [each.metrics.get("popularity_mix") or {} for _, each in self.runs]
        return [n for n in SHARES if n == "none" or all(n in mix for mix in mixes)]

    def alpha(self, share: str) -> str:
        """A share in words, with the number of each run."""
        mixes = [each.metrics.get("popularity_mix") or {} for _, each in self.runs]
        alphas = sorted({mix[share]["alpha"] if share in mix else 0.0 for mix in mixes})
        values = ", ".join(f"{each:g}" for each in alphas)
        return f"alpha {values}" + ("" if share == "none" else f" ({share})")


def systems_by_target(runs: Sequence[ReportedRun]) -> dict[str, list[System]]:
    """Target -> its systems, both in the order in which the runs were given.

    A target that was made anew between two runs asks other questions: it stands there twice.
    """
    found: dict[tuple[str, str], dict[Any, list[tuple[ReportedRun, Evaluation]]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            asked = (evaluation.target, evaluation.questions)
            same = found.setdefault(asked, {}).setdefault(run.system, [])
            same.append((run, evaluation))
    versions = Counter[str]()
    named = {}
    for (target, _), groups in found.items():
        versions[target] += 1
        again = f", version {versions[target]} of its data" if versions[target] > 1 else ""
        named[f"{target}{again}"] = [
            System(name=_name([run.name for run, _ in each]), style=k, runs=each)
            for k, each in enumerate(groups.values())
        ]
    return named


def _name(names: Sequence[str]) -> str:
    """What several seeds share in their names; the first name where that is not plain.

    >>> _name(["a-seed-0", "a-seed-1"]), _name(["a"]), _name(["x", "y"])
    ('a', 'a', 'x')
    """
    if len(names) == 1:
        return names[0]
    bare = {re.sub(r"-?(?:seed-?)?\d+$", "", each) for each in names}
    only = bare.pop()
    return only if only and not bare else names[0]


def per_cent(summaries: Sequence[Mapping[str, Any] | None], measure: str) -> Spread | None:
    """A metric over seeds, times 100 as in the paper; None where a run lacks it."""
    values = [100 * each[measure] for each in summaries if each and measure in each]
    return over_seeds(values) if values and len(values) == len(summaries) else None


def measures_of(summaries: Sequence[Mapping[str, Any] | None]) -> list[Spread | None]:
    """All metrics over seeds, in the order of MEASURES."""
    return [per_cent(summaries, each) for each in MEASURES]


def users_of(summaries: Sequence[Mapping[str, Any] | None]) -> int | None:
    """How many users were measured; of cold items and the like all seeds have the same."""
    found = [int(each["users"]) for each in summaries if each and "users" in each]
    return found[0] if found else None


def picked(
    system: System, pick: Callable[..., Mapping[str, Any] | None], *how: str
) -> list[Mapping[str, Any] | None]:
    """Something of each run's evaluation: what `pick` finds of it and of the words behind."""
    return [pick(evaluation, *how) for _, evaluation in system.runs]
