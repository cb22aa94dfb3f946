"""Luna's attention, projections folded into the short sequence or the long one in chunks, against the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models import jit_quickly

from luna_jax.attention import chunked, luna
from luna_jax.attention.folded import pays
from luna_jax.attention.luna import LunaAttention
from luna_jax.ops import masked_softmax

WIDTH, LENGTH = 24, 37


def make(tie_kv=False, num_heads=3, num_pack_heads=2, rate=0.0, dtype=jnp.float64):
    rngs = nnx.Rngs(0)
    module = LunaAttention(
        WIDTH, num_heads=num_heads, num_pack_heads=num_pack_heads, tie_kv=tie_kv, dropout_rate=rate,
        dtype=dtype, param_dtype=dtype, rngs=rngs,
    )  # fmt: skip
    graphdef, params = nnx.split(module)
    keys = iter(jax.random.split(jax.random.key(5), 99))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), params)
    return nnx.merge(graphdef, params)


def inputs(pack_length, dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (3, LENGTH, WIDTH), dtype)
    p = jax.random.normal(keys[1], (3, pack_length, WIDTH), dtype)
    x_mask = jnp.arange(LENGTH)[None] < jnp.array([LENGTH, 5, 1])[:, None]
    p_mask = jnp.arange(pack_length)[None] < jnp.array([pack_length, 3, 1])[:, None]
    return x, p, x_mask, p_mask


def values_and_gradients(module, pack_length, dtype=jnp.float64):
    x, p, x_mask, p_mask = inputs(pack_length, dtype)
    graphdef, params = nnx.split(module)

    def loss(params, x, p):
        y, packed = nnx.merge(graphdef, params)(x, p, x_mask=x_mask, p_mask=p_mask)
        real = jnp.where(x_mask[..., None], jnp.sin(y.astype(dtype)), 0)
        return jnp.sum(real) + jnp.sum(jnp.cos(packed)), (y, packed)

    (_, out), gradients = jit_quickly(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, x, p)
    return out, gradients


@pytest.mark.parametrize("tie_kv", [False, True])
def test_folded_is_plain(monkeypatch, tie_kv):
    with jax.enable_x64():
        folded = values_and_gradients(make(tie_kv), 6)
        assert pays(3, 6, WIDTH, LENGTH)
        assert pays(2, 6, WIDTH, LENGTH)
        monkeypatch.setattr(luna, "pays", lambda *sizes: False)
        plain = values_and_gradients(make(tie_kv), 6)
        for one, other in zip(jax.tree.leaves(folded), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tie_kv", [False, True])
def test_chunks_are_plain(monkeypatch, tie_kv):
    monkeypatch.setattr(luna, "pays", lambda *sizes: False)
    with jax.enable_x64():
        plain = values_and_gradients(make(tie_kv), 6)
        assert count_scans(make(tie_kv), 6) == 0, "one chunk holds all"
        monkeypatch.setattr(chunked, "LEAST_CHUNK", 8)
        monkeypatch.setattr(chunked, "SCORES_AT_ONCE", {"cpu": 1})
        assert count_scans(make(tie_kv), 6) == 2, "the pack attention and the unpack attention"
        parts = values_and_gradients(make(tie_kv), 6)
        for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def count_scans(module, pack_length):
    x, p, x_mask, p_mask = inputs(pack_length)
    shown = jax.make_jaxpr(lambda x, p: module(x, p, x_mask=x_mask, p_mask=p_mask))(x, p)
    return str(shown).count("= scan[")


def test_folded_in_bfloat16_is_as_close_to_float64_as_plain(monkeypatch):
    with jax.enable_x64():
        wide = values_and_gradients(make(), 6)[0]
    errors = {}
    for name, folds in (("folded", pays), ("plain", lambda *sizes: False)):
        monkeypatch.setattr(luna, "pays", folds)
        got = values_and_gradients(make(dtype=jnp.bfloat16), 6, jnp.bfloat16)[0]
        errors[name] = [
            np.abs(np.asarray(a, np.float64) - np.asarray(b)).mean() for a, b in zip(got, wide, strict=True)
        ]
    for folded, plain in zip(errors["folded"], errors["plain"], strict=True):
        assert folded < 1.5 * plain


def test_projections_of_the_long_sequence_are_not_formed():
    module = make(dtype=jnp.float32)
    x, p, x_mask, p_mask = inputs(6, jnp.float32)
    shown = str(jax.make_jaxpr(lambda x, p: module(x, p, x_mask=x_mask, p_mask=p_mask))(x, p))
    assert f"3,{LENGTH},3,8]" not in shown
    long = inputs(9, jnp.float32)[1]
    shown = str(jax.make_jaxpr(lambda x, p: module(x, p, x_mask=x_mask))(x, long))
    assert f"3,{LENGTH},3,8]" in shown, "3 heads of 9 slots are more than 24: queries are formed"


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((4, 16, 256, 1024), True), ((4, 64, 256, 1024), True), ((4, 65, 256, 1024), False), ((4, 16, 256, 16), False)],
)
def test_when_it_pays(sizes, wanted):
    assert pays(*sizes) == wanted


def test_dropout_falls_on_the_probabilities():
    """Kept weights are doubled, and the value's bias counts as often as there is weight."""
    with jax.enable_x64():
        module = make(rate=0.5)
        x, p, x_mask, p_mask = inputs(6)
        key = jax.random.key(3)
        _, packed = module.remember(p, x, x_mask, p_mask=p_mask, dropout_key=key)
        query = module.pack_query(p).reshape(3, 6, 2, WIDTH // 2) * (WIDTH // 2) ** -0.5
        keys = module.pack_key(x).reshape(3, LENGTH, 2, WIDTH // 2)
        scores = jnp.einsum("blhk,bmhk->bhlm", query, keys).reshape(3, 12, LENGTH)
        weights = masked_softmax(scores, x_mask[:, None, :])
        kept = jnp.where(jax.random.bernoulli(key, 0.5, weights.shape), weights / 0.5, 0.0)
        kept = kept.reshape(3, 2, 6, LENGTH)
        value = module.pack_value(x).reshape(3, LENGTH, 2, WIDTH // 2)
        wanted = jnp.einsum("bhlm,bmhk->blhk", kept, value).reshape(3, 6, WIDTH)
        np.testing.assert_allclose(packed, wanted, rtol=1e-10, atol=1e-12)
