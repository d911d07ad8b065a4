// Elements, made so that whatever comes from data is text. Nothing here, or elsewhere, sets HTML.

/** An element. `traits` are attributes, `on…` handlers and `data`; children are nodes or texts. */
function element(tag, traits = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "focus") made.dataset.focus = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

/** The part of the page with an id. */
const part = (id) => document.getElementById(id);

// Characters that command or turn a line round, or are not seen: as pmm/terminal.py has them.
const UNSAFE =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\u180e\u2060-\u2065\u206a-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff\ue000-\uf8ff]|\p{Cs}|[\u{e0000}-\u{e00ff}]/gu;

/** A text that may be shown: those characters as escapes, so that they are seen and do nothing. */
function shown(text) {
  return String(text).replace(UNSAFE, (each) => {
    const code = each.codePointAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** What an item is called: its text, or its id where it has none. */
const called = (item) => shown(item.text.trim() || item.item_id);

/** The same in few words, for names of buttons. */
function briefly(item, most = 60) {
  const letters = [...called(item).replace(/\s+/g, " ")];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : letters.join("");
}

/** The beginning of a long id. */
const short = (id) => (id.length > 20 ? `${shown(id.slice(0, 19))}…` : shown(id));

/** "1 item", "2 items". */
const counted = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** What went wrong, with what to do next. */
class Trouble extends Error {
  constructor(message, help = "") {
    super(message);
    this.help = help;
  }
}

/** Keep the keyboard's place while a part is made anew: on the control of the same `focus` name. */
function keepingFocus(place, fallback, make, wanted = null) {
  const inside = place.contains(document.activeElement);
  const name = wanted ?? (inside ? document.activeElement.dataset.focus : null);
  make();
  if (!inside) return;
  const controls = [...place.querySelectorAll("[data-focus]")].filter((each) => !each.disabled);
  const same = controls.find((each) => each.dataset.focus === name);
  const at = name?.split(":")[1];
  const near = controls.find((each) => at && each.dataset.focus.split(":")[1] === at);
  (same ?? near ?? controls.at(-1) ?? fallback).focus();
}
