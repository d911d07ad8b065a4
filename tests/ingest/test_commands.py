"""The ingest commands that pages show, as a user types them, on the world's files and real ones."""

import re
import shlex
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pmm.cli import main
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.ingest.targets.paper_table_two import TABLE_II
from pmm.world import generate
from pmm.world.formats.amazon_writer import write_amazon
from pmm.world.formats.raw_formats import FORMATS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "how-to" / "public-datasets.md")
SHOWN = [
    line.strip("` ")
    for page in PAGES
    for line in re.findall(
        r"(?:^|`)pmm ingest [^`\n#]*--[^`\n#]+`?", page.read_text(encoding="utf-8"), re.MULTILINE
    )
]
"""Commands with options; running text has names alone."""


@pytest.fixture
def pmm(capsys):
    """Runs a command line; what it printed, to both streams, and its exit status."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        told = capsys.readouterr()
        return told.out + told.err, ended.value.code

    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The world's raw files under the names that the commands have."""
    place = tmp_path_factory.mktemp("raw")
    wanted = [("hm", "kaggle", "hm"), ("amazon", "2018", "amazon"), ("bili", "ninerec", "NineRec")]
    for platform, layout, name in [*wanted, ("kwai", "microlens", "MicroLens")]:
        command = ["world", "--size", "tiny", "--format", platform, "--layout", layout]
        with pytest.raises(SystemExit):
            main([*command, "--to", str(place / name)])
    with pytest.raises(SystemExit):
        main(["world", "--size", "tiny", "--format", "csv", "--to", str(place / "csv")])
    (place / "ml-1m").mkdir()
    rows = (f"{u}::{i}::5::{1000 * u + i}" for u in range(1, 7) for i in range(1, 7))
    (place / "ml-1m" / "ratings.dat").write_text("\n".join(rows))
    movies = (f"{i}::Café {i} (1995)::Drama|War" for i in range(1, 7))
    (place / "ml-1m" / "movies.dat").write_text("\n".join(movies), encoding="latin-1")
    return place


def on(raw, command):
    """A command of a page with its places as they are here."""
    places = {
        "~/": f"{raw}/",
        " raw/hm": f" {raw}/hm",
        " raw/amazon": f" {raw}/amazon",
        " raw/bili": f" {raw}/NineRec",
        " raw/kwai": f" {raw}/MicroLens",
        "world/kwai": f"{raw}/MicroLens",
        " categories.csv": f" {raw}/MicroLens/item_categories.csv",
        "ratings.csv": f"{raw}/csv/interactions.csv",
        "items.csv": f"{raw}/csv/items.csv",
        "--images pictures": f"--images {raw}/csv/images",
        "--images download": f"--images {raw}/amazon/images",
        "--raw ml-1m": f"--raw {raw}/ml-1m",
    }
    for shown, here in places.items():
        command = command.replace(shown, here)
    return shlex.split(command)[1:]


def test_the_pages_show_a_command_for_each_source():
    assert {line.split()[2].strip(",") for line in SHOWN} == {"amazon", "bili", "csv", "hm", "kwai"}


@pytest.mark.parametrize("shown", SHOWN)
def test_a_command_of_a_page_runs_on_the_worlds_files(raw, pmm, tmp_path, shown):
    told, status = pmm(*on(raw, shown), "--home", tmp_path)
    assert status == 0, told
    assert "left out" not in told
    assert "Next: pmm shard --target" in told


def test_the_worlds_files_become_the_fourteen_datasets_and_the_shards_of_one(raw, pmm, tmp_path):
    for source in ("hm", "amazon", "bili", "kwai"):
        (command,) = [line for line in SHOWN if f"--raw raw/{source}" in line]
        assert pmm(*on(raw, command), "--home", tmp_path)[1] == 0
    told, _ = pmm("inspect", tmp_path)
    assert "not ingested" not in told
    assert told.count("in the paper") == told.count("difference %") == len(TABLE_II) == 14
    text, _ = save_small_encoders(
        tmp_path / "encoders", ["红色"], seed=0, sizes=SmallSizes(width=32, blocks=1, heads=1)
    )
    shard = ("shard", "--target", "Kwai Movie", "--text-encoder", text, "--workers", 1)
    assert "23 pictures" in pmm(*shard, "--home", tmp_path)[0]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("bili", "--raw", "NineRec", "--language", "fr"), 2, "--language"),
        (("bili", "--raw", "MicroLens"), 1, "raw files of bili are not in"),
        (("bili", "--raw", "NineRec", "--target", "Bili Fod"), 1, 'did you mean "Bili Food"'),
        (
            ("kwai", "--raw", "MicroLens", "--item-categories", "none.csv"),
            1,
            "none.csv cannot be read",
        ),
        (
            ("kwai", "--raw", "MicroLens", "--item-categories", "a", "--hashtags", "b"),
            1,
            "give one of them",
        ),
        (("kwai", "--raw", "none"), 1, "which does not exist"),
        (("amazon", "--raw", "amazon"), 1, "--images download"),
        (("amazon", "--raw", "amazon", "--category", "Clothes"), 1, "Clothing_Shoes_and_Jewelry"),
        (("amazon", "--raw", "hm", "--images", "hm"), 1, "raw files of amazon are not in"),
        (("amazon", "--raw", "none", "--download"), 1, "say which of Amazon's categories"),
        (("amazon", "--edition", "2014"), 2, "--edition"),
        (("hm", "--raw", "none", "--download"), 1, "no public addresses"),
        (("csv", "--name", "x", "--preset", "movielens", "--items", "i"), 1, "--preset finds"),
        (
            ("csv", "--name", "x"),
            1,
            "give --interactions FILE, and --items FILE where items have titles",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_message(
    raw, pmm, tmp_path, monkeypatch, arguments, status, told
):
    monkeypatch.chdir(raw)
    found = pmm("ingest", *arguments, "--home", tmp_path / "home")
    assert found[1] == status
    assert told in found[0]
    assert "Traceback" not in found[0]


def test_the_help_names_every_layout_of_the_world(pmm):
    told = pmm("world", "--help")[0]
    assert {layout for each in FORMATS.values() for layout in each if len(each) > 1} <= set(
        re.findall(r"[\w-]+", told.replace("-\n" + " " * 34, "-"))
    )


def test_a_layout_of_a_format_that_has_one_is_refused(pmm, tmp_path):
    told, status = pmm("world", "--format", "csv", "--layout", "2023", "--to", tmp_path / "x")
    assert (status, (tmp_path / "x").exists()) == (1, False)
    assert "one layout only" in told


def test_a_titles_language_is_chosen_by_option(raw, pmm, tmp_path):
    command = ("ingest", "bili", "--raw", raw / "NineRec", "--home", tmp_path)
    assert pmm(*command, "--target", "Bili Food", "--language", "en")[1] == 0
    texts = pq.read_table(tmp_path / "targets" / "bili-food" / "items.parquet")["text"].to_pylist()
    assert sum("episode" in text for text in texts) >= len(texts) - 1


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        del format, args


def test_pictures_are_downloaded_where_the_command_says_so(pmm, tmp_path):
    handler = partial(Quiet, directory=str(tmp_path / "raw" / "images"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        write_amazon(generate("tiny", 0), tmp_path / "raw", edition="2018", picture_base=base)
        command = ("ingest", "amazon", "--raw", tmp_path / "raw", "--images", "download")
        options = ("--connections", 4, "--home", tmp_path)
        refused, status = pmm(*command, *options)
        assert status == 1
        assert "Outcomes of the download: refused address:" in refused
        told, status = pmm(*command, *options, "--allow-private-addresses")
        server.shutdown()
    assert status == 0, told
    outcomes = pq.read_table(tmp_path / "downloads" / "amazon" / "outcomes.parquet")
    assert outcomes["outcome"].to_pylist().count("ok") > 80
    assert pq.read_table(tmp_path / "targets" / "amazon" / "items.parquet")["image"].null_count == 0


def figures(told, target):
    (row,) = [line.split() for line in told.splitlines() if re.match(rf"{target} +\d", line)]
    return tuple(int(each.replace(",", "")) for each in row[len(target.split()) :][:3])


def test_the_real_files_of_hm_come_out_as_counted(hm_data, pmm, tmp_path):
    command = ("ingest", "hm", "--raw", hm_data, "--item-core", 0, "--home", tmp_path)
    told, status = pmm(*command)
    assert status == 0
    assert figures(told, "HM") == (712, 4_965, 16_689)
    assert "HM: 31,662 rows read, 16,689 kept; dropped: 14,324 item without picture" in told


def test_the_real_files_of_amazon_come_out_as_counted(amazon_data, pmm, tmp_path):
    command = ("ingest", "amazon", "--raw", amazon_data, "--home", tmp_path)
    assert "missing: meta_AMAZON_FASHION.json.gz" in pmm(*command, "--images", tmp_path)[0]
    chosen = ("--category", "gift_cards", "--missing-image", "text-only", "--repeats", "first")
    told, status = pmm(*command, *chosen)
    assert status == 0
    assert figures(told, "Amazon") == (453, 147, 2_941)
    assert "Amazon Shoes left out: no item of Amazon is inside it" in told
