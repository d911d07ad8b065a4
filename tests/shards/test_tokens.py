"""Tokens are those of transformers, few enough, and complete with their special ones."""

import dataclasses
import time
from pathlib import Path

import pytest
import transformers

from pmm.errors import InputError
from pmm.shards.tokens import TokenEncoder, Tokenizer, load_tokenizer

TEXTS = ["red shoe", "", "word1 " * 300, "鞋 blue coat 🦊", "  \t", "xyzzy" * 40]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tokenizer_folder))


def test_tokens_are_those_of_transformers(tokenizer_folder: Path, tokenizer: Tokenizer) -> None:
    original = transformers.AutoTokenizer.from_pretrained(str(tokenizer_folder))
    expected = original(TEXTS, truncation=True, max_length=50)["input_ids"]
    assert [ids.tolist() for ids in TokenEncoder(tokenizer, 50).encode(TEXTS)] == expected


def test_a_long_text_is_cut_and_keeps_its_special_tokens(tokenizer: Tokenizer) -> None:
    short, long = TokenEncoder(tokenizer, 50).encode(["red", "word1 " * 300])
    assert len(long) == 50
    assert (long[0], long[-1]) == (short[0], short[-1])


def test_an_empty_text_gives_the_special_tokens_only(tokenizer: Tokenizer) -> None:
    empty, red = TokenEncoder(tokenizer, 50).encode(["", "red"])
    assert empty.tolist() == [red[0], red[-1]]
    assert tokenizer.special == 2


def test_too_few_tokens_for_the_special_ones_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="give at least 3"):
        TokenEncoder(tokenizer, 2)


def test_the_digest_follows_content_not_place(tokenizer: Tokenizer) -> None:
    changed = tokenizer.serialised.replace('"red"', '"der"')
    assert dataclasses.replace(tokenizer, name="x").digest == tokenizer.digest
    assert dataclasses.replace(tokenizer, serialised=changed).digest != tokenizer.digest


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        load_tokenizer(str(tmp_path / "gone"))


def test_a_tokenizer_one_folder_further_down_is_pointed_out(tokenizer_folder: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean {tokenizer_folder}"):
        load_tokenizer(str(tokenizer_folder.parent))


def test_without_network_a_hub_name_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be reached.*give its folder"):
        load_tokenizer("nobody/no-such-encoder")
    assert time.monotonic() - start < 15


def test_a_prefix_stands_before_every_text_that_has_a_token(
    tokenizer_folder: Path, tokenizer: Tokenizer
) -> None:
    original = transformers.AutoTokenizer.from_pretrained(str(tokenizer_folder))
    texts = ["red shoe", "word1 " * 300, "blue"]
    whole = [f"blue coat: {text}" for text in texts]
    expected = original(whole, truncation=True, max_length=20)["input_ids"]
    encoder = TokenEncoder(tokenizer, 20, "blue coat: ")
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected
    nothing = TokenEncoder(tokenizer, 20).encode([""])[0].tolist()
    assert [ids.tolist() for ids in encoder.encode(["", "  \t"])] == [nothing, nothing]


def test_a_prefix_that_leaves_no_room_for_texts_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"the prefix 'red '.* give at least 4"):
        TokenEncoder(tokenizer, 3, "red ")
