"""Bodies of requests: JSON that is strict, and the form of an item with its picture."""

import asyncio
import io
import json
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi.routing import APIRoute
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from pmm.recommend.answers import NewItem
from pmm.serve.limits import (
    CATEGORY_CHARACTERS,
    ID_CHARACTERS,
    ITEM_CATEGORIES,
    PICTURE_BYTES,
    PICTURE_PIXELS,
    TEXT_CHARACTERS,
    UPLOAD_BYTES,
)

PICTURES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # what many telephones write
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
"""Formats that are taken: those that every browser shows. Fewer readers, less to attack."""
_STEP = 1 << 18
"""Bytes of a form that are read before others may go on."""


class StrictRequest(Request):
    """A request whose JSON has no key twice, no NaN, and no depth that breaks the reader."""

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            HTTPException: 400, with what is wrong.
        """
        return parse_strictly(await self.body())


class StrictRoute(APIRoute):
    """A route that reads its JSON so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI behind such a request."""
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strictly


def parse_strictly(content: bytes) -> Any:
    """JSON in UTF-8, without keys that stand twice and without NaN or Infinity.

    Raises:
        HTTPException: 400, with what is wrong.
    """
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise HTTPException(400, "the body is not UTF-8") from None
    except RecursionError:
        raise HTTPException(400, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON ({str(error)[:100]})") from None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def decoded_id(segment: str) -> str:
    """The id that a segment of a path stands for; percent-encoded UTF-8.

    Raises:
        HTTPException: 400, no UTF-8 or too long.
    """
    try:
        item_id = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise HTTPException(400, "the id in the path is not UTF-8") from None
    if len(item_id) > ID_CHARACTERS:
        raise HTTPException(400, f"an id has {ID_CHARACTERS} characters at most")
    return item_id


class _ItemForm(MultiPartParser):
    """A form that stays in memory, and whose texts are UTF-8."""

    spool_max_size = UPLOAD_BYTES + 1

    def on_part_end(self) -> None:
        """Refuse what the library would read as Latin-1."""
        part = self._current_part
        if part.file is None:
            try:
                bytes(part.data).decode("utf-8")
            except UnicodeDecodeError:
                raise MultiPartException("a field is not UTF-8") from None
        super().on_part_end()


async def read_item(request: Request, item_id: str) -> NewItem:
    """An item as a form sends it: text, categories (repeated) and image (a file).

    Raises:
        HTTPException: 413, 415 or 422, with what is wrong.
    """
    if not item_id or any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in item_id):
        raise HTTPException(422, "an id of a new item has no control characters and is not empty")
    if item_id in (".", ".."):
        raise HTTPException(422, f'"{item_id}" cannot be an id: browsers take it out of addresses')
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, "send the item as multipart/form-data: text, categories, image")
    content = await request.body()

    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(content), _STEP):
            yield content[start : start + _STEP]
            await asyncio.sleep(0)  # others go on meanwhile

    parser = _ItemForm(
        request.headers,
        stream(),
        max_files=1,
        max_fields=1 + ITEM_CATEGORIES,
        max_part_size=4 * TEXT_CHARACTERS,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(422, f"the form cannot be read: {error.message}") from None
    except Exception as error:  # the library's readers raise whatever a broken form leads them to
        raise HTTPException(422, "the form cannot be read") from error
    try:
        return await _item_of(item_id, form.multi_items())
    finally:
        await form.close()


async def _item_of(item_id: str, fields: list[tuple[str, str | UploadFile]]) -> NewItem:
    text, categories, image = None, list[str](), None
    for name, value in fields:
        match name, value:
            case "text", str() if text is None:
                text = value
            case "categories", str():
                categories.append(value)
            case "image", UploadFile() if image is None:
                image = await value.read()
            case _:
                told = "a form has one text, several categories and one image (a file)"
                raise HTTPException(422, f"{told}; found {name[:50]!r} besides")
    if len(text or "") > TEXT_CHARACTERS:
        raise HTTPException(422, f"a text has {TEXT_CHARACTERS:,} characters at most")
    if any(not 1 <= len(each) <= CATEGORY_CHARACTERS for each in categories):
        raise HTTPException(422, f"a category has 1 to {CATEGORY_CHARACTERS} characters")
    if image:
        picture_kind(image)
    return NewItem(
        item_id=item_id,
        text=text or "",
        image=image or None,  # browsers send an empty file where none was chosen
        categories=tuple(dict.fromkeys(categories)),
    )


def picture_kind(content: bytes) -> str:
    """The media type of a picture file, by its header alone; nothing is decoded.

    Raises:
        HTTPException: 413 or 415: it is none, of another kind, or too large.
    """
    if len(content) > PICTURE_BYTES:
        raise HTTPException(413, f"a picture file has {PICTURE_BYTES >> 20} MB at most")
    Image.init()
    known = [each for each in PICTURES if each in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=known) as image:
                (width, height), kind = image.size, PICTURES[str(image.format)]
    except Image.DecompressionBombError:
        width, height, kind = PICTURE_PIXELS, 2, ""
    except Exception:  # Pillow's readers raise whatever their parsing runs into
        raise HTTPException(415, "the image is no JPEG, PNG, WebP, GIF, BMP or AVIF") from None
    if width * height > PICTURE_PIXELS:
        raise HTTPException(413, f"a picture has {PICTURE_PIXELS:,} pixels at most")
    return kind
