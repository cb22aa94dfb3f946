"""Causal Luna attention and the decoder layer (arXiv 2106.01540, equation 7), one row, head and position at a time.

Weights as in `oracles.attention`. Sums over the past are written out from position 0 every time: no recurrence.
"""

import numpy as np

from oracles.attention import apply_linear, luna_attention, softmax_over_real
from oracles.encoder import apply_layer_norm as layer_norm


def weigh_softplus(z):
    """log2(1 + 2^z)."""
    return np.log(1.0 + 2.0**z) / np.log(2.0)


def weigh_elu(z):
    """elu(z) + 1."""
    return np.where(z.real > 0, z + 1.0, np.exp(z))


WEIGHTS = {"softplus": weigh_softplus, "elu": weigh_elu}


def causal_luna(weights, x, p, *, num_heads, weight="softplus", x_mask=None, p_mask=None):
    """Y [B,N,D]; what stands at padding is 0 and means nothing."""
    num_rows, _, width = x.shape
    head_dim = width // num_heads
    x_mask = np.ones(x.shape[:2], bool) if x_mask is None else x_mask
    p_mask = np.ones(p.shape[:2], bool) if p_mask is None else p_mask
    pack_query, query = (apply_linear(weights[name], array) for name, array in (("pack_query", p), ("query", x)))
    pack_key = apply_linear(weights["pack_context"], x)
    key, value = (apply_linear(weights["context" if "context" in weights else name], x) for name in ("key", "value"))
    mixed = np.zeros(x.shape, np.result_type(query, key, value, pack_query))
    for row in range(num_rows):
        for head in range(num_heads):
            part = slice(head * head_dim, (head + 1) * head_dim)
            slots = pack_query[row, :, part] / np.sqrt(head_dim)
            for position in np.flatnonzero(x_mask[row]):
                past = [s for s in range(position + 1) if x_mask[row, s]]
                t = len(past)
                packing = [WEIGHTS[weight](slots @ pack_key[row, s, part]) for s in past]
                scores = 0.0
                for s, a in zip(past, packing, strict=True):
                    scores = scores + (query[row, position, part] @ key[row, s, part]) / np.sqrt(head_dim) * a
                unpack = softmax_over_real(scores / t, p_mask[row])
                for s, a in zip(past, packing, strict=True):
                    mixed[row, position, part] += (unpack @ a) * value[row, s, part] / t
    return apply_linear(weights["out"], mixed)


def decoder_layer(weights, x, p, context, *, num_heads, num_pack_heads, norm, weight, x_mask, p_mask, context_mask):
    """(X', P') of one relu layer, post-norm as the authors run it, or pre-norm."""

    def sublayer(name, x, function):
        if norm == "pre":
            return x + function(layer_norm(weights[name], x))
        return layer_norm(weights[name], x + function(x))

    query = layer_norm(weights["pack_norm"], p) if norm == "pre" else p
    options = {"num_heads": num_heads, "weight": weight, "x_mask": x_mask, "p_mask": p_mask}
    x = sublayer("self_attention_norm", x, lambda x: causal_luna(weights["self_attention"], x, query, **options))
    cross = {"num_heads": num_heads, "num_pack_heads": num_pack_heads, "context": context}
    cross |= {"context_mask": context_mask, "p_mask": p_mask}
    packed = luna_attention(weights["cross_attention"], x, query, **cross)[1]
    x = sublayer("cross_attention_norm", x, lambda x: luna_attention(weights["cross_attention"], x, query, **cross)[0])
    p = p + packed if norm == "pre" else layer_norm(weights["pack_norm"], p + packed)

    def feed_forward(x):
        hidden = apply_linear(weights["feed_forward"]["fc1"], x)
        return apply_linear(weights["feed_forward"]["fc2"], np.where(hidden.real > 0, hidden, 0.0))

    return sublayer("feed_forward_norm", x, feed_forward), p
