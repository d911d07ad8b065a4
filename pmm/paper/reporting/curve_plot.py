"""Fig. 3 as an SVG inside of a page: validation (and test) by epoch, a line a kind of transfer."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, LOW = 620, 300, 52, 34, 40
COLORS = ("#8a94a0", "#2b6cb0", "#2f855a", "#dd6b20", "#b83280", "#6b46c1")


def curve_svg(title: str, curves: Sequence[Mapping[str, Any]]) -> str:
    """The curves of a dataset; test items dashed, where they are recorded.

    Args:
        title: of the drawing.
        curves: "column" and "points" (epoch, validation, test) of each.
    """
    values = [v for c in curves for point in c["points"] for v in point[1:] if v is not None]
    last = max((point[0] for c in curves for point in c["points"]), default=0) or 1
    high = max(values, default=0) or 1

    def at(epoch: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 12) * epoch / last
        return f"{x:.1f},{HEIGHT - LOW - (HEIGHT - LOW - TOP) * value / high:.1f}"

    parts = [f'<text x="{LEFT}" y="16" font-weight="600">{html.escape(title)}, HR@10</text>']
    for k in range(5):
        x, y = at(0, high * k / 4).split(",")
        parts.append(
            f'<line x1="{x}" x2="{WIDTH - 12}" y1="{y}" y2="{y}" stroke="#e3e8ee"/>'
            f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy=".3em">{25 * high * k:.1f}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - 12}" y="{HEIGHT - 22}" text-anchor="end">epoch {last:g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 22}">0</text>'
    )
    for k, curve in enumerate(curves):
        color = COLORS[k % len(COLORS)]
        for side, dash in ((1, ""), (2, ' stroke-dasharray="4 3" opacity=".7"')):
            points = [at(p[0], p[side]) for p in curve["points"] if p[side] is not None]
            if points:
                what = f"{curve['column']}, {'validation' if side == 1 else 'test'}"
                parts.append(
                    f'<polyline fill="none" stroke="{color}" stroke-width="2"{dash} '
                    f'points="{" ".join(points)}"><title>{html.escape(what)}</title></polyline>'
                )
        parts.append(
            f'<text x="{LEFT + 130 * k}" y="{HEIGHT - 4}" fill="{color}">'
            f"{html.escape(curve['column'])}</text>"
        )
    return (
        f'<svg role="img" aria-label="{html.escape(title)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="max-width:{WIDTH}px;width:100%;font-size:12px">{"".join(parts)}</svg>'
    )
