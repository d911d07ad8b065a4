"""While a model trains on several sources, each is validated as the saved model ranks it alone."""

from types import ModuleType
from typing import Any

import pytest

from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.runs.folder import LOG
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.train.curves import read_log
from pmm.train.train_run import train

SOURCES = ("HM", "Kwai")
SMALL: dict[str, dict[str, Any]] = {
    "pmmrec": {"items": "vectors", "width": 16, "negatives": "batch"},
    "unisrec": {"width": 16},
    "peterrec": {"width": 16, "scaling": "none"},  # else statistics are of one source when alone
}


@pytest.fixture(scope="module")
def sources(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The items of the second are numbered behind those of the first while training."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("sources"), n_items=24, n_users=20)
    shop.add_target("Kwai", n_items=40, n_users=30)
    return shop


@pytest.mark.parametrize("name", sorted(SMALL))
def test_each_source_is_validated_as_the_saved_model_ranks_it(sources: Any, name: Any) -> None:
    shop, home = sources, sources.home
    run = home.run(f"pretrain-{name}")
    reads = ("text",) if name == "unisrec" else ("text", "vision")
    sides = {side: {"encoder": getattr(shop.options, side).encoder} for side in reads}
    request = TrainRequest(stage="pretrain", model=name, sources=SOURCES)
    values = {
        "model": {"max_length": 6, **SMALL[name], **sides},
        "train": {"epochs": 2, "batch_users": 8, "lr": 1e-2, "choose_popularity": False},
    }
    result = train(home, run, resolve_run(home, run, request, values))
    best = next(
        each
        for each in read_log(run / LOG)
        if each["kind"] == "evaluation" and each["epoch"] == result["best_epoch"]
    )
    wanted = EvaluateOptions(split="valid", gallery_users=0)
    for source in SOURCES:
        alone = evaluate_run(home, run, wanted, target=source)["model"]
        said = best["sources"][source]
        assert said["users"] == alone["users"]
        for each in ("hr@10", "ndcg@10", "ndcg@50"):
            assert said[each] == pytest.approx(alone[each], abs=1e-6), (source, each)
