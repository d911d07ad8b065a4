import gzip
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pmm.errors import InputError, StorageError
from pmm.ingest.download.polite_http import WebOptions
from pmm.ingest.download.raw_addresses import CATEGORIES_2018, CATEGORIES_2023, remote_files
from pmm.ingest.download.raw_check import check_file, unpack_zip
from pmm.ingest.download.raw_download import check_raw, download_raw
from pmm.ingest.download.raw_guide import GUIDES

NAME = "pmm_tests_bad_server"
if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("bad_server.py"))
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
from pmm_tests_bad_server import Answer, BadServer, unused_address  # noqa: E402

QUICK = WebOptions(first_delay_s=0.01, timeout_s=1.0, tries=3, allow_private=True)
RATINGS = b"0001,A1,5.0,1400000000\n" * 50_000
META = gzip.compress(b'{"asin": "0001"}\n' * 1000, mtime=0)
CSV = "/amazon_v2/categoryFilesSmall/Gift_Cards.csv"
META_PATH = "/amazon_v2/metaFiles2/meta_Gift_Cards.json.gz"
GIFT = ["Gift_Cards"]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


MOVIES = zipped({"ml-1m/ratings.dat": b"1::2::3::4\n", "ml-1m/movies.dat": b"2::A::B\n"})


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with BadServer() as running:
        running.answers[CSV] = Answer(body=RATINGS, etag='"1"', ranges=True)
        running.answers[META_PATH] = Answer(body=META)
        running.answers["/ml-1m.zip"] = Answer(body=MOVIES)
        running.answers["/ml-1m.zip.md5"] = Answer(
            body=f"MD5 (ml-1m.zip) = {hashlib.md5(MOVIES).hexdigest()}\n".encode()
        )
        yield running


@pytest.fixture
def fetch(server, tmp_path):
    def run(source="amazon", names=GIFT, **options):
        chosen = {"base": server.url, "options": QUICK, **options}
        return download_raw(source, tmp_path / "raw", names=names, **chosen)

    return run


def test_a_category_brings_its_ratings_and_metadata_and_a_record(fetch, tmp_path, server):
    results = fetch()
    assert [each.state for each in results] == ["fetched", "fetched"]
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS
    record = json.loads((tmp_path / "raw" / "downloads.json").read_text())
    assert record["Gift_Cards.csv"]["sha256"] == hashlib.sha256(RATINGS).hexdigest()
    assert record["meta_Gift_Cards.json.gz"]["url"] == server.url + META_PATH
    assert sorted(each.name for each in (tmp_path / "raw").iterdir() if each.name[0] != ".") == [
        *("Gift_Cards.csv", "downloads.json", "meta_Gift_Cards.json.gz")
    ]


def test_what_is_there_is_not_fetched_again(fetch, server):
    first = fetch()
    server.asked.clear()
    again = fetch()
    assert [each.state for each in again] == ["there", "there"]
    assert [each.sha256 for each in again] == [each.sha256 for each in first]
    assert not server.asked


def test_a_file_that_was_put_there_by_hand_is_taken(fetch, tmp_path, server):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "Gift_Cards.csv").write_bytes(b"mine")
    assert [each.state for each in fetch()] == ["there", "fetched"]
    assert server.asked[CSV] == 0


def test_a_file_that_was_changed_since_is_refused(fetch, tmp_path):
    fetch()
    path = tmp_path / "raw" / "Gift_Cards.csv"
    path.write_bytes(RATINGS[:-1] + b"x")
    assert check_raw(tmp_path / "raw") == [
        "Gift_Cards.csv has other content than it was recorded with"
    ]
    with pytest.raises(InputError, match="other content than it was recorded with"):
        fetch()
    path.unlink()
    assert check_raw(tmp_path / "raw") == ["Gift_Cards.csv is missing"]
    fetch()
    assert check_raw(tmp_path / "raw") == []


def cut(server, **answer):
    """The first answer is cut off in the middle; what follows is whole."""
    whole = Answer(body=RATINGS, ranges=True, **answer)
    first = Answer(body=RATINGS, send=400_000, ranges=True, **answer)
    server.answers[CSV] = [first, whole]


def test_a_cut_off_download_goes_on_where_it_was(fetch, server, tmp_path):
    cut(server, etag='"1"')
    fetch()
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS
    assert server.asked[CSV] == 2
    assert server.headers[CSV][1]["If-Range"] == '"1"'
    assert server.headers[CSV][1]["Range"] == "bytes=400000-"
    assert server.sent == len(RATINGS) + len(META)


@pytest.mark.parametrize(
    ("answer", "starts_over"),
    [
        ({"etag": 'W/"1"'}, True),  # says nothing about bytes
        ({}, True),
        ({"headers": {"Last-Modified": "Tue, 01 Jan 2019 00:00:00 GMT"}}, False),
    ],
)
def test_without_a_mark_that_tells_files_apart_it_starts_over(
    fetch, server, tmp_path, answer, starts_over
):
    cut(server, **answer)
    fetch()
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS
    assert ("Range" not in server.headers[CSV][1]) == starts_over


def test_a_server_that_ignores_ranges_is_read_from_the_start(fetch, server, tmp_path):
    first = Answer(body=RATINGS, send=400_000, etag='"1"')
    server.answers[CSV] = [first, Answer(body=RATINGS, etag='"1"')]
    fetch()
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS


def test_a_file_that_changed_on_the_server_is_read_from_the_start(fetch, server, tmp_path):
    other = b"0002,A2,1.0,1500000000\n" * 40_000
    first = Answer(body=RATINGS, send=400_000, etag='"1"', ranges=True)
    server.answers[CSV] = [first, Answer(body=other, etag='"2"', ranges=True)]
    fetch()
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == other


def test_a_wrong_range_is_not_taken_for_the_right_one(fetch, server, tmp_path):
    wrong = {"Content-Range": f"bytes 7-{len(RATINGS) - 1}/{len(RATINGS)}"}
    first = Answer(body=RATINGS, send=400_000, etag='"1"')
    second = Answer(body=RATINGS[7:], status=206, headers=wrong, etag='"1"')
    server.answers[CSV] = [first, second, Answer(body=RATINGS, etag='"1"')]
    fetch()
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS


def test_a_download_that_gets_further_each_time_is_not_given_up(fetch, server, tmp_path):
    piece = Answer(body=RATINGS, send=200_000, etag='"1"', ranges=True)
    server.answers[CSV] = [piece] * 8
    fetch()
    assert server.asked[CSV] == 6
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS


def test_a_download_that_gets_nowhere_ends_with_what_to_do(fetch, server, tmp_path):
    server.answers[CSV] = Answer(body=RATINGS, send=0, etag='"1"', ranges=True)
    with pytest.raises(InputError, match="run the same command again to go on") as error:
        fetch()
    assert "cut off" in str(error.value)
    assert server.asked[CSV] == 3
    assert not (tmp_path / "raw" / "Gift_Cards.csv").exists()


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_file_that_the_server_does_not_give_is_named_with_its_address(fetch, server, status):
    server.answers[CSV] = Answer(status=status)
    with pytest.raises(InputError, match=f"status {status}") as error:
        fetch()
    assert server.url + CSV in str(error.value)


def test_a_dead_server_is_an_error_and_no_hang(fetch):
    with pytest.raises(InputError, match="connection"):
        fetch(base=unused_address())


def test_the_next_server_is_asked_where_one_does_not_have_it(server, tmp_path):
    from pmm.ingest.download import raw_download
    from pmm.ingest.download.polite_http import Web

    (remote, _) = remote_files("amazon", tmp_path, GIFT)
    with BadServer() as empty:
        found = raw_download._one(Web(QUICK), tmp_path, remote, [empty.url, server.url])
        assert found.url == server.url + CSV
        assert empty.asked[CSV] == 1


@pytest.mark.parametrize(
    "body",
    [
        META[:-4],
        META[:-9] + b"12345678" + META[-1:],
        META[: len(META) // 2],
        b"<html>busy</html>",
        META + b"garbage",
        b"",
    ],
)
def test_a_damaged_gzip_is_refused_after_a_second_try(fetch, server, tmp_path, body):
    server.answers[META_PATH] = Answer(body=body)
    with pytest.raises(InputError, match=r"came twice and is damaged: it"):
        fetch()
    assert server.asked[META_PATH] == 2
    assert not list((tmp_path / "raw").glob("meta_*"))


def test_a_gzip_of_several_members_is_whole(fetch, server):
    server.answers[META_PATH] = Answer(body=META + gzip.compress(b"more", mtime=0) + bytes(512))
    assert fetch()[1].state == "fetched"


def test_a_web_page_is_no_table(fetch, server):
    server.answers[CSV] = Answer(body=b"<!DOCTYPE html><p>Log in first</p>")
    with pytest.raises(InputError, match="it is a web page, not a table"):
        fetch()


def test_a_release_of_movielens_is_checked_and_unpacked_without_its_top_folder(fetch, tmp_path):
    assert fetch("movielens", ["ml-1m"])[0].state == "fetched"
    assert (tmp_path / "raw" / "ratings.dat").read_bytes() == b"1::2::3::4\n"
    (tmp_path / "raw" / "ratings.dat").unlink()
    assert fetch("movielens", ["ML-1M"])[0].state == "there"


def test_a_zip_that_was_not_unpacked_before_a_kill_is_unpacked_then(fetch, tmp_path):
    fetch("movielens", ["ml-1m"])
    path = tmp_path / "raw" / "downloads.json"
    record = json.loads(path.read_text())
    del record["ml-1m.zip"]["unpacked"]
    path.write_text(json.dumps(record))
    (tmp_path / "raw" / "ratings.dat").unlink()
    fetch("movielens", ["ml-1m"])
    assert (tmp_path / "raw" / "ratings.dat").exists()


def test_a_file_that_does_not_match_its_published_checksum_is_refused(fetch, server):
    server.answers["/ml-1m.zip.md5"] = Answer(body=b"0" * 32 + b"  ml-1m.zip")
    with pytest.raises(InputError, match=r"its MD5 is .* published is 0000"):
        fetch("movielens", ["ml-1m"])


def test_covers_are_optional_and_unpacked_where_they_are(fetch, server, tmp_path):
    below = "/MicroLens-50k-Dataset/MicroLens-50k_"
    server.answers[below + "pairs.csv"] = Answer(body=b"user,item,timestamp\n1,2,3\n")
    server.answers[below + "titles.csv"] = Answer(body=b"item,title\n2,b\n")
    assert [each.state for each in fetch("kwai", [])] == ["fetched", "fetched", "not published"]
    covers = zipped({"MicroLens-50k_covers/2.jpg": b"picture"})
    server.answers[below + "covers.zip"] = Answer(body=covers)
    assert [each.state for each in fetch("kwai", [])] == ["there", "there", "fetched"]
    assert (tmp_path / "raw" / "MicroLens-50k_covers" / "2.jpg").read_bytes() == b"picture"


def test_amazon_is_never_fetched_as_a_whole(fetch, server):
    with pytest.raises(InputError, match="100 GB") as error:
        fetch(names=[])
    assert "--category Clothing_Shoes_and_Jewelry" in str(error.value)
    assert all(each in str(error.value) for each in CATEGORIES_2018)
    with pytest.raises(InputError, match="Subscription_Boxes"):
        fetch(names=[], edition="2023")
    assert not server.asked


def test_names_of_categories_and_files_lead_to_the_published_paths(tmp_path):
    def paths(*names, edition="2018"):
        return [each.path for each in remote_files("amazon", tmp_path, names, edition)]

    assert paths("gift_cards") == [CSV[1:], META_PATH[1:]]
    assert paths("Gift_Cards_5.json.gz", "All_Beauty.json.gz", "meta_Gift_Cards.json.gz") == [
        "amazon_v2/categoryFilesSmall/Gift_Cards_5.json.gz",
        META_PATH[1:],
        "amazon_v2/categoryFiles/All_Beauty.json.gz",
        "amazon_v2/metaFiles2/meta_All_Beauty.json.gz",
    ]
    assert paths("Gift_Cards", edition="2023") == [
        "amazon_2023/raw/review_categories/Gift_Cards.jsonl.gz",
        "amazon_2023/raw/meta_categories/meta_Gift_Cards.jsonl.gz",
    ]
    assert (len(CATEGORIES_2018), len(CATEGORIES_2023)) == (29, 34)


@pytest.mark.parametrize(
    ("source", "names", "message"),
    [
        ("amazon", ["Gift_Card"], 'did you mean "Gift_Cards"'),
        ("amazon", ["../etc/passwd"], "unknown category"),
        ("amazon", ["Amazon_Fashion.csv.gz"], "unknown category"),
        ("movielens", ["ml-1mm"], "did you mean"),
        ("movielens", [], "say which release of MovieLens to fetch: ml-100k"),
        ("movielens", ["ml-1m", "ml-100k"], "a folder takes one"),
        ("kwai", ["MicroLens-1M"], "did you mean"),
        ("hm", [], "(?s)no public addresses.*kaggle.com.*accept its rules"),
        ("bili", [], "(?s)no public addresses.*NineRec"),
        ("pixelrec", [], "(?s)no public addresses.*PixelRec"),
        ("recbole", [], "(?s)no public addresses.*RecSysDatasets"),
        ("amazom", [], 'did you mean "amazon"'),
    ],
)
def test_what_cannot_be_fetched_is_told_with_where_it_is(fetch, server, source, names, message):
    with pytest.raises(InputError, match=message):
        fetch(source, names)
    assert not server.asked


def test_every_source_with_a_download_command_can_be_fetched(tmp_path):
    names = {"amazon": GIFT, "movielens": ["ml-1m"], "kwai": []}
    with_command = {source for source, guide in GUIDES.items() if guide.download}
    assert with_command == set(names)
    for source, some in names.items():
        assert remote_files(source, tmp_path, some)


def test_too_little_space_is_told_before_anything_is_written(fetch, server, tmp_path):
    far = Answer(body=b"x", headers={"Content-Length": str(10**16)}, announce=False)
    server.answers[CSV] = far
    with pytest.raises(StorageError, match=r"needs 10000000\.0 GB more"):
        fetch()
    assert not (tmp_path / "raw" / "Gift_Cards.csv.part").exists()


RUN = """
import sys
from pathlib import Path
from pmm.errors import PmmError
from pmm.ingest.download.polite_http import WebOptions
from pmm.ingest.download.raw_download import download_raw
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    near = WebOptions(allow_private=True)
    to = {"base": sys.argv[2], "options": near}
    print(download_raw("amazon", Path(sys.argv[1]), names=["Gift_Cards"], **to))
except PmmError as error:
    print(type(error).__name__, error)
"""


def test_a_kill_loses_no_more_than_what_was_on_its_way(fetch, server, tmp_path):
    slow = Answer(body=RATINGS, etag='"1"', ranges=True, chunk_s=0.1)
    server.answers[CSV] = [slow, Answer(body=RATINGS, etag='"1"', ranges=True)]
    command = [sys.executable, "-c", RUN, str(tmp_path / "raw"), server.url]
    killed = subprocess.Popen(command)
    while server.sent < 400_000:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    had = (tmp_path / "raw" / "Gift_Cards.csv.part").stat().st_size
    assert had > 200_000
    fetch()
    assert server.headers[CSV][1]["Range"] == f"bytes={had}-"
    assert (tmp_path / "raw" / "Gift_Cards.csv").read_bytes() == RATINGS
    assert check_raw(tmp_path / "raw") == []


def test_a_full_disk_is_one_clear_message_and_the_part_is_kept(fetch, tmp_path, server):
    command = [sys.executable, "-c", RUN, str(tmp_path / "raw"), server.url, "500000"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("StorageError the disk that holds")
    assert (tmp_path / "raw" / "Gift_Cards.csv.part").stat().st_size == 500_000
    fetch()
    assert server.headers[CSV][1]["Range"] == "bytes=500000-"


def bad_zip(name: str, link: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = (0o120777 if link else 0o644) << 16
        archive.writestr(member, b"../../etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "link"),
    [("../up.txt", False), ("/etc/x", False), ("a/../../x", False), ("a", True), ("c:x", False)],
)
def test_an_archive_cannot_write_outside_its_folder(tmp_path, name, link):
    (tmp_path / "a.zip").write_bytes(bad_zip(name, link))
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="does not name a file below the folder"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_an_archive_that_swells_beyond_reason_is_not_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"zeros": bytes(50 << 20)}))
    with pytest.raises(InputError, match="is no data set"):
        unpack_zip(tmp_path / "a.zip", tmp_path)


def test_a_member_that_is_longer_than_declared_is_damaged(tmp_path):
    data = bytearray(zipped({"a.txt": bytes(range(256)) * 40}))
    for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = data.index(mark) + at
        data[place : place + 4] = (100).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        unpack_zip(tmp_path / "a.zip", tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.zip"]


def test_no_damage_to_an_archive_or_gzip_goes_unnoticed(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.bytes(3000)
    for name, whole in (("a.gz", gzip.compress(noise, mtime=0)), ("a.zip", zipped({"a": noise}))):
        path = tmp_path / name
        for _ in range(300):
            data = bytearray(whole)
            at = int(rng.integers(60, 2900))
            data[at] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(bytes(data if rng.random() < 0.7 else data[:at]))
            fault, digest = check_file(path, name)
            assert fault is not None
            assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_lies_under_a_files_name_and_is_no_file_is_refused(fetch, tmp_path, make):
    (tmp_path / "raw").mkdir()
    make(tmp_path / "raw" / "Gift_Cards.csv")
    with pytest.raises(InputError, match=r"Gift_Cards\.csv is no plain file\. Delete it"):
        fetch()


def test_a_mirror_in_this_network_is_asked_only_where_that_is_allowed(fetch, server):
    with pytest.raises(InputError, match=r"refused address .*--allow-private-addresses"):
        fetch(options=WebOptions(tries=1))
    assert not server.asked


def test_a_sum_that_never_ends_is_no_sum_and_no_end(fetch, server):
    server.answers["/ml-1m.zip.md5"] = Answer(body=bytes(1 << 20), announce=False)
    with pytest.raises(InputError, match="too large"):
        fetch("movielens", ["ml-1m"])
