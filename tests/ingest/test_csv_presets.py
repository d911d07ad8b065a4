"""PixelRec, MovieLens and RecBole files in their true forms, from a folder to a target."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.sources.csv import ingest_csv
from pmm.ingest.sources.csv_presets import PRESETS, KnownDataset, preset_files
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home

Write = Callable[..., Path]
Ingest = Callable[..., dict[str, Any]]

PIXEL = "item_id,user_id,timestamp\n" + "".join(
    f"i{n},u{user},{1_600_000_000 + n}\n" for user in range(2) for n in (2, 0, 1)
)
PIXEL_ITEMS = (
    "item_id,view_number,comment_number,thumbup_number,share_number,coin_number,favorite_number,"
    "barrage_number,title,tag,description\n"
    'i0,100,1,2,3,4,5,6,"画画, 一分钟",绘画,"第一行\n第二行"\ni1,9,0,0,0,0,0,0,美食,美食,\n'
)
RATINGS_CSV = "userId,movieId,rating,timestamp\n" + "".join(
    f"1,{movie},4.0,{964_982_703 + movie}\n" for movie in (1, 3, 11)
)
MOVIES_CSV = (
    "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n"
    '3,"Ménage à trois, The (1995)",(no genres listed)\n11,"""Great"" one (1995)",Comedy\n'
)
RATINGS_DAT = "1::11::5::978300760\n1::3::3::978302109\n1::1::3::978301968\n"
MOVIES_DAT = (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n3::Misérables, Les (1995)::Drama|Musical\n"
    "11::Star Wars: Episode IV - A New Hope (1977)::Action\n"
)
U_DATA = "196\t242\t3\t881250949\n196\t267\t3\t881250950\n196\t1\t4\t881250951\n"


def u_item(movie: int, title: str, date: str, *genres: int) -> str:
    flags = "|".join("1" if at in genres else "0" for at in range(19))
    return f"{movie}|{title}|{date}||http://us.imdb.com/?{movie}|{flags}\n"


U_ITEM = (
    u_item(1, "Toy Story (1995)", "01-Jan-1995", 3, 4, 5)
    + u_item(242, "Kolya, misérable (1996)", "24-Jan-1997", 5)
    + "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n\n"
)
INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n196\t302\t3\t891717742.0\n196\t1\t1\t878887116\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n242\tKolya\t1996\tComedy\n302\tL.A.\t\t\n"
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def files(contents: dict[str, str], *, encoding: str = "utf-8", pack: bool = False) -> Path:
        for name, text in contents.items():
            path = tmp_path / "raw" / (name + ".gz" * pack)
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = text.encode(encoding)
            path.write_bytes(gzip.compress(raw, mtime=0) if pack else raw)
        return tmp_path / "raw"

    return files


@pytest.fixture
def ingest(home: Home) -> Ingest:
    def run(preset: KnownDataset, folder: Path, images: Path | None = None) -> dict[str, Any]:
        options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
        return ingest_csv(home, "Shop", preset_files(preset, folder, images), options)[0]

    return run


@pytest.fixture
def items(home: Home) -> Callable[[], dict[str, tuple[str, list[str]]]]:
    """Item id -> its text and categories, of the source's tables."""

    def read() -> dict[str, tuple[str, list[str]]]:
        rows = pq.read_table(home.tables("Shop") / "items.parquet").to_pylist()
        return {row["item_id"]: (row["text"], row["categories"]) for row in rows}

    return read


@pytest.mark.parametrize(
    "size", ["Pixel50K", "PixelRec50K", "Pixel200K", "Pixel1M", "Pixel8M", "PixelRec"]
)
def test_pixelrec_is_item_first_and_its_item_file_is_known_by_its_header(
    write, ingest, items, sequences, adds_up, size
):
    extra = PIXEL.replace("i2", "i192714")  # missing in older copies of the item file
    folder = write({f"{size}.csv": extra, "whatever.csv": PIXEL_ITEMS, "x.csv": "one column\n"})
    (folder / "cover").mkdir()
    (folder / "cover" / "i0.jpg").write_bytes(b"picture")
    with pytest.raises(InputError, match="no user has 3 interactions"):
        ingest("pixelrec", folder)
    (folder / f"{size}.csv").write_text(extra + "i0,u0,1700000000\n")
    card = ingest("pixelrec", folder)
    assert sequences() == {"u0": ["i0", "i1", "i0"]}
    assert items()["i0"] == ("画画, 一分钟. 第一行 第二行", ["绘画"])
    assert card["rows"]["dropped"]["item not in the items file"] == 2
    assert card["items_without_image"] == 1
    assert adds_up(card)


def test_an_older_item_file_of_pixelrec_has_no_descriptions(write, ingest, items):
    rows = [line.rsplit(",", 1)[0] for line in PIXEL_ITEMS.replace("\n第", " ").splitlines()]
    more = [f"i{n},{'0,' * 7}title {n},tag" for n in (2, 1)]
    folder = write({"Pixel1M.csv": PIXEL, "item_info.csv": "\n".join([*rows, *more])})
    ingest("pixelrec", folder)
    assert items()["i2"] == ("title 2", ["tag"])


def test_movielens_as_csv(write, ingest, items, sequences):
    links = "movieId,imdbId,tmdbId\n1,0114709,862\n"
    folder = write({"ratings.csv": RATINGS_CSV, "movies.csv": MOVIES_CSV, "links.csv": links})
    ingest("movielens", folder)
    assert sequences() == {"1": ["1", "3", "11"]}
    assert items() == {
        "1": ("Toy Story (1995)", ["Adventure", "Animation"]),
        "3": ("Ménage à trois, The (1995)", []),
        "11": ('"Great" one (1995)', ["Comedy"]),
    }


def test_movielens_1m_has_double_colons_and_latin_1(write, ingest, items, sequences):
    folder = write({"ratings.dat": RATINGS_DAT, "movies.dat": MOVIES_DAT}, encoding="latin-1")
    card = ingest("movielens", folder)
    assert sequences() == {"1": ["11", "1", "3"]}
    assert items()["3"] == ("Misérables, Les (1995)", ["Drama", "Musical"])
    assert items()["11"] == ("Star Wars: Episode IV - A New Hope (1977)", ["Action"])
    assert card["detected"]["items"]["encoding"] == "latin-1"


def test_movielens_100k_has_bars_and_a_flag_for_each_genre(write, ingest, items, sequences):
    folder = write({"u.data": U_DATA, "u.item": U_ITEM}, encoding="latin-1")
    ingest("movielens", folder)
    assert sequences() == {"196": ["242", "267", "1"]}
    assert items() == {
        "1": ("Toy Story (1995)", ["Animation", "Children's", "Comedy"]),
        "242": ("Kolya, misérable (1996)", ["Comedy"]),
        "267": ("unknown", []),
    }


def test_one_row_of_movies_is_told_apart_by_its_known_number_of_fields(write, ingest, items):
    folder = write({"ratings.dat": RATINGS_DAT, "movies.dat": MOVIES_DAT.splitlines()[0]})
    with pytest.raises(InputError, match="no user has 3 interactions"):
        ingest("movielens", folder)
    assert items() == {"1": ("Toy Story (1995)", ["Animation", "Children's", "Comedy"])}


@pytest.mark.parametrize("posters", ["posters", "images", "elsewhere"])
def test_posters_lie_inside_or_are_named(write, ingest, posters):
    folder = write({"ratings.csv": RATINGS_CSV, "movies.csv": MOVIES_CSV})
    (folder / posters).mkdir()
    (folder / posters / "11.jpg").write_bytes(b"picture")
    named = folder / posters if posters == "elsewhere" else None
    card = ingest("movielens", folder, named)
    assert card["pictures"] == str(folder / posters)
    assert card["items_without_image"] == 2


def test_recbole_separates_tags_by_spaces(write, ingest, items, sequences):
    ingest("recbole", write({"ml.inter": INTER, "ml.item": ITEM}))
    assert sequences() == {"196": ["1", "242", "302"]}
    assert items()["1"] == ("Toy Story", ["Animation", "Children's", "Comedy"])
    assert items()["302"] == ("L.A.", [])


FOLDERS: dict[KnownDataset, dict[str, str]] = {
    "pixelrec": {"Pixel200K.csv": PIXEL, "info.csv": PIXEL_ITEMS},
    "movielens": {"ratings.csv": RATINGS_CSV, "movies.csv": MOVIES_CSV},
    "recbole": {"ml.inter": INTER, "ml.item": ITEM},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_packed_files_are_found_under_their_names(write, preset):
    plain = preset_files(preset, write(FOLDERS[preset], pack=True))
    assert [plain.interactions.suffix, plain.items.suffix] == [".gz", ".gz"]


@pytest.mark.parametrize("preset", PRESETS)
def test_missing_files_are_named(write, tmp_path, preset):
    interactions, items = FOLDERS[preset]
    folder = write(FOLDERS[preset])
    (folder / items).unlink()
    with pytest.raises(InputError, match=f"raw files of {preset}.*\n.*belongs to {interactions}"):
        preset_files(preset, folder)
    (folder / interactions).unlink()
    for place in (folder, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=rf"raw files of {preset} .*\n.*\(interactions\)"):
            preset_files(preset, place)


@pytest.mark.parametrize("preset", PRESETS)
def test_files_in_a_folder_below_are_pointed_out(write, preset):
    folder = write(FOLDERS[preset])
    with pytest.raises(InputError, match=f"one of them is in {folder}: name that folder"):
        preset_files(preset, folder.parent)


@pytest.mark.parametrize(
    ("preset", "more", "told"),
    [
        ("pixelrec", {"Pixel1M.csv": PIXEL}, "Pixel1M.csv and Pixel200K.csv all hold interact"),
        ("pixelrec", {"other.csv": PIXEL_ITEMS}, "info.csv and other.csv all hold items"),
        ("movielens", {"ratings.dat": RATINGS_DAT}, "ratings.csv and ratings.dat all hold"),
        ("recbole", {"ml.test.inter": INTER}, "ml.inter and ml.test.inter all hold"),
    ],
)
def test_two_files_that_fit_are_named(write, preset, more, told):
    with pytest.raises(InputError, match=told):
        preset_files(preset, write(FOLDERS[preset] | more))


def test_a_file_in_place_of_the_folder_is_refused(write):
    folder = write(FOLDERS["recbole"])
    with pytest.raises(InputError, match="is a file; expected is the folder"):
        preset_files("recbole", folder / "ml.inter")


def test_a_damaged_u_item_is_told_with_what_was_expected(write, ingest):
    folder = write({"u.data": U_DATA, "u.item": U_ITEM.replace("|0", "")})
    with pytest.raises(InputError, match="but 24 were expected"):
        ingest("movielens", folder)
