"""`pmm export --push-to`: the real client of the model hub, before a stand-in of its API."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pmm.bundle.open_bundle import open_bundle
from pmm.bundle.push import require_repository
from pmm.errors import InputError


class Hub(ThreadingHTTPServer):
    """What the client asks of it, and the files of its commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
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
            url = f"{hub.address}/shop/first/commit/{'a' * 40}"
            self.answer(200, {"commitUrl": url, "commitOid": "a" * 40, "success": True})
        else:
            self.answer(200, {})

    def do_GET(self) -> None:
        self.server.asked.append(("GET", self.path, self.headers.get("Authorization", "")))
        self.answer(200, {"id": "shop/first", "sha": "a" * 40, "siblings": [], "private": True})

    def answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


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


def export(
    shop: Any, run: Path, place: Path, repository: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    words = ["export", str(run), "--to", str(place), "--home", str(shop.home.root)]
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    known |= {"HF_HOME": str(place.parent / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pmm", *words, "--push-to", repository],
        env=known,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bundle_is_uploaded_whole_to_a_private_repository(
    shop: Any, run: Path, tmp_path: Path, hub: Hub
) -> None:
    place = tmp_path / "bundle"
    done = export(shop, run, place, "shop/first", HF_ENDPOINT=hub.address, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert f"Uploaded to {hub.address}/shop/first/commit/" in done.stdout
    (created,) = hub.created
    assert created["name"] == "first"
    assert created["organization"] == "shop"
    assert created.get("private") is True or created.get("visibility") == "private"
    writes = ("/repos/create", "/preupload/", "/commit/")
    told = [token for _, path, token in hub.asked if any(each in path for each in writes)]
    assert len(told) >= 3
    assert set(told) == {"Bearer hf_secret"}
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


@pytest.mark.parametrize(("status", "why"), [(401, "hf auth login"), (403, "may not write")])
def test_a_hub_that_refuses_is_told_and_the_bundle_stays(
    shop: Any, run: Path, tmp_path: Path, hub: Hub, status: int, why: str
) -> None:
    hub.refuses = status
    place = tmp_path / "bundle"
    done = export(shop, run, place, "shop/first", HF_ENDPOINT=hub.address, HF_TOKEN="hf_secret")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert why in done.stderr
    assert f"hf upload shop/first {place}" in done.stderr
    assert "hf_secret" not in done.stderr
    open_bundle(place)


def test_without_network_a_sentence_says_how_to_upload_later(
    shop: Any, run: Path, tmp_path: Path
) -> None:
    place = tmp_path / "bundle"
    done = export(shop, run, place, "shop/first", HF_HUB_OFFLINE="1", HF_TOKEN="hf_secret")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "shop/first was not uploaded" in done.stderr
    assert f"hf upload shop/first {place}" in done.stderr


@pytest.mark.parametrize("name", ["first", "a/b/c", "shop/fir st", "../up", "shop/", ""])
def test_what_names_no_repository_is_refused_before_anything_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    with pytest.raises(InputError, match="names no repository"):
        require_repository(name)


def test_without_a_token_nothing_is_made(shop: Any, run: Path, tmp_path: Path) -> None:
    done = export(shop, run, tmp_path / "bundle", "shop/first", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "hf auth login" in done.stderr
    assert not (tmp_path / "bundle").exists()
