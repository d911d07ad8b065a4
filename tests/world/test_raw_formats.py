"""Every raw format and layout: the same bytes each time, every planted defect in the files."""

import hashlib
import itertools
from pathlib import Path

import pytest
from PIL import Image

from pmm.errors import InputError, StorageError
from pmm.world import World, generate
from pmm.world.formats.defects import NO_DEFECTS, Defects
from pmm.world.formats.raw_files import plan_dataset
from pmm.world.formats.raw_formats import FORMATS, write_raw

ALL = [(platform, layout) for platform, layouts in FORMATS.items() for layout in layouts]
MANY = Defects(
    missing_pictures=0.05,
    broken_pictures=0.05,
    odd_pictures=0.08,
    missing_texts=0.05,
    markup=0.08,
    repeated_rows=0.02,
    relisted_items=0.05,
    unlisted_items=0.03,
)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(("platform", "layout"), ALL)
def test_the_same_world_gives_the_same_bytes_also_over_what_was_there(
    tiny: World, tmp_path: Path, platform: str, layout: str
) -> None:
    first = write_raw(tiny, platform, tmp_path / "a", layout)
    write_raw(tiny, platform, tmp_path / "b", layout, NO_DEFECTS)
    assert digests(tmp_path / "b") != digests(tmp_path / "a")
    assert write_raw(generate("tiny", 0), platform, tmp_path / "b", layout) == first
    assert digests(tmp_path / "b") == digests(tmp_path / "a")


@pytest.mark.parametrize(("platform", "layout"), ALL)
def test_a_world_without_defects_counts_none(
    tiny: World, tmp_path: Path, platform: str, layout: str
) -> None:
    for name, counts in write_raw(tiny, platform, tmp_path, layout, NO_DEFECTS).items():
        drawn = tiny.sequences(name)
        sizes = {"rows": len(drawn.items), "users": len(drawn)}
        sizes |= dict.fromkeys(("items", "pictures"), len(tiny.items(name)))
        timeless = layout.startswith("pmmrec") or layout.endswith("tsv")
        sizes["tied_rows"] = 0 if timeless else plan_dataset(tiny, name, None).actions.tied
        assert counts == {**dict.fromkeys(counts, 0), **sizes}


@pytest.mark.parametrize(
    ("platform", "layout"), [each for each in ALL if "lmdb" not in each[1] and each[0] != "hm"]
)
def test_planted_pictures_of_the_video_layouts_are_what_the_writer_says(
    tiny: World, tmp_path: Path, platform: str, layout: str
) -> None:
    said = write_raw(tiny, platform, tmp_path, layout, MANY).values()
    found: dict[str, int] = dict.fromkeys(("truncated", "text", "L", "CMYK", "RGBA", "RGB"), 0)
    for path in tmp_path.rglob("*.jpg"):
        found[kind_of(path)] += 1
    kinds = ("truncated", "text_files_as", "grey", "cmyk", "alpha")
    planted = [sum(counts[f"{kind}_pictures"] for counts in said) for kind in kinds]
    assert list(found.values())[:5] == planted
    assert min(planted) > 0
    assert sum(found.values()) == sum(counts["pictures"] for counts in said)
    assert all(one["items"] - one["missing_pictures"] == one["pictures"] for one in said)


def kind_of(path: Path) -> str:
    """A picture's mode, or what is wrong with it."""
    if path.read_bytes().startswith(b"<"):
        return "text"
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.mode
    except OSError:
        return "truncated"


@pytest.mark.parametrize("order", ["time", "scattered", "user"])
def test_rows_read_by_their_times_are_each_users_walk(tiny: World, order: str) -> None:
    dataset = plan_dataset(tiny, "Kwai", NO_DEFECTS, order=order)
    drawn = tiny.sequences("Kwai")
    true = {
        u: drawn.items[drawn.starts[u] : drawn.starts[u + 1]].tolist() for u in range(len(drawn))
    }
    walks: dict[int, list[tuple[int, int]]] = {}
    for user, item, time in dataset.rows():
        walks.setdefault(user, []).append((time, item))
    found = {
        user: [item for _, item in sorted(walk, key=lambda t: t[0])] for user, walk in walks.items()
    }
    assert found == true == dataset.walks()


def test_scattered_rows_cannot_be_ordered_by_the_file_alone(tiny: World) -> None:
    times: dict[int, list[int]] = {}
    for user, _, time in plan_dataset(tiny, "Amazon", NO_DEFECTS, order="scattered").rows():
        times.setdefault(user, []).append(time)
    mixed = sum(walk != sorted(walk) for walk in times.values())
    assert mixed > 0.9 * len(times)


def test_planted_repeats_stand_below_their_first_and_in_the_truth(tiny: World) -> None:
    dataset = plan_dataset(tiny, "Kwai", Defects(repeated_rows=0.05), order="scattered")
    rows = dataset.rows()
    repeats = sum(one == two for one, two in itertools.pairwise(rows))
    assert repeats == len(dataset.plan.repeated) == len(rows) - len(dataset.actions.user) > 50
    twice = [walk for walk in dataset.walks().values() if len(walk) != len(set(walk))]
    assert sum(len(walk) - len(set(walk)) for walk in twice) == repeats


@pytest.mark.parametrize(
    ("platform", "layout", "hint"),
    [("amazn", None, '"amazon"'), ("kwai", "microlense", '"microlens"'), ("hm", "2018", "kaggle")],
)
def test_a_wrong_format_or_layout_is_answered_with_the_nearest(
    tiny: World, tmp_path: Path, platform: str, layout: str | None, hint: str
) -> None:
    with pytest.raises(InputError, match=hint):
        write_raw(tiny, platform, tmp_path, layout)


@pytest.mark.parametrize("platform", FORMATS)
def test_a_folder_that_cannot_be_made_is_a_storage_error_in_every_format(
    tiny: World, tmp_path: Path, platform: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        write_raw(tiny, platform, tmp_path / "file" / "raw")
