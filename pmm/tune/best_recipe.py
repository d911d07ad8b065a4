"""What a search comes to: best.toml, and the commands that go on from there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from pmm.advice import command
from pmm.errors import PmmError
from pmm.runs import folder as run_folder
from pmm.runs.recipe import Recipe, encoder_specs
from pmm.storage.artefact import storage_errors
from pmm.storage.dotted_names import nested
from pmm.storage.json_files import JSON_ERRORS, read_json
from pmm.storage.seal import sealed_file
from pmm.storage.toml import merge
from pmm.tune.search_folder import BEST, Search
from pmm.tune.trial_rows import best_of

_SAID = ("transfer", "objectives", "modality", "preset")
"""What a request says and a recipe does not, or not alone."""


def write_best(search: Search, rows: Sequence[dict[str, Any]]) -> None:
    """Write best.toml: what was given and the best parameters, under what came of them."""
    best = best_of(rows)
    if best is None:
        return
    path = search.folder / BEST
    values = merge(
        {"model": {"name": search.base.model.name}},
        _anchored(search.values, search.base),
        nested(best["parameters"]),
    )
    defaults = rows[0]["hr@10"]
    first = "failed" if defaults is None else f"had {100 * defaults:.2f}"
    header = "\n".join(
        [
            f"The best of {len(rows)} trials on {search.base.target}, by the validation items.",
            f"command:  {command_to_train(search)}",
            f"duration: {best['seconds']:,} s for {best['steps']:,} steps",
            f"hardware: {best['hardware']}",
            f"expected: validation HR@10 {100 * best['hr@10']:.2f}, NDCG@10 "
            f"{100 * best['ndcg@10']:.2f} (trial {best['number']}; the defaults {first})",
            f"seen:     {best['seen']}",
        ]
    )
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    with storage_errors(path), sealed_file(path) as temporary:
        temporary.write_text(f"{comment}\n{tomli_w.dumps(values)}", encoding="utf-8")


def _anchored(values: Mapping[str, Any], base: Recipe) -> dict[str, Any]:
    """Values with encoders in folders named from the root, as the base has them."""
    model = values.get("model", {})
    sides = {side: model[side] for side in ("text", "vision") if "encoder" in model.get(side, {})}
    specs = encoder_specs(base.model)
    whole = {side: {"encoder": specs[side].encoder} for side in sides}
    return merge(values, {"model": whole} if whole else {})


def command_to_train(search: Search) -> str:
    """The command that trains with the best recipe."""
    request = search.request
    return command(
        "train",
        recipe=search.folder / BEST,
        stage=request.stage,
        target=search.base.target,
        from_=search.base.start.run if search.base.start else None,
        **{name: getattr(request, name) or None for name in _SAID},
        home=search.home.option,
    )


def result_of(search: Search, rows: list[dict[str, Any]], ended: str) -> dict[str, Any]:
    """What `tune` returns.

    Raises:
        PmmError: the budget is spent, and all trials failed.
    """
    best = best_of(rows)
    if best is None and ended == "budget":
        raise PmmError(
            f"all {len(rows)} trials failed, the first with: {rows[0]['error']} Give what is tried "
            "another range by hand, as --set train.lr=1e-4, and add --overwrite"
        )
    write_best(search, rows)
    run = search.run(best["number"]) if best else None
    return {
        "folder": str(search.folder),
        "ended": ended,
        "rows": rows,
        "best": best,
        "run": str(run) if run else None,
        "recipe": str(search.folder / BEST) if best else None,
        "next": [command("evaluate", run), command_to_train(search)] if run else [],
    }


def hardware_of(run_dir: Path) -> str:
    """What a run was trained on, as its run.json says."""
    if not (run_dir / run_folder.RUN).is_file():
        return "unknown"
    again = "Train again with --overwrite"
    about = read_json(run_dir / run_folder.RUN, again=again, needs=["hardware", "device"])
    try:
        found = about["hardware"]
        on = ", ".join(found["accelerators"]) if about["device"] != "cpu" else "no GPU"
        return f"{found['system']}, {found['cores']} CPU cores, {on}"
    except JSON_ERRORS:
        return "unknown"
