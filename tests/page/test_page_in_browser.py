"""The served page, used by clicks and by keys in a real browser."""

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.recommend.answers import Wanted

GREEN = "rgb(29, 122, 53) solid 3px"
LIGHT_AND_DARK = ("light", "dark")


def recommended(served: Any, history: list[str], **wanted: Any) -> list[str]:
    found = served.model.recommend([history], Wanted(**wanted))[0]
    return [each.item_id for each in found.items]


def open_tab(page: Any, name: str) -> None:
    page.click(f"#tab-{name}")
    page.until(lambda: not page.all(f"#{name}[hidden]"))


# --- History and recommendations.


def test_clicks_build_a_history_and_the_recommendations_follow(page: Any, served: Any) -> None:
    assert "popular items" in page.text("#how")
    assert page.ids("#answer") == recommended(served, [])
    history: list[str] = []
    for item_id in page.ids("#items")[2:5]:
        page.click_item("#items", item_id)
        history.append(item_id)
        page.until(lambda: page.ids("#answer") == recommended(served, history))
    assert page.ids("#history") == history
    assert "The model's answer" in page.text("#how")
    assert "10 recommendations" in page.text("#said")
    assert page.complaints() == []


def test_a_history_is_put_in_order_shortened_and_cleared(page: Any, served: Any) -> None:
    first, second, third = page.ids("#items")[:3]
    for item_id in (first, second, third):
        page.click_item("#items", item_id)
    page.click_item("#history", third, "[data-focus^=earlier]")
    assert page.ids("#history") == [first, third, second]
    page.click_item("#history", first, "[data-focus^=later]")
    assert page.ids("#history") == [third, first, second]
    page.until(lambda: page.ids("#answer") == recommended(served, [third, first, second]))
    page.click_item("#history", first, "[data-focus^=remove]")
    page.until(lambda: page.ids("#answer") == recommended(served, [third, second]))
    page.click("#clear")
    page.until(lambda: page.ids("#answer") == recommended(served, []))
    assert page.ids("#history") == []
    assert page.all("#clear")[0].is_displayed() is False


def test_a_recommendation_is_shown_with_picture_score_and_reason(page: Any, served: Any) -> None:
    model, history = served.model, page.ids("#items")[:3]
    for item_id in history:
        page.click_item("#items", item_id)
    page.until(lambda: page.ids("#answer") == recommended(served, history))
    best = model.recommend([history])[0].items[0]
    tile = page.one("#answer > li")
    assert f"score {best.score:.1f}" in tile.text
    reasons = [each for each in model.explain(history, best.item_id) if each.effect >= 0.05][:2]
    shown = page.js(
        "return [...arguments[0].querySelectorAll('.reasons li')].map((e) => e.textContent)", tile
    )
    assert len(shown) == len(reasons) >= 1
    for text, reason in zip(shown, reasons, strict=True):
        assert model.card(reason.item_id).text[:20] in text
        assert f"+{reason.effect:.1f}" in text
    image = "return document.querySelector('#answer img.picture').naturalWidth"
    page.until(lambda: page.js(image) == 32)  # the pictures of the small shop


def test_popularity_and_a_category_change_what_is_recommended(
    page: Any, served: Any, hostile_items: Any
) -> None:
    ids = served.model.state.ids
    pairs = ([first, second] for first in ids for second in ids if first != second)
    history = next(
        pair
        for pair in pairs
        if recommended(served, pair) != recommended(served, pair, popularity="chosen")
    )
    served.add(hostile_items[:1])
    page.open(served.url)
    for item_id in history:
        page.click_item("#items", item_id)
    page.until(lambda: page.ids("#answer") == recommended(served, history))
    page.choose("#popularity", "chosen")
    page.until(lambda: page.ids("#answer") == recommended(served, history, popularity="chosen"))
    page.choose("#wanted", "<b>0</b>")
    page.until(lambda: page.ids("#answer") == [hostile_items[0].item_id])
    page.choose("#category", "<b>0</b>")
    page.until(lambda: page.ids("#items") == [hostile_items[0].item_id])


# --- Catalogue, similar items, test users.


def test_the_catalogue_is_searched_and_what_is_not_found_is_said(page: Any, served: Any) -> None:
    assert len(page.ids("#items")) == len(served.model.state)
    page.type("#query", "number 17 sort")
    page.until(lambda: page.ids("#items") == ["0000000017"])
    assert page.text("#found") == "1 item found"
    page.type("#query", "zebra")
    page.until(lambda: page.one("#items-empty").is_displayed())
    page.one("#query").clear()
    page.one("#query").send_keys("17\n")
    page.until(lambda: "0000000017" in page.ids("#items"))


def test_details_show_similar_items_which_can_be_looked_at_in_turn(page: Any, served: Any) -> None:
    item_id = page.ids("#items")[3]
    page.click_item("#items", item_id, ".small")
    page.until(lambda: page.ids("#similar"))
    assert page.ids("#similar") == [each.item_id for each in served.model.similar(item_id, 8)]
    assert item_id in page.text("#details-body")
    other = page.ids("#similar")[0]
    page.click_item("#similar", other, ".small")
    page.until(
        lambda: page.ids("#similar") == [each.item_id for each in served.model.similar(other, 8)]
    )
    page.click("#details-body .large button")
    page.until(lambda: page.ids("#history") == [other])
    assert not page.all("dialog[open]")


def test_a_test_users_true_next_item_is_framed_with_its_rank(page: Any, served: Any) -> None:
    near = [each for each in served.users if each.rank <= 10]
    user = next(each for each in near if each.target not in each.history)
    open_tab(page, "users")
    page.until(lambda: page.texts("#user-list h3"))
    while user.user_id not in page.texts("#user-list h3"):
        page.click("#more-users")
    at = page.texts("#user-list h3").index(user.user_id)
    rank = user.rank
    row = page.all("#user-list > li")[at]
    assert f"rank {rank}" in row.text
    assert len(row.find_elements("css selector", ".next")) == 1
    page.click(f"#user-list > li:nth-child({at + 1}) button")
    page.until(lambda: page.ids("#answer") == recommended(served, list(user.history)))
    assert page.ids("#history") == list(user.history)
    assert page.ids("#answer").index(user.target) + 1 == rank
    (framed,) = page.all("#answer > li.next")
    assert "came next" in framed.text
    assert page.js("return getComputedStyle(arguments[0]).outline", framed) == GREEN
    assert f"rank {rank}." in page.text("#truth")
    assert served.asked[-1][2] is None or served.asked[-1][2].get("user_id") == user.user_id
    page.click_item("#history", user.history[-1], "[data-focus^=remove]")  # now it is another one
    page.until(lambda: page.text("#history-title") == "Your history")
    assert not page.one("#truth").is_displayed()


# --- Items that come and go.


def picture_file(folder: Path, colour: str = "red") -> Path:
    place = folder / f"{colour}.png"
    Image.new("RGB", (60, 40), colour).save(place)
    return place


def test_an_item_with_a_picture_is_added_and_recommended(
    page: Any, served: Any, tmp_path: Path
) -> None:
    history = page.ids("#items")[:2]
    for item_id in history:
        page.click_item("#items", item_id)
    page.until(lambda: page.ids("#answer") == recommended(served, history))
    # What is like one of the best is as good.
    best = next(each for each in page.ids("#answer") if served.model.card(each).has_picture)
    twin = served.model.card(best).text
    image = tmp_path / "like the best.jpg"
    image.write_bytes(served.model.picture(best))
    open_tab(page, "add")
    page.one("#picture").send_keys(str(image))
    page.until(lambda: page.js("return document.getElementById('preview').naturalWidth") == 32)
    page.type("#new-text", twin)
    page.type("#new-id", "my own")
    page.type("#new-categories", "Mine, Of today")
    page.click("#new-item > button")
    page.until(lambda: "my own" in page.ids("#answer"))
    page.until(lambda: "For this history it is recommended at place" in page.text("#added"))
    card = served.model.card("my own")
    assert (card.text, card.categories) == (twin, ("Mine", "Of today"))
    assert served.serving.picture("my own") == image.read_bytes()
    at = page.ids("#answer").index("my own")
    assert "new" in page.all("#answer > li")[at].text
    assert f"at place {at + 1}." in page.text("#added")
    page.click("#added > button")
    alike = [each.item_id for each in served.model.similar("my own", 2)][::-1]
    page.until(lambda: page.ids("#answer") == recommended(served, alike))
    page.choose("#wanted", "Mine")
    page.until(lambda: page.ids("#answer") == ["my own"])
    assert page.complaints() == []


def test_a_picture_can_be_dropped(page: Any, served: Any, tmp_path: Path) -> None:
    open_tab(page, "add")
    data = base64.b64encode(picture_file(tmp_path).read_bytes()).decode()
    page.js(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const dataTransfer = new DataTransfer();"
        "dataTransfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));"
        "document.getElementById('drop').dispatchEvent("
        "new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}))",
        data,
    )
    page.until(lambda: page.js("return document.getElementById('preview').naturalWidth") == 60)
    page.type("#new-id", "dropped/one")
    page.click("#new-item > button")
    page.until(lambda: "In the catalogue" in page.text("#added"))
    assert served.serving.picture("dropped/one") == (tmp_path / "red.png").read_bytes()


def test_new_content_of_an_item_shows_its_new_picture(page: Any, tmp_path: Path) -> None:
    item_id = page.ids("#items")[0]
    open_tab(page, "add")
    page.one("#picture").send_keys(str(picture_file(tmp_path, "blue")))
    page.type("#new-text", "now it is blue")
    page.type("#new-id", item_id)
    page.click("#new-item > button")
    page.until(lambda: "In the catalogue" in page.text("#added"))
    wide = "return document.querySelector('#added img.picture').naturalWidth"
    page.until(lambda: page.js(wide) == 60)


def test_what_the_model_cannot_take_is_said_with_what_to_do(
    page: Any, served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tab(page, "add")
    page.type("#new-id", "nothing")
    page.click("#new-item > button")
    page.until(lambda: page.text("#trouble-text") == "An item needs a text or a picture.")
    page.one("#picture").send_keys(str(Path(__file__)))
    page.click("#new-item > button")
    page.until(lambda: "the image is no JPEG, PNG" in page.text("#trouble-text"))
    assert page.one("#trouble").get_attribute("role") == "alert"
    page.type("#new-id", "..")
    page.click("#new-item > button")
    page.until(lambda: "no address of its own" in page.text("#trouble-text"))

    def cannot(item: Any) -> None:
        raise InputError(f"this model takes no {item.item_id}. Run: pmm shard")

    monkeypatch.setattr(served.serving, "put", cannot)
    page.type("#new-id", "hat")
    page.one("#picture").send_keys(str(picture_file(tmp_path)))
    page.click("#new-item > button")
    page.until(lambda: "takes no hat" in page.text("#trouble-text"))
    assert page.text("#trouble-help") == "pmm shard"
    page.click("#dismiss")
    assert not page.one("#trouble").is_displayed()


def test_a_withdrawn_item_is_not_recommended_any_more(page: Any, served: Any) -> None:
    page.click_item("#items", page.ids("#items")[0])
    page.still()
    gone = page.ids("#answer")[0]
    page.click_item("#answer", gone, ".small")
    page.click("#withdraw")
    assert not served.model.card(gone).withdrawn  # it asks once more
    page.click("#withdraw")
    page.until(lambda: gone not in page.ids("#answer"))
    assert served.model.card(gone).withdrawn
    assert page.all("dialog[open]") == []


# --- Tokens and faults.


def test_a_token_is_asked_for_where_the_server_wants_one(page: Any, served: Any) -> None:
    served.ask_for_a_token("s3cret")
    open_tab(page, "add")
    page.type("#new-id", "guarded")
    page.type("#new-text", "a guarded thing")
    page.click("#new-item > button")
    page.until(lambda: page.one("#token-form").is_displayed())
    assert page.driver.switch_to.active_element.get_attribute("id") == "token"
    assert page.one("#token").get_attribute("type") == "password"
    page.one("#token").send_keys("wrong\n")
    page.until(lambda: "does not take this token" in page.text("#trouble-text"))
    page.one("#token").send_keys("s3cret\n")  # and what was wanted is done
    page.until(lambda: "In the catalogue" in page.text("#added"))
    assert not page.one("#token-form").is_displayed()
    assert not page.one("#trouble").is_displayed()
    stored = page.js("return [localStorage.length, sessionStorage.length, document.cookie]")
    assert stored == [0, 0, ""]


def test_what_a_server_forbids_is_said_in_its_own_words(page: Any, served: Any) -> None:
    served.comes_from_elsewhere = True
    open_tab(page, "add")
    page.type("#new-id", "from elsewhere")
    page.type("#new-text", "a thing")
    page.click("#new-item > button")
    page.until(lambda: "changes are taken from this machine alone" in page.text("#trouble-text"))
    assert not page.one("#token-form").is_displayed()


def test_reading_with_a_token_shows_pictures_too(browser: Any, served: Any) -> None:
    served.ask_for_a_token("s3cret", reading_too=True)
    browser.look()
    browser.open(served.url)
    assert browser.ids("#items") == []
    assert "asks for a token" in browser.text("#trouble-text")
    browser.one("#token").send_keys("s3cret\n")
    browser.until(lambda: browser.ids("#items"))
    picture = "return document.querySelector('#items img.picture')?.naturalWidth"
    browser.until(lambda: browser.js(picture) == 32)
    assert not browser.one("#trouble").is_displayed()


def test_a_server_that_is_gone_is_said_and_tried_again(page: Any, served: Any) -> None:
    served.stop()
    page.click_item("#items", page.ids("#items")[0])
    page.until(lambda: page.text("#trouble-text") == "The server does not answer.")
    assert page.one("#trouble").is_displayed()
    served.start()
    page.click("#again")
    history = page.ids("#history")
    page.until(lambda: page.ids("#answer") == recommended(served, history))
    page.until(lambda: not page.one("#trouble").is_displayed())


# --- What comes from strangers.


def test_hostile_ids_and_texts_are_shown_as_text(
    browser: Any, served: Any, hostile_items: Any
) -> None:
    served.add(hostile_items)
    browser.look(width=360, height=760)
    browser.open(served.url)
    elements = browser.js("return document.querySelectorAll('script').length")
    for item in hostile_items:
        browser.click_item("#items", item.item_id)
        browser.still()
    assert browser.ids("#history") == [each.item_id for each in hostile_items]
    for item in hostile_items:
        browser.click_item("#items", item.item_id, ".small")
        browser.until(lambda: browser.all("dialog[open] #similar"))
        said = browser.text("#details-body")
        assert "<b>" in said
        visible = "".join(c for c in item.item_id if c.isprintable())
        assert visible[:40] in said.replace("\\u202e", "").replace("\\x07", "").replace("\\x1b", "")
        assert browser.overflow() == 0
        browser.click("#close")
    assert browser.overflow() == 0
    whole = browser.text("main")
    assert "<script>document.title = 1</script>" in whole
    assert not {"\u202e", "\u200f", "\x07", "\x1b", "\x00"} & set(whole)
    assert "\\u202ecod.exe" in browser.text("body") or "\\u202e turned" in whole
    assert browser.js("return document.title") == "Recommendations"
    assert browser.js("return document.querySelectorAll('script').length") == elements
    assert browser.js("return document.querySelectorAll('main b, main img[src=x]').length") == 0
    assert browser.complaints() == []


@pytest.mark.parametrize(
    "program",
    [
        "document.body.innerHTML = '<p>'",
        "document.body.insertAdjacentHTML('beforeend', '<p>')",
        "document.createElement('script').text = 'document.title = 1'",
        "document.createElement('button').setAttribute('onclick', 'document.title = 1')",
    ],
)
def test_no_script_can_make_html_or_code_of_a_text(page: Any, program: str) -> None:
    refused = page.js(f"try {{ {program}; return 'done' }} catch (e) {{ return e.name }}")
    assert refused == "TypeError"


# --- Keys, phones, themes, and nobody else.


def test_everything_is_done_by_keys_alone(page: Any, served: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page.tab_to(".skip", most=1)
    page.press(Keys.ENTER)
    page.tab_to("#tab-catalogue", most=1)
    page.tab_to("#query", most=2)
    page.press("number 17 sort", Keys.ENTER)
    page.until(lambda: page.ids("#items") == ["0000000017"])
    page.tab_to("#items .pick")
    page.press(Keys.ENTER)
    page.until(lambda: page.ids("#answer") == recommended(served, ["0000000017"]))
    assert page.ids("#history") == ["0000000017"]
    page.press(Keys.ENTER)  # the focus has stayed on the tile
    page.until(lambda: len(page.ids("#history")) == 2)
    page.driver.switch_to.active_element.send_keys(Keys.CONTROL, Keys.HOME)
    page.js("document.activeElement.blur()")
    page.tab_to("#history [data-focus='remove:0']", most=120)
    page.press(Keys.SPACE)
    page.until(lambda: len(page.ids("#history")) == 1)
    focused = page.js("return document.activeElement.dataset.focus")
    assert focused == "remove:0"  # on the item that took its place
    page.tab_to("#answer [data-focus='details:0']")
    page.press(Keys.ENTER)
    page.until(lambda: page.all("dialog[open]"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog[open]"))
    assert page.js("return document.activeElement.dataset.focus") == "details:0"
    page.js("document.activeElement.blur()")
    page.tab_to("#tab-catalogue", most=120)
    page.press(Keys.ARROW_RIGHT)
    page.until(lambda: page.texts("#user-list h3"))
    page.tab_to("#user-list button")
    page.press(Keys.ENTER)
    user = served.users[0]
    page.until(lambda: page.ids("#history") == list(user.history))
    assert page.js("return document.activeElement.id") == "history-title"


@pytest.mark.parametrize("scheme", LIGHT_AND_DARK)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    browser: Any, served: Any, scheme: str
) -> None:
    browser.look(width=360, height=760, scheme=scheme)
    browser.open(served.url)
    assert browser.overflow() == 0
    for item_id in browser.ids("#items")[:6]:
        browser.click_item("#items", item_id)
    browser.still()
    for tab in ("users", "add", "catalogue"):
        open_tab(browser, tab)
        assert browser.overflow() == 0
    browser.click("#answer .small")
    browser.until(lambda: browser.all("dialog[open] #similar"))
    assert browser.overflow() == 0
    inside = browser.js(
        "const d = document.querySelector('dialog');return d.scrollWidth - d.clientWidth"
    )
    assert inside <= 0


@pytest.mark.parametrize("scheme", LIGHT_AND_DARK)
def test_texts_stand_out_from_what_is_behind_them(browser: Any, served: Any, scheme: str) -> None:
    browser.look(scheme=scheme)
    browser.open(served.url)
    paper = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    browser.click_item("#items", browser.ids("#items")[0])
    browser.still()
    served.stop()
    browser.click_item("#items", browser.ids("#items")[1])  # a fault is shown, too
    browser.until(lambda: browser.one("#trouble").is_displayed())
    for tab in ("users", "add", "catalogue"):
        open_tab(browser, tab)
        text, ratio = browser.least_contrast()
        assert ratio >= 4.5, (text, ratio)


def test_nobody_but_the_server_is_asked_for_anything(page: Any, served: Any) -> None:
    page.click_item("#items", page.ids("#items")[0])
    page.still()
    open_tab(page, "users")
    page.until(lambda: page.texts("#user-list h3"))
    asked = [each for each in page.requested() if not each.startswith(("data:", "blob:", "about:"))]
    assert len(asked) > 5
    assert [each for each in asked if not each.startswith(served.url)] == []
    assert page.complaints() == []
