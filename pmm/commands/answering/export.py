"""`pmm export`: a run as one folder that stands alone."""

from pmm.bundle.bundle_options import ExportRequest
from pmm.commands.from_request import GroupedCommand, make_command


def run(request: ExportRequest) -> None:
    """Write a run as one folder that stands alone.

    Weights, tokenizer, items with their vectors and pictures, a model card and checksums: it needs
    no home folder, no shards and no model hub, and holds nothing that is run when it is read.
    """
    from pmm.bundle.make_bundle import export_as_asked

    done = export_as_asked(request)
    print(
        f"{done['bundle']}: {done['items']:,} items, {done['pictures']:,} pictures, "
        f"{done['users']:,} test users, {done['bytes'] / 1e6:,.1f} MB"
    )
    if "pushed" in done:
        print(f"Uploaded to {done['pushed']}")
    print(f"Load it in Python: pmm.load({done['bundle']!r})")


def command() -> GroupedCommand:
    """The command."""
    example = "pmm export shop-first --to shop-bundle"
    return make_command("export", ExportRequest, run, example=example)
