"""What calls send and are sent, as OpenAPI has it. Unknown keys and other types are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pmm.serve.limits import (
    CATEGORIES,
    CATEGORY_CHARACTERS,
    HISTORIES,
    HISTORY,
    ID_CHARACTERS,
    IDS,
    MOST_ITEMS,
    PATH_CHARACTERS,
)

Id = Annotated[str, Field(max_length=ID_CHARACTERS)]
History = Annotated[list[Id], Field(max_length=HISTORY)]
Ids = Annotated[list[Id], Field(max_length=IDS)]
Category = Annotated[str, Field(max_length=CATEGORY_CHARACTERS)]


class _Sent(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Wishes(_Sent):
    """Which recommendations are asked for."""

    k: int = Field(10, ge=1, le=MOST_ITEMS, description="How many items.")
    exclude: Ids = Field([], description="Ids that are never recommended.")
    allow: Ids | None = Field(None, description="Ids of which alone some are recommended.")
    categories: list[Category] = Field(
        [], max_length=CATEGORIES, description="Items of one of these alone."
    )
    keep_history: bool = Field(False, description="Whether items of the history may come again.")
    popularity: Annotated[float, Field(ge=-100, le=100)] | Literal["chosen"] = Field(
        0.0, description='How much popularity the ranking holds; "chosen": of the best hit ratio.'
    )


class RecommendBody(Wishes):
    """A history, or a test user; with neither, the popular items."""

    history: History | None = Field(None, description="Ids, oldest first.")
    user_id: Id | None = Field(
        None, description="A test user of the target, without the last item."
    )
    reasons: bool = Field(False, description="Whether to say which items of the history did it.")


class BatchBody(Wishes):
    """Several histories, and one wish for all."""

    histories: list[History] = Field(max_length=HISTORIES)


class ModelBody(_Sent):
    """Another model."""

    bundle: str = Field(min_length=1, max_length=PATH_CHARACTERS, description="Its folder.")


class ItemAnswer(BaseModel):
    """What is known of an item."""

    item_id: str
    text: str
    categories: list[str]
    has_picture: bool = Field(description="Whether GET /items/{item_id}/image has one.")
    count: int = Field(description="Training occurrences.")
    new: bool = Field(description="Whether it was added after training.")
    withdrawn: bool = Field(description="Whether it is kept in histories alone.")


class ReasonAnswer(BaseModel):
    """An item of the history, and how much lower the score would be without it."""

    item_id: str
    effect: float


class ScoredItem(ItemAnswer):
    """An item of an answer."""

    score: float


class RecommendedItem(ScoredItem):
    """A recommendation."""

    reasons: list[ReasonAnswer]


class RecommendAnswer(BaseModel):
    """Recommendations for a history."""

    model: str = Field(description="Version of the model that answered.")
    items: list[RecommendedItem] = Field(description="Best first.")
    unknown: list[str] = Field(description="Ids of the history that nobody knows.")
    popular: bool = Field(description="Nothing of the history is known: these are popular items.")
    took_ms: float


class IdAndScore(BaseModel):
    """An item of a batch's answer."""

    item_id: str
    score: float


class BatchResult(BaseModel):
    """Of one history."""

    items: list[IdAndScore]
    unknown: list[str]
    popular: bool


class BatchAnswer(BaseModel):
    """Of each history, in their order."""

    model: str
    results: list[BatchResult]
    took_ms: float


class SimilarAnswer(BaseModel):
    """The nearest items, the nearest first."""

    model: str
    items: list[ScoredItem]


class ItemPage(BaseModel):
    """A page of items, and how many there are."""

    total: int
    items: list[ItemAnswer]


class CategoryCount(BaseModel):
    """A category, and its items."""

    name: str
    items: int


class CategoriesAnswer(BaseModel):
    """All categories, the largest first."""

    categories: list[CategoryCount]


class PutAnswer(BaseModel):
    """An item that is in: on the disk, and recommended from now on."""

    item: ItemAnswer
    model: str
    took_ms: float


class WithdrawnAnswer(BaseModel):
    """An item that is recommended no more."""

    item_id: str
    withdrawn: Literal[True] = True


class UserAnswer(BaseModel):
    """A test user: the history, the true next item, and the rank that the evaluation gave it."""

    user_id: str
    history: list[ItemAnswer]
    target: ItemAnswer
    rank: int | None


class UserPage(BaseModel):
    """A page of test users, and how many there are."""

    total: int
    users: list[UserAnswer]


class ModelInfo(BaseModel):
    """A model that serves, or did."""

    version: str
    name: str
    since: str = Field(description="When it began to serve.")


class RanksChecked(BaseModel):
    """Test users whose ranks were compared with the evaluation's, and who had the same."""

    users: int
    same: int


class ModelsAnswer(BaseModel):
    """The model of now and the one before."""

    serving: ModelInfo
    previous: ModelInfo | None
    checked: RanksChecked | None = None


class IndexState(BaseModel):
    """How the best items are found."""

    kind: str
    recall: float


class ReadyAnswer(BaseModel):
    """Whether the server answers, and what with."""

    state: Literal["ready", "loading", "stopping"]
    model: str | None
    items: int
    added: int = Field(description="Items that were added after training.")
    index: IndexState | None
    search: bool = Field(description="Whether searches are answered already.")


class LiveAnswer(BaseModel):
    """The process runs."""

    state: Literal["live"] = "live"


class Problem(BaseModel):
    """Why not, in a sentence."""

    error: str
    run: str | None = Field(None, description="What to run next.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": told}
    for status, told in {
        400: "no JSON, or a path that is none",
        401: "the token is missing or wrong",
        403: "not from there",
        404: "there is no such thing",
        408: "the body came too slowly",
        409: "it does not go with what is there",
        413: "too large",
        415: "a content type that is not read",
        422: "a wrong value",
        500: "a fault of the server",
        503: "busy, or being loaded: come back",
        507: "the disk is full",
    }.items()
}
"""Answers that any call may give, for OpenAPI."""
