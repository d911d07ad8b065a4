"""A training step with encoders of true size, beside a literal version of the published step.

    python -m benchmarks.train_step [--users 8,64] [--repeats 2] [--tiny]

The literal step is what the published code does: every slot of every sequence is encoded, padding
too, at 50 tokens, through all blocks of both encoders. Ours encodes the distinct items of a batch
from stored activations of the frozen blocks. Both have the same loss (checked here, without
dropout) and are timed in turns, with dropout. XLM-RoBERTa base and CLIP's ViT-B/32, random weights.

The literal step needs 12 GB at 16 users and its time is that of its slots, so it is run at the
smallest batch only, and multiplied for the larger ones.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode
from transformers import XLMRobertaConfig

from benchmarks.results import record
from pmm.data.batch import Batch
from pmm.machine import keep_freed_memory
from pmm.model.encoders.attention_heads import split_heads
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.pmmrec.fusion import MergeFusion
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.runs.train_options import TrainOptions
from pmm.shards.items import Items
from pmm.train.optimiser import make_optimiser

TOKENS, LONGEST = 50, 20
GEMM_SIDE = 2048


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What decides about a step: how many items, how long the sequences, as in Table II."""

    name: str
    items: int
    shortest: int
    mean_length: float


DATASETS = (
    Dataset(name="Bili Food", items=1_579, shortest=5, mean_length=6.04),
    Dataset(name="four sources", items=232_772, shortest=5, mean_length=11.6),
)
"""As in Table II; of the sources their items together, and the mean length of their users."""


def draw_batch(data: Dataset, users: int, vocabulary: int, seed: int = 0) -> Batch:
    """Random texts (10 to 30 tokens), random pictures, long-tailed items; two items held out."""
    rng = np.random.default_rng(seed)
    excess = rng.geometric(1 / (1 + data.mean_length - data.shortest), size=users) - 1
    lengths = np.minimum(data.shortest + excess - 2, LONGEST + 1)
    share = 1 / np.arange(10, data.items + 10)
    drawn = [rng.choice(data.items, size=n, replace=False, p=share / share.sum()) for n in lengths]
    distinct = np.unique(np.concatenate(drawn))
    slot_BS = np.zeros((users, LONGEST + 1), dtype=np.int64)
    for row, items in zip(slot_BS, drawn, strict=True):
        row[len(row) - len(items) :] = np.searchsorted(distinct, items) + 1
    count = len(distinct)
    tokens = rng.integers(10, 31, size=count)
    mask_IT = torch.from_numpy(np.arange(TOKENS) < tokens[:, None])
    token_IT = torch.from_numpy(rng.integers(3, vocabulary, size=(count, TOKENS)))
    pixels = rng.integers(0, 256, size=(count, 3, 224, 224), dtype=np.uint8)
    items = Items(
        item_I=torch.from_numpy(distinct + 1),
        token_IT=torch.where(mask_IT, token_IT, 1),
        token_mask_IT=mask_IT,
        picture_I3HW=torch.from_numpy(pixels),
        has_text_I=torch.ones(count, dtype=torch.bool),
        has_picture_I=torch.ones(count, dtype=torch.bool),
    )
    log_p_I = torch.from_numpy(np.log(share / share.sum())[distinct].astype(np.float32))
    return Batch(items=items, slot_BS=torch.from_numpy(slot_BS), log_p_I=log_p_I)


def with_stored(model: Pmmrec, batch: Batch) -> Batch:
    """The batch with what the frozen trunks make of its items, in half precision."""
    assert model.text is not None
    assert model.vision is not None
    items = batch.items
    text_ITD = model.text.trunk(items.token_IT, items.token_mask_IT).half()
    picture_IPD = model.vision.trunk(items.picture_I3HW).half()
    stored = replace(
        items,
        text_hidden_ITD=text_ITD,
        picture_hidden_IPD=picture_IPD,
        picture_I3HW=items.picture_I3HW[:, :, :0, :0],
    )
    return replace(batch, items=stored)


def literal_loss(model: Pmmrec, batch: Batch) -> Tensor:
    """The next-item loss with every slot encoded anew: padding as an item of one token, in black.

    The same value as `model.loss`, but for rounding, where nothing is dropped out.
    """
    slot_BS, items = batch.slot_BS, batch.items
    slot_N = slot_BS.flatten()
    token_NT = functional.pad(items.token_IT, (0, 0, 1, 0), value=1)[slot_N]
    mask_NT = functional.pad(items.token_mask_IT, (0, 0, 1, 0))[slot_N]
    mask_NT[:, 0] = True
    black_I3HW = functional.pad(items.picture_I3HW, (0, 0, 0, 0, 0, 0, 1, 0))
    item_ND = literal_items(model, token_NT, mask_NT, black_I3HW[slot_N])
    item_BSD = item_ND.view(*slot_BS.shape, -1)
    hidden_BLD = model.encode_users(item_BSD[:, :-1], slot_BS[:, :-1] > 0)
    first_I = torch.stack([(slot_N == k + 1).nonzero()[0, 0] for k in range(len(items.item_I))])
    return model._next_item(hidden_BLD, item_ND[first_I], batch)


def literal_items(model: Pmmrec, token_NT: Tensor, mask_NT: Tensor, picture_N3HW: Tensor) -> Tensor:
    """The fused vectors of items through all blocks of both encoders, all tokens padded to T."""
    assert model.text is not None
    assert model.vision is not None
    assert model.text_projection is not None
    assert model.vision_projection is not None
    assert isinstance(model.fusion, MergeFusion)
    hidden_NTD = model.text.trunk(token_NT, mask_NT)
    for block in model.text.blocks[model.text.cut :]:
        hidden_NTD = block(hidden_NTD, mask_NT[:, None, None, :])
    text_NTD = model.text_projection(hidden_NTD)
    picture_NPD = model.vision_projection(model.vision(picture_N3HW))
    return literal_fusion(model.fusion, text_NTD, mask_NT, picture_NPD)


def literal_fusion(
    fusion: MergeFusion, text_NTD: Tensor, mask_NT: Tensor, picture_NPD: Tensor
) -> Tensor:
    """The fused vectors of padded tokens: all of them through the block, then pooled."""
    if fusion.type_2D is not None:
        text_NTD, picture_NPD = text_NTD + fusion.type_2D[0], picture_NPD + fusion.type_2D[1]
    if fusion.mm_cls_D is not None:
        mm_cls_N1D = fusion.mm_cls_D.expand(len(text_NTD), 1, -1)
        text_NTD = torch.cat([mm_cls_N1D, text_NTD[:, 1:]], dim=1)
        picture_NPD = picture_NPD[:, 1:]
    token_NKD = torch.cat([text_NTD, picture_NPD], dim=1)
    seen_NK = functional.pad(mask_NT, (0, picture_NPD.shape[1]), value=True)
    block = fusion.block
    query_NHKE, key_NHKE, value_NHKE = (
        split_heads(projection(token_NKD), block.heads).transpose(1, 2)
        for projection in (block.query, block.key, block.value)
    )
    attended_NHKE = functional.scaled_dot_product_attention(
        query_NHKE,
        key_NHKE,
        value_NHKE,
        attn_mask=seen_NK[:, None, None],
        dropout_p=block.dropout.p if block.training else 0.0,
    )
    attended_NKD = attended_NHKE.transpose(1, 2).flatten(2)
    x_NKD = block.attention_norm(token_NKD + block.dropout(block.out(attended_NKD)))
    x_NKD = block.norm(x_NKD + block.dropout(block.down(functional.gelu(block.up(x_NKD)))))
    if fusion.mm_cls_D is not None:
        first_ND: Tensor = x_NKD[:, 0]
        return first_ND
    summed_ND: Tensor = (x_NKD * seen_NK[:, :, None]).sum(1)
    return summed_ND / seen_NK.sum(1, keepdim=True)


TURN = 5.0
"""Seconds. A step right behind another process's is slower than the next, and training has only
the next; the literal one takes longer than a turn."""


@dataclass
class Way:
    """One way to do a step, and what it took."""

    name: str
    seconds: list[float]
    loss: Callable[[], Tensor] | None = None
    """None where it runs in another process."""
    optimiser: AdamW | None = None
    flops: float = 0.0

    def step(self) -> None:
        """Forward, backward, update."""
        assert self.loss is not None
        assert self.optimiser is not None
        self.optimiser.zero_grad(set_to_none=True)
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def time(self) -> None:
        """A turn: steps of at least TURN seconds together, each timed."""
        begin = time.perf_counter()
        while (start := time.perf_counter()) - begin < TURN:
            self.step()
            self.seconds.append(time.perf_counter() - start)

    def count(self) -> None:
        """The floating-point operations of a step, as torch counts them."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        self.flops = float(counter.get_total_flops())


def gemm_peak(repeats: int = 10) -> float:
    """The most operations a second of a product of square matrices in float32."""
    left, right = torch.rand(2, GEMM_SIDE, GEMM_SIDE)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * GEMM_SIDE**3 / (time.perf_counter() - start))
    return best


def build(folder: Path, *, pool: str, tiny: bool) -> Pmmrec:
    """PMMRec on encoders of random weights: of true size, or of two small blocks."""
    small = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 256}
    sizes = {"num_hidden_layers": 3, "vocab_size": 500, **small} if tiny else {}
    config = {"vocab_size": 250_002, "max_position_embeddings": 514, **sizes}
    XLMRobertaConfig(**config).save_pretrained(folder)
    towers = Path(__file__).parents[1] / "recipes" / "towers"
    tower = str(towers / "vit-small-32") if tiny else "ViT-B-32"
    torch.manual_seed(0)
    return Pmmrec(
        PmmrecOptions(
            text=TextSpec(encoder=str(folder), random_seed=0),
            vision=VisionSpec(encoder=tower, random_seed=0),
            fusion_pool="cls" if pool == "cls" else "mean",
        )
    )


def measure(
    model: Pmmrec, pool: str, data: Dataset, sizes: Sequence[int], repeats: int, *, tiny: bool
) -> list[Way]:
    """The literal step at the first size, then ours at each, in turns on the same batch.

    The literal one runs in a process of its own, with the memory allocator as it comes. Both losses
    must be the same.
    """
    model.eval()
    batches = [drawn(model, data, users)[1] for users in sizes]
    context = get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=work_literally, args=(there, pool, data, sizes[0], tiny))
    child.start()
    try:
        one = here.recv()
        with torch.no_grad():
            other = float(model.loss(batches[0])["loss"])
        if abs(one - other) > 1e-3 * abs(one):
            raise SystemExit(f"the losses differ: literal {one}, ours {other}")
        model.train()
        literal, ways = Way("literal", seconds=[]), [_ours(model, each) for each in batches]
        here.send("count")
        literal.flops = here.recv()
        for way in ways:
            way.count()
        for _ in range(repeats):
            here.send("time")
            literal.seconds += here.recv()
            for way in ways:
                way.time()
        return [literal, *ways]
    finally:
        child.terminate()
        child.join()


def work_literally(
    connection: Connection, pool: str, data: Dataset, users: int, tiny: bool
) -> None:
    """Do literal steps when asked, on the same model and batch as the other process."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(Path(folder), pool=pool, tiny=tiny).eval()
    assert model.text is not None
    batch = draw_batch(data, users, len(model.text.stem.get_parameter("word_embeddings.weight")))
    with torch.no_grad():
        connection.send(float(literal_loss(model, batch)))
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = AdamW(trained, foreach=False)
    way = Way("literal", loss=lambda: literal_loss(model, batch), optimiser=optimiser, seconds=[])
    while True:
        if connection.recv() == "count":
            way.count()
            connection.send(way.flops)
        else:
            way.time()
            connection.send(way.seconds)
            way.seconds = []


def drawn(model: Pmmrec, data: Dataset, users: int) -> tuple[Batch, Batch]:
    """A batch as it is, and with stored activations; the model in eval mode."""
    assert model.text is not None
    vocabulary = len(model.text.stem.get_parameter("word_embeddings.weight"))
    batch = draw_batch(data, users, vocabulary)
    return batch, with_stored(model, batch)


def _ours(model: Pmmrec, stored: Batch) -> Way:
    optimiser = make_optimiser(model, TrainOptions())
    return Way("ours", [], lambda: model.loss(stored)["loss"], optimiser)


def forget_peak() -> None:
    """From here on `peak_gib` counts anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_gib() -> float:
    """The most memory that this program has held; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def memory(users: int, tiny: bool) -> str:
    """Peak memory and users a second of our step alone, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--alone", str(users)]
    command += ["--tiny"] if tiny else []
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def report_alone(users: int, tiny: bool) -> None:
    """What `memory` prints."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(Path(folder), pool="mean", tiny=tiny).eval()
    before = peak_gib()
    way = _ours(model, drawn(model, DATASETS[0], users)[1])
    model.train()
    for encoder in (model.text, model.vision):
        if encoder is not None:
            encoder.release_trunk()
    forget_peak()
    for _ in range(2):
        way.time()
    print(
        f"Ours alone, {DATASETS[0].name}, {users} users: {users / min(way.seconds):.1f} users/s, "
        f"peak memory {peak_gib():.1f} GiB, of it {before:.1f} with the model built."
    )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", default="8,64", help="Batch sizes, with commas between.")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="Small encoders, nothing is recorded.")
    parser.add_argument("--alone", type=int, default=0, help="Ours only, of so many users.")
    given = parser.parse_args()
    keep_freed_memory()  # as training does; the literal step has a process of its own
    if given.alone:
        report_alone(given.alone, given.tiny)
        return
    lines = [
        "| dataset | fusion pooling | users | literal s | ours s | ratio | GFLOP literal, ours | "
        "% of GEMM peak, ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peaks = [gemm_peak()]
    for pool in ("mean", "cls"):
        for data in DATASETS if pool == "mean" else DATASETS[:1]:
            with tempfile.TemporaryDirectory() as folder:
                model = build(Path(folder), pool=pool, tiny=given.tiny)
            sizes = [int(each) for each in given.users.split(",")]
            sizes = sizes if data is DATASETS[0] else sizes[:1]
            literal, *ways = measure(model, pool, data, sizes, given.repeats, tiny=given.tiny)
            peaks.append(gemm_peak())
            for users, way in zip(sizes, ways, strict=True):
                times = users / sizes[0]
                slow = times * statistics.median(literal.seconds)
                fast = statistics.median(way.seconds)
                lines.append(
                    f"| {data.name} | {pool} | {users} | {slow:.2f} | {fast:.3f} | "
                    f"{slow / fast:.1f} | {times * literal.flops / 1e9:,.0f}, "
                    f"{way.flops / 1e9:,.0f} | {100 * way.flops / fast / max(peaks):.0f} |"
                )
                print(lines[-1], flush=True)
    lines += [
        "",
        f"Median over {given.repeats} turns of {TURN:.0f} s or more, {torch.get_num_threads()} "
        "threads, dropout on, stored activations in half precision. The literal step is timed at "
        f"{sizes[0]} users and multiplied for more. GEMM peak {max(peaks) / 1e9:,.0f} GFLOP/s. "
        + memory(sizes[-1], given.tiny),
    ]
    print("\n".join(lines))
    if not given.tiny:
        record("train_step", "\n".join(lines))


if __name__ == "__main__":
    main()
