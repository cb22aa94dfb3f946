"""Luna over sequences that are split across devices: traffic that does not grow with the length.

Device d of P holds N / P positions in a row. Softmax attention of N queries to M positions would have to move keys and
values past every device. What crosses between devices here:

    pack     the scores' maximum [B, H, L] and, of exp(scores - maximum), the sums with and without V: L rows
    unpack   nothing: every device has the packed sequence, and queries are its own
    causal   the sum of k_s v_s^T over a device's positions, [B, H, K, L], and how many of them are real

    Y_P = sum_d E_d V_d / sum_d E_d 1       E_d = exp(Q K_d^T - max over all devices)      (merged by log-sum-exp)

Gradients need as much again, and nothing that has N in its shape. Everything else of a layer acts on positions alone
and stays where it is. The functions are `jax.shard_map` over the one axis: others of the mesh, over which a batch or
heads are split, stay with the compiler. Sequences come in with N or M divided by P, filled up with masked positions.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Float, Int, Shaped

from luna_jax.axes import Array, ContextHeads, ContextMask, Heads, SequenceMask
from luna_jax.causal import Past, Sums, count_past, sum_past
from luna_jax.ops import sinusoid_table

TABLE_ROWS = 1024
"""Positions in one of the two tables whose products are sinusoids: 2 x 1,024 rows reach a million positions."""


@dataclass(frozen=True)
class SequenceSplit:
    """Sequences are cut into equal parts in a row, one for each device along `axis` of the mesh."""

    mesh: Mesh
    axis: str

    def __post_init__(self):
        names = self.mesh.axis_names
        if self.axis not in names:
            raise ValueError(f"axis={self.axis!r} is none of the mesh's; choices: {', '.join(map(str, names))}")
        if any(kind != AxisType.Auto for kind in self.mesh.axis_types):
            raise ValueError(
                f"axis_types={self.mesh.axis_types}; make the mesh with axis_types=(AxisType.Auto,) * {len(names)}"
            )

    @property
    def num_parts(self) -> int:
        """P, devices along the axis."""
        return self.mesh.shape[self.axis]

    def fill_up(self, length: int) -> int:
        """The least length from `length` on that P divides."""
        return length + -length % self.num_parts

    def check_length(self, length: int, name: str) -> None:
        """ValueError for a length that P does not divide."""
        if length % self.num_parts:
            raise ValueError(
                f"{name} has {length} positions, which do not divide over the {self.num_parts} parts of mesh axis "
                f"{self.axis!r}; fill it up with masked positions to {self.fill_up(length)}"
            )

    def place(self, x: Shaped[Array, "..."], at: int) -> Array:
        """x with its axis number `at` split, under `jax.jit`; how other axes lie is left open."""
        return self._constrain(x, at, self.axis)

    def gather(self, x: Shaped[Array, "..."], at: int) -> Array:
        """x whole along its axis number `at` on every device of the split."""
        return self._constrain(x, at, None)

    def _constrain(self, x, at, axis):
        spec = [axis if number == at else Spec.UNCONSTRAINED for number in range(x.ndim)]
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, Spec(*spec)))

    def map(self, function, in_specs, out_specs):
        """`function` on every device's own part, with this one axis of the mesh in its hands."""
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=frozenset({self.axis})
        )
        return jax.jit(mapped)


def pack_split(
    query: Heads,
    key: ContextHeads,
    value: ContextHeads,
    mask: ContextMask | None,
    split: SequenceSplit,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Heads:
    """`luna_jax.ops.attend` to a context that is split: softmax(query key^T) value, per head.

    query [B, L, H, K], already scaled, and the result are whole on every device; key, value [B, M, H, K] and mask
    [B, M] are split along M, which P must divide. A row with nothing to attend is zeros and has a zero gradient.
    Dropout falls on the probabilities, by the draws of `attend`: each device makes its own part of them.
    """
    split.check_length(key.shape[1], "the context")
    kept = None
    if dropout_key is not None and dropout_rate:
        shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
        kept = split.place(jax.random.bernoulli(dropout_key, 1.0 - dropout_rate, shape), 3)
    part, last = Spec(None, split.axis), Spec(None, None, None, split.axis)
    pack = partial(_pack_part, axis=split.axis, dtype=query.dtype, dropout_rate=dropout_rate)
    query = query.astype(jnp.promote_types(query.dtype, jnp.float32))
    return split.map(pack, (Spec(), part, part, part, last), Spec())(query, key, value, mask, kept)


def _pack_part(query, key, value, mask, kept, *, axis, dtype, dropout_rate):
    """One device's share of the context, and what all of them make of it."""
    # to each device its copy before the cast, so that the gradients of the copies are summed in float32
    query = jax.lax.pcast(query, axis, to="varying")
    scores = jnp.einsum("bnhk,bmhk->bhnm", query.astype(dtype), key, preferred_element_type=query.dtype)
    if mask is not None:
        mask = mask[:, None, None, :]
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # any number serves as the maximum, so it has no gradient; it is finite where all of a part is masked
    most = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)), axis)
    weights = jnp.exp(scores - most)
    if mask is not None:
        weights = jnp.where(mask, weights, 0.0)
    total = jnp.sum(weights, axis=-1)
    if kept is not None:
        weights = jnp.where(kept, weights / (1.0 - dropout_rate), 0.0)
    packed = jnp.einsum("bhnm,bmhk->bnhk", weights.astype(value.dtype), value, preferred_element_type=total.dtype)
    packed, total = jax.lax.psum((packed, total), axis)
    total = jnp.moveaxis(jnp.where(total > 0.0, total, 1.0), 1, 2)[..., None]
    return (packed / total).astype(value.dtype)


def split_past(split: SequenceSplit) -> Past:
    """How `luna_jax.causal.attend_causally` sums and counts a past that is split."""
    return Past(partial(sum_past_split, split=split), partial(count_past_split, split=split))


def sum_past_split(
    query: Float[Array, "B N H I"],
    key: Float[Array, "B N H I"],
    value: Float[Array, "B N H J"],
    before: Sums,
    *,
    chunk_size: int | None,
    split: SequenceSplit,
) -> tuple[Float[Array, "B N H J"], Sums]:
    """`luna_jax.causal.sum_past` along an N that is split, which P must divide.

    A device sums its own k_s v_s^T, adds those of the devices before it to `before`, and then goes through its
    positions in chunks. `before` and the sum at the end are whole on every device: states go in and out as ever.
    """
    split.check_length(query.shape[1], "a causal sequence")

    def run(query, key, value, before):
        own = jnp.einsum("bnhi,bnhj->bhij", key, value)
        out, _ = sum_past(query, key, value, before + _sum_earlier(own, split.axis), chunk_size=chunk_size)
        return out, before + jax.lax.psum(own, split.axis)

    part = Spec(None, split.axis)
    return split.map(run, (part, part, part, Spec()), (part, Spec()))(query, key, value, before)


def count_past_split(
    real: SequenceMask, before: Int[Array, "B"], *, split: SequenceSplit
) -> tuple[Int[Array, "B N"], Int[Array, "B"]]:
    """`luna_jax.causal.count_past` along an N that is split."""
    split.check_length(real.shape[1], "a causal sequence")

    def run(real, before):
        own = jnp.sum(real, axis=1, dtype=jnp.int32)
        counts, _ = count_past(real, before + _sum_earlier(own, split.axis))
        return counts, before + jax.lax.psum(own, split.axis)

    part = Spec(None, split.axis)
    return split.map(run, (part, Spec()), (part, Spec()))(real, before)


def _sum_earlier(own: Array, axis: str) -> Array:
    """The sum over the devices before this one."""
    parts = jax.lax.all_gather(own, axis)
    is_earlier = jnp.arange(parts.shape[0]) < jax.lax.axis_index(axis)
    return jnp.sum(parts, axis=0, where=is_earlier.reshape(-1, *(1,) * own.ndim), dtype=own.dtype)


def make_split_sinusoids(first: int, length: int, width: int, split: SequenceSplit) -> Float[Array, "N D"]:
    """Rows `first` to `first + length` of `luna_jax.ops.sinusoid_table`, made where they are used.

    The table itself would be a constant of N D numbers in the program of every device. Two small ones in float64 do:
    with n = 1,024 i + j the sinusoids of n are those of the sum of two angles.
    """
    table = sinusoid_table(first + TABLE_ROWS + 1, width)
    half = width // 2
    turns = table[:, half : 2 * half] + 1j * table[:, :half]
    coarse = turns[TABLE_ROWS] ** np.arange(-(-length // TABLE_ROWS))[:, None]
    position = split.place(jnp.arange(length), 0)

    def look_up(angles, index):
        dtype = jnp.result_type(float)
        return jnp.asarray(angles.real, dtype)[index], jnp.asarray(angles.imag, dtype)[index]

    cosine, sine = look_up(coarse, position // TABLE_ROWS)
    fine_cosine, fine_sine = look_up(turns[first : first + TABLE_ROWS], position % TABLE_ROWS)
    sines = sine * fine_cosine + cosine * fine_sine
    cosines = cosine * fine_cosine - sine * fine_sine
    return jnp.concatenate([sines, cosines, jnp.zeros((length, width % 2), sines.dtype)], axis=1)
