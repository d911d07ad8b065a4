"""A run in memory: model, optimiser, position; and the steps, evaluations and saves that move it.

Everything random is a function of numbers: the weights at the start of `seed`, the order of the
samples of (seed, epoch, position), the dropout of a step of (seed, step). So a run that was stopped
anywhere and resumed does what it would have done.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pmm.arrays import Int64s
from pmm.data.batch import Batch
from pmm.data.loader import BatchLoader, steps_per_epoch, train_batches
from pmm.data.training_set import TrainingSet
from pmm.errors import PmmError
from pmm.evaluate.catalogue import Catalogue, embed_catalogue
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import drop_evaluations, evaluate_mixes, references
from pmm.evaluate.metrics import headline, mean_summary, summarise
from pmm.evaluate.popularity_mix import ALPHAS, KAPPA, NO_POPULARITY, PopularityMix, choose
from pmm.machine import keep_freed_memory
from pmm.model.build import build_model, features_of
from pmm.model.features.trunks import with_activations
from pmm.model.protocol import ModelOptions, Recommender
from pmm.progress import Progress, progress
from pmm.runs.checkpoint import LAST, State, load_state, save_state
from pmm.runs.compatibility import (
    require_content,
    require_pictures,
    require_tokens,
)
from pmm.runs.device import mixed, pick_device, pick_precision
from pmm.runs.folder import evaluations_held
from pmm.runs.loading import command_to_train_again
from pmm.runs.trackers import TrackedLog
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import (
    BEST,
    frozen_digest,
    frozen_digests,
    kept_tensors,
    read_header,
    read_tensors,
    save_weights,
    trained_tensors,
)
from pmm.shards.kinds import Storage
from pmm.shards.read import Shards
from pmm.storage.artefact import storage_errors
from pmm.train import first_batch
from pmm.train.category_validation import popularity_inside, rank_inside
from pmm.train.interrupt import Interrupt
from pmm.train.optimiser import make_optimiser
from pmm.train.profile import StepProfile
from pmm.version import __version__

logger = logging.getLogger(__name__)

Ended = Literal["", "epochs", "patience", "max_steps", "max_minutes", "interrupted"]


VALID, TEST = EvaluateOptions(split="valid"), EvaluateOptions(split="test")
MIXED = PopularityMix(alpha=0.75)
"""What validation ranks with beside no share of popularity: best on most dense targets."""
_APART = ("cold", "buckets", "mixed", "test")
"""Parts of a summary that have no entry of their own in a record of the log."""


class Trainer:
    """One run; `fit` trains it until it ends."""

    def __init__(
        self,
        run_dir: Path,
        data: TrainingSet,
        model_options: ModelOptions,
        options: TrainOptions,
        *,
        fresh: bool = True,
        profile: bool = False,
    ) -> None:
        self.run_dir, self.options = run_dir, options
        self.device = pick_device(options.device)
        self.dtype = pick_precision(options.precision, self.device)
        logger.debug("device %s, precision %s", self.device, self.dtype)
        for shards in data.parts:
            require_content(shards, model_options)
        features = features_of(model_options, data.parts, self.device)
        torch.manual_seed(options.seed)
        counts = np.concatenate([part.train_count[1:] for part in data.parts])
        model = build_model(model_options, data.n_items, features, fresh=fresh, train_count=counts)
        self.model: Recommender = model.to(self.device)
        for shards in data.parts:
            require_tokens(shards, self.model)
            require_pictures(shards, self.model)
        self.model.recompute = options.recompute
        self.data = data if options.cache == "off" else self._with_activations(data, options.cache)
        self.optimiser = make_optimiser(self.model, options)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.frozen, self.frozen_parts = frozen_digest(self.model), frozen_digests(self.model)
        self.steps_per_epoch = steps_per_epoch(len(data), options.batch_users)
        self.popularity = mean_summary(
            {part.target: self._popularity(k, part) for k, part in enumerate(data.parts)}
        )
        self.state = State()
        self.ended: Ended = ""
        self._profile = StepProfile(self.model, self.device) if profile else None
        self._pending: list[dict[str, Tensor]] = []
        self._users, self._since, self._waited = 0, time.perf_counter(), 0.0

    def _with_activations(self, data: TrainingSet, storage: Storage) -> TrainingSet:
        return data.with_parts(
            [with_activations(part, self.model, storage, write=True) for part in data.parts]
        )

    def restore(self) -> None:
        """Take up the state that the run's folder holds; errors as
        `pmm.runs.checkpoint.load_state`."""
        again = command_to_train_again(self.run_dir, overwrite=True)
        self.state = load_state(self.run_dir, self.model, self.optimiser, made_by=again)
        if self.state.scaler:
            self.scaler.load_state_dict(dict(self.state.scaler))

    def sizes(self) -> dict[str, int]:
        """Numbers of parameters, of those that train, and of steps an epoch."""
        return {
            "parameters": sum(each.numel() for each in self.model.parameters()),
            "trained": sum(each.numel() for each in trained_tensors(self.model).values()),
            "steps_per_epoch": self.steps_per_epoch,
        }

    def fit(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Train until an end; then `ended` says which, and the folder holds the last state.

        Raises:
            PmmError: the loss is no number. The last checkpoint stays as it was.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.options.cache != "off":  # every item's activations are stored
            for encoder in self.model.encoders():
                encoder.release_trunk()
        if self.state.best_epoch >= 0 and not (self.run_dir / BEST).exists():
            self._replace_lost_best(log, interrupt)
        self._record_start(log, interrupt)
        while not (ended := self._why_over()):
            if interrupt.asked:
                break
            self._train_epoch(log, interrupt)
            if self.state.index == self.steps_per_epoch and not interrupt.asked:
                self._end_epoch(log, interrupt)
            if interrupt.asked:
                break
        if ended and self.state.evaluated_step != self.state.step:
            self._evaluate(log, interrupt)
            self._save(log)
        if ended and self.options.choose_popularity and not interrupt.asked:
            self._choose_popularity(log, interrupt)
        self.ended = "interrupted" if interrupt.asked else ended
        if interrupt.asked:
            self._save(log)

    def _replace_lost_best(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Keep the weights that are at hand as the best where the file of the best is gone."""
        state = self.state
        same = state.best_epoch == state.epoch + state.index / self.steps_per_epoch
        logger.warning(
            "%s is gone: the weights of the last checkpoint are ranked and kept as the best%s",
            self.run_dir / BEST,
            ", which they were"
            if same
            else f". Those of epoch {state.best_epoch:.4g}, with HR@10 {100 * state.best:.2f}, can "
            "be had again only with --overwrite",
        )
        waited, state.best, state.best_epoch, state.evaluated_step = state.waited, -1.0, -1.0, -1
        self._evaluate(log, interrupt)
        state.waited = waited  # a run that was over by patience stays so
        if state.best_epoch >= 0:
            self._save(log)

    def _record_start(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Where that is asked for and not done yet, record what the weights reach before any step;
        nothing is chosen by it."""
        if not self.options.eval_start or self.state.step or self.state.evaluated_step == 0:
            return
        start = time.perf_counter()
        try:
            with interrupt.at_once():
                found = self._validate()
        except KeyboardInterrupt:
            return  # and the resumed run does it
        self.state.evaluated_step = 0
        self.state.seconds += time.perf_counter() - start
        logger.info("epoch 0, validation: %s (before the first step)", headline(found))
        self._log_evaluation(log, found, best=None, seconds=time.perf_counter() - start)
        self._save(log)

    def _why_over(self) -> Ended:
        state, options = self.state, self.options
        if options.patience and state.waited >= options.patience:
            return "patience"
        if options.epochs and state.epoch >= options.epochs:
            return "epochs"
        if options.max_steps and state.step >= options.max_steps:
            return "max_steps"
        if options.max_minutes and state.seconds >= 60 * options.max_minutes:
            return "max_minutes"
        return ""

    def _train_epoch(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Steps up to the end of the epoch, or to where the run is over or interrupted."""
        state, options = self.state, self.options
        batches = train_batches(
            self.data,
            seed=options.seed,
            epoch=state.epoch,
            batch_users=options.batch_users,
            max_length=self.model.max_length,
            start_step=state.index,
            ahead=options.ahead,
        )
        label = f"Epoch {state.epoch + 1}"
        self.model.begin_epoch(state.epoch)
        self.model.train()
        self._since, self._waited = time.perf_counter(), 0.0
        with batches, progress(len(batches), label, "steps") as bar:
            for batch in self._profiled(batches):
                if state.step == 0:
                    first_batch.write(self.run_dir, batch, self.data)
                    log.picture("first_batch", self.run_dir / "first_batch.png", 0)
                    self._since, self._waited = time.perf_counter(), batches.waited
                self._step(batch)
                if state.step % options.log_every == 0 or state.index == self.steps_per_epoch:
                    self._log_steps(log, batches, bar)
                bar.advance()
                if interrupt.asked or self._why_over():
                    break
                if state.step % options.save_every == 0 and state.index < self.steps_per_epoch:
                    self._log_steps(log, batches, bar)
                    self._save(log)
            self._log_steps(log, batches, bar)

    def _profiled(self, batches: BatchLoader) -> Iterator[Batch]:
        """The batches; where a profile was asked for, what each step took, told at its end."""
        profile, since, waited = self._profile, time.perf_counter(), batches.waited
        for batch in batches:
            first = self.state.step
            yield batch
            if profile and profile.running and self.state.step > first:
                profile.end_step(batches.waited - waited, time.perf_counter() - since)
                if not profile.running:
                    logger.info(profile.table())
            since, waited = time.perf_counter(), batches.waited

    def _step(self, batch: Batch) -> None:
        seed, step = self.options.seed, self.state.step
        torch.manual_seed(step_seed(seed, step))
        corruption = torch.Generator(self.device).manual_seed(step_seed(seed, step, "corruption"))
        factor = self.options.lr_factor(step, self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimiser.zero_grad(set_to_none=True)
        profile = self._profile
        phase = profile.phase if profile and profile.running else nullcontext
        parts, found = batch.split(self.options.micro_batches), list[dict[str, Tensor]]()
        for part in parts:
            with phase("forward"), mixed(self.device, self.dtype):
                losses = self.model(part.to(self.device), corruption)
            with phase("backward"):
                scaled = self.scaler.scale(losses["loss"] / len(parts))
                scaled.backward()  # type: ignore[no-untyped-call]
            found.append({name: loss.detach() for name, loss in losses.items()})
        with phase("update"):
            self.model.after_backward()
            self.scaler.step(self.optimiser)
            self.scaler.update()
        names = list(found[0])
        self._pending.append({n: torch.stack([each[n] for each in found]).mean(0) for n in names})
        self._users += len(batch.slot_BS)
        self.state.step += 1
        self.state.index += 1

    def _log_steps(self, log: TrackedLog, batches: BatchLoader, bar: Progress) -> None:
        """One line for the steps since the last: mean losses, users/s, share of time waiting."""
        if not self._pending:
            return
        names = list(self._pending[0])
        loss_KN = torch.stack([torch.stack([each[n] for n in names]) for each in self._pending])
        loss_KN = loss_KN.cpu().double()  # an Apple GPU has no fp64
        self._refuse_nan(loss_KN[:, names.index("loss")])
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        share = (batches.waited - self._waited) / seconds
        means = {name: round(float(v), 6) for name, v in zip(names, loss_KN.mean(0), strict=True)}
        log.write(
            {
                "kind": "step",
                "step": self.state.step,
                "epoch": self.state.epoch + 1,
                **means,
                "users_per_s": round(self._users / seconds, 2),
                "waiting": round(share, 4),
            },
            {f"lr/{group['name']}": group["lr"] for group in self.optimiser.param_groups},
        )
        rate = f"{self._users / seconds:.1f}"
        bar.advance(0, loss=f"{means['loss']:.3f}", users_per_s=rate, waiting=f"{share:.0%}")
        self.state.seconds += seconds
        self._pending, self._users, self._since, self._waited = [], 0, now, batches.waited

    def _refuse_nan(self, loss_K: Tensor) -> None:
        bad = (~torch.isfinite(loss_K)).nonzero()[:, 0].tolist()
        if bad:
            step = self.state.step - len(loss_K) + bad[0] + 1
            raise PmmError(f"the loss of step {step} is {float(loss_K[bad[0]])}. {self._advice()}")

    def _refuse_nan_weights(self) -> None:
        """A finite loss can still have had gradients that were none; such weights are not saved."""
        trained = trained_tensors(self.model)
        bad = [name for name, each in trained.items() if not bool(torch.isfinite(each).all())]
        if bad:
            raise PmmError(
                f"step {self.state.step} left {len(bad)} of {len(trained)} weights without a "
                f"number (first {bad[0]}). {self._advice()}"
            )

    def _advice(self) -> str:
        kept = self.run_dir / LAST
        where = f"The checkpoint before it is whole ({kept}). " if kept.exists() else ""
        rates = f"lr {self.options.lr:g}, encoder_lr {self.options.encoder_lr:g}"
        precision = str(self.dtype).removeprefix("torch.")
        return (
            f"{where}Try a lower learning rate (now {rates}) or precision fp32 (now {precision}), "
            "with --overwrite"
        )

    def _end_epoch(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Evaluate where one is due, then stand before the next epoch.

        Where the evaluation was broken off the run stays where it is, and evaluates on resume.
        """
        state, done = self.state, self.state.epoch + 1
        if done % self.options.eval_every == 0:
            self._evaluate(log, interrupt)
            if state.evaluated_step != state.step:
                return
        state.epoch, state.index = done, 0
        self._save(log)

    def _evaluate(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Rank the validation items, keep the best weights, count the evaluations without gain."""
        start = time.perf_counter()
        try:
            with interrupt.at_once():
                found = self._validate()
        except KeyboardInterrupt:
            return
        state = self.state
        epoch = state.epoch + state.index / self.steps_per_epoch
        reached = max(found["hr@10"], found.get("mixed", {}).get("hr@10", 0.0))
        state.evaluated_step, better = state.step, reached > state.best
        state.waited = 0 if better or self.model.learning_codes else state.waited + 1
        if better:
            state.best, state.best_epoch = reached, epoch
            self._keep_best(epoch)
        seconds = time.perf_counter() - start
        state.seconds += seconds
        mark = "best so far" if better else f"best {100 * state.best:.2f}"
        mixed_too = f"; with popularity {_told(found['mixed'])}" if "mixed" in found else ""
        logger.info("epoch %.4g, validation: %s%s (%s)", epoch, headline(found), mixed_too, mark)
        self._log_evaluation(log, found, best=state.best, seconds=seconds)

    def _log_evaluation(
        self, log: TrackedLog, found: Mapping[str, Any], *, best: float | None, seconds: float
    ) -> None:
        """One line for an evaluation, where the run stands."""
        state, test = self.state, found.get("test", {})
        log.write(
            {
                "kind": "evaluation",
                "step": state.step,
                "epoch": round(state.epoch + state.index / self.steps_per_epoch, 4),
                **{name: v for name, v in found.items() if name not in _APART},
                **{
                    f"mixed_{name}": found["mixed"][name]
                    for name in ("hr@10", "ndcg@10")
                    if "mixed" in found
                },
                "cold_hr@10": found["cold"].get("hr@10"),
                "popularity_hr@10": self.popularity["hr@10"],
                **{f"test_{name}": v for name, v in test.items() if name not in _APART},
                "best": best,
                "waited": state.waited,
                "seconds": round(seconds, 2),
            }
        )

    def _validate(self) -> Mapping[str, Any]:
        """The metrics on the validation items; of several sources their mean.

        Under "mixed" those with a share of popularity, where that counts too; under "test" those
        on the test items, where they are recorded.
        """
        mixes = [NO_POPULARITY, *([MIXED] if self.options.choose_popularity else [])]
        asked = [(VALID, mixes)]
        if self.options.eval_test:
            asked.append((TEST, [NO_POPULARITY]))
        (found, *mixed_ones), *tested = self._rank(asked)
        mixed_too = {"mixed": mixed_ones[0]} if mixed_ones else {}
        return {**found, **mixed_too, **({"test": tested[0][0]} if tested else {})}

    def _rank(
        self, asked: Sequence[tuple[EvaluateOptions, Sequence[PopularityMix]]]
    ) -> list[list[dict[str, Any]]]:
        """Of each split that is asked for the summary of each of its shares of popularity; of
        several sources their mean. Items are encoded once."""
        tables: list[dict[str, list[pa.Table]]] = [{} for _ in asked]
        for k, part in enumerate(self.data.parts):
            before = int(self.data.first[k])
            catalogue = embed_catalogue(self.model, part, dtype=self.dtype, before=before)
            for of_part, (options, mixes) in zip(tables, asked, strict=True):
                of_part[part.target] = self._ranks(k, part, options, mixes, catalogue)
        return [
            [
                mean_summary({target: summarise(each[n]) for target, each in of_part.items()})
                for n in range(len(mixes))
            ]
            for of_part, (_, mixes) in zip(tables, asked, strict=True)
        ]

    def _ranks(
        self,
        k: int,
        part: Shards,
        options: EvaluateOptions,
        mixes: Sequence[PopularityMix],
        catalogue: Catalogue,
    ) -> list[pa.Table]:
        """Of a part's items of a split, by each share; inside categories if it is trained so."""
        of_N = self._split_by(k)
        how: dict[str, Any] = {"dtype": self.dtype, "catalogue": catalogue}
        if of_N is None:
            return evaluate_mixes(self.model, part, options, mixes, **how)
        return rank_inside(self.model, part, of_N, options, mixes, **how)

    def _popularity(self, k: int, part: Shards) -> dict[str, Any]:
        """What popularity reaches on the same questions."""
        of_N = self._split_by(k)
        if of_N is None:
            return references(part, VALID)["popularity"]
        return summarise(popularity_inside(part, of_N, VALID))

    def _split_by(self, k: int) -> Int64s | None:
        """The categories by which a part's sequences are split; None: they are whole."""
        split = self.data.split_by
        return split[k].of_N if split and split[k].some else None

    def _choose_popularity(self, log: TrackedLog, interrupt: Interrupt) -> None:
        """Try shares of popularity on the validation items with the best weights, and store what
        they say with them; a run that has it is left as it is."""
        path, again = self.run_dir / BEST, command_to_train_again(self.run_dir, overwrite=True)
        if not path.exists() or "popularity" in read_header(path, made_by=again):
            return
        last = {name: each.detach().clone() for name, each in kept_tensors(self.model).items()}
        best, about = read_tensors(path, made_by=again)
        self._put(best)
        try:
            with interrupt.at_once():
                mixes = [PopularityMix(alpha=alpha) for alpha in ALPHAS]
                (summaries,) = self._rank([(VALID, mixes)])
        except KeyboardInterrupt:
            self._put(last)
            return
        rates = {mix.alpha: each["hr@10"] for mix, each in zip(mixes, summaries, strict=True)}
        found = asdict(choose(rates))
        told = {f"{alpha:g}": rate for alpha, rate in rates.items()}
        about["popularity"] = {"kappa": KAPPA, **found, "valid_hr@10": told}
        self._write_best(about)
        self._put(last)
        logger.info(
            "share of popularity: alpha %g ranks the validation items best (HR@10 %.2f; %.2f "
            "without), %g is within two points of it",
            found["chosen"],
            100 * rates[found["chosen"]],
            100 * rates[0.0],
            found["balanced"],
        )
        log.write({"kind": "popularity", "step": self.state.step, **about["popularity"]})
        self._save(log)

    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights of this run into its model, whose frozen trunks may be gone by now."""
        with torch.no_grad():
            for name, tensor in kept_tensors(self.model).items():
                tensor.copy_(tensors[name])

    def _keep_best(self, epoch: float) -> None:
        about: dict[str, Any] = {"pmm": __version__, "step": self.state.step, "epoch": epoch}
        about |= {"valid_hr@10": self.state.best}
        about |= {"frozen": self.frozen, "frozen_parts": self.frozen_parts}
        about["parts"] = {part.target: part.fingerprint for part in self.data.parts}
        about |= {"shards": self.data.fingerprint, "precision": self.options.precision}
        self._write_best(about)

    def _write_best(self, about: Mapping[str, Any]) -> None:
        """Write the model's weights as the best, and drop what was said of those before."""
        self._require_unchanged_shards()
        with storage_errors(self.run_dir), evaluations_held(self.run_dir):
            drop = partial(drop_evaluations, self.run_dir)
            save_weights(self.run_dir / BEST, self.model, about, drop)

    def _require_unchanged_shards(self) -> None:
        for part in self.data.parts:
            part.require_unchanged()

    def _save(self, log: TrackedLog) -> None:
        self._refuse_nan_weights()
        self._require_unchanged_shards()
        self.state.log_bytes = log.bytes
        self.state.scaler = self.scaler.state_dict()
        logger.debug("step %d: saving %s", self.state.step, self.run_dir / LAST)
        save_state(self.run_dir, self.model, self.optimiser, self.state, frozen=self.frozen)


def _told(summary: Mapping[str, Any]) -> str:
    return f"{100 * summary['hr@10']:.2f}"


def step_seed(seed: int, step: int, what: str = "step") -> int:
    """The seed of a step's dropout, or of something else: 63 bits of sha256 of all three."""
    digest = hashlib.sha256(f"{what} {seed} {step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
