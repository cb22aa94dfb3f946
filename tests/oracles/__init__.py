"""Oracles: the paper's equations in NumPy, with plain loops, sharing no code with the package under test.

They compute in float64, or in complex128 when handed complex numbers, which is how `derivative` differentiates them.
"""
