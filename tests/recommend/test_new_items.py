"""Items that come and go after training; they are read as if shards had held them."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pmm.demo.small_encoders import save_small_encoders
from pmm.errors import InputError
from pmm.model import registry
from pmm.recommend.answers import NewItem, Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.open_run import open_model
from pmm.runs.loading import load_run

KNOW_ITEMS = ("sasrec", "gru4rec", "nextitnet", "fdsa", "carca", "vqrec")
CASES = [(name, {}) for name in registry.models() if name not in KNOW_ITEMS]
CASES += [("pmmrec", {"items": "vectors"}), ("pmmrec", {"modality": "text"})]
CASES += [("peterrec", {"scaling": "whiten"}), ("unisrec", {"scaling": "standardise"})]
CASES += [("pmmrec", {"modality": "vision"}), ("pmmrec", {"residual": "item", "items": "vectors"})]


Open = Callable[..., tuple[LoadedModel, Path]]


@pytest.fixture
def opened(shop: Any, runs: Any, tmp_path: Path) -> Open:
    """A model by name and options, and its run."""

    def make(name: str, **changes: Any) -> tuple[LoadedModel, Path]:
        run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, name, **changes))
        return open_model(shop.home, run), run

    return make


@pytest.mark.parametrize("ask", ["similar", "card", "explain"])
def test_an_answer_is_of_one_state_however_items_change_meanwhile(
    opened: Open, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    model, _ = opened("pmmrec", modality="text")
    item, other = model.state.ids[:2]
    encoded = model.encode_items([NewItem(item_id=item, text="new content")])
    read = LoadedModel.state.fget
    assert read is not None

    def then_changed(self: LoadedModel) -> Any:
        """As if another thread gave the item new content after every look at the state."""
        found = read(self)
        monkeypatch.setattr(LoadedModel, "state", property(read))
        self.add_items([NewItem(item_id=item, text="new content")], encoded)
        monkeypatch.setattr(LoadedModel, "state", property(then_changed))
        return found

    monkeypatch.setattr(LoadedModel, "state", property(then_changed))
    if ask == "similar":
        assert len(model.similar(item, 3)) == 3
    elif ask == "card":
        assert model.card(item).item_id == item
    else:
        assert [each.item_id for each in model.explain([other], item)] == [other]


def test_items_may_come_while_categories_are_looked_through(opened: Open) -> None:
    model, _ = opened("pmmrec", modality="text")

    class Adding(tuple[str, ...]):
        """Categories during whose reading another item comes, as from another thread."""

        def __iter__(self) -> Iterator[str]:
            content = NewItem(item_id=f"late {len(model.state)}", text="late")
            model.add_items([content], encoded)
            return super().__iter__()

    content = NewItem(item_id="a", text="hat", categories=Adding(["hats"]))
    encoded = model.encode_items([content])
    model.add_items([content], encoded)
    found = model.recommend([["a"]], Wanted(k=5, categories=("hats",), keep_history=True))[0]
    assert [each.item_id for each in found.items] == ["a"]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_new_item_gets_the_vector_that_shards_and_training_would_have_given_it(
    shop: Any, opened: Open, name: str, changes: dict[str, Any]
) -> None:
    if changes.get("residual"):
        changes = {**changes, "residual_from": 1000}  # so that the item of the shards has none
    model, run = opened(name, **changes)
    trained, shards, _ = load_run(shop.home, run)
    for item in (1, 2, 4, 5):  # 4 has no picture, 5 no text
        record = shards.record(item)
        file = shop.home.root / "pictures" / f"{item}.png"
        image = file.read_bytes() if shards.has_picture[item] else None
        new = NewItem(item_id=f"new {item}", text=record["text"] or "", image=image)
        content = trained.options.content
        known = {"text": shards.has_text[item], "vision": shards.has_picture[item]}
        if not any(known[side] for side in known if content in (side, "both")):
            with pytest.raises(InputError, match="no text and no picture that the model reads"):
                model.add_items([new])
            continue
        model.add_items([new])
        with torch.inference_mode():
            alone = shards.items(np.array([item]), read=trained.options.reads)
            input_1W = trained.encode_items(alone).numpy()
            score_1D = trained.item_vectors(torch.from_numpy(input_1W)).numpy()
        row = model.state.find(f"new {item}")
        if trained.options.reads == "none":
            # Of frozen vectors in 16 bits, whose last bit depends on the items that ran beside.
            np.testing.assert_allclose(model.state.input_NW[row], input_1W[0], atol=2e-3)
        else:
            assert np.array_equal(model.state.input_NW[row], input_1W[0])
            assert np.array_equal(model.state.score_ND[row], score_1D[0])


def test_a_text_encoder_with_a_tokenizer_of_its_own_goes_with_pictures(
    shop: Any, shop_maker: Any, opened: Open, tmp_path: Path
) -> None:
    """Of frozen vectors: the tokens of the shards are another encoder's, and no picture needs
    them."""
    other, _ = save_small_encoders(
        tmp_path / "o", ["words of its own"], seed=2, sizes=shop_maker.SIZES
    )
    options = {"items": "vectors", "text": {"encoder": str(other), "train_blocks": 1}}
    model, run = opened("pmmrec", **options)
    trained, shards, _ = load_run(shop.home, run)
    file = shop.home.root / "pictures" / "1.png"
    model.add_items(
        [NewItem(item_id="new", text=shards.record(1)["text"], image=file.read_bytes())]
    )
    with torch.inference_mode():
        expected = trained.encode_items(shards.items(np.array([1]), read="none"))[0].numpy()
    row = model.state.find("new")
    np.testing.assert_allclose(model.state.input_NW[row], expected, atol=2e-3)


@pytest.mark.parametrize("name", KNOW_ITEMS)
def test_models_that_know_items_one_by_one_say_so(opened: Open, name: str) -> None:
    model, _ = opened(name)
    with pytest.raises(InputError, match="holds something of each single item"):
        model.add_items([NewItem(item_id="new", text="a red shoe")])
    assert len(model.recommend([model.state.ids[:2]])[0].items) == 10


@pytest.fixture
def model(opened: Open) -> LoadedModel:
    return opened("pmmrec")[0]


def picture(colour: str, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(data, kind)
    return data.getvalue()


def served(model: LoadedModel, history: list[str], **wanted: Any) -> list[str]:
    found = model.recommend([history], Wanted(k=100, **wanted))[0]
    return [each.item_id for each in found.items]


def test_an_added_item_is_recommended_and_may_stand_in_a_history(model: LoadedModel) -> None:
    model.add_items([NewItem(item_id="new", text="article number 3", image=picture("red"))])
    assert "new" in served(model, [model.state.ids[0]])
    assert "new" not in served(model, ["new"])
    assert len(model.similar("new", 3)) == 3
    card = model.card("new")
    assert (card.new, card.count, card.has_picture, card.text) == (
        True,
        0,
        True,
        "article number 3",
    )


def test_a_withdrawn_item_is_never_recommended_but_counts_in_histories(model: LoadedModel) -> None:
    gone, other = model.state.ids[3], model.state.ids[4]
    before = model.recommend([[gone, other]])[0]
    model.remove_items([gone])
    assert gone not in served(model, [other])
    assert gone not in served(model, [other], keep_history=True, allow=[gone, other])
    assert model.recommend([[gone, other]])[0].items == before.items
    assert model.card(gone).withdrawn
    with pytest.raises(InputError, match='there is no item "no"'):
        model.remove_items([other, "no"])
    assert other in served(model, [gone])


def test_new_content_takes_the_place_of_the_old(model: LoadedModel) -> None:
    changed = model.state.ids[6]
    count, old = model.card(changed).count, model.state
    model.add_items([NewItem(item_id=changed, text="something else", image=picture("blue"))])
    assert served(model, [model.state.ids[0]]).count(changed) == 1
    assert model.card(changed).text == "something else"
    assert model.card(changed).count == count
    assert old.find(changed) == 6  # who answers keeps the state that he began with
    model.remove_items([changed])
    assert changed not in served(model, [model.state.ids[0]])
    model.add_items([NewItem(item_id=changed, text="back again")])
    assert served(model, [model.state.ids[0]]).count(changed) == 1


def test_items_of_categories_alone_are_served(model: LoadedModel) -> None:
    model.add_items([NewItem(item_id=str(k), text=f"t{k}", categories=("Hats",)) for k in range(3)])
    assert sorted(served(model, [], categories=["Hats"])) == ["0", "1", "2"]
    model.add_items([NewItem(item_id="1", text="no hat any more")])
    assert sorted(served(model, [], categories=["Hats"])) == ["0", "2"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([NewItem(item_id="a", text="x"), NewItem(item_id="a", text="y")], "there twice"),
        ([NewItem(item_id="", text="x")], "empty"),
        ([NewItem(item_id="a", text="x"), NewItem(item_id="b")], "'b' has no text"),
        ([NewItem(item_id="a", image=b"no picture")], "not-a-picture"),
        ([NewItem(item_id="a", image=picture("red")[:60])], "cannot be read"),
    ],
)
def test_an_item_that_is_none_is_refused_and_nothing_is_added(
    model: LoadedModel, items: list[NewItem], message: str
) -> None:
    before = len(model.state)
    with pytest.raises(InputError, match=message):
        model.add_items(items)
    assert len(model.state) == before


def test_many_items_grow_the_catalogue_without_moving_it(model: LoadedModel) -> None:
    for k in range(3):
        model.add_items([NewItem(item_id=f"{k}-{n}", text=f"t {n}") for n in range(70)])
    first, trained = model.state, model.state.trained
    assert len(first) == trained + 210
    known = open_rows = first.score_ND[:trained].copy()
    model.add_items([NewItem(item_id="last", text="t")])
    assert np.array_equal(model.state.score_ND[:trained], known)
    assert np.array_equal(first.score_ND[:trained], open_rows)
    assert len(first) == trained + 210
