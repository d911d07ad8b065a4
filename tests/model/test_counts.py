"""Parameter counts of the true-size model, on the meta device."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import XLMRobertaConfig

from pmm.model.encoders.open_clip_tower import vision_plan
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.train.optimiser import parameter_groups

BLOCK = 7_087_872
VISION = VisionSpec(encoder="ViT-B-32", pretrained="openai", random_seed=0)


def count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> PmmrecOptions:
    folder = tmp_path_factory.mktemp("xlm-roberta-base")
    XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    ).save_pretrained(folder)
    return PmmrecOptions(text=TextSpec(encoder=str(folder), random_seed=0), vision=VISION)


@pytest.fixture(scope="module")
def model(options: PmmrecOptions) -> Pmmrec:
    with torch.device("meta"):
        return Pmmrec(options)


def test_text_encoder_without_pooler(model: Pmmrec) -> None:
    assert count(model.text) == 277_453_056


def test_vision_tower(model: Pmmrec) -> None:
    """87,456,000 includes the final norm, which no gradient reaches and we drop; open_clip's own
    tower further has the projection to CLIP's common space, 768 x 512."""
    final_norm = 2 * 768
    assert count(model.vision) + final_norm == 87_456_000
    with torch.device("meta"):
        assert count(vision_plan(VISION).build()) == 87_456_000 + 768 * 512


def test_two_blocks_of_each_encoder_train(model: Pmmrec) -> None:
    assert count(model.text, trained=True) == 2 * BLOCK
    assert count(model.vision, trained=True) == 2 * BLOCK
    assert (model.text.cut, model.vision.cut) == (10, 10)
    assert {n[:9] for n in model.text.trained_names()} == {"blocks.10", "blocks.11"}


def test_projections_fusion_and_user_encoder(model: Pmmrec) -> None:
    assert (model.width, model.fusion.block.heads) == (768, 12)
    assert count(model.text_projection) == count(model.vision_projection) == 590_592
    assert count(model.fusion.block) == BLOCK
    assert count(model.fusion) == 7_089_408
    convolution = 3 * 768 * 768 + 768
    # HSTU: two norms, the input's four parts, the output, a bias for each distance of the window.
    block = 2 * 2 * 768 + (768 * 4 * 768 + 4 * 768) + (768 * 768 + 768) + 20
    assert [count(each) for each in model.user_encoder.blocks] == [block]
    assert count(model.user_encoder) == block + 2 * 2 * 768 + convolution


def test_the_official_form_trains_50807040_parameters(options: PmmrecOptions) -> None:
    """What of the published model really gets a gradient."""
    with torch.device("meta"):
        printed = {"user_encoder": "transformer", "user_blocks": 2}
        printed |= {"user_positions": "absolute", "user_convolution": 0}
        model = Pmmrec(dataclasses.replace(options, fusion_type_embedding=False, **printed))
    assert count(model, trained=True) == 50_807_040
    groups = parameter_groups(model, lr=1e-4, weight_decay=0.1, decay_norms=True)
    assert [sum(p.numel() for p in g["params"]) for g in groups] == [
        2 * BLOCK,
        2 * BLOCK,
        50_807_040 - 4 * BLOCK,
    ]


def test_the_learned_token_adds_one_vector(options: PmmrecOptions, model: Pmmrec) -> None:
    with torch.device("meta"):
        paper = Pmmrec(dataclasses.replace(options, fusion_pool="cls"))
    assert count(paper) - count(model) == 768
