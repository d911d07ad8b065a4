import shlex
from pathlib import Path

import pytest
import typer.main

from pmm.cli import app
from pmm.errors import InputError
from pmm.ingest.download.raw_guide import GUIDES, describe, missing_raw

SOURCES = ["amazon", "bili", "kwai", "hm", "pixelrec", "movielens", "recbole"]
EXPECTED = {
    "amazon": ["meta_<Cat>.json.gz", "<Cat>_5.json.gz", "meta_<Cat>.jsonl.gz", "ucsd.edu"],
    "bili": ["<D>_pair.csv", "<D>_users.tsv", "github.com/westlake-repl/NineRec", "optional"],
    "kwai": ["<M>_pairs.csv", "KU_item.csv", "recsys.westlake.edu.cn"],
    "hm": ["transactions_train.csv", "articles.csv", "images/", "kaggle.com", "accept its rules"],
    "pixelrec": ["Pixel200K.csv", "cover/<item_id>.jpg"],
    "movielens": ["ratings.csv", "ratings.dat", "u.data", "grouplens.org"],
    "recbole": ["<D>.inter", "<D>.item"],
}


def test_every_source_has_a_guide():
    assert sorted(GUIDES) == sorted(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
def test_a_message_names_files_origin_place_and_command(source):
    message = str(missing_raw(source, Path("/data/here"), ["this.csv", "that.csv"]))
    for part in [*EXPECTED[source], "missing: this.csv", "missing: that.csv", "--raw"]:
        assert part in message
    assert "Put them into /data/here" in message
    assert "which does not exist" in message
    assert "Then run: pmm ingest " in message
    assert "https://" in message


def test_a_folder_that_is_there_is_not_said_to_be_missing(tmp_path):
    assert "does not exist" not in str(missing_raw("hm", tmp_path))


@pytest.mark.parametrize("source", SOURCES)
def test_the_commands_of_a_guide_are_commands_of_pmm(source):
    guide = GUIDES[source]
    ingest = typer.main.get_command(app).get_command(None, "ingest")
    for more in ({}, guide.download or {}):
        line = guide.command(Path("/raw files/here"), **more)
        pmm, name, command, *arguments = shlex.split(line)
        assert (pmm, name) == ("pmm", "ingest")
        assert "/raw files/here" in arguments
        known = {
            option for each in ingest.get_command(None, command).params for option in each.opts
        }
        assert {each for each in arguments if each.startswith("--")} <= known


def test_an_unknown_source_is_answered_with_the_nearest():
    with pytest.raises(InputError, match='did you mean "movielens"'):
        describe("movielenz", Path())


def test_the_error_for_missing_files_is_one_for_any_source():
    assert isinstance(missing_raw("hm", Path("x")), InputError)
