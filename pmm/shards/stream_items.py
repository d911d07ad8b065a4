"""Item shards read in order, tar after tar, from a folder or over a URL.

WebDataset's stages list the shards, open them (a path, file:, http:, pipe: and what else its
`gopen` knows) and group members into samples. The stage between, which takes a tar apart, is ours:
WebDataset's own, `tarfile` in stream mode, takes ten times as long and skips a cut-off end.

Random access by offset is `pmm.shards.read`.
"""

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from pmm.advice import command
from pmm.errors import BrokenArtefact, InputError
from pmm.shards.items import Items
from pmm.shards.jpeg import decode
from pmm.shards.kinds import Reads
from pmm.shards.sequence_shards import Lists
from pmm.shards.tars import BLOCK, parse_header
from pmm.shards.tokens import no_tokens, padded_tokens
from pmm.storage.artefact import MANIFEST, open_artefact
from pmm.storage.json_files import JSON_ERRORS, parse_json, told
from pmm.storage.verify import require_whole

logger = logging.getLogger(__name__)

_PARTS: dict[Reads, tuple[str, ...]] = {
    "both": ("jpg", "tokens.npy"),
    "text": ("tokens.npy",),
    "vision": ("jpg",),
    "none": (),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The members of one item, by the part of their names behind the number."""

    item: int
    parts: Mapping[str, bytes]
    tar: str


def stream_samples(
    tars: Iterable[str | Path], *, parts: Collection[str], made_by: str
) -> Generator[Sample, None, None]:
    """The samples of some tars, in their order; one tar is open at a time and one sample in memory.

    Args:
        tars: paths or URLs.
        parts: which members are read ("json", "jpg", "tokens.npy"); others are passed over.
        made_by: the command that makes the tars, for messages.

    Raises:
        BrokenArtefact: a tar is missing, cut off or no tar.
    """
    import webdataset
    from webdataset.tariterators import group_by_keys, url_opener

    urls = [_url(each) for each in tars]

    def members(opened: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for each in opened:
            url = each["url"]
            logger.debug("reading %s", url)
            try:
                for name, data in _members(each["stream"], url, parts, made_by):
                    yield {"fname": name, "data": data, "__url__": url}
            except OSError as error:  # of a pipe: how its process ended
                raise BrokenArtefact(f"{url} cannot be read ({error}). Run: {made_by}") from error
            yield {}  # the end of a tar, so that no sample goes on in the next

    stages = webdataset.SimpleShardList(urls), url_opener, members, group_by_keys
    samples = iter(webdataset.DataPipeline(*stages)) if urls else iter(())
    while True:
        try:
            sample = next(samples, None)
        except (OSError, ValueError) as error:  # url_opener puts the URL behind what it met
            *why, place = error.args
            raise BrokenArtefact(f"{place} cannot be read ({why[-1]}). Run: {made_by}") from error
        if sample is None:
            return
        held = {name: sample[name] for name in parts if name in sample}
        yield Sample(
            _number(sample["__key__"], sample["__url__"], made_by), held, sample["__url__"]
        )


def stream_items(source: str | Path, chunk: int, *, read: Reads = "both") -> Iterator[Items]:
    """All items of a folder of shards, in order, `chunk` at a time: what `Shards.iterate` gives.

    Needs index.json and the tars of items alone, which may lie behind a URL.

    Args:
        source: the folder, or its URL ("http://host/shards/hm").
        chunk: items at a time; so many are in memory.
        read: with "text" no picture is read, with "vision" no text, with "none" neither.

    Raises:
        BrokenArtefact: a file is missing, cut off or damaged.
        InputError: content is asked for, and the shards were made without.
    """
    place = _url(source).rstrip("/")
    if (Path(place) / MANIFEST).is_file():  # not so behind a URL
        files = open_artefact(Path(place), kind="shards", made_by=command("shard")).files
        require_whole(Path(place), files, _streamed(files), made_by=command("shard"))
    index, made_by = index_of(place)
    size, pad = int(index["picture"]["size"]), int(index["tokenizer"]["pad"])
    special = int(index["tokenizer"]["special"])
    tars = [f"{place}/{each['tar']}" for each in index["item_shards"]]
    # Each item has a token list, so that none passes unseen; its header is read anyway.
    parts = {*_PARTS[read], "tokens.npy"}
    if index.get("content") == "none":
        if read != "none":
            raise InputError(f"{place} holds neither texts nor pictures of its items")
        parts = {"json"}
    with closing(stream_samples(tars, parts=parts, made_by=made_by)) as samples:
        for start in range(1, index["items"] + 1, chunk):
            numbers = np.arange(start, min(start + chunk, index["items"] + 1))
            found = _in_step(numbers, samples, place, made_by)
            yield assemble(
                numbers,
                tokens=_tokens(found, made_by) if "tokens.npy" in _PARTS[read] else None,
                jpeg=_jpegs(found) if "jpg" in _PARTS[read] else {},
                damaged=lambda item, why: BrokenArtefact(
                    f"{place}: the picture of item {item} is damaged ({why}). Run: {made_by}"
                ),
                size=size if "jpg" in _PARTS[read] else 0,
                pad=pad,
                special=special,
            )


def _streamed(files: Mapping[str, Any]) -> list[str]:
    """The files of shards that a stream of items reads."""
    tars = [name for name in files if name.startswith("items-") and name.endswith(".tar")]
    return ["index.json", *tars]


def tar_members(tar: str | Path, *, made_by: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member of a tar that pmm wrote, at a path or URL.

    Raises:
        BrokenArtefact: it is missing, cut off or no tar.
    """
    from webdataset.gopen import gopen

    try:
        yield from _members(gopen(_url(tar)), str(tar), None, made_by)
    except (OSError, ValueError) as error:
        raise BrokenArtefact(f"{tar} cannot be read ({error}). Run: {made_by}") from error


def index_of(place: str) -> tuple[dict[str, Any], str]:
    """index.json of a folder of shards, which may be a URL, and the command that makes the shards.

    Raises:
        BrokenArtefact: it cannot be read, or is none of shards.
    """
    from webdataset.gopen import gopen

    file = f"{place.rstrip('/')}/index.json"
    try:
        with closing(gopen(file)) as stream:
            found = parse_json(stream.read())
        if why := ill_typed_index(found):
            raise ValueError(why)
    except JSON_ERRORS as error:
        raise BrokenArtefact(
            f"{file} cannot be read ({told(error)}). Make the shards again"
        ) from error
    return found, command("shard", target=found["target"], force=True)


def ill_typed_index(index: Mapping[str, Any]) -> str:
    """What is missing in index.json of shards, or of another kind; "" where nothing is."""
    picture, tokenizer = index.get("picture"), index.get("tokenizer")
    tars = index.get("item_shards")
    if not isinstance(index.get("target"), str):
        return "target is no text"
    if not isinstance(picture, dict) or not isinstance(tokenizer, dict):
        return "picture or tokenizer is no table"
    if not isinstance(tars, list) or not all(
        isinstance(each, dict) and isinstance(each.get("tar"), str) for each in tars
    ):
        return "item_shards is no list of tars"
    numbers = {"items": index.get("items"), "picture.size": picture.get("size")}
    numbers |= {f"tokenizer.{name}": tokenizer.get(name) for name in ("pad", "special")}
    numbers |= {name: index[name] for name in ("users", "sequence_shards") if name in index}
    wrong = [name for name, value in numbers.items() if type(value) is not int or value < 0]
    return f"{', '.join(wrong)} should be a number" if wrong else ""


def assemble(
    numbers: npt.NDArray[np.int64],
    *,
    tokens: Lists | None,
    jpeg: Mapping[int, bytes],
    damaged: Callable[[int, ValueError], BrokenArtefact],
    size: int,
    pad: int,
    special: int,
) -> Items:
    """Items of what was read of them.

    Args:
        numbers: of the items.
        tokens: a list an item; None: no text was read.
        jpeg: item -> its picture.
        damaged: the error of a picture that cannot be decoded.
        size: side of the pictures.
        pad: the tokenizer's padding id.
        special: tokens that an empty text has.
    """
    picture_IHW3 = np.zeros((len(numbers), size, size, 3), dtype=np.uint8)
    for row, item in enumerate(numbers.tolist()):
        if item in jpeg:
            try:
                picture_IHW3[row] = decode(jpeg[item])
            except ValueError as error:
                raise damaged(item, error) from error
    has_text_I = np.zeros(len(numbers), dtype=np.bool_)
    if tokens is None:
        token_IT, mask_IT = no_tokens(len(numbers), pad)
    else:
        has_text_I = tokens.lengths > special
        token_IT, mask_IT = padded_tokens(tokens, np.arange(len(numbers)), has_text_I, pad)
    return Items(
        item_I=torch.from_numpy(numbers.copy()),
        token_IT=torch.from_numpy(token_IT),
        token_mask_IT=torch.from_numpy(mask_IT),
        picture_I3HW=torch.from_numpy(picture_IHW3).permute(0, 3, 1, 2),
        has_text_I=torch.from_numpy(has_text_I),
        has_picture_I=torch.tensor([item in jpeg for item in numbers.tolist()], dtype=torch.bool),
    )


def token_list(npy: bytes | memoryview) -> npt.NDArray[np.int32]:
    """The tokens in the bytes of an .npy file of format version 1.0. ValueError where damaged."""
    start = 10 + int.from_bytes(npy[_NPY_LENGTH], "little")
    return np.frombuffer(npy, dtype="<i4", offset=start)


_NPY_LENGTH = slice(8, 10)
"""Where an .npy file has its header's length, little-endian."""


def _url(place: str | Path) -> str:
    """A path from the root, in which a colon is no end of a scheme; a URL as it is."""
    return str(place.absolute()) if isinstance(place, Path) else place


def _members(
    stream: BinaryIO, url: str, parts: Collection[str] | None, made_by: str
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the members that are asked for (None: all); closes the stream."""
    position = 0

    def cut_off(behind: str) -> BrokenArtefact:
        stream.close()  # of a pipe this tells how its process ended: an OSError that says more
        return BrokenArtefact(f"{url} is cut off {behind} (byte {position}). Run: {made_by}")

    with closing(stream):
        while True:
            header = stream.read(BLOCK)
            if len(header) < BLOCK:
                raise cut_off("before its end mark")
            if header == _END:
                while stream.read(1 << 16):  # a process that writes to nobody would fail
                    pass
                return
            member = parse_header(header, position, where=url, made_by=made_by)
            whole = member.size + -member.size % BLOCK
            content = stream.read(whole)
            if len(content) < whole:
                raise cut_off(f"inside {member.name}")
            position = member.offset + whole
            if parts is None or member.name.partition(".")[2] in parts:
                yield member.name, content[: member.size]


_END = bytes(BLOCK)


def _number(key: str, url: str, made_by: str) -> int:
    try:
        return int(key)
    except ValueError as error:
        raise BrokenArtefact(f"{url} holds {key}, which is no item's. Run: {made_by}") from error


def _in_step(
    numbers: npt.NDArray[np.int64], samples: Iterator[Sample], place: str, made_by: str
) -> Sequence[Sample]:
    """The samples of these items, which must come next."""
    found = []
    for item in numbers.tolist():
        sample = next(samples, None)
        if sample is None or sample.item != item:
            met = "the end" if sample is None else f"item {sample.item} in {sample.tar}"
            raise BrokenArtefact(f"{place} has {met} in place of item {item}. Run: {made_by}")
        found.append(sample)
    return found


def _tokens(samples: Sequence[Sample], made_by: str) -> Lists:
    values = []
    for each in samples:
        try:
            values.append(token_list(each.parts["tokens.npy"]))
        except (ValueError, KeyError) as error:
            raise BrokenArtefact(
                f"{each.tar}: the token list of item {each.item} is damaged ({error}). "
                f"Run: {made_by}"
            ) from error
    lengths = [len(each) for each in values]
    return Lists(
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        values=np.concatenate([np.zeros(0, np.int32), *values]),
    )


def _jpegs(samples: Sequence[Sample]) -> dict[int, bytes]:
    return {each.item: each.parts["jpg"] for each in samples if "jpg" in each.parts}
