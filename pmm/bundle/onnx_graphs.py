"""The graphs of a bundle: user encoder, item encoders and fusion, exported from torch to ONNX.

Shape suffixes: B users, L positions of a window, W what the user encoder is given of an item, D
width, T text tokens, K tokens of either side, C candidates of one call, F width of a frozen vector.
"""

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from pmm.bundle.layout import ITEM_GRAPH, USER_GRAPH, side_graph
from pmm.errors import InputError
from pmm.model.features.frozen_vectors import TextVectors, WholeEncoder
from pmm.model.protocol import Recommender
from pmm.recommend.item_reader import ContentReading
from pmm.shards.kinds import Side

CANDIDATES = 1_024
"""C: items that a head scores at once (CARCA)."""
LARGEST_GRAPH = 1 << 31
"""Bytes that a graph can hold in one file: protobuf's limit, 2 GiB."""


def require_exporter() -> None:
    """Refuse to begin without the packages that write graphs.

    Raises:
        InputError: they are not installed.
    """
    lacking = [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if lacking:
        raise InputError(f"--onnx needs {' and '.join(lacking)}. Run: pip install 'pmmrec[export]'")


def write_graphs(
    draft: Path,
    model: Recommender,
    widths: tuple[int, int],
    reading: ContentReading | None,
    whole: Mapping[Side, WholeEncoder],
) -> None:
    """Export a model on the CPU in float32.

    Args:
        draft: of the bundle.
        model: in eval mode.
        widths: W and D.
        reading: of new items; None: the model takes none.
        whole: the whole encoders of a model on frozen vectors.

    Raises:
        InputError: the exporter is not installed, or cannot export a part; a graph is too large.
    """
    require_exporter()
    (draft / USER_GRAPH).parent.mkdir(exist_ok=True)
    _write_user_graph(draft / USER_GRAPH, model, widths)
    if reading is None:
        return
    one = model.one_item()
    sides: dict[Side, nn.Module] = {}
    if one is None:
        sides = {side: _WholeSide(each) for side, each in whole.items()}
        item: nn.Module = _OfVectors(model, tuple(whole))
        names = [str(side) for side in sides]
    else:
        parts: dict[Side, nn.Module | None] = {"text": one.text, "vision": one.vision}
        sides = {side: part for side, part in parts.items() if part is not None}
        item = _OfTokens(model, one.item)
        names = [name for side in sides for name in (side, f"{side}_mask")]
    given: list[Tensor] = []
    shapes: list[dict[int, Any]] = []
    for side, module in sides.items():
        made = _write_side_graph(draft / side_graph(side), side, module, reading)
        given.append(torch.randn_like(made))
        # At least two, as the exporter takes one for a constant; what runs is not bound to it.
        count = Dim(f"{side}_tokens", min=2, max=1 << 16)
        shapes.append({} if one is None else {1: count})
        if one is not None:
            given.append(torch.ones(made.shape[:2], dtype=torch.bool))
            shapes.append({1: count})
    _export(draft / ITEM_GRAPH, item, given, shapes, names, ["input", "score"])


def _write_user_graph(path: Path, model: Recommender, widths: tuple[int, int]) -> None:
    users, length = Dim("users", min=1, max=1 << 20), Dim("length", min=1, max=model.max_length)
    shape: dict[int, Any] = {0: users}
    if model.max_length > 1:
        shape[1] = length
    # Two users and a window of several items: a one would be taken for a constant.
    e_BLW = torch.randn(2, model.max_length, widths[0])
    valid_BL = torch.ones(2, model.max_length, dtype=torch.bool)
    valid_BL[0, : model.max_length // 2] = False
    given, names, output = [e_BLW, valid_BL], ["e", "valid"], "user"
    shapes: list[dict[int, Any]] = [shape, dict(shape)]
    if model.scores_of_users is not None:
        given.append(torch.randn(CANDIDATES, widths[1]))
        names.append("item")
        shapes.append({})
        output = "score"
    _export(path, _Users(model), given, shapes, names, [output])


def _write_side_graph(path: Path, side: Side, module: nn.Module, reading: ContentReading) -> Tensor:
    """Export an encoder; what it makes of an example."""
    if side == "text":
        # Any tokens of the vocabulary but padding, as of a text of some words.
        assert reading.tokenizer is not None
        pad, count = reading.tokenizer.pad, min(7, reading.max_tokens)
        example = torch.tensor([[t for t in range(count + 1) if t != pad][:count]])
        most = max(2, reading.max_tokens)
        shapes: list[dict[int, Any]] = [{1: Dim("tokens", min=1, max=most)} if count > 1 else {}]
    else:
        size = reading.picture_size
        example = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
        shapes = [{}]
    _export(path, module, [example], shapes, ["content"], [side])
    with torch.no_grad():
        made: Tensor = module(example)
    return made


class _Users(nn.Module):
    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, e_BLW: Tensor, valid_BL: Tensor, item_CD: Tensor | None = None) -> Tensor:
        scores = self.model.scores_of_users
        if item_CD is None or scores is None:
            return self.model.user_vectors(e_BLW, valid_BL)
        return scores(e_BLW, valid_BL, item_CD)


class _WholeSide(nn.Module):
    def __init__(self, whole: WholeEncoder) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, content: Tensor) -> Tensor:
        if isinstance(self.whole, TextVectors):
            made_1F: Tensor = self.whole(content, torch.ones_like(content, dtype=torch.bool))
        else:
            made_1F = self.whole(content)
        return made_1F


class _OfVectors(nn.Module):
    def __init__(self, model: Recommender, sides: tuple[Side, ...]) -> None:
        super().__init__()
        self.model, self.sides = model, sides

    def forward(self, *vectors: Tensor) -> tuple[Tensor, Tensor]:
        given = {str(side): each for side, each in zip(self.sides, vectors, strict=True)}
        input_1W = self.model.encode_vectors(given)
        return input_1W, self.model.item_vectors(input_1W)


class _OfTokens(nn.Module):
    def __init__(self, model: Recommender, item: nn.Module) -> None:
        super().__init__()
        self.model, self.item = model, item

    def forward(self, *sides: Tensor) -> tuple[Tensor, Tensor]:
        input_1W = self.item(*sides)
        return input_1W, self.model.item_vectors(input_1W)


def _export(
    path: Path,
    module: nn.Module,
    given: Sequence[Tensor],
    shapes: Sequence[dict[int, Any]],
    names: Sequence[str],
    outputs: Sequence[str],
) -> None:
    size = sum(each.numel() * each.element_size() for each in module.parameters())
    if size > 0.95 * LARGEST_GRAPH:
        raise InputError(
            f"{path.name} would hold {size / 2**30:,.1f} GiB of weights, more than an ONNX file "
            "can (2 GiB): export without --onnx"
        )
    variable = isinstance(module, _OfVectors | _OfTokens)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, on its own ways
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(given),
                input_names=list(names),
                output_names=list(outputs),
                dynamic_shapes=(tuple(shapes),) if variable else tuple(shapes),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter's kinds are many, and so are its parts
            told = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
            raise InputError(
                f"{path.name}: torch cannot export this part of the model to ONNX ({told}). "
                "Export without --onnx"
            ) from error
    assert program is not None
    program.save(str(path), external_data=False)
