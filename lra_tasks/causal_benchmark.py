"""What causal Luna costs: chunks against the state of every position, memory by length, and time a decoded token."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lra_tasks.benchmark_tasks import describe_machine
from luna_jax.attention.causal_luna import CausalLunaAttention
from luna_jax.attention.softmax import CausalSoftmaxAttention
from luna_jax.causal import attend_causally, start_state
from luna_jax.initializers import FAIRSEQ

EMB_DIM, NUM_HEADS, PACK_LENGTH = 512, 8, 16
LENGTH = 4096
LENGTHS = (4096, 16384, 65536)
CHUNK_SIZES = (16, 32, 64, 128, 256)
POSITIONS = (10, 1_000, 10_000, 100_000)
LONGEST_CACHE = 10_000
"""Of a cache, which a CPU reads whole for every token: at 100,000 positions the rounds take minutes."""
STEPS = 200
"""Decoded tokens of one timing."""
Compiled = tuple[Callable[[], Any], int]
"""A call that runs, and its temporary bytes."""


def show_causal(rounds: int) -> None:
    """Prints the three tables."""
    print(
        f"causal Luna attention alone, {NUM_HEADS} heads of {EMB_DIM // NUM_HEADS}, L = {PACK_LENGTH}, batch 1, float32"
    )
    print(describe_machine())
    compare_forms("without projections", compile_mixing, rounds)
    compare_forms("with its six projections", compile_step, rounds)
    compare_lengths()
    compare_positions(rounds)


def compare_forms(title: str, compile_form: Callable[[Any, int], Compiled], rounds: int) -> None:
    """Forward and backward at N = 4,096: every position's state against chunks, in rounds that take turns."""
    calls, memory = {}, {}
    for chunk_size in (None, *CHUNK_SIZES):
        calls[chunk_size], memory[chunk_size] = compile_form(chunk_size, LENGTH)
    seconds = time_in_rounds(list(calls.values()), rounds)
    times = dict(zip(calls, seconds, strict=True))
    reference, most = median(times[None]), memory[None]
    print(f"\nforward and backward {title}, N = {LENGTH:,}; {rounds} rounds")
    print(f"{'form':>24}{'seconds':>10}{'min':>8}{'max':>8}{'times faster':>14}{'MiB':>9}{'share':>8}")
    for chunk_size, spent in times.items():
        name = "every position's state" if chunk_size is None else f"chunks of {chunk_size}"
        middle, size = median(spent), memory[chunk_size]
        print(
            f"{name:>24}{middle:>10.3f}{min(spent):>8.3f}{max(spent):>8.3f}{reference / middle:>14.2f}"
            f"{size / 2**20:>9.0f}{size / most:>8.3f}"
        )


def compare_lengths() -> None:
    """Temporary memory of the same step by length, by the compiler's account."""
    print("\ntemporary memory of forward and backward in chunks")
    sizes = [compile_step("default", length)[1] for length in LENGTHS]
    for length, size in zip(LENGTHS, sizes, strict=True):
        print(f"{length:>24,}{size / 2**20:>9.0f} MiB{size / length:>9.0f} bytes a position")


def compare_positions(rounds: int) -> None:
    """Time of a decoded token behind t others, for Luna's state and for a cache of keys and values."""
    print(f"\ndecoding, time of a token in microseconds (median of {rounds} rounds of {STEPS} tokens, min to max)")
    print(f"{'t':>24}{'Luna':>10}{'':>16}{'softmax':>10}{'with a cache':>16}")
    luna = [make_decoding(True, position) for position in POSITIONS]
    softmax = [make_decoding(False, position) for position in POSITIONS if position <= LONGEST_CACHE]
    seconds = time_in_rounds([*luna, *softmax], rounds)
    micro = [[1e6 * value / STEPS for value in spent] for spent in seconds]
    for number, position in enumerate(POSITIONS):
        shown = [micro[number], *micro[len(POSITIONS) + number :][:1]]
        cells = [f"{median(times):>10.0f}{f'{min(times):.0f} to {max(times):.0f}':>16}" for times in shown]
        print(f"{position:>24,}{''.join(cells)}")


def compile_mixing(chunk_size: int | None, length: int) -> Compiled:
    """The same of what is between the projections: `luna_jax.causal.attend_causally`."""
    head_dim = EMB_DIM // NUM_HEADS
    keys = jax.random.split(jax.random.key(0), 5)
    heads = [jax.random.normal(key, (1, length, NUM_HEADS, head_dim)) * head_dim**-0.5 for key in keys[:4]]
    pack_query = jax.random.normal(keys[4], (1, PACK_LENGTH, NUM_HEADS, head_dim))

    def loss(pack_query, *heads):
        return jnp.sum(jnp.sin(attend_causally(start_state(pack_query), *heads, chunk_size=chunk_size)[0]))

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4))).lower(pack_query, *heads).compile()
    return partial(step, pack_query, *heads), count_temporary_bytes(step)


def compile_step(chunk_size: int | str | None, length: int) -> Compiled:
    """(a call of one forward and backward pass, its temporary bytes). "default": the module's own chunks."""
    options: dict[str, Any] = {} if chunk_size == "default" else {"chunk_size": chunk_size}
    module = CausalLunaAttention(EMB_DIM, num_heads=NUM_HEADS, **options, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(module)
    x, p = (jax.random.normal(jax.random.key(seed), (1, n, EMB_DIM)) for seed, n in ((1, length), (2, PACK_LENGTH)))

    def loss(params, x, p):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(x, p)[0]))

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(params, x, p).compile()
    return partial(step, params, x, p), count_temporary_bytes(step)


def count_temporary_bytes(step: jax.stages.Compiled) -> int:
    """What a compiled step needs beside its arguments and results; a backend that cannot tell raises ValueError."""
    memory = step.memory_analysis()
    if memory is None:
        raise ValueError(f"JAX's {jax.default_backend()} backend does not say what memory a step needs; take another")
    return memory.temp_size_in_bytes


def make_decoding(is_luna: bool, position: int) -> Callable[[], Any]:
    """A call that decodes STEPS tokens one by one, each input the output before it, behind `position` others."""
    types = {"dtype": jnp.float32, "param_dtype": jnp.float32, "initializers": FAIRSEQ, "rngs": nnx.Rngs(0)}
    p: Any = None
    if is_luna:
        module: Any = CausalLunaAttention(EMB_DIM, num_heads=NUM_HEADS, **types)
        p = jax.random.normal(jax.random.key(2), (1, PACK_LENGTH, EMB_DIM))
    else:
        module = CausalSoftmaxAttention(EMB_DIM, num_heads=NUM_HEADS, causal=True, **types)
    graphdef, params = nnx.split(module)
    past = jax.random.normal(jax.random.key(1), (1, position, EMB_DIM))

    @jax.jit
    def read(params, past):
        module = nnx.merge(graphdef, params)
        start = module.start(p, position + STEPS, 1)
        if is_luna:
            return module.attend(past, start)[1]
        _, key, value = module.project(past)  # what reading them one by one would leave in the cache
        return start._replace(
            key=start.key.at[:, :position].set(key),
            value=start.value.at[:, :position].set(value),
            count=start.count + position,
        )

    @jax.jit
    def decode(params, state, x):
        def step(carry, _):
            x, state = carry
            y, state = nnx.merge(graphdef, params).attend(x, state)
            return (y, state), None

        return jax.lax.scan(step, (x, state), None, length=STEPS)[0]

    state = jax.block_until_ready(read(params, past))
    return partial(decode, params, state, past[:, -1:])


def time_in_rounds(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each call, one a round; a round calls each once, and one round before the first is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, spent in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                spent.append(time.perf_counter() - began)
    return seconds
