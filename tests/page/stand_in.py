"""A small server of the page, over a model: the same addresses and the same JSON as `pmm serve`."""

import email.parser
import email.policy
import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pmm.errors import InputError
from pmm.recommend.answers import NewItem, Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.serve.gallery_data import GalleryUser, rank_of
from pmm.serve.page_file import served_page


class StandIn(ThreadingHTTPServer):
    """Serves one model on a free port of this machine."""

    daemon_threads = True

    def __init__(self, model: LoadedModel, users: Sequence[GalleryUser]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.users = model, users
        self.token = ""
        self.reads_need_it = self.refuses_writes = False
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path and JSON of what came."""
        self.down = False
        """Whether connections are closed without an answer."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser hangs up when a page is left; anything else is told."""

    def item(self, item_id: str) -> dict[str, Any]:
        return self.model.card(item_id).as_dict()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *args: Any) -> None:
        del args

    def _answer(self) -> None:
        where = urlsplit(self.path)
        path = [unquote(each) for each in where.path.strip("/").split("/")]
        asked = {name: values[0] for name, values in parse_qs(where.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.down:
            self.close_connection = True
            return
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        self.server.asked.append((self.command, where.path, json.loads(body) if is_json else None))
        if path == [""]:
            page = served_page()
            self._send(200, page.html.encode(), page.headers)
            return
        writes = self.command in ("PUT", "DELETE")
        needed = self.server.token and (writes or self.server.reads_need_it)
        if needed and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._json(401, {"error": "this call needs the token"})
            return
        if writes and self.server.refuses_writes:
            self._json(403, {"error": "changes are taken from this machine alone"})
            return
        try:
            self._call(path, asked, body)
        except InputError as error:
            status = 404 if "there is no item" in str(error) else 422
            self._json(status, {"error": str(error), "run": "look at what was sent"})

    def _call(self, path: list[str], asked: dict[str, str], body: bytes) -> None:
        match self.command, path:
            case "POST", ["recommend"]:
                self._json(200, self._recommend(json.loads(body)))
            case "GET", ["items"]:
                self._json(200, self._items(asked))
            case "GET", ["categories"]:
                self._json(200, {"categories": self._categories()})
            case "GET", ["users"]:
                self._json(200, self._users(int(asked["offset"]), int(asked["limit"])))
            case "GET", ["items", item_id]:
                self._json(200, self.server.item(item_id))
            case "GET", ["items", item_id, "similar"]:
                self._json(200, self._similar(item_id, int(asked["k"])))
            case "GET", ["items", item_id, "image"]:
                image = self.server.model.picture(item_id)
                if image is None:
                    self._json(404, {"error": "no picture"})
                else:
                    self._send(200, image, {"Content-Type": "image/jpeg"})
            case "PUT", ["items", item_id]:
                self._json(200, self._put(item_id, body))
            case "DELETE", ["items", item_id]:
                self.server.model.remove_items([item_id])
                self._json(200, {"item_id": item_id, "withdrawn": True})
            case _:
                self._json(404, {"error": f"there is no {self.path}"})

    def _recommend(self, asked: dict[str, Any]) -> dict[str, Any]:
        model = self.server.model
        user = asked.get("user_id")
        history = asked.get("history")
        if user is not None:
            (history,) = (each.history for each in self.server.users if each.user_id == user)
        wanted = Wanted(
            k=asked["k"], categories=asked["categories"], popularity=asked["popularity"]
        )
        (found,) = model.recommend([history], wanted)
        items = []
        for each in found.items:
            explained = asked["reasons"] and not found.popular
            told = model.explain(history, each.item_id) if explained else []
            reasons = [{"item_id": one.item_id, "effect": one.effect} for one in told]
            items.append(
                {**self.server.item(each.item_id), "score": each.score, "reasons": reasons}
            )
        told = {"unknown": list(found.unknown), "popular": found.popular}
        return {"model": model.version, "items": items, "took_ms": 1.5, **told}

    def _items(self, asked: dict[str, str]) -> dict[str, Any]:
        state, words = self.server.model.state, asked.get("query", "").lower().split()
        ids = sorted(state.rows_of, key=lambda each: -int(state.count_N[state.rows_of[each][-1]]))
        cards = [self.server.item(each) for each in ids]
        found = [
            card
            for card in cards
            if all(word in f"{card['text']} {card['item_id']}".lower() for word in words)
            and (not asked.get("category") or asked["category"] in card["categories"])
        ]
        start = int(asked["offset"])
        return {"total": len(found), "items": found[start : start + int(asked["limit"])]}

    def _categories(self) -> list[dict[str, Any]]:
        count: dict[str, int] = {}
        for item_id in self.server.model.state.rows_of:
            for name in self.server.item(item_id)["categories"]:
                count[name] = count.get(name, 0) + 1
        return [{"name": name, "items": n} for name, n in count.items()]

    def _users(self, start: int, most: int) -> dict[str, Any]:
        some = self.server.users[start : start + most]
        users = [
            {
                "user_id": each.user_id,
                "history": [self.server.item(item) for item in each.history],
                "target": self.server.item(each.target),
                "rank": rank_of(self.server.model, each),
            }
            for each in some
        ]
        return {"total": len(self.server.users), "users": users}

    def _similar(self, item_id: str, k: int) -> dict[str, Any]:
        found = self.server.model.similar(item_id, k)
        items = [{**self.server.item(each.item_id), "score": each.score} for each in found]
        return {"model": self.server.model.version, "items": items}

    def _put(self, item_id: str, body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        fields: dict[str, list[bytes]] = {}
        for part in form.iter_parts():
            name = part.get_param("name", header="content-disposition")
            fields.setdefault(str(name), []).append(part.get_payload(decode=True))
        item = NewItem(
            item_id=item_id,
            text=fields["text"][0].decode(),
            image=fields.get("image", [None])[0],
            categories=tuple(each.decode() for each in fields.get("categories", [])),
        )
        self.server.model.add_items([item])
        model = self.server.model.version
        return {"item": self.server.item(item_id), "model": model, "took_ms": 12.0}

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
