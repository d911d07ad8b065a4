"""A bundle -> a model that answers, with torch or with ONNX."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pmm.arrays import Int64s
from pmm.bundle.bundle_tables import BundleItems, read_users, read_vectors
from pmm.bundle.layout import (
    AGAIN,
    HEADER,
    ITEM_GRAPH,
    ITEMS,
    MODEL,
    PICTURES,
    RECIPE,
    SIDES,
    SUMS,
    TOKENIZER,
    USER_GRAPH,
    USERS,
    VECTORS,
    BundleHeader,
    read_header,
    side_graph,
)
from pmm.bundle.sums import verified_files
from pmm.errors import BrokenArtefact, InputError
from pmm.evaluate.popularity_mix import PopularityMix
from pmm.recommend.answers import TestUser
from pmm.recommend.catalogue_state import GrowingCatalogue
from pmm.recommend.encoder import Encoder
from pmm.recommend.item_index import USERS as MEASURED_BY
from pmm.recommend.item_index import IndexChoice
from pmm.recommend.loaded_model import LoadedModel


def is_bundle(place: Path) -> bool:
    """Whether a folder looks like one."""
    return (place / SUMS).is_file() and (place / HEADER).is_file()


@dataclass(frozen=True)
class Bundle:
    """A bundle, every file of which has been compared with its sum."""

    place: Path
    header: BundleHeader = field(init=False)

    def __post_init__(self) -> None:
        """Verify it.

        Raises:
            MissingArtefact: there is none.
            BrokenArtefact: it is damaged or lacks a file. StaleArtefact: of a later version.
        """
        names = verified_files(self.place)
        header = read_header(self.place)
        needed = [RECIPE, MODEL, ITEMS, VECTORS]
        needed += [PICTURES] * bool(header.pictures) + [USERS] * bool(header.users)
        if header.onnx:
            sides = [side for side in SIDES if header.content in (side, "both")]
            of_items = [ITEM_GRAPH, *(side_graph(side) for side in sides)]
            needed += [USER_GRAPH, *(of_items if header.reading is not None else [])]
        reads_texts = header.reading is not None and header.reading.tokenizer is not None
        needed += [TOKENIZER] * reads_texts
        lacking = [name for name in needed if name not in names]
        if lacking:
            raise BrokenArtefact(f"{self.place} lacks {', '.join(lacking)}. {AGAIN}")
        object.__setattr__(self, "header", header)

    @property
    def version(self) -> str:
        """Of the weights, as the run's."""
        return self.header.version

    @property
    def target(self) -> str:
        """Whose items it has."""
        return self.header.target

    @property
    def shards(self) -> str:
        """Fingerprint of what the items were made of."""
        return self.header.shards

    @cached_property
    def items(self) -> BundleItems:
        """Texts, pictures, categories and counts of the items."""
        return BundleItems.of(self.place, self.header)

    def users(self) -> list[TestUser]:
        """The test users, by which whoever loads it can check it."""
        return read_users(self.place, self.header, self.items.ids)

    def load(
        self, device: str = "auto", *, onnx: bool = False, index: IndexChoice = "auto"
    ) -> LoadedModel:
        """The model, ready to answer.

        Args:
            device: where torch computes.
            onnx: compute with onnxruntime on the CPU; torch is not even imported.
            index: how items are searched.

        Raises:
            PmmError: its files do not fit one another, it has no ONNX graphs, or an approximate
                index is asked for and cannot be had.
        """
        header, items = self.header, self.items
        input_NW, score_ND = read_vectors(self.place, header)
        chosen = header.popularity
        return LoadedModel(
            self._encoder(device, onnx=onnx),
            GrowingCatalogue(items.ids, input_NW, score_ND, items.count_N),
            items,
            version=header.version,
            chosen=PopularityMix(alpha=chosen.alpha, kappa=chosen.kappa) if chosen else None,
            index=index,
            sample=self._sample,
        )

    def _sample(self) -> list[Int64s]:
        """Histories of some test users, by row, on which an index is measured."""
        row_of = {item_id: row for row, item_id in enumerate(self.items.ids)}
        users = self.users()
        step = max(1, len(users) // MEASURED_BY)
        return [
            np.array([row_of[each] for each in user.history], np.int64) for user in users[::step]
        ]

    def _encoder(self, device: str, *, onnx: bool) -> Encoder:
        if onnx:
            if not self.header.onnx:
                raise InputError(f"{self.place} has no ONNX graphs: export it again with --onnx")
            from pmm.bundle.onnx_encoder import OnnxEncoder

            return OnnxEncoder(self.place, self.header)
        from pmm.bundle.torch_bundle import torch_encoder

        return torch_encoder(self.place, self.header, self.items.count_N, device)


def bundle_at(place: Path) -> Bundle | None:
    """The bundle in a folder; None where there is something else, such as a run.

    Raises:
        PmmError: as of `Bundle`.
    """
    return Bundle(place) if is_bundle(place) else None


def open_bundle(place: Path, device: str = "auto", *, onnx: bool = False) -> LoadedModel:
    """The model of a bundle, as `pmm.recommend.open_run.open_model` gives that of a run.

    Args:
        place: the bundle's folder.
        device: where torch computes.
        onnx: compute with onnxruntime on the CPU, without torch.

    Raises:
        PmmError: there is no bundle, or it is damaged; with `onnx`, it has no graphs.
    """
    return Bundle(place).load(device, onnx=onnx)
