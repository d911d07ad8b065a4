"""A browser without a screen, and what a person does with it: looks, clicks and types."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 15.0
"""Seconds to wait for what a page does."""
FLAGS = (
    "--headless",
    "--no-sandbox",  # as root in a container there is none
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,1000",
)

CONTRAST = """
const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const of = (c) => 0.2126 * light(c[0]) + 0.7152 * light(c[1]) + 0.0722 * light(c[2]);
const read = (text) => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const behind = (node) => {
  for (let each = node; each; each = each.parentElement) {
    const colour = read(getComputedStyle(each).backgroundColor);
    if (colour[3] > 0.99) return colour;
  }
  return [255, 255, 255, 1];
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const text = [...node.childNodes].filter((each) => each.nodeType === 3 && each.data.trim());
  const style = getComputedStyle(node);
  if (!text.length || !node.checkVisibility() || node.disabled) continue;
  const [a, b] = [of(read(style.color)), of(behind(node))].sort((x, y) => y - x);
  found.push([text[0].data.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
}
return found;
"""


def why_none() -> str:
    """Why there is no browser; empty where there is one."""
    missing = [each for each in ("chromium", "chromedriver") if shutil.which(each) is None]
    wanted = "apt-get install chromium chromium-driver"
    return f"no {' and no '.join(missing)} on this machine ({wanted})" if missing else ""


class Browser:
    """Chromium, driven through the system's own driver."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))

    def look(self, *, width: int = 1280, height: int = 1000, scheme: str = "light") -> None:
        """Be a screen of that size, with a theme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, url: str) -> None:
        """Open a page anew and wait until it shows all."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(url)
        self.until(lambda: self.js("return document.documentElement.dataset.ready") == "yes")

    def js(self, program: str, *given: Any) -> Any:
        return self.driver.execute_script(program, *given)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", css)

    def one(self, css: str) -> WebElement:
        return self.until(lambda: self.all(css))[0]

    def text(self, css: str) -> str:
        """What an element says, also what only a reader of screens hears."""
        return str(self.one(css).get_property("textContent"))

    def texts(self, css: str) -> list[str]:
        program = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return list(self.js(program, css))

    def ids(self, css: str) -> list[str]:
        """The items of a list, by their ids."""
        program = "return [...document.querySelectorAll(arguments[0])].map((e) => e.dataset.id)"
        return list(self.js(program, f"{css} > li"))

    def click(self, css: str, which: int = 0) -> None:
        element = self.until(lambda: self.all(css)[which:] or self.all(css)[:0])[0]
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def click_item(self, css: str, item_id: str, button: str = ".pick") -> None:
        """Click a button of the tile of an item in a list."""
        self.until(lambda: item_id in self.ids(css))
        at = self.ids(css).index(item_id)
        self.click(f"{css} > li:nth-child({at + 1}) {button}")

    def type(self, css: str, text: str) -> None:
        element = self.one(css)
        element.clear()
        element.send_keys(text)

    def choose(self, css: str, value: str) -> None:
        self.js(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))",
            self.one(css),
            value,
        )

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, css: str, most: int = 80) -> None:
        """Press the Tab key until an element has the focus, which has to be seen at each stop."""
        for _ in range(most):
            self.press(Keys.TAB)
            focused = self.driver.switch_to.active_element
            if focused.tag_name == "body":  # past the end, before the beginning
                continue
            seen = self.js(
                "const s = getComputedStyle(arguments[0]);"
                "return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2",
                focused,
            )
            assert seen, str(focused.get_attribute("outerHTML"))[:300]
            if self.js("return arguments[0].matches(arguments[1])", focused, css):
                return
        raise AssertionError(f"{css} is not reached by the Tab key")

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait until something is true, and return it."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                found = what()
            except StaleElementReferenceException:
                found = None
            if found:
                return found
            assert time.monotonic() < end, f"{what} stayed {found!r}"
            time.sleep(0.02)

    def still(self) -> None:
        """Wait for the answer that was asked for last."""
        self.until(lambda: not self.all("#answer[aria-busy]"))

    def complaints(self) -> list[str]:
        """What the browser has complained of since the page was opened."""
        wrong = ("SEVERE", "WARNING")
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] in wrong]

    def requested(self) -> list[str]:
        """Addresses that the page has asked for since it was opened."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e for e in entries if e["method"] == "Network.requestWillBeSent"]
        return [str(each["params"]["request"]["url"]) for each in sent]

    def least_contrast(self) -> tuple[str, float]:
        """The text that is read worst, and the contrast to what is behind it."""
        found = self.js(CONTRAST)
        assert len(found) > 20
        text, ratio = min(found, key=lambda each: each[1])
        return str(text), float(ratio)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the screen."""
        root = "document.documentElement"
        return int(self.js(f"return {root}.scrollWidth - {root}.clientWidth"))

    def quit(self) -> None:
        self.driver.quit()
