"""What an evaluation leaves in a run's folder: all of it or none, of the weights that are there."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pmm.advice import command
from pmm.errors import StaleArtefact
from pmm.runs.folder import evaluations_held
from pmm.runs.trackers import show_evaluation
from pmm.runs.weights import BEST, read_header
from pmm.storage.artefact import storage_errors, write_json
from pmm.storage.schemas import RANKS, write_table
from pmm.storage.seal import sealed_files


class Unchanged(Protocol):
    """Something that was read and may have been written anew since."""

    def require_unchanged(self) -> None:
        """Raise StaleArtefact where it has been."""
        ...


@dataclass(frozen=True)
class SameWeights:
    """The weights that were ranked, by the header of their file."""

    run_dir: Path
    header: Mapping[str, Any]

    def require_unchanged(self) -> None:
        """Refuse to publish an evaluation of weights that a training has replaced meanwhile.

        Raises:
            StaleArtefact: the best weights are others now.
        """
        again = command("evaluate", self.run_dir)
        if read_header(self.run_dir / BEST, made_by=again) != self.header:
            raise StaleArtefact(
                f"the best weights of {self.run_dir} changed while they were ranked: a training "
                f"goes on there. Run {again} again"
            )


def publish(
    run_dir: Path,
    suffix: str,
    tables: Mapping[str, pa.Table],
    metrics: dict[str, Any],
    *,
    draw: Callable[[Path], None] | None,
    still: Iterable[Unchanged],
) -> None:
    """Write tables of ranks, gallery.png and metrics.json, all of one evaluation or none.

    Args:
        run_dir: the run's folder.
        suffix: to all names.
        tables: name without suffix and ending -> ranks; the digest of "ranks" goes into `metrics`.
        metrics: of this evaluation.
        draw: draws the gallery.
        still: asked when all is written: they raise where it is about other weights or shards.

    Raises:
        StaleArtefact: one of these. StorageError: the folder cannot be written.
    """

    def unchanged() -> None:
        for each in still:
            each.require_unchanged()

    with storage_errors(run_dir), evaluations_held(run_dir):
        with sealed_files(before=unchanged) as temporary_of:
            for name, table in tables.items():
                path = temporary_of(run_dir / f"{name}{suffix}.parquet")
                write_table(path, table, RANKS)
                if name == "ranks":
                    metrics["ranks_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            if draw is not None:
                draw(temporary_of(run_dir / f"gallery{suffix}.png"))
            write_json(temporary_of(run_dir / f"metrics{suffix}.json"), metrics)
        show_evaluation(run_dir, suffix, metrics)
