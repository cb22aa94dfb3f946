"""Causal Luna attention as pure functions (Ma et al. 2021, section 3.3, equation 7; as the authors run it).

With A_t the positive weights [L] by which position t is packed, and t counted from 1 over real positions:

    U_t = softmax_L( (1/t) Q_t sum_{s<=t} K_s A_s^T )        Y_t = (1/t) U_t sum_{s<=t} A_s V_s^T

No packed sequence is ever formed; both sums are the same operation, `sum_past`: out_t = sum_{s<=t} (q_t . k_s) v_s,
once with (Q, K, A) and once with (U, A, V). It has three equal forms:

    one position    state <- state + k v^T, out = q state          the recurrence; O(K L) to keep, whatever t
    chunks          dense inside a chunk of T positions, `jax.lax.associative_scan` over the states of the chunks
    every position  `jax.lax.associative_scan` over the states of all positions: the plain reference, O(N K L) memory

The authors' code forms the states of all positions and calls the mechanism sequential; here N / T states are formed. A
state goes in and comes out, so a sequence of any length is processed in pieces with the result of the whole.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from luna_jax.axes import Array, Heads, PackMask, SequenceMask
from luna_jax.ops import dropout, masked_softmax

Weights = Float[Array, "B N H L"]
Sums = Float[Array, "B H I J"]


def softplus_base_2(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """log2(1 + 2^z), the authors' softplus with beta = ln 2: 1 at 0, slope 1/2 there."""
    return jax.nn.softplus(z * np.log(2.0)) / np.log(2.0)


def elu_plus_1(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """elu(z) + 1, 1 at 0 too: the authors' code before August 2021."""
    return jax.nn.elu(z) + 1.0


WEIGHTS = {"softplus": softplus_base_2, "elu": elu_plus_1}
"""w in A_t = w(pack_key_t . pack_query): both rows of the paper's Table 4."""


class CausalState(NamedTuple):
    """What causal Luna remembers of the past: 2 K L numbers a head, however long it is. Rows of the batch lead."""

    pack_query: Float[Array, "B H L K"]
    """Projected and scaled; does not change."""
    keys: Float[Array, "B H K L"]
    """sum_s K_s A_s^T."""
    values: Float[Array, "B H L K"]
    """sum_s A_s V_s^T."""
    count: Int[Array, "B"]
    """Real positions so far, t."""


class SumPast(Protocol):
    """A form of `sum_past`."""

    def __call__(self, query: Array, key: Array, value: Array, before: Array, *, chunk_size: int | None) -> Any:
        """(out, the sum at the end)."""
        ...


class Past(NamedTuple):
    """How the past is summed and counted."""

    sum: SumPast
    """As `sum_past`."""
    count: Callable[[Array, Array], tuple[Array, Array]]
    """As `count_past`."""


def start_state(pack_query: Float[Array, "B L H K"]) -> CausalState:
    """The state before the first position. `pack_query` is scaled already."""
    pack_query = jnp.swapaxes(pack_query, 1, 2)
    batch, num_heads, length, head_dim = pack_query.shape
    dtype = jnp.promote_types(pack_query.dtype, jnp.float32)
    keys = jnp.zeros((batch, num_heads, head_dim, length), dtype)
    return CausalState(pack_query, keys, jnp.swapaxes(keys, 2, 3), jnp.zeros(batch, jnp.int32))


def attend_causally(
    state: CausalState,
    query: Heads,
    pack_key: Heads,
    key: Heads,
    value: Heads,
    *,
    mask: SequenceMask | None = None,
    p_mask: PackMask | None = None,
    weight: Callable[[Array], Array] = softplus_base_2,
    chunk_size: int | None,
    dropout_rate: float = 0.0,
    dropout_keys: tuple[Array | None, Array | None] = (None, None),
    past: Past | None = None,
) -> tuple[Heads, CausalState]:
    """Positions that follow those of `state`: their output [B, N, H, K], and the state behind them.

    query (scaled), pack_key, key, value [B, N, H, K]; mask [B, N] True = real: padding adds nothing to the sums and is
    not counted, wherever it stands. p_mask [B, L]: slots that take part in the softmax. `chunk_size` T, any number;
    None: a state for every position. Dropout falls on A, which then enters both sums, and on U, each by its own key;
    the draws do not depend on the chunks. `past`: how sums and counts are taken, by default on one device; a sequence
    that is split over several has its own (`luna_jax.sequence_parallel`). Sums are kept in float32 at least.
    """
    dtype, length = state.keys.dtype, query.shape[1]
    lay, join = _choose_layout(length, None if past is not None else chunk_size)
    form: Any = sum_chunks if lay is not _as_it_is else partial((past or ON_ONE_DEVICE).sum, chunk_size=chunk_size)

    def drop(weights, key):
        return weights if key is None else lay(dropout(join(weights), dropout_rate, key))

    query, pack_key, key, laid_value = (lay(sequence.astype(dtype)) for sequence in (query, pack_key, key, value))
    axes = "bnhk" if query.ndim == 4 else "bchtk"
    scores = jnp.einsum(f"{axes},bhlk->{axes[:-1]}l", pack_key, state.pack_query.astype(dtype))
    real = jnp.ones((query.shape[0], length), bool) if mask is None else mask
    weights = jnp.where(lay(real[:, :, None, None]), drop(weight(scores), dropout_keys[0]), 0.0)
    counts, count = (past or ON_ONE_DEVICE).count(real, state.count)
    scale = lay((1.0 / jnp.maximum(counts, 1).astype(dtype))[:, :, None, None])

    scores, keys = form(query, key, weights, state.keys)
    slots = None if p_mask is None else jnp.expand_dims(p_mask, tuple(range(1, scores.ndim - 1)))
    unpack = drop(masked_softmax(scores * scale, slots), dropout_keys[1]).astype(dtype)
    y, values = form(unpack, weights, laid_value, state.values)
    return join(y * scale).astype(value.dtype), CausalState(state.pack_query, keys, values, count)


def count_past(real: SequenceMask, before: Int[Array, "B"]) -> tuple[Int[Array, "B N"], Int[Array, "B"]]:
    """Real positions up to each, `before` of them earlier; and that number at the end."""
    counts = before[:, None] + jnp.cumsum(real, axis=1, dtype=jnp.int32)
    return counts, counts[:, -1] if real.shape[1] else before


def sum_past(
    query: Float[Array, "B N H I"],
    key: Float[Array, "B N H I"],
    value: Float[Array, "B N H J"],
    before: Sums,
    *,
    chunk_size: int | None,
) -> tuple[Float[Array, "B N H J"], Sums]:
    """out_t = q_t (before + sum_{s<=t} k_s v_s^T), and that sum at the end."""
    length = query.shape[1]
    if length == 1:
        return sum_one(query, key, value, before)
    if chunk_size is None:
        return sum_every_position(query, key, value, before)
    return sum_in_chunks(query, key, value, before, chunk_size=chunk_size)


def sum_one(query, key, value, before: Sums):
    """One position: the recurrence."""
    after = before + jnp.einsum("bnhi,bnhj->bhij", key, value)
    return jnp.einsum("bnhi,bhij->bnhj", query, after), after


def sum_every_position(query, key, value, before: Sums):
    """The states of all positions by an associative scan: exact and plain, and N I J numbers a head."""
    if not query.shape[1]:
        return jnp.zeros_like(value), before
    states = jax.lax.associative_scan(jnp.add, jnp.einsum("bnhi,bnhj->bnhij", key, value), axis=1)
    states = states + before[:, None]
    return jnp.einsum("bnhi,bnhij->bnhj", query, states), states[:, -1]


def sum_in_chunks(query, key, value, before: Sums, *, chunk_size: int):
    """Chunks of T positions, see `sum_chunks`; zeros, which add nothing, fill up a length that T does not divide."""
    length = query.shape[1]
    if not length:
        return jnp.zeros_like(value), before
    size = min(chunk_size, length)
    out, after = sum_chunks(_split(query, size), _split(key, size), _split(value, size), before)
    return _join(out, length), after


def sum_chunks(query, key, value, before: Sums):
    """`sum_past` of [B, C, H, T, .]: what came before a chunk through its state, the rest dense and masked.

    The T x T products are computed again in the backward pass instead of kept.
    """
    totals = jnp.einsum("bchti,bchtj->bchij", key, value)
    upto = jax.lax.associative_scan(jnp.add, totals, axis=1) + before[:, None]
    starts = jnp.concatenate([before[:, None], upto[:, :-1]], axis=1)
    return jax.checkpoint(_sum_chunk)(query, key, value, starts), upto[:, -1]


def _sum_chunk(query, key, value, start):
    """All chunks at once, [B, C, H, T, .]: inside a chunk position t sees the positions up to itself."""
    inside = jnp.einsum("bchti,bchsi->bchts", query, key)
    inside = jnp.where(jnp.tri(query.shape[-2], dtype=bool), inside, 0.0)
    past = jnp.einsum("bchti,bchij->bchtj", query, start)
    return past + jnp.einsum("bchts,bchsj->bchtj", inside, value)


def _choose_layout(length: int, chunk_size: int | None):
    """(to the layout that positions are summed in, back again): all steps of a chunked form stay in chunks."""
    if chunk_size is None or length < 2:
        return _as_it_is, _as_it_is
    return partial(_split, size=min(chunk_size, length)), partial(_join, length=length)


def _as_it_is(sequence):
    return sequence


def _split(sequence, size):
    """[B, N, H, I] to [B, C, H, T, I], filled up with zeros."""
    batch, length, num_heads, width = sequence.shape
    sequence = jnp.pad(sequence, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
    return jnp.moveaxis(sequence.reshape(batch, -1, size, num_heads, width), 3, 2)


def _join(chunks, length):
    """[B, C, H, T, I] back to [B, N, H, I], without what filled it up."""
    chunks = jnp.moveaxis(chunks, 2, 3)
    return chunks.reshape(chunks.shape[0], -1, *chunks.shape[3:])[:, :length]


ON_ONE_DEVICE = Past(sum_past, count_past)


def run_pieces(
    function: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    pieces: list[Any],
    *,
    gradient_pieces: int | None = None,
) -> tuple[list[Any], Any]:
    """`function(state, piece) -> (output, state)` over consecutive pieces; the outputs and the last state.

    The paper's "P as running memory", trained by truncated backpropagation: gradients flow from state to state through
    the last `gradient_pieces` pieces, and what those remember of earlier ones is a constant. None: through all.
    """
    if gradient_pieces is not None and gradient_pieces < 1:
        raise ValueError(f"gradient_pieces={gradient_pieces}; give at least 1, or None for all pieces")
    border = 0 if gradient_pieces is None else len(pieces) - gradient_pieces
    outputs = []
    for number, piece in enumerate(pieces):
        if 0 < number == border:
            state = jax.tree.map(jax.lax.stop_gradient, state)
        output, state = function(state, piece)
        outputs.append(output)
    return outputs, state
