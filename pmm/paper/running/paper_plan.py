"""`pmm paper plan` and `run`: what the asked tables need, and what of it is there."""

import logging
from collections.abc import Sequence

from pmm.paper.experiment import with_starts
from pmm.paper.paper_datasets import Datasets
from pmm.paper.paper_request import CampaignRequest, PaperRequest, PlanRequest
from pmm.paper.running.campaign import Campaign
from pmm.paper.running.estimate import estimate, estimate_lines
from pmm.paper.tables import PaperTable, asked_tables
from pmm.text_table import text_table

logger = logging.getLogger(__name__)


def campaign_of(request: PaperRequest) -> tuple[Campaign, Datasets, list[PaperTable]]:
    """The runs of a request in its home folder; errors as `asked_tables` and `Campaign`."""
    home = request.place()
    datasets, tables = asked_tables(home, request)
    every = (each for table in tables for each in table.experiments(request.seeds))
    experiments = with_starts(every, home)
    return Campaign(home, experiments, request.device or ""), datasets, tables


def plan_lines(request: PlanRequest) -> list[str]:
    """The runs in their order with what is there, then the estimate; errors as `campaign_of`."""
    campaign, datasets, tables = campaign_of(request)
    missing = set(campaign.missing)
    rows = [
        [name, each.stage, "to do" if name in missing else "there"]
        for name, each in campaign.experiments.items()
    ]
    lines = [text_table(["run", "stage", ""], rows)] if rows else []
    lines += _left_out(datasets, tables)
    lines.append(f"{len(rows):,} runs, {len(missing):,} of them to do.")
    lines += estimate_lines(estimate(campaign, measure=request.measure))
    return lines


def run_as_asked(request: CampaignRequest) -> bool:
    """Make what is missing; whether all is there then. Errors as `campaign_of`, `Campaign.run`."""
    campaign, datasets, tables = campaign_of(request)
    for line in _left_out(datasets, tables):
        logger.info("%s", line)
    missing = campaign.missing
    logger.info("%d runs, %d of them to do", len(campaign.experiments), len(missing))
    return campaign.run(request.jobs, request.max_minutes) if missing else True


def _left_out(datasets: Datasets, tables: Sequence[PaperTable]) -> list[str]:
    lines = [f"{each.title}: not here: {why}" for each in tables for why in each.missing]
    if datasets.unsharded:
        lines.append(f"without shards, and left out: {', '.join(datasets.unsharded)}")
    return lines
