"""Items made of frozen vectors: the network written out, what may be missing, what is stored."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.model.features.item_features import ItemFeatures
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions, Weights
from pmm.model.pmmrec.vector_items import VectorInput
from pmm.runs.weights import kept_tensors, trained_tensors
from pmm.shards.items import Items

N = 12


def features(modality: str = "both") -> ItemFeatures:
    """Twelve items, of which 1 lacks a text and 2 a picture, and 3 occurs in no training part."""
    draw = torch.Generator().manual_seed(0)
    text, picture = (torch.randn(N, width, generator=draw) + 3 for width in (10, 6))
    text[0], picture[1] = 0.0, 0.0
    fields = {"text": (text,), "vision": (picture,), "both": (text, picture)}[modality]
    trained = torch.ones(N, dtype=torch.bool)
    trained[2] = False
    return ItemFeatures(fields, trained, {"text": "a" * 64, "vision": "b" * 64})


def made(count_N: Tensor | None = None, **changes: object) -> Pmmrec:
    options = PmmrecOptions(items="vectors", width=16, max_length=5)
    torch.manual_seed(0)
    whole = dataclasses.replace(options, **changes)  # type: ignore[arg-type]
    counts = None if count_N is None else count_N.numpy()
    return Pmmrec(whole, features(whole.modality), count_N=counts)


@pytest.fixture
def batch() -> Batch:
    """Three users over the items 1 to 11, whose content is not read."""
    number_I = torch.arange(1, N)
    none_I = torch.zeros(N - 1, dtype=torch.bool)
    items = Items(
        item_I=number_I,
        token_IT=torch.zeros(N - 1, 1, dtype=torch.int64),
        token_mask_IT=none_I[:, None],
        picture_I3HW=torch.zeros(N - 1, 3, 0, 0, dtype=torch.uint8),
        has_text_I=none_I,
        has_picture_I=none_I,
    )
    slot_BS = torch.tensor([[0, 0, 0, 1, 2, 3], [4, 2, 5, 6, 7, 8], [0, 9, 10, 1, 11, 4]])
    return Batch(items=items, slot_BS=slot_BS, log_p_I=torch.full((N - 1,), 1 / 14).log())


def literal(model: Pmmrec, found: ItemFeatures, item: int) -> Tensor:
    """One item's vector, side by side, with statistics of the items that train and have one."""
    summed = torch.zeros(256)
    names = ["text_vectors", "vision_vectors"]
    for name, field in zip(names, found.fields, strict=True):
        linear = getattr(model, name).linear
        rows = [k for k in range(N) if found.trained_N[k] and field[k].any()]
        mean = torch.stack([field[k] for k in rows]).mean(0)
        deviation = torch.stack([(field[k] - mean) ** 2 for k in rows]).mean(0).sqrt()
        if field[item - 1].any():
            summed = summed + linear((field[item - 1] - mean) / deviation)
    head = model.vector_head
    assert head is not None
    out = head.out(functional.gelu(summed))
    centred = out - out.mean()
    return centred / (centred.square().mean() + 1e-6).sqrt()


def test_the_network_is_that_which_is_written_out(batch: Batch) -> None:
    model = made().eval()
    found = model.encode_items(batch.items)
    expected = torch.stack([literal(model, features(), item) for item in range(1, N)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_an_item_lacks_is_not_read_and_vectors_of_one_modality_are_as_without_the_other(
    batch: Batch,
) -> None:
    model = made().eval()
    parts = model.item_parts(batch.items, apart=True)
    assert parts.text_ID is not None
    assert parts.picture_ID is not None
    torch.testing.assert_close(parts.item_ID[0], parts.picture_ID[0])  # item 1 has no text
    torch.testing.assert_close(parts.item_ID[1], parts.text_ID[1])  # item 2 has no picture
    assert not torch.allclose(parts.item_ID[4], parts.text_ID[4])


@pytest.mark.parametrize("modality", ["both", "text", "vision"])
def test_all_that_trains_gets_a_gradient_and_statistics_do_not_train(
    modality: str, batch: Batch
) -> None:
    weights = Weights(nicl=1.0 if modality == "both" else 0.0, nid=1.0, rcl=1.0)
    model = made(modality=modality, weights=weights).train()
    model(batch, torch.Generator().manual_seed(0))["loss"].backward()
    for name, tensor in model.named_parameters():
        fixed = name.endswith(("mean_F", "scale_F"))
        assert tensor.requires_grad != fixed
        assert fixed or name.endswith("key.bias") or tensor.grad.abs().max() > 1e-7, name


def test_a_checkpoint_has_the_statistics_but_no_vectors() -> None:
    model = made()
    kept = kept_tensors(model)
    assert {"text_vectors.mean_F", "vision_vectors.scale_F"} <= kept.keys()
    assert not any(name.endswith(("vector_NF", "has_N")) for name in kept)
    assert "text_vectors.mean_F" not in trained_tensors(model)
    assert dict(model.frozen_by) == features().made_by


def test_a_new_item_is_read_by_the_statistics_of_the_training() -> None:
    model = made().eval()
    side = model.text_vectors
    assert side is not None
    found = features()
    item_I = torch.tensor([4, 9])
    given = side.of_vectors(found.fields[0][item_I - 1], torch.tensor([True, True]))
    torch.testing.assert_close(given, side(item_I))
    none = side.of_vectors(torch.randn(2, 10), torch.tensor([False, False]))
    assert none.count_nonzero() == 0


def test_statistics_need_an_item_that_trains() -> None:
    with pytest.raises(ValueError, match="no vectors to fit on"):
        VectorInput(torch.randn(3, 4), torch.zeros(3, dtype=torch.bool))


def test_without_vectors_it_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="needs frozen vectors"):
        Pmmrec(PmmrecOptions(items="vectors"))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_the_softmax_over_the_catalogue_is_that_of_each_row_over_all_items(
    similarity: str, learned: bool, prior: float, batch: Batch
) -> None:
    counts = torch.arange(N)[torch.randperm(N, generator=torch.Generator().manual_seed(1))]
    model = made(
        counts,
        dap_candidates="catalogue",
        dap_similarity=similarity,
        dap_tau=0.3,
        dap_tau_learned=learned,
        dap_prior=prior,
    ).eval()
    found = model(batch)["loss"]
    every = torch.stack([literal(model, features(), item) for item in range(1, N + 1)])
    rows, losses = batch.numbers().tolist(), []
    for row in rows:
        for at in range(len(row) - 1):
            if row[at]:  # padding stands on the left
                window = [item for item in row[: at + 1] if item]
                e_BLD = torch.stack([every[item - 1] for item in window])[None]
                user = model.user_vectors(e_BLD, torch.ones(1, len(window), dtype=torch.bool))[0]
                if similarity == "cosine":
                    z = functional.cosine_similarity(every, user[None]) / 0.3
                else:
                    z = every @ user / 0.3
                seen = counts.double() + 1  # none of them is never seen
                z = z + (prior * torch.log(seen / seen.sum())).float()
                losses.append(-z.log_softmax(0)[row[at + 1] - 1])
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)
    found.backward()
    if model.log_tau is not None:
        assert model.log_tau.grad is not None
        assert model.log_tau.grad.abs() > 1e-4


def test_the_softmax_over_the_catalogue_reads_residuals_too(batch: Batch) -> None:
    options = PmmrecOptions(
        items="vectors",
        width=16,
        max_length=5,
        dap_candidates="catalogue",
        residual="item",
        residual_drop=0.0,
    )
    counts = torch.arange(N).numpy()  # items 11 and 12 alone occur ten times
    model = Pmmrec(options, features(), count_N=counts)
    model(batch)["loss"].backward()
    assert model.residual is not None
    moved = model.residual.table_ND.grad.abs().amax(1) > 0
    assert moved.tolist() == [k >= 10 for k in range(N)]


def test_the_catalogue_is_no_candidate_of_encoders_that_train() -> None:
    with pytest.raises(ValueError, match="needs items"):
        PmmrecOptions(dap_candidates="catalogue")
