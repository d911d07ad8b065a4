"""The calls of the server. What they take and give stands in `pmm.serve.web.json_forms`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from pmm.errors import BrokenArtefact, PmmError, StorageError
from pmm.machine import cores
from pmm.recommend.answers import Recommended, Wanted
from pmm.serve.item_log import DiskFull
from pmm.serve.item_search import NotYet
from pmm.serve.limits import (
    ANSWERS,
    CATEGORY_CHARACTERS,
    ID_CHARACTERS,
    MOST_EXPLAINED,
    MOST_ITEMS,
    MOST_REASONS,
    OFFSET,
    PAGE,
    QUERY_CHARACTERS,
    RETRY_SECONDS,
    SHOWN_HISTORY,
)
from pmm.serve.load_served import ServedModel
from pmm.serve.page_file import served_page
from pmm.serve.serving import Refused, Serving
from pmm.serve.web import json_forms as forms
from pmm.serve.web.access import Access, AccessRules
from pmm.serve.web.bounds import Bounds
from pmm.serve.web.request_bodies import StrictRoute, decoded_id, picture_kind, read_item
from pmm.serve.web.request_metrics import Measured, ServerMetrics
from pmm.version import __version__

_STATUS: list[tuple[type[PmmError], int]] = [
    (DiskFull, 507),
    (NotYet, 503),
    (Refused, 409),
    (StorageError, 503),
    (BrokenArtefact, 500),
    (PmmError, 422),
]

Answer = TypeVar("Answer")

PathId = Annotated[
    str,
    Path(
        alias="item_id",
        min_length=1,
        max_length=12 * ID_CHARACTERS,
        description="An item's id, percent-encoded: a slash is %2F.",
    ),
]

PageStart = Annotated[int, Query(ge=0, le=OFFSET)]
PageSize = Annotated[int, Query(ge=1, le=PAGE)]


def make_app(
    serving: Serving,
    rules: AccessRules,
    *,
    place_of: Callable[[str], FilePath] = FilePath,
    **bounds: Any,
) -> ASGIApp:
    """All calls, behind what counts, lets in and bounds them.

    Args:
        serving: the state.
        rules: who may call.
        place_of: what a client calls a model -> its folder; PmmError: it may not be loaded.
        bounds: as of `Bounds`.
    """
    app = FastAPI(
        title="PMM",
        version=__version__,
        summary="Recommendations of a trained model.",
        docs_url=None,  # these pages load scripts of another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        responses=forms.PROBLEMS,
    )
    app.router.route_class = StrictRoute
    metrics = ServerMetrics(serving)
    _handle_errors(app)
    calls = _Calls(serving, metrics)
    _add_answers(app, calls)
    _add_items(app, calls)
    _add_writing(app, calls)
    _add_users(app, calls)
    _add_models(app, calls, place_of)
    _add_health(app, calls)
    behind: ASGIApp = Access(Bounds(app, **bounds), rules)
    if rules.origins:
        # In front of the token: browsers ask beforehand without one, and refusals are read, too.
        behind = CORSMiddleware(
            behind,
            allow_origins=sorted(rules.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return Measured(behind, metrics)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    del app
    # Threads that answer: more than cores would only wait for one another.
    anyio.to_thread.current_default_thread_limiter().total_tokens = max(4, cores())
    yield


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def _of_http(request: Request, error: HTTPException) -> JSONResponse:
        del request
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def _of_faults(request: Request, error: Exception) -> JSONResponse:
        del request, error
        return JSONResponse({"error": "a fault of the server; its log says more"}, 500)

    @app.exception_handler(RequestValidationError)
    async def _of_values(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            return JSONResponse({"error": "send the body as application/json"}, 415)
        told = "; ".join(_sentence(each) for each in error.errors()[:3])
        return JSONResponse({"error": told}, 422)

    @app.exception_handler(PmmError)
    async def _of_pmm(request: Request, error: PmmError) -> JSONResponse:
        del request
        status = next(number for kind, number in _STATUS if isinstance(error, kind))
        told, _, run = str(error).partition(" Run: ")
        headers = {"retry-after": str(RETRY_SECONDS)} if status == 503 else {}
        return JSONResponse({"error": told} | ({"run": run} if run else {}), status, headers)


def _sentence(error: dict[str, Any]) -> str:
    """What pydantic says, without what was sent: that may be long, and is the client's."""
    where = ".".join(str(each) for each in error["loc"] if each not in ("body", "query", "path"))
    return f"{where[:100]}: {error['msg']}" if where else str(error["msg"])


class _Calls:
    """What the calls share."""

    def __init__(self, serving: Serving, metrics: ServerMetrics) -> None:
        self.serving, self.metrics = serving, metrics

    def now(self, request: Request) -> ServedModel:
        """The model of the moment, which the answer names."""
        served = self.serving.current
        request.state.model = served.version
        return served

    def known(self, served: ServedModel, segment: str) -> str:
        """The id that a path names.

        Raises:
            HTTPException: 404, there is no such item.
        """
        item_id = decoded_id(segment)
        if served.model.state.find(item_id) is None:
            raise HTTPException(404, "there is no such item")
        return item_id

    def item(self, served: ServedModel, item_id: str) -> dict[str, Any]:
        """What is known of an item; pictures of live items stand in the log."""
        found = served.model.card(item_id).as_dict()
        live = self.serving.log.get(item_id)
        if live is not None and live.content is not None:
            found["has_picture"] = live.picture
        return found

    def items(self, served: ServedModel, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Of several."""
        return [self.item(served, each) for each in ids]

    async def write(self, run: Callable[..., Answer], *args: Any) -> Answer:
        """A change, in its turn; it is made whether or not the client waits for it."""
        asked = asyncio.get_running_loop().run_in_executor(self.serving.writer, run, *args)
        return await asyncio.shield(asked)

    async def load(self, run: Callable[..., Answer], *args: Any) -> Answer:
        """A swap."""
        asked = asyncio.get_running_loop().run_in_executor(self.serving.loader, run, *args)
        return await asyncio.shield(asked)


def _wanted(body: forms.Wishes) -> Wanted:
    return Wanted(
        k=body.k,
        exclude=body.exclude,
        allow=body.allow,
        categories=body.categories,
        keep_history=body.keep_history,
        popularity=body.popularity,
    )


def _milliseconds(started: float) -> float:
    return round(1_000 * (time.perf_counter() - started), 3)


def _add_answers(app: FastAPI, calls: _Calls) -> None:
    now = Annotated[ServedModel, Depends(calls.now)]

    @app.post("/recommend", response_model=forms.RecommendAnswer, tags=["answers"])
    def recommend(body: forms.RecommendBody, served: now) -> dict[str, Any]:
        """The best items for a history of ids, or for a test user of the target."""
        started = time.perf_counter()
        if body.reasons and body.k > MOST_EXPLAINED:
            raise HTTPException(422, f"reasons are given for {MOST_EXPLAINED} items at most")
        history = _history(served, body)
        found = served.model.recommend([history], _wanted(body))[0]
        items = calls.items(served, [each.item_id for each in found.items])
        reasons = _reasons(served, history, found) if body.reasons else [[] for _ in items]
        for item, scored, why in zip(items, found.items, reasons, strict=True):
            item |= {"score": scored.score, "reasons": why}
        return {
            "model": served.version,
            "items": items,
            "unknown": list(found.unknown),
            "popular": found.popular,
            "took_ms": _milliseconds(started),
        }

    @app.post("/recommend/batch", response_model=forms.BatchAnswer, tags=["answers"])
    def recommend_batch(body: forms.BatchBody, served: now) -> dict[str, Any]:
        """The best items for each of several histories."""
        started = time.perf_counter()
        if body.k * len(body.histories) > ANSWERS:
            raise HTTPException(422, f"histories times k are {ANSWERS:,} at most")
        found = served.model.recommend(body.histories, _wanted(body))
        results = [
            {
                "items": [{"item_id": e.item_id, "score": e.score} for e in each.items],
                "unknown": list(each.unknown),
                "popular": each.popular,
            }
            for each in found
        ]
        return {"model": served.version, "results": results, "took_ms": _milliseconds(started)}


def _history(served: ServedModel, body: forms.RecommendBody) -> list[str]:
    if body.history is not None and body.user_id is not None:
        raise HTTPException(422, "say a history or a user_id, not both")
    if body.user_id is None:
        return body.history or []
    row = served.users.find(body.user_id)
    if row is None:
        raise HTTPException(422, "no test user of the target has this user_id")
    return served.users.history(row)


def _reasons(
    served: ServedModel, history: Sequence[str], found: Recommended
) -> list[list[dict[str, Any]]]:
    if found.popular or not found.items:
        return [[] for _ in found.items]
    reasons = served.model.reasons(history, [each.item_id for each in found.items])
    return [
        [{"item_id": e.item_id, "effect": e.effect} for e in each[:MOST_REASONS]]
        for each in reasons
    ]


def _add_items(app: FastAPI, calls: _Calls) -> None:
    now = Annotated[ServedModel, Depends(calls.now)]

    @app.get("/items", response_model=forms.ItemPage, tags=["items"])
    def items(
        served: now,
        query: Annotated[str, Query(max_length=QUERY_CHARACTERS)] = "",
        category: Annotated[str, Query(max_length=CATEGORY_CHARACTERS)] = "",
        offset: PageStart = 0,
        limit: PageSize = 20,
    ) -> dict[str, Any]:
        """Items whose text or id has all words of a query; without one, the most frequent first."""
        total, ids = served.search.find(query, category, offset=offset, limit=limit)
        return {"total": total, "items": calls.items(served, ids)}

    @app.get("/categories", response_model=forms.CategoriesAnswer, tags=["items"])
    def categories(served: now) -> dict[str, Any]:
        """The categories, with the number of their items."""
        listed = served.search.categories()
        return {"categories": [{"name": name, "items": n} for name, n in listed]}

    @app.get("/items/{item_id}", response_model=forms.ItemAnswer, tags=["items"])
    def item(item_id: PathId, served: now) -> dict[str, Any]:
        """What is known of an item."""
        return calls.item(served, calls.known(served, item_id))

    @app.get(
        "/items/{item_id}/image",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}, "description": "its picture"}},
        tags=["items"],
    )
    def image(item_id: PathId, served: now) -> Response:
        """The picture of an item."""
        picture = calls.serving.picture(calls.known(served, item_id))
        if picture is None:
            raise HTTPException(404, "the item has no picture")
        # As it was uploaded: shown as a picture, never run as a page.
        headers = {"content-security-policy": "default-src 'none'; sandbox"}
        return Response(picture, headers=headers, media_type=picture_kind(picture))

    @app.get("/items/{item_id}/similar", response_model=forms.SimilarAnswer, tags=["items"])
    def similar(
        item_id: PathId,
        served: now,
        k: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 10,
    ) -> dict[str, Any]:
        """The nearest items, by the cosine of what items are scored with."""
        found = served.model.similar(calls.known(served, item_id), k)
        near = calls.items(served, [each.item_id for each in found])
        scored = [item | {"score": e.score} for item, e in zip(near, found, strict=True)]
        return {"model": served.version, "items": scored}


def _add_users(app: FastAPI, calls: _Calls) -> None:
    now = Annotated[ServedModel, Depends(calls.now)]

    @app.get("/users", response_model=forms.UserPage, tags=["items"])
    def users(served: now, offset: PageStart = 0, limit: PageSize = 20) -> dict[str, Any]:
        """Test users of the target, with the latest items of their histories."""
        rows = range(offset, min(offset + limit, len(served.users)))
        return {"total": len(served.users), "users": [_user(calls, served, row) for row in rows]}


def _user(calls: _Calls, served: ServedModel, row: int) -> dict[str, Any]:
    users = served.users
    return {
        "user_id": users.user_id(row),
        "history": calls.items(served, users.history(row)[-SHOWN_HISTORY:]),
        "target": calls.item(served, users.target(row)),
        "rank": users.rank(row),
    }


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "categories": {"type": "array", "items": {"type": "string"}},
                        "image": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


def _add_writing(app: FastAPI, calls: _Calls) -> None:
    now = Annotated[ServedModel, Depends(calls.now)]

    @app.put(
        "/items/{item_id}", response_model=forms.PutAnswer, openapi_extra=_FORM, tags=["items"]
    )
    async def put_item(item_id: PathId, request: Request, served: now) -> dict[str, Any]:
        """A new item, or new content of one: on the disk and recommended when this answers."""
        del served
        started = time.perf_counter()
        new = await read_item(request, decoded_id(item_id))
        by = await calls.write(calls.serving.put, new)
        request.state.model = by.version
        calls.metrics.writes.labels("put").inc()
        calls.metrics.put_seconds.observe(time.perf_counter() - started)
        found = calls.item(by, new.item_id)
        return {"item": found, "model": by.version, "took_ms": _milliseconds(started)}

    @app.delete("/items/{item_id}", response_model=forms.WithdrawnAnswer, tags=["items"])
    async def withdraw(item_id: PathId, request: Request, served: now) -> dict[str, Any]:
        """Recommend an item no more; histories keep it."""
        known = calls.known(served, item_id)
        by = await calls.write(calls.serving.withdraw, known)
        request.state.model = by.version
        calls.metrics.writes.labels("withdraw").inc()
        return {"item_id": known, "withdrawn": True}


def _add_models(app: FastAPI, calls: _Calls, place_of: Callable[[str], FilePath]) -> None:
    serving = calls.serving

    def told(**more: Any) -> dict[str, Any]:
        former = serving.previous
        return {
            "serving": _info(serving.current),
            "previous": None if former is None else _info(former),
            **more,
        }

    @app.get("/models", response_model=forms.ModelsAnswer, tags=["models"])
    async def models() -> dict[str, Any]:
        """The model that serves, and the one before."""
        return told()

    @app.post("/models", response_model=forms.ModelsAnswer, tags=["models"])
    async def swap(body: forms.ModelBody) -> dict[str, Any]:
        """Load another model beside, check it by its own test users, and let it serve."""
        done = await calls.load(lambda: serving.swap(place_of(body.bundle)))
        calls.metrics.swaps.labels("swap").inc()
        return told(checked={"users": done.check.users, "same": done.check.same})

    @app.post("/models/rollback", response_model=forms.ModelsAnswer, tags=["models"])
    async def rollback() -> dict[str, Any]:
        """Let the model before serve again."""
        await calls.load(serving.roll_back)
        calls.metrics.swaps.labels("rollback").inc()
        return told()


def _info(served: ServedModel) -> dict[str, str]:
    return {"version": served.version, "name": served.name, "since": served.since}


def _add_health(app: FastAPI, calls: _Calls) -> None:
    serving = calls.serving

    @app.get("/health/live", response_model=forms.LiveAnswer, tags=["health"])
    async def live() -> dict[str, str]:
        """Whether the process runs."""
        return {"state": "live"}

    @app.get(
        "/health/ready",
        response_model=forms.ReadyAnswer,
        responses={503: {"model": forms.ReadyAnswer}},
        tags=["health"],
    )
    async def ready() -> Any:
        """Whether it answers, with how many items, and how the best are found."""
        state = _ready(serving)
        return state if state["state"] == "ready" else JSONResponse(state, 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(calls.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def the_page() -> HTMLResponse:
        page = served_page()
        return HTMLResponse(page.html, headers=page.headers)


def _index(served: ServedModel) -> dict[str, Any]:
    """How the best items are found; all are scanned where the model has no index."""
    index = served.model.index
    if index is None:
        return {"kind": "exact", "recall": 1.0}
    return {"kind": "approximate", "recall": index.recall}


def _ready(serving: Serving) -> dict[str, Any]:
    if not serving.is_ready:
        state = "stopping" if serving.stopping else "loading"
        nothing = {"model": None, "items": 0, "added": 0, "index": None, "search": False}
        return {"state": state, **nothing}
    served = serving.current
    return {
        "state": "ready",
        "model": served.version,
        "items": int(served.model.state.offered_N.sum()),
        "added": len(serving.log),
        "index": _index(served),
        "search": served.search.is_whole,
    }
