"""The layout of the paper's published code: histories, titles, and pictures in an LMDB or a folder.

`<P>_users.tsv` holds histories (`pmm.ingest.readers.histories`), `<P>_items_texts.tsv` lines of
`item<TAB>title` in one language, `<P>_items_images.lmdb` the pictures
(`pmm.ingest.pictures.lmdb_pictures`); a folder of pictures serves as well, and goes before the
store: it holds the originals.
"""

from collections.abc import Iterator

from pmm.ingest.sources.video.dataset_files import (
    DatasetFiles,
    FolderListing,
    IncompleteDataset,
    pictures_beside,
)

_USERS, _TEXTS = "_users.tsv", "_items_texts.tsv"


def find(listing: FolderListing) -> Iterator[DatasetFiles | IncompleteDataset]:
    """The datasets of this layout in a folder."""
    stems = list(listing.stems(_TEXTS))
    for stem, name in stems:
        users = listing.file(f"{stem}{_USERS}")
        if users is None:
            yield IncompleteDataset(
                name=stem, missing=f"{stem}{_USERS} beside {listing.folder / name}"
            )
            continue
        yield DatasetFiles(
            name=stem,
            layout="PMMRec",
            interactions=users,
            titles=(listing.folder / name,),
            pictures=pictures_beside(listing, stem, alone=len(stems) == 1),
        )
    for stem, name in listing.stems(_USERS):
        if listing.file(f"{stem}{_TEXTS}") is None:
            yield IncompleteDataset(
                name=stem, missing=f"{stem}{_TEXTS} beside {listing.folder / name}"
            )
