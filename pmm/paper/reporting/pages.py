"""A report as HTML, Markdown and CSV. Each page holds its facts as JSON, for `pmm paper verify`."""

import csv
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pmm.advice import command
from pmm.paper.reporting.curve_plot import curve_svg
from pmm.statistics.over_seeds import interval_text

BEGIN, END = "pmm-paper-facts:", ":end-of-facts"
"""Around the facts in a page."""
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;margin:2rem auto;max-width:90rem;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse}
.wide{overflow-x:auto}th,td{padding:.3rem .55rem;border-bottom:1px solid #d8dee6;text-align:right;
vertical-align:top;white-space:nowrap}th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid #8a94a0;cursor:pointer;white-space:normal}
.paper,.diff{display:block;color:#5b6672;font-size:.85em}.diff{font-style:italic}p{max-width:60rem}
code{font-size:.85em;overflow-wrap:anywhere}.runs td{text-align:left;white-space:normal}
a{color:#2b6cb0;text-decoration:none}@media print{thead th{cursor:auto}a{color:inherit}}
""".strip()
_SCRIPT = """
for (const table of document.querySelectorAll("table.sort"))
  table.tHead.rows[0].querySelectorAll("th").forEach((head, k) => head.onclick = () => {
    const body = table.tBodies[0], down = head.dataset.down = head.dataset.down === "1" ? "0" : "1";
    const of = row => row.cells[k].dataset.value ?? row.cells[k].textContent;
    [...body.rows].sort((a, b) => {
      const x = of(a), y = of(b), n = x - y;
      return (down === "1" ? -1 : 1) * (isNaN(n) ? x.localeCompare(y) : n);
    }).forEach(row => body.append(row));
  });
""".strip()


def cell_parts(kind: str, cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """Ours, the paper's and the difference as a page shows them; empty where there is none.

    >>> found = {"mean": 0.2, "half": 0.01, "difference": -2.67}
    >>> cell_parts("ranks", {"found": found, "paper": 22.67, "metric": "hr@10"})
    ('20.00 ± 1.00', '22.67', '-2.67')
    """
    found, paper = cell["found"], cell["paper"]
    printed = _as_printed(paper)
    if not found:
        return "", printed, ""
    if kind == "statistics":
        mean = found["mean"]
        ours = f"{mean:,.0f}" if mean == int(mean) else f"{mean:,.2f}"
        return ours, printed, f"{found['difference']:+.1f} %" if "difference" in found else ""
    ours = interval_text(found["mean"], found["half"], times=100)
    return ours, printed, f"{found['difference']:+.2f}" if "difference" in found else ""


def _as_printed(paper: float | None) -> str:
    """With as many places as the paper has: counts, per cent, and cold items' per cent.

    >>> [_as_printed(each) for each in (None, 200000.0, 8.2, 1.1476)]
    ['', '200,000', '8.20', '1.1476']
    """
    if paper is None:
        return ""
    return f"{paper:,.0f}" if paper > 1000 else f"{paper:.{2 if round(paper, 2) == paper else 4}f}"


def mark_of(cell: Mapping[str, Any]) -> str:
    """↑ or ↓ where a cell differs from what it is held against beyond noise.

    >>> mark_of({"found": {"test": {"difference": -0.1, "holm": 0.01}}})
    '↓'
    """
    test = cell["found"].get("test", {})
    if test.get("holm", 1.0) >= 0.05:
        return ""
    return "↑" if test["difference"] > 0 else "↓"


def shown_in_markdown(kind: str, cell: Mapping[str, Any]) -> str:
    """The text of a cell of a Markdown page."""
    ours, paper, difference = cell_parts(kind, cell)
    ours += mark_of(cell)
    ours = f"**{ours}**" if cell["found"].get("bold") else ours
    runs = [each["run"] for each in cell["files"] if each["run"]]
    ours = f"[{ours}](#{runs[0]})" if runs else ours
    return "<br>".join([ours, *([paper, difference] if paper or difference else [])])


def shown_in_html(kind: str, cell: Mapping[str, Any]) -> str:
    """The inside of a cell of an HTML page."""
    ours, paper, difference = (html.escape(part) for part in cell_parts(kind, cell))
    ours += mark_of(cell)
    ours = f"<b>{ours}</b>" if cell["found"].get("bold") else ours
    runs = [each["run"] for each in cell["files"] if each["run"]]
    ours = f'<a href="#{runs[0]}">{ours}</a>' if runs and cell["found"] else ours
    return f'{ours}<span class="paper">{paper}</span><span class="diff">{difference}</span>'


def legend(facts: Mapping[str, Any]) -> list[str]:
    """What a reader has to know, a paragraph each."""
    shares = {
        "chosen": "with the share of popularity that a run's validation items chose, if it chose",
        "none": "without a share of popularity",
    }[facts["ranking"]]
    return [
        "In a cell: ours (per cent; the mean of the seeds and the half of its 95 % interval), the "
        f"paper's figure ({facts['paper']}), the difference. What is missing is empty. The data "
        "are not the paper's samples unless Table II says so, so the differences are no fault of "
        "either.",
        f"Test items, the whole catalogue ranked {shares}; ties count against the model. "
        f"{facts['seeds']} seed{'s'[: facts['seeds'] != 1]}.",
        "↑ and ↓: beyond noise above or below what the column is held against (w. PT against w/o "
        "PT, a system against PMMRec, an ablation against all objectives, content against SASRec). "
        "Bold: the best of its row, beyond noise above the second. Noise: Wilcoxon's signed-rank "
        "test over users, each user's mean over the seeds, with Holm's correction over all tests "
        "of a table, p < 0.05; for bold, with several seeds, the interval of their differences "
        "must be above 0 too. With one seed nothing is known of chance between trainings.",
    ]


def markdown_page(facts: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    lines = ["# The paper's tables", "", *_spaced(legend(facts))]
    lines += [f"Made by `{facts['command']}`, commit {facts['commit']}.", ""]
    lines += [line for table in facts["tables"] for line in _markdown_table(table)]
    for title, header, rows in [
        (_FLOOR_TITLE, _FLOOR_HEADER, list(_floor_rows(facts))),
        *_former(facts),
    ]:
        lines += _markdown_rows(title, header, rows)
    if facts["stale"]:
        lines += [f"Left out, as the data have changed since: {', '.join(facts['stale'])}.", ""]
    lines += ["## Runs", ""]
    if facts["runs"]:
        lines += ["| run | seed | commit | data | processor |", "|---|---|---|---|---|"]
    for name, row in facts["runs"].items():
        lines.append(f'| <a id="{name}"></a>{" | ".join(run_cells(name, row))} |')
    lines += [
        "",
        f"The same, for `{command('paper', 'verify')}`:",
        "",
        f"<!-- {_facts_text(facts)} -->",
        "",
    ]
    return "\n".join(lines)


def run_cells(name: str, row: Mapping[str, Any]) -> list[str]:
    """What the list of runs says of one."""
    data = ", ".join(f"{dataset} {mark[:12]}" for dataset, mark in row["data"].items())
    seconds = f"{row['cpu_seconds']:,.0f} s"
    return [name, str(row["seed"]), row["commit"], data, seconds]


def _spaced(paragraphs: Sequence[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in (paragraph, "")]


def _markdown_table(table: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {table['title']}"
    yield ""
    yield table["caption"]
    yield ""
    for reason in table["missing"]:
        yield f"Not here: {reason}."
        yield ""
    if table["cells"]:
        keys = [column["key"] for column in table["columns"]]
        extra = ["improvement"] if table.get("improvements") else []
        yield f"| dataset | {' | '.join([*keys, *extra])} |"
        yield "|---" * (1 + len(keys) + len(extra)) + "|"
        for label, cells, improvement in rows_of(table):
            told = [
                f"{shown_in_markdown(table['kind'], cell)}<!--{cell['id']}-->" for cell in cells
            ]
            told += ["<br>".join(improvement)] if extra else []
            yield f"| {label} | {' | '.join(told)} |"
        yield ""
    for title, points in _curve_lines(table):
        yield f"{title}: {points}"
        yield ""


def rows_of(
    table: Mapping[str, Any],
) -> Iterator[tuple[str, list[Mapping[str, Any]], tuple[str, str]]]:
    """A table's rows: what each is about, its cells, and the improvement (ours, the paper's)."""
    improved = {(each["dataset"], each["metric"]): each for each in table.get("improvements", ())}
    for dataset in table["datasets"]:
        for metric in table["metrics"]:
            cells = [
                cell
                for cell in table["cells"]
                if (cell["dataset"], cell["metric"]) == (dataset, metric)
            ]
            label = dataset if table["kind"] == "statistics" else f"{dataset}, {metric.upper()}"
            each = improved.get((dataset, metric), {})
            sides = [each.get("ours"), each.get("paper")]
            ours, paper = ("" if value is None else f"{value:+.2f} %" for value in sides)
            yield label, cells, (ours, paper)


def _curve_lines(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Validation by epoch in figures, a line a curve."""
    for curve in table.get("curves", ()):
        points = [f"{epoch:g}: {100 * valid:.2f}" for epoch, valid, _ in curve["points"]]
        yield f"{curve['dataset']}, {curve['column']}, HR@10 by epoch", ", ".join(points)


def _floor_rows(facts: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of each dataset the floors, and the effect of our best against the strongest."""
    for each in facts["floors"]:
        floors, best = each["floors"], each["best"]
        strongest = floors[each["strongest"]]["hr@10"]
        effect = f"{100 * (best['hr@10'] - strongest):+.2f}" if best else ""
        told = [f"{who} {100 * floor['hr@10']:.2f}" for who, floor in floors.items()]
        ours = f"{100 * best['hr@10']:.2f} ({best['column']})" if best else ""
        yield [each["dataset"], ", ".join(told), each["strongest"], ours, effect]


_FLOOR_HEADER = ("dataset", "floors, HR@10", "the strongest", "our best", "effect")
_FLOOR_TITLE = "Against the strongest floor"


_FORMER_HEADER = ("dataset", "run", "seeds", "HR@10", "NDCG@10", "HR@10, chosen share")


def _former(facts: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Figures of former campaigns: title, header and rows of each."""
    for each in facts.get("former", ()):
        title = f"Of a former campaign, not checked by its ranks: {each['name']}"
        yield title, _FORMER_HEADER, each["rows"]


def _markdown_rows(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[str]:
    if rows:
        yield f"## {title}"
        yield ""
        yield f"| {' | '.join(header)} |"
        yield "|---" * len(header) + "|"
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""


def _facts_text(facts: Mapping[str, Any]) -> str:
    """The facts inside of a page: no text of theirs ends a comment or a script."""
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "-\\u002d")
    return f"{BEGIN}{text}{END}"


def html_page(facts: Mapping[str, Any]) -> str:
    """The whole report as one HTML file that asks no other host for anything."""
    parts = [f"<p>{html.escape(text)}</p>" for text in legend(facts)]
    made = f"Made by <code>{html.escape(facts['command'])}</code>, commit {facts['commit']}."
    parts.append(f"<p>{made} A click on a heading sorts.</p>")
    for table in facts["tables"]:
        parts += _html_table(table)
    for title, header, rows in [
        (_FLOOR_TITLE, _FLOOR_HEADER, list(_floor_rows(facts))),
        *_former(facts),
    ]:
        if rows:
            parts.append(f"<h2>{html.escape(title)}</h2>{_plain_table(header, rows)}")
    if facts["stale"]:
        names = html.escape(", ".join(facts["stale"]))
        parts.append(f"<p>Left out, as the data have changed since: {names}.</p>")
    parts.append("<h2>Runs</h2>")
    parts.append(_html_runs(facts))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>The paper's tables</title><style>{_STYLE}</style></head><body>"
        f"<h1>The paper's tables</h1>{''.join(parts)}"
        f'<script type="application/json" id="facts">{_facts_text(facts)}</script>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _html_table(table: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>{html.escape(table['title'])}</h2><p>{html.escape(table['caption'])}</p>"
    for reason in table["missing"]:
        yield f"<p>Not here: {html.escape(reason)}.</p>"
    if table["cells"]:
        extra = ["improvement"] if table.get("improvements") else []
        keys = ["dataset", *(column["key"] for column in table["columns"]), *extra]
        head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
        yield f'<div class="wide"><table class="sort"><thead><tr>{head}</tr></thead><tbody>'
        for label, cells, improvement in rows_of(table):
            yield f"<tr><td>{html.escape(label)}</td>"
            for cell in cells:
                value = cell["found"].get("mean", -1)
                inside = shown_in_html(table["kind"], cell)
                yield f'<td id="{cell["id"]}" data-value="{value}">{inside}</td>'
            if extra:
                yield f'<td>{improvement[0]}<span class="paper">{improvement[1]}</span></td>'
            yield "</tr>"
        yield "</tbody></table></div>"
    for dataset in table["datasets"] if table.get("curves") else ():
        yield curve_svg(dataset, [c for c in table["curves"] if c["dataset"] == dataset])


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(each)}</th>" for each in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return _framed(head, body)


def _html_runs(facts: Mapping[str, Any]) -> str:
    rows = []
    for name, row in facts["runs"].items():
        cells = "".join(f"<td>{html.escape(each)}</td>" for each in run_cells(name, row))
        command = html.escape(row.get("command", ""))
        rows.append(f'<tr id="{html.escape(name)}">{cells}<td><code>{command}</code></td></tr>')
    head = "".join(
        f"<th>{each}</th>" for each in ("run", "seed", "commit", "data", "processor", "command")
    )
    return _framed(head, "".join(rows))


def _framed(head: str, body: str) -> str:
    """A table that may be wider than the page."""
    return (
        f'<div class="wide"><table class="runs"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def csv_table(facts: Mapping[str, Any]) -> str:
    """A line a cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["table", "dataset", "metric", "column", "mean", "half", "seeds", "paper"]
    writer.writerow([*header, "difference", "against", "p_holm", "bold", "runs", "sha256"])
    for table in facts["tables"]:
        for cell in table["cells"]:
            found = cell["found"]
            row = [table["name"], cell["dataset"], cell["metric"], cell["column"]]
            row += [found.get("mean"), found.get("half"), len(found.get("values", ()))]
            row += [cell["paper"], found.get("difference"), cell["against"]]
            row += [found.get("test", {}).get("holm"), int(found.get("bold", False))]
            row += [" ".join(each[key] for each in cell["files"]) for key in ("run", "sha256")]
            writer.writerow(row)
    return out.getvalue()
