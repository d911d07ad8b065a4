"""Text encoders: loading one of the BERT family, and running its tokens packed (paper Eq. 1).

Shape suffixes: I items, T text tokens, N packed tokens of all items, D the encoder's width, H
heads, E width of a head, K tokens of the longest item.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AutoConfig, AutoModel, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pmm.errors import InputError
from pmm.model.encoders.cut_encoder import CutEncoder, require_all, require_seed
from pmm.model.encoders.encoder_sizes import (
    bytes_of_weights,
    read_config,
    require_modest_size,
    require_plain_numbers,
)
from pmm.model.encoders.packing import Packing
from pmm.model.encoders.specs import TextSpec
from pmm.shards.hub import (
    NO_CODE,
    cached_or_downloaded,
    first_line,
    local_folder,
    quiet_libraries,
    refuse_code,
    weights_file,
)

TEXT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
"""Families of which every member has the parts that are cut: embeddings and numbered layers."""


def attend(
    module: nn.Module,
    query_IHKE: Tensor,
    key_IHKE: Tensor,
    value_IHKE: Tensor,
    attention_mask: Tensor | Packing,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """The library's attention; of packed tokens (one row, a `Packing` as its mask) ours."""
    # The library passes the mask through all layers as it is, so the packing can travel in its
    # place: no layer has to be patched, and whatever version of a layer is loaded stays the
    # library's.
    parts = (query_IHKE, key_IHKE, value_IHKE)
    if isinstance(attention_mask, Packing):
        packed = (each[0].transpose(0, 1) for each in parts)
        return attention_mask.attend(*packed, dropout=dropout)[None], None
    attended, _ = sdpa_attention_forward(module, *parts, attention_mask, dropout=dropout, **more)
    return attended, None


ATTENTION = "pmm_packed"
AttentionInterface.register(ATTENTION, attend)


class TextEncoder(CutEncoder):
    """A BERT-type encoder without its pooler (paper Eq. 1)."""

    @property
    def positions(self) -> int:
        """The most tokens of a text; RoBERTa counts positions from behind its padding id."""
        embedding = self.stem.get_submodule("position_embeddings")
        assert isinstance(embedding, nn.Embedding)
        first = 0 if embedding.padding_idx is None else embedding.padding_idx + 1
        return embedding.num_embeddings - first

    @property
    def vocabulary(self) -> int:
        """Rows of the table of sub-words."""
        return self.stem.get_submodule("word_embeddings").get_parameter("weight").shape[0]

    def trunk(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Hidden states [I, T, D] at the cut, without gradient unless the stem trains.

        Args:
            token_IT: int64, right-padded with the tokenizer's padding id.
            mask_IT: bool, True at real tokens; at least one in each row.
        """
        with self._gradients():
            hidden_ITD: Tensor = self.stem(input_ids=token_IT)
            for block in self.blocks[: self.cut]:
                hidden_ITD = block(hidden_ITD, mask_IT[:, None, None, :])
            return hidden_ITD

    def packed_trunk(self, token_IT: Tensor, mask_IT: Tensor, packing: Packing) -> Tensor:
        """The same as packed tokens [N, D]; no item is padded to one of another group.

        Args:
            token_IT, mask_IT: as of `trunk`, but rows without any real token are allowed.
            packing: of the real tokens.
        """
        # The library's embeddings need rectangles. In groups by length they are narrow, and rows
        # without text, which would be attention over nothing, are left out.
        found = [torch.zeros(0, self.width, device=token_IT.device)]
        for items in packing.groups():
            lengths = packing.lengths[items]
            kept = torch.from_numpy(np.flatnonzero(lengths)).to(token_IT.device)
            if len(kept):
                token_iK = token_IT[items][kept, : lengths.max()]
                mask_iK = mask_IT[items][kept, : lengths.max()]
                found.append(self.trunk(token_iK, mask_iK)[mask_iK])
        return torch.cat(found)

    def top(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """Packed hidden states [N, D] of the last block."""
        if not len(packing):
            return hidden_ND
        return self.through_top(hidden_ND[None], packing)[0]

    def forward(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Trunk and top: the library's `last_hidden_state` [I, T, D], zeros at padding."""
        packing = Packing.of_mask(mask_IT)
        padded_IKD = packing.spread(self.top(packing.pack(self.trunk(token_IT, mask_IT)), packing))
        return functional.pad(padded_IKD, (0, 0, 0, mask_IT.shape[1] - padded_IKD.shape[1]))


def load_text(spec: TextSpec) -> TextEncoder:
    """The text encoder of a spec, in float32.

    Raises:
        InputError: not found, not readable, not of a known family, or without weights and seed.
    """
    name, folder = spec.encoder, local_folder(spec.encoder)
    with quiet_libraries():
        if folder is None:
            model = cached_or_downloaded(
                name, lambda local: _bert(spec, name, local), name=name, option="--text-encoder"
            )
        else:
            model = _bert_of_folder(spec, folder)
    width, top = int(model.config.hidden_size), spec.train_blocks
    return TextEncoder(
        model.embeddings, model.encoder.layer, width=width, top=top, source=spec.encoder
    )


def _bert_of_folder(spec: TextSpec, folder: Path) -> Any:
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"text encoder {folder}: no config.json in this folder")
    if weights_file(folder) is None:
        require_seed(spec.random_seed, f"text encoder {folder}")
    try:
        read_config(config)
        return _bert(spec, str(folder), True)
    except OSError as error:
        raise InputError(f"text encoder {folder} cannot be read ({first_line(error)})") from error


def _bert(spec: TextSpec, source: str, local: bool) -> Any:
    name = f"text encoder {source}"
    try:
        numbers, _ = PreTrainedConfig.get_config_dict(source, local_files_only=local)
        require_plain_numbers(numbers, name)
        config = AutoConfig.from_pretrained(source, local_files_only=local, **NO_CODE)
    except ValueError as error:
        refuse_code(error, name)
        raise InputError(f"text encoder {source}: config.json cannot be used ({error})") from error
    if config.model_type not in TEXT_FAMILIES:
        raise InputError(
            f"text encoder {source} is of the family {config.model_type!r}; "
            f"encoders of these can be cut into trunk and top: {', '.join(TEXT_FAMILIES)}"
        )
    how = {"attn_implementation": ATTENTION, "add_pooling_layer": False, **NO_CODE}
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
    require_all(info["missing_keys"], f"text encoder {source}")
    return model
