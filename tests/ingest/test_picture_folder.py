import pytest

from pmm.errors import InputError
from pmm.ingest.pictures.picture_folder import PictureFolder


@pytest.fixture
def folder(tmp_path):
    for name in ("secret.jpg", "pics/a/1.JPG", "pics/b/1.png", "pics/2.jpeg", "pics/3.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "pics" / "4.txt").write_bytes(b"x")
    return tmp_path / "pics"


def test_pictures_are_found_by_stem_whatever_folder_and_suffix(folder):
    found = [PictureFolder(folder).of_item(item) for item in ("1", "2", "3", "4", "5")]
    assert found == ["a/1.JPG", "2.jpeg", "3.webp", None, None]


@pytest.mark.parametrize("path", ["b/1.png", "./b//1.png", "b\\1.png", "x/../b/1.png"])
def test_a_named_picture_is_found_by_its_path(folder, path):
    assert PictureFolder(folder).at(path) == "b/1.png"


def test_a_path_that_begins_elsewhere_falls_back_to_the_file_name(folder):
    assert PictureFolder(folder).at("images/posters/2.jpeg") == "2.jpeg"


@pytest.mark.parametrize("name", ["../secret.jpg", "../secret", "/etc/passwd", "..", "", "\x00"])
def test_nothing_outside_the_folder_is_reached(folder, name):
    pictures = PictureFolder(folder)
    assert pictures.at(name) is None
    assert pictures.of_item(name) is None


def test_a_link_to_a_folder_outside_is_not_followed(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "9.jpg").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "other")
    assert PictureFolder(folder).of_item("9") is None


def test_the_digest_changes_with_the_pictures(folder):
    before = PictureFolder(folder).digest()
    (folder / "7.jpg").write_bytes(b"x")
    assert PictureFolder(folder).digest() != before


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"folder of pictures .*none cannot be read \(No such"):
        PictureFolder(tmp_path / "none")


def test_a_file_instead_of_a_folder_is_refused(folder):
    with pytest.raises(InputError, match=r"2\.jpeg is a file; expected is a folder of pictures"):
        PictureFolder(folder / "2.jpeg")


def test_a_file_name_that_several_pictures_have_names_none_of_them(folder):
    assert PictureFolder(folder).at("c/1.png") is None
