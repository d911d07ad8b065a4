"""Tar headers beside the standard library's."""

import tarfile

import pytest

from pmm.shards.tars import header


@pytest.mark.parametrize("size", [0, 1, 511, 512, 12_345_678, 8**11 - 1])
@pytest.mark.parametrize("name", ["1.json", "a/b c.jpg", "x" * 99, "y" * 100, "d/" * 40 + "z" * 60])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
