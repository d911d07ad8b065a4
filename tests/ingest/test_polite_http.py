import email.utils
import importlib.util
import sys
import threading
import time
from pathlib import Path

import pytest

from pmm.ingest.download.polite_http import Hosts, Web, WebError, WebOptions, host_of, read_body
from pmm.version import __version__

NAME = "pmm_tests_bad_server"
if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("bad_server.py"))
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
from pmm_tests_bad_server import Answer, BadServer, unused_address  # noqa: E402

QUICK = {"first_delay_s": 0.01, "timeout_s": 0.3}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with BadServer() as running:
        yield running


def fetch(url: str, headers=None, **options) -> bytes:
    with Web(WebOptions(**{**QUICK, **options})).opened(url, headers) as response:
        return read_body(response, 1 << 20, 2.0)


def trouble(url: str, **options) -> str:
    with pytest.raises(WebError) as caught:
        fetch(url, **options)
    return caught.value.trouble


def test_a_request_names_who_asks_and_asks_for_the_bytes_as_they_are(server):
    server.answers["/a"] = Answer(body=b"text")
    assert fetch(server.url + "/a", {"Range": "bytes=0-"}) == b"text"
    headers = server.headers["/a"][0]
    assert headers["User-Agent"] == f"pmm/{__version__}"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Range"] == "bytes=0-"


@pytest.mark.parametrize(
    ("answer", "expected", "requests"),
    [
        (Answer(status=404, body=b"no"), "not found", 1),
        (Answer(status=410), "not found", 1),
        (Answer(status=403), "forbidden", 1),
        (Answer(status=401), "forbidden", 1),
        (Answer(status=400), "refused", 1),
        (Answer(status=500), "server error", 3),
        (Answer(status=429), "server error", 3),
        (Answer(reset=True), "connection", 3),
        (Answer(body=b"late", wait_s=0.8), "timeout", 3),
        (Answer(body=b"12345", send=3), "cut off", 1),
        (Answer(body=bytes(2 << 20)), "too large", 1),
        (Answer(body=bytes(2 << 20), announce=False), "too large", 1),
        (Answer(body=bytes(40), drip_s=0.1), "timeout", 1),
        (Answer(status=302), "redirects", 1),
        (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "redirects", 1),
        (Answer(status=302, headers={"Location": "/a"}), "redirects", 6),
    ],
)
def test_every_way_to_fail_has_its_name_and_its_number_of_tries(server, answer, expected, requests):
    server.answers["/a"] = answer
    assert trouble(server.url + "/a", tries=3) == expected
    assert server.asked["/a"] == requests


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.jpg", "file:///etc/passwd", "ftp://a.b/c", "http://", "http://[::1"),
        *("http://a:99999/", "//a.b/c", "data:image/png;base64,AA", "http://a\ud800.b/c"),
        "http://a..b/",
    ],
)
def test_an_address_that_is_none_is_never_asked(url):
    assert trouble(url) == "bad url"


def test_a_host_that_does_not_exist_or_does_not_listen_is_a_connection_error():
    assert trouble(unused_address() + "/a", tries=2) == "connection"
    assert trouble("http://no-such-host.invalid/a", tries=1) == "connection"


def test_what_fails_for_a_while_is_had_in_the_end(server):
    failing = [Answer(status=503), Answer(reset=True), Answer(wait_s=0.8), Answer(status=429)]
    server.answers["/a"] = [*failing, Answer(body=b"at last")]
    assert fetch(server.url + "/a", tries=5) == b"at last"


def test_redirects_are_followed_to_other_paths(server):
    server.answers["/a"] = Answer(status=301, headers={"Location": "b"})
    server.answers["/b"] = Answer(status=307, headers={"Location": server.url + "/c"})
    server.answers["/c"] = Answer(body=b"here")
    assert fetch(server.url + "/a") == b"here"


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_kept_in_seconds_and_as_a_date(server, as_date):
    value = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.answers["/a"] = [Answer(status=429, headers={"Retry-After": value}), Answer(body=b"x")]
    assert fetch(server.url + "/a") == b"x"
    assert 0.9 <= server.times[1] - server.times[0] < 2.5


def test_retry_after_is_kept_no_longer_than_the_limit(server):
    server.answers["/a"] = [Answer(status=503, headers={"Retry-After": "3600"}), Answer()]
    assert fetch(server.url + "/a", longest_pause_s=0.2) == b""
    assert 0.2 <= server.times[1] - server.times[0] < 1.0


@pytest.mark.parametrize("value", ["soon", "", "-5", "9" * 5000])
def test_a_retry_after_without_sense_does_no_harm(server, value):
    server.answers["/a"] = [Answer(status=503, headers={"Retry-After": value}), Answer()]
    assert fetch(server.url + "/a", longest_pause_s=0.1) == b""


def test_a_pause_holds_for_every_thread(server):
    server.answers["/a"] = [Answer(status=429, headers={"Retry-After": "1"}), Answer()]
    server.answers["/b"] = Answer()
    web = Web(WebOptions(**QUICK))

    def get(path):
        with web.opened(server.url + path) as response:
            read_body(response, 10, 1.0)

    first = threading.Thread(target=get, args=("/a",))
    first.start()
    while not server.times:
        time.sleep(0.01)
    time.sleep(0.1)
    get("/b")
    first.join()
    assert server.times[1] - server.times[0] >= 0.9


def test_connections_to_a_host_never_exceed_the_limit(server):
    server.answers["/a"] = Answer(body=b"x", wait_s=0.05)
    web = Web(WebOptions(connections_per_host=3))

    def get():
        with web.opened(server.url + "/a") as response:
            read_body(response, 10, 1.0)

    threads = [threading.Thread(target=get) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked["/a"] == 12
    assert server.most_at_once == 3


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    server.answers["http://pictures.example/a"] = Answer(body=b"by proxy")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    assert fetch("http://pictures.example/a") == b"by proxy"


def test_hosts_are_told_apart_by_name_and_port():
    assert host_of("HTTP://A.b/x") == "a.b:80"
    assert host_of("https://a.b:444/x") == "a.b:444"


def test_a_longer_pause_is_not_shortened_by_a_later_one():
    hosts = Hosts(1, 100.0)
    hosts.pause("a", 50)
    hosts.pause("a", 1)
    assert hosts.pause_left_s("a") > 40
    assert not hosts.try_take("a")
    assert hosts.try_take("b")
