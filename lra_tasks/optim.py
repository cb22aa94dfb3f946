"""Adam with decoupled decay under a schedule, all optax: the optimizer of classification, and translation's parts."""

import jax.numpy as jnp
import optax

from lra_tasks.settings import OptimSettings
from lra_tasks.translation_settings import TranslationOptimSettings

Settings = OptimSettings | TranslationOptimSettings


def make_schedule(settings: Settings, num_steps: int) -> optax.Schedule:
    """Learning rate by the number of updates already made (the first update uses schedule(0)).

    Linear from `initial_learning_rate` to the peak over `warmup_steps`, then, with t updates made and W the warm-up:
      constant      the peak
      inverse_sqrt  peak sqrt(W / t), W at least 1 (fairseq's; LRA's `rsqrt` with constant c is peak c / sqrt(W))
      cosine        peak (1 + cos(pi (t - W) / (num_steps - W))) / 2
      cosine_cycle  peak (1 + cos(pi (t - W) / num_steps)) / 2: LRA's, which ends a little above 0
      linear        peak (num_steps - t) / (num_steps - W)
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    remaining = max(num_steps - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        # join_schedules asks during the warm-up too, with counts below 0
        "inverse_sqrt": lambda: lambda count: peak * (max(warmup, 1) / (jnp.maximum(count, 0) + max(warmup, 1))) ** 0.5,
        "cosine": lambda: optax.cosine_decay_schedule(peak, remaining),
        "cosine_cycle": lambda: optax.cosine_decay_schedule(peak, num_steps),
        "linear": lambda: optax.linear_schedule(peak, 0.0, remaining),
    }[settings.schedule]()
    return warm_up(settings, after)


def warm_up(settings: Settings, after: optax.Schedule) -> optax.Schedule:
    """Linear from `initial_learning_rate` to the peak over `warmup_steps`, then `after`, which counts from there."""
    warmup = settings.warmup_steps
    start = optax.linear_schedule(settings.initial_learning_rate, settings.learning_rate, max(warmup, 1))
    return optax.join_schedules([start, after], [warmup])


def make_optimizer(settings: OptimSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam, and clipping to the global norm `clip_norm` before it, if that is set."""
    adam = make_adam(settings, schedule)
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adam) if settings.clip_norm else adam


def make_adam(settings: Settings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """p <- p - lr (m^ / (sqrt(v^) + eps) + decay p), on every parameter."""
    return optax.adamw(
        schedule,
        b1=settings.beta1,
        b2=settings.beta2,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
