"""The one table of tolerances. They follow from the arithmetic, not from what a run happened to give.

float64, float32: the reference's own float32 differs from its float64 by up to 5e-6, so 1e-5 there; the same number
of roundings at 2^-53 would be 1e-14, and 1e-10 leaves room for sums in another order only.
bfloat16 keeps 8 bits: one rounding is at most 2^-9 of the value. A result of an attention or a layer passes through
fewer than 32 roundings in a row (projections, probabilities, sums held in float32, residuals, norms), so at worst
32 * 2^-9 = 2^-4 of the largest entry.
"""

import numpy as np

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2.0**-4}


def assert_close(actual, expected, dtype, *, what=""):
    """Largest absolute difference within the tolerance of `dtype`, relative to max(1, largest expected entry)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if not expected.size:
        return
    bound = TOLERANCE[dtype] * max(1.0, np.abs(expected).max())
    worst = np.abs(actual - expected).max()
    assert worst <= bound, f"{what}: differs by {worst:.3e}, {dtype} allows {bound:.3e}"


def assert_gradient_close(actual, expected, dtype, *, what="", unit=None):
    """Largest difference within the tolerance of `dtype` relative to the largest expected entry.

    A gradient that is zero in exact arithmetic has no size of its own: `unit` is then the size it is held against.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    bound = TOLERANCE[dtype] * (np.abs(expected).max() if unit is None else unit)
    worst = np.abs(actual - expected).max()
    assert worst <= bound, f"{what}: gradient differs by {worst:.3e}, {dtype} allows {bound:.3e}"
