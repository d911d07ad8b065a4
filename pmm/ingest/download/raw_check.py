"""Whether a fetched file is whole, by its own checksums; unpacking archives within bounds."""

import hashlib
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pmm.errors import InputError, StorageError
from pmm.storage.regular_file import open_regular

_PIECE = 1 << 20
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_MOST_SWELLING = 200
"""Bytes that a byte of an archive may become; tables of text become some 10, pictures 1."""


def sha256_of(path: Path) -> str:
    """sha256 of a file's content."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, name: str, md5: str | None = None) -> tuple[str | None, str]:
    """What is wrong with a file (None = nothing), and its sha256; one pass, a second for a zip.

    Args:
        path: where it is.
        name: its final name, which tells whether it is a .gz or a .zip.
        md5: what its MD5 is known to be.
    """
    fault = None
    whole, published = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    gzip = _Gzip() if name.endswith(".gz") else None
    with open_regular(path) as file:
        if name.endswith(".csv") and file.read(100).lstrip().lower().startswith(_PAGES):
            fault = "it is a web page, not a table"
        file.seek(0)
        while piece := file.read(_PIECE):
            whole.update(piece)
            published.update(piece)
            if gzip is not None and gzip.fault is None:
                gzip.take(piece)
    if md5 is not None and published.hexdigest() != md5:
        fault = f"its MD5 is {published.hexdigest()}, published is {md5}"
    elif gzip is not None:
        fault = gzip.end()
    elif name.endswith(".zip"):
        fault = _zip_fault(path)
    return fault, whole.hexdigest()


class _Gzip:
    """Unpacks a gzip stream piece by piece, for its CRC alone."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self._stream = zlib.decompressobj(31)
        self._begun = False

    def take(self, piece: bytes) -> None:
        try:
            while piece:
                if self._stream.eof:
                    piece = piece.lstrip(b"\0")  # padding between members is allowed
                    if not piece:
                        return
                    self._stream = zlib.decompressobj(31)
                self._begun = True
                self._stream.decompress(piece, _PIECE)
                while self._stream.unconsumed_tail:
                    self._stream.decompress(self._stream.unconsumed_tail, _PIECE)
                piece = self._stream.unused_data
        except zlib.error as error:
            self.fault = f"it is no whole gzip file ({error})"

    def end(self) -> str | None:
        if self.fault is None and not (self._begun and self._stream.eof):
            self.fault = "its gzip stream ends too early"
        return self.fault


def _zip_fault(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except _ZIP_ERRORS as error:
        return f"it is no whole zip file ({error})"
    return None if bad is None else f"{bad} in it is damaged"


def unpack_zip(path: Path, folder: Path, *, strip: bool = False) -> list[str]:
    """Unpack an archive into a folder; returns the files' paths below it. Running it again is safe.

    Args:
        path: the archive.
        folder: where its files go; each is whole or absent.
        strip: leave out the folder at the top, where all is in one.

    Raises:
        InputError: a name that leads out of the folder, a link, or a file that swells beyond what
            any data set does, or beyond the size that the archive declares.
        StorageError: no space for all of it.
    """
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if not each.is_dir()]
        names = [_safe_name(path, each) for each in members]
        tops = {name.parts[0] for name in names if len(name.parts) > 1}
        if strip and len(tops) == 1 and all(len(name.parts) > 1 for name in names):
            names = [PurePosixPath(*name.parts[1:]) for name in names]
        total = sum(each.file_size for each in members)
        if total > _MOST_SWELLING * path.stat().st_size + _PIECE:
            raise InputError(
                f"{path} would become {total / 1e9:.1f} GB of {path.stat().st_size / 1e9:.3f} GB; "
                "that is no data set. It is not unpacked: delete it, and get it from its own page"
            )
        free = shutil.disk_usage(folder).free
        if total > free:
            raise StorageError(
                f"{path} takes {total / 1e9:.1f} GB unpacked, the disk has {free / 1e9:.1f} GB "
                "free. Free some space and run the same command again"
            )
        for member, name in zip(members, names, strict=True):
            _extract(archive, member, folder / name)
    return [str(name) for name in names]


def _safe_name(path: Path, member: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(member.filename)
    link = stat.S_ISLNK(member.external_attr >> 16)
    odd = "\\" in member.filename or ":" in member.filename or not member.filename.isprintable()
    if name.is_absolute() or ".." in name.parts or not name.parts or link or odd:
        raise InputError(
            f"{path} holds {member.filename!r}, which does not name a file below the folder; it "
            "is not unpacked: delete it, and get it from its own page"
        )
    return name


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".tmp-{place.name}")
    try:
        with archive.open(member) as packed, draft.open("wb") as file:
            shutil.copyfileobj(packed, file, _PIECE)  # ends at the declared size
        draft.replace(place)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if not isinstance(error, _ZIP_ERRORS):
            raise
        raise InputError(
            f"{archive.filename}: {member.filename} is damaged ({error}). Delete the archive, "
            "and run the same command again"
        ) from error
