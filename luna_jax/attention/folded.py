"""Luna's two attentions with the projections of the long sequence folded into the short one.

A projection W of the long sequence meets only L vectors a head of the short one, and products associate:

    pack      Q_p (C W_k + 1 b_k^T)^T = (Q_p W_k^T) C^T + (Q_p b_k) 1^T
              A (C W_v + 1 b_v^T)     = (A C) W_v + (A 1) b_v^T
    unpack    (X W_q + 1 b_q^T) K^T   = X (W_q K^T) + 1 (K b_q)^T
              (A V) W_o               = A (V W_o)

On the right nothing N long is projected: N x D meets D x H L where it met D x D, twice in each attention, neither keys,
values nor queries of the long sequence are kept for the backward pass, and no heads are split along it. It costs less
where H L <= D, Luna-16 with four heads of 64 for one. The same numbers up to rounding. Q_p b_k adds the same to all
scores of a row, so the softmax does not see it, and it is left out: the gradient of b_k is zero, which it is only up to
rounding where keys are formed.
"""

import jax.numpy as jnp
from jaxtyping import Float

from luna_jax.axes import Array, Context, ContextHeads, ContextMask, Heads, PackMask, Sequence
from luna_jax.ops import merge_heads, weigh


def pays(num_heads: int, pack_length: int, emb_dim: int, length: int) -> bool:
    """Whether H L <= D, and the other sequence is longer than the packed one, into which the projections go."""
    return num_heads * pack_length <= emb_dim and length > pack_length


def pack_folded(
    query: Heads,
    context: Context,
    mask: ContextMask | None,
    key_kernel: Float[Array, "D E"],
    value_kernel: Float[Array, "D E"],
    value_bias: Float[Array, " E"],
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Float[Array, "B L E"]:
    """The pack attention: query [B, L, H, K], scaled; context [B, M, D], mask [B, M] True = real; to [B, L, H K].

    A row with nothing to attend gives zeros.
    """
    batch, length, num_heads, _ = query.shape
    rows = num_heads * length
    folded = jnp.einsum("blhk,dhk->bhld", query, _part(key_kernel, num_heads)).reshape(batch, rows, -1)
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("brd,bmd->brm", folded, context, preferred_element_type=dtype)
    seen = None if mask is None else mask[:, None, :]
    mixed, total = weigh("brm,bmd->brd", scores, seen, context, dropout_rate, dropout_key)
    mixed, total = (sums.reshape(batch, num_heads, length, *sums.shape[2:]) for sums in (mixed, total))
    packed = jnp.einsum("bhld,dhk->blhk", mixed, _part(value_kernel, num_heads))
    packed = packed + total.swapaxes(1, 2)[..., None] * _part(value_bias, num_heads)[None, None]
    if mask is not None:
        packed = jnp.where(jnp.any(mask, axis=-1)[:, None, None, None], packed, jnp.zeros_like(packed))
    return merge_heads(packed)


def unpack_folded(
    x: Sequence,
    key: ContextHeads,
    value: ContextHeads,
    mask: PackMask | None,
    query_kernel: Float[Array, "D E"],
    query_bias: Float[Array, " E"],
    out_kernel: Float[Array, "E D"],
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Sequence:
    """The unpack attention with its output projection, but for the bias of that: x [B, N, D] to [B, N, D].

    key, value [B, L, H, K], the key scaled; mask [B, L] True = real.
    """
    batch, length, num_heads, width = key.shape
    rows = num_heads * length
    folded = jnp.einsum("blhk,dhk->bhld", key, _part(query_kernel, num_heads)).reshape(batch, rows, -1)
    offset = jnp.einsum("blhk,hk->bhl", key, _part(query_bias, num_heads))
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    scores = jnp.einsum("bnd,brd->bnr", x, folded, preferred_element_type=dtype)
    scores = scores.reshape(batch, -1, num_heads, length) + offset[:, None]
    seen = None if mask is None else mask[:, None, None, :]
    values = jnp.einsum("blhk,hkd->bhld", value, out_kernel.reshape(num_heads, width, -1))
    y, _ = weigh("bnhl,bhld->bnd", scores, seen, values, dropout_rate, dropout_key)
    return y if mask is None else jnp.where(jnp.any(mask, axis=-1)[:, None, None], y, jnp.zeros_like(y))


def _part(weights: Float[Array, "... E"], num_heads: int) -> Float[Array, "... H K"]:
    """The last axis by heads."""
    return weights.reshape(*weights.shape[:-1], num_heads, -1)
