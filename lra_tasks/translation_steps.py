"""One train step and one scoring step of translation, compiled once for each bucket of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lra_tasks.distributed import StepShardings
from lra_tasks.gradients import mean_gradients
from lra_tasks.steps import DROPOUT_STREAM, State, name_eval_shardings, name_train_shardings
from lra_tasks.translation_batches import PairedSentences
from lra_tasks.translation_model import TranslationModel
from lra_tasks.translation_optim import make_translation_optimizer, make_translation_schedule
from lra_tasks.translation_settings import TranslationExperiment


class TokenSums(NamedTuple):
    """Sums over real target tokens."""

    loss: Any
    """Smoothed cross-entropy, nats."""
    nll: Any
    """Cross-entropy, nats."""
    correct: Any
    count: Any


def score_tokens(scores: jax.Array, batch: PairedSentences, smoothing: float) -> TokenSums:
    """Sums of the smoothed loss, (1 - e) nll + (e / V) sum_v -log p_v, as fairseq's label_smoothed_cross_entropy."""
    logs = jax.nn.log_softmax(scores, axis=-1)
    nll = -jnp.take_along_axis(logs, batch.target_out[..., None], axis=-1)[..., 0]
    loss = (1.0 - smoothing) * nll - smoothing * jnp.mean(logs, axis=-1)
    right = jnp.argmax(scores, axis=-1) == batch.target_out
    loss, nll, right = (jnp.where(batch.target_mask, value, 0).sum() for value in (loss, nll, right))
    return TokenSums(loss, nll, right, batch.target_mask.sum())


def make_optimizer(
    experiment: TranslationExperiment, model: TranslationModel
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its schedule."""
    schedule = make_translation_schedule(experiment.optim, experiment.train.num_steps)
    return make_translation_optimizer(experiment.optim, schedule, model.is_stacked), schedule


def make_translation_init(experiment: TranslationExperiment, model: TranslationModel) -> Callable[[], State]:
    """A function that makes the state of step 0 from the seed alone."""
    optimizer, _ = make_optimizer(experiment, model)

    def init() -> State:
        params = model.init(jax.random.key(experiment.train.seed))
        return {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}

    return init


def make_translation_train_step(
    experiment: TranslationExperiment,
    model: TranslationModel,
    shardings: StepShardings | None = None,
    *,
    microbatches: int = 1,
) -> Callable[[State, PairedSentences], tuple[State, dict[str, jax.Array]]]:
    """(state, batch) -> (state, numbers). Loss and gradient are means over the real target tokens of the batch.

    Numbers: "loss" (smoothed) and "nll" (not), nats a token, "accuracy" of tokens, "target_tokens" of the batch,
    "gradient_norm", "parameter_norm" of the new parameters, "learning_rate". The old state is donated. Dropout of step
    t draws from the run's key with t folded in. Without `shardings` the step is for one device.
    """
    optimizer, schedule = make_optimizer(experiment, model)
    smoothing = experiment.train.label_smoothing

    def train_step(state: State, batch: PairedSentences):
        run_key = jax.random.fold_in(jax.random.key(experiment.train.seed), DROPOUT_STREAM)
        dropout_key = jax.random.fold_in(run_key, state["step"])

        def sums_of(params, batch, key):
            inputs = batch.source, batch.source_mask, batch.target_in, batch.target_mask
            return score_tokens(model.apply(params, *inputs, key), batch, smoothing)

        gradients, sums = mean_gradients(sums_of, state["params"], batch, dropout_key, microbatches)
        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        count = jnp.maximum(sums.count, 1)
        numbers = {
            "loss": sums.loss / count,
            "nll": sums.nll / count,
            "accuracy": sums.correct / count,
            "target_tokens": sums.count,
            "gradient_norm": optax.tree.norm(gradients),
            "parameter_norm": optax.tree.norm(params),
            "learning_rate": schedule(state["step"]),
        }
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, numbers

    return jax.jit(train_step, donate_argnums=0, **name_train_shardings(shardings))


def make_scoring_step(
    experiment: TranslationExperiment, model: TranslationModel, shardings: StepShardings | None = None
) -> Callable[..., TokenSums]:
    """(params, batch) -> sums over real target tokens, without dropout."""

    def scoring_step(params, batch: PairedSentences):
        inputs = batch.source, batch.source_mask, batch.target_in, batch.target_mask
        return score_tokens(model.apply(params, *inputs), batch, experiment.train.label_smoothing)

    return jax.jit(scoring_step, **name_eval_shardings(shardings))
