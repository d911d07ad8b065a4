import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.sources.video.hashtags import DEFAULT_TAGS, find_tags, read_tag_table
from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai, kwai_name, read_categories
from pmm.ingest.targets.target_tables import IngestOptions

PAGE = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
TITLES = [
    *[f"Noodles {n} #Food#yum" for n in range(4)],
    *[f"看 {n} ＃电影解说" for n in range(4)],
    *[f"Dogs {n} #pets" for n in range(4)],
]


@pytest.fixture
def write_kwai(tmp_path):
    """Writes a source in MicroLens' layout: three users with all items."""

    def write(titles=TITLES, folder="raw/MicroLens", name="MicroLens-50k"):
        place = tmp_path / folder
        (place / f"{name}_covers").mkdir(parents=True)
        rows = [f"u{u},{i},{100 + i}" for u in range(3) for i in range(len(titles))]
        (place / f"{name}_pairs.csv").write_text("\n".join(["user,item,timestamp", *rows]))
        listed = [f'{i},"{title}"' for i, title in enumerate(titles)]
        (place / f"{name}_titles.csv").write_text("\n".join(["item,title", *listed]))
        for i in range(len(titles)):
            (place / f"{name}_covers" / f"{i}.jpg").write_bytes(b"picture")

    return write


@pytest.fixture
def ingest(home, tmp_path):
    def run(*targets, **files):
        options = IngestOptions(user_core=3, item_core=0)
        return ingest_kwai(home, KwaiFiles(raw=tmp_path / "raw", **files), targets, options)

    return run


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write_file


def items_of(sequences, target):
    return sequences(target)["u0"]


def test_targets_are_carved_by_hashtags(write_kwai, ingest, sequences, adds_up):
    write_kwai()
    cards = ingest()
    assert [card["target"] for card in cards] == ["Kwai", *DEFAULT_TAGS]
    assert items_of(sequences, "Kwai Food") == ["0", "1", "2", "3"]
    assert items_of(sequences, "Kwai Movie") == ["4", "5", "6", "7"]
    assert "no item of Kwai is inside it" in cards[3]["left_out"]
    assert "--hashtags FILE, or each item's category with --item-c" in cards[3]["left_out"]
    assert adds_up(cards[1])
    assert cards[1]["rows"]["dropped"] == {"outside the target": 24}


def test_a_file_of_hashtags_adds_targets_and_replaces_tags(write_kwai, ingest, write, sequences):
    write_kwai()
    table = write("tags.toml", '[targets]\n"Kwai Pets" = ["#PETS"]\n"kwai food" = ["电影"]\n')
    cards = ingest(hashtags=table)
    assert [card["target"] for card in cards] == ["Kwai", *DEFAULT_TAGS, "Kwai Pets"]
    assert items_of(sequences, "Kwai Pets") == ["8", "9", "10", "11"]
    assert items_of(sequences, "Kwai Food") == ["4", "5", "6", "7"]
    assert items_of(sequences, "Kwai Movie") == ["4", "5", "6", "7"]


def test_other_hashtags_make_the_target_anew_and_not_the_tables(write_kwai, ingest, write, home):
    write_kwai()
    ingest("Kwai Food")
    before = (home.tables("Kwai") / "manifest.json").read_text()
    card = ingest("Kwai Food", hashtags=write("t.toml", '[targets]\n"Kwai Food" = ["pet"]\n'))[0]
    assert card["fresh"]
    assert card["rule"]["values"] == ["pet"]
    assert (home.tables("Kwai") / "manifest.json").read_text() == before


def test_tags_that_must_be_equal_are_not_taken_by_their_beginning(write_kwai, ingest, write):
    write_kwai()
    table = write("t.toml", 'match = "equal"\n[targets]\n"Kwai Pets" = ["pet"]\n')
    with pytest.raises(InputError, match="Kwai Pets: no item"):
        ingest("Kwai Pets", hashtags=table)


@pytest.mark.parametrize(
    ("header", "separator"),
    [("item,category\n", ","), ("", ","), ("item_id\tcategory\n", "\t"), ("", "\t")],
)
def test_targets_are_carved_by_a_table_of_categories(
    write_kwai, ingest, write, sequences, header, separator
):
    write_kwai()
    named = [(0, "Cartoon"), (1, "KWAI cartoon"), (2, "cartoon"), (2, "food"), (3, "Pets")]
    rows = "".join(f"{item}{separator}{category}\n" for item, category in named)
    cards = ingest(item_categories=write("c.csv", header + rows))
    assert items_of(sequences, "Kwai Cartoon") == ["0", "1", "2"]
    assert cards[1]["left_out"].startswith("Kwai Food: no user of the core has 3")
    assert cards[2]["left_out"].endswith("c.csv names: cartoon, kwai cartoon, food, pets")
    assert cards[0]["detected"]["categories"]["kept"] == 5


def test_a_category_of_the_table_may_be_asked_for_by_name(write_kwai, ingest, write, sequences):
    write_kwai()
    table = write("c.csv", "".join(f"{n},Pets\n" for n in (8, 9, 10)))
    assert [c["target"] for c in ingest("Kwai Pets", item_categories=table)] == ["Kwai Pets"]
    assert items_of(sequences, "Kwai Pets") == ["8", "9", "10"]
    with pytest.raises(InputError, match='unknown target "Kwai Petz"'):
        ingest("Kwai Petz", item_categories=table)


def test_other_categories_make_the_tables_anew(write_kwai, ingest, write, sequences):
    write_kwai()
    ingest("Kwai Food", item_categories=write("c.csv", "1,food\n2,food\n3,food\n"))
    ingest("Kwai Food", item_categories=write("c.csv", "5,food\n6,food\n7,food\n"))
    assert items_of(sequences, "Kwai Food") == ["5", "6", "7"]


def test_rows_of_a_table_of_categories_are_counted(write):
    path = write("c.csv", "item,category\n1,Food\n1,food\n1,Movie\n,Food\n2, \n3\n")
    categories, notes = read_categories(path)
    assert categories == {"1": ["food", "movie"]}
    assert (notes["read"], notes["kept"]) == (6, 2)
    assert sum(notes["dropped"].values()) == 4


def test_categories_and_hashtags_together_are_refused(write_kwai, ingest, write):
    write_kwai()
    with pytest.raises(InputError, match="give one of them"):
        ingest(item_categories=write("c.csv", "1,food\n"), hashtags=write("t.toml", "[targets]"))


def test_a_dataset_of_its_own_goes_before_carving(write_kwai, ingest, sequences, home):
    write_kwai()
    write_kwai(titles=["a", "b", "c"], folder="raw/kuaishou_food", name="kuaishou_food")
    cards = ingest()
    assert [card["target"] for card in cards] == ["Kwai", *DEFAULT_TAGS]
    assert items_of(sequences, "Kwai Food") == ["0", "1", "2"]
    assert cards[1]["rule"] is None
    assert home.tables("Kwai Food").is_dir()


def test_a_target_alone_needs_no_source(write_kwai, ingest):
    write_kwai(titles=["a", "b", "c"], folder="raw/Kwai_Food", name="Kwai_Food")
    assert [card["target"] for card in ingest("Kwai Food")] == ["Kwai Food"]
    cards = ingest()
    assert [card["target"] for card in cards if "left_out" not in card] == ["Kwai Food"]
    with pytest.raises(InputError, match="kwai"):
        ingest("Kwai Movie")


def test_two_sources_are_an_error_that_lists_both(write_kwai, ingest):
    write_kwai()
    write_kwai(folder="raw/KU", name="KU")
    with pytest.raises(InputError, match=r"could be \"Kwai\":\n.*KU.*\n.*MicroLens"):
        ingest()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *[(name, "Kwai") for name in ("KU", "MicroLens-100k", "kuaishou_pick_users_20W", "kwai")],
        *[(name, "Kwai Food") for name in ("kuaishou_food", "Kwai_Food", "MicroLens-Food")],
        *[(name, None) for name in ("Bili_2M", "kumquat", "ksb")],
    ],
)
def test_names_of_files_name_kwais_targets(name, target):
    assert kwai_name(name) == target


@pytest.mark.parametrize(
    ("title", "tags"),
    [
        ("plain", []),
        ("#food", ["food"]),
        ("#Food#", ["food"]),
        ("#a#b #c", ["a", "b", "c"]),
        ("＃美食 ＃ＦＯＯＤ＃", ["美食", "food"]),
        ("#film, and #tv-show! (#x_y)", ["film", "tv-show", "x_y"]),
        ("#हिन्दी #ไทย", ["हिन्दी", "ไทย"]),
        ("# no tag # here ##", []),
        ("#food #FOOD", ["food"]),
    ],
)
def test_hashtags_are_read_in_any_script(title, tags):
    assert find_tags(title) == tags


def test_entities_are_no_hashtags(write_kwai, ingest, home):
    write_kwai(titles=["It&#39;s #fun", "b", "c"])
    ingest("Kwai")
    rows = pq.read_table(home.tables("Kwai") / "items.parquet").to_pylist()
    assert (rows[0]["text"], rows[0]["categories"]) == ("It's #fun", ["fun"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"no table \[targets\]"),
        ("targets = 3", r"no table \[targets\]"),
        ("[targets", "is no TOML file"),
        ('[target]\n"Kwai Food" = ["a"]', 'did you mean "targets"'),
        ('[targets]\n"Kwai Food" = "food"', "must be a list of tags"),
        ('[targets]\n"Kwai Food" = []', "empty tag or none"),
        ('[targets]\n"Kwai Food" = ["#"]', "empty tag or none"),
        ('[targets]\n"HM Shoes" = ["a"]', 'must be named "Kwai'),
        ('[targets]\n"Kwai /" = ["a"]', 'must be named "Kwai'),
        ('match = "like"\n[targets]\n"Kwai Food" = ["a"]', "match = 'like'"),
    ],
)
def test_a_file_of_hashtags_that_says_something_else_is_refused(write, content, message):
    with pytest.raises(InputError, match=message):
        read_tag_table(write("t.toml", content))


@pytest.mark.parametrize("option", ["item_categories", "hashtags"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(write_kwai, ingest, tmp_path, option):
    write_kwai()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} .* is no plain file"):
        ingest(**{option: tmp_path / "pipe"})


def test_a_pipe_among_the_raw_files_is_not_waited_for(write_kwai, ingest, tmp_path):
    write_kwai()
    pairs = tmp_path / "raw" / "MicroLens" / "MicroLens-50k_pairs.csv"
    pairs.unlink()
    os.mkfifo(pairs)
    with pytest.raises(InputError, match=r"missing: MicroLens-50k_pairs\.csv or"):
        ingest("Kwai")


def test_a_file_of_hashtags_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_tag_table(tmp_path / "none.toml")


def test_the_page_of_the_paper_lists_the_hashtags_that_carve():
    rows = re.findall(r"^\| (Kwai \w+) \| ([^|\d]*) \|$", PAGE, re.MULTILINE)
    assert {name: tuple(tags.split(", ")) for name, tags in rows} == DEFAULT_TAGS


def test_the_examples_of_the_page_of_the_paper_are_read(write):
    (shown,) = re.findall(r"^```toml\n(match.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    table = read_tag_table(write("t.toml", shown))
    assert table.match == "equal"
    assert table.tags["Kwai Food"] == ("food", "美食", "streetfood")
    assert [*table.tags] == [*DEFAULT_TAGS, "Kwai Pets"]
    (shown,) = re.findall(r"^```\n(item,category.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert read_categories(write("c.csv", shown))[0] == {"104233": ["food"], "104234": ["movie"]}
