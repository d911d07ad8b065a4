"""The calls of the server: as evaluated, with items that come and go, and other models."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from pmm.bundle.bundle_options import BundleOptions
from pmm.bundle.make_bundle import export_run
from pmm.errors import InputError, StorageError
from pmm.recommend.answers import NewItem
from pmm.serve.item_log import ItemLog
from pmm.serve.load_served import load_served
from pmm.serve.page_file import served_page
from pmm.serve.serving import Refused, Serving
from pmm.storage.schemas import RANKS, SEQUENCES, read_table

K = 30
"""The whole catalogue of the shop."""
ODD = ["a/b", "../../etc/passwd", "a b", "<img src=x onerror=alert(1)>", "a'\"%2F;--", "é鞋\u202e7"]


def ids(answer: Any) -> list[str]:
    return [each["item_id"] for each in answer.json()["items"]]


def put(client: TestClient, item_id: str, **content: Any) -> Any:
    parts: list[Any] = [("text", (None, content["text"]))]
    parts += [("categories", (None, each)) for each in content.get("categories", ())]
    if "image" in content:
        parts.append(("image", ("a.png", content["image"])))
    return client.put(f"/items/{quote(item_id, safe='')}", files=parts)


def recommend(client: TestClient, **body: Any) -> Any:
    return client.post("/recommend", json=body)


def users_of(shop: Any, client: TestClient) -> tuple[list[str], list[list[str]], list[str]]:
    table = read_table(shop.home.target("HM") / "sequences.parquet", SEQUENCES).to_pydict()
    names = [f"{item:010d}" for item in range(1, K + 1)]
    known = {each["item_id"] for each in client.get("/items?limit=100").json()["items"]}
    assert known == set(names)
    before = [
        [names[item - 1] for item in (*train, valid)]
        for train, valid in zip(table["train"], table["valid"], strict=True)
    ]
    return table["user_id"], before, [names[item - 1] for item in table["test"]]


def test_what_is_served_over_http_is_what_was_evaluated(
    shop: Any, served_runs: Path, client: TestClient
) -> None:
    users, before, after = users_of(shop, client)
    ranks = read_table(served_runs / "first" / "ranks.parquet", RANKS)["rank"].to_pylist()
    body = {"histories": before, "k": K, "keep_history": True}
    results = client.post("/recommend/batch", json=body).json()["results"]
    for k, user in enumerate(users):
        batch = {each["item_id"]: each["score"] for each in results[k]["items"]}
        one = recommend(client, history=before[k], k=K, keep_history=True).json()["items"]
        named = recommend(client, user_id=user, k=K, keep_history=True).json()["items"]
        assert one == named
        for scores in (batch, {each["item_id"]: each["score"] for each in one}):
            others = set(scores) - set(before[k]) | {after[k]}
            assert sum(scores[each] >= scores[after[k]] for each in others) == ranks[k]
    listed = client.get("/users?limit=100").json()
    assert [each["rank"] for each in listed["users"]] == ranks
    assert [each["target"]["item_id"] for each in listed["users"]] == after
    shown = [[item["item_id"] for item in each["history"]] for each in listed["users"]]
    assert shown == before
    assert client.get("/users?offset=23&limit=5").json()["users"] == listed["users"][23:]


def test_filters_reasons_and_the_share_of_popularity(client: TestClient) -> None:
    history = ["0000000001", "0000000002"]
    whole = ids(recommend(client, history=history, k=K))
    assert len(whole) == K - 2
    assert ids(recommend(client, history=history, k=3, exclude=whole[:2])) == whole[2:5]
    assert ids(recommend(client, history=history, k=3, allow=whole[5:])) == whole[5:8]
    why = recommend(client, history=history, k=2, reasons=True).json()["items"]
    assert {each["item_id"] for each in why[0]["reasons"]} == set(history)
    effects = [each["effect"] for each in why[0]["reasons"]]
    assert effects == sorted(effects, reverse=True)
    chosen = recommend(client, history=history, k=K, popularity="chosen")
    assert ids(chosen) != whole
    unknown = recommend(client, history=["?", *history]).json()
    assert (unknown["unknown"], unknown["popular"]) == (["?"], False)
    assert recommend(client).json()["popular"]


def test_an_item_is_recommended_when_the_answer_to_its_put_leaves(
    client: TestClient, draw: Any, serving: Serving
) -> None:
    image = draw("red")
    answer = put(client, "new", text="a red hat", categories=["Hats", "Red"], image=image)
    assert answer.status_code == 200
    item = answer.json()["item"]
    assert item == {
        "item_id": "new",
        "text": "a red hat",
        "categories": ["Hats", "Red"],
        "has_picture": True,
        "count": 0,
        "new": True,
        "withdrawn": False,
    }
    assert "new" in ids(recommend(client, history=["0000000001"], k=K + 1))
    assert ids(recommend(client, history=["0000000001"], categories=["Hats"])) == ["new"]
    assert client.get("/items/new").json() == item
    assert ids(client.get("/items", params={"query": "red hat"})) == ["new"]
    found = client.get("/items/new/image")
    assert (found.content, found.headers["content-type"]) == (image, "image/png")
    assert len(ids(client.get("/items/new/similar?k=4"))) == 4
    # The vectors are those that the model's own way of adding items makes, bit for bit.
    made = serving.current.model.encode_items(
        [NewItem(item_id="new", text="a red hat", image=image)]
    )
    state = serving.current.model.state
    row = state.find("new")
    assert np.array_equal(state.input_NW[row], made[0][0])
    assert np.array_equal(state.score_ND[row], made[1][0])


def test_a_withdrawn_item_comes_no_more_and_counts_in_histories(client: TestClient) -> None:
    put(client, "new", text="a red hat")
    before = recommend(client, history=["new", "0000000003"], k=5).json()["items"]
    for item in ("new", "0000000004"):
        assert client.delete(f"/items/{item}").json() == {"item_id": item, "withdrawn": True}
        assert client.delete(f"/items/{item}").status_code == 200
        assert item not in ids(recommend(client, history=["0000000003"], k=K + 1))
        assert client.get(f"/items/{item}").json()["withdrawn"]
    assert ids(client.get("/items?query=red hat")) == []
    after = recommend(client, history=["new", "0000000003"], k=6).json()
    assert after["unknown"] == []
    left = [each for each in before if each["item_id"] != "0000000004"]
    assert after["items"][: len(left)] == left
    assert client.delete("/items/nobody").status_code == 404


@pytest.mark.parametrize("item_id", ODD)
def test_any_id_is_reached_and_only_by_itself(client: TestClient, item_id: str) -> None:
    path = f"/items/{quote(item_id, safe='')}"
    assert client.get(path).status_code == 404
    assert put(client, item_id, text=f"hat {item_id}").json()["item"]["item_id"] == item_id
    assert client.get(path).json()["text"] == f"hat {item_id}"
    assert client.get(f"{path}/image").status_code == 404
    assert item_id not in ids(client.get(f"{path}/similar?k=40"))
    assert item_id in ids(client.get("/items", params={"query": "hat"}))
    assert client.delete(path).json()["item_id"] == item_id


def test_items_are_there_after_a_restart(open_serving: Any, make_client: Any, draw: Any) -> None:
    serving = open_serving()
    with make_client(serving) as client:
        put(client, "a", text="red hat", image=draw("red"))
        put(client, "b", text="blue hat")
        put(client, "0000000007", text="no article any more")
        client.delete("/items/b")
        client.delete("/items/0000000003")
        before = recommend(client, history=["a", "b"], k=K + 3).json()
        item = client.get("/items/a").json()
    vectors = serving.current.model.state.score_ND[K:]
    serving.close()
    with make_client(open_serving()) as client:
        after = recommend(client, history=["a", "b"], k=K + 3).json()
        assert (before["items"], before["unknown"]) == (after["items"], after["unknown"])
        assert client.get("/items/a").json() == item
        assert client.get("/items/a/image").content == draw("red")
        assert client.get("/items/b").json()["withdrawn"]
        assert client.get("/items/0000000007").json()["text"] == "no article any more"
        assert ids(client.get("/items?query=hat")) == ["a"]
        assert client.get("/health/ready").json()["added"] == 2
    serving = open_serving("second", serving.log.path.parent.with_name("other"))
    with make_client(serving) as client:
        assert client.get("/items/a").status_code == 404
    assert len(vectors) == 3


def test_items_are_encoded_anew_for_another_model_once(
    open_serving: Any, make_client: Any, draw: Any
) -> None:
    serving = open_serving("first")
    with make_client(serving) as client:
        put(client, "a", text="red hat", image=draw("red"))
        put(client, "b", text="blue hat")
        client.delete("/items/b")
    serving.close()
    for _ in range(2):
        serving = open_serving("second")
        model = serving.current.model
        assert model.state.score_ND.shape == (K + 2, 16)
        read = serving.log.read("a")
        assert read is not None
        assert read[2] == serving.current.version  # kept for the next start
        content = [NewItem(item_id="a", text="red hat", image=draw("red"))]
        made = model.encode_items(content)
        np.testing.assert_allclose(model.state.score_ND[K], made[1][0], atol=1e-5)
        assert model.card("b").withdrawn
        serving.close()
    with pytest.raises(InputError, match=r"2 items were added .* --data"):
        open_serving("ids")


def test_a_model_on_ids_says_that_it_takes_no_items(open_serving: Any, make_client: Any) -> None:
    with make_client(open_serving("ids")) as client:
        answer = put(client, "a", text="hat")
        assert answer.status_code == 409
        assert "holds something of each single item" in answer.json()["error"]
        assert client.delete("/items/0000000001").status_code == 200
        assert len(ids(recommend(client, history=["0000000002"]))) == 10


def test_two_servers_on_one_folder_are_refused(serving: Serving) -> None:
    with pytest.raises(StorageError, match="another server holds"):
        Serving(serving.log.path.parent, lambda _: serving.current)


def version(client: TestClient) -> str:
    return str(client.get("/models").json()["serving"]["version"])


def test_another_model_is_swapped_in_with_the_live_items_and_back(
    client: TestClient, draw: Any
) -> None:
    first = version(client)
    put(client, "a", text="red hat", image=draw("red"))
    client.delete("/items/0000000005")
    swapped = client.post("/models", json={"bundle": "second"})
    assert swapped.status_code == 200
    found = swapped.json()
    assert (found["serving"]["name"], found["previous"]["version"]) == ("second", first)
    assert found["checked"] == {"users": 24, "same": 24}
    answer = recommend(client, history=["0000000001"], k=K + 1)
    assert answer.json()["model"] == answer.headers["x-pmm-model"] == version(client) != first
    assert "a" in ids(answer)
    assert "0000000005" not in ids(answer)
    assert client.get("/items/a/image").content == draw("red")
    put(client, "b", text="blue hat")
    client.delete("/items/a")
    back = client.post("/models/rollback").json()
    assert (back["serving"]["version"], back["previous"]["name"]) == (first, "second")
    found = ids(recommend(client, history=["0000000001"], k=K + 2))
    assert "b" in found
    assert not {"a", "0000000005"} & set(found)
    assert ids(client.get("/items?query=hat")) == ["b"]
    assert client.post("/models/rollback").json()["serving"]["name"] == "second"
    assert ids(client.get("/items?query=hat")) == ["b"]


def test_a_bundle_without_test_users_says_how_it_can_be_checked(
    shop: Any, served_runs: Path, serving: Serving, tmp_path: Path
) -> None:
    place = tmp_path / "bundle"
    export_run(shop.home, served_runs / "first", place, BundleOptions(test_users=0))
    with pytest.raises(Refused, match=r"bundle without test users.* export it again"):
        serving.swap(place)


def test_a_folder_for_items_that_cannot_be_says_its_own_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Choose another folder with --data"):
        Serving(tmp_path / "file" / "data", load_served)  # type: ignore[arg-type]


def test_a_start_needs_no_room_for_items_that_it_has_encoded_anew(
    open_serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = open_serving("first")
    serving.put(NewItem(item_id="a", text="red hat"))
    serving.close()

    def full(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(ItemLog, "rewrite", full)
    assert open_serving("second").current.model.card("a").text == "red hat"


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("wrong", 409, "another rank than its evaluation"),
        ("raw", 409, "has no evaluated test users"),
        ("ids", 409, "cannot take an item that was added"),
        ("nothing", 422, "is neither a run nor a bundle"),
    ],
)
def test_a_model_that_does_not_pass_is_not_served(
    client: TestClient, name: str, status: int, told: str
) -> None:
    put(client, "a", text="red hat")
    before = version(client)
    answer = client.post("/models", json={"bundle": name})
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]
    assert version(client) == before
    assert client.get("/models").json()["previous"] is None
    assert client.post("/models/rollback").status_code == 409


def test_every_answer_under_load_is_of_one_of_the_two_models(
    client: TestClient, loaded: Callable[[str], Any]
) -> None:
    history = ["0000000001", "0000000009"]
    expected = {}
    for name in ("first", "second"):
        served = loaded(name)
        found = served.model.recommend([history])[0].items
        expected[served.version] = [(each.item_id, each.score) for each in found]
    seen, wrong, stop = set(), list[Any](), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = recommend(client, history=history)
            found = answer.json()
            items = [(each["item_id"], each["score"]) for each in found.get("items", [])]
            if answer.status_code != 200 or items != expected.get(found["model"]):
                wrong.append(found)
            seen.add(found.get("model"))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for each in askers:
        each.start()
    for _ in range(2):
        assert client.post("/models", json={"bundle": "second"}).status_code == 200
        assert client.post("/models/rollback").status_code == 200
    stop.set()
    for each in askers:
        each.join()
    assert not wrong
    assert seen == set(expected)


def test_recommendation_goes_on_while_an_item_is_encoded(
    client: TestClient, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    encoder = serving.current.model.encoder
    real = encoder.new_items

    def slow(items: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(items)

    monkeypatch.setattr(encoder, "new_items", slow)
    answers: list[Any] = []
    putting = threading.Thread(target=lambda: answers.append(put(client, "a", text="hat")))
    putting.start()
    assert begun.wait(30)
    assert len(ids(recommend(client, history=["0000000001"]))) == 10
    assert client.get("/items/a").status_code == 404
    go_on.set()
    putting.join()
    assert answers[0].status_code == 200
    assert client.get("/items/a").status_code == 200


def test_health_and_metrics(client: TestClient, serving: Serving) -> None:
    put(client, "a/b", text="hat")
    client.get("/items/a%2Fb")
    client.get("/items/nobody")
    client.get("/no/such/path")
    assert client.get("/health/live").json() == {"state": "live"}
    ready = client.get("/health/ready").json()
    assert ready["state"] == "ready"
    assert (ready["items"], ready["added"], ready["search"]) == (K + 1, 1, True)
    assert ready["index"] == {"kind": "exact", "recall": 1.0}
    told = client.get("/metrics").text
    for line in (
        'pmm_requests_total{method="GET",route="/items/{item_id}",status="200"} 1.0',
        'pmm_requests_total{method="GET",route="/items/{item_id}",status="404"} 1.0',
        'pmm_requests_total{method="GET",route="other",status="404"} 1.0',
        'pmm_request_seconds_count{method="PUT",route="/items/{item_id}"} 1.0',
        'pmm_item_writes_total{kind="put"} 1.0',
        "pmm_items_added 1.0",
        f"pmm_items_offered {K + 1}.0",
    ):
        assert line in told
    assert "nobody" not in told
    serving.stopping = True
    stopping = client.get("/health/ready")
    assert (stopping.status_code, stopping.json()["state"]) == (503, "stopping")


def test_before_the_model_is_loaded_the_server_lives_and_is_not_ready(
    loaded: Callable[[str], Any], make_client: Any, tmp_path: Path
) -> None:
    serving = Serving(tmp_path / "data", lambda _: loaded("first"))
    with make_client(serving) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").json()["state"] == "loading"
        answer = recommend(client, history=[])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert put(client, "a", text="hat").status_code == 503
        serving.start(Path("first"))
        assert recommend(client, history=[]).status_code == 200
    serving.close()


def test_the_page_is_served_with_rules_that_keep_it_at_home(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.text == served_page().html
    policy = answer.headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert "default-src 'none'" in policy[0]
    assert "frame-ancestors 'none'" in policy[0]
