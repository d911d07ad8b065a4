"""Whether a model can read a target's shards: the same tokens, pictures of its size, any at all."""

import logging

from pmm.advice import command
from pmm.errors import InputError
from pmm.model.protocol import ModelOptions, Recommender
from pmm.shards.read import Shards
from pmm.shards.tokens import load_tokenizer

logger = logging.getLogger(__name__)


def require_content(shards: Shards, options: ModelOptions) -> None:
    """Refuse shards without content (`pmm shard --no-content`) for a model that reads any.

    Raises:
        InputError: names the commands for either.
    """
    if shards.has_content or options.content == "none":
        return
    read = {"both": "text and picture", "text": "text", "vision": "picture"}[options.content]
    made = shards.command_to_make(no_content=False, allow_no_pictures=True, text_encoder="FOLDER")
    on_ids = command(
        "train", target=shards.target, model="sasrec", home=shards.home and shards.home.option
    )
    raise InputError(
        f"the shards of {shards.target} were made without content, and {options.name} reads each "
        f"item's {read}. Make them with it, by a text encoder's name or folder: {made}. Or train "
        f"a model on ids: {on_ids}"
    )


def require_tokens(shards: Shards, model: Recommender) -> None:
    """Refuse a text encoder whose tokenizer is not the one that made the shards' tokens.

    An encoder without tokenizer files (a bare config) is only asked whether the ids fit.

    Raises:
        InputError: it is not, or it reads no texts as long as the shards hold; or the model reads
            texts only and there is none.
    """
    encoders = model.encoders()
    text = encoders.text
    if text is None:
        return
    if encoders.vision is None and not shards.has_text.any():
        raise InputError(f"no item of {shards.target} has a text, and the model reads only texts")
    encoder, positions = text.source, text.positions
    longest = int(shards.tokens.lengths.max(initial=0))
    if longest > positions:
        raise InputError(
            f"the shards of {shards.target} hold texts of up to {longest} tokens, but the text "
            f"encoder {encoder!r} reads {positions} at most. Choose another encoder, or run: "
            f"{shards.command_to_make(max_tokens=positions)}"
        )
    require_same_tokenizer(shards, encoder, rows=text.vocabulary)


def require_same_tokenizer(shards: Shards, encoder: str, *, rows: int | None = None) -> None:
    """Refuse tokens that were not made by an encoder's own tokenizer.

    Args:
        shards: of a target.
        encoder: of texts; one without tokenizer files is taken to fit.
        rows: of its table of sub-words.

    Raises:
        InputError: they were made by another one, or there are more sub-words than rows.
    """
    made_with = shards.tokenizer
    try:
        same = load_tokenizer(encoder).digest == made_with["sha256"]
    except InputError:
        same = True
    if not same or (rows is not None and made_with["vocabulary"] > rows):
        known = "" if rows is None else f" ({rows:,})"
        raise InputError(
            f"the shards of {shards.target} hold tokens of {made_with['name']!r} "
            f"({made_with['vocabulary']:,} sub-words), which are not those of the text encoder "
            f"{encoder!r}{known}. Choose that encoder, or run: "
            f"{shards.command_to_make(text_encoder=encoder)}"
        )


def require_pictures(shards: Shards, model: Recommender) -> None:
    """Fit a vision tower to the pictures' size, unless no item has a picture.

    Of a tower for another size the positions are interpolated by its library, where that can.

    Raises:
        InputError: it cannot; or the model reads pictures only and there is none.
    """
    size = shards.picture_size
    encoders = model.encoders()
    vision = encoders.vision
    if vision is None:
        return
    if encoders.text is None and not shards.has_picture.any():
        raise InputError(
            f"no item of {shards.target} has a picture, and the model reads only pictures"
        )
    if not shards.has_picture.any():
        return
    own = vision.own_size
    square = own[0] == own[1]
    if not vision.takes(size):
        instead = f", or run: {shards.command_to_make(size=own[0])}" if square else ""
        raise InputError(
            f"the vision tower {vision.source!r} takes pictures of "
            f"{own}, the shards of {shards.target} hold {size}x{size}: "
            f"choose a tower of that size{instead}"
        )
    if own != (size, size) and vision.picture_size != (size, size):
        logger.info(
            "the vision tower %r is made for pictures of %s, the shards of %s hold %dx%d: its "
            "positions are interpolated%s",
            vision.source,
            own,
            shards.target,
            size,
            size,
            f". For its own: {shards.command_to_make(size=own[0])}" if square else "",
        )
    vision.fit(size)
