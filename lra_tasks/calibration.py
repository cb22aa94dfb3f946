"""What a model takes from the training examples other than by gradients: statistics of its pooled vectors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lra_tasks.loader import batch_at
from lra_tasks.model import Model, Params
from lra_tasks.settings import Experiment, sequence_length
from lra_tasks.task import Split, Task

CALIBRATION_BATCH = 64
CALIBRATION_BATCHES = {"calibrated": 1, "whitened": 16}
"""By `model.feature_norm`. A matrix of correlations needs many more examples than it has rows."""


def make_calibrate(experiment: Experiment, task: Task, model: Model, split: Split) -> Callable[[Params], Params]:
    """parameters -> parameters calibrated on the first training examples of the run's order."""
    seed, length = experiment.train.seed, sequence_length(experiment, task)
    encode, finish = jax.jit(model.encode), jax.jit(model.calibrate)

    def calibrate(params: Params) -> Params:
        vectors = [
            encode(params, batch_at(split, seed=seed, step=step, batch_size=CALIBRATION_BATCH, length=length))
            for step in range(CALIBRATION_BATCHES[experiment.model.feature_norm])
        ]
        return finish(params, jnp.concatenate(vectors))

    return calibrate


def make_settle(experiment: Experiment, task: Task, model: Model, split: Split) -> Callable[[Params], Params]:
    """parameters -> parameters as evaluation needs them: a whitening stores nothing while it trains."""
    if experiment.model.feature_norm != "whitened":
        return lambda params: params
    return make_calibrate(experiment, task, model, split)
