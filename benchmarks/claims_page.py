"""docs/claims.md: the tables of the claims, made from their rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pmm.storage.artefact import atomic_file
from pmm.storage.home import slug
from pmm.train.curves import draw_validation

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "claims.md"

Row = Mapping[str, Any]
Measure = Callable[[Row], float | None]

NAMES = {
    "morec": "MoRec++",
    "sasrec": "SASRec",
    "gru4rec": "GRURec",
    "nextitnet": "NextItNet",
    "fdsa": "FDSA",
    "carca": "CARCA++",
    "unisrec": "UniSRec",
    "vqrec": "VQ-Rec",
    "peterrec": "PeterRec",
}
"""What the paper calls the models beside PMMRec."""

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5 % for so many seeds: half the width of a 95 % interval in standard errors."""

HEAD = """# The claims of the paper, on the embedded world

Made by `python -m benchmarks.claims --home DIR` from the rows of `benchmarks/claims.jsonl`, which
hold the command, the commit and the validation curve of every run. `docs/log.md` says how to read
it.

Values are HR@10 on the test items, per cent, over the whole catalogue, ties against the model: the
mean of the seeds and half the width of its 95 % interval (Student's t over seeds; the seed is that
of the world, the weights and the training). In brackets the number of seeds where it is not three;
a single seed has no interval. "-" is not measured.
"""

_MAIN = """
"Gain" is pre-trained less scratch, seed by seed. "Epochs to scratch's best" here and below: the
epoch at which validation HR@10 reaches the best of the run from scratch, over the epoch of that
best; in brackets in how many seeds it does.
"""
_TRANSFERS = """
Runs named scratch-text and scratch-vision read one modality and start from the public encoder.

{pictures}
"""
_COLD = """
Cuts of held-out positions that end on an item with fewer than ten training occurrences
(`docs/paper.md` R47).
"""
_ABLATIONS = """
Short pre-trainings on four sources, then a short fine-tuning in full transfer; "scratch" is as
short, without pre-training. Not to be compared with the longer runs above.
"""
_SOURCES = """
Pre-training and fine-tuning as short as in 4.
"""
_SYSTEMS = """
Every system from scratch with the options that did best in six trials on HM Shoes of the first
seed, and those that transfer, pre-trained and fine-tuned with their defaults; PMMRec pre-trained is
that of 1. On a target PMMRec trains on the next item alone, from scratch as in the paper's
fine-tuning (III-E); its further objectives are in pre-training. Bold is above PMMRec trained in the
same way (without training: above PMMRec from scratch), bold italics above both of PMMRec's. PMMRec
and MoRec++ train for 600 steps, the others for up to 1,200, which takes about as long; all end
after four evaluations of twelve without a better one. ° marks runs of whose seeds most were still
rising when their steps ran out. kNN has no training: items that share users, items whose frozen
vectors are near. "Mean" is over the ten targets.
"""
_STRAYS = """
The same with a share of all interactions in the raw files replaced by random ones (`pmm world
--strays`), the test items too, so that every value falls.
"""


class Rows:
    """The rows by what was run."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by = {(row["seed"], row["run"]): row for row in rows}
        self.seeds = sorted({seed for seed, _ in self._by})

    def get(self, seed: int, run: str) -> Row | None:
        """A row, or None where it is not measured."""
        return self._by.get((seed, run))

    def values(self, run: str, measure: Measure) -> list[float]:
        """What is measured of a run, over the seeds that have it."""
        found = (measure(row) for seed in self.seeds if (row := self.get(seed, run)))
        return [value for value in found if value is not None]

    def rising(self, run: str) -> bool:
        """Whether in most seeds no evaluation was better than the last."""
        found = [row.get("valid") for seed in self.seeds if (row := self.get(seed, run))]
        last: list[bool] = [max(valid, key=lambda e: e[1]) == valid[-1] for valid in found if valid]
        return 2 * sum(last) > len(last)


def interval(values: Sequence[float]) -> str:
    """Mean and half the width of its 95 % interval, fractions as per cent.

    >>> interval([0.2, 0.3, 0.4]), interval([0.2]), interval([])
    ('30.00 ± 24.84', '20.00 (1)', '-')
    """
    if not values:
        return "-"
    text = f"{100 * mean(values):.2f}"
    if len(values) > 1:
        half = T_975[len(values)] * stdev(values) / math.sqrt(len(values))
        text += f" ± {100 * half:.2f}"
    return text if len(values) == 3 else f"{text} ({len(values)})"


def hits(row: Row) -> float | None:
    """HR@10 on the test items."""
    value: float | None = row["test"]["hr@10"]
    return value


def of_reference(name: str) -> Measure:
    """HR@10 of popularity or chance, from the row of a target's oracle."""
    return lambda row: row[name]["hr@10"]


def of_cold(name: str = "model") -> Measure:
    """HR@10 on the held-out cuts that end on a cold item."""
    return lambda row: row["cold_start"]["held_out"][name].get("hr@10")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main_table(rows: Rows, targets: Sequence[str]) -> str:
    """Claim 1: every target, from the oracle down to chance."""
    lines, runs = [], ("full", "scratch", "sasrec")
    for target in targets:
        oracle = f"oracle {target}"
        shares = [
            row["test"]["hr@10"] / best["test"]["hr@10"]
            for seed in rows.seeds
            if (row := rows.get(seed, f"{slug(target)}-full")) and (best := rows.get(seed, oracle))
        ]
        lines.append(
            [
                target,
                interval(rows.values(oracle, hits)),
                *(interval(rows.values(f"{slug(target)}-{run}", hits)) for run in runs),
                *(interval(rows.values(oracle, of_reference(n))) for n in ("popularity", "random")),
                gain(rows, f"{slug(target)}-full", f"{slug(target)}-scratch"),
                f"{mean(shares):.0%}" if shares else "-",
                reach(rows, f"{slug(target)}-full", f"{slug(target)}-scratch"),
            ]
        )
    names = ("oracle", "PMMRec pre-trained", "PMMRec scratch", "SASRec on ids", "popularity")
    last = ("random", "gain", "pre-trained / oracle", "epochs to scratch's best")
    return table(["target", *names, *last], lines)


def gain(rows: Rows, run: str, other: str) -> str:
    """Interval of the difference of two runs' HR@10, over the seeds that have both."""
    pairs = [
        (row["test"]["hr@10"], base["test"]["hr@10"])
        for seed in rows.seeds
        if (row := rows.get(seed, run)) and (base := rows.get(seed, other))
    ]
    return interval([one - two for one, two in pairs])


def transfer_table(rows: Rows, targets: Sequence[str]) -> str:
    """Claim 2: the five transfers beside scratch, and how soon each reaches scratch's best."""
    transfers = ("scratch", "full", "item", "user", "text", "vision")
    names = (*transfers, "scratch-text", "scratch-vision", "scratch-logq-off")
    lines = []
    for name in names:
        line = [name]
        for target in targets:
            run = f"{slug(target)}-{name}"
            line += [interval(rows.values(run, hits)), reach(rows, run, f"{slug(target)}-scratch")]
        lines.append(line)
    header = [part for each in targets for part in (each, "epochs to scratch's best")]
    return table(["run", *header], lines)


def reach(rows: Rows, run: str, other: str) -> str:
    """How soon a run's validation reaches another one's best, over the seeds that have both."""
    pairs = [
        (row, base)
        for seed in rows.seeds
        if (row := rows.get(seed, run)) and (base := rows.get(seed, other))
    ]
    found = [epochs_to_reach(row, base) for row, base in pairs]
    reached = [fraction for fraction in found if fraction is not None]
    if not pairs:
        return "-"
    return f"{mean(reached):.2f} ({len(reached)} of {len(found)})" if reached else "never"


def epochs_to_reach(row: Row, base: Row) -> float | None:
    """The epoch at which a run's validation reaches the best of another, over that one's epoch.

    None where it never does.

    >>> epochs_to_reach({"valid": [[1, 0.1], [2, 0.3]]}, {"valid": [[2, 0.1], [4, 0.3], [6, 0.2]]})
    0.5
    """
    best = max(value for _, value in base["valid"])
    when = next(epoch for epoch, value in base["valid"] if value == best)
    reached = next((epoch for epoch, value in row["valid"] if value >= best), None)
    return None if reached is None else float(reached / when)


def cold_table(rows: Rows, targets: Sequence[str]) -> str:
    """Claim 3: cuts that end on an item with fewer than ten training occurrences."""
    names = {
        "PMMRec pre-trained": "full",
        "PMMRec scratch": "scratch",
        "scratch, logQ off": "scratch-logq-off",
        "text only": "scratch-text",
        "vision only": "scratch-vision",
        "SASRec on ids": "sasrec",
    }
    lines = []
    for target in targets:
        cells = [interval(rows.values(f"{slug(target)}-{r}", of_cold())) for r in names.values()]
        cells += [
            interval(rows.values(f"{slug(target)}-scratch", of_cold(name)))
            for name in ("popularity", "random")
        ]
        lines.append([target, *cells])
    return table(["target", *names, "popularity", "random"], lines)


def ablation_table(rows: Rows, targets: Sequence[str], names: Sequence[str]) -> str:
    """Claim 4: pre-training without one of its parts, then the same fine-tuning."""
    scratch = [interval(rows.values(f"{slug(each)}-scratch-short", hits)) for each in targets]
    lines = [["scratch", "", *scratch]]
    for name in names:
        best = rows.values(f"pre-{name}", lambda row: max(value for _, value in row["valid"]))
        cells = [interval(rows.values(f"{slug(each)}-from-{name}", hits)) for each in targets]
        lines.append([name, interval(best), *cells])
    return table(["pre-training", "validation, mean of sources", *targets], lines)


def strays_table(rows: Rows, targets: Sequence[str], strays: Sequence[int]) -> str:
    """Claim 4: robustness, all objectives of pre-training beside the next item alone."""
    lines = []
    for percent in (0, *strays):
        mark = f"strays-{percent}-" if percent else ""
        cells = [
            interval(rows.values(f"{slug(each)}-{mark}from-{name}", hits))
            for each in targets
            for name in ("all", "dap")
        ]
        lines.append([f"{percent} %", *cells])
    header = [f"{each}, {name}" for each in targets for name in ("all objectives", "DAP alone")]
    return table(["noise", *header], lines)


def sources_table(rows: Rows, targets: Sequence[str], sources: Sequence[str]) -> str:
    """Claim 5: from each source alone to each target."""
    lines = []
    names = ("scratch-short", *(f"from-{source.lower()}" for source in sources))
    for target in targets:
        cells = [interval(rows.values(f"{slug(target)}-{name}", hits)) for name in names]
        lines.append([target, *cells])
    return table(["target", "scratch", *(f"from {source}" for source in sources)], lines)


def of_warm(metric: str) -> Callable[[str], Measure]:
    """A metric on the test items: of the model, or of what stands beside it in its row."""

    def of(name: str) -> Measure:
        return lambda row: (row["test"] if name == "model" else row.get(name, {})).get(metric)

    return of


def of_held_out(name: str) -> Measure:
    """HR@10 on held-out cold cuts, of the model or of what stands beside it; None of an oracle."""
    return lambda row: row.get("cold_start", {}).get("held_out", {}).get(name, {}).get("hr@10")


def systems_table(
    rows: Rows,
    targets: Sequence[str],
    systems: Sequence[str],
    of: Callable[[str], Measure] | None = None,
) -> str:
    """Claim 6: all systems on all targets, and the mean over targets where all are measured.

    Bold is above PMMRec trained in the same way, bold italics above both of PMMRec's. A degree sign
    marks what was still rising in most seeds.

    Args:
        rows: of all runs.
        targets: the columns.
        systems: as `--model` names them.
        of: what is shown of the model, and of a ranker without training; HR@10 on test items.
    """
    of = of or of_warm("hr@10")

    def values(run: str, name: str = "model") -> list[list[float]]:
        return [rows.values(_on_target(run, target), of(name)) for target in targets]

    scratch, transferred = (_averages(values(run)) for run in ("{}-tuned-pmmrec", "{}-full"))
    others = [name for name in systems if name != "pmmrec"]
    shown = [("oracle", "oracle {}", "model")]
    shown += [("PMMRec, pre-trained", "{}-full", "model"), ("PMMRec", "{}-tuned-pmmrec", "model")]
    shown += [(f"{NAMES[name]}, pre-trained", f"{{}}-{name}-full", "model") for name in others]
    shown += [(NAMES[name], f"{{}}-tuned-{name}", "model") for name in others]
    shown += [(name, "{}-tuned-carca", name) for name in ("item kNN", "content kNN")]
    of_popularity = (
        run for run in ("oracle {}", "{}-tuned-carca") if any(values(run, "popularity"))
    )
    shown += [("popularity", run, "popularity") for run in islice(of_popularity, 1)]
    lines = []
    for label, run, name in shown:
        found = values(run, name)
        if not any(found):
            continue
        cells = [interval(each) for each in found]
        if name == "model":
            rising = [rows.rising(_on_target(run, target)) for target in targets]
            cells = [cell + "°" * each for cell, each in zip(cells, rising, strict=True)]
        averages = _averages(found)
        cells.append("-" if averages[-1] is None else f"{100 * averages[-1]:.2f}")
        if not label.startswith(("oracle", "PMMRec")):
            alike = transferred if label.endswith("pre-trained") else scratch
            cells = list(map(_emphasised, cells, averages, alike, scratch, transferred))
        lines.append([label, *cells])
    return table(["system", *targets, "mean"], lines)


def _on_target(run: str, target: str) -> str:
    """A run's name on a target; an oracle's has the target's name as it is."""
    return run.format(target if run.startswith("oracle") else slug(target))


def _averages(found: Sequence[Sequence[float]]) -> list[float | None]:
    """The mean over seeds of each target, then over all targets; None where one is missing."""
    each = [mean(values) if values else None for values in found]
    known = [value for value in each if value is not None]
    return [*each, mean(known) if known and len(known) == len(each) else None]


def _emphasised(
    cell: str,
    value: float | None,
    alike: float | None,
    scratch: float | None,
    transferred: float | None,
) -> str:
    """Bold above PMMRec trained alike, bold italics above PMMRec however trained.

    >>> _emphasised("x", 0.3, 0.2, 0.2, 0.4), _emphasised("x", 0.3, None, None, 0.2)
    ('**x**', '***x***')
    """
    ours = [each for each in (scratch, transferred) if each is not None]
    if value is None or not ours:
        return cell
    if value > max(ours):
        return f"***{cell}***"
    return f"**{cell}**" if alike is not None and value > alike else cell


def draw_curves(rows: Rows, targets: Sequence[str], folder: Path) -> list[str]:
    """Validation by epoch of the transfers beside scratch, of the first seed (the paper's Fig. 3).

    Returns:
        the pictures as Markdown.
    """
    shown = []
    for target in targets:
        found = {
            name: [
                {"kind": "evaluation", "epoch": epoch, "hr@10": value}
                for epoch, value in row["valid"]
            ]
            for name in ("full", "item", "user", "text", "vision", "scratch")
            if (row := rows.get(rows.seeds[0], f"{slug(target)}-{name}"))
        }
        if len(found) > 1:
            path = folder / f"claims-{slug(target)}.png"
            draw_validation(found, path, title=f"{target}, seed {rows.seeds[0]}")
            shown.append(f"![Validation by epoch on {target}]({path.name})")
    return shown


def write_page(
    rows: Sequence[Row],
    *,
    targets: Sequence[str],
    shown: Sequence[str],
    ablations: Sequence[str],
    strays: Sequence[int],
    sources: Sequence[str],
    systems: Sequence[str],
    page: Path = PAGE,
) -> None:
    """Write the page anew, with what is measured so far."""
    known = Rows(rows)
    parts = [
        HEAD,
        "## 1. Every target",
        _MAIN,
        main_table(known, targets),
        "\n## 2. The five transfers beside scratch",
        _TRANSFERS.format(pictures="\n".join(draw_curves(known, shown, page.parent))),
        transfer_table(known, shown),
        "\n## 3. Cold items",
        _COLD,
        cold_table(known, targets),
        "\n## 4. Ablations",
        _ABLATIONS,
        ablation_table(known, shown, ablations),
        _STRAYS,
        strays_table(known, shown, strays),
        "\n## 5. One source, one target",
        _SOURCES,
        sources_table(known, targets, sources),
        "\n## 6. Every system",
        _SYSTEMS,
        "HR@10 on the test items:\n",
        systems_table(known, targets, systems),
        "\nNDCG@10:\n",
        systems_table(known, targets, systems, of_warm("ndcg@10")),
        "\nHR@10 on held-out cuts that end on a cold item:\n",
        systems_table(known, targets, systems, of_held_out),
    ]
    with atomic_file(page) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
