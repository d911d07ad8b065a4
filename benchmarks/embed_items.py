"""Embedding items for evaluation, from stored activations beside whole encoders.

    python -m benchmarks.embed_items [--items 64] [--repeats 3] [--tiny]

The literal way is that of the published evaluation: every item through all blocks of both encoders,
padded to 50 tokens. Ours starts at the stored output of the frozen blocks and computes no padding.
XLM-RoBERTa base and CLIP's ViT-B/32 of random weights; the vectors of both must agree.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import record
from benchmarks.train_step import Dataset, build, draw_batch, gemm_peak, literal_items, with_stored

CATALOGUE = Dataset(name="catalogue", items=100_000, shortest=5, mean_length=7.5)


def timed(embed: Callable[[], Tensor]) -> float:
    """Seconds of one run, without gradients."""
    with torch.inference_mode():
        start = time.perf_counter()
        embed()
        return time.perf_counter() - start


def flops(embed: Callable[[], Tensor]) -> float:
    """Floating-point operations of one run; the counter wants gradients."""
    with FlopCounterMode(display=False) as counter:
        embed()
    return float(counter.get_total_flops())


def row(pool: str, count: int, repeats: int, *, tiny: bool) -> str:
    """Both ways in turns, on the same items."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(Path(folder), pool=pool, tiny=tiny).eval()
    assert model.text is not None
    vocabulary = len(model.text.stem.get_parameter("word_embeddings.weight"))
    batch = draw_batch(CATALOGUE, count, vocabulary)
    items = batch.items.map(lambda each: each[:count])
    stored = with_stored(model, batch).items.map(lambda each: each[:count])
    ways: dict[str, Callable[[], Tensor]] = {
        "literal": lambda: literal_items(
            model, items.token_IT, items.token_mask_IT, items.picture_I3HW
        ),
        "ours": lambda: model.encode_items(stored),
    }
    with torch.no_grad():
        one, other = (embed() for embed in ways.values())
    if (one - other).abs().max() > 1e-2 * one.abs().max():
        raise SystemExit(f"the vectors differ by {float((one - other).abs().max())}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, embed in ways.items():
            seconds[name].append(timed(embed))
    slow, fast = (statistics.median(each) for each in seconds.values())
    share = flops(ways["ours"]) / fast / gemm_peak()
    return (
        f"| {pool} | {count / slow:.1f} | {count / fast:.1f} | {slow / fast:.1f} | "
        f"{float((one - other).abs().max()):.1e} | {100 * share:.0f} |"
    )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="Small encoders, nothing is recorded.")
    given = parser.parse_args()
    lines = [
        "| fusion pooling | literal items/s | ours items/s | ratio | largest difference "
        "| % of GEMM peak, ours |",
        "|---|---|---|---|---|---|",
        *(row(pool, given.items, given.repeats, tiny=given.tiny) for pool in ("mean", "cls")),
        "",
        f"{given.items} items of 10 to 30 tokens, {torch.get_num_threads()} threads, median of "
        f"{given.repeats} in turns, stored activations in half precision.",
    ]
    print("\n".join(lines))
    if not given.tiny:
        record("embed_items", "\n".join(lines))


if __name__ == "__main__":
    main()
