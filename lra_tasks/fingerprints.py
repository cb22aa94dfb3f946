"""Fingerprints of arrays: what was read back is what was written, wherever its parts lie.

A file system may lose or change what a finished checkpoint holds, and a changed number is still a number. The
fingerprint is a sum of integers, so it does not depend on the order of summing, hence not on the number of devices.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
ODD_STEPS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
"""Large odd numbers, one an axis: neighbours get unlike weights, so that two that change places are noticed."""


def sum_words(array: jax.Array) -> jax.Array:
    """sum of bits times odd weights by position, modulo 2^32."""
    words = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    words = jax.lax.bitcast_convert_type(words, WORDS[words.dtype.itemsize])
    if words.dtype == jnp.uint64:
        words = words ^ (words >> 32)
    weights = jnp.ones(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        step = jnp.uint32(2 * (ODD_STEPS[axis % len(ODD_STEPS)] // 2 + axis))
        weights = weights + step * jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words.astype(jnp.uint32) * weights, dtype=jnp.uint32)


@jax.jit
def _sum_all(leaves: list[jax.Array]) -> list[jax.Array]:
    return [sum_words(leaf) for leaf in leaves]


def take_fingerprints(tree: Any) -> dict[str, int]:
    """Path of each array to its fingerprint. Waits for the arrays."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    sums = jax.device_get(_sum_all(list(leaves)))
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path in paths)
    return {name: int(one) for name, one in zip(names, sums, strict=True)}


def list_copies(tree: Any) -> dict[str, list[int]]:
    """Path and place of each part of an array on this host, to the checksums of its copies: one, if they agree."""
    found: dict[str, set[int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for shard in leaf.addressable_shards:
            place = [one.indices(size)[:2] for one, size in zip(shard.index, leaf.shape, strict=True)]
            checksum = zlib.crc32(np.ascontiguousarray(shard.data).tobytes())
            found.setdefault(f"{name} {place}", set()).add(checksum)
    return {key: sorted(checksums) for key, checksums in found.items()}
