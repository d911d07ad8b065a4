"""`pmm gallery`: a run as one HTML file that anybody can open, with no server behind it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.advice import command
from pmm.errors import InputError, StorageError
from pmm.flags import Flag
from pmm.storage.artefact import atomic_file
from pmm.storage.home import Home, place_of_run

MOST_ITEMS, MOST_USERS = 5_000, 1_000
"""Of a page; a browser opens it as a whole."""


@dataclass(frozen=True, kw_only=True)
class GalleryRequest:
    """What `pmm gallery` can be asked."""

    run: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """Folder of a run, or its name; or the folder of a bundle."""
    html: Annotated[Path, Flag(group="output", metavar="FILE")]
    """The file to write; one that is there is replaced."""
    items: Annotated[int, Flag(group="output")] = 500
    """Items in it at most, with their pictures: those of its users, then the most frequent."""
    users: Annotated[int, Flag(group="output")] = 24
    """Test users in it at most, spread over all; with as many as have room among the items."""
    target: Annotated[str | None, Flag(group="data", shown="its own")] = None
    """Another dataset, answered for without training."""
    device: Annotated[str, Flag(group="training")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    home: Annotated[Path | None, Flag(group="output", shown="that of the run")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        if not 1 <= self.items <= MOST_ITEMS:
            raise InputError(f"--items must be from 1 to {MOST_ITEMS:,}, found {self.items}")
        if not 0 <= self.users <= MOST_USERS:
            raise InputError(f"--users must be from 0 to {MOST_USERS:,}, found {self.users}")

    def place(self) -> tuple[Home, Path]:
        """The home folder and the run's folder."""
        return place_of_run(self.home, self.run)


def write_gallery(request: GalleryRequest) -> dict[str, int]:
    """Write the page of a run.

    Returns:
        "items", "users" and "pictures" in it, its "bytes", and how many users had "no_room".

    Raises:
        PmmError: there is no such run, it does not fit its shards, or the file cannot be written.
    """
    from pmm.serve.gallery_data import gallery_data
    from pmm.serve.load_served import open_served
    from pmm.serve.page_file import page_of

    place = _writable(request)
    home, run_dir = request.place()
    served = open_served(run_dir, home, device=request.device, target=request.target)
    users = served.users.spread(request.users)
    data = gallery_data(
        served.model,
        users,
        run=served.name,
        target=served.target,
        most_items=request.items,
    )
    html = page_of(data).html.encode()
    try:
        with atomic_file(place) as temporary:
            temporary.write_bytes(html)
    except OSError as error:
        raise StorageError(f"{place} cannot be written ({error.strerror})") from error
    pictures = sum(item["picture"] is not None for item in data["items"])
    return {
        "items": len(data["items"]),
        "users": len(data["users"]),
        "no_room": len(users) - len(data["users"]),
        "pictures": pictures,
        "bytes": len(html),
    }


def _writable(request: GalleryRequest) -> Path:
    """The file, judged before the model is loaded.

    Raises:
        InputError: it is a folder, or its folder is not there.
    """
    place = request.html.expanduser().absolute()
    if place.is_dir():
        again = command("gallery", request.run, html=place / "gallery.html", home=request.home)
        raise InputError(f"--html {request.html} is a folder: name the file. Run: {again}")
    if not place.parent.is_dir():
        raise InputError(f"--html {request.html}: there is no folder {place.parent}")
    return place
