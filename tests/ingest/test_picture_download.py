import importlib.util
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pmm.errors import InputError, StorageError
from pmm.ingest.download.picture_download import DownloadOptions, download_pictures
from pmm.ingest.download.picture_fetch import Failed, FetchProcesses
from pmm.ingest.download.picture_judge import SUFFIX_OF, judge
from pmm.ingest.download.picture_store import Journal, PictureStore, Result

NAME = "pmm_tests_bad_server"
if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("bad_server.py"))
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
from pmm_tests_bad_server import Answer, BadServer, picture, unused_address  # noqa: E402

QUICK = {
    "first_delay_s": 0.01,
    # A stalled machine is not to look like a silent server: tests of that say how long they wait.
    "timeout_s": 10.0,
    "tries": 2,
    "give_up_errors": 4,
    "give_up_s": 0.0,
    "longest_s": 2.0,
    "allow_private_addresses": True,
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with BadServer() as running:
        yield running


@pytest.fixture
def store(tmp_path):
    return PictureStore(tmp_path / "downloads")


@pytest.fixture
def download(server, store):
    """Downloads {item: paths or addresses} and returns the rows by item."""

    def run(wanted: dict[str, list[str]], **options) -> dict[str, dict]:
        full = {
            item: [server.url + url if url.startswith("/") else url for url in urls]
            for item, urls in wanted.items()
        }
        counts = download_pictures(store, full.items(), DownloadOptions(**{**QUICK, **options}))
        rows = {row["item_id"]: row for row in pq.read_table(store.table).to_pylist()}
        assert sum(counts.values()) == len(wanted)
        return rows

    return run


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""
    data = bytearray(picture(kind="PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


JPEG = picture(1)
FAILURES = {
    "not found": Answer(status=404),
    "forbidden": Answer(status=403),
    "refused": Answer(status=418),
    "timeout": Answer(body=JPEG, wait_s=4.0),
    "connection": Answer(reset=True),
    "cut off": Answer(body=JPEG, send=len(JPEG) // 2),
    "server error": Answer(status=500),
    "redirects": Answer(status=302, headers={"Location": "/redirects"}),
    "zero bytes": Answer(),
    "not a picture": Answer(body=b"<html>Sorry</html>"),
    "truncated": Answer(body=picture(side=300)[:-500]),
    "broken": Answer(body=picture(kind="PNG")[:100] + bytes(50) + picture(kind="PNG")[150:]),
    "placeholder": Answer(body=picture(kind="GIF", side=1)),
    "too large": Answer(body=bomb(12_000)),
}
PASSING = {"timeout", "connection", "cut off", "server error"}


def test_every_failure_has_its_own_row(server, download, store):
    server.answers |= {f"/{name.replace(' ', '-')}": each for name, each in FAILURES.items()}
    server.answers["/redirects"] = FAILURES["redirects"]
    wanted = {name: [f"/{name.replace(' ', '-')}"] for name in FAILURES}
    rows = download(wanted, give_up_errors=99, timeout_s=1.5, longest_s=30.0)
    assert {name: row["outcome"] for name, row in rows.items()} == {n: n for n in FAILURES}
    assert rows["not found"]["status"] == 404
    assert rows["too large"]["width"] == 12_000
    assert rows["timeout"]["tries"] == 2
    assert rows["forbidden"]["tries"] == 1
    assert not any(row["path"] for row in rows.values())
    assert store.paths() == {}
    assert store.counts() == dict.fromkeys(sorted(FAILURES), 1)


def test_final_outcomes_are_not_asked_again_and_passing_ones_are(server, download):
    wanted = {name: [f"/{name.replace(' ', '-')}"] for name in FAILURES}
    server.answers |= {f"/{name.replace(' ', '-')}": each for name, each in FAILURES.items()}
    download(wanted, give_up_errors=99, timeout_s=1.5, longest_s=30.0)
    server.asked.clear()
    server.answers = {path: Answer(body=JPEG) for (path,) in wanted.values()}
    rows = download(wanted)
    assert set(server.asked) == {f"/{name.replace(' ', '-')}" for name in PASSING}
    assert {name for name, row in rows.items() if row["outcome"] == "ok"} == PASSING


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a.b/c", "", "a.jpg", "http://a\ud800/"]
)
def test_an_address_that_is_none_is_a_bad_url(download, url):
    row = download({"a": [url]})["a"]
    assert (row["outcome"], row["tries"]) == ("bad url", 0)


def test_an_item_without_address_has_a_row(download):
    assert download({"a": []})["a"]["outcome"] == "no url"


def test_a_picture_is_kept_under_its_content_and_true_format(server, download, store):
    kinds = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
    for kind in kinds:
        server.answers[f"/{kind}.jpg"] = Answer(body=picture(kind=kind))
    rows = download({kind: [f"/{kind}.jpg"] for kind in kinds})
    for kind, suffix in kinds.items():
        path = rows[kind]["path"]
        assert path.endswith(f".{suffix}")
        assert path.split("/")[1] == path.split("/")[2][:2]
        assert (store.folder / path).read_bytes() == picture(kind=kind)
        assert (rows[kind]["width"], rows[kind]["height"]) == (32, 32)
        assert rows[kind]["bytes"] == len(picture(kind=kind))
    assert store.paths() == {kind: rows[kind]["path"] for kind in kinds}


def test_every_format_that_is_kept_is_one_that_shards_are_made_from():
    from pmm.shards import jpeg as pictures

    assert set(SUFFIX_OF) <= set(pictures._FORMATS)


def test_the_next_address_is_asked_where_one_fails(server, download):
    server.answers["/hi"] = Answer(status=500)
    server.answers["/lo"] = Answer(body=JPEG)
    row = download({"a": ["/gone", "/hi", "/lo", "/never"]})["a"]
    assert (row["outcome"], row["url"]) == ("ok", server.url + "/lo")
    assert server.asked["/never"] == 0


def test_the_first_address_is_enough_where_it_answers(server, download):
    server.answers["/hi"] = server.answers["/lo"] = Answer(body=JPEG)
    assert download({"a": ["/hi", "/lo"]})["a"]["url"] == server.url + "/hi"
    assert server.asked["/lo"] == 0


def test_an_item_that_has_a_picture_is_left_alone_though_its_first_address_failed(server, download):
    server.answers |= {"/hi": Answer(status=500), "/lo": Answer(body=JPEG)}
    download({"a": ["/hi", "/lo"]})
    server.asked.clear()
    assert download({"a": ["/hi", "/lo"]})["a"]["outcome"] == "ok"
    assert not server.asked


def test_the_row_tells_of_the_last_address_where_all_fail(server, download):
    server.answers["/lo"] = Answer(body=b"")
    row = download({"a": ["/hi", "/lo"]})["a"]
    assert (row["outcome"], row["url"]) == ("zero bytes", server.url + "/lo")


def test_an_address_of_several_items_is_fetched_once(server, download):
    server.answers["/a"] = Answer(body=JPEG, wait_s=0.2)
    rows = download({f"item {n}": ["/a"] for n in range(50)})
    assert server.asked["/a"] == 1
    assert {row["outcome"] for row in rows.values()} == {"ok"}


def test_equal_pictures_of_different_addresses_are_one_file(server, download, store):
    server.answers |= {f"/{n}": Answer(body=JPEG) for n in range(20)}
    download({str(n): [f"/{n}"] for n in range(20)})
    assert len(set(store.paths().values())) == 1
    assert len([p for p in store.folder.rglob("*.jpg") if p.is_file()]) == 1


def test_connections_to_a_host_stay_within_the_limit(server, download):
    server.answers |= {f"/{n}": Answer(body=picture(n), wait_s=0.02) for n in range(40)}
    rows = download({str(n): [f"/{n}"] for n in range(40)}, connections_per_host=3)
    assert (server.most_at_once, server.most_open) == (3, 3)
    assert {row["outcome"] for row in rows.values()} == {"ok"}


def test_a_redirect_counts_for_the_host_it_leads_to(server, download):
    with BadServer() as other:
        for n in range(20):
            server.answers[f"/{n}"] = Answer(status=302, headers={"Location": f"{other.url}/{n}"})
            other.answers[f"/{n}"] = Answer(body=picture(n), wait_s=0.05)
        rows = download({str(n): [f"/{n}"] for n in range(20)}, connections_per_host=2)
        assert other.most_at_once <= 2
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    assert rows["3"]["url"] == server.url + "/3"


def test_a_host_that_asks_for_time_gets_it_from_every_connection(server, download):
    server.answers |= {f"/{n}": Answer(body=picture(n)) for n in range(30)}
    later = Answer(status=429, headers={"Retry-After": "1"})
    server.answers["/0"] = [later, Answer(body=picture(0))]
    rows = download({str(n): [f"/{n}"] for n in range(30)}, connections_per_host=1)
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    assert server.times[1] - server.times[0] >= 0.9


def test_another_host_goes_on_while_one_is_paused(server, download):
    with BadServer() as other:
        other.answers |= {f"/{n}": Answer(body=picture(n)) for n in range(10)}
        server.answers["/a"] = [Answer(status=503, headers={"Retry-After": "1"}), Answer(body=JPEG)]
        wanted = {"a": ["/a"], "b": ["/a"], **{str(n): [f"{other.url}/{n}"] for n in range(10)}}
        download(wanted, connections_per_host=2)
        assert max(other.times) < server.times[1]


def test_a_host_that_only_fails_is_given_up_fast(download, caplog):
    dead = unused_address()
    start = time.monotonic()
    rows = download({str(n): [f"{dead}/{n}"] for n in range(3000)}, first_delay_s=5.0)
    assert time.monotonic() - start < 5
    assert {row["outcome"] for row in rows.values()} == {"connection"}
    assert "given up after 4 connection errors" in caplog.text


def test_an_item_falls_back_to_another_host_when_its_first_is_given_up(server, download):
    dead = unused_address()
    server.answers["/lo"] = Answer(body=JPEG)
    rows = download({str(n): [f"{dead}/{n}", "/lo"] for n in range(50)})
    assert {row["outcome"] for row in rows.values()} == {"ok"}


def test_errors_between_answers_do_not_give_a_host_up(server, download):
    server.answers |= {f"/{n}": Answer(reset=True) for n in range(0, 40, 2)}
    server.answers |= {f"/{n}": Answer(body=picture(n)) for n in range(1, 40, 2)}
    rows = download({str(n): [f"/{n}"] for n in range(40)}, connections_per_host=1, tries=1)
    assert sum(row["outcome"] == "ok" for row in rows.values()) == 20


def test_a_picture_that_would_need_gigabytes_is_refused_by_its_header(server, download):
    server.answers["/a"] = Answer(body=bomb(60_000))
    assert download({"a": ["/a"]})["a"]["outcome"] == "too large"


@pytest.mark.parametrize("limit", [{"max_bytes": 100}, {"max_pixels": 32 * 32 - 1}])
def test_pictures_beyond_the_limits_are_too_large(server, download, limit):
    server.answers["/a"] = Answer(body=JPEG)
    assert download({"a": ["/a"]}, **limit)["a"]["outcome"] == "too large"


def test_a_body_that_never_ends_is_a_timeout(server, download):
    server.answers["/a"] = Answer(body=JPEG, drip_s=0.1)
    row = download({"a": ["/a"]}, longest_s=0.4, tries=1)["a"]
    assert row["outcome"] == "timeout"


@pytest.mark.parametrize("what", [b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\nX-A: "])
def test_a_head_that_never_ends_is_a_timeout_and_asked_for_once(server, download, what):
    server.answers |= {"/a": Answer(start=what, again=b"x"), "/b": Answer(body=JPEG)}
    rows = download({"a": ["/a", "/b"]}, longest_s=0.5, timeout_s=60.0, tries=5)
    assert (rows["a"]["outcome"], server.asked["/a"]) == ("ok", 1)


def test_private_addresses_are_refused_counted_and_asked_once_they_are_allowed(
    server, download, caplog
):
    server.answers |= {"/a": Answer(body=JPEG), "/b": Answer(body=JPEG)}
    wanted = {"a": ["/a"], "b": ["http://2130706433:9/latest/meta-data", "/b"]}
    rows = download(wanted, allow_private_addresses=False)
    assert {row["outcome"] for row in rows.values()} == {"refused address"}
    assert not server.asked
    assert "2 pictures were not asked for" in caplog.text
    assert "--allow-private-addresses" in caplog.text
    rows = download(wanted, tries=1)
    assert [rows[each]["outcome"] for each in "ab"] == ["ok", "ok"]


def test_a_redirect_to_a_private_address_is_refused_too(server, download, monkeypatch):
    """Here 127.0.0.1 counts as public; where it leads to does not."""
    monkeypatch.setattr(
        "pmm.ingest.download.public_addresses.is_public", lambda address: address == "127.0.0.1"
    )
    server.answers["/a"] = Answer(status=302, headers={"Location": "http://127.0.0.2:9/b"})
    row = download({"a": ["/a"]}, allow_private_addresses=False)["a"]
    assert (row["outcome"], server.asked["/a"]) == ("refused address", 1)


def test_helper_processes_refuse_private_addresses_too(store):
    options = DownloadOptions(**{**QUICK, "allow_private_addresses": False})
    helpers = FetchProcesses(store.folder, options.web(), options.limits(), 1, 1)
    try:
        deadline = time.monotonic() + 60
        while (reply := helpers.get(0, unused_address() + "/a", lambda: None)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        helpers.close()
    assert reply == Failed(trouble="refused address")


def test_a_picture_that_has_gone_from_the_folder_is_fetched_again(server, download, store):
    server.answers["/a"] = Answer(body=JPEG)
    row = download({"a": ["/a"]})["a"]
    (store.folder / row["path"]).write_bytes(b"short")
    assert download({"a": ["/a"]})["a"]["path"] == row["path"]
    assert (store.folder / row["path"]).read_bytes() == JPEG
    assert server.asked["/a"] == 2


def test_items_of_earlier_downloads_stay_and_new_rows_replace_old(server, download, store):
    server.answers |= {"/a": Answer(status=500), "/b": Answer(body=JPEG)}
    download({"a": ["/a"], "b": ["/b"]})
    server.answers["/a"] = Answer(body=JPEG)
    rows = pq.read_table(store.table).to_pylist()
    assert [row["outcome"] for row in rows] == ["server error", "ok"]
    assert download({"a": ["/a"]})["b"]["outcome"] == "ok"
    assert store.counts() == {"ok": 2}


def test_an_item_that_is_listed_twice_has_one_row(server, store):
    server.answers["/a"] = Answer(body=JPEG)
    wanted = [("a", [server.url + "/a"]), ("a", [server.url + "/b"])]
    assert download_pictures(store, iter(wanted), DownloadOptions(**QUICK)) == {"ok": 1}


def test_the_digest_depends_on_outcomes_and_not_on_their_order(server, tmp_path):
    server.answers |= {f"/{n}": Answer(body=picture(n)) for n in range(9)}
    wanted = [(str(n), [f"{server.url}/{n}"]) for n in range(10)]
    digests = []
    for name, some in (("a", wanted), ("b", wanted[::-1]), ("c", wanted[:5]), ("d", [])):
        store = PictureStore(tmp_path / name)
        digests.append(store.digest())
        download_pictures(store, some, DownloadOptions(**QUICK))
        digests.append(store.digest())
    before, (a, b, c, d) = set(digests[::2]), digests[1::2]
    assert len(before) == 1
    assert a == b
    assert len({a, c, d, *before}) == 4


def test_a_store_without_anything_is_empty(store):
    assert (store.paths(), store.counts()) == ({}, {})


def test_a_torn_last_line_of_the_journal_is_dropped(server, download, store):
    server.answers |= {f"/{n}": Answer(body=picture(n)) for n in range(5)}
    wanted = {str(n): [f"/{n}"] for n in range(5)}
    first = download(wanted)
    whole = store.journal.read_bytes()
    store.journal.write_bytes(whole[:-20])
    server.asked.clear()
    assert download(wanted) == first
    assert sum(server.asked.values()) == 1
    assert store.journal.read_bytes().count(b"\n") == 5


def test_any_damage_to_the_journal_costs_no_more_than_asking_again(server, download, store):
    server.answers |= {f"/{n}": Answer(body=picture(n)) for n in range(5)}
    wanted = {str(n): [f"/{n}"] for n in range(5)}
    first = download(wanted)
    whole = store.journal.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(12):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        store.journal.write_bytes(bytes(data))
        rows = download(wanted)
        assert {n: row["outcome"] for n, row in rows.items()} == dict.fromkeys(wanted, "ok")
        assert store.paths() == {n: row["path"] for n, row in first.items()}


def test_the_journal_finds_the_last_line_of_an_address_among_many(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for n in range(70_000):  # more than are kept in a dict
        journal.add(Result(url=f"http://a/{n}", outcome="timeout", tries=1))
    journal.add(Result(url="http://a/5", outcome="not found", tries=2))
    journal.close()
    again = Journal(tmp_path / "journal.jsonl")
    assert again.find("http://a/5") == (
        Result(url="http://a/5", outcome="not found", tries=2),
        False,
    )
    assert again.find("http://a/69999")[0].outcome == "timeout"
    assert again.find("http://a/70000") is None
    again.close()


def running(process: int) -> tuple[int, bytes] | None:
    """A running process' parent and command; None if it has ended."""
    place = Path(f"/proc/{process}")
    try:
        state, parent = (place / "stat").read_text().rpartition(") ")[2].split()[:2]
        return None if state == "Z" else (int(parent), (place / "cmdline").read_bytes())
    except OSError:
        return None


def helpers(parent: int) -> list[int]:
    """The running helper processes of a process."""
    everything = {int(each.name): running(int(each.name)) for each in Path("/proc").glob("[0-9]*")}
    return [
        process
        for process, found in everything.items()
        if found and found[0] == parent and b"picture_fetch" in found[1]
    ]


def many(server, count: int, **answer) -> dict[str, list[str]]:
    """So many items that helper processes are started, some without a picture."""
    server.answers |= {f"/{n}": Answer(body=picture(n), **answer) for n in range(count) if n % 9}
    return {str(n): [f"/{n}", f"/{n + 1}"] if n % 2 else [f"/{n}"] for n in range(count)}


def test_with_helper_processes_all_is_as_without(server, download, tmp_path):
    wanted = many(server, 1200, wait_s=0.005)
    rows = download(wanted, processes=2)
    assert len([n for n in rows if rows[n]["outcome"] == "ok"]) == 1200 - 67
    assert server.most_at_once <= 8
    assert max(server.asked.values()) == 1
    assert helpers(os.getpid()) == []
    full = [(item, [server.url + url for url in urls]) for item, urls in wanted.items()]
    without = PictureStore(tmp_path / "without")
    download_pictures(without, full, DownloadOptions(**QUICK, processes=0))
    assert PictureStore(tmp_path / "downloads").digest() == without.digest()


@pytest.mark.parametrize("limit", [1, 3])
def test_helpers_together_keep_to_the_limit(server, download, limit):
    wanted = many(server, 500)
    # Helpers begin when this process has let go of its own connections.
    download(wanted, processes=2, connections_per_host=limit)
    assert server.most_at_once == limit
    assert server.most_open <= 2 * limit


def test_helpers_that_are_killed_are_done_without(server, download):
    wanted = many(server, 700, wait_s=0.03)
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(found := helpers(os.getpid())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # they begin to answer
        for each in found:
            os.kill(each, signal.SIGKILL)
            killed.append(each)

    thread = threading.Thread(target=kill)
    thread.start()
    rows = download(wanted, processes=2)
    thread.join()
    assert len(killed) == 2
    assert len(rows) == 700


def test_ctrl_c_writes_what_there_is_and_the_next_run_goes_on(server, store):
    server.answers |= {f"/{n}": Answer(body=picture(n), wait_s=0.05) for n in range(60)}
    wanted = [(str(n), [f"{server.url}/{n}"]) for n in range(60)]
    timer = threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        download_pictures(store, wanted, DownloadOptions(**QUICK, connections_per_host=2))
    had = store.counts()["ok"]
    assert 0 < had < 60
    assert download_pictures(store, wanted, DownloadOptions(**QUICK)) == {"ok": 60}
    assert sum(server.asked.values()) == 60


RUN = """
import sys, json
from pathlib import Path
from pmm.ingest.download.picture_download import (DownloadOptions, download_pictures)
from pmm.ingest.download.picture_store import (PictureStore)
wanted = [(str(n), [f"{sys.argv[2]}/{n}"]) for n in range(int(sys.argv[3]))]
options = DownloadOptions(allow_private_addresses=True)
print(json.dumps(download_pictures(PictureStore(Path(sys.argv[1])), wanted, options)))
"""


@pytest.mark.parametrize("count", [80, 600])  # without and with helpers
def test_a_kill_loses_only_what_was_in_flight(server, store, count):
    limit = DownloadOptions().connections_per_host
    server.answers |= {f"/{n}": Answer(body=picture(n), wait_s=8 / count) for n in range(count)}
    command = [sys.executable, "-c", RUN, str(store.folder), server.url, str(count)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(server.asked.values()) < count * 2 // 3:
        time.sleep(0.01)
    beside = helpers(killed.pid)
    killed.kill()
    killed.wait()
    assert bool(beside) == (count == 600)
    assert not store.table.exists()
    done = store.journal.read_bytes().count(b"\n")
    assert count * 2 // 3 - 2 * limit <= done < count
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == {"ok": count}
    assert sum(server.asked.values()) <= count + limit + 2
    assert len(store.paths()) == count
    assert not list((store.folder / "incoming").iterdir())
    assert not [each for each in beside if running(each)]


FULL = """
import resource, sys
from pathlib import Path
from pmm.errors import StorageError
from pmm.ingest.download.picture_download import (DownloadOptions, download_pictures)
from pmm.ingest.download.picture_store import (PictureStore)
store = PictureStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    options = DownloadOptions(allow_private_addresses=True)
    download_pictures(store, [("a", [sys.argv[2] + "/a"])], options)
except StorageError as error:
    print(error)
"""


def test_a_full_disk_is_one_clear_message_and_the_next_run_goes_on(server, store, download):
    server.answers["/a"] = Answer(body=picture(side=200))
    command = [sys.executable, "-c", FULL, str(store.folder), server.url]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is full" in run.stdout
    assert run.stderr == ""
    assert download({"a": ["/a"]})["a"]["outcome"] == "ok"


def test_two_processes_do_not_download_to_one_folder(store, download):
    store.folder.mkdir()
    program = "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]);"
    program += "lock.acquire(); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(store.folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(StorageError, match="another process downloads"):
            download({"a": ["/a"]})
        other.kill()


def test_options_without_sense_are_refused(download):
    with pytest.raises(InputError, match="1 or more"):
        download({"a": ["/a"]}, connections_per_host=0)


def test_an_error_of_the_caller_comes_through_and_what_there_is_is_kept(server, store):
    server.answers["/a"] = Answer(body=JPEG)

    def wanted():
        yield "a", [server.url + "/a"]
        while not server.asked["/a"]:
            time.sleep(0.01)
        time.sleep(0.2)
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        download_pictures(store, wanted(), DownloadOptions(**QUICK))
    assert store.counts() == {"ok": 1}


def test_wanted_items_are_read_only_as_they_are_needed(server, store):
    read, begin = [], time.monotonic()

    def wanted():
        for n in range(20_000):
            if time.monotonic() > begin + 0.5:
                raise KeyboardInterrupt  # a signal could get lost in a callback of the collector
            read.append(n)
            yield str(n), [f"{server.url}/{n}"]

    server.answers |= {"/0": Answer(status=503, headers={"Retry-After": "1"})}
    options = DownloadOptions(**{**QUICK, "connections_per_host": 1})
    with pytest.raises(KeyboardInterrupt):
        download_pictures(store, wanted(), options)
    assert len(read) < 10_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "progressive", "CMYK", "grey"])
def test_a_picture_is_ok_just_where_shards_can_be_made_of_it(kind):
    from pmm.shards.jpeg import PictureError, shrink

    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    mode = {"CMYK": "CMYK", "grey": "L"}.get(kind, "RGB")
    buffer = io.BytesIO()
    shape = kind if kind in ("PNG", "WEBP", "GIF") else "JPEG"
    Image.fromarray(pixels).convert(mode).save(buffer, shape, progressive=kind == "progressive")
    whole = buffer.getvalue()
    assert judge(whole, 10**6).fault is None
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        if rng.random() < 0.3:
            data = data[: rng.integers(1, len(data))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = judge(bytes(data), 10**6)
            try:
                shrink(bytes(data), 224, 10**6)
                readable = True
            except PictureError:
                readable = False
        assert (found.fault in (None, "placeholder")) == readable, (found, kind)


def test_memory_stays_small_where_all_outcomes_are_known(tmp_path):
    store = PictureStore(tmp_path)
    journal = Journal(store.journal)
    for n in range(30_000):
        journal.add(Result(url=f"http://a.b/{n}.jpg", outcome="not found", status=404, tries=1))
    journal.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wanted = ((str(n), [f"http://a.b/{n}.jpg"]) for n in range(30_000))
    assert download_pictures(store, wanted, DownloadOptions(allow_private_addresses=True)) == {
        "not found": 30_000
    }
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


def test_an_item_never_takes_a_worse_picture_because_another_item_had_it(server, download, store):
    server.answers |= {"/best": Answer(body=picture(7)), "/shared": Answer(body=picture(8))}
    download({"first": ["/shared"]})
    rows = download({"first": ["/shared"], "second": ["/best", "/shared"]})
    assert (store.folder / rows["second"]["path"]).read_bytes() == picture(7)
