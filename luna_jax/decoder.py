"""Decoder layer and stack: attention to the past, to a context where there is one, and a state to go on from.

A layer of the authors' decoder, post-norm:

    X1 = LN_a(X + CausalAttention(X, P))                P only asks; it never sees the target, so causality is safe
    Y_X, Y_P = Attention(X1, P, C)                      C is the encoder's output
    X2 = LN_c(X1 + Y_X);   P' = LN_p(P + Y_P)           P' goes to the next layer: the context is packed again there
    X' = LN_f(X2 + FFN(X2))

Since P depends on the context alone, all packing is done once, before the first token, whatever is decoded then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from luna_jax.attention.base import Memory
from luna_jax.attention.registry import DecoderAttentionConfig
from luna_jax.axes import Array, Context, ContextMask, Pack, PackMask, Sequence, SequenceMask
from luna_jax.layers import FeedForward, LayerConfig, make_norm
from luna_jax.ops import dropout, dropout_keys


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder. No defaults: every value is somebody's decision."""

    layer: LayerConfig
    num_layers: int
    has_context: bool
    """Whether every layer attends to a context, too; False: a language model."""
    remat: bool
    """Recompute each layer in the backward pass instead of keeping its activations."""

    def __post_init__(self):
        attention = self.layer.attention
        if not isinstance(attention, DecoderAttentionConfig):
            raise ValueError(f"{type(attention).__name__} has no form for a decoder; take luna or softmax")
        if self.num_layers < 1:
            raise ValueError(f"num_layers={self.num_layers}; it must be at least 1")
        if attention.pack_length and attention.contextual_pack and not self.has_context:
            raise ValueError(
                "without a context nothing is packed that could query the next layer; set contextual_pack=False, so "
                "that every layer learns its own P"
            )


class Given(NamedTuple):
    """What a decoder is given beside its own positions; None for what there is not."""

    p: Pack | None = None
    """[B, L, D], or [num_layers, B, L, D] where each layer has its own."""
    p_mask: PackMask | None = None
    context: Context | None = None
    context_mask: ContextMask | None = None


class DecoderState(NamedTuple):
    """A decoder between two positions. Of `layers` the leaves are [num_layers, B, ...], of the others [B, ...]."""

    layers: Any
    """(state of the attention to the past, Memory of the context or None) of every layer."""
    p_mask: PackMask | None
    count: Array
    """Real positions so far [B]."""


class DecoderLayer(nnx.Module):
    """One layer. Pre-norm has the norms on the inputs, as in the encoder; P is normed once for both attentions."""

    def __init__(self, config: LayerConfig, *, has_context: bool, rngs: nnx.Rngs):
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype, "initializers": config.initializers}
        attention = config.attention
        assert isinstance(attention, DecoderAttentionConfig), "DecoderConfig takes no other"
        self.self_attention = attention.build_causal(config.emb_dim, **types, rngs=rngs)
        self.self_attention_norm = make_norm(config, rngs)
        self.has_context, self.packs = has_context, has_context and attention.pack_length > 0
        if has_context:
            self.cross_attention = attention.build_cross(config.emb_dim, **types, rngs=rngs)
            self.cross_attention_norm = make_norm(config, rngs)
        if self.packs:
            self.pack_norm = make_norm(config, rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = make_norm(config, rngs)
        self.norm, self.dropout_rate = config.norm, config.dropout_rate

    def __call__(
        self, x: Sequence, given: Given, *, x_mask: SequenceMask | None, deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sequence, Pack | None]:
        """A whole sequence x [B, N, D]: the layer's x, and the P of the next layer."""
        next_key = dropout_keys(deterministic, rngs)
        memory, query, p = self.remember(given, next_key)

        def attend(x):
            options = {"x_mask": x_mask, "p_mask": given.p_mask, "deterministic": deterministic, "rngs": rngs}
            return self.self_attention(x, query, **options)[0]

        return self._update(x, attend, memory, next_key), p

    def start(self, given: Given, *, max_length: int, batch_size: int) -> tuple[Any, Pack | None]:
        """The layer's state before the first position, and the P of the next layer."""
        memory, query, p = self.remember(given, lambda: None)
        return (self.self_attention.start(query, max_length, batch_size), memory), p

    def advance(
        self, x: Sequence, state: Any, p_mask: PackMask | None, x_mask: SequenceMask | None
    ) -> tuple[Sequence, Any]:
        """The next positions x [B, N, D] without dropout, and the state behind them."""
        past, memory = state
        new_past = []

        def attend(x):
            y, after = self.self_attention.attend(x, past, x_mask=x_mask, p_mask=p_mask)
            new_past.append(after)
            return y

        x = self._update(x, attend, memory, lambda: None)
        return x, (new_past[0], memory)

    def remember(
        self, given: Given, next_key: Callable[[], Array | None]
    ) -> tuple[Memory | None, Pack | None, Pack | None]:
        """(what is kept of the context, the P that asks, the P of the next layer)."""
        p = given.p
        query = self.pack_norm(p) if self.packs and self.norm == "pre" else p
        if not self.has_context:
            return None, query, p
        key = next_key() if self.cross_attention.dropout_rate else None
        memory, packed = self.cross_attention.remember(
            query, given.context, given.context_mask, p_mask=given.p_mask, dropout_key=key
        )
        if self.packs:
            assert p is not None, "a mechanism with a packed sequence is given one"
            p = p + dropout(packed, self.dropout_rate, next_key())
            p = p if self.norm == "pre" else self.pack_norm(p)
        return memory, query, p

    def _update(self, x, attend, memory, next_key):
        def sublayer(norm, x, function):
            if self.norm == "pre":
                return x + dropout(function(norm(x)), self.dropout_rate, next_key())
            return norm(x + dropout(function(x), self.dropout_rate, next_key()))

        x = sublayer(self.self_attention_norm, x, attend)
        if memory is not None:
            recall = partial(self.cross_attention.recall, memory=memory, dropout_key=next_key())
            x = sublayer(self.cross_attention_norm, x, recall)
        return sublayer(self.feed_forward_norm, x, partial(self.feed_forward, dropout_key=next_key()))


class Decoder(nnx.Module):
    """The stack, under one `jax.lax.scan` over stacked layers: a whole sequence at once, or a state and pieces.

    Embeddings and P come from outside (`luna_jax.seq2seq`, `luna_jax.language_model`). Pre-norm ends with a norm.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config

        def make(key):
            return DecoderLayer(config.layer, has_context=config.has_context, rngs=nnx.Rngs(params=key))

        self.layers = jax.vmap(make)(jax.random.split(rngs.params(), config.num_layers))
        if config.layer.norm == "pre":
            self.final_norm = make_norm(config.layer, rngs)

    def __call__(
        self,
        x: Sequence,
        given: Given,
        *,
        x_mask: SequenceMask | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Sequence:
        """x [B, N, D], embedded; `deterministic=False` takes dropout from the stream "dropout" of `rngs`."""
        key = dropout_keys(deterministic, rngs)()
        keys = None if key is None else jax.random.split(key, self.config.num_layers)

        def body(layer, carry, key, own):
            x, p = carry
            rngs = None if key is None else nnx.Rngs(dropout=key)
            given_i = given._replace(p=p if own is None else own)
            return layer(x, given_i, x_mask=x_mask, deterministic=key is None, rngs=rngs), None

        p, own = self._split_packs(given)
        (x, _), _ = self._scan(body, (x, p), (keys, own), remat=self.config.remat)
        return self._finish(x)

    def start(self, given: Given, *, max_length: int, batch_size: int) -> DecoderState:
        """The state before the first position; a mechanism that grows has room for `max_length` positions."""

        def body(layer, p, own):
            given_i = given._replace(p=p if own is None else own)
            state, p = layer.start(given_i, max_length=max_length, batch_size=batch_size)
            return p, state

        p, own = self._split_packs(given)
        _, layers = self._scan(body, p, (own,))
        return DecoderState(layers, given.p_mask, jnp.zeros(batch_size, jnp.int32))

    def advance(
        self, x: Sequence, state: DecoderState, x_mask: SequenceMask | None = None
    ) -> tuple[Sequence, DecoderState]:
        """The next positions x [B, N, D], one or many, without dropout: the stack's x, and the state behind them.

        Within a piece padding stands on the right.
        """

        def body(layer, x, layer_state):
            return layer.advance(x, layer_state, state.p_mask, x_mask)

        x, layers = self._scan(body, x, (state.layers,))
        added = x.shape[1] if x_mask is None else jnp.sum(x_mask, axis=1, dtype=jnp.int32)
        return self._finish(x), DecoderState(layers, state.p_mask, state.count + added)

    def _split_packs(self, given: Given) -> tuple[Pack | None, Array | None]:
        """(P that runs through the layers, P of every layer): one of them is None."""
        if given.p is None or self.config.layer.attention.contextual_pack:
            return given.p, None
        return jnp.zeros_like(given.p[0]), given.p

    def _scan(self, body, carry, inputs, *, remat: bool = False):
        graphdef, params = nnx.split(self.layers)

        def merged(carry, xs):
            return body(nnx.merge(graphdef, xs[0]), carry, *xs[1])

        if remat:  # under scan no optimisation can merge the recomputation with the first computation
            merged = partial(jax.checkpoint, prevent_cse=False)(merged)
        return jax.lax.scan(merged, carry, (params, inputs))

    def _finish(self, x):
        return self.final_norm(x) if self.config.layer.norm == "pre" else x


def score_tokens(x: Sequence, embed: nnx.Embed) -> Float[Array, "B N V"]:
    """X E^T: scores of every token by the table that embeds them, in float32 at least."""
    table = embed.embedding[...].astype(x.dtype)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    flat = x.reshape(-1, x.shape[-1])  # one flat matrix: see luna_jax.dense
    scores = jnp.einsum("id,vd->iv", flat, table, preferred_element_type=dtype)
    return scores.reshape(*x.shape[:-1], table.shape[0])


def reorder(state: DecoderState, rows: Array) -> DecoderState:
    """The state whose row b continues old row rows[b], for beams: [R] row numbers, in any order and number."""
    layers = jax.tree.map(lambda leaf: leaf[:, rows], state.layers)
    p_mask = None if state.p_mask is None else state.p_mask[rows]
    return DecoderState(layers, p_mask, state.count[rows])
