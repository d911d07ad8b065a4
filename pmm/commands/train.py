"""`pmm train`: a model trained on shards."""

from typing import Any

import typer

from pmm.commands.from_request import GroupedCommand, make_command, typed_command
from pmm.runs.request import TrainRequest


def run(request: TrainRequest) -> None:
    """Train a model on shards.

    The best checkpoint by validation HR@10 is kept. Ctrl-C stops after the step in hand.

    \b
    Models and what they know of an item:
      pmmrec     its text and picture, by encoders that train; transfers
      morec      the same without fusion of tokens and without further objectives; transfers
                 (MoRec++; Yuan et al. 2023)
      sasrec     its id (Kang and McAuley 2018)
      gru4rec    its id (Hidasi et al. 2016)
      nextitnet  its id (Yuan et al. 2019)
      fdsa       its id and a frozen vector of its text (Zhang et al. 2019)
      carca      its id and frozen vectors of text and picture (CARCA++; Rashed et al. 2022)
      unisrec    a frozen vector of its text; transfers (Hou et al. 2022)
      vqrec      codes of a frozen vector of its text; transfers (Hou et al. 2023)
      peterrec   frozen vectors of text and picture; transfers by adapters (Yuan et al. 2020,
                 on ids; on vectors it is our extension)
    Baselines have width 128, 20 items, lr 1e-3 and 256 users a batch, unless --preset original asks
    for their own papers' settings; docs/paper.md has all values and their sources.
    """
    from pmm.train.training import train_as_asked

    result = train_as_asked(request, command=typed_command())
    _print_result(result)
    if result["ended"] == "interrupted":
        again = "" if request.resume else " --resume"
        print(f"Go on: {typed_command(leave_out='--overwrite')}{again}")
        raise typer.Exit(130)
    run_dir = result["run"]
    finetune = f'pmm train --stage finetune --target "HM Shoes" --from {run_dir}'
    print(f"Next: {finetune if request.stage == 'pretrain' else f'pmm evaluate {run_dir}'}")


def _print_result(result: dict[str, Any]) -> None:
    best = result["best_hr@10"]
    print(f"{result['run']}: ended by {result['ended']} after {result['epochs']} epochs")
    print(f"  {result['steps']:,} steps in {result['seconds']:,} s")
    if best is not None:
        print(
            f"  best validation HR@10 {100 * best:.2f} in epoch {result['best_epoch']}, "
            f"popularity {100 * result['popularity_hr@10']:.2f}"
        )


def command() -> GroupedCommand:
    """The command."""
    example = 'pmm train --stage scratch --target "HM Shoes" --epochs 20'
    return make_command("train", TrainRequest, run, example=example)
