"""Histories, a line a user, through the csv source."""

import gzip
import random
from pathlib import Path

import pytest

from pmm.errors import InputError
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.video.bili import ingest_bili
from pmm.ingest.sources.video.datasets import VideoFiles
from pmm.ingest.sources.video.kwai import KwaiFiles, ingest_kwai
from pmm.ingest.targets.target_tables import IngestOptions

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "sequences"
HISTORIES = {
    "U1": ["i1", "i2", "i3", "i1"],
    "U2": ["i4", "i3", "i2"],
    "U3": ["i3", "i4", "i5", "i6", "i7"],
}


def written(between, behind_user="\t", histories=HISTORIES, quote=""):
    return "".join(
        f"{user}{behind_user}{quote}{between.join(items)}{quote}\n"
        for user, items in histories.items()
    )


def tsv_titles(ids):
    more = ("", ", blue", " | and; more, of it", ' 5" wide')
    return "".join(f"{each}\tTitle {n}{more[n % 4]}\n" for n, each in enumerate(ids))


@pytest.mark.parametrize(
    ("text", "between"),
    [
        (written(" "), "space"),
        (written("  ") + "\n", "space"),
        (written(","), "comma"),
        (written(", "), "comma"),
        (written(";"), "semicolon"),
        (written("|"), "bar"),
        (written(",", ",", quote='"'), "comma"),
        (written(" ", ","), "space"),
        (written(" ", ";"), "space"),
        (written(" ", "::"), "space"),
        ("user_id,item_ids\n" + written(" ", ","), "space"),
        ("user_id:token\titem_id_list:token_seq\n" + written(" "), "space"),
        ("USER ID\tItem\n" + written(","), "comma"),
        ("who\twhat\n" + written(" "), "space"),
        (written(" ", " "), "space"),
        (written(",", ","), "comma"),
        (written("\t"), "space"),
        *(
            ("user,items\n" + "".join(f'{u},"{form(i)}"\n' for u, i in HISTORIES.items()), "comma")
            for form in (lambda i: str(i), lambda i: str(i).replace("'", ""))
        ),
    ],
)
@pytest.mark.parametrize("items", ["tsv", "csv"])
def test_histories_of_any_form_are_found(ingest_text, sequences, text, between, items):
    titles = tsv_titles(f"i{n}" for n in range(1, 8)) if items == "tsv" else None
    card = ingest_text(text, titles)
    assert sequences() == HISTORIES
    found = card["detected"]["interactions"]
    assert found["form"] == "histories"
    assert f"a {between} between items" in found["columns"]["items"]
    assert "ids of the items file" in found["decided by"]
    assert card["rows"] == {"read": 12, "kept": 12, "dropped": {}}


@pytest.mark.parametrize("packed", [False, True])
def test_what_the_columns_are_can_be_said(ingest_text, sequences, packed):
    def raw(text):
        return gzip.compress(text.encode(), mtime=0) if packed else text

    ingest_text(raw(written(" ")), columns="user,items")
    assert sequences() == HISTORIES
    swapped = "".join(f"{','.join(items)}\t{user}\n" for user, items in HISTORIES.items())
    ingest_text(raw(swapped), columns="items,user")
    assert sequences() == HISTORIES
    rated = "n\tid\tseen\n" + "".join(f"9\t{u}\t{' '.join(i)}\n" for u, i in HISTORIES.items())
    ingest_text(raw(rated), columns="user=ID,items=seen")
    assert sequences() == HISTORIES
    ingest_text(raw(rated), columns="-,user,items")
    assert sequences() == HISTORIES


def test_lines_without_users_are_users(ingest_text, sequences):
    lines = "".join(" ".join(items) + "\n" for items in HISTORIES.values())
    with pytest.raises(InputError, match=r'first word of a line a user or an item.*"user,items"'):
        ingest_text(lines)
    ingest_text(lines, columns="items")
    assert list(sequences().values()) == list(HISTORIES.values())
    ingest_text(lines, columns="user,items")
    assert sequences()["i3"] == ["i4", "i5", "i6", "i7"]


def test_lists_are_never_taken_for_ids_of_items(ingest_text):
    for columns in ("user,item", "user=1,item=2"):
        with pytest.raises(InputError, match=r'holds lists, e.g. .i1 i2 i3 i1.*"user.*,items'):
            ingest_text(written(" "), columns=columns)
    with pytest.raises(InputError, match=r'"user,items"'):
        ingest_text(written(","), columns="user,item")


def test_ids_that_hold_spaces_and_commas_are_no_lists(ingest_text, sequences):
    ids = ["red shoe", "blue, shoe", "green shoe", "red", "shoe", "blue"]
    text = "user,item\n" + "".join(f'u,"{each}"\n' for each in ids)
    card = ingest_text(text, "item_id,title\n" + "".join(f'"{each}",T\n' for each in ids))
    assert sequences() == {"u": ids}
    assert "form" not in card["detected"]["interactions"]


@pytest.mark.parametrize(
    "text", ["1 2 3\n4 5 6\n7 1 2\n", "u1 i1 3\nu2 i2 4\nu1 i3 5\n", "1,2,5\n2,3,4\n4,1,5\n"]
)
def test_users_items_and_ratings_are_no_histories(ingest_text, text):
    items = "item_id,title\n" + "".join(f"{n},T\ni{n},T\n" for n in range(10))
    with pytest.raises(InputError):
        ingest_text(text, items)


def test_lines_without_items_and_malformed_ones_are_counted(ingest_text, sequences):
    card = ingest_text(written(" ") + "U4\t\nU5\ti1\ti2\n" + "\ti1\n")
    assert sequences() == HISTORIES
    assert card["rows"]["dropped"] == {
        "user without items": 1,
        "malformed row": 1,
        "empty user id": 1,
    }


@pytest.mark.parametrize("option", [{"min_rating": 3.0}, {"drop_identical": True}, {"times": "ms"}])
def test_options_of_rows_are_refused(ingest_text, option):
    name = next(iter(option)).replace("_", "-")
    with pytest.raises(InputError, match=f"--{name} is of files with a row an interaction"):
        ingest_text(written(" "), **option)


def test_histories_whose_items_are_not_listed_say_how_they_could_be_read(ingest_text):
    with pytest.raises(InputError, match=r'a list of items: --columns "user,items"'):
        ingest_text("U1\tx1 x2\nU2\tx3 x4\n")


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_come_out_as_they_were(ingest_text, sequences, seed):
    rng = random.Random(seed)
    ids = [f"{rng.choice(['B', '', 'v-'])}{n:0{rng.randrange(1, 9)}}" for n in range(200)]
    histories = {
        f"u{n}": rng.choices(ids, k=rng.randrange(1, 12)) for n in rng.sample(range(999), 80)
    }
    between, behind = rng.choice([(" ", "\t"), (",", "\t"), ("|", "\t"), (" ", ","), (";", "\t")])
    ingest_text(written(between, behind, histories), tsv_titles(ids))
    kept = {user: items for user, items in histories.items() if len(items) >= 3}
    assert sequences() == kept


@pytest.mark.parametrize(
    ("users", "items", "counts"),
    [
        (
            "amazon_scientific/am_Industrial_and_Scientific_users.tsv.gz",
            "amazon_scientific/Industrial_and_Scientific_items.tsv.gz",
            (12_076, 20_825, 85_211),
        ),
        (
            "microlens50k/MicroLens-50k_pairs.tsv.gz",
            "microlens50k/MicroLens-50k_titles.csv.gz",
            (50_000, 19_220, 359_708),
        ),
    ],
)
def test_real_histories_have_their_published_counts(home, users, items, counts):
    if not (DATA / users).exists():
        pytest.skip(f"real sequences are not in {DATA}")
    files = CsvFiles(interactions=DATA / users, items=DATA / items)
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    card = ingest_csv(home, "real", files, options)[0]
    assert tuple(card["statistics"][n] for n in ("users", "items", "actions")) == counts


@pytest.mark.parametrize(
    ("ingest", "files", "called"),
    [(ingest_bili, VideoFiles, "Bili, bilibili"), (ingest_kwai, KwaiFiles, "Kwai, kuaishou, KS")],
)
def test_files_of_another_name_are_named_with_what_they_may_be_called(
    home, tmp_path, ingest, files, called
):
    (tmp_path / "Scientific_users.tsv").write_text(written(" "))
    (tmp_path / "Other_users.tsv").write_text(written(" "))
    (tmp_path / "Scientific_items_texts.tsv").write_text(tsv_titles(["i1"]))
    with pytest.raises(InputError) as error:
        ingest(home, files(raw=tmp_path), [], IngestOptions())
    message = str(error.value)
    assert f"<D> and <M> begin with {called}" in message
    assert "there are: Other_users.tsv, Scientific_items_texts.tsv, Scientific_users.tsv" in message
    assert f"--interactions {tmp_path}/Scientific_users.tsv --items {tmp_path}/" in message
    assert '"Other" does not, and lacks Other_items_texts.tsv' in message
