// Answers from what `pmm gallery` put into this file. Items are numbers of `data.items` in it.

const RECENT = 0.3; // what an item counts of the one after it in a history

class Embedded {
  writable = false;

  constructor(data) {
    this.data = data;
    this.items_ = data.items.map((each) => ({
      ...each,
      has_picture: each.picture !== null,
      new: false,
      withdrawn: false,
    }));
    this.number = new Map(this.items_.map((each, k) => [each.item_id, k]));
    this.byCount = [...this.items_.keys()].sort((a, b) => this.items_[b].count - this.items_[a].count || a - b);
    this.searched = this.items_.map((each) => `${each.text}\n${each.item_id}`.toLowerCase());
  }

  async about() {
    const { data } = this;
    const all = data.items.length === data.catalogue;
    const which = all ? `all ${counted(data.catalogue, "item")}` : `${data.items.length} of ${counted(data.catalogue, "item")}`;
    const note = `A file made of the run ${shown(data.run)} on ${shown(data.target)}: ${which}, ${counted(data.users.length, "test user")}. No server stands behind it, so answers for most histories are an estimate.`;
    const more = [
      "For the test users, and for a history of one item, you see the model's own answers. Any other history, and any filter, is answered by an estimate: it adds up what the model recommends after each single item, the last one most.",
    ];
    const found = this.#agreement();
    if (found !== null) more.push(`Of the model's ten for the test users here the estimate finds ${found.toFixed(1)} on average.`);
    if (!all) more.push("After a single item, and among similar items, only items of this file are shown.");
    if (data.pictures_left_out) more.push(`${counted(data.pictures_left_out, "picture")} did not fit.`);
    more.push("pmm serve lets the model itself answer everything.");
    return { name: data.run, note, more: more.join(" ") };
  }

  async popularities() {
    const plain = [[0, "none: what fits best"]];
    return this.data.alpha === null ? plain : [...plain, ["chosen", `as validation chose (${this.data.alpha})`]];
  }

  async items({ query, category, offset, limit }) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.byCount.filter(
      (k) =>
        (!category || this.items_[k].categories.includes(category)) &&
        words.every((word) => this.searched[k].includes(word)),
    );
    return { total: found.length, items: found.slice(offset, offset + limit).map((k) => this.items_[k]) };
  }

  async categories() {
    const found = new Map();
    for (const item of this.items_) for (const name of item.categories) found.set(name, (found.get(name) ?? 0) + 1);
    return [...found].map(([name, items]) => ({ name, items })).sort((a, b) => b.items - a.items);
  }

  async users({ offset, limit }) {
    const some = this.data.users.slice(offset, offset + limit).map((user) => ({
      user_id: user.user_id,
      history: user.history.map((k) => this.items_[k]),
      earlier: user.earlier,
      target: this.items_[user.target],
      rank: user.rank,
    }));
    return { total: this.data.users.length, users: some };
  }

  async recommend({ history, user, k, categories, popularity }) {
    const numbers = history.map((id) => this.number.get(id)).filter((each) => each !== undefined);
    const whole = { model: this.data.version, unknown: [], popular: false, estimate: false };
    const known = user === null ? null : this.data.users.find((each) => each.user_id === user);
    if (known && !categories.length) {
      const rows = popularity === "chosen" ? known.chosen : known.recommended;
      return { ...whole, items: rows.slice(0, k).map((row) => this.#answered(row)) };
    }
    const allowed = (item) => !categories.length || categories.some((name) => this.items_[item].categories.includes(name));
    const left = this.byCount.filter((item) => allowed(item) && !numbers.includes(item));
    if (!numbers.length) {
      const items = left.slice(0, k).map((item) => this.#answered([item, this.items_[item].count, []]));
      return { ...whole, popular: true, items };
    }
    const chosen = popularity === "chosen";
    const exact = numbers.length === 1 && !categories.length && !chosen;
    const rows = exact ? this.#alone(numbers[0]) : this.#estimate(numbers, left, chosen);
    return { ...whole, estimate: !exact, items: rows.slice(0, k).map((row) => this.#answered(row)) };
  }

  async item(id) {
    return this.items_[this.number.get(id)];
  }

  async similar(id, k) {
    const rows = this.data.similar[this.number.get(id)] ?? [];
    return rows.slice(0, k).map((row) => this.#answered([...row, []]));
  }

  picture(item) {
    return this.items_[this.number.get(item.item_id)]?.picture ?? null;
  }

  /** [item, score, reasons], best first: the model's own list for a history of one item. */
  #alone(item) {
    return this.data.after[item].map(([next, score]) => [next, score, []]);
  }

  /** The same of what is left, by what follows each item of a history. */
  #estimate(numbers, left, chosen) {
    const score = new Map(left.map((item) => [item, chosen ? this.items_[item].lift : 0]));
    const reasons = new Map(left.map((item) => [item, []]));
    numbers.forEach((item, place) => {
      const weight = RECENT ** (numbers.length - 1 - place);
      const after = this.data.after[item];
      for (const [next, its] of after) {
        if (!score.has(next)) continue;
        const effect = weight * (its - after.at(-1)[1]); // of one that is not in the list: 0
        score.set(next, score.get(next) + effect);
        reasons.get(next).push([item, effect]);
      }
    });
    const ordered = [...left].sort((a, b) => score.get(b) - score.get(a));
    return ordered.map((item) => [item, score.get(item), reasons.get(item).sort((a, b) => b[1] - a[1])]);
  }

  #answered([item, score, reasons]) {
    const said = reasons.map(([of, effect]) => ({ item_id: this.items_[of].item_id, effect }));
    return { ...this.items_[item], score, reasons: said };
  }

  /** How many of the model's ten the estimate finds, on average of the test users with their whole history. */
  #agreement() {
    const whole = this.data.users.filter((user) => user.earlier === 0 && user.history.length > 1);
    if (!whole.length) return null;
    let found = 0;
    for (const user of whole) {
      const left = this.byCount.filter((item) => !user.history.includes(item));
      const guessed = new Set(this.#estimate(user.history, left, false).slice(0, 10).map((row) => row[0]));
      found += user.recommended.slice(0, 10).filter((row) => guessed.has(row[0])).length;
    }
    return found / whole.length;
  }
}
