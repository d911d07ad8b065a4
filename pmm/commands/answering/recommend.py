"""`pmm recommend`: the best items for many users, into a Parquet file."""

from typing import Any

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.recommend.batch.recommend_options import RecommendRequest


def run(request: RecommendRequest) -> None:
    """Recommend items to many users, into a Parquet file.

    Users of the target, or histories from a file, also of people that training never saw. What is
    stopped goes on with the same command.
    """
    from pmm.bundle.open_bundle import bundle_at
    from pmm.recommend.batch.recommend_all import recommend_as_asked

    bundle = bundle_at(request.place()[1])
    print("\n".join(summary(recommend_as_asked(request, bundle))))
    print(f"Written to {request.out}: user_id, item_id, rank, score")


def summary(told: dict[str, Any]) -> list[str]:
    """What was made, in lines.

    Args:
        told: what `recommend_as_asked` returns.
    """
    lines = [
        f"{told['users']:,} users, {told['items']:,} items of {told['target']}, "
        f"{told['rows']:,} recommendations of the model {told['model']}"
    ]
    if told["popular_users"]:
        lines.append(f"{told['popular_users']:,} users without a known item: the popular items")
    if told["users_without_items"]:
        lines.append(f"{told['users_without_items']:,} users for whom no item is left")
    if told["unknown_ids"]:
        first = ", ".join(map(repr, told["unknown_first"]))
        lines.append(f"{told['unknown_ids']:,} ids in histories are unknown, skipped: {first}")
    lines += [f"rows left out: {why} {n:,}" for why, n in told["rows_left_out"].items()]
    return lines


def command() -> GroupedCommand:
    """The command."""
    example = "pmm recommend hm-shoes-scratch --out recommendations.parquet"
    return make_command("recommend", RecommendRequest, run, example=example)
