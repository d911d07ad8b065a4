"""Near-duplicates: every pair that the slowest loop finds, and no other."""

import io
import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pmm.audit import near_pictures as module
from pmm.audit.near_items import NearItems, duplicates, looked_up
from pmm.audit.near_pictures import PictureCodes, code_of, near_codes, pairs_within
from pmm.audit.near_texts import near_texts, words_of
from pmm.evaluate.ranking import Queries
from pmm.shards.sequence_shards import Lists

assert isinstance(module, ModuleType)


def near_pairs(near: NearItems) -> set[tuple[int, int]]:
    """All pairs of items that are in one group or in near ones."""
    groups = {(int(a), int(b)) for a, b in near.pairs_P2}
    numbers = np.flatnonzero(near.group_N >= 0).tolist()
    found = set()
    for one in numbers:
        for other in numbers:
            a, b = int(near.group_N[one]), int(near.group_N[other])
            if one < other and (a == b or (a, b) in groups or (b, a) in groups):
                found.add((one, other))
    return found


def jaccard(one: str, other: str) -> float:
    a, b = words_of(one), words_of(other)
    return len(a & b) / len(a | b) if a | b else 0.0


@pytest.mark.parametrize("least", [0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_near_texts_are_all_pairs_whose_words_overlap_enough(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    common = [f"w{n}" for n in range(14)]
    texts = []
    for _ in range(90):
        words = rng.choice(common, int(rng.integers(0, 12)), replace=False)
        texts.append(" ".join([*words, *rng.choice(["rare", "odd"], int(rng.integers(0, 2)))]))
    expected = {
        (i + 1, j + 1)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if words_of(texts[i]) and words_of(texts[j]) and jaccard(texts[i], texts[j]) >= least
    }
    assert near_pairs(near_texts(texts, least=least)) == expected
    assert expected


def test_texts_are_compared_without_case_signs_width_and_order() -> None:
    near = near_texts(
        ["Red shoe, size 42!", "size 42: RED SHOE", "ｒｅｄ shoe size 42", "", "  -- "]
    )
    assert near.group_N.tolist() == [-1, 0, 0, 0, -1, -1]
    assert near_pairs(
        near_texts(["红色的鞋子很好看又很便宜大家快来买", "红色的鞋子很好看又很便宜大家快来"])
    )
    assert not near_pairs(near_texts(["red shoe", "red hat"]))


def slow_pairs(codes: list[int], distance: int) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(codes))
        for j in range(i + 1, len(codes))
        if (codes[i] ^ codes[j]).bit_count() <= distance
    }


@pytest.mark.parametrize("distance", [0, 1, 3, 8, 12])
def test_codes_within_a_distance_are_all_of_them(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(distance)
    codes = [int(each) for each in rng.integers(0, 2**63, 40, dtype=np.uint64)]
    for code in list(codes):  # at every distance around the one that is asked for
        for flips in range(max(0, distance - 1), distance + 3):
            mask = sum(1 << int(bit) for bit in rng.choice(64, flips, replace=False))
            codes.append(code ^ mask)
    expected = slow_pairs(codes, distance)
    assert len(expected) >= 40
    for at_once in (2_000_000, 50):
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", at_once)
        one, other = pairs_within(np.array(codes, np.uint64), distance)
        assert set(zip(one.tolist(), other.tolist(), strict=True)) == expected
        assert len(one) == len(expected)


def test_the_search_holds_no_square_of_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 100_000)
    codes = np.random.default_rng(0).integers(0, 2**63, 12_000, dtype=np.uint64)
    tracemalloc.start()
    pairs_within(codes, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000**2 / 8  # not even a bit a pair


def picture(seed: int, size: int = 224) -> Image.Image:
    """Soft shapes on a light ground."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 235, (6, 6, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def in_shards(content: bytes) -> bytes:
    """At the size of the shards."""
    return jpeg(Image.open(io.BytesIO(content)).resize((224, 224), Image.Resampling.BICUBIC))


def codes_of(contents: list[bytes]) -> PictureCodes:
    found = [code_of(each) for each in contents]
    code = np.array([code for code, _ in found], np.uint64)
    return PictureCodes(code=code, colour=np.stack([colour for _, colour in found]))


@pytest.mark.parametrize("way", ["compressed", "smaller", "brighter"])
def test_a_changed_copy_is_near_its_picture_and_no_other(
    way: str, change_picture: Callable[[bytes, str], bytes]
) -> None:
    whole = [jpeg(picture(seed)) for seed in range(40)]
    copies = [in_shards(change_picture(each, way)) for each in whole]
    found = near_pairs(near_codes(codes_of(whole + copies)))
    assert found == {(n, n + 40) for n in range(1, 41)}


def test_one_shape_in_two_colours_is_not_the_same() -> None:
    red = Image.new("RGB", (224, 224), "white")
    green = red.copy()
    red.paste((200, 60, 60), (60, 40, 160, 190))
    green.paste((30, 134, 60), (60, 40, 160, 190))  # as bright
    codes = codes_of([jpeg(red), jpeg(green)])
    assert int(codes.code[0] ^ codes.code[1]).bit_count() <= 8
    assert near_pairs(near_codes(codes)) == set()


def test_of_one_code_those_of_other_colours_are_other_groups() -> None:
    plain = [jpeg(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue", "red", "grey")]
    codes = codes_of(plain)
    codes = PictureCodes(code=np.zeros(4, np.uint64), colour=codes.colour)
    assert near_pairs(near_codes(codes)) == {(1, 3)}


def test_no_picture_is_no_group() -> None:
    none = PictureCodes(code=np.zeros(0, np.uint64), colour=np.zeros((0, 768), np.uint8))
    assert near_codes(none).n_groups == 0


def queries_of(histories: list[list[int]], targets: list[int]) -> Queries:
    lengths = [len(each) for each in histories]
    return Queries(
        user_U=np.arange(len(targets), dtype=np.int32),
        target_U=np.array(targets, np.int32),
        history=Lists(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            values=np.array([item for each in histories for item in each], np.int32),
        ),
    )


@pytest.mark.parametrize("seed", range(5))
def test_look_ups_and_pairs_are_those_of_the_slowest_loop(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    n = 30
    group = np.unique(rng.integers(0, 14, n), return_inverse=True)[1]
    group_N = np.concatenate([[-1], np.where(rng.random(n) < 0.8, group, -1)])
    group_N[group_N >= 0] = np.unique(group_N[group_N >= 0], return_inverse=True)[1]
    groups = int(group_N.max()) + 1
    pairs = {tuple(sorted(rng.choice(groups, 2, replace=False).tolist())) for _ in range(4)}
    near = NearItems(group_N=group_N, pairs_P2=np.array(sorted(pairs), np.int64))
    histories = [rng.integers(1, n + 1, rng.integers(1, 7)).tolist() for _ in range(60)]
    targets = rng.integers(1, n + 1, 60).tolist()
    asked, both = queries_of(histories, targets), near_pairs(near)
    expected = [
        any((min(i, t), max(i, t)) in both for i in history if i != t)
        for history, t in zip(histories, targets, strict=True)
    ]
    assert looked_up(near, asked).tolist() == expected
    monkeypatch.setattr("pmm.evaluate.ranking.HISTORY_AT_ONCE", 9)
    assert looked_up(near, asked).tolist() == expected
    found = duplicates(near, asked, [f"i{k}" for k in range(1, n + 1)], shown=6)
    assert found.pairs == len(both)
    assert found.items == len({item for pair in both for item in pair})
    again = [t in history for history, t in zip(histories, targets, strict=True)]
    assert found.lookups == sum(e and not a for e, a in zip(expected, again, strict=True))
    shown: Any = {tuple(sorted(int(each[1:]) for each in pair)) for pair in found.examples}
    assert shown <= both
    assert len(found.examples) == min(6, len(both)) or len(found.examples) >= 4
