"""The model card of a bundle: what it is, of what it was made, how good it is, how to use it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.bundle.layout import PICTURES, USERS, BundleHeader
from pmm.evaluate.metrics import hit_rate, ndcg
from pmm.shards.hub import UNKNOWN

CUTOFF = 10
DRAWS, LEVEL = 2_000, 0.95
"""Bootstrap samples of an interval, and what share of them it holds."""

RanksOf = Mapping[str, NDArray[np.int32]]
"""What was ranked ("all users", "cold items") -> the rank of each true next item."""


def write_card(
    path: Path, header: BundleHeader, *, data: Mapping[str, Any], ranks: RanksOf, command: str
) -> None:
    """Write README.md, which model hubs show.

    Args:
        path: of the file.
        header: of the bundle.
        data: what `_data` has rows of: name -> value.
        ranks: of the evaluation, as far as there are any.
        command: that made the bundle.
    """
    parts = [
        _front(header),
        _intro(header),
        _use(header),
        _table("Data and split", ["", ""], [[name, str(value)] for name, value in data.items()]),
        _quality(ranks),
        _encoders(header),
        _limits(header),
        f"## Made by\n\npmm {header.pmm}: `{command}`\n",
    ]
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _front(header: BundleHeader) -> str:
    """The head that model hubs read."""
    tags = dict.fromkeys(["recommendation", "sequential-recommendation", "pmmrec", header.model])
    lines = ["---", "library_name: pmmrec", "license: other", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---", ""])


def _intro(header: BundleHeader) -> str:
    knows = {
        "both": "by its text and picture",
        "text": "by its text",
        "vision": "by its picture",
        "none": "by its id alone",
    }[header.content]
    new = (
        f"It takes no new items: {header.cannot_add}."
        if header.cannot_add
        else "It recommends items that training never saw, from their content alone."
    )
    return (
        f"# {plain(header.name)}\n\nA recommender ({header.model}) of {header.items:,} items of "
        f"{plain(header.target)}. It reads the last {header.max_length} items of a history and "
        f"knows an item {knows}. {new}\n"
    )


def _use(header: BundleHeader) -> str:
    return (
        "## How to load it\n\n```python\nimport pmm\n\n"
        'model = pmm.load("this-folder")\n'
        'model.recommend(["an item id", "a later one"], k=10)  # [(item id, score), ...]\n'
        "```\n\n`pip install pmmrec` brings `pmm`. The folder stands alone: no home folder, no "
        "shards, no model hub. Every file is compared with `SHA256SUMS` when it is opened "
        "(`sha256sum --check SHA256SUMS` does so by hand); none of them is run, and there is no "
        "pickle." + (" With ONNX it also answers without torch." if header.onnx else "") + "\n"
    )


def _quality(ranks: RanksOf) -> str:
    if not ranks:
        return "## Quality\n\nThe run was not evaluated before it was exported.\n"
    rows = []
    for name, rank_Q in ranks.items():
        measured = (hit_rate, ndcg)
        rows.append(
            [name, f"{len(rank_Q):,}", *(_with_interval(rank_Q, each) for each in measured)]
        )
    heads = ["ranked", "questions", f"HR@{CUTOFF}", f"NDCG@{CUTOFF}"]
    return _table("Quality", heads, rows) + (
        "\nPercent, by the whole catalogue, with 95% bootstrap intervals over questions. Ties "
        "count against the model; items that a user had before are not candidates. `metrics.json` "
        "has all measures, popularity and chance beside them.\n"
    )


def _with_interval(rank_Q: NDArray[np.int32], of: Any) -> str:
    """A mean of the questions and its interval, percent."""
    gain_Q = np.zeros(int(rank_Q.max(initial=1)) + 1)
    for rank in range(1, min(CUTOFF, len(gain_Q) - 1) + 1):
        gain_Q[rank] = of(np.array([rank]), CUTOFF)
    counts = np.bincount(rank_Q, minlength=len(gain_Q))
    drawn = np.random.default_rng(0).multinomial(len(rank_Q), counts / len(rank_Q), size=DRAWS)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn @ gain_Q / len(rank_Q), [tail, 100 - tail])
    return f"{100 * of(rank_Q, CUTOFF):.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _encoders(header: BundleHeader) -> str:
    if not header.encoders:
        return ""
    rows = [[e.side, plain(e.source), e.library, plain(e.license)] for e in header.encoders]
    unknown = [e.side for e in header.encoders if e.license == UNKNOWN]
    note = "\nTheir weights, as the training left them, are part of this folder.\n"
    if unknown:
        note += (
            f"The licence of the {' and the '.join(unknown)} encoder is not known here: look it up "
            "before you pass this folder on.\n"
        )
    return _table("Encoders", ["", "source", "library", "licence"], rows) + note


def _limits(header: BundleHeader) -> str:
    held = []
    if header.pictures:
        held.append(f"- `{PICTURES}` holds small copies of {header.pictures:,} pictures of items.")
    if header.users:
        held.append(
            f"- `{USERS}` holds the ids and histories of {header.users:,} test users, by which a "
            "server checks itself. They are personal data where ids can be traced: export with "
            "`--test-users 0` to pass the folder on without them."
        )
    held.append("- Texts, categories and training counts of all items.")
    return "## What else is in it\n\n" + "\n".join(held) + "\n"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    lines += [" | ".join(plain(cell) for cell in row) for row in rows]
    return f"## {title}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"


def plain(text: str) -> str:
    r"""A text as one cell of Markdown, of which no reader makes markup.

    >>> print(plain("a|b <i>"))
    a\|b &lt;i>
    """
    one = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", one)
