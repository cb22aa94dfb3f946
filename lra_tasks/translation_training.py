"""Training a translation model: what a step, a validation and a snapshot are, and what happens at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lra_tasks.checkpoint import Checkpoints, TornCheckpoint
from lra_tasks.distributed import Layout, check_divisible
from lra_tasks.errors import UserError
from lra_tasks.hosts import is_lead, take_from_lead
from lra_tasks.loop import Machine, Run, read_best_score, require_finite, restore_or_init, run_to_the_end
from lra_tasks.runlog import RunLog
from lra_tasks.subwords import Subwords
from lra_tasks.translation import VALIDATION, TranslationTask
from lra_tasks.translation_batches import (
    BatchPlan,
    PairedSentences,
    choose_pairs,
    gather_pairs,
    plan_batches,
    scoring_batches,
)
from lra_tasks.translation_data import MODEL, ParallelSplit, PreparedTranslation
from lra_tasks.translation_decoding import Bleu, Translator, list_sources, measure_bleu
from lra_tasks.translation_model import TranslationModel, build_translation_model
from lra_tasks.translation_settings import TranslationExperiment
from lra_tasks.translation_steps import make_scoring_step, make_translation_init, make_translation_train_step

SNAPSHOTS = "snapshots"
"""The kind of checkpoint that is averaged at the end."""
VOCABULARY = "vocab_checksum"
"""The note of every checkpoint that says of which subword model its embeddings are."""


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
    microbatches: int

    def next_batch(self, step: int) -> Any:
        chosen = choose_pairs(self.plan, seed=self.experiment.train.seed, step=step)
        return self.put("train", *chosen, self.microbatches)

    def put(self, split: str, numbers: np.ndarray, length: int, parts: int = 1) -> PairedSentences:
        """The pairs `numbers` on the devices, filled up to rows that these and `parts` divide."""
        num_rows = self.layout.round_up(len(numbers), parts)
        numbers = np.pad(numbers, (0, num_rows - len(numbers)), constant_values=-1)
        pairs = self.prepared.splits[split]
        return self.layout.put(num_rows, lambda rows: gather_pairs(pairs, numbers[rows], length))

    def list_actions(self) -> list[tuple[int, Any]]:
        # before the checkpoint to resume from: a run killed between the two must not resume behind a lost snapshot
        return [(self.experiment.train.average_every_steps, self.save_snapshot), *super().list_actions()]

    @property
    def origin(self) -> dict[str, Any]:
        """What every checkpoint notes."""
        return {VOCABULARY: self.prepared.subwords.checksum}

    def save(self, step: int) -> None:
        self.checkpoints.save("last", step, self.state, self.clock.as_notes() | self.origin)

    def save_snapshot(self, step: int) -> None:
        """Keeps the parameters alone, the newest `num_averaged` times."""
        self.checkpoints.save(SNAPSHOTS, step, self.state["params"], self.origin)

    def validate(self, step: int) -> None:
        loss = self.measure_loss(self.state["params"])
        require_finite("validation loss", loss, step)
        bleu = take_from_lead(self.translate(self.state["params"], VALIDATION, greedy=True).score)
        self.log.write(step, VALIDATION, {"loss": loss, "bleu": bleu})
        improved = bleu > self.best_score
        self.log.say(
            f"{self.name} step {step}  validation loss {loss:.3f}  BLEU {bleu:.2f}"
            + ("  best so far" if improved else "")
        )
        self.keep_best(step, bleu, {"validation_bleu": bleu, "validation_loss": loss} | self.origin)

    def measure_loss(self, params: Any) -> float:
        """Mean cross-entropy of a target subword of the validation split, nats, without smoothing."""
        batches = scoring_batches(self.prepared.splits[VALIDATION], max_tokens=self.experiment.data.max_tokens)
        sums = jax.device_get([self.scoring_step(params, self.put(VALIDATION, *chosen)) for chosen in batches])
        return sum(float(one.nll) for one in sums) / sum(int(one.count) for one in sums)

    def translate(self, params: Any, split: str, *, greedy: bool = False) -> Bleu:
        """BLEU of a whole split, which every host translates by itself."""
        pairs = self.prepared.splits[split]
        texts = self.translator.translate(self.layout.bring_home(params), list_sources(pairs), greedy=greedy)
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
    machine: Machine,
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step, as `lra_tasks.loop.run_to_the_end` says.

    The work directory gets a copy of the vocabulary, so that translating needs no data folder; UserError where it holds
    checkpoints of another one.
    """
    layout, microbatches = machine.layout, max(1, machine.settings.microbatches)
    check_mesh(experiment, machine)
    plan = plan_batches(prepared.splits["train"], max_tokens=experiment.data.max_tokens)
    model = build_translation_model(experiment, prepared.subwords.size, task.max_length)
    kept = {SNAPSHOTS: experiment.train.num_averaged}
    with Checkpoints(workdir, clean=True, kept=kept) as checkpoints:
        require_own_vocabulary(checkpoints, prepared.subwords, workdir, task)
        if is_lead():
            prepared.subwords.save(workdir / MODEL)
        state, clock, shardings = restore_or_init(make_translation_init(experiment, model), checkpoints, layout)
        start = int(state["step"])
        checkpoints.delete_after(SNAPSHOTS, start)
        title = f"{experiment.row} seed {experiment.train.seed}"
        num_steps = experiment.train.num_steps
        with RunLog(workdir, start_step=start, num_steps=num_steps, title=title, writes=is_lead()) as log:
            run = TranslationRun(
                name=experiment.row,
                settings=experiment.train,
                layout=layout,
                shardings=shardings,
                checkpoints=checkpoints,
                log=log,
                state=state,
                train_step=make_translation_train_step(experiment, model, shardings, microbatches=microbatches),
                clock=clock,
                best_score=read_best_score(checkpoints, "validation_bleu", model.abstract, shardings),
                profile=machine.profile,
                experiment=experiment,
                task=task,
                prepared=prepared,
                plan=plan,
                model=model,
                translator=Translator(model, prepared.subwords, experiment.decode),
                scoring_step=make_scoring_step(experiment, model, shardings),
                microbatches=microbatches,
            )
            run_to_the_end(run, finish)


def check_mesh(experiment: TranslationExperiment, machine: Machine) -> None:
    """UserError for sizes that the mesh does not divide. A batch is filled up where its rows do not divide."""
    settings = machine.settings
    if settings.sequence > 1:
        raise UserError(
            f"machine.sequence={settings.sequence}: sentences are short, and translation does not split them; set it "
            "to 1 and use data and model"
        )
    if settings.lengths:
        raise UserError(
            f"machine.lengths={settings.lengths}: translation has batches of pairs of similar length already; set it "
            "to ()"
        )
    model = experiment.model
    sizes = {"model.num_heads": model.num_heads, "model.mlp_dim": model.mlp_dim}
    if experiment.luna is not None:
        sizes["luna.num_pack_heads"] = experiment.luna.num_pack_heads
    check_divisible(machine.layout, settings, None, sizes)


def require_own_vocabulary(checkpoints: Checkpoints, subwords: Subwords, workdir: Path, task: TranslationTask) -> None:
    """Raises UserError unless whatever the work directory holds was trained with these subwords."""
    remedy = f"bring back the {task.name} that it was trained on, or take another --workdir"
    for kind in ("last", "best", SNAPSHOTS):
        if checkpoints.latest_step(kind) is None:
            continue
        try:
            notes = checkpoints.read_notes(kind)[1]
        except TornCheckpoint:  # which is reported where it would be used
            continue
        require_vocabulary(notes, subwords, workdir, remedy)


def require_vocabulary(notes: dict[str, Any], subwords: Subwords, workdir: Path, remedy: str) -> None:
    """Raises UserError unless a checkpoint, by its notes, was trained with these subwords."""
    trained = str(notes.get(VOCABULARY))
    if trained != subwords.checksum:
        raise UserError(
            f"the vocabulary is of another model: its sha256 begins {subwords.checksum[:12]}, {workdir} was trained "
            f"with {trained[:12]}; {remedy}"
        )


def average_snapshots(
    model: TranslationModel, checkpoints: Checkpoints, layout: Layout | None = None
) -> tuple[tuple[int, ...], Any]:
    """(steps, mean of the parameters) of the snapshots that were kept, one at least; the mean is taken in float64.

    The mean lies on the host. `layout`: where the run is, if it may be on several hosts.
    """
    steps = checkpoints.list_steps(SNAPSHOTS)
    shardings = None if layout is None else layout.place(model.abstract)
    total: Any = None
    for step in steps:
        _, params, _ = checkpoints.restore(SNAPSHOTS, model.abstract, step=step, shardings=shardings)
        params = params if layout is None else layout.bring_home(params)
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        total = wide if total is None else jax.tree.map(np.add, total, wide)
    mean = jax.tree.map(lambda leaf, like: np.asarray(leaf / len(steps), like.dtype), total, model.abstract)
    return tuple(steps), mean
