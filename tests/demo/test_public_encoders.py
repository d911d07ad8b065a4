"""The encoders that come with PMM: what can be read off them, how they are made, where they go."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pmm.demo.public_encoders import (
    SIZES,
    TRAIN_BLOCKS,
    put_public_encoders,
    teach_public_encoders,
    telling,
)
from pmm.demo.teaching import _contrast, embed_pictures, embed_texts
from pmm.errors import InputError
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.vision_encoder import load_vision
from pmm.model.text_encoders.load_text import load_text
from pmm.world.attributes import ATTRIBUTES
from pmm.world.corpus import draw_corpus

LEARN, ASK = 700, 300


@pytest.fixture(scope="module")
def things():
    """Things that the encoders have not seen: the corpus of another seed."""
    return list(draw_corpus(LEARN + ASK, seed=1))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return put_public_encoders(tmp_path_factory.mktemp("public"))


def linear_probe(vector_ND: Tensor, things, column: int) -> float:
    """Share of the asked things whose attribute a ridge regression on the others reads off."""
    x = (vector_ND - vector_ND[:LEARN].mean(0)) / vector_ND[:LEARN].std(0)
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    truth = torch.tensor([thing.values[column] for thing in things])
    known = functional.one_hot(truth[:LEARN]).float()
    gram = x[:LEARN].T @ x[:LEARN] + torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x[:LEARN].T @ known)
    return float(((x[LEARN:] @ weights).argmax(1) == truth[LEARN:]).float().mean())


@pytest.mark.parametrize(("column", "least"), [(1, 0.9), (2, 0.7)])
def test_mood_and_colour_can_be_read_off_texts_by_a_line(shipped, things, column, least):
    text = load_text(TextSpec(encoder=str(shipped[0]), train_blocks=TRAIN_BLOCKS))
    vectors = embed_texts(text, shipped[0], [thing.texts[0] for thing in things])
    assert linear_probe(vectors, things, column) > least


@pytest.mark.parametrize(("column", "least"), [(2, 0.9), (3, 0.65), (4, 0.8)])
def test_colour_motif_and_texture_can_be_read_off_pictures_by_a_line(
    shipped, things, column, least
):
    vision = load_vision(VisionSpec(encoder=str(shipped[1]), train_blocks=TRAIN_BLOCKS))
    vectors = embed_pictures(vision, telling(things, 1).picture_N3HW)
    assert linear_probe(vectors, things, column) > least


def test_texts_tell_nothing_of_what_only_pictures_show(shipped, things):
    text = load_text(TextSpec(encoder=str(shipped[0]), train_blocks=TRAIN_BLOCKS))
    vectors = embed_texts(text, shipped[0], [thing.texts[0] for thing in things])
    for column, attribute in enumerate(ATTRIBUTES):
        if "text" not in attribute.shows:
            assert linear_probe(vectors, things, column) < 1.5 / attribute.size


def test_the_first_things_of_a_longer_corpus_are_those_of_a_shorter_one():
    short, long = list(draw_corpus(3)), list(draw_corpus(5))
    assert [thing.texts for thing in short] == [thing.texts for thing in long[:3]]
    assert short[2].photographs[1].tobytes() == long[2].photographs[1].tobytes()
    assert len({thing.texts for thing in long}) == 5


def test_taught_encoders_load_as_those_that_come_with_pmm_and_only_blocks_have_learned(
    shipped, tmp_path
):
    first = teach_public_encoders(tmp_path / "short", things=120, steps=2)
    more = teach_public_encoders(tmp_path / "more", things=120, steps=40)
    assert more < first
    for side, file in (("text", "model"), ("vision", "open_clip_model")):
        here = load_file(shipped[side == "vision"] / f"{file}.safetensors")
        short = load_file(tmp_path / "short" / side / f"{file}.safetensors")
        longer = load_file(tmp_path / "more" / side / f"{file}.safetensors")
        assert here.keys() == short.keys()
        moved = {name for name in short if not torch.equal(short[name], longer[name])}
        assert moved
        assert all("layer." in name or "resblocks." in name for name in moved)
    load_text(TextSpec(encoder=str(tmp_path / "more" / "text"), train_blocks=SIZES.blocks))


def test_a_folder_that_holds_something_is_not_written_over(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        teach_public_encoders(tmp_path)


def test_the_contrast_of_orthogonal_pairs_is_that_of_a_softmax_by_hand():
    one = torch.eye(4)
    expected = math.log(math.exp(10) + 3) - 10  # cosine 1 or 0, temperature 0.1
    assert float(_contrast(one, one)) == pytest.approx(expected, abs=1e-6)  # fp32
    assert float(_contrast(torch.ones(4, 2), torch.ones(4, 2))) == pytest.approx(math.log(4))
