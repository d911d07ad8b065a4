"""A folder that is whole or absent: written beside its place, then renamed."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pmm.bundle.layout import HEADER, SUMS
from pmm.errors import InputError
from pmm.storage.artefact import exclusive, storage_errors
from pmm.storage.atomic import signals_held, sync


@contextmanager
def replaced_folder(place: Path, *, overwrite: bool) -> Iterator[Path]:
    """A draft that takes the place of a bundle when the block ends well.

    A kill at any moment leaves the bundle that was there before, or the new one; what it leaves
    beside them is removed by the next export to the same place.

    Raises:
        InputError: there is a bundle already and it is not to be replaced, or something else.
        StorageError: the folder cannot be written, the disk is full, or another process writes it.
    """
    draft, old = (place.with_name(f".{place.name}.{each}") for each in ("partial", "old"))
    with storage_errors(place, "--to"):
        place.parent.mkdir(parents=True, exist_ok=True)
    taken = f"{place} is being written by another pmm process; wait for it, or end it"
    with (
        exclusive(place.with_name(f".{place.name}.lock"), taken),
        storage_errors(place, "--to"),
    ):
        if old.exists() and not place.exists():  # cut off between the two renames
            old.rename(place)
        for leftover in (draft, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        _require_free(place, overwrite=overwrite)
        draft.mkdir()
        try:
            yield draft
            for path in draft.rglob("*"):
                sync(path)
            with signals_held():
                if place.exists():
                    place.rename(old)
                draft.rename(place)
            sync(place.parent)
        finally:
            for leftover in (draft, old):
                with contextlib.suppress(OSError):
                    if leftover.exists() and (leftover == draft or place.exists()):
                        shutil.rmtree(leftover)


def _require_free(place: Path, *, overwrite: bool) -> None:
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise InputError(f"{place} is no folder: choose another --to")
    if not place.exists() or not any(place.iterdir()):
        return
    if not ((place / HEADER).is_file() and (place / SUMS).is_file()):
        raise InputError(f"{place} holds files but no bundle of pmm: choose another --to")
    if not overwrite:
        raise InputError(
            f"{place} holds a bundle already: add --overwrite to replace it, or choose another --to"
        )
