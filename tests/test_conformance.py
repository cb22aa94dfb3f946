"""Every row keeps the contract, and the checks see one that does not."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from tiny_runs import ROOT

from configs import rows
from lra_tasks.model import attention_config
from lra_tasks.settings import resolve
from luna_jax.attention.base import SelfAttention
from luna_jax.attention.checks import CAUSAL
from luna_jax.attention.registry import ATTENTIONS
from luna_jax.conformance import CHECKS, check_mechanism
from luna_jax.examination import Failure, ModuleConfig, Subject
from luna_jax.ops import masked_softmax

EMB_DIM, LENGTH, NUM_HEADS = 8, 40, 2
# the same mechanism with another number: nothing new to see
ALIKE = {"luna128", "luna256", "softmax_unfused"}


def read_config(row):
    """A row's configuration with the small switches."""
    config = rows.get_config("listops", f"{row}:cpu")
    config.model.emb_dim, config.model.num_heads, config.luna.num_pack_heads = EMB_DIM, NUM_HEADS, NUM_HEADS
    config.bigbird.block_size = 8
    return attention_config(resolve(config.to_dict()), LENGTH)


def test_longformers_causal_form():
    """The row has global tokens, and with those there is none."""
    config = dataclasses.replace(read_config("longformer"), num_global=0)
    assert CHECKS["causality"](Subject(config, emb_dim=EMB_DIM, length=LENGTH)).startswith("no gradient")


@pytest.mark.parametrize("row", [row for row in rows.ROWS if row not in ALIKE])
def test_every_row_keeps_the_contract(row):
    findings = check_mechanism(Subject(read_config(row), emb_dim=EMB_DIM, length=LENGTH))
    assert [(finding.name, finding.detail) for finding in findings if not finding.passed] == []
    assert [finding.name for finding in findings] == list(CHECKS)


def test_the_list_of_causal_mechanisms_is_true():
    causal, refused = set(), []
    for name in ATTENTIONS:
        config = read_config({"softmax": "transformer", "luna": "luna16"}.get(name, name))
        changes = {"longformer": {"num_global": 0}, "luna": {"contextual_pack": False}}.get(name, {})
        try:
            Subject(config, emb_dim=EMB_DIM).build(causal=True, **changes)
            causal.add(name)
        except ValueError as refusal:
            refused.append(str(refusal))
    assert causal == set(CAUSAL.split(", "))
    assert all(CAUSAL in line for line in refused)


class Faulty(SelfAttention):
    """Softmax attention with one fault."""

    NAME = "faulty"

    def __init__(self, emb_dim, *, fault, **common):
        super().__init__(emb_dim, **common)
        self.fault = fault

    def __call__(self, x, p=None, *, x_mask=None, **keywords):
        y, p = super().__call__(x, p, x_mask=x_mask, **keywords)
        if self.fault == "padding receives":
            y = y + 1.0
        if self.fault == "wide":
            y = y.astype(jnp.float32)
        return y, p

    def mix(self, x, x_mask, *, deterministic, dropout_key, draws_key):
        query, key, value = self.project(x)
        if self.fault == "idle parameter":
            key = jax.lax.stop_gradient(key)
        scores = jnp.einsum("bnhk,bmhk->bhnm", query, key) * self.head_dim**-0.5
        seen = None if x_mask is None else x_mask[:, None, None, :]
        if self.fault == "opposite sign" and seen is not None:
            seen = ~seen
        if self.fault == "no mask":
            seen = None
        if self.causal and self.fault != "sees the future":
            past = jnp.tri(x.shape[1], dtype=bool)[None, None]
            seen = past if seen is None else seen & past
        weights = masked_softmax(scores, seen)
        if self.fault == "empty rows":
            weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) if seen is not None else weights
        if self.fault == "hidden future":  # without a gradient
            value = value * jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
        if self.fault == "batch mates":
            value = value - jnp.mean(value, axis=0, keepdims=True)
        if self.fault == "constant dropout" and dropout_key is not None:
            weights = weights * 2.0
        elif dropout_key is not None:
            weights = weights * jax.random.bernoulli(dropout_key, 0.5, weights.shape) * 2.0
        return jnp.einsum("bhnm,bmhk->bnhk", weights.astype(value.dtype), value)


FAULTS = {
    "padding receives": "padding receives nothing",
    "wide": "bfloat16",
    "idle parameter": "every parameter takes part",
    "opposite sign": "no mask",
    "no mask": "padding is absence",
    "sees the future": "causality",
    "hidden future": "causality",
    "empty rows": "rows without a real position",
    "batch mates": "batch mates",
    "constant dropout": "dropout",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_check(fault):
    config = ModuleConfig(Faulty, NUM_HEADS, 0.0, False, (("fault", fault),))
    with pytest.raises(Failure):
        CHECKS[FAULTS[fault]](Subject(config, emb_dim=EMB_DIM, length=24))


def test_without_a_fault_nothing_is_found():
    config = ModuleConfig(Faulty, NUM_HEADS, 0.0, False, (("fault", "none"),))
    assert all(finding.passed for finding in check_mechanism(Subject(config, emb_dim=EMB_DIM, length=24)))


def test_what_raises_counts_as_failed():
    """Such as a shape that does not fit, wherever it comes from."""
    config = ModuleConfig(Faulty, NUM_HEADS, 0.0, False, (("nonsense", 1),))
    findings = check_mechanism(Subject(config, emb_dim=EMB_DIM, length=24))
    assert not any(finding.passed for finding in findings if finding.name != "causality")
    assert findings[0].detail.startswith("TypeError: ")


def run_command(*arguments, folder=ROOT):
    """The finished process of the entry."""
    command = [sys.executable, "-m", "lra_tasks.conformance", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a mechanism"),
        (["perfomer"], "unknown row 'perfomer'; did you mean 'performer'?"),
        (["nowhere.to_be:Found"], "nowhere.to_be:Found cannot be imported (ModuleNotFoundError: "),
        ([":MyAttention"], ":MyAttention cannot be imported (ValueError: "),
        (["performer", "--num_heads", "5"], "--num_heads 5 does not divide --emb_dim 32"),
        (["performer", "--length", "16"], "--length 16 is below 40"),
        (["luna_jax.ops:Nothing"], "luna_jax.ops:Nothing cannot be imported"),
        (["local", "--option", "block=3"], "--option block is unknown to local; did you mean 'block_size'?"),
        (["local", "--option", "block_size"], "--option block_size has no value"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
