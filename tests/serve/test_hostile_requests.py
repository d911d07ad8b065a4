"""What strangers send: each is a 4xx with a sentence, nothing hangs, and memory stays bounded."""

import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pmm.errors import InputError
from pmm.serve import limits
from pmm.serve.serve_options import ServeRequest
from pmm.serve.serving import Serving
from pmm.serve.web import http_server
from pmm.serve.web.access import AccessRules, read_tokens
from pmm.serve.web.web_app import make_app

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def strange(
    loaded: Any, make_client: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """Calls as from this machine, of a server that nothing here changes."""
    serving = Serving(tmp_path_factory.mktemp("strange"), lambda _: loaded("first"))
    serving.start(Path("first"))
    with make_client(serving) as client:
        yield client
    serving.close()


def is_refused(answer: Any, *statuses: int) -> str:
    assert answer.status_code in statuses, answer.text
    told = answer.json()["error"]
    assert isinstance(told, str)
    assert 5 < len(told) < 400
    return told


BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "no UTF-8": b'{"history": ["\xff"]}',
    "UTF-16": '{"k": 1}'.encode("utf-16"),
    "NaN": b'{"popularity": NaN}',
    "infinity": b'{"popularity": -Infinity}',
    "too large a number": b'{"popularity": 1e999}',
    "many digits": b'{"k": ' + b"9" * 5_000 + b"}",
    "twice": b'{"k": 1, "k": 2}',
    "k = 0": b'{"k": 0}',
    "k = -1": b'{"k": -1}',
    "k = 10^9": b'{"k": 1000000000}',
    "k = true": b'{"k": true}',
    "k = text": b'{"k": "5"}',
    "unknown key": b'{"hystory": []}',
    "one text": b'{"history": "0000000001"}',
    "numbers": b'{"history": [1]}',
    "half a character": b'{"history": ["\\ud800"]}',
    "a long id": json.dumps({"history": ["x" * 513]}).encode(),
    "a long history": json.dumps({"history": ["1"] * 10_001}).encode(),
    "a long list": json.dumps({"exclude": ["1"] * 10_001}).encode(),
    "null": b'{"history": null, "exclude": null}',
    "both": b'{"history": [], "user_id": "1"}',
    "nobody": b'{"user_id": "nobody"}',
    "no such category": b'{"categories": ["nothing"]}',
    "popularity": b'{"popularity": "much"}',
    "reasons of many": b'{"k": 500, "reasons": true}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_wrong_body_is_refused_with_a_sentence(strange: TestClient, body: bytes) -> None:
    told = is_refused(strange.post("/recommend", content=body, headers=JSON), 400, 422)
    assert "Traceback" not in told
    assert "errors.pydantic" not in told


def test_histories_of_a_million_ids(strange: TestClient) -> None:
    body = json.dumps({"history": ["1"] * 1_000_000}).encode()
    is_refused(strange.post("/recommend", content=body, headers=JSON), 413)
    body = json.dumps({"history": ["1"] * 400_000}).encode()
    is_refused(strange.post("/recommend", content=body, headers=JSON), 422)
    many = {"histories": [["1"]] * 257}
    is_refused(strange.post("/recommend/batch", json=many), 422)
    is_refused(strange.post("/recommend/batch", json={"histories": [[]] * 30, "k": 1000}), 422)


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=x", "offset=-1", "offset=99999999999", "query=!!"),
        f"query={'x' * 201}",
        f"category={'x' * 201}",
    ],
)
def test_a_wrong_query_is_refused(strange: TestClient, query: str) -> None:
    is_refused(strange.get(f"/items?{query}"), 422)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/items/%FF", 400),
        ("/items/" + "x" * 513, 400),
        ("/items/" + "%41" * 600, 400),
        ("/items/", 404),
        ("/items/..%2f..%2fetc%2fpasswd", 404),
        ("/items/%00", 404),
        ("/items/x/image/y", 404),
        ("/items/0000000001/similar?k=0", 422),
        ("/items/0000000001/similar?k=1000000000", 422),
        ("/../../etc/passwd", 404),
        ("/%2e%2e/pmm", 404),
    ],
)
def test_a_wrong_path_is_refused(strange: TestClient, path: str, status: int) -> None:
    is_refused(strange.get(path), status)


@pytest.mark.parametrize("item_id", ["%00", "a%0Ab", "a%1B[31m", "%C2%85", "%2E%2E", "%7F"])
def test_an_id_of_control_characters_is_not_taken(strange: TestClient, item_id: str) -> None:
    form = {"files": {"text": (None, "hat")}}
    is_refused(strange.put(f"/items/{item_id}", **form), 422)


def bomb(side: int) -> bytes:
    """A PNG of side x side pixels in a few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * min(side, 2_000), 9)

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    body = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_bomb() -> bytes:
    """A JPEG whose head says 65,000 x 65,000."""
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "JPEG")
    whole = data.getvalue()
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", 65_000, 65_000) + whole[at + 4 :]


FILES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "text": (b"no picture at all", (415,)),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", (415,)),
    "HTML": (b"<html><script>alert(1)</script>", (415,)),
    "PNG bomb": (bomb(20_000), (413,)),
    "larger PNG bomb": (bomb(2_000_000), (413, 415)),
    "JPEG bomb": (jpeg_bomb(), (413,)),
    "gzip bomb": (zlib.compress(bytes(10**6), 9), (415,)),
    "head alone": (bomb(16)[:33], (415, 422)),
    "cut off": (bomb(64)[:-30], (415, 422)),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", (415,)),
    "too many bytes": (b"\xff" * (limits.PICTURE_BYTES + 1), (413,)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_picture_is_refused(strange: TestClient, name: str) -> None:
    content, statuses = FILES[name]
    answer = strange.put("/items/a", data={"text": "hat"}, files={"image": ("a.png", content)})
    is_refused(answer, *statuses)
    assert strange.get("/items/a").status_code == 404


FORMS: dict[str, Any] = {
    "nothing": {"files": {"text": (None, "")}},
    "two texts": {"files": [("text", (None, "a")), ("text", (None, "b"))]},
    "two images": {"files": [("image", ("a", b"1")), ("image", ("b", b"2"))]},
    "image as text": {"files": {"image": (None, "x")}},
    "text as file": {"files": {"text": ("a.txt", b"x")}},
    "another field": {"files": {"path": (None, "/etc/passwd")}},
    "long text": {"files": {"text": (None, "x" * 20_001)}},
    "very long text": {"files": {"text": (None, "x" * 200_000)}},
    "many categories": {"files": [("categories", (None, str(k))) for k in range(40)]},
    "an empty category": {"files": {"text": (None, "a"), "categories": (None, "")}},
    "Latin-1": {"files": {"text": (None, b"caf\xe9")}},
    "no form": {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
    "no boundary": {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    "cut off": {
        "content": b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\nabc',
        "headers": {"content-type": "multipart/form-data; boundary=b"},
    },
    "JSON": {"json": {"text": "a"}},
    "no body": {},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_form_is_refused(strange: TestClient, name: str) -> None:
    is_refused(strange.put("/items/a", **FORMS[name]), 415, 422)
    assert strange.get("/items/a").status_code == 404


def test_packed_and_foreign_bodies_are_not_read(strange: TestClient) -> None:
    packed = JSON | {"content-encoding": "gzip"}
    is_refused(strange.post("/recommend", content=b"\x1f\x8b" * 100, headers=packed), 415)
    is_refused(strange.post("/recommend", content=b"{}"), 415)
    simple = {"content-type": "text/plain"}  # as a form of another site may send
    is_refused(strange.post("/recommend", content=b"{}", headers=simple), 415)
    is_refused(strange.post("/models", content=b"{}", headers=simple), 415)


def test_ways_that_no_call_has(strange: TestClient) -> None:
    for method, path in (("PATCH", "/items"), ("TRACE", "/"), ("OPTIONS", "/recommend")):
        is_refused(strange.request(method, path), 405)


# --- Who calls.


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("first-token-of-all\n\nsecond-token-of-all\n")
    return path


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_writing_calls_need_a_token_where_there_is_a_file(
    serving: Serving, make_client: Any, token_file: Path
) -> None:
    rules = AccessRules(tokens=read_tokens(token_file))
    with make_client(serving, rules) as client:
        form = {"files": {"text": (None, "hat")}}
        wrong = [{}, bearer("x"), bearer(""), bearer("first-token-of-al"), bearer("é" * 20)]
        wrong += [{"authorization": "first-token-of-all"}, {"authorization": "Basic Zmlyc3Q6"}]
        for headers in wrong:
            sent = {k: v.encode("latin-1") for k, v in headers.items()}
            answer = client.put("/items/a", **form, headers=sent)
            is_refused(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            is_refused(client.delete("/items/0000000001", headers=sent), 401)
            is_refused(client.post("/models", json={"bundle": "x"}, headers=sent), 401)
            is_refused(client.post("/models/rollback", headers=sent), 401)
        for token in ("first-token-of-all", "second-token-of-all"):
            assert client.put("/items/a", **form, headers=bearer(token)).status_code == 200
        assert client.get("/items/a").status_code == 200
        assert client.post("/recommend", json={}).status_code == 200
        # From anywhere, by any name.
        assert client.get("/items/a", headers={"host": "shop.example"}).status_code == 200


def test_reading_calls_need_the_token_if_so_wanted(
    serving: Serving, make_client: Any, token_file: Path
) -> None:
    rules = AccessRules(tokens=read_tokens(token_file), reading_too=True)
    with make_client(serving, rules) as client:
        for path in ("/items", "/users", "/categories", "/models", "/metrics", "/items/a/image"):
            is_refused(client.get(path), 401)
            found = client.get(path, headers=bearer("first-token-of-all"))
            assert found.status_code in (200, 404)
        is_refused(client.post("/recommend", json={}), 401)
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"origin": "http://evil.example"}, "another site"),
        ({"origin": "null"}, "another site"),
        ({"origin": "http://localhost:9"}, "another site"),
        ({"sec-fetch-site": "cross-site"}, "another site"),
        ({"sec-fetch-site": "same-site"}, "another site"),
        ({"host": "evil.example", "origin": "http://evil.example"}, "a name of its machine"),
        ({"host": ""}, "a name of its machine"),
        ({"x-forwarded-for": "127.0.0.1"}, "this machine alone"),
        ({"forwarded": "for=127.0.0.1"}, "this machine alone"),
    ],
)
def test_other_sites_and_proxies_change_nothing(
    client: TestClient, headers: dict[str, str], why: str
) -> None:
    for call in (("PUT", "/items/a"), ("DELETE", "/items/0000000001"), ("POST", "/models")):
        assert why in is_refused(client.request(*call, headers=headers), 403)
    assert not client.get("/items/0000000001").json()["withdrawn"]


def test_the_own_page_may_change_things_and_no_other_may_read(client: TestClient) -> None:
    own = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert client.delete("/items/0000000001", headers=own).status_code == 200
    read = client.get("/items", headers={"origin": "http://evil.example"})
    assert not [name for name in read.headers if name.startswith("access-control")]
    asked = {"origin": "http://evil.example", "access-control-request-method": "PUT"}
    answer = client.options("/items/a", headers=asked)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_changes_from_another_machine_are_refused_without_a_token(
    serving: Serving,
) -> None:
    app = make_app(serving, AccessRules(names=None))
    for address, status in (("10.0.0.5", 403), ("::1", 200), ("::ffff:127.0.0.1", 200)):
        with TestClient(app, client=(address, 5)) as client:
            assert client.delete("/items/0000000002").status_code == status
            assert client.get("/items").status_code == 200


def test_a_site_that_is_let_in_may_call(serving: Serving, make_client: Any) -> None:
    site = "https://shop.example"
    with make_client(serving, AccessRules(origins=frozenset({site}))) as client:
        found = client.get("/items", headers={"origin": site})
        assert found.headers["access-control-allow-origin"] == site
        found = client.get("/items", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in found.headers
        asked = {"origin": site, "access-control-request-method": "PUT"}
        assert client.options("/items/a", headers=asked).status_code == 200


def test_a_site_that_is_let_in_may_call_where_reading_needs_a_token(
    serving: Serving, make_client: Any, token_file: Path
) -> None:
    site, evil = "https://shop.example", "https://evil.example"
    rules = AccessRules(tokens=read_tokens(token_file), reading_too=True, origins=frozenset({site}))
    with make_client(serving, rules) as client:
        # A browser asks before it sends a token, and without one.
        for path, method in (("/items", "GET"), ("/recommend", "POST"), ("/items/a", "PUT")):
            asked = {
                "access-control-request-method": method,
                "access-control-request-headers": "authorization",
            }
            allowed = client.options(path, headers=asked | {"origin": site})
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == site
            refused = client.options(path, headers=asked | {"origin": evil})
            assert refused.status_code == 400
            assert "access-control-allow-origin" not in refused.headers
        # What is refused can be read as well, by that site alone.
        refused = client.get("/items", headers={"origin": site})
        assert refused.headers["access-control-allow-origin"] == site
        is_refused(refused, 401)
        refused = client.get("/items", headers={"origin": evil})
        assert "access-control-allow-origin" not in refused.headers
        found = client.get("/items", headers=bearer("first-token-of-all") | {"origin": site})
        assert found.status_code == 200


def test_the_target_stays_with_the_run_however_its_folder_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for run in (Path("runs/first"), Path("linked/first"), tmp_path / "runs" / "first"):
        request = ServeRequest(run, target="other")
        assert request.target_of(request.place_of("first", run), run) == "other"
        assert request.target_of(request.place_of("second", run), run) is None


@pytest.mark.parametrize("text", ["", "\n\n", "short\n", "é" * 20, "x" * 5_000])
def test_a_token_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(InputError, match="needs a line"):
        read_tokens(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens(tmp_path / "none")


@pytest.mark.parametrize(
    "name", ["..", "../other", "/etc", "", ".", "a\0b", "out", "x" * 5_000, "first/../.."]
)
def test_models_are_loaded_from_their_folder_alone(tmp_path: Path, name: str) -> None:
    runs = tmp_path / "runs"
    (runs / "first").mkdir(parents=True)
    (runs / "out").symlink_to(tmp_path)
    request = ServeRequest(runs / "first")
    assert request.place_of("first", runs / "first") == (runs / "first").resolve()
    with pytest.raises(InputError):
        request.place_of(name, runs / "first")


# --- How fast, how much, how many.


def speak(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send some bytes, and read all that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            found = b""
            while piece := connection.recv(65_536):
                found += piece
        except ConnectionError:
            pass
    return found


HEAD = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_and_endless_senders_are_sent_away(
    serving: Serving, listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEADER_SECONDS", 0.5)
    app = make_app(serving, AccessRules(), body_seconds=0.5)
    with listen(app) as port:
        # A head that never ends, on a new connection and on one that has been used.
        assert speak(port, b"POST /reco") == b""
        live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert speak(port, live, b"GET /he", pause=0.1).count(b"HTTP/1.1") == 1
        # A body that never ends, by its length and in chunks.
        assert speak(port, HEAD + b"Content-Length: 10\r\n\r\n{").startswith(b"HTTP/1.1 408")
        chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        assert speak(port, chunked + b"1\r\n{\r\n").startswith(b"HTTP/1.1 408")
        # A body of gigabytes, by its length and in chunks.
        asked = HEAD + b"Expect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n"
        assert speak(port, asked).startswith(b"HTTP/1.1 413")
        assert b"100 Continue" not in speak(port, asked)
        piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        found = speak(port, chunked, *[piece] * 40, b"0\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 413")
        # What is no HTTP, and heads that are too long.
        assert speak(port, b"\x16\x03\x01\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert speak(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000).startswith(b"HTTP/1.1 4")
        smuggled = HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert not speak(port, smuggled).startswith(b"HTTP/1.1 200")
        ended = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert b'{"state":"live"}' in speak(port, ended.replace(b"Host: x", b"Host: localhost"))


def test_too_many_requests_are_asked_to_come_back(
    serving: Serving, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    model = serving.current.model
    real = model.recommend

    def slow(*asked: Any) -> Any:
        begun.release()
        assert go_on.wait(30)
        return real(*asked)

    monkeypatch.setattr(model, "recommend", slow)
    with make_client(serving, requests=2) as client:
        answers: list[Any] = []
        askers = [
            threading.Thread(target=lambda: answers.append(client.post("/recommend", json={})))
            for _ in range(2)
        ]
        for each in askers:
            each.start()
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30)
        busy = client.post("/recommend", json={})
        is_refused(busy, 503)
        assert busy.headers["retry-after"] == "1"
        assert client.get("/health/live").status_code == 200
        assert client.get("/metrics").status_code == 200
        go_on.set()
        for each in askers:
            each.join()
        assert [each.status_code for each in answers] == [200, 200]
        assert client.post("/recommend", json={}).status_code == 200


def test_a_fault_of_the_server_is_a_sentence_and_counted(
    serving: Serving, make_client: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(serving.current.model, "recommend", broken)
    with make_client(serving) as client:
        answer = client.post("/recommend", json={})
        assert "secret" not in is_refused(answer, 500)
        assert 'route="/recommend",status="500"} 1.0' in client.get("/metrics").text
    assert "ZeroDivisionError" in caplog.text
