import gzip
import io
import pickle

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.ingest.readers.titles import read_title_lines
from pmm.ingest.sources.video.bili import ingest_bili
from pmm.ingest.sources.video.datasets import VideoFiles
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.world.lmdb_image import LMDB_Image

ITEMS = ["v1", "v2", "v30", "v400"]
USERS = "".join(f"u{n}\tv1 v30 v2 v400\n" for n in range(3))
TEXTS = "".join(f"{item}\tTitle of {item}\n" for item in ITEMS)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def jpeg(seed):
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def write_food(tmp_path):
    """Writes bili_food in the layout of the paper's code."""

    def write(users=USERS, texts=TEXTS, pictures="lmdb", broken=(), name="bilibili_food"):
        place = tmp_path / "raw" / "bili_food"
        place.mkdir(parents=True, exist_ok=True)
        for ending, content in (("users", users), ("items_texts", texts)):
            raw = content.encode() if isinstance(content, str) else content
            (place / f"{name}_{ending}.tsv").write_bytes(raw)
        path = place / f"{name}_items_images.lmdb"
        if pictures == "lmdb":
            with (
                lmdb.open(str(path), subdir=False, map_size=1 << 22) as env,
                env.begin(write=True) as writing,
            ):
                for item in ITEMS:
                    number = int(item.replace("v", ""))
                    value = pickle.dumps(LMDB_Image(picture(number), number))
                    writing.put(str(number).encode(), b"?" if item in broken else value)
                writing.put(b"__keys__", pickle.dumps([]))
                writing.put(b"__len__", pickle.dumps(0))
            return path
        (place / pictures).mkdir()
        for item in ITEMS:
            (place / pictures / f"{item}.jpg").write_bytes(jpeg(1))
        return path

    return write


@pytest.fixture
def ingest(home, tmp_path):
    def run(**options):
        files = VideoFiles(raw=tmp_path / "raw")
        chosen = IngestOptions(**{"user_core": 3, "item_core": 0, **options})
        return ingest_bili(home, files, ["Bili Food"], chosen)[0]

    return run


def items_of(home):
    return pq.read_table(home.tables("Bili Food") / "items.parquet").to_pylist()


def test_histories_titles_and_the_store_become_a_target(
    write_food, ingest, sequences, adds_up, home
):
    write_food()
    card = ingest()
    assert sequences("Bili Food") == {f"u{n}": ["v1", "v30", "v2", "v400"] for n in range(3)}
    assert adds_up(card)
    assert card["detected"]["pictures"]["outcomes"] == {"ok": 4}
    assert items_of(home)[2] == {
        "item_id": "v30",
        "text": "Title of v30",
        "image": "30.png",
        "categories": [],
    }


def test_a_picture_of_the_target_is_the_one_in_the_store(write_food, ingest, home):
    write_food()
    folder = ingest()["pictures"]
    image = items_of(home)[1]["image"]
    with Image.open(f"{folder}/{image}") as found:
        assert np.array_equal(np.asarray(found), picture(2))


def test_a_broken_picture_drops_its_item_and_is_counted(write_food, ingest, adds_up):
    write_food(broken=["v2"])
    card = ingest()
    assert card["detected"]["pictures"]["outcomes"] == {"no pickled LMDB_Image": 1, "ok": 3}
    assert card["rows"]["dropped"] == {"item without picture": 3}
    assert adds_up(card)


@pytest.mark.parametrize(
    "folder", ["bilibili_food_items_images", "bilibili_food_cover", "images", "cover"]
)
def test_a_folder_of_pictures_serves_as_well(write_food, ingest, home, folder):
    write_food(pictures=folder)
    ingest()
    assert [row["image"] for row in items_of(home)] == ["v1.jpg", "v2.jpg", "v30.jpg", "v400.jpg"]


def test_an_own_folder_goes_before_the_store_and_the_store_before_a_nameless_folder(
    write_food, ingest
):
    write_food()
    write_food(pictures="images")
    assert ingest()["detected"]["pictures"]["layout"] == "LMDB"
    write_food(pictures="bilibili_food_items_images")
    assert ingest()["detected"]["pictures"]["name"] == "bilibili_food_items_images"


def test_a_changed_store_is_read_anew_and_the_old_pictures_go(write_food, ingest, home):
    write_food()
    before = ingest()["pictures"]
    assert not ingest()["fresh"]
    write_food(broken=["v1"])
    card = ingest()
    assert card["fresh"]
    assert card["pictures"] != before
    assert len(list((home.root / "pictures" / "bili-food").glob("*/"))) == 1


def test_further_tabs_belong_to_the_title_and_lines_without_one_are_counted(
    write_food, ingest, tables_card, home
):
    texts = TEXTS.replace("Title of v1\n", "One\ttwo\t three\n").replace("of v2\n", "of\n v2\n")
    write_food(texts=texts)
    ingest()
    assert items_of(home)[0]["text"] == "One two three"
    assert items_of(home)[1]["text"] == "Title of"
    assert tables_card("Bili Food")["items"]["dropped"] == {"malformed row": 1}


def test_users_without_items_and_broken_lines_add_up(write_food, ingest, tables_card, adds_up):
    write_food(users=USERS + "w\t\nx\ny\tv1  v9 v30\n")
    card = ingest(user_core=0)
    assert card["rows"]["read"] == 12 + 1 + 1 + 3
    assert adds_up(card)
    assert tables_card("Bili Food")["interactions"]["dropped"] == {
        "user without items": 1,
        "malformed row": 1,
    }
    assert card["rows"]["dropped"]["item not in the items file"] == 1


@pytest.mark.parametrize(
    "raw",
    [
        "v1\tEins\r\nv2\tZwei é\r\n",
        "\ufeffv1\tEins\n\nv2\tZwei é",
        "v1\tEins\nv2\tZwei é\n".encode("utf-16"),
        "v1\tEins\nv2\tZwei \xe9\n".encode("latin-1"),
        gzip.compress("v1\tEins\nv2\tZwei é\n".encode(), mtime=0),
    ],
)
def test_titles_are_read_in_any_encoding_and_line_end(tmp_path, raw):
    path = tmp_path / "d_items_texts.tsv"
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    assert read_title_lines(path).rows == [("v1", "Eins"), ("v2", "Zwei é")]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"v1 a\nv2 b\nv3\tc\n", "2 of 3 lines have no tab"),
        (b"v1\ta\x00\n", "NUL bytes"),
        (gzip.compress(b"v1\ta\n", mtime=0)[:-6], "damaged or was cut off"),
        ("v1\ta\n".encode("utf-16")[:-1], "damaged or was cut off"),
    ],
)
def test_what_is_no_file_of_titles_is_refused(tmp_path, raw, message):
    path = tmp_path / "d_items_texts.tsv"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message):
        read_title_lines(path)
