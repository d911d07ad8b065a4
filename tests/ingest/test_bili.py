import shutil

import pytest

from pmm.errors import InputError
from pmm.ingest.sources.video.bili import BILI_TARGETS, bili_name, ingest_bili
from pmm.ingest.sources.video.dataset_files import FolderListing, walk
from pmm.ingest.sources.video.datasets import VideoFiles
from pmm.ingest.targets.target_tables import IngestOptions


@pytest.fixture
def put(tmp_path):
    """Writes a small dataset in NineRec's layout into a folder below raw/."""

    def write(place, name=None, users=3, fault=""):
        folder = tmp_path / "raw" / place
        folder.mkdir(parents=True, exist_ok=True)
        name = name or folder.name
        rows = [f"{i},9{u},{100 + i}\n" for i in range(1, 5) for u in range(users)]
        (folder / f"{name}_pair.csv").write_text("".join(rows) + fault)
        (folder / f"{name}_item.csv").write_text(
            "".join(f"{i},菜 {i},Dish {i}\n" for i in range(1, 5))
        )
        (folder / f"{name}_cover").mkdir()
        for i in range(1, 5):
            (folder / f"{name}_cover" / f"{i}.jpg").write_bytes(b"picture")
        return folder

    return write


@pytest.fixture
def ingest(home, tmp_path):
    def run(*targets, raw="raw", **options):
        files = VideoFiles(raw=tmp_path / raw)
        chosen = IngestOptions(**{"user_core": 3, "item_core": 0, **options})
        return ingest_bili(home, files, targets, chosen)

    return run


def test_everything_that_is_there_is_read_in_the_papers_order(put, ingest, home, adds_up):
    put("Downstream_datasets/Bili_Cartoon", users=5)
    put("Downstream_datasets/Bili_Dance", users=6)
    put("Source_datasets/Bili_500K", users=4)
    put("Downstream_datasets/deeper/Bili_Food", users=3)
    cards = ingest()
    names = ["Bili", "Bili Food", "Bili Movie", "Bili Cartoon", "Bili Dance"]
    assert [card["target"] for card in cards] == names
    assert [card["statistics"]["users"] for card in cards if "statistics" in card] == [4, 3, 5, 6]
    assert cards[2]["left_out"].startswith("no files of Bili Movie below")
    assert all(adds_up(card) for card in cards if "rows" in card)
    assert home.tables("Bili Food").is_dir()


def test_only_what_was_asked_for_is_read(put, ingest, home):
    put("Bili_Food")
    put("Bili_Movie", fault='"')
    assert [card["target"] for card in ingest("bili food")] == ["Bili Food"]
    assert not home.tables("Bili Movie").exists()


def test_a_dataset_that_was_asked_for_and_is_not_there_is_an_error(put, ingest):
    folder = put("Bili_Food")
    with pytest.raises(InputError, match='files of "Bili Movie"'):
        ingest("Bili Food", "Bili Movie")
    (folder / "Bili_Food_item.csv").unlink()
    with pytest.raises(InputError, match=r"missing: Bili_Food_item\.csv beside"):
        ingest("Bili Food")


def test_half_a_dataset_that_was_not_asked_for_is_left_out_with_what_is_missing(put, ingest):
    put("Bili_Food")
    (put("Bili_Movie") / "Bili_Movie_pair.csv").unlink()
    card = next(card for card in ingest() if card["target"] == "Bili Movie")
    assert card["left_out"].startswith("missing: Bili_Movie_pair.csv or Bili_Movie_behaviour.tsv")


def test_a_dataset_without_pictures_is_left_out_or_told_or_goes_on_as_text(put, ingest):
    put("Bili_Food")
    shutil.rmtree(put("Bili_500K") / "Bili_500K_cover")
    cards = ingest()
    assert "has no pictures of Bili_500K: expected is a folder" in cards[0]["left_out"]
    assert cards[1]["statistics"]["users"] == 3
    with pytest.raises(InputError, match=r"Bili: .*--missing-image text-only"):
        ingest("Bili")
    assert ingest("Bili", missing_image="text-only")[0]["items_without_image"] == 4


def test_where_no_dataset_can_be_used_the_first_reason_is_an_error(put, ingest):
    shutil.rmtree(put("Bili_Food") / "Bili_Food_cover")
    shutil.rmtree(put("Bili_Movie") / "Bili_Movie_cover")
    with pytest.raises(InputError, match=r"Bili Food: .* has no pictures of Bili_Food"):
        ingest()


def test_two_datasets_for_one_name_are_an_error_that_lists_both(put, ingest):
    put("Source_datasets/Bili_2M")
    put("Source_datasets/Bili_500K")
    put("Bili_Food")
    with pytest.raises(
        InputError, match=r"could be \"Bili\":\n.*Bili_2M.*\n.*Bili_500K.*\n.*--raw"
    ):
        ingest()
    assert len(ingest("Bili Food")) == 1
    assert ingest("Bili", raw="raw/Source_datasets/Bili_2M")[0]["target"] == "Bili"


def test_nothing_at_all_lists_the_raw_files(tmp_path, ingest):
    with pytest.raises(InputError, match=r"raw files of .* are not"):
        ingest()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "KU_pair.csv").write_text("1,2,3\n")
    with pytest.raises(InputError, match="bili"):
        ingest()


def test_a_file_in_place_of_bilis_raw_folder_is_refused(tmp_path, ingest):
    (tmp_path / "raw").write_text("x")
    with pytest.raises(InputError, match="is a file; expected is the folder"):
        ingest()


def test_an_unknown_target_of_bili_is_refused_before_anything_is_read(ingest):
    with pytest.raises(InputError, match='unknown target "Bili Fod": did you mean "Bili Food"'):
        ingest("Bili Fod")


def test_an_empty_core_names_its_dataset(put, ingest):
    put("Bili_Food")
    with pytest.raises(InputError, match="Bili Food: the core of users with at least 50"):
        ingest(user_core=50)


def test_a_dataset_of_which_the_core_leaves_nothing_does_not_stop_the_others(put, ingest, home):
    put("Bili_Food", users=3)
    put("Bili_Movie", users=6)
    cards = {card["target"]: card for card in ingest(item_core=5)}
    assert cards["Bili Movie"]["statistics"]["users"] == 6
    assert cards["Bili Food"]["left_out"].startswith("Bili Food: the core of users with at least 3")
    assert "--user-core 3 --item-core 3  leaves 12 inter" in cards["Bili Food"]["left_out"]
    assert not home.target("Bili Food").exists()
    with pytest.raises(InputError, match="Bili Food: the core of users"):
        ingest("Bili Food", item_core=5)


def test_nothing_is_written_again_where_nothing_changed(put, ingest):
    put("Bili_Food")
    assert ingest("Bili Food")[0]["fresh"]
    assert not ingest("Bili Food")[0]["fresh"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *[(name, "Bili") for name in ("Bili_2M", "Source_Bili_2M", "bilibili_pick_10W", "bili")],
        *[(name, "Bili Food") for name in ("Bili_Food", "bilibili_food", "BILI-FOOD")],
        *[("Bili_Dance", "Bili Dance"), ("bilibili_music", "Bili Music")],
        *[(name, None) for name in ("billing", "KU", "kuaishou_food", "QB", "biliary_tract")],
    ],
)
def test_names_of_files_name_bilis_targets(name, target):
    assert bili_name(name) == target


def test_the_papers_datasets_come_first():
    assert list(BILI_TARGETS)[:4] == ["Bili", "Bili Food", "Bili Movie", "Bili Cartoon"]


def test_folders_are_searched_three_levels_deep_and_pictures_are_not_entered(tmp_path):
    (tmp_path / "a" / "b" / "c" / "d").mkdir(parents=True)
    (tmp_path / "a" / "X_cover" / "inside").mkdir(parents=True)
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a" / "itself")
    found = [listing.folder.relative_to(tmp_path).as_posix() for listing in walk(tmp_path)]
    assert found == [".", "a", "a/b", "a/b/c"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        FolderListing(tmp_path / "none")
