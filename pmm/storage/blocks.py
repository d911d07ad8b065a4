"""Checksums of a file's blocks: what is mapped is verified piece by piece, on its first use.

They stand in a file beside (`00000.npy.crc32`), four bytes a block. CRC-32 finds every flipped
bit, every damage within 32 bits, and other damage but for one case in four thousand million;
`isal` computes it as fast as memory is read.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from pmm.errors import BrokenArtefact
from pmm.machine import cores
from pmm.storage.artefact import atomic_file

BLOCK = 256 << 10
"""Bytes; read together when the first of them is asked for."""

Bytes = npt.NDArray[np.uint8]


def checksums_file(path: Path) -> Path:
    """Where the checksums of a file's blocks stand."""
    return path.with_name(f"{path.name}.crc32")


def write_checksums(path: Path, content: Path) -> None:
    """Write the checksums of a file.

    Args:
        path: of the file, under its final name.
        content: the same file, where it has another name yet.
    """
    raw = np.memmap(content, dtype=np.uint8, mode="r")
    sums = np.array([_crc32(raw, block) for block in range(_count(raw))], dtype="<u4")
    with atomic_file(checksums_file(path)) as temporary:
        temporary.write_bytes(sums.tobytes())


class CheckedBytes:
    """A mapped file whose blocks are compared with their checksums before they are used.

    Safe to use from several threads.
    """

    def __init__(self, path: Path, *, made_by: str) -> None:
        """Map a file that has checksums beside it.

        Raises:
            BrokenArtefact: either cannot be read, or they do not belong together.
        """
        self._path, self._made_by = path, made_by
        try:
            self.raw: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
            sums = np.frombuffer(checksums_file(path).read_bytes(), dtype="<u4")
        except (OSError, ValueError) as error:
            raise BrokenArtefact(f"{path} cannot be read ({error}). Run: {made_by}") from error
        if len(sums) != _count(self.raw):
            raise BrokenArtefact(
                f"{path} has {_count(self.raw)} blocks, but checksums of {len(sums)}. "
                f"Run: {made_by}"
            )
        self._sums = sums
        self._checked = np.zeros(len(sums), dtype=np.bool_)

    def require_all(self) -> None:
        """Verify all blocks that were not verified yet, on all cores."""
        self._verify(np.flatnonzero(~self._checked))

    def require(self, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> None:
        """Verify the blocks of some stretches of bytes, unless that was done.

        Args:
            first: the first byte of each stretch.
            last: its last byte.

        Raises:
            BrokenArtefact: a block does not have its checksum.
        """
        if not len(first) or self._checked.all():
            return
        low, high = first // BLOCK, last // BLOCK
        span = np.arange(int((high - low).max()) + 1)
        blocks = np.unique(np.minimum(low[:, None] + span, high[:, None]))
        self._verify(blocks[~self._checked[blocks]])

    def _verify(self, blocks: npt.NDArray[np.int64]) -> None:
        with ThreadPoolExecutor(cores()) as pool:
            found = np.fromiter(pool.map(self._crc32, blocks.tolist()), np.uint32, len(blocks))
        wrong = blocks[found != self._sums[blocks]]
        if len(wrong):
            raise BrokenArtefact(
                f"{self._path} is damaged in block {int(wrong[0])} (byte {int(wrong[0]) * BLOCK:,}"
                f" and on; {len(wrong):,} of {len(blocks):,} read). Run: {self._made_by}"
            )
        self._checked[blocks] = True

    def _crc32(self, block: int) -> int:
        return _crc32(self.raw, block)


def _count(raw: Bytes) -> int:
    return -(-len(raw) // BLOCK)


def _crc32(raw: Bytes, block: int) -> int:
    return isal_zlib.crc32(raw[block * BLOCK : (block + 1) * BLOCK].data)
