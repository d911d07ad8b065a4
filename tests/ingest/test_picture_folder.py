import unicodedata

import pyarrow as pa
import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.ingest.pictures.picture_folder import PictureFolder, describe_pictures, suffixes


def listed(images: dict[str, str | None]) -> pa.Table:
    """Items with the pictures that were found for them."""
    columns = [pa.array(images, pa.string()), pa.array(images.values(), pa.string())]
    return pa.table(columns, names=["item_id", "image"])


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


def test_a_linked_folder_is_followed_and_told_of(folder, tmp_path):
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "deep" / "9.jpg").write_bytes(b"x")
    (folder / "link").symlink_to("../other")
    pictures = PictureFolder(folder)
    assert pictures.of_item("9") == pictures.at("deep/9.jpg") == "link/deep/9.jpg"
    assert pictures.notes(listed({"9": "link/deep/9.jpg"})) == {"linked folders": 1}


def test_links_in_circles_and_second_names_of_a_folder_add_nothing(folder, tmp_path):
    before = PictureFolder(folder)
    (folder / "a" / "self").symlink_to(".")
    (folder / "a" / "up").symlink_to("..")
    (folder / "0").symlink_to("a")
    (folder / "root").symlink_to("/")
    (folder / "beside").symlink_to(tmp_path)
    (folder / "knot").symlink_to("knot")
    (folder / "gone").symlink_to("nothing")
    after = PictureFolder(folder)
    assert (after.paths, after.digest()) == (before.paths, before.digest())
    assert after.at("0/1.JPG") == after.at("a/up/a/self/1.JPG") == "a/1.JPG"
    assert after.at("0/../../secret.jpg") is None
    assert after.notes(listed({"1": "a/1.JPG"})) == {}


def test_two_links_to_a_folder_and_one_to_a_part_of_it_read_it_once(folder, tmp_path):
    (tmp_path / "other" / "part").mkdir(parents=True)
    (tmp_path / "other" / "part" / "9.jpg").write_bytes(b"x")
    (folder / "m").symlink_to("../other/part")
    (folder / "n").symlink_to("../other")
    (folder / "o").symlink_to("../other")
    pictures = PictureFolder(folder)
    assert [path for path in pictures.paths if "9" in path] == ["m/9.jpg"]
    assert pictures.at("o/part/9.jpg") == pictures.at("n/part/9.jpg") == "m/9.jpg"


@pytest.mark.parametrize(
    "suffix", ["gif", "GIF", "avif", "bmp", "Bmp", "tif", "TIFF", "jfif", "JPE", "jp2", "webp"]
)
def test_every_format_that_is_decoded_is_looked_for(folder, suffix):
    (folder / f"9.{suffix}").write_bytes(b"x")
    assert PictureFolder(folder).of_item("9") == f"9.{suffix}"


def test_what_this_pillow_does_not_decode_is_not_looked_for(folder, monkeypatch):
    monkeypatch.setattr("PIL.features.get_supported", lambda: ["jpg", "zlib", "webp"])
    (folder / "9.avif").write_bytes(b"x")
    suffixes.cache_clear()
    try:
        pictures = PictureFolder(folder)
    finally:
        suffixes.cache_clear()
    assert pictures.of_item("9") is None
    assert pictures.notes(listed({"9": None}))["other kinds"] == {".txt": 1, ".avif": 1}


def test_every_suffix_that_is_looked_for_is_decoded_when_shards_are_made(tmp_path):
    from pmm.shards.jpeg import shrink

    for suffix in suffixes():
        image = Image.new("RGB", (9, 7), (200, 30, 30))
        kind = Image.registered_extensions()[suffix]
        image.save(tmp_path / f"x{suffix}", format=kind)
        pixels, size = shrink((tmp_path / f"x{suffix}").read_bytes(), 8)
        assert (pixels.shape, size) == ((8, 8, 3), (9, 7))


def test_names_and_ids_are_compared_in_nfc(folder):
    (folder / unicodedata.normalize("NFD", "é1.jpg")).write_bytes(b"x")
    (folder / unicodedata.normalize("NFD", "ü")).mkdir()
    (folder / unicodedata.normalize("NFD", "ü") / "é2.jpg").write_bytes(b"x")
    pictures = PictureFolder(folder)
    for form in ("NFC", "NFD"):
        first = pictures.of_item(unicodedata.normalize(form, "é1"))
        second = pictures.at(unicodedata.normalize(form, "ü/é2.jpg"))
        assert (first, second) == (
            unicodedata.normalize("NFD", "é1.jpg"),
            unicodedata.normalize("NFD", "ü/") + "é2.jpg",
        )


def test_of_several_pictures_of_an_item_a_jpeg_goes_first_and_they_are_counted(folder):
    decomposed = unicodedata.normalize("NFD", "é.jpg")
    for name in ("9.avif", "9.png", "9.jpg", "8.gif", "8.bmp", "é.jpg", decomposed):
        (folder / name).touch()
    pictures = PictureFolder(folder)
    found = {each: pictures.of_item(each) for each in ("9", "8", "é", "2")}
    assert found == {"9": "9.jpg", "8": "8.bmp", "é": decomposed, "2": "2.jpeg"}
    assert pictures.notes(listed(found)) == {"several pictures": 3}
    assert pictures.at("posters/9.png") == "9.png"


def test_what_a_spreadsheet_makes_of_names_is_proposed_and_not_taken(folder):
    for name in ("0012.jpg", "7.0.jpg", "0.jpg", "v5.jpg", "08.jpg"):
        (folder / name).touch()
    items = {"12": None, "007": None, "00.0": None, "5": None, "8": None, "08": "08.jpg"}
    pictures = PictureFolder(folder)
    assert {each: pictures.of_item(each) for each in items} == items
    notes = pictures.notes(listed(items))
    assert notes["alike"] == 3  # v5 is no number, and 08.jpg is another item's
    assert notes["alike, e.g."] == {"12": "0012.jpg", "007": "7.0.jpg", "00.0": "0.jpg"}
    assert "3 items without a picture may have one" in describe_pictures(notes)[-1]


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
