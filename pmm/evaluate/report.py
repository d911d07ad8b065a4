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
    return "\n".join([*lines, *mix_lines(metrics), *_cold_lines(metrics.get("cold_start"))])


_MIX_NAMES = {"none": "", "chosen": " (chosen on validation)", "balanced": " (balanced)"}
_MIX_PARTS = {"warm": "warm items", "cold": "cold items", "cold_cuts": "cold cuts, held out"}


def mix_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Rankings with a share of popularity beside the one without, warm and cold targets apart."""
    mixes = metrics.get("popularity_mix")
    if not mixes:
        return []
    rows = [
        [f"alpha {mix['alpha']:g}{_MIX_NAMES[name]}", 100 * mix["hr@10"], 100 * mix["ndcg@10"]]
        + [_percent(mix.get(part), "hr@10") for part in _MIX_PARTS]
        for name, mix in mixes.items()
    ]
    header = ["share of popularity", "HR@10", "NDCG@10"]
    header += [f"HR@10, {what}" for what in _MIX_PARTS.values()]
    return ["", text_table(header, rows)]


def _percent(summary: Mapping[str, Any] | None, name: str) -> float | None:
    return 100 * summary[name] if summary and name in summary else None


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
