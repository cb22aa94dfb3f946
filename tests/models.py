"""Small models for the tests: random weights in every place, and those weights in the oracles' form."""

import contextlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import derivative
from tolerances import TOLERANCE

from luna_jax.attention.luna import LunaConfig
from luna_jax.attention.softmax import SoftmaxConfig
from luna_jax.classifier import ClassifierConfig
from luna_jax.encoder import EncoderConfig
from luna_jax.initializers import FAIRSEQ
from luna_jax.layers import LayerConfig

EMB_DIM, MLP_DIM, PACK_LENGTH, VOCAB_SIZE, MAX_LENGTH = 8, 12, 5, 11, 24


jit_quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""jax.jit without LLVM's optimisations: half the compile time, and the functions here run for microseconds."""


def precise(dtype):
    """A context in which float64 is float64, if that is the dtype."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def to_jax(value):
    """NumPy arrays as JAX arrays, anything else as it is."""
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def build(make, seed=0):
    """(apply, params) of the module that make(rngs) gives: apply(params, *args, method="__call__", **keywords).

    Every parameter is random, also those that start at zero or one: a test sees a weight that is left out.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, random.standard_normal(leaf.shape)
        size = leaf.shape[-2] ** -0.5 if name == "kernel" else 0.3 if name in ("bias", "scale") else 1.0
        return jnp.asarray(noise * size + (name == "scale"), leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))

    def apply(params, *args, method="__call__", **keywords):
        args = [to_jax(value) for value in args]
        keywords = {name: to_jax(value) for name, value in keywords.items()}
        return getattr(nnx.merge(graphdef, params), method)(*args, **keywords)

    return apply, params


def make_luna_config(**changes):
    """Luna with two heads, four pack heads, untied."""
    values = {"num_heads": 2, "num_pack_heads": 4, "pack_length": PACK_LENGTH, "tie_kv": False}
    return LunaConfig(**(values | {"contextual_pack": True, "dropout_rate": 0.0} | changes))


def make_softmax_config(**changes):
    """Softmax attention with two heads."""
    values = {"num_heads": 2, "dropout_rate": 0.0, "causal": False, "implementation": "xla", "chunk_size": 16}
    return SoftmaxConfig(**(values | changes))


def make_layer_config(attention=None, dtype="float32", **changes):
    """One post-norm gelu layer without dropout."""
    values = {
        "attention": attention or make_luna_config(),
        "emb_dim": EMB_DIM,
        "mlp_dim": MLP_DIM,
        "norm": "post",
        "activation": "gelu",
        "dropout_rate": 0.0,
        "activation_dropout_rate": 0.0,
        "dtype": dtype,
        "param_dtype": "float64" if dtype == "float64" else "float32",
        "initializers": FAIRSEQ,
    }
    return LayerConfig(**(values | changes))


def make_encoder_config(layer=None, **changes):
    """Two layers with learned positions and [CLS], as the authors' long-range-arena model."""
    values = {
        "layer": layer or make_layer_config(),
        "num_layers": 2,
        "tie_layers": False,
        "vocab_size": VOCAB_SIZE,
        "embedding": "table",
        "max_length": MAX_LENGTH,
        "prepend_cls": True,
        "positions": "learned",
        "first_position": 0,
        "scale_embedding": False,
        "embedding_norm": True,
        "pack_embedding": "as_tokens",
        "pack_slots": "by_length",
        "remat": False,
    }
    return EncoderConfig(**(values | changes))


def make_classifier_config(encoder=None, **changes):
    """Three classes from the [CLS] position."""
    values = {
        "encoder": encoder or make_encoder_config(),
        "pair_features": None,
        "pooling": "cls",
        "feature_norm": "none",
    }
    return ClassifierConfig(**(values | {"classifier_dim": 7, "num_classes": 3} | changes))


def list_equations(jaxpr):
    """All equations of a jaxpr, those of the jaxprs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from list_equations(inner)


def make_key(seed):
    """A key of a generator that compiles in no time; threefry takes XLA seconds on a CPU."""
    return jax.random.key(seed, impl="unsafe_rbg")


def raises_naming(words):
    """A context that expects a ValueError of one line with all these words in it."""
    return pytest.raises(ValueError, match="^" + "".join(f"(?=.*{re.escape(word)})" for word in words) + r".*\Z")


def draw_array(seed, *shape):
    """Standard normal float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def draw_mask(seed, num_rows, length):
    """Ragged mask [B, N], padding on the right: row 0 is full, the others have padding where they can."""
    lengths = np.random.default_rng(seed).integers(1, max(length, 2), num_rows)
    lengths[0] = length
    return np.arange(length) < lengths[:, None]


def draw_tokens(seed, num_rows, length):
    """Token ids [B, N] of the small vocabulary."""
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, (num_rows, length)).astype(np.int32)


def widen(tree):
    """Our parameters as float64 NumPy arrays, the form of the oracles for attention."""
    return jax.tree.map(partial(np.asarray, dtype=np.float64), tree)


def read_layer(params):
    """Oracle weights of our encoder layer."""
    weights = {name: params[name] for name in ("attention", "attention_norm", "pack_norm") if name in params}
    return weights | dict(params["feed_forward"]) | {"mlp_norm": params["feed_forward_norm"]}


def read_encoder(params, num_layers, tie_layers=False):
    """Oracle weights of our encoder, whose layers are stacked."""
    layers = [
        read_layer(params["layers"] if tie_layers else jax.tree.map(lambda leaf, at=depth: leaf[at], params["layers"]))
        for depth in range(num_layers)
    ]
    names = {"cls": "cls", "positions": "positions", "pack": "pack", "embedding_norm": "embedding_norm"}
    names |= {"pack_embedding_norm": "pack_norm", "final_norm": "final_norm", "final_pack_norm": "final_pack_norm"}
    kept = {theirs: params[ours] for ours, theirs in names.items() if ours in params}
    embed = params["embed"]
    if "embedding" in embed:
        return kept | {"tokens": embed["embedding"], "layers": layers}
    return kept | {"pixel_weight": embed["kernel"][0], "pixel_bias": embed["bias"], "layers": layers}


def read_classifier(params, num_layers):
    """Oracle weights of our classifiers."""
    head = {"hidden": params["head"]["hidden"], "output": params["head"]["logits"]}
    return {"encoder": read_encoder(params["encoder"], num_layers), **head}


def assert_gradients_match(loss, oracle_loss, tree, *, dtype="float64"):
    """jax.grad of `loss` in `dtype` against the oracle's derivative, for nested dicts of float64 arrays.

    Along one random direction through all entries of all arrays at once, and, where that fails, array by array.
    """
    tolerance = TOLERANCE[dtype]
    value, gradients = jit_quickly(jax.value_and_grad(loss))(jax.tree.map(partial(jnp.asarray, dtype=dtype), tree))
    random = np.random.default_rng(7)
    directions = derivative.map_arrays(lambda array: random.standard_normal(array.shape), tree)
    expected_value = oracle_loss(tree)
    assert abs(float(value) - expected_value) <= tolerance * max(1.0, abs(expected_value))
    along = dict(derivative.list_arrays(directions))
    parts = {path: np.asarray(array) * along[path] for path, array in derivative.list_arrays(gradients)}
    size = sum(np.abs(part).sum() for part in parts.values())
    expected = derivative.differentiate_all(oracle_loss, tree, directions)
    if abs(sum(part.sum() for part in parts.values()) - expected) > tolerance * size:
        wrong = {
            path: (float(part.sum()), float(slope))
            for path, part in parts.items()
            if abs(part.sum() - (slope := derivative.differentiate(oracle_loss, tree, path, along[path])))
            > tolerance * size
        }
        raise AssertionError(f"gradients differ, ours and the oracle's along one direction: {wrong}")
