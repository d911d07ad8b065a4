"""Metrics as a table that a person reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from pmm.evaluate.metrics import CUTOFFS
from pmm.text_table import text_table

MEASURES = tuple(f"{kind}@{k}" for kind in ("hr", "ndcg") for k in CUTOFFS)


def rankings_table(metrics: Mapping[str, Any], rankings: Mapping[str, Mapping[str, Any]]) -> str:
    """Several rankings of the same users, times 100 as in the paper.

    Args:
        metrics: the content of metrics.json, of any of them.
        rankings: name -> summary.
    """
    rows = [[name, *_row(summary)] for name, summary in rankings.items()]
    return "\n".join([*_heading(metrics), _table("", rows)])


RANKED = ("model", "item kNN", "content kNN", "popularity", "random")
"""What stands in a table, in this order; the neighbours only where they were asked for."""


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """What `evaluate_run` returns, times 100 as in the paper.

    Args:
        metrics: the content of metrics.json.
    """
    named = {name: metrics[name] for name in RANKED if name in metrics}
    rows = [[name, *_row(summary)] for name, summary in named.items()]
    if metrics["repeated_targets"]:
        fresh = metrics["users"] - metrics["repeated_targets"]
        rows.append([f"of them the {fresh:,} whose item is new to the user:", *_row({})])
        rows += [[f"  {name}", *_row(summary["new"])] for name, summary in named.items()]
    lines = [
        *_heading(metrics),
        _table("", rows),
        "",
        text_table(
            ["model, target seen in training", "users", *(name.upper() for name in MEASURES)],
            [
                [f"{bucket['train_count']} times", bucket["users"], *_row(bucket)]
                for bucket in metrics["model"]["buckets"]
            ],
        ),
    ]
    return "\n".join([*lines, *_cold_lines(metrics.get("cold_start"))])


def _heading(metrics: Mapping[str, Any]) -> list[str]:
    return [
        f"{metrics['target']}, {metrics['split']} items of {metrics['users']:,} users, "
        f"all {metrics['items']:,} items ranked",
        "",
    ]


def _table(first: str, rows: Sequence[Sequence[Any]]) -> str:
    return text_table([first, *(name.upper() for name in MEASURES)], rows)


def _cold_lines(cold: Mapping[str, Any] | None) -> list[str]:
    """The cold cuts: held out first, then the paper's set."""
    if cold is None:
        return []
    rows = []
    for name, what in (("held_out", "held out"), ("all", "all (paper)")):
        rows += [
            [f"{ranking}, {what}", summary["users"], *_row(summary)]
            for ranking, summary in cold[name].items()
        ]
    title = f"cuts that end on one of {cold['items']:,} cold items"
    return ["", text_table([title, "cuts", *(name.upper() for name in MEASURES)], rows)]


def _row(summary: Mapping[str, Any]) -> list[float | None]:
    return [100 * summary[name] if name in summary else None for name in MEASURES]
