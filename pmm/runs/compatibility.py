"""Whether a model can read a target's shards: the same tokens, pictures of its size, any at all."""

from torch import nn

from pmm.errors import InputError
from pmm.model.baselines.baseline import BaselineOptions
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.registry import ModelOptions, Recommender
from pmm.shards.read import Shards
from pmm.shards.tokens import load_tokenizer


def require_tokens(shards: Shards, model: Recommender) -> None:
    """Refuse a text encoder whose tokenizer is not the one that made the shards' tokens.

    An encoder without tokenizer files (a bare config) is only asked whether the ids fit.

    Raises:
        InputError: it is not, or it reads no texts as long as the shards hold; or the model reads
            texts only and there is none.
    """
    if not isinstance(model, Pmmrec) or model.text is None:
        return
    if model.vision is None and not shards.has_text.any():
        raise InputError(f"no item of {shards.target} has a text, and the model reads only texts")
    encoder = model.options.text.encoder
    positions, longest = _positions(model.text), int(shards.tokens.lengths.max(initial=0))
    if longest > positions:
        raise InputError(
            f"the shards of {shards.target} hold texts of up to {longest} tokens, but the text "
            f"encoder {encoder!r} reads {positions} at most. Choose another encoder, or run: "
            f'pmm shard --target "{shards.target}" --max-tokens {positions}'
        )
    rows = model.text.stem.get_submodule("word_embeddings").get_parameter("weight").shape[0]
    require_same_tokenizer(shards, encoder, rows=rows)


def require_features(shards: Shards, options: ModelOptions) -> None:
    """Refuse what a baseline could not make frozen vectors of: tokens of another tokenizer.

    Raises:
        InputError: they are.
    """
    if isinstance(options, BaselineOptions) and options.features in ("text", "both"):
        require_same_tokenizer(shards, options.text.encoder)


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
            f'pmm shard --target "{shards.target}" --text-encoder {encoder}'
        )


def _positions(text: TextEncoder) -> int:
    """The most tokens that a text encoder reads; RoBERTa counts from behind its padding id."""
    embedding = text.stem.get_submodule("position_embeddings")
    assert isinstance(embedding, nn.Embedding)
    first = 0 if embedding.padding_idx is None else embedding.padding_idx + 1
    return embedding.num_embeddings - first


def require_pictures(shards: Shards, model: Recommender) -> None:
    """Refuse a vision tower for pictures of another size, unless there is none to be shown.

    Raises:
        InputError: the sizes differ; or the model reads pictures only and there is none.
    """
    size = shards.picture_size
    if not isinstance(model, Pmmrec) or model.vision is None:
        return
    if model.text is None and not shards.has_picture.any():
        raise InputError(
            f"no item of {shards.target} has a picture, and the model reads only pictures"
        )
    if not shards.has_picture.any():
        return
    if tuple(model.vision.picture_size) != (size, size):
        raise InputError(
            f"the vision tower {model.options.vision.encoder!r} takes pictures of "
            f"{model.vision.picture_size}, the shards of {shards.target} hold {size}x{size}: "
            "choose a tower of that size"
        )
