"""Text encoders of other families than BERT's equal the library's forward pass, cut anywhere."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModel,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    ViTConfig,
)

from pmm.errors import InputError
from pmm.model.encoders.packing import Packing
from pmm.model.encoders.specs import TextSpec
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.model.text_encoders.library_text import LibraryText
from pmm.model.text_encoders.load_text import load_text

BLOCKS = 4
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
SIZE |= {"intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 64}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}

CUT = {
    "mpnet": MPNetConfig(**SIZE),
    "distilbert": DistilBertConfig(
        dim=32, n_layers=BLOCKS, n_heads=4, hidden_dim=64, vocab_size=100
    ),
    # Every second block sees four tokens, fewer than the longest text has.
    "modernbert": ModernBertConfig(
        **SIZE, local_attention=4, global_attn_every_n_layers=2, pad_token_id=1
    ),
    "deberta": DebertaConfig(**SIZE, **DEBERTA, max_relative_positions=64),
    # As DeBERTa-v3: positions by buckets, shared by the heads' projections, normed.
    "deberta-v3": DebertaV2Config(
        **SIZE,
        **DEBERTA,
        position_buckets=8,
        position_biased_input=False,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        type_vocab_size=0,
    ),
    "electra": ElectraConfig(**SIZE, embedding_size=16),
    "qwen3": Qwen3Config(**SIZE, **HEADS),
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2),
    "llama": LlamaConfig(**SIZE, num_key_value_heads=2),
    "mistral": MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=4),
}
WHOLE = {
    # All its blocks are one.
    "albert": AlbertConfig(**SIZE, embedding_size=16),
    # A convolution stands between its first two blocks.
    "deberta-v2": DebertaV2Config(**SIZE, **DEBERTA, conv_kernel_size=3, conv_act="gelu"),
}


def batch() -> tuple[Tensor, Tensor]:
    """Texts of 1 to 17 tokens, shortest first, as they come from a batch of items."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 18, (40, 1), generator=draw).sort(0).values
    mask_IT = torch.arange(int(lengths.max())) < lengths
    token_IT = torch.randint(3, 100, mask_IT.shape, generator=draw)
    return torch.where(mask_IT, token_IT, 1), mask_IT


def saved(config: PreTrainedConfig, folder: Path) -> Any:
    """The library's model with random weights that are not small, and its folder."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for each in model.parameters():
            # The library starts norms and biases at one and zero, which hides where they belong.
            each.add_(torch.randn_like(each) * 0.1)
    model.save_pretrained(folder)
    return model.eval()


def whole(model: Any) -> Tensor:
    token_IT, mask_IT = batch()
    with torch.no_grad():
        found: Tensor = model(input_ids=token_IT, attention_mask=mask_IT.long()).last_hidden_state
    return found[mask_IT]


@pytest.mark.parametrize("top", [0, 1, 3, BLOCKS, "all"])
@pytest.mark.parametrize("family", CUT)
def test_trunk_and_top_of_a_family_equal_the_librarys_forward(
    family: str, top: Any, tmp_path: Path
) -> None:
    expected = whole(saved(CUT[family], tmp_path))
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=top)).eval()
    assert (len(ours.blocks), ours.width) == (BLOCKS, 32)
    token_IT, mask_IT = batch()
    packing = Packing.of_mask(mask_IT)
    assert len(packing.groups()) > 1
    packed = ours.top(ours.packed_trunk(token_IT, mask_IT, packing), packing)
    assert torch.allclose(packed, expected, atol=1e-5)
    assert torch.allclose(ours(token_IT, mask_IT)[mask_IT], expected, atol=1e-5)


@pytest.mark.parametrize("family", WHOLE)
def test_what_cannot_be_cut_runs_whole(family: str, tmp_path: Path) -> None:
    expected = whole(saved(WHOLE[family], tmp_path))
    with pytest.raises(InputError, match=rf"'{family}', which cannot be cut .*train_blocks = 0"):
        load_text(TextSpec(encoder=str(tmp_path), train_blocks=2))
    token_IT, mask_IT = batch()
    packing = Packing.of_mask(mask_IT)
    for top in (0, "all"):
        ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=top)).eval()
        packed = ours.top(ours.packed_trunk(token_IT, mask_IT, packing), packing)
        assert torch.allclose(packed, expected, atol=1e-5)
        assert bool(ours.trained_names()) == (top == "all")


def gradients(encoder: TextEncoder) -> dict[str, Tensor]:
    """Of a loss on all tokens, by the parameter's name, where there is one that is not zero."""
    token_IT, mask_IT = batch()
    packing = Packing.of_mask(mask_IT)
    hidden_ND = encoder.packed_trunk(token_IT, mask_IT, packing)
    encoder.top(hidden_ND, packing).pow(3).sum().backward()
    named = encoder.named_parameters()
    return {name: each.grad for name, each in named if each.grad is not None and each.grad.any()}


@pytest.mark.parametrize("family", CUT)
def test_only_the_top_has_gradients_and_they_are_the_librarys(family: str, tmp_path: Path) -> None:
    theirs = saved(CUT[family], tmp_path)
    token_IT, mask_IT = batch()
    output = theirs(input_ids=token_IT, attention_mask=mask_IT.long()).last_hidden_state
    output[mask_IT].pow(3).sum().backward()
    kept = {id(each): each.grad for each in theirs.parameters()}
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=2)).eval()
    found = gradients(ours)
    assert set(found) == set(ours.trained_names())
    assert {name.split(".")[1] for name in found} == {"2", "3"}
    # Taken apart in the same way, so that the names are the same.
    named = dict(LibraryText(theirs, top=2).named_parameters())
    largest = max(float(each.abs().max()) for each in found.values())
    for name, gradient in found.items():  # a bias of keys has none but for rounding
        assert torch.allclose(gradient, kept[id(named[name])], rtol=1e-3, atol=1e-6 * largest)


@pytest.mark.parametrize("family", ["mpnet", "deberta-v3", "qwen3"])
def test_all_trains_what_the_blocks_share(family: str, tmp_path: Path) -> None:
    saved(CUT[family], tmp_path)
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks="all")).eval()
    lacking = set(ours.trained_names()) - set(gradients(ours))
    assert not [name for name in lacking if "mask_emb" not in name and "position" not in name]


@pytest.mark.parametrize("family", CUT)
def test_a_released_trunk_leaves_any_familys_top_as_it_was(family: str, tmp_path: Path) -> None:
    saved(CUT[family], tmp_path)
    for top in (0, 2):
        ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=top)).eval()
        packing = Packing.of_mask(batch()[1])
        hidden = torch.randn(len(packing), 32, generator=torch.Generator().manual_seed(1))
        before, names = ours.top(hidden, packing), ours.trained_names()
        size = sum(each.numel() for each in ours.parameters())
        ours.release_trunk()
        assert torch.equal(ours.top(hidden, packing), before)
        assert ours.trained_names() == names
        assert sum(each.numel() for each in ours.parameters()) <= size - 100 * 16


@pytest.mark.parametrize("family", CUT)
def test_the_trunk_stays_in_eval_mode_while_the_top_trains(family: str, tmp_path: Path) -> None:
    dropping = CUT[family].to_dict()
    dropout = {"attention_dropout": 0.5, "mlp_dropout": 0.5, "hidden_dropout_prob": 0.5}
    saved(type(CUT[family])(**dropping | dropout), tmp_path)
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=2)).train()
    token_IT, mask_IT = batch()
    packing = Packing.of_mask(mask_IT)
    first, second = (ours.packed_trunk(token_IT, mask_IT, packing) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(ours.top(first, packing), ours.top(first, packing))


def test_a_librarys_blocks_computed_again_have_the_same_gradients(tmp_path: Path) -> None:
    saved(CUT["mpnet"], tmp_path)
    found = []
    for recompute in (False, True):
        ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=2)).eval()
        ours.recompute = recompute
        found.append(gradients(ours))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_text_without_tokens_changes_nothing(tmp_path: Path) -> None:
    saved(CUT["modernbert"], tmp_path)
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=2)).eval()
    token_IT, mask_IT = batch()
    none = torch.zeros_like(mask_IT[:3])
    fuller = torch.cat([token_IT[:3], token_IT]), torch.cat([none, mask_IT])
    packing, more = Packing.of_mask(mask_IT), Packing.of_mask(fuller[1])
    alone = ours.top(ours.packed_trunk(token_IT, mask_IT, packing), packing)
    beside = ours.top(ours.packed_trunk(*fuller, more), more)
    assert torch.allclose(alone, beside, atol=1e-5)
    beside.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in ours.parameters() if p.grad is not None)


def test_positions_and_vocabulary_are_the_configs(tmp_path: Path) -> None:
    for family, positions in (("mpnet", 62), ("qwen3", 64), ("distilbert", 512)):
        saved(CUT[family], tmp_path / family)
        ours = load_text(TextSpec(encoder=str(tmp_path / family), train_blocks=1))
        assert (ours.positions, ours.vocabulary) == (positions, 100)


@pytest.mark.parametrize("config", [T5Config(), ViTConfig()], ids=["t5", "vit"])
def test_what_is_no_text_encoder_is_refused(config: PreTrainedConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=f"'{config.model_type}', which is no encoder of texts"):
        load_text(TextSpec(encoder=str(tmp_path), train_blocks=0, random_seed=0))


def test_a_decoders_first_token_makes_no_vector(tmp_path: Path) -> None:
    saved(CUT["qwen3"], tmp_path)
    options = PmmrecOptions(text=TextSpec(encoder=str(tmp_path)), modality="text")
    assert Pmmrec(options).width == 32
    with pytest.raises(InputError, match="reads from left to right"):
        Pmmrec(dataclasses.replace(options, modality_pool="cls"))


def test_two_threads_run_one_encoder(tmp_path: Path) -> None:
    expected = whole(saved(CUT["mpnet"], tmp_path))
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=2)).eval()
    token_IT, mask_IT = batch()

    def run(_: int) -> Tensor:
        with torch.no_grad():
            return ours(token_IT, mask_IT)[mask_IT]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(12)))
    assert all(torch.allclose(each, expected, atol=1e-5) for each in found)
