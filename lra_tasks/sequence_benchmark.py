"""What Luna moves between devices over which sequences are split, beside ring attention; and a very long sequence."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.collectives import list_collectives, total_bytes
from lra_tasks.errors import UserError
from lra_tasks.measurements import Measurement
from lra_tasks.provenance import peak_process_bytes
from luna_jax.attention.luna import LunaConfig
from luna_jax.classifier import Classifier, ClassifierConfig
from luna_jax.encoder import EncoderConfig
from luna_jax.initializers import FAIRSEQ
from luna_jax.layers import LayerConfig
from luna_jax.sequence_parallel import SequenceSplit

NUM_PARTS = 8
EMB_DIM, MLP_DIM, NUM_HEADS, PACK_LENGTH = 64, 128, 4, 16
NUM_LAYERS = 3
"""No other loop of the program that moves anything goes round so often."""
VOCAB_SIZE = 256
AXIS = "sequence"
FORMS = ("bidirectional", "causal")
ON_PACK = {"bidirectional": {"pack_query", "context", "pack_norm"}, "causal": {"pack_query"}}
"""Weights of a layer that act on P, or on what is packed, and on no position."""
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes of the results of collectives on one device, in the forward and the backward pass of one sequence."""

    form: str
    length: int
    attention_bytes: int  # of one layer, gradients of weights aside: Luna's own
    weight_bytes: int  # gradients of one layer's weights that act on x, which devices sum whatever they have split
    other_bytes: int  # of everything outside the layers, once a step
    ring_bytes: int  # what attention_bytes would be with ring attention of the same width


@dataclass(frozen=True)
class LongRun:
    """One forward and backward pass."""

    form: str
    length: int
    compile_seconds: float
    seconds: float
    peak_bytes: int  # most resident memory of the process so far, all its devices together
    loss: float
    gradient_norm: float


def show_sequence(lengths: Sequence[int], measurement: Measurement) -> None:
    """Prints both tables, that of long runs for the last of the lengths, and writes sequence-PLATFORM.json."""
    prepare_devices(NUM_PARTS)
    setting = {"parts": NUM_PARTS, "layers": NUM_LAYERS, "width": EMB_DIM, "feed-forward": MLP_DIM}
    setting |= {"heads": NUM_HEADS, "L": PACK_LENGTH}
    print(", ".join(f"{name} {size}" for name, size in setting.items()) + f", batch 1, float32; {describe_machine()}")
    traffic = measure_traffic(lengths, NUM_PARTS)
    show_traffic(traffic)
    print("\none sequence, forward and backward, layers recomputed")
    print(f"{'':16}{'N':>12}{'compile s':>12}{'s':>10}{'peak GiB':>10}{'loss':>12}{'gradient norm':>16}")
    runs = []
    for form in FORMS:
        run = run_long(lengths[-1], NUM_PARTS, form)
        times = f"{run.compile_seconds:>12.1f}{run.seconds:>10.1f}{run.peak_bytes / 2**30:>10.2f}"
        print(f"{form:16}{run.length:>12,}{times}{run.loss:>12.4f}{run.gradient_norm:>16.4g}", flush=True)
        runs.append(run)
    measurement.write(
        setting=setting,
        traffic=[dataclasses.asdict(row) for row in traffic],
        long_runs=[dataclasses.asdict(run) for run in runs],
    )


def show_traffic(rows: Sequence[Traffic]) -> None:
    """The table of bytes."""
    print("\nbytes that reach a device, forward and backward, of a layer: attention, gradients of weights on x")
    print(f"{'':16}{'N':>12}{'attention':>12}{'weights':>12}{'ring attention':>18}{'outside layers':>18}")
    for row in rows:
        sizes = f"{row.attention_bytes:>12,}{row.weight_bytes:>12,}{row.ring_bytes:>18,}{row.other_bytes:>18,}"
        print(f"{row.form:16}{row.length:>12,}{sizes}", flush=True)


def prepare_devices(num_parts: int) -> None:
    """Gives a CPU that many virtual devices, before JAX looks for any. UserError where there are fewer in the end."""
    if getattr(jax.config, "jax_num_cpu_devices", -1) < num_parts:
        with contextlib.suppress(RuntimeError):  # JAX has looked already, in a process that did something else before
            jax.config.update("jax_num_cpu_devices", num_parts)
    if len(jax.devices()) < num_parts:
        raise UserError(
            f"sequences in {num_parts} parts need {num_parts} devices, there are {len(jax.devices())} "
            f"({jax.devices()[0].platform}); run this benchmark alone, with JAX_PLATFORMS=cpu"
        )


def measure_traffic(lengths: Sequence[int], num_parts: int) -> list[Traffic]:
    """Of both forms at each length, from the compiled program; nothing is run."""
    rows = []
    for form in FORMS:
        for length in lengths:
            step, params, batch = make_step(form, length, num_parts, remat=False)
            found = list_collectives(step.lower(params, *batch).compile().as_text())
            inside = [one for one in found if one.times == NUM_LAYERS]
            weights = count_weight_bytes(form, params["encoder"]["layers"])
            attention = sum(one.bytes for one in inside) - weights
            other = total_bytes(found) - total_bytes(inside)
            rows.append(Traffic(form, length, attention, weights, other, count_ring_bytes(length, num_parts)))
    return rows


def count_weight_bytes(form: str, layers: Any) -> int:
    """Bytes of one layer's weights but those that act on P alone, whose gradient every device has whole."""
    counted = jax.tree_util.tree_leaves_with_path(layers)
    sizes = [leaf.size for path, leaf in counted if not ON_PACK[form] & {key.key for key in path}]
    return sum(sizes) * FLOAT_BYTES // NUM_LAYERS


def count_ring_bytes(length: int, num_parts: int) -> int:
    """Bytes that reach a device in one layer of ring attention (Liu et al. 2023, arXiv 2310.01889), batch 1.

    A block is N / P positions of width D, s bytes a number: b = (N / P) D s. Forward, keys and values of every other
    device pass by: 2 b in each of P - 1 steps. Backward they pass once more, 2 (P - 1) b, and with them go the
    gradients of those keys and values, which every device adds to and which have to come home: 2 P b. Together
    (6 P - 4) b, or (6 - 4 / P) N D s: six arrays of the whole sequence, nearly. Causal ring attention sends as much.
    """
    block = -(-length // num_parts) * EMB_DIM * FLOAT_BYTES
    return (6 * num_parts - 4) * block


def run_long(length: int, num_parts: int = NUM_PARTS, form: str = "bidirectional") -> LongRun:
    """Compiles and runs one forward and backward pass over random tokens, the last hundredth of them padding."""
    step, params, (tokens, mask) = make_step(form, length, num_parts, remat=True)
    began = time.perf_counter()
    compiled = step.lower(params, tokens, mask).compile()
    compile_seconds = time.perf_counter() - began
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, tokens.shape, np.int32)
    mask = np.arange(length)[None] < length - length // 100
    began = time.perf_counter()
    loss, norm = jax.block_until_ready(compiled(params, tokens, mask))
    seconds = time.perf_counter() - began
    if not np.isfinite([loss, norm]).all():
        raise FloatingPointError(f"{form} Luna over {length} positions: loss {loss}, norm of the gradient {norm}")
    return LongRun(form, length, compile_seconds, seconds, peak_process_bytes(), float(loss), float(norm))


def make_step(form: str, length: int, num_parts: int, *, remat: bool) -> tuple[Any, Any, tuple[Any, Any]]:
    """((params, tokens, mask) -> (loss, norm of the gradient) under jit, its parameters, a batch's shapes)."""
    devices = jax.devices()[:num_parts]
    split = SequenceSplit(jax.make_mesh((num_parts,), (AXIS,), (AxisType.Auto,), devices=devices), AXIS)
    config = make_config(form, length, split, remat=remat)
    graphdef, state = nnx.split(Classifier(config, rngs=nnx.Rngs(0)))

    def score(params, tokens, mask):
        return -jax.nn.log_softmax(nnx.merge(graphdef, params)(tokens, mask))[0, 0]

    @jax.jit
    def step(params, tokens, mask):
        loss, gradient = jax.value_and_grad(partial(score, tokens=tokens, mask=mask))(params)
        return loss, jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))

    batch = (jax.ShapeDtypeStruct((1, length), jnp.int32), jax.ShapeDtypeStruct((1, length), jnp.bool_))
    return step, nnx.to_pure_dict(state), batch


def make_config(form: str, length: int, split: SequenceSplit | None, *, remat: bool) -> ClassifierConfig:
    """A small Luna without dropout, pooled by the mean of x; positions are sinusoids, which have no gradient."""
    causal = form == "causal"
    attention = LunaConfig(
        num_heads=NUM_HEADS,
        num_pack_heads=NUM_HEADS,
        pack_length=PACK_LENGTH,
        tie_kv=True,
        contextual_pack=not causal,
        dropout_rate=0.0,
        causal=causal,
        split=split,
    )
    layer = LayerConfig(
        attention=attention,
        emb_dim=EMB_DIM,
        mlp_dim=MLP_DIM,
        norm="post",
        activation="gelu",
        dropout_rate=0.0,
        activation_dropout_rate=0.0,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        initializers=FAIRSEQ,
    )
    encoder = EncoderConfig(
        layer=layer,
        num_layers=NUM_LAYERS,
        tie_layers=False,
        vocab_size=VOCAB_SIZE,
        embedding="table",
        max_length=length,
        prepend_cls=False,
        positions="sinusoidal",
        first_position=0,
        scale_embedding=False,
        embedding_norm=True,
        pack_embedding="as_tokens",
        pack_slots="by_length",
        remat=remat,
    )
    options = {"pair_features": None, "pooling": "mean", "feature_norm": "none", "classifier_dim": 0, "num_classes": 2}
    return ClassifierConfig(encoder=encoder, **options)
