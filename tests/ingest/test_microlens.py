import csv

import pyarrow.parquet as pq
import pytest

from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai
from pmm.ingest.targets.target_tables import IngestOptions

ROWS = [
    (user, item, 1_600_000_000_000 + n) for n, item in enumerate((3, 1, 4, 2)) for user in "abc"
]


@pytest.fixture
def write_lens(tmp_path):
    """Writes MicroLens-50k: pairs with a header, quoted titles, covers."""

    def write(titles="MicroLens-50k_titles.csv", end="\n", mark="", listed=None):
        raw = tmp_path / "raw"
        (raw / "MicroLens-50k_covers").mkdir(parents=True, exist_ok=True)
        rows = listed or [(n, f'The "{n}", cooked{mark}') for n in range(1, 5)]
        tables = {"MicroLens-50k_pairs.csv": [("user", "item", "timestamp"), *ROWS]}
        for name, table in {**tables, titles: [("item", "title"), *rows]}.items():
            with (raw / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator=end).writerows(table)
        for n in range(1, 5):
            (raw / "MicroLens-50k_covers" / f"{n}.jpg").write_bytes(b"picture")
        return raw

    return write


@pytest.fixture
def ingest(home, tmp_path):
    def run(**files):
        options = IngestOptions(user_core=3, item_core=0)
        return ingest_kwai(home, KwaiFiles(raw=tmp_path / "raw", **files), ["Kwai"], options)[0]

    return run


def texts(home):
    return pq.read_table(home.tables("Kwai") / "items.parquet")["text"].to_pylist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_titles_and_covers_become_kwai(write_lens, ingest, sequences, home, adds_up, end):
    write_lens(end=end)
    card = ingest()
    assert sequences("Kwai") == {user: ["3", "1", "4", "2"] for user in "abc"}
    assert texts(home)[0] == 'The "1", cooked'
    assert card["detected"]["interactions"]["time"] == "ms"
    assert card["detected"]["interactions"]["order of columns decided by"].startswith("the names")
    assert adds_up(card)


def test_what_else_the_release_holds_is_left_alone(write_lens, ingest, sequences):
    raw = write_lens()
    (raw / "MicroLens-50k_likes_and_views.txt").write_text("1\t5\t9\n")
    (raw / "MicroLens-50k_comments.csv").write_text("user,item,comment\na,1,so good\n")
    for folder in ("MicroLens-50k_videos", "MicroLens-50k_audios"):
        (raw / folder).mkdir()
        (raw / folder / "1.mp4").write_bytes(b"\x00")
    ingest()
    assert sequences("Kwai") == {user: ["3", "1", "4", "2"] for user in "abc"}


@pytest.mark.parametrize(("language", "read"), [("en", "english"), ("zh", "plain")])
def test_of_two_files_of_titles_the_languages_one_is_read(write_lens, ingest, home, language, read):
    write_lens("MicroLens-50k_title_en.csv", mark=" english")
    write_lens("MicroLens-50k_titles.csv", mark=" plain")
    ingest(language=language)
    assert all(text.endswith(read) for text in texts(home))


def test_the_only_file_of_titles_is_read_in_whatever_language(write_lens, ingest, home):
    write_lens("MicroLens-50k_title_en.csv", mark=" english")
    ingest(language="zh")
    assert texts(home)[0].endswith("english")


def test_pairs_of_histories_are_read_where_there_is_no_csv(write_lens, ingest, sequences):
    raw = write_lens()
    (raw / "MicroLens-50k_pairs.csv").unlink()
    (raw / "MicroLens-50k_pairs.tsv").write_text("a\t1 2 3\nb\t4 3 2 1\n")
    card = ingest()
    assert sequences("Kwai") == {"a": ["1", "2", "3"], "b": ["4", "3", "2", "1"]}
    assert card["detected"]["interactions"]["form"] == "histories"


def test_titles_that_are_long_or_none_are_kept(write_lens, ingest, home, tables_card):
    long = " ".join(["word"] * 1186)
    write_lens(listed=[(1, long), (2, ""), (3, "c"), (4, "d\nd")])
    ingest()
    assert texts(home) == [long, "", "c", "d d"]
    assert tables_card("Kwai")["items"]["without_text"] == 1


def test_titles_without_a_header_are_read_as_item_and_title(write_lens, ingest, home):
    raw = write_lens()
    (raw / "MicroLens-50k_titles.csv").write_text("1,a\n2,b\n3,c\n4,d\n")
    ingest()
    assert texts(home) == ["a", "b", "c", "d"]
