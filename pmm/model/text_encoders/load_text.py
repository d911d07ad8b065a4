"""Loading a text encoder by name or folder, whichever family it is of."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import require_all, require_seed
from pmm.model.encoders.encoder_sizes import (
    bytes_of_weights,
    read_config,
    require_modest_size,
    require_plain_numbers,
)
from pmm.model.encoders.specs import TextSpec
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.text_encoders.bert_text import ATTENTION, BERT_FAMILIES, BertText
from pmm.model.text_encoders.library_text import LibraryText, require_cuttable
from pmm.shards.hub import (
    NO_CODE,
    cached_or_downloaded,
    first_line,
    local_folder,
    quiet_libraries,
    refuse_code,
    weights_file,
)


def load_text(spec: TextSpec) -> TextEncoder:
    """The text encoder of a spec, in float32.

    Raises:
        InputError: not found, not readable, no text encoder, of a family that cannot be cut where
            it is to be, or without weights and seed.
    """
    name, folder = spec.encoder, local_folder(spec.encoder)
    with quiet_libraries():
        if folder is None:
            model = cached_or_downloaded(
                name,
                lambda local: _library_model(spec, name, local),
                name=name,
                option="--text-encoder",
            )
        else:
            model = _model_of_folder(spec, folder)
    width, top = int(model.config.hidden_size), spec.train_blocks
    if model.config.model_type not in BERT_FAMILIES:
        return LibraryText(model, top=top, source=spec.encoder)
    return BertText(
        model.embeddings, model.encoder.layer, width=width, top=top, source=spec.encoder
    )


def _model_of_folder(spec: TextSpec, folder: Path) -> Any:
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"text encoder {folder}: no config.json in this folder")
    if weights_file(folder) is None:
        require_seed(spec.random_seed, f"text encoder {folder}")
    try:
        read_config(config)
        return _library_model(spec, str(folder), True)
    except OSError as error:
        raise InputError(f"text encoder {folder} cannot be read ({first_line(error)})") from error


def _library_model(spec: TextSpec, source: str, local: bool) -> Any:
    name = f"text encoder {source}"
    try:
        numbers, _ = PreTrainedConfig.get_config_dict(source, local_files_only=local)
        require_plain_numbers(numbers, name)
        config = AutoConfig.from_pretrained(source, local_files_only=local, **NO_CODE)
    except ValueError as error:
        refuse_code(error, name)
        raise InputError(f"text encoder {source}: config.json cannot be used ({error})") from error
    how: dict[str, Any] = dict(NO_CODE)
    if config.model_type in BERT_FAMILIES:
        how |= {"attn_implementation": ATTENTION, "add_pooling_layer": False}
    else:
        require_cuttable(config, spec.train_blocks, name)
    folder = local_folder(source)
    weights = None if folder is None or spec.random_seed is not None else bytes_of_weights(folder)
    require_modest_size(lambda: AutoModel.from_config(config, **how), name, weights)
    if spec.random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_seed)
            return AutoModel.from_config(config, **how)
    try:
        model, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, local_files_only=local, output_loading_info=True, **how
        )
    except OSError:
        raise
    except Exception as error:  # safetensors, pickle and shape faults come in kinds of their own
        raise InputError(
            f"text encoder {source}: the weights cannot be read ({first_line(error)})"
        ) from error
    # A pooler is not used: published encoders of vectors often lack its weights.
    lacking = (key for key in info["missing_keys"] if not key.startswith("pooler."))
    require_all(lacking, f"text encoder {source}")
    return model
