"""Fetching the raw files that have public addresses: resumable, checked, recorded.

A file comes as `NAME.part`, beside it `NAME.part.json` with what its server said of it; both vanish
when the file is whole and checked. `downloads.json` keeps what was fetched, with sha256.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import urllib3

from pmm.errors import InputError, StorageError
from pmm.ingest.download.polite_http import (
    PASSING,
    Web,
    WebError,
    WebOptions,
    host_of,
    read_body,
    steady_pieces,
)
from pmm.ingest.download.raw_addresses import DownloadEdition, RemoteFile, remote_files
from pmm.ingest.download.raw_check import check_file, sha256_of, unpack_zip
from pmm.progress import progress
from pmm.storage.artefact import atomic_file, exclusive, storage_errors, write_json

RECORD = "downloads.json"
_SPARE = 64 * 2**20
"""Bytes that stay free on the disk."""
_MOST_MD5 = 1 << 16
"""Bytes of a file that names a sum."""

FetchState = Literal["fetched", "there", "not published"]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of one file."""

    name: str
    state: FetchState
    bytes: int = 0
    sha256: str = ""
    url: str = ""


@dataclass(kw_only=True)
class _Part:
    """A file that is partly fetched, and what shows whether its server still has the same one."""

    place: Path
    url: str = ""
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    answered: bool = False

    @property
    def data(self) -> Path:
        return self.place.with_name(self.place.name + ".part")

    @property
    def facts(self) -> Path:
        return self.place.with_name(self.place.name + ".part.json")

    def drop(self) -> None:
        self.facts.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)


def download_raw(
    source: str,
    folder: Path,
    *,
    names: Sequence[str] = (),
    edition: DownloadEdition = "2018",
    base: str | None = None,
    options: WebOptions | None = None,
) -> list[Fetched]:
    """Fetch a source's raw files into a folder; what is there already stays.

    Files are fetched one after the other. A download that was cut off goes on where it was, if the
    server still has the same file.

    Args:
        source: "amazon", "kwai" (MicroLens) or "movielens".
        folder: where they go.
        names: what of it. Amazon: categories (ratings of each; of 2023 reviews) or single files as
            `Gift_Cards_5.json.gz`, with their metadata; nothing is fetched unasked.
            MovieLens: one release, as "ml-1m". Kwai: "MicroLens-50k" (the default) or -100k.
        edition: of Amazon.
        base: another server (a mirror) with the same paths.
        options: patience.

    Raises:
        InputError: a source or name that cannot be fetched, a file that the server does not have,
            or that does not match its checksum.
        StorageError: no space, the folder cannot be written, or another process downloads there.
    """
    files = remote_files(source, folder, names, edition)
    web = Web(options)
    with storage_errors(folder / RECORD):
        folder.mkdir(parents=True, exist_ok=True)
        taken = f"another process downloads to {folder}; wait for it, or end it"
        with exclusive(folder / ".downloads.lock", taken):
            return [_one(web, folder, each, (base,) if base else each.bases) for each in files]


def check_raw(folder: Path) -> list[str]:
    """Faults of the fetched files: what has been changed or removed since. Reads all of them."""
    faults = []
    for name, entry in _records(folder).items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            faults.append(f"{name} has other content than it was recorded with")
    return faults


def _one(web: Web, folder: Path, remote: RemoteFile, bases: Sequence[str]) -> Fetched:
    """Fetch a file unless it is there, from the first server that has it."""
    place = folder / remote.name
    if place.exists():
        return _found(folder, remote)
    begun = _load_part(place).url
    failures = []
    for base in sorted(bases, key=lambda each: _address(each, remote) != begun):
        url = _address(base, remote)
        try:
            fetched = _fetched(web, folder, remote, url)
        except WebError as error:
            failures.append((url, error))
            if _size(_load_part(place).data):
                break  # another server's file would have to begin at its first byte
            continue
        _unpack(folder, remote)
        return fetched
    if not remote.needed and all(error.trouble == "not found" for _, error in failures):
        return Fetched(name=remote.name, state="not published")
    lines = "\n".join(f"  {url}: {error}" for url, error in failures)
    raise InputError(
        f"{remote.name} could not be fetched:\n{lines}\nWhat has come so far is kept: run the same "
        f"command again to go on, or download it in a browser and put it into {folder}"
    )


def _address(base: str, remote: RemoteFile) -> str:
    return f"{base.rstrip('/')}/{remote.path}"


def _found(folder: Path, remote: RemoteFile) -> Fetched:
    """A file that is there: as it was fetched, or put there by hand and whole."""
    place = folder / remote.name
    if not place.is_file():
        raise InputError(f"{place} is no plain file. Delete it to have it fetched")
    record = _records(folder).get(remote.name)
    if record is None:
        fault, digest = check_file(place, remote.name)
        if fault is not None:
            raise InputError(f"{place} is damaged: {fault}. Delete it to have it fetched")
        stat = place.stat()
        record = {"url": "", "bytes": stat.st_size, "sha256": digest, "mtime_ns": stat.st_mtime_ns}
        _note(folder, remote.name, record)
    _refuse_changed(place, record)
    _unpack(folder, remote)
    return Fetched(
        name=remote.name,
        state="there",
        bytes=record["bytes"],
        sha256=record["sha256"],
        url=record["url"],
    )


def _refuse_changed(place: Path, record: dict[str, Any]) -> None:
    found = place.stat()
    same = found.st_size == record["bytes"]
    if same and found.st_mtime_ns != record["mtime_ns"]:
        same = sha256_of(place) == record["sha256"]
    if not same:
        raise InputError(
            f"{place} has other content than it was recorded with in {RECORD}. Delete it to have "
            "it fetched again, or move it away"
        )


def _fetched(web: Web, folder: Path, remote: RemoteFile, url: str) -> Fetched:
    """Fetch, check, put into place and record one file; a file that fails its check comes again."""
    place = folder / remote.name
    published = _published_md5(web, url, remote)
    for attempt in (1, 2):
        part = _load_part(place)
        if part.url != url:
            part.drop()
            part = _Part(place=place, url=url)
        _receive(web, part, url, remote.name)
        fault, digest = check_file(part.data, remote.name, md5=published)
        if fault is None:
            break
        part.drop()
        if attempt == 2:
            raise InputError(
                f"{url} came twice and is damaged: {fault}. Nothing of it is kept. Try again "
                f"later, or download it in a browser and put it into {folder}"
            )
    size = part.data.stat().st_size
    with part.data.open("rb") as file:
        os.fsync(file.fileno())
    part.data.replace(place)
    part.facts.unlink(missing_ok=True)
    entry = {
        "url": url,
        "bytes": size,
        "sha256": digest,
        "md5 published": published,
        "etag": part.etag,
        "last_modified": part.modified,
        "mtime_ns": place.stat().st_mtime_ns,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _note(folder, remote.name, entry)
    return Fetched(name=remote.name, state="fetched", bytes=size, sha256=digest, url=url)


def _published_md5(web: Web, url: str, remote: RemoteFile) -> str | None:
    """The MD5 that the publisher names, or None where it names none."""
    if remote.md5 is None:
        return None
    try:
        with web.opened(url.removesuffix(remote.path) + remote.md5) as response:
            text = read_body(response, _MOST_MD5).decode("ascii", "replace")
    except WebError as error:
        if error.trouble == "not found":
            return None
        raise
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    return found[0].lower() if found else None


def _load_part(place: Path) -> _Part:
    """What an earlier try has left; of no address where there is nothing to go on with."""
    part = _Part(place=place)
    try:
        facts = json.loads(part.facts.read_text(encoding="utf-8"))
        part.url, part.etag = str(facts["url"]), facts["etag"]
        part.modified, part.total = facts["modified"], facts["total"]
    except (OSError, ValueError, KeyError, TypeError):
        return _Part(place=place)
    return part if part.data.exists() else _Part(place=place)


def _receive(web: Web, part: _Part, url: str, name: str) -> None:
    """Bring the part to its full length, through interruptions.

    Raises:
        WebError: as many tries in a row as are allowed brought no further byte.
    """
    tries = 0
    while True:
        before, part.answered = _size(part.data), False
        try:
            _go_on(web, part, url, name)
            return
        except WebError as error:
            tries = 1 if _size(part.data) > before else tries + 1
            # Without an answer, all tries have been made already.
            if not part.answered or error.trouble not in PASSING or tries >= web.options.tries:
                raise
            web.hosts.pause(host_of(url), error.pause_s or web.options.delay_s(tries))


def _go_on(web: Web, part: _Part, url: str, name: str) -> None:
    have = _size(part.data)
    # A weak ETag does not say that the bytes are the same.
    mark = part.etag if part.etag and not part.etag.startswith("W/") else part.modified
    headers = {"Range": f"bytes={have}-", "If-Range": mark} if have and mark else {}
    with web.opened(url, headers, accept=(200, 206, 416)) as response:
        part.answered = True
        coding = response.headers.get("Content-Encoding", "identity")
        if coding != "identity" and not name.endswith((".gz", ".zip")):
            raise WebError("refused", f"it is sent with Content-Encoding {coding}, unasked")
        if response.status == 416 and part.total == have:
            return
        continues = response.status == 206 and _continues(response, have, part.total)
        if response.status != 200 and not continues:
            part.drop()
            raise WebError("cut off", "the server has another file now")
        if not continues:
            have = 0
            _begin(part, url, response)
        _require_space(part, have)
        _write(steady_pieces(response, web.options), part, have, name)
    if part.total is not None and _size(part.data) != part.total:
        raise WebError("cut off", f"{_size(part.data):,} of {part.total:,} bytes")


def _continues(response: urllib3.BaseHTTPResponse, have: int, total: int | None) -> bool:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == have and found[2] in ("*", str(total))


def _begin(part: _Part, url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Start over with the file that the server has now."""
    part.drop()
    length = response.headers.get("Content-Length", "")
    part.url, part.total = url, int(length) if length.isdigit() else None
    part.etag = response.headers.get("ETag")
    part.modified = response.headers.get("Last-Modified")
    with atomic_file(part.facts) as temporary:
        names = ("url", "etag", "modified", "total")
        write_json(temporary, {name: getattr(part, name) for name in names})


def _require_space(part: _Part, have: int) -> None:
    if part.total is None:
        return
    free = shutil.disk_usage(part.place.parent).free
    if free < part.total - have + _SPARE:
        raise StorageError(
            f"{part.place.name} needs {(part.total - have) / 1e9:.1f} GB more, but the disk that "
            f"holds {part.place.parent} has {free / 1e9:.1f} GB free. Free some space, or choose "
            "another folder with --raw, and run the same command again"
        )


def _write(pieces: Iterator[bytes], part: _Part, have: int, name: str) -> None:
    total = None if part.total is None else -(-part.total >> 20)
    with part.data.open("ab", buffering=0) as file, progress(total, name, "MiB") as counter:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
            have += len(piece)
            counter.advance((have >> 20) - counter.done)


def _unpack(folder: Path, remote: RemoteFile) -> None:
    """Unpack an archive that has not been unpacked yet."""
    record = _records(folder)[remote.name]
    if remote.unpack and not record.get("unpacked"):
        unpack_zip(folder / remote.name, folder, strip=remote.unpack == "without top folder")
        os.sync()  # before the note that it is done
        _note(folder, remote.name, {**record, "unpacked": True})


def _records(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Delete it to go on") from error
    return found if isinstance(found, dict) else {}


def _note(folder: Path, name: str, entry: dict[str, Any]) -> None:
    with atomic_file(folder / RECORD) as temporary:
        write_json(temporary, {**_records(folder), name: entry})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def download_and_tell(
    source: str,
    folder: Path,
    *,
    names: Sequence[str] = (),
    edition: DownloadEdition = "2018",
    allow_private: bool = False,
) -> None:
    """`download_raw`, with a line on the standard output for each file; errors are the same."""
    options = WebOptions(allow_private=allow_private)
    for each in download_raw(source, folder, names=names, edition=edition, options=options):
        print(f"{each.name}: {each.state}, {each.bytes:,} bytes")
