"""Embeddings, positions, the initial packed sequence, and the stack of layers."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from luna_jax.attention.base import SharedParam, draws_key
from luna_jax.attention.checks import check_mask
from luna_jax.axes import Array, Pack, PackMask, Sequence, SequenceMask, Tokens
from luna_jax.dense import Dense
from luna_jax.layers import EncoderLayer, LayerConfig, make_norm
from luna_jax.ops import dropout, dropout_keys, sinusoid_table
from luna_jax.sequence_parallel import make_split_sinusoids

POSITIONS = ("learned", "sinusoidal")
EMBEDDINGS = ("table", "linear")
PACK_EMBEDDINGS = ("as_tokens", "plain", "sinusoidal")
PACK_SLOTS = ("by_length", "all")
UNROLLED_LAYERS = 8
"""The deepest stack that is no loop. Every recipe of Long Range Arena and of translation is within it."""


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder. No defaults: every value is somebody's decision."""

    layer: LayerConfig
    num_layers: int
    tie_layers: bool
    """One layer's weights for all `num_layers` passes."""
    vocab_size: int
    """Tokens are 0 .. vocab_size - 1."""
    embedding: str
    """"table": a learned vector a token. "linear": token v is the real number v / (vocab_size - 1), as a pixel is."""
    max_length: int
    """Positions, [CLS] included."""
    prepend_cls: bool
    """A learned vector in front of every sequence."""
    positions: str
    """"learned" or "sinusoidal"."""
    first_position: int
    """Of the sinusoids; 2 in the authors' translation model, else 0. Learned positions begin at 0."""
    scale_embedding: bool
    """Multiply token embeddings and the initial packed sequence by sqrt(D), as the translation model does."""
    embedding_norm: bool
    """Layer norms on the embedded tokens and on the initial packed sequence, each its own."""
    pack_embedding: str
    """P_0. "as_tokens": scaled, normed and dropped where tokens are. "plain": the learned vectors as they are.
    "sinusoidal": as tokens, with sinusoids of the slots added."""
    pack_slots: str
    """"by_length": a sequence shorter than P uses as many slots as it has positions. "all": every slot, always."""
    remat: bool
    """Recompute each layer in the backward pass instead of keeping its activations."""

    def __post_init__(self):
        known = {"positions": POSITIONS, "embedding": EMBEDDINGS}
        known |= {"pack_embedding": PACK_EMBEDDINGS, "pack_slots": PACK_SLOTS}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}; choices: {', '.join(choices)}")
        for name in ("num_layers", "vocab_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; it must be at least 1")
        if self.first_position < 0 or (self.first_position and self.positions == "learned"):
            raise ValueError(
                f"first_position={self.first_position}; learned positions begin at 0, sinusoidal ones at 0 or above"
            )
        if self.embedding == "linear" and self.vocab_size == 1:
            raise ValueError('embedding="linear" divides by vocab_size - 1; vocab_size must be at least 2')


class Encoded(NamedTuple):
    """What an encoder hands on: x [B, N, D] with its mask, and p [B, L, D] with its mask, or None twice.

    Of sequences that are split over devices N is filled up to a multiple of their number, masked.

    There is no p where nothing was packed: without a packed sequence, and in causal Luna, which only reads it.
    """

    x: Sequence
    p: Pack | None
    x_mask: SequenceMask
    p_mask: PackMask | None


class Encoder(nnx.Module):
    """Tokens to the pair (x, p).

        X_0 = drop(LN(E[tokens] + positions)), zero at padding      (embedding "linear": w v / (V - 1) + b for E[v])
        P_0 = drop(LN(P)), zero at masked slots             ("plain": P itself; "sinusoidal": P + its positions)
        X_i, P_i = Layer_i(X_{i-1}, P_{i-1})

    What is padding the mask alone says: every token is embedded and attended, 0 (a black pixel) like any other.
    Where a sequence has fewer than L real positions, only as many slots of P take part ("dynamic projection" in the
    authors' code, which also cuts P to the longest row of the batch; here an example never depends on its batch mates),
    unless `pack_slots` says "all".
    The layers run under one `jax.lax.scan` over stacked parameters. Up to UNROLLED_LAYERS it is no loop, unless layers
    are recomputed or sequences split; with more, compile time does not grow with depth.
    Pre-norm stacks end with a norm for x and one for p.

    Where the attention splits sequences over devices (`split`), positions are filled up on the right, masked, to a
    length that divides, which may exceed `max_length` by the filling. x and its mask come back in that length: cut
    short, every device's part would have to move. Tokens are taken whole on every device, N integers. A learned table
    of positions is used by rows, where they are; its gradient is gathered, N D numbers a step, unless the table is
    kept split along the same axis and as long as what it is added to.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        layer, width = config.layer, config.layer.emb_dim
        table = layer.initializers.table(width)
        types = {"dtype": layer.dtype, "param_dtype": layer.param_dtype, "rngs": rngs}
        if config.embedding == "table":
            self.embed = nnx.Embed(config.vocab_size, width, embedding_init=table, **types)
        else:
            flattens = layer.attention.split is None
            self.embed = Dense(1, width, flattens=flattens, kernel_init=table, bias_init=table, **types)
        if config.prepend_cls:
            self.cls = nnx.Param(layer.initializers.cls(width)(rngs.params(), (width,), layer.param_dtype))
        if config.positions == "learned":
            positions = layer.initializers.positions(width)
            self.positions = nnx.Param(positions(rngs.params(), (config.max_length, width), layer.param_dtype))
        if config.embedding_norm:
            self.embedding_norm = make_norm(layer, rngs)
        if layer.attention.pack_length:
            self._add_pack(rngs)
        if layer.norm == "pre":
            self.final_norm = make_norm(layer, rngs)
        self.layers = self._make_layers(rngs)

    def _add_pack(self, rngs: nnx.Rngs):
        layer = self.config.layer
        shape = (layer.attention.pack_length, layer.emb_dim)
        if not layer.attention.contextual_pack:
            shape = (self.config.num_layers, *shape)
        self.pack = nnx.Param(layer.initializers.pack(layer.emb_dim)(rngs.params(), shape, layer.param_dtype))
        if self.config.embedding_norm and self.config.pack_embedding != "plain":
            self.pack_embedding_norm = make_norm(layer, rngs)
        if layer.norm == "pre" and layer.attention.updates_pack:
            self.final_pack_norm = make_norm(layer, rngs)

    def _make_layers(self, rngs: nnx.Rngs) -> EncoderLayer:
        """One layer, or all of them stacked: every leaf has a leading [num_layers] axis, but a SharedParam has none."""

        def make(key):
            return EncoderLayer(self.config.layer, rngs=nnx.Rngs(params=key))

        if self.config.tie_layers:
            return make(rngs.params())
        stacked = jax.vmap(make)(jax.random.split(rngs.params(), self.config.num_layers))
        graphdef, shared, own = nnx.split(stacked, SharedParam, ...)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], shared), own)

    def __call__(
        self,
        tokens: Tokens,
        token_mask: SequenceMask,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Encoded:
        """tokens [B, N], token_mask [B, N] True = real, padding on the right; [CLS], if any, comes in front.

        `deterministic=False` takes dropout from the stream "dropout" of `rngs`. Where attention draws features, hashes
        or patterns, every layer has its own from the stream "draws", or from a constant where `rngs` has none.
        """
        next_key = dropout_keys(deterministic, rngs)
        check_mask(token_mask, tokens, "token_mask")
        x, x_mask = self._embed_tokens(tokens, token_mask, next_key())
        p, p_mask = self._embed_pack(x_mask, next_key())
        keys = {"dropout": next_key()}
        if self.config.layer.attention.draw_interval is not None:
            keys["draws"] = draws_key(rngs)
        split = {name: jax.random.split(key, self.config.num_layers) for name, key in keys.items() if key is not None}
        x, p = self._run_layers(x, p, x_mask, p_mask, split)
        if self.config.layer.norm == "pre":
            x = self.final_norm(x)
            p = self.final_pack_norm(p) if self.config.layer.attention.updates_pack else p
        if not self.config.layer.attention.updates_pack:
            p = p_mask = None
        return Encoded(x, p, x_mask, p_mask)

    def _embed_tokens(self, tokens, token_mask, dropout_key) -> tuple[Array, Array]:
        config, dtype = self.config, self.config.layer.dtype
        # padding may hold any number, and what is outside the table embeds as NaN, which a gradient would pick up
        tokens, x_mask, length = self._lay_out(jnp.where(token_mask, tokens, 0), token_mask)
        if config.embedding == "linear":
            tokens = tokens.astype(dtype)[..., None] / (config.vocab_size - 1)
        x = self.embed(tokens)
        if config.prepend_cls:
            is_cls = (jnp.arange(x.shape[1]) == 0)[None, :, None]
            x = jnp.where(is_cls, self.cls[...].astype(dtype)[None, None], x)
        if config.scale_embedding:
            x = x * x.shape[-1] ** 0.5
        x = x + jnp.asarray(self._find_positions(length, x.shape[1]), dtype)[None]
        if config.embedding_norm:
            x = self.embedding_norm(x)
        x = dropout(x, config.layer.dropout_rate, dropout_key)
        return self._place(jnp.where(x_mask[..., None], x, jnp.zeros_like(x))), x_mask

    def _lay_out(self, tokens, token_mask) -> tuple[Array, Array, int]:
        """Tokens with room for [CLS] and filled up to what a split divides, their mask, and the length before that."""
        config, split = self.config, self.config.layer.attention.split
        length = tokens.shape[1] + config.prepend_cls
        if length > config.max_length:
            cls_note = ", [CLS] included" if config.prepend_cls else ""
            raise ValueError(
                f"a sequence of {length} positions{cls_note} exceeds max_length={config.max_length}; "
                "truncate it, or build the model with a larger max_length"
            )
        filling = 0 if split is None else split.fill_up(length) - length
        around = ((0, 0), (int(config.prepend_cls), filling))
        tokens, x_mask = jnp.pad(tokens, around), jnp.pad(token_mask, around)
        if config.prepend_cls:
            x_mask = x_mask | (jnp.arange(x_mask.shape[1]) == 0)[None]
        if split is not None:  # whole before split: tokens that are split already would be moved by the padding
            tokens, x_mask = (split.place(split.gather(array, 1), 1) for array in (tokens, x_mask))
        return tokens, x_mask, length

    def _find_positions(self, length: int, filled: int) -> Array | np.ndarray:
        """What is added at each position, [filled, D]: beyond `length` anything finite."""
        config, split = self.config, self.config.layer.attention.split
        if config.positions == "sinusoidal":
            if split is not None:
                return make_split_sinusoids(config.first_position, filled, config.layer.emb_dim, split)
            return sinusoid_table(config.first_position + length, config.layer.emb_dim)[config.first_position :]
        table = self.positions[...]
        if split is None or filled == len(table):
            return table[:length] if split is None else split.place(table, 0)
        table = jnp.pad(table[:length], ((0, filled - length), (0, 0)))
        return split.place(split.gather(table, 0), 0)

    def _place(self, x: Array) -> Array:
        """x [B, N, D] split along N where the attention says so."""
        split = self.config.layer.attention.split
        return x if split is None else split.place(x, 1)

    def _embed_pack(self, x_mask, dropout_key) -> tuple[Array | None, Array | None]:
        """P_0 [B, L, D], or [num_layers, B, L, D] where each layer learns its own; its mask [B, L]."""
        config = self.config
        length = config.layer.attention.pack_length
        if not length:
            return None, None
        p, plain = self.pack[...].astype(config.layer.dtype), config.pack_embedding == "plain"
        if config.scale_embedding and not plain:
            p = p * p.shape[-1] ** 0.5
        if config.pack_embedding == "sinusoidal":
            table = jnp.asarray(sinusoid_table(length, p.shape[-1]), p.dtype)
            p = p + table.reshape((1,) * (p.ndim - 2) + table.shape)
        if config.embedding_norm and not plain:
            p = self.pack_embedding_norm(p)
        batch = x_mask.shape[0]
        p = jnp.broadcast_to(p[..., None, :, :], (*p.shape[:-2], batch, *p.shape[-2:]))
        p = p if plain else dropout(p, config.layer.dropout_rate, dropout_key)
        if config.pack_slots == "all":
            return p, jnp.ones((batch, length), bool)
        p_mask = jnp.arange(length)[None, :] < jnp.sum(x_mask, axis=-1, keepdims=True)
        return jnp.where(p_mask[..., None], p, jnp.zeros_like(p)), p_mask

    def _run_layers(self, x, p, x_mask, p_mask, keys) -> tuple[Array, Array | None]:
        config = self.config
        graphdef, shared, params = nnx.split(self.layers, SharedParam, ...)
        own_packs = None
        if p is not None and not config.layer.attention.contextual_pack:
            own_packs, p = p, jnp.zeros_like(p[0])

        def body(carry, per_layer):
            x, p = carry
            params_i, keys_i, own_pack = per_layer
            layer = nnx.merge(graphdef, shared, params if config.tie_layers else params_i)
            rngs = nnx.Rngs(**keys_i) if keys_i else None
            p = p if own_pack is None else own_pack
            x, p = layer(x, p, x_mask=x_mask, p_mask=p_mask, deterministic="dropout" not in keys_i, rngs=rngs)
            return (self._place(x), p), None

        if config.remat:
            # Under scan no optimisation can merge the recomputation with the first computation.
            body = partial(jax.checkpoint, prevent_cse=False)(body)
        # What a loop keeps for the backward pass goes into stacked arrays and out again: 17 % of Luna-16's step on CPU.
        # Sequences that devices share are long: their layers stay a loop, which holds one layer's arrays at a time.
        is_loop = config.num_layers > UNROLLED_LAYERS or config.remat or config.layer.attention.split is not None
        stacked = None if config.tie_layers else params
        (x, p), _ = jax.lax.scan(
            body,
            (x, p),
            (stacked, keys, own_packs),
            length=config.num_layers,
            unroll=1 if is_loop else config.num_layers,
        )
        return x, p
