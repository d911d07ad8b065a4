"""The raw formats of the four platforms: each one's layouts, and what writes them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pmm.errors import InputError, nearest
from pmm.world.formats.amazon_writer import write_amazon
from pmm.world.formats.defects import Defects
from pmm.world.formats.hm_writer import write_hm
from pmm.world.formats.microlens_writer import write_microlens
from pmm.world.formats.ninerec_writer import VideoPlatform, write_ninerec
from pmm.world.formats.pmmrec_writer import write_pmmrec
from pmm.world.generate import World

Counts = dict[str, dict[str, int]]
"""Source or target -> what was written and planted."""

Writer = Callable[[World, Path, Defects | None], Counts]


def _video(platform: VideoPlatform) -> dict[str, Writer]:
    """The layouts in which both video platforms are published."""
    return {
        "ninerec": lambda w, to, d: write_ninerec(w, platform, to, d),
        "ninerec-user-first": lambda w, to, d: write_ninerec(w, platform, to, d, item_first=False),
        "pmmrec": lambda w, to, d: write_pmmrec(w, platform, to, d, pictures="folder"),
        "pmmrec-lmdb": lambda w, to, d: write_pmmrec(w, platform, to, d, pictures="lmdb"),
    }


FORMATS: Mapping[str, Mapping[str, Writer]] = {
    "amazon": {
        "2018": lambda w, to, d: {"Amazon": write_amazon(w, to, d, edition="2018")},
        "2018-old": lambda w, to, d: {"Amazon": write_amazon(w, to, d, edition="2018-old")},
        "2023": lambda w, to, d: {"Amazon": write_amazon(w, to, d, edition="2023")},
    },
    "bili": _video("Bili"),
    "hm": {"kaggle": lambda w, to, d: {"HM": write_hm(w, to, d)}},
    "kwai": {
        **_video("Kwai"),
        "microlens": lambda w, to, d: write_microlens(w, to, d),
        "microlens-crlf": lambda w, to, d: write_microlens(w, to, d, crlf=True),
        "microlens-tsv": lambda w, to, d: write_microlens(w, to, d, pairs="tsv"),
    },
}
"""Platform as it is typed -> its layouts, the usual one first, and what writes each."""


def write_raw(
    world: World,
    platform: str,
    folder: Path,
    layout: str | None = None,
    defects: Defects | None = None,
) -> Counts:
    """Write a platform's raw files in one of its layouts.

    Args:
        platform: a key of FORMATS.
        layout: one of the platform's; None = its first.
        defects: what to plant; a small share of everything by default.

    Returns:
        what was written and planted, for each dataset in the files.

    Raises:
        InputError: no such platform or layout.
        StorageError: the folder cannot be written.
    """
    if platform not in FORMATS:
        raise InputError(f'no raw format "{platform}" ({nearest(platform, FORMATS)})')
    layouts = FORMATS[platform]
    chosen = next(iter(layouts)) if layout is None else layout
    if chosen not in layouts:
        raise InputError(f'{platform} has no layout "{chosen}" ({nearest(chosen, layouts)})')
    return layouts[chosen](world, folder, defects)
