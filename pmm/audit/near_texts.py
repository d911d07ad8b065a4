"""Texts that are nearly the same: exactly all pairs whose words overlap enough.

Words are compared as sets, without case, signs or order. All pairs of a Jaccard similarity of at
least t are found without comparing all: with words ordered from the rarest on, two such sets share
one of the first |x| - ceil(t |x|) + 1 of each (Bayardo, Ma and Srikant 2007).
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from pmm.audit.near_items import NearItems

LEAST = 0.9
"""Of the words of both, how many both have: one other word in twenty."""
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
"""A word; of scripts without spaces a sign."""


def words_of(text: str) -> frozenset[str]:
    """The words of a text, however it is written.

    >>> sorted(words_of("Red  SHOE, red; № 42"))
    ['42', 'no', 'red', 'shoe']
    """
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def near_texts(texts: Sequence[str], *, least: float = LEAST) -> NearItems:
    """Items whose words are the same, and groups of which at least a share is.

    Memory is about 100 bytes a word of the distinct texts while it runs. Time grows with the texts
    and with the pairs that share a rare word.

    Args:
        texts: of item k at k - 1; those without a word are not looked at.
        least: Jaccard similarity of two texts that are near, above 0.
    """
    group_of: dict[frozenset[str], int] = {}
    group_N = np.full(len(texts) + 1, -1, np.int64)
    for number, text in enumerate(texts, start=1):
        if words := words_of(text):
            group_N[number] = group_of.setdefault(words, len(group_of))
    pairs = _near_pairs(list(group_of), least)
    return NearItems(group_N=group_N, pairs_P2=np.array(pairs, np.int64).reshape(-1, 2))


def _near_pairs(sets: list[frozenset[str]], least: float) -> list[tuple[int, int]]:
    often = Counter(word for each in sets for word in each)
    place = {word: n for n, word in enumerate(sorted(often, key=lambda word: (often[word], word)))}
    ordered = [sorted(map(place.__getitem__, each)) for each in sets]
    found: list[tuple[int, int]] = []
    holders: dict[int, list[int]] = defaultdict(list)
    # The shorter first, so that whatever is held already is no longer than what is asked.
    for one in sorted(range(len(sets)), key=lambda n: (len(sets[n]), n)):
        words, size = ordered[one], len(sets[one])
        beginning = words[: size - _at_least(least * size) + 1]
        candidates = {other for word in beginning for other in holders[word]}
        for other in candidates:
            if len(sets[other]) < least * size - 1e-9:
                continue
            both = len(sets[one] & sets[other])
            if both >= least * (size + len(sets[other]) - both) - 1e-9:
                found.append((min(one, other), max(one, other)))
        for word in beginning:
            holders[word].append(one)
    return sorted(found)


def _at_least(value: float) -> int:
    """The least integer that is no less, but for rounding."""
    return max(1, math.ceil(value - 1e-9))
