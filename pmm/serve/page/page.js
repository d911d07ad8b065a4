// The page: what is chosen, what is shown of it, and what the controls do.

const AT_ONCE = { items: 48, users: 12, answer: 10, similar: 8, history: 8, places: 500 };
const MOST_CATEGORIES = 400;

const embedded = JSON.parse(part("embedded").textContent);
const source = embedded ? new Embedded(embedded) : new Served();

const chosen = {
  history: [], // items, oldest first
  user: null, // the test user whose history this is, as long as it is unchanged
  popularity: 0,
  category: "", // of what is recommended
};
const listed = { query: "", category: "", items: 0, users: 0 };
let asking = null; // the AbortController of the answer that is waited for
let version = null;
let tryAgain = null; // what failed last
let attempts = 0;
let failed = 0; // the number of attempts when one failed last

// --- What went well or wrong.

function say(text) {
  part("said").textContent = text;
}

function quiet() {
  part("trouble").hidden = true;
}

/** Do something; where it fails, say what went wrong and let it be tried again. */
async function attempt(what) {
  const mine = ++attempts;
  try {
    const result = await what();
    if (mine > failed) quiet(); // it began after that, so the fault is gone
    return result;
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (!(error instanceof Trouble)) console.error(error);
    tryAgain = what;
    failed = attempts;
    part("trouble-text").textContent = shown(error.message);
    part("trouble-help").textContent = shown(error.help ?? "");
    part("trouble").hidden = false;
    return undefined;
  }
}

// --- Tiles.

/** What stands for an item: its picture, or its first words. */
function likeness(item, kind, extra = "") {
  const words = () => element("span", { class: `${kind} words ${extra}`, dir: "auto" }, briefly(item, 40));
  const address = source.picture(item);
  if (address === null) return words();
  const image = element("img", { class: `${kind} ${extra}`, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(words()));
  Promise.resolve(address).then((found) => {
    if (found === null) image.replaceWith(words());
    else image.src = found;
  });
  return image;
}

function marksOf(item, isNext) {
  const marks = [];
  if (isNext) marks.push(element("span", { class: "mark next" }, "came next"));
  if (item.new) marks.push(element("span", { class: "mark" }, "new"));
  if (item.withdrawn) marks.push(element("span", { class: "mark" }, "withdrawn"));
  return marks.length ? element("div", { class: "marks" }, ...marks) : null;
}

/** A tile: a button that puts the item into the history, and what else is known and can be done. */
function tile(item, { place = null, score = null, reasons = [], isNext = false, key = "" } = {}) {
  const pick = element(
    "button",
    { type: "button", class: "pick", focus: `pick:${key}`, onclick: () => add(item) },
    likeness(item, "picture"),
    element("bdi", { class: "caption", dir: "auto" }, called(item)),
    element("span", { class: "unseen" }, "Add to the history"),
  );
  const details = element(
    "button",
    { type: "button", class: "small quiet", focus: `details:${key}`, onclick: () => open(item.item_id) },
    "Details",
    element("span", { class: "unseen" }, ` of ${briefly(item)}`),
  );
  return element(
    "li",
    { class: isNext ? "next" : "", "data-id": item.item_id },
    place === null ? null : element("span", { class: "badge" }, element("span", { class: "unseen" }, "Place "), String(place)),
    pick,
    marksOf(item, isNext),
    reasonList(reasons),
    element("div", { class: "below" }, score === null ? null : element("span", { class: "score" }, score), details),
  );
}

/** The two items of the history that did most for a recommendation. */
function reasonList(reasons) {
  const best = reasons.filter((each) => each.effect >= 0.05).slice(0, 2);
  const known = new Map(chosen.history.map((item) => [item.item_id, item]));
  const rows = best.map(({ item_id, effect }) => {
    const item = known.get(item_id) ?? { item_id, text: "", has_picture: false };
    const title = `because of ${briefly(item)}`;
    return element(
      "li",
      { title },
      element("span", { class: "unseen" }, title),
      likeness(item, "thumb"),
      `+${effect.toFixed(1)}`,
    );
  });
  return rows.length ? element("ul", { class: "reasons", "aria-label": "Because of" }, ...rows) : null;
}

// --- The history.

function add(item) {
  chosen.history.push(item);
  changed(`${briefly(item)} is in the history.`);
}

function remove(at) {
  const [item] = chosen.history.splice(at, 1);
  changed(`${briefly(item)} is removed.`);
}

function move(at, by) {
  const [item] = chosen.history.splice(at, 1);
  chosen.history.splice(at + by, 0, item);
  changed(`${briefly(item)} is now at place ${at + by + 1}.`, `${by < 0 ? "earlier" : "later"}:${at + by}`);
}

function changed(said, focus = null) {
  chosen.user = null;
  showHistory(focus);
  answer(said);
}

function useUser(user) {
  chosen.history = [...user.history];
  chosen.user = user;
  showHistory();
  answer(`The history of ${short(user.user_id)}.`);
  part("history-title").focus();
}

function showHistory(focus = null) {
  const { history, user } = chosen;
  part("history-title").textContent = user ? `History of ${short(user.user_id)}` : "Your history";
  part("history-empty").hidden = history.length > 0;
  part("clear").hidden = history.length === 0;
  part("jump-history").textContent = history.length ? `History (${history.length})` : "History";
  keepingFocus(part("history"), part("history-title"), () => {
    part("history").replaceChildren(...history.map(step));
  }, focus);
  // The last one counts most, so it is in sight.
  if (!part("history").contains(document.activeElement)) part("history").scrollLeft = part("history").scrollWidth;
  showTruth();
  markChosen();
}

/** An item of the history, with buttons to move and remove it. */
function step(item, at) {
  const button = (name, sign, key, onclick, disabled = false) =>
    element("button", { type: "button", class: "small quiet", focus: `${key}:${at}`, title: name, disabled, onclick },
      element("span", { "aria-hidden": "true" }, sign),
      element("span", { class: "unseen" }, `${name}: ${briefly(item)}`));
  return element(
    "li",
    { "data-id": item.item_id },
    element("button", { type: "button", class: "pick", focus: `show:${at}`, onclick: () => open(item.item_id) },
      likeness(item, "picture"),
      element("bdi", { class: "caption", dir: "auto" }, called(item)),
      element("span", { class: "unseen" }, "Show details")),
    element("div", { class: "below" },
      button("Move earlier", "←", "earlier", () => move(at, -1), at === 0),
      button("Remove", "✕", "remove", () => remove(at)),
      button("Move later", "→", "later", () => move(at, 1), at === chosen.history.length - 1)),
  );
}

/** What the test user really took next, framed. */
function showTruth() {
  const { user } = chosen;
  part("truth").hidden = user === null;
  if (user === null) return;
  const framed = element("div", { class: "framed" }, likeness(user.target, "picture"));
  const earlier = user.earlier ? ` ${counted(user.earlier, "earlier item")} of the history are not shown.` : "";
  const text = element("p", {}, element("strong", {}, "What really came next: "),
    element("bdi", { dir: "auto" }, called(user.target)), ` · ${rankOf(user)}.${earlier}`);
  part("truth").replaceChildren(framed, text);
}

const rankOf = (user) => (user.rank === null ? "no rank is known" : `rank ${user.rank.toLocaleString("en")}`);

function markChosen() {
  const ids = new Set(chosen.history.map((item) => item.item_id));
  for (const each of part("items").children) each.classList.toggle("chosen", ids.has(each.dataset.id));
}

// --- Recommendations.

/** What is asked of the model, as it is chosen now. */
function question() {
  return {
    history: chosen.history.map((item) => item.item_id),
    user: chosen.user?.user_id ?? null,
    k: AT_ONCE.answer,
    categories: chosen.category ? [chosen.category] : [],
    popularity: chosen.popularity,
  };
}

/** Ask for recommendations and show them; of several questions the last one is answered. */
async function answer(said = "") {
  asking?.abort();
  const mine = (asking = new AbortController());
  part("answer").setAttribute("aria-busy", "true");
  const found = await attempt(() => source.recommend(question(), mine.signal));
  if (asking !== mine) return null;
  part("answer").removeAttribute("aria-busy");
  if (!found) return null;
  showAnswer(found, said);
  return found;
}

function showAnswer(found, said) {
  const target = chosen.user?.target.item_id;
  const scored = (item) => (found.popular ? counted(item.count, "time") : `score ${item.score.toFixed(1)}`);
  const tiles = found.items.map((item, at) =>
    tile(item, { place: at + 1, score: scored(item), reasons: item.reasons ?? [], isNext: item.item_id === target, key: at }),
  );
  keepingFocus(part("answer"), part("recommended-title"), () => part("answer").replaceChildren(...tiles));
  part("answer-empty").hidden = tiles.length > 0;
  const how = howMade(found);
  part("how").textContent = how;
  const swapped = version !== null && found.model !== version;
  version = found.model;
  const took = found.took_ms === undefined ? "" : ` · answered in ${Math.max(1, Math.round(found.took_ms))} ms`;
  part("model").textContent = `Model ${shown(version)}${took}`;
  say([said, swapped ? "The server has changed its model." : "", how, `${counted(tiles.length, "recommendation")}.`].filter(Boolean).join(" "));
}

/** In a sentence, where an answer comes from. */
function howMade(found) {
  const unknown = found.unknown?.length ? ` Not known, and left out: ${found.unknown.map(shown).join(", ")}.` : "";
  if (found.popular) return `Nothing of a history is known yet, so these are the popular items.${unknown}`;
  if (found.estimate) return `An estimate made in this page, not the model's own answer.${unknown}`;
  return `The model's answer, with what in the history carried each item.${unknown}`;
}

// --- The catalogue.

async function showItems(more = false) {
  const offset = more ? listed.items : 0;
  const { query, category } = listed;
  const found = await attempt(() => source.items({ query, category, offset, limit: AT_ONCE.items }));
  if (!found || query !== listed.query || category !== listed.category) return;
  const tiles = found.items.map((item, at) => tile(item, { key: offset + at }));
  if (more) part("items").append(...tiles);
  else part("items").replaceChildren(...tiles);
  listed.items = offset + tiles.length;
  part("items-empty").hidden = found.total > 0;
  part("found").textContent = `${counted(found.total, "item")}${query || category ? " found" : ", most frequent first"}`;
  part("more-items").hidden = listed.items >= found.total || !tiles.length;
  markChosen();
  if (more) tiles[0]?.querySelector(".pick").focus();
  else if (query || category) say(part("found").textContent);
}

async function showCategories() {
  const found = await attempt(() => source.categories());
  if (!found) return;
  for (const [id, now] of [["category", listed.category], ["wanted", chosen.category]]) {
    const some = found.slice(0, MOST_CATEGORIES);
    const options = some.map(({ name, items }) => element("option", { value: name }, `${shown(name)} (${items})`));
    part(id).replaceChildren(element("option", { value: "" }, "all"), ...options);
    part(id).value = now;
    part(`${id}-label`).hidden = !found.length;
  }
}

// --- Test users.

async function showUsers(more = false) {
  const offset = more ? listed.users : 0;
  const found = await attempt(() => source.users({ offset, limit: AT_ONCE.users }));
  if (!found) return;
  const rows = found.users.map(userRow);
  if (more) part("user-list").append(...rows);
  else part("user-list").replaceChildren(...rows);
  listed.users = offset + rows.length;
  part("users-empty").hidden = found.total > 0;
  part("more-users").hidden = listed.users >= found.total || !rows.length;
  if (more) rows[0]?.querySelector("button").focus();
}

function userRow(user) {
  const some = user.history.slice(-AT_ONCE.history);
  const before = user.history.length - some.length + (user.earlier ?? 0);
  const use = element("button", { type: "button", class: "quiet", onclick: () => useUser(user) },
    "Use this history", element("span", { class: "unseen" }, ` of ${short(user.user_id)}`));
  const thumb = (item, extra = "") => {
    const made = likeness(item, "thumb", extra);
    if (made.tagName === "IMG") made.alt = briefly(item);
    made.title = briefly(item);
    return made;
  };
  return element(
    "li",
    {},
    element("div", { class: "bar" }, element("h3", { title: user.user_id }, element("bdi", {}, short(user.user_id))), element("span", { class: "faint" }, rankOf(user)), use),
    element("div", { class: "walk" },
      before ? element("span", { class: "faint" }, `${before} earlier`) : null,
      ...some.map((item) => thumb(item)),
      element("span", { "aria-hidden": "true" }, "→"),
      element("span", { class: "unseen" }, "then came"),
      thumb(user.target, "next")),
  );
}

// --- One item.

async function open(id) {
  const similar = await attempt(() => source.similar(id, AT_ONCE.similar));
  const item = await attempt(() => source.item(id));
  if (!item) {
    part("details").close(); // what went wrong is said behind it
    return;
  }
  part("details-title").textContent = briefly(item);
  part("details-body").replaceChildren(
    element("div", { class: "large" }, likeness(item, "picture"), about(item)),
    element("h3", {}, "Similar items"),
    similar?.length
      ? element("ul", { class: "tiles", id: "similar" },
          ...similar.map((each, at) => tile(each, { score: `likeness ${each.score.toFixed(2)}`, key: `similar ${at}` })))
      : element("p", { class: "faint" }, "None."),
  );
  if (!part("details").open) part("details").showModal();
  part("details").scrollTop = 0;
}

function about(item) {
  const facts = [`id ${shown(item.item_id)}`, `${counted(item.count, "time")} in training`];
  if (item.new) facts.push("added after training");
  if (item.withdrawn) facts.push("withdrawn");
  const controls = element("div", { class: "bar" },
    element("button", { type: "button", onclick: () => { part("details").close(); add(item); } }, "Add to the history"));
  if (source.writable && !item.withdrawn) controls.append(withdrawButton(item));
  return element("div", {},
    element("p", { class: "long", dir: "auto" }, shown(item.text) || "It has no text."),
    element("p", { class: "faint", dir: "auto" }, facts.join(" · ")),
    item.categories.length ? element("p", { class: "faint", dir: "auto" }, `Categories: ${item.categories.map(shown).join(", ")}`) : null,
    controls);
}

/** A button that asks once more before it withdraws. */
function withdrawButton(item) {
  const button = element("button", { type: "button", class: "quiet", id: "withdraw" }, "Withdraw");
  button.addEventListener("click", async () => {
    if (button.dataset.sure !== "yes") {
      button.dataset.sure = "yes";
      button.textContent = "Withdraw for good? Click again";
      say("It will never be recommended again. Click again to withdraw it.");
      return;
    }
    const done = await attempt(() => source.withdraw(item.item_id));
    part("details").close();
    if (!done) return;
    await showItems();
    answer(`${briefly(item)} is withdrawn.`);
  });
  return button;
}

// --- A new item.

let picture = null;

function choosePicture(file) {
  const preview = part("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  picture = file ?? null;
  preview.hidden = picture === null;
  if (picture) {
    preview.src = URL.createObjectURL(picture);
    say(`${shown(picture.name)} is chosen.`);
  } else {
    preview.removeAttribute("src");
  }
}

async function addItem() {
  const id = part("new-id").value.trim();
  const text = part("new-text").value.trim();
  const categories = part("new-categories").value.split(",").map((each) => each.trim()).filter(Boolean);
  if (!text && !picture) throw new Trouble("An item needs a text or a picture.");
  const { item, took_ms } = await source.put(id, { text, categories, image: picture });
  part("new-item").reset();
  choosePicture(null);
  await Promise.all([showItems(), showCategories()]);
  await answer();
  const where = await placeOf(item);
  const took = took_ms === undefined ? "" : ` (${Math.max(1, Math.round(took_ms))} ms)`;
  const said = element("p", { tabindex: "-1" }, `In the catalogue${took}. ${where}`);
  const alike = element("button", { type: "button", class: "quiet", onclick: () => tryAlike(item) }, "Try a history of items like it");
  part("added").replaceChildren(said, element("ul", { class: "tiles" }, tile(item, { key: "added" })), alike);
  said.focus();
  return item;
}

/** In a sentence, where a new item stands for the history that is shown. */
async function placeOf(item) {
  if (!chosen.history.length) return "Choose a history to see it recommended: without one the popular items are shown.";
  const asked = { ...question(), k: AT_ONCE.places, reasons: false };
  const { items } = await source.recommend(asked);
  const place = items.findIndex((each) => each.item_id === item.item_id) + 1;
  if (!place) return `For this history it is not among the first ${AT_ONCE.places}.`;
  return `For this history it is recommended at place ${place}.`;
}

/** A history of the two items that are most like one, in which it should be recommended. */
async function tryAlike(item) {
  const near = await attempt(() => source.similar(item.item_id, 2));
  if (!near) return;
  chosen.history = near.reverse();
  changed("The history is now what is most like the new item.");
  part("history-title").focus();
}

// --- Controls.

const TABS = ["catalogue", "users", "add"];

function show(tab, focus = true) {
  for (const each of TABS) {
    const button = part(`tab-${each}`);
    button.setAttribute("aria-selected", String(each === tab));
    button.tabIndex = each === tab ? 0 : -1;
    part(each).hidden = each !== tab;
    if (each === tab && focus) button.focus();
  }
  if (tab === "users" && !listed.users) showUsers();
}

function useTabs() {
  for (const tab of TABS) part(`tab-${tab}`).addEventListener("click", () => show(tab));
  part("tabs").addEventListener("keydown", (event) => {
    const there = TABS.filter((each) => !part(`tab-${each}`).hidden);
    const at = there.findIndex((each) => part(`tab-${each}`) === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    show(there.at(to % there.length));
  });
}

function useForms() {
  const search = () => {
    listed.query = part("query").value.trim();
    listed.category = part("category").value;
    showItems();
  };
  let waiting = 0;
  part("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 250);
  });
  part("category").addEventListener("change", search);
  part("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    search();
  });
  part("wanted").addEventListener("change", () => {
    chosen.category = part("wanted").value;
    answer();
  });
  part("popularity").addEventListener("change", () => {
    const value = part("popularity").value;
    chosen.popularity = value === "chosen" ? value : Number(value);
    answer();
  });
  part("clear").addEventListener("click", () => {
    chosen.history = [];
    part("history-title").focus();
    changed("The history is empty.");
  });
  part("more-items").addEventListener("click", () => showItems(true));
  part("more-users").addEventListener("click", () => showUsers(true));
  part("close").addEventListener("click", () => part("details").close());
  part("dismiss").addEventListener("click", quiet);
  part("again").addEventListener("click", () => {
    quiet();
    start();
  });
}

function useNewItem() {
  const drop = part("drop");
  part("picture").addEventListener("change", () => choosePicture(part("picture").files[0]));
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = [...event.dataTransfer.files].find((each) => each.type.startsWith("image/"));
    if (file) choosePicture(file);
    else say("What was dropped is no picture.");
  });
  // A picture that misses its place must not replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  part("new-item").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(addItem);
  });
}

function useToken() {
  source.onTokenWanted = () => {
    part("token-form").hidden = false;
    part("token").focus();
  };
  part("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    source.token = part("token").value;
    part("token").value = "";
    part("token-form").hidden = true;
    quiet();
    start();
  });
}

/** Ask for all that is shown; after an error or a token, again. */
async function start() {
  const again = tryAgain;
  tryAgain = null;
  if (again === addItem) attempt(addItem);
  const about = await source.about();
  part("about").textContent = about.note;
  part("more-about").hidden = !about.more;
  part("more-about-text").textContent = about.more;
  document.title = about.name ? `Recommendations of ${shown(about.name)}` : "Recommendations";
  await Promise.all([showCategories(), showItems(), answer(), listed.users || !part("users").hidden ? showUsers() : null]);
  document.documentElement.dataset.ready = "yes";
}

async function prepare() {
  part("tab-add").hidden = !source.writable;
  const options = await source.popularities();
  part("popularity").replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  useTabs();
  useForms();
  useNewItem();
  if (source.writable) useToken();
  await start();
}

prepare();
