"""The page of `pmm report` in a real browser: by pointer and keys, wide and narrow."""

from pathlib import Path
from typing import Any

import pytest

from pmm.report.html_page import html_page
from pmm.report.make_report import make_report
from pmm.report.reported_run import read_runs

REPORTS = Path(__file__).parents[1] / "report"


@pytest.fixture(scope="module")
def report_file(
    browser: Any, shop: Any, load_file: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    del browser  # where there is none, nothing is made
    place = tmp_path_factory.mktemp("report")
    made = load_file(REPORTS / "conftest.py").make_reported_runs(shop, load_file, place)
    places = [(made.home, each) for each in (made.first, made.second, made.ids)]
    report, _ = make_report(read_runs(places, "test"), users=2, split="test", device="cpu")
    (place / "report.html").write_text(html_page(report), encoding="utf-8")
    return place / "report.html"


@pytest.fixture
def report(browser: Any, report_file: Path) -> Any:
    browser.look()
    browser.open(report_file.as_uri())
    yield browser
    assert browser.complaints() == []
    fetched = [each for each in browser.requested() if not each.startswith("data:")]
    assert fetched == [report_file.as_uri()]


def column(page: Any, number: int) -> list[str]:
    cells = page.texts(f"table.sortable:first-of-type tbody tr > :nth-child({number})")
    rows = len(page.js("return [...document.querySelector('table.sortable').tBodies[0].rows]"))
    return list(cells[:rows])


def test_a_click_on_a_header_sorts_the_table_and_a_second_one_turns_it_round(report: Any) -> None:
    before = column(report, 5)
    numbers = [float(each.split()[0]) for each in before]
    assert numbers != sorted(numbers, reverse=True)
    report.click("table.sortable th:nth-child(5) button")
    after = [float(each.split()[0]) for each in column(report, 5)]
    assert after == sorted(numbers, reverse=True)
    assert report.one("th:nth-child(5)").get_attribute("aria-sort") == "descending"
    report.click("table.sortable th:nth-child(5) button")
    assert [float(each.split()[0]) for each in column(report, 5)] == sorted(numbers)
    assert report.one("th:nth-child(5)").get_attribute("aria-sort") == "ascending"
    assert len(report.all("#part-0-0 ~ p ~ .wide th[aria-sort]")) == 1


def test_a_table_is_sorted_by_keys_what_is_empty_stays_last(report: Any) -> None:
    report.tab_to("table.sortable th:nth-child(3) button")
    for _ in range(2):
        report.press("\ue007")  # Enter: first the most seeds, then the fewest
        found = column(report, 3)
        assert set(found[-2:]) == {""}
        assert "" not in found[:-2]
    assert [int(each) for each in found if each] == sorted(int(each) for each in found if each)


def test_a_point_tells_the_pointer_what_it_is(report: Any) -> None:
    from selenium.webdriver import ActionChains

    point = report.all("svg.chart .point")[4]
    report.js("arguments[0].scrollIntoView({block: 'center'})", point)
    said = point.get_attribute("data-said")
    assert said == "model-seed-1: epoch 1, HR@10 25.00"
    assert not report.one("#tip").is_displayed()
    ActionChains(report.driver).move_to_element_with_offset(point, 3, 2).perform()
    report.until(lambda: report.one("#tip").is_displayed())
    assert report.text("#tip") in (said, said.replace("model-seed-1", "model-seed-0"))
    assert len(report.all(".point.now")) == 1
    box = report.js("return document.getElementById('tip').getBoundingClientRect().toJSON()")
    assert 0 <= box["left"] < box["right"] <= 1280
    ActionChains(report.driver).move_to_element(report.one("h2")).perform()
    report.until(lambda: not report.one("#tip").is_displayed())


def test_a_chart_is_read_by_keys(report: Any) -> None:
    chart = report.one("svg.chart")
    report.js("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", chart)
    seen = []
    for key in ("\ue014", "\ue014", "\ue012", "\ue010"):  # right, right, left, end
        report.press(key)
        seen.append(report.text("#tip"))
    assert seen[:3] == [
        f"model-seed-0: epoch {k}, HR@10 {v:.2f}" for k, v in ((0, 10), (1, 25), (0, 10))
    ]
    assert seen[3] == "ids: epoch 2, HR@10 30.00"
    report.press("\ue00c")
    assert not report.one("#tip").is_displayed()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_the_screen_and_can_be_read(
    report: Any, report_file: Path, width: int, scheme: str
) -> None:
    report.look(width=width, scheme=scheme)
    report.open(report_file.as_uri())
    assert report.overflow() == 0
    text, ratio = report.least_contrast()
    assert ratio >= 4.5, text
    marks = report.js(
        "return [...document.querySelectorAll('svg.chart .point path')]"
        ".map((each) => getComputedStyle(each).fill)"
    )
    assert len(set(marks)) == 3  # two systems and popularity
    broken = "return [...document.images].filter((each) => !each.naturalWidth).length"
    assert report.js("return document.images.length") > 20
    assert report.js(broken) == 0


def test_on_paper_it_is_light_nothing_is_cut_off_and_all_is_unfolded(
    report: Any, report_file: Path
) -> None:
    report.look(width=720, scheme="dark")
    report.open(report_file.as_uri())
    folded = "return document.querySelectorAll('details:not([open])').length"
    assert report.js(folded) > 0
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    asked = {"media": "print", "features": features}
    report.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", asked)
    report.js("window.dispatchEvent(new Event('beforeprint'))")
    try:
        assert report.js(folded) == 0
        assert report.overflow() == 0
        paper = "return getComputedStyle(document.body).backgroundColor"
        assert report.js(paper) == "rgb(255, 255, 255)"
        cut = "return [...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > 720)"
        assert report.js(f"{cut}.length") == 0
    finally:
        report.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_hostile_texts_stay_texts(browser: Any, load_file: Any, tmp_path: Path) -> None:
    pages = load_file(REPORTS / "test_report_pages.py")
    made = tmp_path / "hostile.html"
    made.write_text(html_page(pages.hostile_report()), encoding="utf-8")
    browser.look()
    browser.open(made.as_uri())
    assert browser.js("return document.title") == pages.HOSTILE[1]
    assert browser.js("return document.querySelectorAll('script').length") == 1
    assert browser.js("return document.querySelectorAll('img[onerror]').length") == 0
    assert browser.overflow() == 0
    browser.click("table.sortable th button")
    names = browser.texts("table.sortable tbody th")
    assert pages.HOSTILE[0] in names
    assert browser.complaints() == []


def test_without_scripts_everything_is_there_but_the_sorting(
    browser: Any, report_file: Path
) -> None:
    cdp = browser.driver.execute_cdp_cmd
    cdp("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(report_file.as_uri())
        assert not browser.all("th button")
        assert browser.one("#tip").is_displayed() is False
        assert "epoch 1, HR@10 25.00" in browser.one(
            "svg.chart .point:nth-of-type(2) title"
        ).get_attribute("textContent")
        assert len(browser.all("table tbody tr")) > 40
    finally:
        cdp("Emulation.setScriptExecutionDisabled", {"value": False})
