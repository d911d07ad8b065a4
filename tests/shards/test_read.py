"""Shards read back give what was put in, and say so when they cannot."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from pmm.errors import BrokenArtefact, MissingArtefact, StaleArtefact
from pmm.shards import read, sequence_shards
from pmm.shards.jpeg import shrink
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.tars import members
from pmm.shards.write import write_shards
from pmm.storage.home import Home
from pmm.storage.schemas import SEQUENCES, TARGET_ITEMS, read_table

Make = Callable[..., Home]
Reseal = Callable[[Path], None]


@pytest.fixture(scope="module")
def home(make_home: Make, options: ShardOptions) -> Home:
    """34 items; 3 has no text, 5 no picture; blocks of 4 users, 2 blocks a tar."""
    home = make_home()
    (home.root / "pictures" / "5.jpg").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_shards, "USERS_PER_BLOCK", 4)
        patch.setattr(sequence_shards, "BLOCKS_PER_TAR", 2)
        write_shards(home, "HM", options)
    return home


@pytest.fixture
def shards(home: Home) -> Shards:
    return Shards.of(home, "HM")


@pytest.fixture
def damaged(home: Home, tmp_path: Path) -> Path:
    """A copy of the shards that may be spoilt."""
    return shutil.copytree(home.shards("HM"), tmp_path / "shards" / "hm")


def test_items_hold_pictures_and_tokens(home: Home, shards: Shards, tokenizer_folder: Path) -> None:
    items = shards.items(np.array([2, 3, 5, 31]))
    texts = ["item 2 red shoe", "", "item 5 red shoe", "item 31 red shoe"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tokenizer_folder))
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    expected["attention_mask"][1] = 0
    expected["attention_mask"][1, 0] = 1  # the seam: no text, one token
    assert torch.equal(items.token_mask_IT, expected["attention_mask"].bool())
    assert torch.equal(
        items.token_IT[items.token_mask_IT], expected["input_ids"][items.token_mask_IT]
    )
    assert items.token_IT[1, 1:].eq(tokenizer.pad_token_id).all()
    assert items.has_text_I.tolist() == [True, False, True, True]
    assert items.has_picture_I.tolist() == [True, True, False, True]
    assert not items.picture_I3HW[2].any()
    raw = shrink((home.root / "pictures" / "31.jpg").read_bytes(), 32)[0]
    stored = items.picture_I3HW[3].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(stored - raw).mean() < 6  # the error of JPEG at 32x32, quality 90


def test_shapes_and_dtypes_are_those_of_the_seam(shards: Shards) -> None:
    items = shards.items(np.array([1, 7]))
    assert (items.item_I.dtype, items.item_I.tolist()) == (torch.int64, [1, 7])
    assert (items.token_IT.dtype, items.token_mask_IT.dtype) == (torch.int64, torch.bool)
    assert (items.picture_I3HW.dtype, items.picture_I3HW.shape) == (torch.uint8, (2, 3, 32, 32))


def test_streaming_in_order_gives_the_same_items(shards: Shards) -> None:
    chunks = list(shards.iterate(7))
    assert [len(chunk.item_I) for chunk in chunks] == [7, 7, 7, 7, 6]
    assert torch.cat([chunk.item_I for chunk in chunks]).tolist() == list(range(1, 35))
    assert torch.equal(chunks[4].picture_I3HW, shards.items(np.arange(29, 35)).picture_I3HW)


def test_sequences_are_those_of_the_target(home: Home, shards: Shards) -> None:
    table = read_table(home.target("HM") / "sequences.parquet", SEQUENCES).to_pylist()
    found = shards.sequences()
    assert [found.train[k].tolist() for k in range(len(found))] == [row["train"] for row in table]
    test = found.history("test")
    assert [test[k].tolist() for k in range(9)] == [[*r["train"], r["valid"]] for r in table]
    assert found.target("test").tolist() == [row["test"] for row in table]
    assert len(list(home.shards("HM").glob("sequences-*.tar"))) == 2


@pytest.mark.parametrize("length", [1, 5, 40])
def test_windows_hold_the_most_recent_items_left_padded(shards: Shards, length: int) -> None:
    history = shards.sequences().history("test")
    expected = [([0] * length + history[k].tolist())[-length:] for k in (8, 0, 3)]
    assert history.recent(np.array([8, 0, 3]), length).tolist() == expected


def test_train_counts_are_those_of_the_target(home: Home, shards: Shards) -> None:
    table = read_table(home.target("HM") / "items.parquet", TARGET_ITEMS)
    assert shards.train_count[1:].tolist() == table["train_count"].to_pylist()
    assert shards.train_count[0] == 0


def test_records_hold_the_raw_id_and_text(shards: Shards) -> None:
    record = shards.record(5)
    assert (record["item_id"], record["text"]) == ("../5/é\t'鞋", "item 5 red shoe")
    assert (record["picture"], record["reason"]) == (False, "missing")


@pytest.mark.parametrize("numbers", [[0], [35], [2, 1], [4, 4]])
def test_numbers_that_are_no_ascending_items_are_refused(
    shards: Shards, numbers: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"items are 1\.\.34|ascending"):
        shards.items(np.array(numbers))


def test_a_truncated_tar_is_named_with_the_command(damaged: Path) -> None:
    tar = damaged / "items-00002.tar"
    tar.write_bytes(tar.read_bytes()[:-2000])
    with pytest.raises(BrokenArtefact, match=r"items-00002.tar .*bytes.*pmm shard --target"):
        Shards(damaged)
    with pytest.raises(BrokenArtefact, match=r"items-00002.tar is cut off"):
        list(members(tar, made_by="pmm shard"))


def test_a_damaged_picture_is_named_with_the_command(damaged: Path, reseal: Reseal) -> None:
    tar = damaged / "items-00001.tar"
    (place,) = (m for m in members(tar, made_by="") if m.name == "12.jpg")
    content = bytearray(tar.read_bytes())
    content[place.offset : place.offset + 300] = bytes(300)
    tar.write_bytes(content)
    reseal(damaged)
    shards = Shards(damaged)
    assert shards.items(np.array([11])).has_picture_I.all()
    with pytest.raises(BrokenArtefact, match=r"items-00001.tar: the picture of item 12 .*--force"):
        shards.items(np.array([11, 12]))


def test_a_block_that_is_no_arrow_is_named_with_the_command(damaged: Path, reseal: Reseal) -> None:
    tar = damaged / "sequences-00000.tar"
    content = bytearray(tar.read_bytes())
    content[512:700] = b"x" * 188
    tar.write_bytes(content)
    reseal(damaged)
    with pytest.raises(BrokenArtefact, match=r"00000000.arrow.*pmm shard.*--force"):
        Shards(damaged).sequences()


def test_missing_shards_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="pmm shard --target hm"):
        Shards(tmp_path / "shards" / "hm")


def test_shards_of_an_older_target_are_refused(
    make_home: Make, options: ShardOptions, change_target: Callable[[Home], None]
) -> None:
    home = make_home()
    write_shards(home, "HM", options)
    change_target(home)
    with pytest.raises(
        StaleArtefact, match=r"made from target .*pmm shard --target HM --size 32 --text-encoder"
    ):
        Shards.of(home, "HM")
    assert write_shards(home, "HM", options).fresh
    assert Shards.of(home, "HM").record(1)["text"] == "other 1 red shoe"


def test_tokens_that_are_damaged_are_named_with_the_command(damaged: Path, reseal: Reseal) -> None:
    tar = damaged / "items-00001.tar"
    (place,) = (m for m in members(tar, made_by="") if m.name == "12.tokens.npy")
    content = bytearray(tar.read_bytes())
    content[place.offset + 8 : place.offset + 10] = b"\xff\xff"
    tar.write_bytes(content)
    reseal(damaged)
    with pytest.raises(BrokenArtefact, match=r"items-00001.tar: the token list of item 12 .*force"):
        Shards(damaged).items(np.array([1]))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count files in")
def test_a_catalogue_of_many_tars_needs_few_open_files(
    make_home: Make, options: ShardOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home()
    write_shards(home, "HM", dataclasses.replace(options, items_per_shard=1))
    monkeypatch.setattr(read, "TARS_OPEN", 5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards = Shards.of(home, "HM")
    whole = [items.picture_I3HW for items in shards.iterate(3)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5
    again = shards.items(np.arange(1, 35)).picture_I3HW
    assert torch.equal(torch.cat(whole), again)
    assert len(shards.tokens) == 34


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", b"{}", "lacks items, picture, .*--force"),
        ("index.json", b"[]", "cannot be read .*--force"),
        ("offsets.parquet", b"", "cannot be read as .*--force"),
    ],
)
def test_damage_that_leaves_the_size_names_the_command_that_mends_it(
    damaged: Path, reseal: Reseal, name: str, content: bytes, message: str
) -> None:
    size = (damaged / name).stat().st_size
    (damaged / name).write_bytes(content.ljust(size))
    reseal(damaged)
    with pytest.raises(BrokenArtefact, match=message):
        Shards(damaged)
