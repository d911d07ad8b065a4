"""Recommendations for many users into a file: as the model answers, whole or absent, counted."""

import gzip
import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pmm
from pmm.errors import InputError, PmmError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.recommend.answers import Wanted
from pmm.recommend.batch import history_spool, recommend_all
from pmm.recommend.batch.history_spool import spool
from pmm.recommend.batch.recommend_options import RecommendRequest
from pmm.recommend.many_users import HistoryRanker
from pmm.recommend.open_run import open_model
from pmm.storage.schemas import RANKS, RECOMMENDATIONS, SEQUENCES, read_table


@pytest.fixture(scope="module")
def run(shop: Any, runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = runs.options_of(shop, "sasrec")
    made: Path = runs.make_run(shop, tmp_path_factory.mktemp("batch") / "run", options)
    return made


@pytest.fixture(scope="module")
def model(shop: Any, run: Path) -> Any:
    return open_model(shop.home, run)


@pytest.fixture(scope="module")
def histories(shop: Any, model: Any) -> dict[str, list[str]]:
    """All that each user of the target had."""
    table = read_table(shop.home.target("HM") / "sequences.parquet", SEQUENCES).to_pydict()
    columns = (table[name] for name in ("user_id", "train", "valid", "test"))
    ids = model.state.ids
    return {
        user: [ids[item - 1] for item in (*train, valid, test)]
        for user, train, valid, test in zip(*columns, strict=True)
    }


def made(shop: Any, run: Path, out: Path, **options: Any) -> dict[str, list[tuple[str, float]]]:
    """The recommendations of each user, after a look at their ranks."""
    pmm.recommend(run, out=out, home=shop.home.root, **{"k": 5, **options})
    return read(out)


def read(out: Path) -> dict[str, list[tuple[str, float]]]:
    table = read_table(out, RECOMMENDATIONS).to_pydict()
    found: dict[str, list[tuple[str, float]]] = {}
    for user, item, rank, score in zip(*table.values(), strict=True):
        found.setdefault(user, []).append((item, score))
        assert rank == len(found[user])
    return found


def require_like(found: dict[str, Any], answers: dict[str, Any]) -> None:
    assert list(found) == list(answers)
    for user, answer in answers.items():
        assert [item for item, _ in found[user]] == [each.item_id for each in answer.items]
        scores = [each.score for each in answer.items]
        assert [score for _, score in found[user]] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"before_test": True},
        {"keep_history": True, "popularity": "chosen"},
        {"k": 40, "exclude": ("0", "1")},
        {"popularity": -0.5},
    ],
)
def test_a_file_holds_what_the_model_answers(
    shop: Any, run: Path, model: Any, histories: Any, tmp_path: Path, how: dict[str, Any]
) -> None:
    exclude = [model.state.ids[int(each)] for each in how.get("exclude", ())]
    given = {**how, "exclude": tuple(exclude)}
    found = made(shop, run, tmp_path / "best.parquet", users_per_piece=7, **given)
    cut = -1 if given.pop("before_test", False) else None
    wanted = Wanted(**{"k": 5, **given, "exclude": exclude})
    answers = model.recommend([each[:cut] for each in histories.values()], wanted)
    require_like(found, dict(zip(histories, answers, strict=True)))


@pytest.mark.parametrize("name", ["pmmrec", "sasrec", "carca"])
def test_the_file_ranks_the_true_item_as_the_evaluation_does(
    shop: Any, runs: Any, tmp_path: Path, histories: Any, name: str
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, name))
    evaluate_run(shop.home, run, EvaluateOptions(gallery_users=0))
    how = {"k": 30, "before_test": True, "keep_history": True, "users_per_piece": 10}
    found = made(shop, run, tmp_path / "best.parquet", **how)
    ranks = []
    for user, items in histories.items():
        scores = dict(found[user])
        others = set(scores) - set(items[:-1]) | {items[-1]}
        ranks.append(sum(scores[each] >= scores[items[-1]] for each in others))
    assert ranks == read_table(run / "ranks.parquet", RANKS)["rank"].to_pylist()


# --- Files of histories.


def long_rows(histories: dict[str, list[str]]) -> list[tuple[str, str, int]]:
    """In no order but that of their times."""
    rows = [
        (user, item, 1_600_000_000 + 60 * at)
        for user, items in histories.items()
        for at, item in enumerate(items)
    ]
    return random.Random(1).sample(rows, len(rows))


def in_order(histories: dict[str, list[str]]) -> list[tuple[str, str]]:
    """In no order but that of each user's own rows."""
    users = [user for user, items in histories.items() for _ in items]
    random.Random(2).shuffle(users)
    coming = {user: iter(items) for user, items in histories.items()}
    return [(user, next(coming[user])) for user in users]


def csv_of(rows: Any, header: str) -> bytes:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode()


def lines_of(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_of(columns: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


def kinds(histories: dict[str, list[str]]) -> dict[str, bytes]:
    user, item, time = zip(*long_rows(histories), strict=True)
    wide = {"user_id": list(histories), "items": list(histories.values())}
    moments = pa.array(time, pa.timestamp("s"))
    return {
        "times.csv": csv_of(long_rows(histories), "user_id,item_id,timestamp"),
        "order.csv": csv_of(in_order(histories), "userId,productId"),
        "times.csv.gz": gzip.compress(csv_of(long_rows(histories), "user,item,ts")),
        "lists.csv": csv_of([(u, " ".join(i)) for u, i in histories.items()], "user_id,history"),
        "quoted.tsv": "".join(
            f'{u}\t"{",".join(i)}"\n' for u, i in {"user_id": ["items"], **histories}.items()
        ).encode(),
        "bare.txt": "".join(f"{u}\t{' '.join(i)}\n" for u, i in histories.items()).encode(),
        "lists.jsonl": lines_of({"user_id": u, "items": i} for u, i in histories.items()),
        "long.jsonl": lines_of(
            {"user_id": u, "item_id": i, "timestamp": t} for u, i, t in long_rows(histories)
        ),
        "lists.parquet": parquet_of(wide),
        "long.parquet": parquet_of({"user_id": user, "item_id": item, "timestamp": moments}),
        "coded.parquet": parquet_of(
            {"user_id": pa.array(user).dictionary_encode(), "item_id": item, "time": time}
        ),
    }


NAMES = list(kinds({"u": ["i", "j"]}))


@pytest.mark.parametrize("name", NAMES)
def test_histories_of_any_kind_of_file_are_those_of_the_users(
    histories: Any, model: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(kinds(histories)[name])
    for parts in (1, 3):
        monkeypatch.setattr(history_spool, "parts_of", lambda _, parts=parts: parts)
        found = spool(path, set(model.state.ids), tmp_path / f"spool {parts}", 5)
        pieces = [found.piece(number).to_pydict() for number in range(5)]
        assert [len(each["user_id"]) for each in pieces] == [5, 5, 5, 5, 4]
        read = {
            user: items
            for each in pieces
            for user, items in zip(each["user_id"], each["items"], strict=True)
        }
        assert read == histories
        assert (found.users, found.dropped) == (24, {})
        if parts == 1 and name.startswith("lists"):
            assert list(read) == list(histories)


@pytest.mark.parametrize("name", ["times.csv", "lists.jsonl", "long.parquet"])
def test_a_file_of_histories_is_answered_as_the_target(
    shop: Any, run: Path, histories: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(kinds(histories)[name])
    found = made(shop, run, tmp_path / "file.parquet", users=path, users_per_piece=7)
    target = made(shop, run, tmp_path / "all.parquet", users_per_piece=7)
    assert {user: [item for item, _ in each] for user, each in found.items()} == {
        user: [item for item, _ in each] for user, each in target.items()
    }


def test_unknown_ids_and_users_without_a_known_item_are_counted(
    shop: Any, run: Path, model: Any, tmp_path: Path
) -> None:
    ids = list(model.state.ids)
    users = {"a": [ids[0], "?", ids[1]], "b": ["?", "x" * 90], "c": [], "d": [ids[2]], "é": ["ü"]}
    path = tmp_path / "users.jsonl"
    path.write_bytes(lines_of({"user_id": u, "items": i} for u, i in users.items()))
    out = tmp_path / "best.parquet"
    told = pmm.recommend(run, out=out, home=shop.home.root, users=path, k=4, users_per_piece=2)
    assert (told["users"], told["rows"], told["popular_users"]) == (5, 20, 3)
    assert (told["unknown_ids"], told["unknown_first"]) == (4, ["?", "x" * 60, "ü"])
    assert told == json.loads((tmp_path / "best.about.json").read_text())
    answers = model.recommend(list(users.values()), Wanted(k=4))
    require_like(read(out), dict(zip(users, answers, strict=True)))


BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("u.csv", b"", "is empty"),
    "blank": ("u.csv", b"\n \n", "is empty"),
    "a header alone": ("u.csv", b"user_id,item_id\n", "no user is left"),
    "no user": ("u.csv", b"who,item_id\n1,2\n3,4\n", "no user column found among 'who', 'item_id'"),
    "no item": ("u.csv", b"user_id,what\n1,2\n3,4\n", "no item column found"),
    "no item in JSON": ("u.jsonl", b'{"user_id": 1, "what": [2]}\n', "no item column found"),
    "no lists": ("u.jsonl", b'{"user_id": 1, "items": "a"}\n', "no list under 'items'"),
    "one JSON list": ("u.json", b'[{"user_id": 1}]', "is one JSON list"),
    "cut JSON": ("u.jsonl", b'{"user_id": 1, "items": ["a"', "is a JSON object"),
    "twice": ("u.jsonl", b'{"user_id":"u","items":["a"]}\n' * 2, "'u' stands in several rows"),
    "twice in CSV": ("u.csv", b"user_id,items\nu,a b\nv,a b\nu,c d\n", "the 1. and the 3. user"),
    "no times": ("u.csv", b"user_id,item_id,timestamp\nu,a,soon\nv,b,late\n", "is no time"),
    "NaN": ("u.csv", b"user_id,item_id\nnan,a\nNaN,b\n", "user called nan.* 2"),
    "NaN in JSON": ("u.jsonl", b'{"user_id": NaN, "items": ["a"]}\n', "empty user id 1"),
    "huge ids": ("u.csv", b"user_id,item_id\n" + b"u" * 2000 + b",a\n", "longer than 1,000"),
    "cut Parquet": ("u.parquet", b"PAR1abc", "cannot be read as a Parquet file"),
    "floats": ("u.parquet", parquet_of({"user_id": [1.0, None], "item_id": ["a", "b"]}), "double"),
    "no list": ("u.parquet", parquet_of({"user_id": ["1"], "items": ["a b"]}), "expected a list"),
    "no columns": ("u.parquet", parquet_of({"a": [1]}), "no user column found"),
    "zip": ("u.csv", b"PK\x03\x04rest of it", "zip archive"),
    "binary": ("u.csv", b"\x00\x01,\x00\n" * 20, "no text file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_holds_no_histories_is_refused(
    shop: Any, run: Path, tmp_path: Path, case: str
) -> None:
    name, data, said = BAD[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PmmError, match=said):
        made(shop, run, tmp_path / "best.parquet", users=tmp_path / name)
    assert {each.name for each in tmp_path.iterdir()} <= {name, ".best.parquet.lock"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"users": "nowhere.csv"}, "nowhere.csv cannot be read"),
        ({"users": "."}, "is a folder"),
        ({"out": "best.csv"}, r"end it in \.parquet"),
        ({"k": 0}, "k must be"),
        ({"popularity": "much"}, "popularity must be"),
        ({"popularity": float("nan")}, "finite"),
        ({"images": "pictures"}, "--items"),
        ({"items": "nowhere.csv"}, "--items nowhere.csv cannot be read"),
        ({"before_test": True, "users": "u.csv"}, "--before-test"),
        ({"category": "Shoes"}, 'no item is of the category "Shoes"'),
        ({"target": "nobody"}, "unknown target"),
    ],
)
def test_a_wrong_request_is_refused(
    shop: Any, run: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        pmm.recommend(run, **{"home": shop.home.root, "out": tmp_path / "b.parquet", **options})
    assert not any(tmp_path.glob(".*.partial"))  # in nobody's way


def test_rows_that_are_left_out_are_counted(shop: Any, run: Path, tmp_path: Path) -> None:
    rows = ["user_id,item_id", "u,a", "u", ",a", "v,", "nan,a", f"{'w' * 2000},a", "v,b", "v,c"]
    (tmp_path / "u.csv").write_text("\n".join(rows))
    told = pmm.recommend(
        run, out=tmp_path / "b.parquet", home=shop.home.root, users=tmp_path / "u.csv", k=2
    )
    assert told["users"] == 2
    assert sum(told["rows_left_out"].values()) == 5
    assert told["rows_left_out"]["malformed row"] == 1


def test_exclusions_come_from_files_and_words(
    shop: Any, run: Path, model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = list(model.state.ids)
    (tmp_path / "sold out.csv").write_text(f"item_id,why\n{ids[1]},x\n{ids[2]},y\n")
    (tmp_path / "ids.txt").write_text(f"item_id\n{ids[3]}\n{ids[4]}\n")
    exclude = (ids[0], str(tmp_path / "sold out.csv"), str(tmp_path / "ids.txt"), "gone")
    out = tmp_path / "best.parquet"
    found = made(shop, run, out, exclude=exclude, k=40, keep_history=True)
    assert {item for each in found.values() for item, _ in each} == set(ids[5:])
    assert "--exclude: 1 ids are not in the catalogue, e.g. 'gone'" in caplog.text
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no id"):
        made(shop, run, tmp_path / "b.parquet", exclude=str(tmp_path / "none.txt"))


# --- Memory, kills, and requests that differ.


def test_memory_is_that_of_a_piece_and_a_part(
    shop: Any, run: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: users ranked together, histories read together, whatever their number."""
    ids = list(model.state.ids)
    rows = [(f"u{n % 600}", ids[n % 30]) for n in range(3_000)]
    path = tmp_path / "u.csv"
    path.write_bytes(csv_of(rows, "user_id,item_id"))
    ranked, grouped = [], []
    rank, load = HistoryRanker.rank, pq.read_table
    monkeypatch.setattr(
        HistoryRanker, "rank", lambda self, each: ranked.append(len(each)) or rank(self, each)
    )

    def counted(place: Any, **how: Any) -> Any:
        table = load(place, **how)
        grouped.append(table.num_rows)
        return table

    monkeypatch.setattr(history_spool.pq, "read_table", counted)
    monkeypatch.setattr(history_spool, "PART_BYTES", path.stat().st_size // 10)
    made(shop, run, tmp_path / "best.parquet", users=path, users_per_piece=50)
    assert ranked == [50] * 12
    assert len(grouped) == 11
    assert max(grouped) < 3 * 3_000 / 11
    assert sum(grouped) == 3_000


KILLED = """
import os, signal, sys
from pathlib import Path
from pmm.recommend.batch import piece_folder, recommend_all
from pmm.recommend.batch.recommend_options import RecommendRequest
from pmm.storage import atomic

home, run, *each = sys.argv[1:]
sync, write = atomic.sync, piece_folder.PieceFolder.write
at = count = 0

def killing(path):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)

def told(self, number, *what):
    size = write(self, number, *what)
    with open(self.out.with_suffix(".log"), "a") as file:
        file.write(f"{number} ")
    return size

atomic.sync = killing
piece_folder.PieceFolder.write = told
how = {"k": 5, "home": Path(home), "users_per_piece": 4}
model = None
for users, out in zip(each[::2], each[1::2], strict=True):
    request = RecommendRequest(Path(run), out=Path(out), users=users, **how)
    if model is None:  # once: each child has it
        model = recommend_all.open_model(request.place()[0], Path(run))
        recommend_all.open_model = lambda *_, **__: model
    kills = at = 0
    while True:
        at = at + (1 if kills % 3 else 4) if kills < 10 else 10**9
        child = os.fork()
        if not child:
            count = 0
            recommend_all.recommend_as_asked(request)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        assert not Path(out).exists()
        kills += 1
    print(kills)
"""


def test_a_kill_at_any_moment_costs_a_piece_at_most(
    shop: Any, run: Path, histories: Any, tmp_path: Path
) -> None:
    path = tmp_path / "u.csv"
    path.write_bytes(kinds(histories)["times.csv"])
    given = {"all": tmp_path / "all killed.parquet", str(path): tmp_path / "file killed.parquet"}
    arguments = [word for users, out in given.items() for word in (users, str(out))]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(shop.home.root), str(run), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert min(map(int, ended.stdout.split())) >= 5
    for users, out in given.items():
        made(shop, run, tmp_path / "whole.parquet", users=users, users_per_piece=4, overwrite=True)
        assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
        finished = out.with_suffix(".log").read_text().split()
        assert len(set(finished)) == len(finished) > 0  # none is made again
        left = {each.name for each in tmp_path.iterdir() if each.name.startswith(f".{out.name}")}
        assert left == {f".{out.name}.lock"}


@pytest.fixture
def stopped(
    shop: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A request that ended before its third piece, and what it was."""
    path = tmp_path / "u.jsonl"
    rows = [{"user_id": f"u{n}", "items": ["?", str(n)]} for n in range(9)]
    path.write_bytes(lines_of(rows))
    options = {"out": tmp_path / "best.parquet", "users": str(path), "users_per_piece": 2, "k": 3}
    options |= {"home": shop.home.root}
    write = recommend_all.PieceFolder.write

    def stop(self: Any, number: int, *what: Any) -> int:
        if number == 2:
            raise KeyboardInterrupt
        return write(self, number, *what)

    with monkeypatch.context() as patch:
        patch.setattr(recommend_all.PieceFolder, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            pmm.recommend(run, **options)
    return options


def written(
    run: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], dict[str, Any]]:
    """Which pieces are made, and what is told."""
    write, numbers = recommend_all.PieceFolder.write, []

    def note(self: Any, number: int, *what: Any) -> int:
        numbers.append(number)
        return write(self, number, *what)

    monkeypatch.setattr(recommend_all.PieceFolder, "write", note)
    return numbers, pmm.recommend(run, **options)


def test_what_was_stopped_goes_on(
    run: Path, stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not stopped["out"].exists()
    numbers, told = written(run, stopped, monkeypatch)
    assert numbers == [2, 3, 4]
    assert (told["users"], told["rows"]) == (9, 27)
    numbers, again = written(run, stopped, monkeypatch)  # nothing to do
    assert (numbers, again) == ([], told)


@pytest.mark.parametrize("change", [{"k": 4}, {"exclude": ("x",)}, {"keep_history": True}])
def test_another_request_is_refused_or_begins_anew(
    run: Path, stopped: dict[str, Any], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**stopped, **change}
    with pytest.raises(InputError, match=f"another request .{next(iter(change))}.*--overwrite"):
        pmm.recommend(run, **other)
    numbers, _ = written(run, {**other, "overwrite": True}, monkeypatch)
    assert numbers == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=r"is there already.*--overwrite"):
        pmm.recommend(run, **stopped)
    assert stopped["out"].is_file()


def test_other_histories_or_another_model_are_another_request(
    shop: Any, runs: Any, run: Path, stopped: dict[str, Any], tmp_path: Path
) -> None:
    path = Path(stopped["users"])
    path.write_bytes(path.read_bytes() + lines_of([{"user_id": "new", "items": []}]))
    with pytest.raises(InputError, match=r"another request \(users\)"):
        pmm.recommend(run, **stopped)
    another = runs.make_run(shop, tmp_path / "another", runs.options_of(shop, "gru4rec"))
    with pytest.raises(InputError, match=r"another request \(model, users\)"):
        pmm.recommend(another, **stopped)


def test_what_is_damaged_meanwhile_is_made_again(
    run: Path, stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped["out"].with_name(".best.parquet.partial")
    piece = folder / "piece-000001.parquet"
    piece.write_bytes(piece.read_bytes()[:-9])
    spooled = folder / "histories" / "000003.parquet"
    spooled.write_bytes(b"PAR1")
    numbers, told = written(run, stopped, monkeypatch)
    assert numbers == [1, 2, 3, 4]
    assert told["rows"] == 27
    stopped["out"].write_bytes(b"PAR1 of somebody else")
    with pytest.raises(InputError, match="is there already"):
        pmm.recommend(run, **stopped)


def test_two_processes_do_not_write_one_file(run: Path, stopped: dict[str, Any]) -> None:
    from pmm.recommend.batch.piece_folder import PieceFolder

    held = PieceFolder(stopped["out"], RECOMMENDATIONS, {}, "").held()
    with held, pytest.raises(PmmError, match="is being written by another pmm process"):
        pmm.recommend(run, **stopped)


def test_the_first_piece_plans_the_whole(
    run: Path, stopped: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="pmm"):
        pmm.recommend(run, **stopped)
    plans = [each for each in caplog.messages if "so the rest takes about" in each]
    assert len(plans) == 1
    assert plans[0].startswith("9 users x 30 items: 2 users took")
    assert "best.parquet will hold about 0.0 MB" in plans[0]
    assert "2 of 5 pieces are there already" in caplog.text


# --- New items.


def picture(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def new_items(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("n1", "n2"):
        (folder / f"{name}.png").write_bytes(picture("red"))
    (folder / "n3.png").write_bytes(picture("blue")[:60])
    path = tmp_path / "new.csv"
    path.write_text(
        "item_id,text,category\nn1,article number 3,Shoes\nn2,article number 4,Shoes\n"
        "n3,article number 5,Hats\nn4,,Hats\nn5,article number 6,\n"
    )
    return {"items": path, "images": folder}


def test_new_items_are_recommended_as_if_they_had_been_added(
    shop: Any,
    runs: Any,
    tmp_path: Path,
    new_items: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "pmmrec"))
    out = tmp_path / "best.parquet"
    told = pmm.recommend(run, out=out, home=shop.home.root, k=60, **new_items)
    found = read(out)
    live = pmm.load(run, home=shop.home.root)
    images = [(new_items["images"] / f"{name}.png").read_bytes() for name in ("n1", "n2")]
    texts = ["article number 3", "article number 4", "article number 5", "article number 6"]
    pictures: list[bytes | None] = [*images, None, None]
    ids = ["n1", "n2", "n3", "n5"]
    for item_id, text, image in zip(ids, texts, pictures, strict=True):
        live.add_items([{"item_id": item_id, "text": text, "image": image}])
    assert told["items"] == 34
    assert told["items added"] == 4
    for user, expected in zip(found, live.model.recommend(_all(shop), Wanted(k=60)), strict=True):
        scores = {each.item_id: each.score for each in expected.items}
        assert dict(found[user]) == pytest.approx(scores, abs=1e-5)
        assert set(ids) <= scores.keys()
    assert "items without a usable picture, known by their text alone, e.g." in caplog.text
    assert "1 items left out: no text and no picture that the model reads, e.g. 'n4'" in caplog.text
    shoes = made(shop, run, tmp_path / "shoes.parquet", category="Shoes", **new_items)
    assert {item for each in shoes.values() for item, _ in each} == {"n1", "n2"}


def _all(shop: Any) -> list[list[str]]:
    table = read_table(shop.home.target("HM") / "sequences.parquet", SEQUENCES)
    items = read_table(shop.home.target("HM") / "items.parquet", recommend_items())
    ids = items["item_id"].to_pylist()
    frame = pl.DataFrame(table)
    return [
        [ids[item - 1] for item in (*train, valid, test)]
        for train, valid, test in frame.select("train", "valid", "test").rows()
    ]


def recommend_items() -> Any:
    from pmm.storage.schemas import TARGET_ITEMS

    return TARGET_ITEMS


def test_models_that_know_items_one_by_one_take_no_file_of_items(
    shop: Any, run: Path, tmp_path: Path, new_items: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match="holds something of each single item"):
        made(shop, run, tmp_path / "best.parquet", **new_items)


def test_changed_pictures_are_another_request(
    shop: Any, runs: Any, tmp_path: Path, new_items: dict[str, Path]
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "pmmrec"))
    out = tmp_path / "best.parquet"
    made(shop, run, out, **new_items)
    (new_items["images"] / "n1.png").write_bytes(picture("green"))
    with pytest.raises(InputError, match="is there already"):
        made(shop, run, out, **new_items)


def test_the_command_that_is_advised_asks_for_the_same(tmp_path: Path) -> None:
    request = RecommendRequest(
        Path("no-run"), out=tmp_path / "a b.parquet", exclude=("x", "-y"), keep_history=True, k=7
    )
    said = request.again("overwrite")
    assert said.startswith("pmm recommend no-run --out ")
    for part in ("--keep-history", "--k 7", "--exclude x", "--exclude=-y", "--overwrite"):
        assert part in said
    assert "--exclude-history" not in said


def test_a_large_history_is_left_out_whole(
    shop: Any, run: Path, model: Any, tmp_path: Path
) -> None:
    ids = list(model.state.ids)
    path = tmp_path / "u.jsonl"
    many = [ids[n] for n in np.random.default_rng(0).integers(0, 28, 20_000)]
    path.write_bytes(lines_of([{"user_id": "u", "items": many}]))
    found = made(shop, run, tmp_path / "best.parquet", users=path)
    assert {item for item, _ in found["u"]} == set(ids) - set(many)
