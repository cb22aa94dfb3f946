"""Apollo (Ma 2020, arXiv 2009.13586): a diagonal quasi-Newton method for optax, as the authors of Luna ran it.

Per tensor, for gradient g at step k = 1, 2, ..., with a = (1 - beta) / (1 - beta^k) and m, B, d = 0 at the start:

    g <- g + decay p                                           ("l2" alone)
    delta = g - m;    m <- m + a delta
    v = d / (||d||_4 + e)                                      e = epsilon / sigma ("constant"), epsilon ("belief")
    B <- B + v^2 (-a <delta, v> / (||d||_4 + e) - <B, v^2>)    a rank-one secant update of the diagonal
    D = max(|B|, sigma), sigma = 0.01                          ("constant")
    D = max(|B|, max |delta|) + epsilon / a                    ("belief")
    d <- m / D    (+ decay p, "decoupled"; + decay p / mean(D), "stable")
    p <- p - learning_rate d

The secant compares with the direction d, not with the step, so the learning rate is not in it; and d, with its decay,
is what the next step normalises. Without epsilon the new B fulfils the weak secant equation, d' B d = -d' (a delta).
Norms, inner products and means are of one tensor. Where layers are stacked for `jax.lax.scan`, one array holds the
tensors of all layers, and `is_stacked` says which do: a stack is updated layer by layer, as if it were none.

The constant sigma is absolute, so the size of the gradient counts: the mean of a batch and its sum make different runs.
A warm-up of a hundred steps or more is essential (the authors' README). Until 2021-09-04 their sigma was 1: a learning
rate of 10 then is 0.1 here. Source: facts of `fairseq/optim/apollo.py`, XuezheMax/fairseq-apollo at commit 1ea2f78.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from luna_jax.axes import Array

SIGMA = 0.01
REBOUNDS = ("constant", "belief")
DECAYS = ("l2", "decoupled", "stable")
CLIP_EPSILON = 1e-6
IsStacked = Callable[[Any], bool]
"""Key path of a leaf -> whether its first axis counts layers."""


class ApolloState(NamedTuple):
    """Steps made, and for each parameter m, B and the last d, in float32 at least."""

    count: Array
    mean: Any
    diagonal: Any
    direction: Any


@dataclass(frozen=True)
class _Rule:
    """The update of one tensor."""

    beta: float
    epsilon: float
    rebound: str
    weight_decay: float
    decay: str

    def __post_init__(self):
        for name, choices in (("rebound", REBOUNDS), ("decay", DECAYS)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choices: {', '.join(choices)}")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta={self.beta} must be at least 0 and below 1; the authors take 0.9")
        if not 0.0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon={self.epsilon} must be above 0 and finite; the authors take 1e-4")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0 and finite; 0 is no decay")

    def apply(self, rate: Array, gradient, mean, diagonal, direction, param):
        """(m, B, d) of step k from those before it, with `rate` = (1 - beta) / (1 - beta^k)."""
        if self.decay == "l2" and self.weight_decay:
            gradient = gradient + self.weight_decay * param
        delta = gradient - mean
        mean = mean + rate * delta
        norm = jnp.sum(direction**4) ** 0.25 + self.epsilon / (SIGMA if self.rebound == "constant" else 1.0)
        unit = direction / norm
        secant = -rate * jnp.sum(delta * unit) / norm - jnp.sum(diagonal * unit**2)
        diagonal = diagonal + unit**2 * secant
        if self.rebound == "constant":
            denominator = jnp.maximum(jnp.abs(diagonal), SIGMA)
        else:
            denominator = jnp.maximum(jnp.abs(diagonal), jnp.max(jnp.abs(delta))) + self.epsilon / rate
        direction = mean / denominator
        if self.decay == "decoupled" and self.weight_decay:
            direction = direction + self.weight_decay * param
        if self.decay == "stable" and self.weight_decay:
            direction = direction + self.weight_decay * param / jnp.mean(denominator)
        return mean, diagonal, direction


def scale_by_apollo(
    *,
    beta: float = 0.9,
    epsilon: float = 1e-4,
    rebound: str = "constant",
    weight_decay: float = 0.0,
    decay: str | None = None,
    is_stacked: IsStacked | None = None,
) -> optax.GradientTransformation:
    """Gradients to the directions d of the module's text, not yet times a learning rate.

    `decay` None: "l2" for the constant rebound, "decoupled" for belief, as in the authors' code. Computed in float32 at
    least, for d^4 leaves what float16 can hold; updates have the gradients' dtype. ValueError for an unknown rebound or
    decay, for numbers out of range, and for decay without parameters.
    """
    if decay is None:
        decay = "l2" if rebound == "constant" else "decoupled"
    rule = _Rule(beta, epsilon, rebound, weight_decay, decay)

    def init(params):
        # three arrays, not one three times: a train step that donates its state may donate no buffer twice
        mean, diagonal, direction = (
            jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=_widen(leaf.dtype)), params) for _ in range(3)
        )
        return ApolloState(jnp.zeros((), jnp.int32), mean, diagonal, direction)

    def update(updates, state, params=None):
        if params is None and weight_decay:
            raise ValueError(f"weight_decay={weight_decay} needs the parameters; call update(updates, state, params)")
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = (1.0 - beta) / (1.0 - beta ** count.astype(jnp.result_type(float)))
        paths, tree = jax.tree_util.tree_flatten_with_path(updates)
        trees = (state.mean, state.diagonal, state.direction, updates if params is None else params)
        found = []
        for (path, gradient), mean, *rest in zip(paths, *map(tree.flatten_up_to, trees), strict=True):
            apply = _for_each_tensor(partial(rule.apply, rate.astype(mean.dtype)), is_stacked, path, gradient)
            found.append(apply(*(leaf.astype(mean.dtype) for leaf in (gradient, mean, *rest))))
        mean, diagonal, direction = (tree.unflatten([new[part] for new in found]) for part in range(3))
        updates = jax.tree.map(lambda new, gradient: new.astype(gradient.dtype), direction, updates)
        return updates, ApolloState(count, mean, diagonal, direction)

    return optax.GradientTransformation(init, update)


def apollo(learning_rate: optax.ScalarOrSchedule, **options: Any) -> optax.GradientTransformation:
    """Apollo: p - learning_rate d; `options` are those of `scale_by_apollo`. Warm it up: see the module."""
    return optax.chain(scale_by_apollo(**options), optax.scale_by_learning_rate(learning_rate))


def clip_each_by_norm(max_norm: float, *, is_stacked: IsStacked | None = None) -> optax.GradientTransformation:
    """Every tensor on its own times min(1, max_norm / (its L2 norm + 1e-6)): fairseq-apollo's clipping mode "each"."""
    if not 0.0 < max_norm < math.inf:
        raise ValueError(f"max_norm={max_norm} must be above 0 and finite; leave the clipping out for none")

    def clip_tensor(gradient):
        wide = gradient.astype(_widen(gradient.dtype))
        norm = jnp.sqrt(jnp.sum(wide**2))
        return (wide * jnp.minimum(1.0, max_norm / (norm + CLIP_EPSILON))).astype(gradient.dtype)

    def clip(path, gradient):
        return _for_each_tensor(clip_tensor, is_stacked, path, gradient)(gradient)

    return optax.stateless(lambda gradients, _: jax.tree_util.tree_map_with_path(clip, gradients))


def _for_each_tensor(function: Callable, is_stacked: IsStacked | None, path: Any, leaf: Array) -> Callable:
    """`function` of one tensor, for this leaf: mapped over the first axis where that counts layers."""
    if is_stacked is None or not is_stacked(path):
        return function
    if not leaf.ndim:
        raise ValueError(f"is_stacked says that {jax.tree_util.keystr(path)} has an axis of layers; it is one number")
    return jax.vmap(function)


def _widen(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)
