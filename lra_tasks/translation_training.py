"""Training a translation model: what a step, a validation and a snapshot are, and what happens at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.loop import Clock, Run, StopFlag, require_finite, run_steps
from lra_tasks.runlog import RunLog
from lra_tasks.translation import VALIDATION, TranslationTask
from lra_tasks.translation_batches import BatchPlan, plan_batches, scoring_batches, training_batch
from lra_tasks.translation_data import ParallelSplit, PreparedTranslation
from lra_tasks.translation_decoding import Bleu, Translator, list_sources, measure_bleu
from lra_tasks.translation_model import TranslationModel, build_translation_model
from lra_tasks.translation_settings import TranslationExperiment
from lra_tasks.translation_steps import make_scoring_step, make_translation_init, make_translation_train_step

SNAPSHOTS = "snapshots"
"""The kind of checkpoint that is averaged at the end."""


@dataclass
class TranslationRun(Run):
    """A translation model in training."""

    experiment: TranslationExperiment
    task: TranslationTask
    prepared: PreparedTranslation
    plan: BatchPlan
    model: TranslationModel
    translator: Translator
    scoring_step: Callable

    def next_batch(self, step: int) -> Any:
        return training_batch(self.prepared.splits["train"], self.plan, seed=self.experiment.train.seed, step=step)

    def list_actions(self) -> list[tuple[int, Any]]:
        return [*super().list_actions(), (self.experiment.train.average_every_steps, self.save_snapshot)]

    def save_snapshot(self, step: int) -> None:
        """Keeps the parameters alone, the newest `num_averaged` times."""
        self.checkpoints.save(SNAPSHOTS, step, self.state["params"], {})

    def validate(self, step: int) -> None:
        loss = self.measure_loss(self.state["params"])
        require_finite("validation loss", loss, step)
        bleu = self.translate(self.state["params"], VALIDATION, greedy=True).score
        self.log.write(step, VALIDATION, {"loss": loss, "bleu": bleu})
        improved = bleu > self.best_score
        self.log.say(
            f"{self.name} step {step}  validation loss {loss:.3f}  BLEU {bleu:.2f}"
            + ("  best so far" if improved else "")
        )
        self.keep_best(step, bleu, {"validation_bleu": bleu, "validation_loss": loss})

    def measure_loss(self, params: Any) -> float:
        """Mean cross-entropy of a target subword of the validation split, nats, without smoothing."""
        split = self.prepared.splits[VALIDATION]
        batches = scoring_batches(split, max_tokens=self.experiment.data.max_tokens)
        sums = jax.device_get([self.scoring_step(params, batch) for batch in batches])
        return sum(float(one.nll) for one in sums) / sum(int(one.count) for one in sums)

    def translate(self, params: Any, split: str, *, greedy: bool = False) -> Bleu:
        """BLEU of a whole split."""
        pairs = self.prepared.splits[split]
        texts = self.translator.translate(params, list_sources(pairs), greedy=greedy)
        return measure_bleu(texts, require_lines(pairs))


def require_lines(pairs: ParallelSplit) -> tuple[str, ...]:
    """The references of a split that is scored."""
    assert pairs.target_lines is not None
    return pairs.target_lines


def train_translation(
    experiment: TranslationExperiment,
    task: TranslationTask,
    prepared: PreparedTranslation,
    workdir: Path,
    finish: Callable[[TranslationRun], None],
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step; then calls `finish` with the run.

    Raises Stopped after SIGTERM or SIGINT, with everything saved, and UserError with the step where a number is not
    finite; the last good checkpoint is kept.
    """
    plan = plan_batches(prepared.splits["train"], max_tokens=experiment.data.max_tokens)
    model = build_translation_model(experiment, prepared.subwords.size, task.max_length)
    kept = {SNAPSHOTS: experiment.train.num_averaged}
    with Checkpoints(workdir, clean=True, kept=kept) as checkpoints:
        state, clock = restore_or_init(experiment, model, checkpoints)
        start = int(state["step"])
        best = checkpoints.latest_step("best")
        title = f"{experiment.row} seed {experiment.train.seed}"
        with RunLog(workdir, start_step=start, num_steps=experiment.train.num_steps, title=title) as log:
            run = TranslationRun(
                name=experiment.row,
                settings=experiment.train,
                checkpoints=checkpoints,
                log=log,
                state=state,
                train_step=make_translation_train_step(experiment, model),
                clock=clock,
                best_score=-1.0 if best is None else checkpoints.read_notes("best")[1]["validation_bleu"],
                experiment=experiment,
                task=task,
                prepared=prepared,
                plan=plan,
                model=model,
                translator=Translator(model, prepared.subwords, experiment.decode),
                scoring_step=make_scoring_step(experiment, model),
            )
            if start:
                log.say(f"resumed at step {start}")
            with StopFlag() as stop:
                run_steps(run, stop)
            checkpoints.wait()
            finish(run)


def restore_or_init(
    experiment: TranslationExperiment, model: TranslationModel, checkpoints: Checkpoints
) -> tuple[Any, Clock]:
    """The state to go on from: the newest checkpoint, or step 0 from the seed."""
    init = make_translation_init(experiment, model)
    if checkpoints.latest_step("last") is None:
        return jax.device_put(jax.jit(init)(), jax.devices()[0]), Clock()
    _, state, notes = checkpoints.restore("last", jax.eval_shape(init))
    return state, Clock.from_notes(notes)


def average_snapshots(model: TranslationModel, checkpoints: Checkpoints) -> tuple[tuple[int, ...], Any]:
    """(steps, mean of the parameters) of the snapshots that were kept; the mean is taken in float64."""
    steps = checkpoints.list_steps(SNAPSHOTS)
    total: Any = None
    for step in steps:
        _, params, _ = checkpoints.restore(SNAPSHOTS, model.abstract, step=step)
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        total = wide if total is None else jax.tree.map(np.add, total, wide)
    mean = jax.tree.map(lambda leaf, like: np.asarray(leaf / len(steps), like.dtype), total, model.abstract)
    return tuple(steps), jax.device_put(mean, jax.devices()[0])
