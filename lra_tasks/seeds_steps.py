"""Steps of several seeds of one experiment as one program: their states stacked on a first axis, and vmapped.

Every seed has the parameters, the order of examples and the dropout of a run by itself, so it comes to the same result
up to rounding: a product of matrices is summed in another order when there are several at once. The step is one number
for all, so that nothing that depends on it alone is done once a seed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra_tasks.distributed import StepShardings
from lra_tasks.evaluation import Evaluation, Put, count_up, keep_on_host
from lra_tasks.loader import eval_batch, gather, stream_indices
from lra_tasks.metrics import Sums
from lra_tasks.model import Model
from lra_tasks.settings import Experiment
from lra_tasks.steps import (
    State,
    make_eval_step,
    make_seeded_init,
    make_seeded_step,
    name_eval_shardings,
    name_train_shardings,
)
from lra_tasks.task import AnyBatch, Split

STATE_AXES: State = {"params": 0, "opt_state": 0, "step": None}
"""Where the seeds lie in a state."""


def make_seeds_init(experiment: Experiment, model: Model, seeds: Sequence[int]) -> Callable[[], State]:
    """A function that makes the states of step 0, [S, ...] and one step. The experiment's own seed is not read."""
    init = jax.vmap(make_seeded_init(experiment, model))
    return lambda: init(_to_array(seeds)) | {"step": jnp.zeros((), jnp.int32)}


def _to_array(seeds: Sequence[int]) -> jax.Array:
    return jnp.asarray(np.asarray(seeds, np.uint32))


def make_seeds_train_step(
    experiment: Experiment,
    model: Model,
    seeds: Sequence[int],
    shardings: StepShardings | None = None,
    *,
    microbatches: int = 1,
) -> Callable[[State, AnyBatch], tuple[State, dict[str, jax.Array]]]:
    """(states, batches [S, B, ...]) -> (states, numbers [S]), as `make_seeded_step` says. The old are donated."""
    step = make_seeded_step(experiment, model, microbatches=microbatches)
    steps = jax.vmap(step, in_axes=(0, STATE_AXES, 0), out_axes=(STATE_AXES, 0))

    def train_step(state: State, batch: AnyBatch):
        return steps(_to_array(seeds), state, batch)

    return jax.jit(train_step, donate_argnums=0, **name_train_shardings(shardings))


def make_seeds_eval_step(
    model: Model, shardings: StepShardings | None = None
) -> Callable[[Any, AnyBatch], tuple[Sums, jax.Array]]:
    """(parameters [S, ...], one batch [B, ...]) -> (sums [S], which examples were answered right [S, B])."""
    return jax.jit(jax.vmap(make_eval_step(model), in_axes=(0, None)), **name_eval_shardings(shardings))


def batches_at(split: Split, seeds: Sequence[int], *, step: int, batch_size: int, length: int) -> AnyBatch:
    """The training batches of all seeds at `step`, [S, B, ...]: of each what `loader.batch_at` gives it."""
    count = split.num_examples
    indices = [stream_indices(count, seed=seed, step=step, batch_size=batch_size) for seed in seeds]
    batch = gather(split, np.concatenate(indices), length)
    return type(batch)(*(array.reshape(len(seeds), batch_size, *array.shape[1:]) for array in batch))


def evaluate_seeds(
    eval_step: Callable[[Any, AnyBatch], tuple[Sums, jax.Array]],
    params: Any,
    split: Split,
    *,
    num_seeds: int,
    batch_size: int,
    length: int,
    declared: int,
    put: Put = keep_on_host,
) -> list[Evaluation]:
    """A whole split through all seeds at once: of each what `evaluation.evaluate_split` gives."""
    results = [
        eval_step(params, put(batch_size, partial(eval_batch, split, begin, length)))
        for begin in range(0, split.num_examples, batch_size)
    ]
    results = jax.device_get(results)
    return [
        count_up(
            [(Sums(*(leaf[at] for leaf in sums)), right[at]) for sums, right in results], len(split.labels), declared
        )
        for at in range(num_seeds)
    ]


@partial(jax.jit, static_argnums=1)
def unstack(tree: Any, num_seeds: int) -> list[Any]:
    """The trees of the seeds, of a tree of arrays [S, ...]."""
    return [jax.tree.map(itemgetter(at), tree) for at in range(num_seeds)]


def unstack_state(state: State, num_seeds: int) -> list[State]:
    """The states of the seeds."""
    stacked = {name: part for name, part in state.items() if STATE_AXES[name] == 0}
    return [{**part, "step": state["step"]} for part in unstack(stacked, num_seeds)]


@jax.jit
def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack(trees: Sequence[Any], shardings: Any = None) -> Any:
    """The trees of the seeds as one of arrays [S, ...], put where `shardings` say, if they do."""
    stacked = _stack(list(trees))
    return stacked if shardings is None else jax.device_put(stacked, shardings)


def stack_states(states: Sequence[State], shardings: Any) -> State:
    """The states of the seeds as one; they are all of the same step."""
    names = [name for name in states[0] if STATE_AXES[name] == 0]
    parts = [{name: state[name] for name in names} for state in states]
    step = jax.device_put(states[0]["step"], shardings["step"])
    return {**stack(parts, {name: shardings[name] for name in names}), "step": step}
