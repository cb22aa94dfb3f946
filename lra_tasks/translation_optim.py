"""The optimizers of translation: Adam or Apollo, clipped as a whole or tensor by tensor, under optax's schedules."""

import optax

from lra_tasks.optim import make_adam, make_schedule, warm_up
from lra_tasks.translation_settings import TranslationOptimSettings
from luna_jax.apollo import IsStacked, apollo, clip_each_by_norm


def make_translation_schedule(settings: TranslationOptimSettings, num_steps: int) -> optax.Schedule:
    """Learning rate by the number of updates already made, as `lra_tasks.optim.make_schedule` counts them.

    "milestones": a linear warm-up to the peak, then, from each milestone on, times `milestone_factor` once more.
    """
    if settings.schedule != "milestones":
        return make_schedule(settings, num_steps)
    drops = {milestone - settings.warmup_steps: settings.milestone_factor for milestone in settings.milestones}
    return warm_up(settings, optax.piecewise_constant_schedule(settings.learning_rate, drops))


def make_translation_optimizer(
    settings: TranslationOptimSettings, schedule: optax.Schedule, is_stacked: IsStacked | None = None
) -> optax.GradientTransformation:
    """Clipping, if it is set, then the optimizer. `is_stacked(path)`: whether a leaf holds a tensor for each layer."""
    if settings.optimizer == "adam":
        optimizer = make_adam(settings, schedule)
    else:
        optimizer = apollo(
            schedule,
            beta=settings.beta1,
            epsilon=settings.epsilon,
            rebound=settings.rebound,
            weight_decay=settings.weight_decay,
            decay=settings.decay,
            is_stacked=is_stacked,
        )
    if not settings.clip_norm:
        return optimizer
    if settings.clip_mode == "each":
        return optax.chain(clip_each_by_norm(settings.clip_norm, is_stacked=is_stacked), optimizer)
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer)
