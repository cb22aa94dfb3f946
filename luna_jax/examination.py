"""A mechanism under examination by the checks of `conformance.py`: how it is built, called and differentiated."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from luna_jax.axes import Array
from luna_jax.initializers import FAIRSEQ

NUM_ROWS = 3
GARBAGE = 1e30


class Failure(AssertionError):
    """A check that did not hold; the message says what was seen."""


@dataclass(frozen=True)
class Finding:
    """What a check saw."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class ModuleConfig:
    """A bare module class as a configuration: module(emb_dim, num_heads=, dropout_rate=, dtype=, ..., **options)."""

    module: Callable[..., nnx.Module]
    num_heads: int
    dropout_rate: float
    causal: bool
    options: tuple[tuple[str, Any], ...] = ()
    pack_length: int = 0
    contextual_pack: bool = False
    draw_interval: int | None = None
    split: ClassVar[None] = None
    """A bare module is not told how sequences are split over devices."""

    @property
    def updates_pack(self) -> bool:
        """A module that takes a packed sequence also returns one."""
        return self.pack_length > 0

    def build(self, emb_dim: int, **common) -> nnx.Module:
        """The module; `causal` is passed on only where it is asked for, since not every module knows it."""
        causal = {"causal": True} if self.causal else {}
        return self.module(
            emb_dim,
            num_heads=self.num_heads,
            dropout_rate=self.dropout_rate,
            **causal,
            **dict(self.options),
            **common,
        )


@dataclass(frozen=True)
class Subject:
    """A mechanism under examination: its configuration, without dropout and not causal, and the sizes to try."""

    config: Any
    emb_dim: int = 32
    length: int = 64

    def build(self, dtype: str = "float32", **changes) -> tuple[Callable[..., Any], Any]:
        """(apply(params, x, p, **keywords), params) with some fields of the configuration changed."""
        config = dataclasses.replace(self.config, **changes)
        types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.float32, "initializers": FAIRSEQ}
        graphdef, params = draw_params(lambda rngs: config.build(self.emb_dim, **types, rngs=rngs))

        def apply(params, x, p, **keywords):
            return nnx.merge(graphdef, params)(x, p, **keywords)

        return apply, params

    def draw(self, seed: int, length: int | None = None, dtype: str = "float32") -> tuple[Array, Array | None, Array]:
        """Random x [3, N, D], p or None, and a mask whose rows are full, about half full and of one position."""
        length = length or self.length
        random = np.random.default_rng(seed)
        x = jnp.asarray(random.standard_normal((NUM_ROWS, length, self.emb_dim)), dtype)
        p = None
        if self.config.pack_length:
            p = jnp.asarray(random.standard_normal((NUM_ROWS, self.config.pack_length, self.emb_dim)), dtype)
        mask = jnp.arange(length)[None, :] < jnp.asarray([length, length // 2 + 1, 1])[:, None]
        return x, p, mask

    @cached_property
    def plain(self) -> tuple[Callable[..., Any], Any]:
        """The mechanism as it is."""
        return self.build()

    @cached_property
    def forward(self) -> Callable[..., Any]:
        """(params, x, p, x_mask) -> y, compiled."""
        apply, _ = self.plain
        compiled = compile_quickly(lambda params, x, p, x_mask: apply(params, x, p, x_mask=x_mask)[0])
        return lambda *arguments: np.asarray(compiled(*arguments))

    @cached_property
    def gradients(self) -> Callable[..., Any]:
        """(params, x, p, x_mask) -> (gradients of params and x, (y, packed)), compiled; padding has no cotangent."""
        apply, _ = self.plain

        def loss(params, x, p, x_mask):
            y, packed = apply(params, x, p, x_mask=x_mask)
            real = jnp.where(x_mask[..., None], y, jnp.zeros_like(y))
            total = jnp.sum(real * draw_cotangent(y.shape))
            return total + (0.0 if packed is None else jnp.sum(packed * draw_cotangent(packed.shape))), (y, packed)

        compiled = compile_quickly(jax.grad(loss, argnums=(0, 1), has_aux=True))
        return lambda *arguments: jax.tree.map(np.asarray, compiled(*arguments))


def compile_quickly(function: Callable) -> Callable:
    """jax.jit, on a CPU without LLVM's optimisations: these functions run for microseconds and compile for seconds."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def draw_params(make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Any, Any]:
    """(graph definition, parameters) of a module, every parameter random, also those that start at zero or one.

    Nothing of the module's own start is compiled, which would take longer than any check.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
    random = np.random.default_rng(0)

    def draw(leaf):
        size = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.3
        return jnp.asarray(random.standard_normal(leaf.shape) * size, leaf.dtype)

    return graphdef, jax.tree.map(draw, state)


def make_key(seed: int) -> Array:
    """A key of a generator that compiles in no time: threefry takes XLA seconds on a CPU."""
    return jax.random.key(seed, impl="unsafe_rbg")


def draw_cotangent(shape: tuple[int, ...]) -> Array:
    """What a result is weighted with before it is summed up."""
    return jnp.asarray(np.random.default_rng(9).standard_normal(shape), jnp.float32)


def require(holds: bool, seen: str) -> None:
    """Raises Failure with what was seen."""
    if not holds:
        raise Failure(seen)


def all_finite(tree: Any) -> bool:
    """Whether every number of a pytree is finite."""
    return all(bool(np.isfinite(np.asarray(leaf, np.float32)).all()) for leaf in jax.tree.leaves(tree))
