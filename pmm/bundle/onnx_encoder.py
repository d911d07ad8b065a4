"""A bundle's ONNX graphs, asked for vectors: onnxruntime and NumPy, no torch.

Shape suffixes: as of `pmm.recommend.encoder`; T text tokens, K tokens of either side, C candidates
of one call, F width of a frozen vector.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float32s
from pmm.bundle.bicubic import squash
from pmm.bundle.layout import (
    AGAIN,
    ITEM_GRAPH,
    SIDES,
    USER_GRAPH,
    BundleHeader,
    reading_in,
    require_unchanged,
    side_graph,
)
from pmm.errors import BrokenArtefact, InputError
from pmm.recommend.answers import NewItem
from pmm.recommend.item_reader import ItemReader, refuse_empty
from pmm.shards.kinds import Side

NOTHING = 2
"""Tokens, all masked, that stand for a side which an item lacks."""


class OnnxEncoder:
    """An `Encoder` (`pmm.recommend.encoder`) over ONNX graphs, on the CPU."""

    def __init__(self, place: Path, header: BundleHeader, *, threads: int = 0) -> None:
        """Open the graphs of a verified bundle; those of items when the first one comes.

        Args:
            place: the bundle's folder.
            header: of it.
            threads: of one product; 0: as many as there are cores.

        Raises:
            InputError: onnxruntime is not installed.
            BrokenArtefact: a graph cannot be read.
        """
        self._place, self._header, self._threads = place, header, threads
        self.max_length, self.temperature = header.max_length, header.temperature
        self.by_product, self.cannot_add = header.by_product, header.cannot_add
        self._lock = Lock()
        self._graphs: dict[str, Any] = {}
        self._user = self._graph(USER_GRAPH)

    def users(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_]) -> Float32s:
        """What users are scored with, [B, D]."""
        found_BD: Float32s = self._user.run(["user"], {"e": e_BLW, "valid": valid_BL})[0]
        return found_BD

    def scores(self, e_BLW: Float32s, valid_BL: NDArray[np.bool_], item_ND: Float32s) -> Float32s:
        """Scores [B, N] where they are no inner products."""
        step = int(next(i.shape[0] for i in self._user.get_inputs() if i.name == "item"))
        parts = []
        for start in range(0, len(item_ND), step):
            item_CD = item_ND[start : start + step]
            count = len(item_CD)
            if count < step:
                item_CD = np.pad(item_CD, ((0, step - count), (0, 0)))
            given = {"e": e_BLW, "valid": valid_BL, "item": np.ascontiguousarray(item_CD)}
            parts.append(self._user.run(["score"], given)[0][:, :count])
        return np.concatenate(parts, axis=1)

    def new_items(self, items: Sequence[NewItem]) -> tuple[Float32s, Float32s]:
        """What the user encoder reads of new items [R, W], and what they are scored with [R, D].

        Raises:
            InputError: the model knows items one by one, a picture is none, or an item has nothing
                that the model reads.
        """
        if self.cannot_add:
            raise InputError(self.cannot_add)
        made = [self._made(item) for item in items]
        return np.concatenate([e for e, _ in made]), np.concatenate([s for _, s in made])

    def _made(self, item: NewItem) -> tuple[Float32s, Float32s]:
        """One item: [1, W] and [1, D]."""
        read = self._read(item)
        graph = self._graph(ITEM_GRAPH)
        kinds = {each.name: each.shape for each in graph.get_inputs()}
        given: dict[str, NDArray[Any]] = {}
        for side in SIDES:
            if side not in kinds:
                continue
            width = int(kinds[side][-1])
            if self._header.reads == "none":  # frozen vectors, which the training's store rounds
                vector_1F = read.get(side, np.zeros((1, width), np.float32))
                given[side] = vector_1F.astype(np.float16).astype(np.float32)
            else:
                nothing = np.zeros((1, NOTHING, width), np.float32)
                given[side] = token_1KD = read.get(side, nothing)
                given[f"{side}_mask"] = np.full(token_1KD.shape[:2], side in read)
        has = any(side in read and given[side].any() for side in given if side in SIDES)
        refuse_empty([item], np.array([has]))
        input_1W, score_1D = graph.run(["input", "score"], given)
        return input_1W, score_1D

    def _read(self, item: NewItem) -> dict[str, Float32s]:
        """What the encoders make of the sides that an item has."""
        texts = self._reader.texts([item])
        found: dict[str, Float32s] = {}
        if texts.has_text_I[0]:
            found["text"] = self._side("text", texts.token_IT)
        pictures = self._reader.pictures([item])
        if pictures.has_picture_I[0]:
            found["vision"] = self._side("vision", pictures.picture_I3HW)
        return found

    def _side(self, side: Side, content: NDArray[Any]) -> Float32s:
        graph = self._graph(side_graph(side))
        made: Float32s = graph.run([side], {"content": np.ascontiguousarray(content)})[0]
        return made

    @cached_property
    def _reader(self) -> ItemReader:
        return ItemReader(reading_in(self._place, self._header), squash)

    def _graph(self, name: str) -> Any:
        """A session, opened once."""
        with self._lock:
            if name not in self._graphs:
                require_unchanged(self._place, self._header)
                self._graphs[name] = _opened(self._place / name, self._threads)
            return self._graphs[name]


def _opened(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "answers by ONNX need onnxruntime. Run: pip install 'pmmrec[serve]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, one for each part of a graph that can be wrong
        raise BrokenArtefact(
            f"{path} cannot be read as ONNX ({str(error)[:200]}). {AGAIN}"
        ) from error
