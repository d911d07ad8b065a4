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
it. The rows of the defaults before them are in `benchmarks/claims_of_former_defaults.jsonl`.

Values are HR@10 on the test items, per cent, over the whole catalogue, ties against the model, with
the share of popularity that each run's validation items chose; where it says so, without any
(alpha 0). They are the mean of the seeds and half the width of its 95 % interval (Student's t over
seeds; the seed is that of the world, the weights and the training). In brackets the number of seeds
where it is not three; a single seed has no interval. "-" is not measured.

PMMRec is the default on frozen vectors (`model.items=vectors`), width 128 as all others, but where
it says "encoders". Every system has the options that did best in {trials} trials on HM Shoes of the
first seed, user encoder included as far as a system lets choose, and up to {steps} steps of 32
users; runs end after four of twelve evaluations without a better one.
"""

_MAIN = """
"Gain" is pre-trained less scratch, seed by seed. Cold: test items with fewer than ten training
occurrences, at alpha 0.
"""
_TRANSFERS = """
"Epochs to scratch's best": the epoch at which validation HR@10 reaches the best of the run from
scratch, over the epoch of that best; in brackets in how many seeds it does. "only text" and "only
vision" read one modality and are trained from nothing.

{pictures}
"""
_PAPER = """
With encoders whose top block trains, width 64 (their own): the default, pre-trained by next-item
prediction, and `--preset paper` with all four objectives; beside the default on vectors. None of
them was searched; the learning rates are those of the demo. Cold cuts are held-out positions that
end on an item with fewer than ten training occurrences (`docs/paper.md` R47), at alpha 0.
"""
_ABLATIONS = """
Pre-trainings of {epochs} epochs on four sources, unless said, then fine-tuning in full transfer.
"pre" is by next-item prediction alone, negatives and sequences of the own category; "all" has all
four objectives, and those below it are "all" with something left out or changed. "validation" is
the best of the pre-training, mean of the sources.
"""
_SOURCES = """
Pre-trained on one source as long as on all four above.
"""
_SYSTEMS = """
Bold is above PMMRec trained in the same way (without training: above PMMRec from scratch), bold
italics above both of PMMRec's. ° marks runs of whose seeds most were still rising when their steps
ran out. MoRec++ trains its encoders, which takes several times as long a step; all others take
about as long. kNN has no training: items that share users, items whose frozen vectors are near.
"Mean" is over the ten targets.
"""
_STRAYS = """
As section 4, with a share of all interactions in the raw files replaced by random ones (`pmm world
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
    """HR@10 on the test items, with the share of popularity that was chosen."""
    return _test(row, "hr@10")


def _test(row: Row, metric: str) -> float | None:
    """A metric on the test items, with the share of popularity that was chosen, if one was."""
    found = row.get("mix", {}).get("chosen") or row["test"]
    value: float | None = found.get(metric)
    return value


def plain_hits(row: Row) -> float | None:
    """HR@10 on the test items at alpha 0."""
    value: float | None = row["test"]["hr@10"]
    return value


def cold_hits(row: Row) -> float | None:
    """HR@10 on the cold test items at alpha 0."""
    value: float | None = row.get("items_cold", {}).get("hr@10")
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
    lines, runs = [], ("full", "tuned-pmmrec", "tuned-sasrec")
    for target in targets:
        oracle = f"oracle {target}"
        full, scratch, sasrec = (f"{slug(target)}-{run}" for run in runs)
        lines.append(
            [
                target,
                interval(rows.values(oracle, hits)),
                *(interval(rows.values(run, hits)) for run in (full, scratch, sasrec)),
                *(interval(rows.values(oracle, of_reference(n))) for n in ("popularity", "random")),
                gain(rows, full, scratch),
                share(rows, full, oracle, hits),
                share(rows, scratch, oracle, hits),
                *(interval(rows.values(run, cold_hits)) for run in (oracle, full, scratch)),
                share(rows, full, oracle, cold_hits),
            ]
        )
    names = ("oracle", "PMMRec pre-trained", "PMMRec scratch", "SASRec on ids", "popularity")
    last = ("random", "gain", "pre-trained / oracle", "scratch / oracle")
    cold = ("oracle, cold", "pre-trained, cold", "scratch, cold", "pre-trained / oracle, cold")
    return table(["target", *names, *last, *cold], lines)


def share(rows: Rows, run: str, best: str, measure: Measure) -> str:
    """Mean over seeds of a run's value in per cent of what is possible."""
    found = [
        value / whole
        for seed in rows.seeds
        if (row := rows.get(seed, run)) and (other := rows.get(seed, best))
        if (value := measure(row)) is not None and (whole := measure(other))
    ]
    return f"{mean(found):.0%}" if found else "-"


def gain(rows: Rows, run: str, other: str) -> str:
    """Interval of the difference of two runs' HR@10, over the seeds that have both."""
    pairs = [
        (hits(row), hits(base))
        for seed in rows.seeds
        if (row := rows.get(seed, run)) and (base := rows.get(seed, other))
    ]
    return interval([one - two for one, two in pairs if one is not None and two is not None])


def transfer_table(rows: Rows, targets: Sequence[str]) -> str:
    """Claim 2: the five transfers beside scratch, and how soon each reaches scratch's best."""
    names = {"scratch": "tuned-pmmrec"}
    names |= {name: name for name in ("full", "item", "user", "text", "vision")}
    names |= {"scratch, only text": "tuned-text", "scratch, only vision": "tuned-vision"}
    lines = []
    for label, name in names.items():
        line = [label]
        for target in targets:
            run, other = f"{slug(target)}-{name}", f"{slug(target)}-tuned-pmmrec"
            line += [interval(rows.values(run, hits)), reach(rows, run, other)]
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


def paper_table(rows: Rows, targets: Sequence[str]) -> str:
    """Claim 3: the default on vectors and with encoders, and the preset `paper`."""
    names = {
        "vectors, pre-trained": "full",
        "vectors, scratch": "tuned-pmmrec",
        "encoders, pre-trained": "encoders-full",
        "encoders, scratch": "encoders",
        "`paper`, pre-trained": "paper-full",
        "`paper`, scratch": "paper",
    }
    lines = []
    for label, name in names.items():
        cells = [
            interval(rows.values(f"{slug(each)}-{name}", measure))
            for each in targets
            for measure in (hits, plain_hits, of_held_out("model"))
        ]
        lines.append([label, *cells])
    header = [f"{t}, {what}" for t in targets for what in ("chosen", "alpha 0", "cold cuts")]
    return table(["PMMRec", *header], lines)


def ablation_table(rows: Rows, targets: Sequence[str], names: Sequence[str]) -> str:
    """Claim 4: pre-training without one of its parts, then the same fine-tuning."""
    scratch = [interval(rows.values(f"{slug(each)}-tuned-pmmrec", hits)) for each in targets]
    lines = [["scratch", "", *scratch]]
    for label, before, after in [
        ("pre", "pre", "full"),
        *((n, f"pre-{n}", f"from-{n}") for n in names),
    ]:
        best = rows.values(before, lambda row: max(value for _, value in row["valid"]))
        cells = [interval(rows.values(f"{slug(each)}-{after}", hits)) for each in targets]
        lines.append([label, interval(best), *cells])
    return table(["pre-training", "validation", *targets], lines)


def strays_table(rows: Rows, targets: Sequence[str], strays: Sequence[int]) -> str:
    """Claim 4: robustness, all objectives of pre-training beside the next item alone."""
    lines = []
    for percent in (0, *strays):
        runs = {name: f"strays-{percent}-from-{name}" for name in ("all", "dap")}
        if not percent:
            runs = {"all": "from-all", "dap": "full"}
        cells = [
            interval(rows.values(f"{slug(each)}-{runs[name]}", hits))
            for each in targets
            for name in ("all", "dap")
        ]
        lines.append([f"{percent} %", *cells])
    header = [f"{each}, {name}" for each in targets for name in ("all objectives", "DAP alone")]
    return table(["noise", *header], lines)


def sources_table(rows: Rows, targets: Sequence[str], sources: Sequence[str]) -> str:
    """Claim 5: from each source alone to each target."""
    lines = []
    names = ("tuned-pmmrec", "full", *(f"from-{source.lower()}" for source in sources))
    for target in targets:
        cells = [interval(rows.values(f"{slug(target)}-{name}", hits)) for name in names]
        lines.append([target, *cells])
    header = ["target", "scratch", "from all", *(f"from {source}" for source in sources)]
    return table(header, lines)


def of_warm(metric: str) -> Callable[[str], Measure]:
    """A metric on the test items: of the model with the share of popularity that it chose, or of
    what stands beside it in its row."""

    def of(name: str) -> Measure:
        return lambda row: _test(row, metric) if name == "model" else row.get(name, {}).get(metric)

    return of


def of_plain(name: str) -> Measure:
    """HR@10 on the test items at alpha 0, as `of_warm`."""
    return lambda row: row["test"]["hr@10"] if name == "model" else row.get(name, {}).get("hr@10")


def of_held_out(name: str) -> Measure:
    """HR@10 on held-out cold cuts at alpha 0, of the model or of what stands beside it; None of an
    oracle."""
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
    shown: list[str] = []
    for target in targets if rows.seeds else ():
        found = {
            name: [
                {"kind": "evaluation", "epoch": epoch, "hr@10": value}
                for epoch, value in row["valid"]
            ]
            for name in ("full", "item", "user", "text", "vision", "tuned-pmmrec")
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
    how: Mapping[str, int],
    page: Path = PAGE,
) -> None:
    """Write the page anew, with what is measured so far; `how` is what its sentences say."""
    known = Rows(rows)
    parts = [
        HEAD.format(**how),
        "## 1. Every target",
        _MAIN,
        main_table(known, targets),
        "\n## 2. The five transfers beside scratch",
        _TRANSFERS.format(pictures="\n".join(draw_curves(known, shown, page.parent))),
        transfer_table(known, shown),
        "\n## 3. Encoders that train, and `paper`",
        _PAPER,
        paper_table(known, shown),
        "\n## 4. Ablations of the pre-training",
        _ABLATIONS.format(**how),
        ablation_table(known, shown, ablations),
        "\n## 5. One source, one target",
        _SOURCES,
        sources_table(known, targets, sources),
        "\n## 6. Every system",
        _SYSTEMS,
        "HR@10 on the test items, with the chosen share of popularity:\n",
        systems_table(known, targets, systems),
        "\nThe same at alpha 0:\n",
        systems_table(known, targets, systems, of_plain),
        "\nHR@10 on held-out cuts that end on a cold item, at alpha 0:\n",
        systems_table(known, targets, systems, of_held_out),
        "\nNDCG@10, with the chosen share:\n",
        systems_table(known, targets, systems, of_warm("ndcg@10")),
        "\n## 7. Noise",
        _STRAYS,
        strays_table(known, shown, strays),
    ]
    with atomic_file(page) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
