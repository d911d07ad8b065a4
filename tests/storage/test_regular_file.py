"""What only has a name is opened without waiting, and never leads out of its folder."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pmm.errors import InputError
from pmm.storage import regular_file
from pmm.storage.artefact import Digests
from pmm.storage.regular_file import NotRegular, OutsideFolder, open_below, open_regular

PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("secret", "pics/a/1", "pics/2", "lent/3", "lent/deep/4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "pics"


def read(folder: Path, name: str) -> bytes:
    with open_below(folder, name) as file:
        return file.read()


def ends(pipe: Path, function: Callable[[], object]) -> bool:
    """Whether a function ends though nobody writes to a pipe; it is let go in any case."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    ended = not thread.is_alive()
    if not ended:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
    return ended


def test_links_inside_the_folder_and_linked_folders_belong_to_it(folder: Path) -> None:
    (folder / "a" / "link").symlink_to("../2")
    (folder / "absolute").symlink_to(folder / "a" / "1")
    (folder / "part").symlink_to(folder.parent / "lent")
    (folder.parent / "lent" / "deep" / "link").symlink_to("../3")
    assert read(folder, "a/1") == b"pics/a/1"
    assert read(folder, "a/link") == b"pics/2"
    assert read(folder, "absolute") == b"pics/a/1"
    assert read(folder, "part/deep/4") == b"lent/deep/4"
    assert read(folder, "part/deep/link") == b"lent/3"


def test_a_folder_reached_by_a_link_is_a_folder_like_any_other(folder: Path) -> None:
    (folder / "link").symlink_to("2")
    (folder.parent / "door").symlink_to(folder)
    assert read(folder.parent / "door", "link") == b"pics/2"


@pytest.mark.parametrize("name", ["out", "chain", "part/out", "../secret", "a/../../secret", "abs"])
def test_what_leads_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    (folder / "out").symlink_to("../secret")
    (folder / "chain").symlink_to("out")
    (folder / "part").symlink_to(folder.parent / "lent")
    (folder.parent / "lent" / "out").symlink_to(secret)
    with pytest.raises(OutsideFolder):
        open_below(folder, str(secret) if name == "abs" else name)


def test_a_folder_whose_name_begins_alike_lies_outside(folder: Path) -> None:
    (folder.parent / "pics2").mkdir()
    (folder.parent / "pics2" / "x").write_bytes(b"x")
    (folder / "out").symlink_to("../pics2/x")
    with pytest.raises(OutsideFolder):
        open_below(folder, "out")


def test_links_that_lead_nowhere_are_missing_and_circles_an_error(folder: Path) -> None:
    (folder / "gone").symlink_to("nothing")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(FileNotFoundError):
        open_below(folder, "gone")
    with pytest.raises(OSError, match="circle"):
        open_below(folder, "circle")


def test_a_link_that_is_turned_between_the_look_and_the_opening_leads_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "link").symlink_to("2")
    look = os.path.realpath

    def turn(path: str | Path, **options: bool) -> str:
        found = str(look(path, **options))
        if Path(path).name == "link":  # it was seen to lead to pics/2, which now is a link itself
            (folder / "2").unlink()
            (folder / "2").symlink_to("../secret")
        return found

    monkeypatch.setattr(regular_file.os.path, "realpath", turn)
    with pytest.raises(OSError, match="2"):
        open_below(folder, "link")


def test_pipes_devices_and_folders_are_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("pipe")
    (folder / "zero").symlink_to("/dev/zero")
    found: dict[str, str] = {}

    def run() -> None:
        for name in ("pipe", "link", "a"):
            try:
                open_below(folder, name)
            except OSError as error:
                found[name] = type(error).__name__

    assert ends(folder / "pipe", run)
    assert found == dict.fromkeys(("pipe", "link", "a"), "NotRegular")
    with pytest.raises(NotRegular):
        open_regular(folder / "zero")
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(folder / "socket"))
        with pytest.raises(OSError, match="socket"):
            open_below(folder, "socket")


def test_digests_of_pictures_end_whatever_lies_under_their_names(folder: Path) -> None:
    digests = Digests(folder.parent / "home")
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "out").symlink_to("../secret")
    names = ["2", "pipe", "zero", "out", "gone"]
    found: list[str] = []
    assert ends(folder / "pipe", lambda: found.append(digests.files(folder, names)))
    (folder.parent / "secret").write_bytes(b"another")
    assert digests.files(folder, names) == found[0]  # what lies outside is no part of it
    (folder / "out").unlink()
    (folder / "out").write_bytes(b"another")
    assert digests.files(folder, names) != found[0]


def test_a_link_that_becomes_the_file_it_led_to_is_another_picture(folder: Path) -> None:
    """Its size and its time stay, so both must not be all that is looked at."""
    digests = Digests(folder.parent / "home")
    secret = folder.parent / "secret"
    os.utime(secret, (1, 1))
    (folder / "out").symlink_to(secret)
    os.utime(folder / "2", (1, 1))
    before = digests.files(folder, ["2", "out"])
    (folder / "out").unlink()
    (folder / "out").write_bytes(secret.read_bytes())
    os.utime(folder / "out", (1, 1))
    assert digests.files(folder, ["2", "out"]) != before


def test_of_a_file_larger_than_any_picture_the_size_counts(folder: Path) -> None:
    digests = Digests(folder.parent / "home")
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)  # to read it would take an hour
    one = digests.files(folder, ["2", "huge"], most_bytes=1 << 20)
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 39)
    assert digests.files(folder, ["2", "huge"], most_bytes=1 << 20) != one


def test_the_digest_of_an_input_that_is_no_plain_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    found: list[str] = []

    def run() -> None:
        try:
            Digests(folder.parent / "home").file(folder / "pipe")
        except InputError as error:
            found.append(str(error))

    assert ends(folder / "pipe", run)
    assert found == [f"{folder / 'pipe'} cannot be read (it is no plain file)"]
