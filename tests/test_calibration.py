"""Statistics that a model takes from the training examples: which examples, and when."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import make_experiment

from lra_tasks.calibration import make_calibrate, make_settle
from lra_tasks.loader import batch_at
from lra_tasks.model import Model
from lra_tasks.registry import get_task
from lra_tasks.settings import sequence_length
from lra_tasks.task import join_documents

TASK = get_task("listops_small")
SPLIT = join_documents([np.full(3, 1 + index % 15) for index in range(1500)], [0] * 1500, np.dtype(np.uint8))
PARAMS = {"scale": jnp.float32(2.0), "stored": jnp.zeros(())}


def encode(params, batch):
    """One feature: the first token, scaled."""
    return params["scale"] * batch.tokens[:, :1]


def calibrate(params, vectors):
    return {**params, "stored": vectors}


MODEL = Model(None, None, None, encode, calibrate, PARAMS, None)


@pytest.mark.parametrize(("feature_norm", "num_examples"), [("calibrated", 64), ("whitened", 1024)])
def test_the_first_training_examples_are_looked_at(feature_norm, num_examples):
    experiment = make_experiment(model__feature_norm=feature_norm)
    stored = make_calibrate(experiment, TASK, MODEL, SPLIT)(PARAMS)["stored"]
    length = sequence_length(experiment, TASK)
    batches = [
        batch_at(SPLIT, seed=experiment.train.seed, step=step, batch_size=64, length=length)
        for step in range(num_examples // 64)
    ]
    assert stored.shape == (num_examples, 1)
    assert np.array_equal(stored[:, 0], 2.0 * np.concatenate([batch.tokens[:, 0] for batch in batches]))


@pytest.mark.parametrize(("feature_norm", "changes"), [("none", False), ("calibrated", False), ("whitened", True)])
def test_only_a_whitening_is_settled_before_it_is_evaluated(feature_norm, changes):
    experiment = make_experiment(model__feature_norm=feature_norm)
    settled = make_settle(experiment, TASK, MODEL, SPLIT)(PARAMS)
    assert (settled is not PARAMS) == changes
    assert settled["scale"] == PARAMS["scale"]
