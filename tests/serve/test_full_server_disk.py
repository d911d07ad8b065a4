"""A server whose disk is full: it says so, loses nothing, and goes on answering."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIZE = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path, mount_disk: Any) -> Iterator[Path]:
    """A file system of its own."""
    with mount_disk(tmp_path / "mounted", SIZE) as place:
        yield place


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes free."""
    found = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - free)


def test_a_full_disk_answers_507_and_the_server_goes_on(
    open_serving: Any, make_client: Any, draw: Any, small_disk: Path
) -> None:
    serving = open_serving("first", small_disk / "data")

    def put(client: Any, name: str) -> int:
        parts = [("text", (None, f"hat {name}")), ("image", ("a.png", image))]
        return int(client.put(f"/items/{name}", files=parts).status_code)

    image = draw("red", "BMP", (100, 100))
    with make_client(serving) as client:
        assert put(client, "before") == 200
        fill(small_disk, 70_000)
        statuses = [put(client, f"n{k}") for k in range(6)]
        full = statuses.count(507)
        assert statuses == [200] * (6 - full) + [507] * full
        assert 1 <= full < 6
        answer = client.put("/items/x", files=[("text", (None, "hat")), ("image", ("a", image))])
        assert "is full, so nothing was added" in answer.json()["error"]
        assert client.get("/items/x").status_code == 404
        found = client.post("/recommend", json={"k": 100}).json()["items"]
        names = {each["item_id"] for each in found}
        assert {f"n{k}" in names for k in range(6 - full)} == {True}
        assert f"n{6 - full}" not in names
        fill_up = client.delete("/items/before").status_code  # a few bytes, which may find room
        assert fill_up in (200, 507)
        (small_disk / "filler").unlink()
        assert put(client, "after") == 200
        before = client.get("/items?query=hat&limit=50").json()
    serving.close()
    with make_client(open_serving("first", small_disk / "data")) as client:
        assert client.get("/items?query=hat&limit=50").json() == before
        assert client.get("/items/n0/image").content == image
