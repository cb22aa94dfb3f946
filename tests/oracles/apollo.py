"""Apollo (arXiv 2009.13586) as the authors of Luna ran it: one tensor, entry by entry, in Python's floats."""

import numpy as np


def run_apollo(param, gradients, rates, *, beta, epsilon, rebound, weight_decay, decay, sigma=0.01):
    """[(p, m, B, d), ...] after each step, for the gradients and learning rates of the steps, all in float64.

    `sigma` counts for the constant rebound alone.
    """
    constant, places = rebound == "constant", range(param.size)
    p = [float(entry) for entry in param.ravel()]
    m, diagonal, d = [0.0] * param.size, [0.0] * param.size, [0.0] * param.size
    steps = []
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        a = (1.0 - beta) / (1.0 - beta**step)
        g = [float(entry) for entry in gradient.ravel()]
        if decay == "l2":
            g = [g[i] + weight_decay * p[i] for i in places]
        delta = [g[i] - m[i] for i in places]
        m = [m[i] + a * delta[i] for i in places]
        norm = sum(abs(entry) ** 4 for entry in d) ** 0.25 + (epsilon / sigma if constant else epsilon)
        v = [entry / norm for entry in d]
        along = sum(delta[i] * v[i] for i in places) / norm
        known = sum(diagonal[i] * v[i] ** 2 for i in places)
        diagonal = [diagonal[i] + v[i] ** 2 * (-a * along - known) for i in places]
        floor, shift = (sigma, 0.0) if constant else (max(abs(entry) for entry in delta), epsilon / a)
        divisor = [max(abs(entry), floor) + shift for entry in diagonal]
        d = [m[i] / divisor[i] for i in places]
        if decay == "decoupled":
            d = [d[i] + weight_decay * p[i] for i in places]
        if decay == "stable":
            mean = sum(divisor) / param.size
            d = [d[i] + weight_decay * p[i] / mean for i in places]
        p = [p[i] - rate * d[i] for i in places]
        steps.append(tuple(np.reshape(array, param.shape) for array in (p, m, diagonal, d)))
    return steps
