"""`pmm gallery`: a run as one file; bounded data, the model's own answers, no server."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pmm.bundle.bundle_options import BundleOptions
from pmm.bundle.make_bundle import export_run
from pmm.cli import main
from pmm.errors import InputError
from pmm.recommend.answers import NewItem, TestUser, Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.open_run import open_model
from pmm.serve.gallery_data import gallery_data
from pmm.serve.gallery_request import GalleryRequest, write_gallery
from pmm.serve.load_served import ServedModel, open_served
from pmm.serve.page_file import page_of
from pmm.serve.tested_users import served_rank
from pmm.storage.schemas import RANKS, read_table


@pytest.fixture(scope="module")
def opened(shop: Any, run_of_shop: Path) -> ServedModel:
    return open_served(run_of_shop, shop.home)


@pytest.fixture(scope="module")
def model(opened: ServedModel) -> LoadedModel:
    return opened.model


@pytest.fixture(scope="module")
def users(opened: ServedModel) -> list[TestUser]:
    return opened.users.spread(24)


def data_of(model: LoadedModel, users: list[TestUser], **how: Any) -> dict[str, Any]:
    return gallery_data(model, users, **{"run": "r", "target": "HM", "most_items": 100, **how})


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-9)


def test_ranks_of_the_page_are_those_of_the_evaluation(
    run_of_shop: Path, model: LoadedModel, users: list[TestUser]
) -> None:
    ranks = read_table(run_of_shop / "ranks.parquet", RANKS)["rank"].to_pylist()
    assert [served_rank(model, each) for each in users] == ranks


def test_the_page_holds_the_models_own_answers(model: LoadedModel, users: list[TestUser]) -> None:
    data = data_of(model, users)
    ids = [each["item_id"] for each in data["items"]]
    assert sorted(ids) == sorted(model.state.ids)
    assert [each["user_id"] for each in data["users"]] == [each.user_id for each in users]
    for told, user in zip(data["users"], users, strict=True):
        assert [ids[k] for k in told["history"]] == list(user.history)
        for name, popularity in (("recommended", 0.0), ("chosen", "chosen")):
            (found,) = model.recommend([user.history], Wanted(popularity=popularity))
            assert [ids[row[0]] for row in told[name]] == [each.item_id for each in found.items]
            assert [row[1] for row in told[name]] == [close(each.score) for each in found.items]
        first, _, reasons = told["recommended"][0]
        expected = model.explain(user.history, ids[first])[:3]
        assert [ids[of] for of, _ in reasons] == [each.item_id for each in expected]
        assert [effect for _, effect in reasons] == [close(each.effect) for each in expected]
    for k, item_id in enumerate(ids):
        (alone,) = model.recommend([[item_id]], Wanted(k=40))
        assert [ids[row[0]] for row in data["after"][k]] == [each.item_id for each in alone.items]
        near = model.similar(item_id, 8)
        assert [ids[row[0]] for row in data["similar"][k]] == [each.item_id for each in near]


def test_items_and_pictures_of_a_page_are_bounded(
    model: LoadedModel, users: list[TestUser]
) -> None:
    whole = data_of(model, users[:3])
    sizes = [
        len(base64.b64decode(i["picture"].partition(",")[2]))
        for i in whole["items"]
        if i["picture"]
    ]
    assert whole["pictures_left_out"] == 0
    assert len(sizes) == len(whole["items"]) - 1  # item 4 of the shop has none
    small = data_of(model, users[:3], picture_bytes=sum(sizes[:4]))
    kept = [each["picture"] for each in small["items"] if each["picture"]]
    assert len(kept) + small["pictures_left_out"] == len(sizes)
    assert sum(len(base64.b64decode(each.partition(",")[2])) for each in kept) <= sum(sizes[:4])
    needed = len({n for u in data_of(model, users[:1])["users"] for n in u["history"]}) + 1
    few = data_of(model, users, most_items=needed + 20)
    assert len(few["items"]) == needed + 20
    assert 1 <= len(few["users"]) < len(users)
    assert few["catalogue"] == len(model.state)
    numbers = range(len(few["items"]))
    assert all(row[0] in numbers for rows in (*few["after"], *few["similar"]) for row in rows)
    counts = [each["count"] for each in few["items"]]
    assert counts == sorted(counts, reverse=True)
    none = data_of(model, users, most_items=1)
    assert len(none["items"]) == 1
    assert none["users"] == []


def test_withdrawn_items_are_in_histories_alone(
    shop: Any, run_of_shop: Path, users: list[TestUser]
) -> None:
    model = open_model(shop.home, run_of_shop)
    gone = users[0].history[0]
    model.remove_items([gone])
    data = data_of(model, users[:1])
    at = [each["item_id"] for each in data["items"]].index(gone)
    assert at in data["users"][0]["history"]
    assert all(row[0] != at for rows in (*data["after"], *data["similar"]) for row in rows)


# --- The command.


def test_the_command_writes_the_page(
    shop: Any, run_of_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "look.html"
    home = ["--home", str(shop.home.root)]
    with pytest.raises(SystemExit) as ended:
        main(["gallery", str(run_of_shop), "--html", str(place), "--users", "3", *home])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "30 items, 29 pictures, 3 test users" in said
    (data,) = re.findall(r'id="embedded">(.*?)</script>', place.read_text(encoding="utf-8"), re.S)
    assert json.loads(data)["run"] == run_of_shop.name
    assert [each.name for each in tmp_path.iterdir()] == ["look.html"]  # nothing is left behind


def test_room_is_missed_only_for_users_that_there_are(
    shop: Any, run_of_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(shop.home, run_of_shop, tmp_path / "bundle", BundleOptions(test_users=0))
    for place, users, missed in ((run_of_shop, "", True), (tmp_path / "bundle", "0", False)):
        home = ["--home", str(shop.home.root), "--items", "12"]
        with pytest.raises(SystemExit) as ended:
            main(["gallery", str(place), "--html", str(tmp_path / "page.html"), *home])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert f"{users} test users" in said
        assert ("there is room for more users" in said) == missed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"items": 0}, "--items must be from 1"),
        ({"items": 10**9}, "--items must be from 1"),
        ({"users": -1}, "--users must be from 0"),
        ({"html": Path()}, "is a folder: name the file. Run: pmm gallery"),
        ({"html": Path("nowhere/page.html")}, "there is no folder"),
        ({"run": Path("no-such-run")}, "no-such-run"),
        ({"target": "Nothing"}, 'unknown target "Nothing"'),
    ],
)
def test_a_wrong_wish_for_a_page_is_refused_before_anything_is_written(
    shop: Any, run_of_shop: Path, tmp_path: Path, monkeypatch: Any, wrong: Any, message: str
) -> None:
    from pmm.errors import PmmError

    monkeypatch.chdir(tmp_path)
    usual = {"run": run_of_shop, "html": Path("page.html"), "home": shop.home.root}
    with pytest.raises(PmmError, match=re.escape(message)):
        write_gallery(GalleryRequest(**{**usual, **wrong}))
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_said(
    shop: Any, run_of_shop: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from pmm.errors import StorageError
    from pmm.serve import gallery_request

    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(gallery_request, "atomic_file", full)
    request = GalleryRequest(run_of_shop, html=tmp_path / "page.html", home=shop.home.root)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left"):
        write_gallery(request)


def test_ids_of_a_catalogue_larger_than_what_is_answered_have_no_rank(
    model: LoadedModel, users: list[TestUser]
) -> None:
    ranks = [served_rank(model, each, depth=3) for each in users]
    whole = [served_rank(model, each) for each in users]
    assert None in ranks
    assert all(found in (None, true) for found, true in zip(ranks, whole, strict=True))


def test_a_user_without_a_known_history_is_refused(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="no item of the history"):
        data_of(model, [TestUser(user_id="u", history=("?",), target=model.state.ids[0])])


# --- In the browser.


@pytest.fixture(scope="module")
def file(model: LoadedModel, users: list[TestUser], tmp_path_factory: Any) -> Path:
    place: Path = tmp_path_factory.mktemp("file") / "gallery.html"
    place.write_text(page_of(data_of(model, users)).html, encoding="utf-8")
    return place


def test_the_file_shows_test_users_with_the_models_answers(
    browser: Any, file: Path, model: LoadedModel, users: list[TestUser]
) -> None:
    browser.look()
    browser.open(file.as_uri())
    browser.click("#tab-users")
    browser.until(lambda: len(browser.texts("#user-list h3")) == 12)
    browser.click("#more-users")
    browser.until(lambda: len(browser.texts("#user-list h3")) == 24)
    for at in (2, 20):
        browser.click(f"#user-list > li:nth-child({at + 1}) button")
        (found,) = model.recommend([users[at].history])
        wanted = [each.item_id for each in found.items]
        browser.until(lambda wanted=wanted: browser.ids("#answer") == wanted)
        assert "The model's answer" in browser.text("#how")
        assert f"rank {served_rank(model, users[at])}." in browser.text("#truth")
    assert browser.all("#answer .reasons li")
    wanted = Wanted(popularity="chosen")
    best = [each.item_id for each in model.recommend([users[20].history], wanted)[0].items]
    browser.choose("#popularity", "chosen")
    browser.until(lambda: browser.ids("#answer") == best)
    asked = [each for each in browser.requested() if not each.startswith(("data:", "about:"))]
    assert asked == [file.as_uri()]
    assert browser.complaints() == []
    assert not browser.one("#tab-add").is_displayed()  # no server takes new items


def test_the_file_says_when_an_answer_is_an_estimate(
    browser: Any, file: Path, model: LoadedModel
) -> None:
    browser.look(width=360, height=760)
    browser.open(file.as_uri())
    assert "answers for most histories are an estimate" in browser.text("#about")
    first, second, third = browser.ids("#items")[:3]
    browser.click_item("#items", first)
    alone = [each.item_id for each in model.recommend([[first]])[0].items]
    browser.until(lambda: browser.ids("#answer") == alone)
    assert "The model's answer" in browser.text("#how")
    browser.click_item("#items", second)
    browser.click_item("#items", third)
    browser.until(lambda: "An estimate" in browser.text("#how"))
    answered = browser.ids("#answer")
    assert len(set(answered)) == 10
    assert not {first, second, third} & set(answered)
    assert browser.ids("#history") == [first, second, third]
    # What follows the last one counts most.
    data = json.loads(browser.text("#embedded"))
    ids = [each["item_id"] for each in data["items"]]
    scores: dict[str, float] = {}
    for place, item_id in enumerate((first, second, third)):
        after = data["after"][ids.index(item_id)]
        for k, score in after:
            scores[ids[k]] = scores.get(ids[k], 0) + 0.3 ** (2 - place) * (score - after[-1][1])
    left = sorted(set(scores) - {first, second, third}, key=lambda each: -scores[each])
    assert answered == left[:10]
    browser.type("#query", "sort 3")
    browser.until(lambda: "0000000003" in browser.ids("#items") and len(browser.ids("#items")) < 9)
    browser.click("#items .small")
    near = [each.item_id for each in model.similar(browser.ids("#items")[0], 8)]
    browser.until(lambda: browser.ids("#similar") == near)
    assert browser.overflow() == 0


def test_hostile_items_in_the_file_are_text(
    browser: Any, shop: Any, run_of_shop: Path, hostile_items: list[NewItem], tmp_path: Path
) -> None:
    model = open_model(shop.home, run_of_shop)
    model.add_items(hostile_items)
    history = tuple(each.item_id for each in hostile_items)
    user = TestUser(user_id="</h3><script>1</script>", history=history, target=history[0])
    data = data_of(model, [user], run="<b>run</b>", target="</title>")
    place = tmp_path / "hostile.html"
    place.write_text(page_of(data).html, encoding="utf-8")
    browser.look(width=360, height=760, scheme="dark")
    browser.open(place.as_uri())
    browser.click("#tab-users")
    browser.click("#user-list button")
    browser.until(lambda: browser.ids("#history") == list(history))
    assert "<b>run</b> on </title>" in browser.text("#about")
    assert "</h3><script>" in browser.text("#users")
    assert "<script>document.title = 1</script>" in browser.text("#history")
    assert browser.js("return document.querySelectorAll('script').length") == 2
    assert browser.js("return document.title") == "Recommendations of <b>run</b>"
    assert browser.overflow() == 0
    assert browser.complaints() == []
