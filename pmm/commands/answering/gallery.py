"""`pmm gallery`: a run as one HTML file."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.serve.gallery_request import GalleryRequest, write_gallery


def run(request: GalleryRequest) -> None:
    """A run as one HTML file that anybody can open.

    Items with pictures, test users with what they took next, the model's recommendations for them
    with reasons, and similar items. The file fetches nothing; answers for other histories are an
    estimate, and it says so. With pmm serve the model itself answers.
    """
    made = write_gallery(request)
    users = f"{made['users']:,} test users"
    if made["no_room"]:
        users += " (with more --items there is room for more users)"
    print(
        f"{request.html}: {made['items']:,} items, {made['pictures']:,} pictures, {users}, "
        f"{made['bytes'] / 2**20:.1f} MiB. Open it in a browser"
    )


def command() -> GroupedCommand:
    """The command."""
    example = "pmm gallery hm-shoes-finetune --html gallery.html"
    return make_command("gallery", GalleryRequest, run, example=example)
