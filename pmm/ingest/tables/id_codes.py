"""Ids as integers: each distinct id gets one code, in ascending order of the ids."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Below this many, folding would be done again and again for a few entries each.
_FOLD_AT = 1 << 22
"""Pending dictionary entries before they are folded into one dictionary."""


class IdCodes:
    """Collects a column that comes in dictionary-encoded pieces, each with a dictionary of its own.

    Pieces are folded whenever as many entries wait as are known, so that the work stays
    proportional to the entries seen and the memory to the distinct ids.

    >>> coder = IdCodes()
    >>> coder.add(pa.array(["b", "a"]).dictionary_encode())
    >>> coder.add(pa.array(["c", "b"]).dictionary_encode())
    >>> ids, codes = coder.finish()
    >>> ids.to_pylist(), codes.tolist()
    (['a', 'b', 'c'], [1, 0, 2, 1])
    """

    def __init__(self) -> None:
        self._known = pa.array([], pa.string())
        self._waiting: list[pa.DictionaryArray] = []
        self._entries = 0
        self._codes: list[NDArray[np.int32]] = []

    def add(self, piece: pa.DictionaryArray) -> None:
        """Append the rows of a piece."""
        self._waiting.append(piece)
        self._entries += len(piece.dictionary)
        # Folding costs as much as is known plus what waits. Waiting until as much waits as is known
        # keeps the sum proportional to the entries; folding each piece would be quadratic.
        if self._entries > max(_FOLD_AT, len(self._known)):
            self._fold()

    def finish(self) -> tuple[pa.StringArray, NDArray[np.int32]]:
        """The distinct ids, ascending, and the code of every row."""
        self._fold()
        # Codes so far tell in which order ids were met, hence how the file was cut into blocks and
        # by how many threads. Ascending ids make them a function of the set of ids alone.
        ascending = pc.sort_indices(self._known)
        rank = np.empty(len(ascending), np.int32)
        rank[ascending.to_numpy()] = np.arange(len(ascending), dtype=np.int32)
        codes = np.empty(sum(map(len, self._codes)), np.int32)
        filled = 0
        for piece in self._codes:
            # Piece by piece into one array: a concatenation first would hold all codes twice.
            np.take(rank, piece, out=codes[filled : filled + len(piece)])
            filled += len(piece)
        return self._known.take(ascending), codes

    def _fold(self) -> None:
        none = pa.array([], pa.int32())
        first = pa.DictionaryArray.from_arrays(none, self._known)
        pieces = [first, *(piece.cast(first.type) for piece in self._waiting)]
        # Known ids come first, so the codes that were given out stay as they are.
        unified = pa.chunked_array(pieces, first.type).unify_dictionaries()
        self._known = unified.chunk(0).dictionary
        for chunk in unified.chunks[1:]:
            self._codes.append(chunk.indices.to_numpy(zero_copy_only=False).astype(np.int32))
        self._waiting, self._entries = [], 0
