// Answers of the server that this page came from.

const PATIENCE = 30_000; // milliseconds

class Served {
  writable = true;
  #token = "";
  #readsNeedToken = false;
  #pictures = new Map(); // item id -> promise of an address
  #changed = new Map(); // item id -> how often its picture was changed from here

  /** Called when the server asks for a token. */
  onTokenWanted = () => {};

  set token(value) {
    this.#token = value;
    this.#pictures.clear();
  }

  async about() {
    return { name: "", note: "Choose items that somebody had, and see what the model recommends next.", more: "" };
  }

  async popularities() {
    return [
      [0, "none: what fits best"],
      [0.25, "a little (0.25)"],
      [0.5, "some (0.5)"],
      [1, "much (1)"],
      ["chosen", "as validation chose"],
    ];
  }

  items({ query, category, offset, limit }) {
    const asked = new URLSearchParams({ query, category, offset, limit });
    for (const name of ["query", "category"]) if (!asked.get(name)) asked.delete(name);
    return this.#json(`items?${asked}`);
  }

  async categories() {
    return (await this.#json("categories")).categories;
  }

  users({ offset, limit }) {
    return this.#json(`users?${new URLSearchParams({ offset, limit })}`);
  }

  recommend({ history, user, k, categories, popularity, reasons = true }, signal) {
    const whose = user === null ? { history } : { user_id: user };
    const body = JSON.stringify({ ...whose, k, categories, popularity, reasons });
    const headers = { "Content-Type": "application/json" };
    return this.#json("recommend", { method: "POST", body, headers, signal });
  }

  item(id) {
    return this.#json(this.#place(id));
  }

  async similar(id, k) {
    return (await this.#json(`${this.#place(id)}/similar?k=${k}`)).items;
  }

  async put(id, { text, categories, image }) {
    const form = new FormData();
    form.append("text", text);
    for (const each of categories) form.append("categories", each);
    if (image) form.append("image", image, image.name || "picture");
    const answer = await this.#json(this.#place(id), { method: "PUT", body: form });
    this.#changed.set(id, (this.#changed.get(id) ?? 0) + 1);
    this.#pictures.delete(id);
    return answer;
  }

  withdraw(id) {
    return this.#json(this.#place(id), { method: "DELETE" });
  }

  /** The address of an item's picture, null where it cannot be had. */
  picture(item) {
    if (!item.has_picture) return null;
    const id = item.item_id;
    if (!this.#pictures.has(id)) this.#pictures.set(id, this.#picture(id));
    return this.#pictures.get(id);
  }

  async #picture(id) {
    try {
      const place = `${this.#place(id)}/image`;
      const again = this.#changed.get(id);
      const address = again ? `${place}?changed=${again}` : place;
      if (!this.#readsNeedToken) return address;
      return URL.createObjectURL(await (await this.#ask(address)).blob());
    } catch {
      return null; // a picture that is missing leaves the item's words
    }
  }

  #place(id) {
    // A browser takes these for steps in a path, in whatever way they are written.
    if (id === "." || id === "..") throw new Trouble(`An item called "${id}" has no address of its own.`);
    try {
      return `items/${encodeURIComponent(id)}`;
    } catch {
      throw new Trouble("This id holds half a character, so it has no address.");
    }
  }

  async #json(address, options) {
    const answer = await this.#ask(address, options);
    try {
      return await answer.json();
    } catch {
      throw new Trouble("The server sent what is no answer.", "Is something else between it and this page?");
    }
  }

  async #ask(address, { method = "GET", body, headers = {}, signal } = {}) {
    if (this.#token) headers = { ...headers, Authorization: `Bearer ${this.#token}` };
    const late = AbortSignal.timeout(PATIENCE);
    const until = signal ? AbortSignal.any([signal, late]) : late;
    let answer;
    try {
      answer = await fetch(address, { method, body, headers, signal: until, credentials: "same-origin" });
    } catch (error) {
      if (signal?.aborted) throw error;
      if (late.aborted) throw new Trouble("The server takes too long to answer.");
      throw new Trouble("The server does not answer.", "Start pmm serve again, then try once more.");
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    if (answer.status === 401) {
      if (method === "GET" || address === "recommend") this.#readsNeedToken = true;
      this.#pictures.clear();
      this.onTokenWanted();
      const why = this.#token ? "The server does not take this token." : "The server asks for a token.";
      throw new Trouble(why, "Type it above, then try again.");
    }
    throw new Trouble(said.error ?? `The server answered with status ${answer.status}.`, said.run ?? "");
  }
}
