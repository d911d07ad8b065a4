"""A small server: runs of the small shop behind the calls, in this process or in one of its own."""

import io
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.serve.load_served import load_served
from pmm.serve.serving import Serving
from pmm.serve.web.access import AccessRules
from pmm.serve.web.http_server import PatientProtocol
from pmm.serve.web.web_app import make_app

HERE = Path(__file__).parent
LOCAL = ("127.0.0.1", 50_000)


@pytest.fixture(scope="session")
def runs_of_tests(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    """What makes small runs."""
    return load_file(HERE.parent / "recommend" / "conftest.py")


@pytest.fixture(scope="session")
def served_runs(
    shop: Any, runs_of_tests: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of runs: first and second (both take items), ids (does not), raw, wrong."""
    made = runs_of_tests
    folder = tmp_path_factory.mktemp("home") / "runs"
    options = {
        "first": made.options_of(shop, "pmmrec"),
        "second": made.options_of(shop, "pmmrec", width=16),
        "ids": made.options_of(shop, "sasrec"),
    }
    for name, each in options.items():
        made.make_run(shop, folder / name, each)
        evaluate_run(shop.home, folder / name, EvaluateOptions(gallery_users=0))
    shutil.copytree(folder / "second", folder / "wrong")
    shutil.copy(folder / "first" / "ranks.parquet", folder / "wrong" / "ranks.parquet")
    shutil.copytree(folder / "second", folder / "raw")
    (folder / "raw" / "ranks.parquet").unlink()
    return folder


@pytest.fixture(scope="session")
def loaded(shop: Any, served_runs: Path) -> Callable[[str], Any]:
    """Loads a run by its name."""
    return lambda name: load_served(served_runs / name, shop.home)


OpenServing = Callable[..., Serving]


@pytest.fixture
def open_serving(shop: Any, served_runs: Path, tmp_path: Path) -> Iterator[OpenServing]:
    """Opens the state of a server with a run and a folder."""
    opened: list[Serving] = []

    def make(name: str = "first", folder: Path = tmp_path / "data") -> Serving:
        serving = Serving(folder, lambda place: load_served(place, shop.home))
        opened.append(serving)
        serving.start(served_runs / name)
        return serving

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def serving(open_serving: OpenServing) -> Serving:
    return open_serving()


@pytest.fixture
def client(serving: Serving, served_runs: Path) -> Iterator[TestClient]:
    """Calls as from this machine."""
    with client_of(serving, served_runs) as made:
        yield made


@contextmanager
def client_of(
    serving: Serving, runs: Path, rules: AccessRules | None = None, **more: Any
) -> Iterator[TestClient]:
    app = make_app(serving, rules or AccessRules(), place_of=lambda name: runs / name, **more)
    with TestClient(app, base_url="http://localhost", client=LOCAL) as client:
        yield client


@pytest.fixture(scope="session")
def make_client(served_runs: Path) -> Callable[..., Any]:
    return lambda serving, rules=None, **more: client_of(serving, served_runs, rules, **more)


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """An app behind a socket, in a thread; yields the port."""
    made = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=PatientProtocol, ws="none", log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([made],))
    thread.start()
    try:
        yield made.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        made.close()


@pytest.fixture
def listen() -> Any:
    return listening


@pytest.fixture(scope="session")
def draw() -> Callable[..., bytes]:
    """A picture file of one colour."""

    def make(colour: Any, kind: str = "PNG", size: tuple[int, int] = (50, 40)) -> bytes:
        data = io.BytesIO()
        Image.new("RGB", size, colour).save(data, kind)
        return data.getvalue()

    return make
