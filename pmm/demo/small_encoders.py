"""Small encoders made from a config, in the formats of the real ones: for the demo and tests."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from pmm.shards.hub import quiet_libraries

SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
"""In the order of their ids 0..4, as RoBERTa has them."""


@dataclass(frozen=True, kw_only=True)
class SmallSizes:
    """Sizes of both small encoders."""

    width: int = 128
    blocks: int = 3
    heads: int = 2
    vocabulary: int = 4096
    """Upper bound; few texts give fewer sub-words, never under 256 bytes and 5 special ones."""
    max_tokens: int = 64
    """Longest text in sub-words, special ones included."""
    picture: int = 224
    patch: int = 32


def save_small_encoders(
    folder: Path, texts: Iterable[str], *, seed: int, sizes: SmallSizes | None = None
) -> tuple[Path, Path]:
    """Write a RoBERTa-type encoder with its tokenizer and an open_clip tower, of random weights.

    `AutoModel` and `AutoTokenizer` load `folder/text`; open_clip loads `local-dir:folder/vision`.
    The same texts, seed and sizes give the same bytes (on the same versions of the libraries).

    Args:
        folder: made if it is not there.
        texts: what the tokenizer is trained on, in any language (byte-level BPE: nothing is
            unknown to it).
        seed: of the weights.
        sizes: defaults to `SmallSizes()`.

    Returns:
        The folders of the text encoder and of the vision tower.
    """
    sizes = sizes or SmallSizes()
    text, vision = folder / "text", folder / "vision"
    text.mkdir(parents=True, exist_ok=True)
    vision.mkdir(parents=True, exist_ok=True)
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocabulary = _save_tokenizer(text, texts, sizes)
        _save_text(text, vocabulary, sizes)
        _save_vision(vision, sizes)
    return text, vision


def _save_tokenizer(folder: Path, texts: Iterable[str], sizes: SmallSizes) -> int:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = {f"{name}_token": token for name, token in SPECIAL.items()}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=sizes.max_tokens,
        cls_token="<s>",
        sep_token="</s>",
        **named,
    ).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _save_text(folder: Path, vocabulary: int, sizes: SmallSizes) -> None:
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        max_position_embeddings=sizes.max_tokens + 2,  # positions start behind the padding id 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def _save_vision(folder: Path, sizes: SmallSizes) -> None:
    config = {
        "embed_dim": sizes.width,
        "vision_cfg": {
            "image_size": sizes.picture,
            "layers": sizes.blocks,
            "width": sizes.width,
            "head_width": sizes.width // sizes.heads,
            "patch_size": sizes.patch,
        },
        # the format wants a text tower; nobody reads this one
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    pixels = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    whole = {"model_cfg": config, "preprocess_cfg": {"size": sizes.picture, **pixels}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole, indent=2) + "\n")
    state = open_clip.CLIP(**config).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
