"""Product quantisation against nearest centroids looked up one by one, and against faiss."""

import math
import sys
import warnings
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pmm.errors import InputError
from pmm.model.features import quantise
from pmm.model.features.quantise import Quantiser, learn_codes, learn_codes_faiss


def vectors(n: int, width: int, *, seed: int = 0) -> Tensor:
    """Clustered and correlated, with a mean far from zero, as an encoder's vectors are."""
    draw = torch.Generator().manual_seed(seed)
    share = torch.linspace(1, 0.1, width)
    centre = torch.randn(20, width, generator=draw) * share
    x = centre[torch.randint(20, (n,), generator=draw)]
    x = x + 0.5 * torch.randn(n, width, generator=draw) * share
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(9)) / width**0.5
    return x @ mix + 3


def literal_codes(quantiser: Quantiser, x: Tensor) -> list[list[int]]:
    """For each part of each rotated vector, the distances to all centroids, one by one."""
    parts, centroids, width = quantiser.centroid_KCE.shape
    codes = []
    for vector in x.double():
        padded = torch.zeros(parts * width, dtype=torch.float64)
        padded[: len(vector)] = vector - quantiser.mean_F
        turned = quantiser.rotation_PP.double() @ padded
        row = []
        for k in range(parts):
            own = turned[k * width : (k + 1) * width]
            each = quantiser.centroid_KCE[k].double()
            row.append(min(range(centroids), key=lambda c: float((own - each[c]).square().sum())))
        codes.append(row)
    return codes


@pytest.fixture(scope="module")
def learned() -> Quantiser:
    return learn_codes(vectors(400, 10), torch.arange(400), parts=4, centroids=8, seed=1)


def test_codes_name_the_nearest_centroids(learned: Quantiser) -> None:
    x = vectors(60, 10, seed=5)
    codes = learned.encode(x)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == literal_codes(learned, x)


def test_an_uneven_width_is_filled_with_zeros_and_the_rotation_stays_orthonormal(
    learned: Quantiser,
) -> None:
    assert learned.rotation_PP.shape == (12, 12)
    product = learned.rotation_PP @ learned.rotation_PP.T
    torch.testing.assert_close(product, torch.eye(12), atol=1e-5, rtol=0)
    assert learned.decode(learned.encode(vectors(3, 10))).shape == (3, 10)


def test_decoding_puts_the_centroids_back_where_the_vectors_were(learned: Quantiser) -> None:
    codes = torch.tensor([[0, 3, 7, 2]], dtype=torch.uint8)
    rotated = torch.cat([learned.centroid_KCE[k, c] for k, c in enumerate([0, 3, 7, 2])])
    expected = (learned.rotation_PP.T @ rotated)[:10] + learned.mean_F
    torch.testing.assert_close(learned.decode(codes)[0], expected)


def test_the_error_is_the_mean_squared_distance(learned: Quantiser) -> None:
    x = vectors(50, 10, seed=3)
    decoded = [learned.decode(learned.encode(row[None]))[0] for row in x]
    expected = sum(math.dist(a.tolist(), b.tolist()) ** 2 for a, b in zip(x, decoded, strict=True))
    assert learned.error(x) == pytest.approx(expected / 50, rel=1e-5)


def test_fitting_the_rotation_and_passes_of_k_means_lower_the_error() -> None:
    x, rows = vectors(600, 16), torch.arange(600)
    options = {"parts": 4, "centroids": 8, "seed": 0}
    first = learn_codes(x, rows, rotations=0, iterations=1, **options).error(x)
    passes = learn_codes(x, rows, rotations=0, iterations=15, **options).error(x)
    turned = learn_codes(x, rows, **options).error(x)
    assert turned < 0.97 * passes < 0.97 * 0.97 * first


def test_parts_that_are_apart_after_a_rotation_are_found() -> None:
    # Two values on each of four axes in all sixteen ways, then turned: no code needs to err.
    each = torch.cartesian_prod(*[torch.tensor([-a, a]) for a in (5.0, 4.0, 2.0, 1.5)])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2))).Q
    x = (each @ turn).repeat(20, 1)
    found = learn_codes(x, torch.arange(320), parts=2, centroids=4, seed=0)
    assert found.error(x) < 1e-9
    assert len(found.encode(x).unique(dim=0)) == 16


def test_the_fitted_rotation_is_the_one_that_was_there() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(50, 6, generator=draw)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    y = (x @ turn.T).view(50, 3, 2).transpose(0, 1)  # each vector a centroid of its own
    torch.testing.assert_close(quantise._fitted_rotation(x, y, y), turn, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_and_another_seed_something_else() -> None:
    x, rows = vectors(300, 8), torch.arange(300)
    options = {"parts": 2, "centroids": 8}
    one, again, other = (learn_codes(x, rows, seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(one.rotation_PP, again.rotation_PP)
    assert torch.equal(one.centroid_KCE, again.centroid_KCE)
    assert not torch.equal(one.centroid_KCE, other.centroid_KCE)


def test_only_training_rows_count_by_number_or_by_mask() -> None:
    x = vectors(300, 8)
    mask = torch.arange(300) % 3 > 0
    options = {"parts": 2, "centroids": 8, "seed": 0}
    expected = learn_codes(x, mask, **options)
    others = torch.where(mask[:, None], x, torch.nan)
    found = learn_codes(others, mask.nonzero()[:, 0], **options)
    assert torch.equal(found.centroid_KCE, expected.centroid_KCE)
    assert torch.equal(found.encode(x), expected.encode(x))


def test_fewer_vectors_than_centroids_are_centroids_themselves() -> None:
    x = vectors(5, 8)
    found = learn_codes(x, torch.arange(5), parts=4, centroids=16, seed=0)
    assert found.error(x) < 1e-9
    assert found.centroid_KCE.isinf().all(2).sum(1).tolist() == [11] * 4
    # The mean is where centroids that are not there would stand if they stood at zero.
    elsewhere = torch.cat([100 * vectors(50, 8, seed=1), x.mean(0, keepdim=True)])
    assert found.decode(found.encode(elsewhere)).isfinite().all()
    assert found.encode(elsewhere).tolist() == literal_codes(found, elsewhere)


def test_centroids_without_vectors_move_to_those_far_from_theirs() -> None:
    # Nearly all rows are equal, so nearly all first centroids are too.
    x = torch.zeros(500, 4)
    x[:7] = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    found = learn_codes(x, torch.arange(500), parts=2, centroids=8, seed=0)
    assert found.error(x) < 1e-9
    assert len(found.encode(x).unique(dim=0)) == 8


def test_equal_vectors_get_equal_codes_without_nan() -> None:
    x = torch.full((40, 6), 0.3)
    found = learn_codes(x, torch.arange(40), parts=3, centroids=4, seed=0)
    assert found.error(x) == 0
    assert len(found.encode(x).unique(dim=0)) == 1
    assert found.rotation_PP.isfinite().all()


def test_all_256_centroids_fit_a_byte() -> None:
    x = torch.arange(256.0)[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    found = learn_codes(x[:, None], torch.arange(256), parts=1, seed=0, rotations=1)
    assert sorted(found.encode(x[:, None])[:, 0].tolist()) == list(range(256))


def test_a_common_shift_changes_no_code() -> None:
    x, rows = vectors(300, 8), torch.arange(300)
    options = {"parts": 2, "centroids": 8, "seed": 0}
    expected = learn_codes(x, rows, **options).encode(x)
    found = learn_codes(x + 256, rows, **options).encode(x + 256)
    assert (found == expected).float().mean() > 0.99  # a few are equally near after rounding


def test_what_is_compared_at_once_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, learned: Quantiser
) -> None:
    x = vectors(50, 10, seed=3)
    expected, error = learned.encode(x), learned.error(x)
    monkeypatch.setattr(quantise, "DISTANCES_AT_ONCE", 7 * 4 * 8)
    assert torch.equal(learned.encode(x), expected)
    assert learned.error(x) == pytest.approx(error)
    assert learned.encode(x[:0]).shape == (0, 4)


def test_of_many_vectors_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "ROWS_PER_CENTROID", 1)
    x = vectors(100, 4)
    found = learn_codes(x, torch.arange(100), parts=2, centroids=16, seed=0)
    exact = ((found.decode(found.encode(x)) - x).square().sum(1) < 1e-9).sum()
    assert exact == 16  # as many vectors as centroids: each of them is hit


def test_half_precision_vectors_give_nearly_the_same_error() -> None:
    x, rows = vectors(300, 8), torch.arange(300)
    options = {"parts": 2, "centroids": 8, "seed": 0}
    expected = learn_codes(x, rows, **options).error(x)
    halves = learn_codes(x.half(), rows, **options)
    assert halves.error(x) == pytest.approx(expected, rel=0.05)
    assert torch.equal(halves.encode(x.half()), halves.encode(x.half().float()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 0, "centroids": 257}, "parts must be .* found 0; centroids .* 256, found 257"),
        ({"centroids": 0}, "centroids must be at least 1, found 0"),
        ({"iterations": 0}, "iterations must be at least 1, found 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn_codes(vectors(9, 4), torch.arange(9), seed=0, **options)


def test_without_vectors_or_with_broken_ones_it_says_so() -> None:
    x = vectors(9, 4)
    with pytest.raises(ValueError, match="there are no vectors"):
        learn_codes(x, torch.zeros(9, dtype=torch.bool), seed=0)
    x[3, 1] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        learn_codes(x, torch.arange(9), seed=0)


def test_without_faiss_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"Run: pip install 'pmmrec\[faiss\]'"):
        learn_codes_faiss(vectors(300, 8), torch.arange(300), parts=2, centroids=16)


@pytest.fixture
def faiss() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own bindings
        module: ModuleType = pytest.importorskip("faiss")
    return module


@pytest.mark.usefixtures("faiss")
def test_the_error_is_at_most_that_of_faiss() -> None:
    x, rows, unseen = vectors(800, 18), torch.arange(800), vectors(800, 18, seed=1)
    options = {"parts": 4, "centroids": 16}
    ours, theirs = learn_codes(x, rows, seed=0, **options), learn_codes_faiss(x, rows, **options)
    assert ours.error(x) < 1.05 * theirs.error(x)
    assert ours.error(unseen) < 1.05 * theirs.error(unseen)


def test_with_faiss_own_centroids_the_codes_are_its_own(faiss: ModuleType) -> None:
    x = vectors(800, 16)
    index = faiss.index_factory(16, "OPQ4,IVF1,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    index.train(x.numpy())
    index.add(x.numpy())
    lists = faiss.extract_index_ivf(index).invlists
    packed = faiss.rev_swig_ptr(lists.get_codes(0), 800 * 2).reshape(800, 2)
    order = faiss.rev_swig_ptr(lists.get_ids(0), 800)
    pairs = torch.from_numpy(packed[order.argsort()].copy())  # two codes of four bits a byte
    theirs = torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)
    ours = learn_codes_faiss(x, torch.arange(800), parts=4, centroids=16).encode(x)
    assert (ours == theirs).float().mean() > 0.999  # but for equal distances after rounding


@pytest.mark.usefixtures("faiss")
def test_faiss_takes_powers_of_two_only() -> None:
    with pytest.raises(ValueError, match="power of two from 2 to 256, found 12"):
        learn_codes_faiss(vectors(50, 8), torch.arange(50), parts=2, centroids=12)
    with pytest.raises(ValueError, match="9 vectors are fewer than 16 centroids"):
        learn_codes_faiss(vectors(9, 8), torch.arange(9), parts=2, centroids=16)
