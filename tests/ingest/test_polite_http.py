import contextlib
import email.utils
import importlib.util
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pmm.ingest.download import timed_connections
from pmm.ingest.download.polite_http import (
    Hosts,
    Web,
    WebError,
    WebOptions,
    host_of,
    read_body,
    steady_pieces,
)
from pmm.ingest.download.public_addresses import is_public
from pmm.version import __version__

NAME = "pmm_tests_bad_server"
if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("bad_server.py"))
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
from pmm_tests_bad_server import Answer, BadServer, unused_address  # noqa: E402

QUICK = {"first_delay_s": 0.01, "timeout_s": 0.3, "longest_s": 2.0, "allow_private": True}


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
        return read_body(response, 1 << 20)


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


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEVER_DONE = {
    "status line": Answer(start=b"HTTP/1.1 200 ", again=b"O"),
    "a header": Answer(start=HEAD + b"X-A: ", again=b"x"),
    "headers to no end": Answer(start=b"HTTP/1.1 200 OK\r\nX", again=b"-"),
    "100 Continue": Answer(again=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of 100 Continue": Answer(start=b"HTTP/1.1 100 Continue\r\n", again=b"x"),
    "the size of a chunk": Answer(start=CHUNKS, again=b"0"),
    "chunks of a byte": Answer(start=CHUNKS, again=b"1\r\nx\r\n"),
    "behind the last chunk": Answer(start=CHUNKS + b"0\r\n", again=b"X: y\r\n"),
    "a body": Answer(start=HEAD + b"Content-Length: 100000\r\n\r\n", again=b"x"),
    "a body to no end": Answer(start=HEAD + b"\r\n", again=b"x"),
    "the body of a redirect": Answer(
        start=b"HTTP/1.1 302 F\r\nLocation: /b\r\nContent-Length: 50000\r\n\r\n", again=b"x"
    ),
}


@pytest.mark.parametrize("what", NEVER_DONE)
def test_a_host_that_is_never_silent_and_never_done_is_a_timeout(server, what):
    """Bytes come all the time, so that no silence ends it; the deadline alone does."""
    server.answers["/a"] = NEVER_DONE[what]
    server.answers["/b"] = NEVER_DONE["a header"]
    assert trouble(server.url + "/a", longest_s=0.5, timeout_s=60.0, tries=3) == "timeout"
    # One that took all the time that there is would only take it again.
    assert server.asked["/a"] == 1


def test_a_host_that_redirects_in_chunks_to_no_end_is_left_at_once(server):
    """What it says of its length beside the chunks counts for nothing."""
    start = CHUNKS.replace(b"200 OK", b"302 Found\r\nLocation: /b\r\nContent-Length: 9")
    server.answers["/a"] = Answer(start=start, again=b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    server.answers["/b"] = Answer(body=b"here")
    assert fetch(server.url + "/a", longest_s=60.0, timeout_s=60.0) == b"here"


@pytest.mark.parametrize("what", ["nothing", "bytes"])
def test_a_slow_handshake_is_a_timeout(what):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with contextlib.suppress(OSError):
                client, _ = listening.accept()
                with client:
                    # A record of TLS that announces 16 KiB, which never all come.
                    client.sendall(b"\x16\x03\x03\x40\x00")
                    while True:
                        client.sendall(b"x")
                        time.sleep(0.01)

        if what == "bytes":
            threading.Thread(target=drip, daemon=True).start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/a"
        assert trouble(url, longest_s=0.5, timeout_s=60.0, tries=1) == "timeout"


@pytest.fixture
def certificate(tmp_path):
    """A certificate of "shop.example" that nobody knows, with its key; both in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl, which is not here")
    key, own = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"),
            *("-keyout", key, "-out", own),
        ],
        check=True,
        capture_output=True,
    )
    whole = tmp_path / "both.pem"
    whole.write_bytes(key.read_bytes() + own.read_bytes())
    return whole


def test_tls_has_the_name_and_is_checked_by_it(server, certificate, monkeypatch):
    """Though what is connected to is an address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.encrypt(context)
    names(monkeypatch, shop_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
    server.answers["/a"] = Answer(body=b"here")
    server.answers["/b"] = NEVER_DONE["a header"]
    port = server.host.split(":")[1]
    assert trouble(f"https://shop.example:{port}/a", tries=1) == "connection"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    calm = {"timeout_s": 60.0, "longest_s": 60.0}
    assert fetch(f"https://shop.example:{port}/a", **calm) == b"here"
    assert trouble(f"https://other.example:{port}/a", tries=1, **calm) == "connection"
    slow = {"timeout_s": 60.0, "longest_s": 1.0}
    assert trouble(f"https://shop.example:{port}/b", **slow) == "timeout"


def test_a_name_server_that_does_not_answer_is_a_timeout(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(60) and [])
    assert trouble("http://slow.example/a", longest_s=0.5, timeout_s=60.0, tries=1) == "timeout"
    answered.set()


def test_a_request_that_was_in_time_leaves_no_deadline_for_the_next(server):
    """Also where both have the same connection."""
    server.answers["/a"] = Answer(body=b"a")
    server.answers["/b"] = Answer(body=b"b", wait_s=0.6)
    web = Web(WebOptions(longest_s=1.0, allow_private=True, connections_per_host=1, tries=1))
    for path in ("/a", "/b", "/a", "/b"):
        with web.opened(server.url + path) as response:
            assert read_body(response, 9) == path[1:].encode()
    assert server.most_open == 1


def test_a_file_of_any_length_has_any_time_as_long_as_it_goes_on(server):
    server.answers["/a"] = Answer(body=bytes(1 << 20), chunk_s=0.1)
    options = WebOptions(
        longest_s=0.5, steady_s=10.0, steady_bytes=1 << 15, allow_private=True, tries=1
    )
    with Web(options).opened(server.url + "/a") as response:
        assert sum(map(len, steady_pieces(response, options))) == 1 << 20


@pytest.mark.parametrize("what", ["a body", "the size of a chunk"])
def test_a_file_that_hardly_goes_on_is_a_timeout(server, what):
    server.answers["/a"] = NEVER_DONE[what]
    options = WebOptions(steady_s=0.5, steady_bytes=1 << 15, allow_private=True, tries=1)
    with (
        pytest.raises(WebError, match="timeout"),
        Web(options).opened(server.url + "/a") as response,
    ):
        for _ in steady_pieces(response, options):
            pass


NOT_PUBLIC = {
    *("127.0.0.1", "127.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "198.18.0.1", "203.0.113.5", "2130706433", "0x7f000001", "0177.0.0.1"),
    *("0x7f.1", "[::1]", "[::]", "[fd00:ec2::254]", "[fe80::1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:a00:1]", "[::7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]", "[2002:7f00:1::]"),
    *("[2001:db8::1]", "[3fff::1]", "[fec0::1]", "[ff02::1]", "[100::1]", "localhost"),
}


@pytest.mark.parametrize("host", sorted(NOT_PUBLIC))
def test_addresses_that_are_not_public_are_refused_however_they_are_written(host):
    assert trouble(f"http://{host}:9/a", allow_private=False, tries=3) == "refused address"


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


def names(monkeypatch, **answers: list[list[str]]) -> list[str]:
    """Answers of a name server, in turn, the last one to the end; returns the names asked for."""
    asked: list[str] = []
    look = socket.getaddrinfo

    def answer(host, port, *args, **options):
        name = host.replace(".", "_")
        if name not in answers:
            return look(host, port, *args, **options)
        turns = answers[name]
        found = turns[min(asked.count(host), len(turns) - 1)]
        asked.append(host)
        return [row for each in found for row in look(each, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


def test_a_name_that_has_one_private_address_among_public_ones_is_refused(monkeypatch, server):
    names(monkeypatch, mixed_example=[["8.8.8.8", "127.0.0.1"]])
    port = server.host.split(":")[1]
    assert trouble(f"http://mixed.example:{port}/a", allow_private=False) == "refused address"
    assert not server.asked


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(monkeypatch, server):
    """A name server that answers with another address the second time is not asked again."""
    asked = names(monkeypatch, turning_example=[["192.0.2.7"], ["127.0.0.1"]])
    monkeypatch.setattr("pmm.ingest.download.public_addresses.is_public", lambda _: True)
    connected: list[str] = []
    connect = timed_connections.create_connection

    def note(address, *args, **options):
        connected.append(address[0])
        return connect(("127.0.0.1", address[1]), *args, **options)

    monkeypatch.setattr(timed_connections, "create_connection", note)
    server.answers["/a"] = Answer(body=b"here")
    port = server.host.split(":")[1]
    assert fetch(f"http://turning.example:{port}/a", allow_private=False) == b"here"
    assert (asked, connected) == (["turning.example"], ["192.0.2.7"])
    assert server.headers["/a"][0]["Host"] == f"turning.example:{port}"


def test_a_redirect_to_a_private_address_is_refused(monkeypatch, server):
    """The first address counts as public here; where it leads to does not."""
    monkeypatch.setattr(
        "pmm.ingest.download.public_addresses.is_public", lambda address: address == "127.0.0.1"
    )
    server.answers["/a"] = Answer(status=302, headers={"Location": "http://127.0.0.2:9/b"})
    assert trouble(server.url + "/a", allow_private=False) == "refused address"
    assert server.asked["/a"] == 1


def test_a_proxy_is_not_asked_for_private_addresses(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    for host in ("127.0.0.1:9", "2130706433", "169.254.169.254", "localhost"):
        assert trouble(f"http://{host}/a", allow_private=False) == "refused address"
    assert not server.asked
    server.answers["http://known-to-the-proxy.invalid/a"] = Answer(body=b"by proxy")
    assert fetch("http://known-to-the-proxy.invalid/a", allow_private=False) == b"by proxy"


def test_a_host_that_the_proxy_is_not_used_for_is_checked_as_any_other(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert trouble(server.url + "/a", allow_private=False) == "refused address"
    server.answers["/a"] = Answer(body=b"here")
    assert fetch(server.url + "/a") == b"here"


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
            read_body(response, 10)

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
    web = Web(WebOptions(connections_per_host=3, allow_private=True))

    def get():
        with web.opened(server.url + "/a") as response:
            read_body(response, 10)

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
