"""`pmm export --push-to`: the real client of the model hub, before a stand-in of its API."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from pmm.bundle.open_bundle import open_bundle
from pmm.bundle.push import require_repository
from pmm.cli import main
from pmm.errors import InputError


class Hub(ThreadingHTTPServer):
    """What the client asks of it, and the files of its commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        """What is in the repository."""
        self.refuses = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub = self.server
        hub.asked.append(("POST", self.path, self.headers.get("Authorization", "")))
        if hub.refuses:
            self.answer(hub.refuses, {"error": "no"})
        elif self.path.endswith("/api/repos/create"):
            hub.created.append(json.loads(body))
            self.answer(200, {"url": f"{hub.address}/shop/first", "id": "shop/first"})
        elif "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                told = json.loads(line)
                if told["key"] == "file":
                    content = base64.b64decode(told["value"]["content"])
                    hub.files[told["value"]["path"]] = content
                elif told["key"] == "deletedFile":
                    del hub.files[told["value"]["path"]]
            url = f"{hub.address}/shop/first/commit/{'a' * 40}"
            self.answer(200, {"commitUrl": url, "commitOid": "a" * 40, "success": True})
        else:
            self.answer(200, {})

    def do_GET(self) -> None:
        self.server.asked.append(("GET", self.path, self.headers.get("Authorization", "")))
        if "/tree/" in self.path:
            self.answer(200, [listed(name, each) for name, each in self.server.files.items()])
        else:
            self.answer(200, {"id": "shop/first", "sha": "a" * 40, "siblings": [], "private": True})

    def answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def listed(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def run(shop: Any, runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pushed")
    made: Path = runs.make_run(shop, folder / "run", runs.options_of(shop, "sasrec"))
    return made


@pytest.fixture
def export(
    shop: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`pmm export --push-to`: exit status, output, errors."""

    def exported(repository: str, *options: str) -> tuple[int, str, str]:
        words = [
            "export",
            str(run),
            "--to",
            str(tmp_path / "bundle"),
            "--home",
            str(shop.home.root),
        ]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--push-to", repository, *options])
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.out, told.err

    return exported


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """The settings of the hub's client, which it reads from the environment when it is imported."""

    def before(address: str) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", address or "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")

    return before


def test_a_bundle_is_uploaded_whole_to_a_private_repository(
    export: Any, client: Any, tmp_path: Path, hub: Hub
) -> None:
    client(hub.address)
    place = tmp_path / "bundle"
    status, told, errors = export("shop/first")
    assert status == 0, errors
    assert f"Uploaded to {hub.address}/shop/first/commit/" in told
    (created,) = hub.created
    assert created["name"] == "first"
    assert created["organization"] == "shop"
    assert created.get("private") is True or created.get("visibility") == "private"
    writes = ("/repos/create", "/preupload/", "/commit/")
    tokens = [token for _, path, token in hub.asked if any(each in path for each in writes)]
    assert len(tokens) >= 3
    assert set(tokens) == {"Bearer hf_secret"}
    kept = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    assert hub.files.keys() == kept.keys()
    for name, path in kept.items():
        assert (
            hashlib.sha256(hub.files[name]).digest() == hashlib.sha256(path.read_bytes()).digest()
        )
    for name, content in hub.files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert len(open_bundle(tmp_path / "got").recommend([["0000000001"]])[0].items) == 10


def test_what_an_earlier_bundle_had_there_is_removed(
    export: Any, client: Any, tmp_path: Path, hub: Hub
) -> None:
    """Test users above all, which somebody has left out with cause; nothing else of his."""
    others = {"LICENSE": b"mine", ".gitattributes": b"*.tar filter=lfs", "docs/about.md": b"words"}
    left = ("users.parquet", "pictures.tar", "onnx/user.onnx", "encoders/text/config.json")
    hub.files |= others | dict.fromkeys(left, b"of an earlier bundle")
    client(hub.address)
    status, _, errors = export("shop/first", "--test-users", "0", "--no-pictures")
    assert status == 0, errors
    files = {str(p.relative_to(tmp_path / "bundle")) for p in (tmp_path / "bundle").rglob("*.*")}
    assert hub.files.keys() == {*files, "SHA256SUMS", *others}
    assert {name: hub.files[name] for name in others} == others


@pytest.mark.parametrize(("status", "why"), [(401, "hf auth login"), (403, "may not write")])
def test_a_hub_that_refuses_is_told_and_the_bundle_stays(
    export: Any, client: Any, tmp_path: Path, hub: Hub, status: int, why: str
) -> None:
    client(hub.address)
    hub.refuses = status
    place = tmp_path / "bundle"
    code, _, errors = export("shop/first")
    assert code == 1
    assert why in errors
    assert f"hf upload shop/first {place}" in errors
    assert "hf_secret" not in errors
    open_bundle(place)


def test_without_network_a_sentence_says_how_to_upload_later(
    export: Any, client: Any, tmp_path: Path
) -> None:
    client("")
    code, _, errors = export("shop/first")
    assert code == 1
    assert "shop/first was not uploaded" in errors
    assert f"hf upload shop/first {tmp_path / 'bundle'}" in errors


@pytest.mark.parametrize("name", ["first", "a/b/c", "shop/fir st", "../up", "shop/", ""])
def test_what_names_no_repository_is_refused_before_anything_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    with pytest.raises(InputError, match="names no repository"):
        require_repository(name)


def test_without_a_token_nothing_is_made(
    export: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("")
    monkeypatch.delenv("HF_TOKEN")
    code, _, errors = export("shop/first")
    assert code == 1
    assert "hf auth login" in errors
    assert not (tmp_path / "bundle").exists()
