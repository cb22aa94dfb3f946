"""Derivatives of an oracle by the complex step: f(x + i h v).imag / h, exact to rounding because nothing cancels."""

import numpy as np

STEP = 1e-30


def map_arrays(function, *trees):
    """Apply `function` to the arrays at the same place of nested dicts, lists and tuples."""
    if isinstance(trees[0], dict):
        return {name: map_arrays(function, *(tree[name] for tree in trees)) for name in trees[0]}
    if isinstance(trees[0], list | tuple):
        return [map_arrays(function, *parts) for parts in zip(*trees, strict=True)]
    return function(*trees)


def list_arrays(tree, path=()):
    """(path, array) of every array of nested dicts and lists; a path is a tuple of names and indices."""
    if isinstance(tree, dict):
        return [item for name in sorted(tree) for item in list_arrays(tree[name], (*path, name))]
    if isinstance(tree, list | tuple):
        return [item for index, part in enumerate(tree) for item in list_arrays(part, (*path, index))]
    return [(path, np.asarray(tree))]


def replace_at(tree, path, value):
    """`tree` with the array at `path` replaced; the rest is shared."""
    if not path:
        return value
    if isinstance(tree, dict):
        return {**tree, path[0]: replace_at(tree[path[0]], path[1:], value)}
    parts = list(tree)
    parts[path[0]] = replace_at(parts[path[0]], path[1:], value)
    return parts


def differentiate(function, tree, path, direction):
    """Derivative of the scalar function(tree) when the array at `path` moves along `direction`."""
    array = dict(list_arrays(tree))[path]
    return function(replace_at(tree, path, array + 1j * STEP * direction)).imag / STEP


def differentiate_all(function, tree, directions):
    """Derivative of the scalar function(tree) when every array moves along the direction at its place."""
    return function(map_arrays(lambda array, direction: array + 1j * STEP * direction, tree, directions)).imag / STEP
