"""Train step and eval step, compiled once a run each, or once for each of the lengths that batches are padded to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lra_tasks.distributed import StepShardings
from lra_tasks.gradients import SumsOf, Total, add_part, divide, empty_total, mean_gradients
from lra_tasks.metrics import Sums, score
from lra_tasks.model import Model, abstract_batch
from lra_tasks.optim import make_optimizer, make_schedule
from lra_tasks.settings import Experiment
from lra_tasks.task import AnyBatch

State = dict[str, Any]
"""Everything a run needs to go on: {"params", "opt_state", "step"}. The step is the state of data and dropout, too."""

SeedLike = int | jax.Array
"""Of a run: a number, or one that is traced."""

DROPOUT_STREAM = 1
"""Folded into the seed's key, so that dropout never repeats the numbers that made the parameters."""
DRAWS_STREAM = 2
"""The same for random features and hashes that attention draws anew as training goes on."""


def make_init(experiment: Experiment, model: Model) -> Callable[[], State]:
    """A function that makes the state of step 0 from the seed alone."""
    init = make_seeded_init(experiment, model)
    return lambda: init(experiment.train.seed)


def make_seeded_init(experiment: Experiment, model: Model) -> Callable[[SeedLike], State]:
    """seed -> the state of step 0. The seed may be traced."""
    optimizer = make_optimizer(experiment.optim, make_schedule(experiment.optim, experiment.train.num_steps))

    def init(seed: SeedLike) -> State:
        params = model.init(jax.random.key(seed))
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}

    return init


def make_train_step(
    experiment: Experiment, model: Model, shardings: StepShardings | None = None, *, microbatches: int = 1
) -> Callable[[State, AnyBatch], tuple[State, dict[str, jax.Array]]]:
    """(state, batch) -> (state, numbers) as `make_seeded_step` says, jitted. The old state is donated.

    Without `shardings` the step is for one device.
    """
    step = make_seeded_step(experiment, model, microbatches=microbatches)

    def train_step(state: State, batch: AnyBatch):
        return step(experiment.train.seed, state, batch)

    return jax.jit(train_step, donate_argnums=0, **name_train_shardings(shardings))


def make_seeded_step(
    experiment: Experiment, model: Model, *, microbatches: int = 1
) -> Callable[[SeedLike, State, AnyBatch], tuple[State, dict[str, jax.Array]]]:
    """(seed, state, batch) -> (state, {"loss", "accuracy", "gradient_norm", "parameter_norm", "learning_rate"}).

    Loss and accuracy are means over real examples; the norm of the parameters is the new ones', so that a step whose
    update ruined them is known before they are saved. Dropout of step t draws from the seed's key with t folded in;
    features and hashes of attention from another, with the number of the draw folded in. The seed may be traced.
    """
    update = make_update(experiment)

    def train_step(seed: SeedLike, state: State, batch: AnyBatch):
        sums_of, dropout_key = make_loss(model, seed, state["step"])
        return update(state, *mean_gradients(sums_of, state["params"], batch, dropout_key, microbatches))

    return train_step


def make_loss(model: Model, seed: SeedLike, step: jax.Array) -> tuple[SumsOf, jax.Array]:
    """(what is summed over a batch, the key of dropout) at a step, both a function of seed and step alone."""
    run_key = jax.random.fold_in(jax.random.key(seed), DROPOUT_STREAM)
    draws_key = None
    if model.draw_interval:
        draws_key = jax.random.fold_in(jax.random.key(seed), DRAWS_STREAM)
        draws_key = jax.random.fold_in(draws_key, step // model.draw_interval)

    def sums_of(params, batch, key):
        logits = model.apply(params, batch, key, draws_key)
        return score(logits, batch.labels, batch.example_mask)[0]

    return sums_of, jax.random.fold_in(run_key, step)


def make_update(experiment: Experiment) -> Callable[[State, Any, Sums], tuple[State, dict[str, jax.Array]]]:
    """(state, gradients of the mean loss, sums of the batch) -> (state, numbers), as `make_seeded_step` says."""
    schedule = make_schedule(experiment.optim, experiment.train.num_steps)
    optimizer = make_optimizer(experiment.optim, schedule)

    def update(state: State, gradients: Any, sums: Sums):
        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        numbers = {
            "loss": sums.loss / jnp.maximum(sums.count, 1),
            "accuracy": sums.correct / jnp.maximum(sums.count, 1),
            "gradient_norm": optax.tree.norm(gradients),
            "parameter_norm": optax.tree.norm(params),
            "learning_rate": schedule(state["step"]),
        }
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, numbers

    return update


@dataclass(frozen=True)
class PartSteps:
    """A train step over the parts of a batch, each of its own length: all jitted; totals and old states are donated."""

    begin: Callable[[], Total]
    """The total of no part."""
    accumulate: Callable[[State, Total, AnyBatch], Total]
    """Compiled once for each length."""
    update: Callable[[State, Total], tuple[State, dict[str, jax.Array], Total]]
    """(state, numbers, the total of no part) of the total of a whole batch."""


def make_part_steps(
    experiment: Experiment, model: Model, shardings: StepShardings | None = None, *, num_parts: int
) -> PartSteps:
    """The step of `make_seeded_step` on batches whose parts come one by one. Dropout has a key for each part."""
    whole_update = make_update(experiment)

    def begin() -> Total:
        batch = abstract_batch(model.config, 1, model.config.encoder.max_length - model.config.encoder.prepend_cls)
        sums_of, key = make_loss(model, experiment.train.seed, jnp.int32(0))
        return empty_total(model.abstract, jax.eval_shape(sums_of, model.abstract, batch, key))

    def accumulate(state: State, total: Total, part: AnyBatch) -> Total:
        sums_of, dropout_key = make_loss(model, experiment.train.seed, state["step"])
        key = jax.random.split(dropout_key, num_parts)[total.num_parts]
        return add_part(sums_of, state["params"], total, part, key)

    def update(state: State, total: Total):
        return *whole_update(state, *divide(total)), jax.tree.map(jnp.zeros_like, total)

    places: list[dict[str, Any]] = [{}, {}, {}]
    if shardings is not None:
        total = Total(shardings.state["params"], shardings.whole, shardings.whole)
        state, outcome = shardings.state, (shardings.state, shardings.whole, total)
        places = [
            {"out_shardings": total},
            {"in_shardings": (state, total, shardings.rows), "out_shardings": total},
            {"in_shardings": (state, total), "out_shardings": outcome},
        ]
    return PartSteps(
        jax.jit(begin, **places[0]),
        jax.jit(accumulate, donate_argnums=1, **places[1]),
        jax.jit(update, donate_argnums=(0, 1), **places[2]),
    )


def name_train_shardings(shardings: StepShardings | None) -> dict[str, Any]:
    """The keywords of `jax.jit` for (state, batch) -> (state, numbers)."""
    if shardings is None:
        return {}
    inputs, outputs = (shardings.state, shardings.rows), (shardings.state, shardings.whole)
    return {"in_shardings": inputs, "out_shardings": outputs}


def name_eval_shardings(shardings: StepShardings | None) -> dict[str, Any]:
    """The keywords of `jax.jit` for (params, batch) -> results, which every host sees whole."""
    if shardings is None:
        return {}
    return {"in_shardings": (shardings.state["params"], shardings.rows), "out_shardings": shardings.whole}


def make_eval_step(
    model: Model, shardings: StepShardings | None = None
) -> Callable[[Any, AnyBatch], tuple[Sums, jax.Array]]:
    """(params, batch) -> (sums over real examples, which examples were answered right [B])."""

    def eval_step(params, batch: AnyBatch):
        logits = model.apply(params, batch)
        return score(logits, batch.labels, batch.example_mask)

    return jax.jit(eval_step, **name_eval_shardings(shardings))


def make_predict_step(model: Model) -> Callable[[Any, AnyBatch], jax.Array]:
    """(params, batch) -> class probabilities [B, C]."""

    def predict_step(params, batch: AnyBatch):
        return jax.nn.softmax(model.apply(params, batch), axis=-1)

    return jax.jit(predict_step)
