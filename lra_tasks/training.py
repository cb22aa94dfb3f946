"""Training a classifier: set-up, what a step, a validation and a checkpoint are, and what happens at the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lra_tasks.calibration import make_calibrate, make_settle
from lra_tasks.checkpoint import Checkpoints
from lra_tasks.evaluation import Evaluation, evaluate_split
from lra_tasks.loader import batch_at
from lra_tasks.loop import Run, read_best_score, require_finite, restore_or_init, run_to_the_end
from lra_tasks.model import Model, Params, build_model
from lra_tasks.runlog import RunLog
from lra_tasks.settings import Experiment, sequence_length
from lra_tasks.splits import declared_examples
from lra_tasks.steps import State, make_eval_step, make_init, make_train_step
from lra_tasks.task import Split, Task


@dataclass
class ClassifierRun(Run):
    """A classifier in training."""

    experiment: Experiment
    task: Task
    splits: dict[str, Split]
    model: Model
    eval_step: Callable
    settle_params: Callable[[Params], Params]
    """Statistics of the training examples, where a model has any."""
    scores: dict[tuple[int, str], Evaluation] = field(default_factory=dict)
    """What this process has evaluated, by step and split."""

    def next_batch(self, step: int) -> Any:
        train = self.experiment.train
        length = sequence_length(self.experiment, self.task)
        return batch_at(self.splits["train"], seed=train.seed, step=step, batch_size=train.batch_size, length=length)

    def settle(self) -> None:
        self.state["params"] = self.settle_params(self.state["params"])

    def validate(self, step: int) -> None:
        scored = self.evaluate(step, self.state["params"], "validation")
        require_finite("validation loss", scored.loss, step)
        self.log.write(step, "validation", {"loss": scored.loss, "accuracy": scored.accuracy})
        notes = {"validation_accuracy": scored.accuracy, "validation_loss": scored.loss}
        improved = scored.accuracy > self.best_score
        self.log.say(
            f"{self.name} step {step}  validation loss {scored.loss:.3f}  accuracy {100 * scored.accuracy:.2f}%"
            + ("  best so far" if improved else "")
        )
        self.keep_best(step, scored.accuracy, notes)

    def evaluate(self, step: int, params: Any, split: str) -> Evaluation:
        """The parameters of a step on a whole split; evaluated once, whoever asks."""
        if (step, split) not in self.scores:
            self.scores[step, split] = evaluate_split(
                self.eval_step,
                params,
                self.splits[split],
                batch_size=self.experiment.train.eval_batch_size,
                length=sequence_length(self.experiment, self.task),
                declared=declared_examples(self.task, self.experiment.data.validation, split),
            )
        return self.scores[step, split]


def train(
    experiment: Experiment,
    task: Task,
    splits: dict[str, Split],
    workdir: Path,
    finish: Callable[[ClassifierRun], None],
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step, as `run_to_the_end` says."""
    model = build_model(experiment, task)

    def calibrate(state: State) -> State:
        if experiment.model.feature_norm == "calibrated":
            state["params"] = make_calibrate(experiment, task, model, splits["train"])(state["params"])
        return state

    with Checkpoints(workdir, clean=True) as checkpoints:
        state, clock = restore_or_init(make_init(experiment, model), checkpoints, calibrate)
        start, num_steps = int(state["step"]), experiment.train.num_steps
        title = f"{experiment.row} seed {experiment.train.seed}"
        with RunLog(workdir, start_step=start, num_steps=num_steps, title=title) as log:
            run = ClassifierRun(
                name=experiment.row,
                settings=experiment.train,
                checkpoints=checkpoints,
                log=log,
                state=state,
                train_step=make_train_step(experiment, model),
                clock=clock,
                best_score=read_best_score(checkpoints, "validation_accuracy"),
                experiment=experiment,
                task=task,
                splits=splits,
                model=model,
                eval_step=make_eval_step(model),
                settle_params=make_settle(experiment, task, model, splits["train"]),
            )
            run_to_the_end(run, finish)
