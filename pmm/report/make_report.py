"""Runs -> a report: a part a target, then what is said of all runs."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pmm.errors import PmmError
from pmm.report.data_sections import data_card, leak_audit
from pmm.report.report_blocks import Part, RunReport, Section
from pmm.report.reported_run import ReportedRun
from pmm.report.result_sections import (
    by_history,
    by_popularity,
    curves,
    new_and_repeated,
    results,
    warm_and_cold,
)
from pmm.report.run_sections import costs, recipes
from pmm.report.slices import by_length, by_occurrences, history_lengths, repeated_targets
from pmm.report.systems import System, systems_by_target
from pmm.report.user_rows import GalleryWish, galleries
from pmm.shards.kinds import Split
from pmm.storage.schemas import SEQUENCES, read_table


def make_report(
    runs: Sequence[ReportedRun],
    *,
    users: int,
    split: Split,
    device: str = "auto",
    audit: bool = False,
) -> tuple[RunReport, int]:
    """The report of runs, and how many targets it is about.

    Args:
        runs: at least one.
        users: best and worst users to show of a run; with 0 no model is loaded.
        split: whose evaluations these are.
        device: where models run.
        audit: whether each target is audited, too.
    """
    wish = GalleryWish(users=users, split=split, device=device)
    targets = systems_by_target(runs)
    parts = [
        Part(target, list(_sections(systems, wish, audit=audit)))
        for target, systems in targets.items()
    ]
    parts.append(Part("The runs", [recipes(runs), costs(runs)]))
    names = ", ".join(run.name for run in runs)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs on {', '.join(targets)}"
    about = f"The {split} items of {', '.join(targets)}, ranked by {names}."
    return RunReport(title=title, about=about, parts=parts), len(targets)


def _sections(systems: Sequence[System], wish: GalleryWish, *, audit: bool) -> Iterator[Section]:
    run, evaluation = systems[0].runs[0]
    ranks = evaluation.ranks["none"]
    yield results(systems)
    yield curves(systems)
    yield by_popularity(systems, by_occurrences(ranks))
    sequences = _sequences(run, evaluation.target, ranks, wish.split)
    if sequences is None:
        why = (
            f"The tables of {evaluation.target} are not there, or are others than those of the "
            "evaluation, so lengths of histories and repeats are not known."
        )
        yield Section("By length of the history", [why])
    else:
        yield by_history(systems, by_length(history_lengths(sequences, wish.split)))
        repeated_U = repeated_targets(sequences, wish.split)
        yield new_and_repeated(systems, {"new": ~repeated_U, "repeated": repeated_U})
    yield warm_and_cold(systems)
    if wish.users:
        yield galleries(systems, wish)
    yield data_card(run.home, evaluation.target)
    yield leak_audit(run.home, evaluation.target, asked=audit)


def _sequences(run: ReportedRun, target: str, ranks: pa.Table, split: Split) -> pa.Table | None:
    """The target's sequences, if they ask what was ranked."""
    try:
        found = read_table(run.home.target(target) / "sequences.parquet", SEQUENCES)
    except (PmmError, OSError):
        return None
    same = found.num_rows == ranks.num_rows and found[split].equals(ranks["target"])
    return found if same else None
