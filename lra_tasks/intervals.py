"""How sure a table may be: intervals of an accuracy, paired tests of two rows, and which runs learnt nothing.

All rows of a table are scored on the same test examples, several seeds a row, so correctness is a crossed design: bool
[seeds, examples]. Accuracies, differences and intervals are percent; levels and p-values are shares. Nothing depends on
the order of the examples, and the same arguments give the same numbers. Resampling 25,000 examples is cheap because
examples with the same pattern over the seeds are drawn together, by a multinomial.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lra_tasks.errors import UserError

RESAMPLES = 20_000
MAX_LEVEL = 0.999  # leaves ten resamples in each tail


@dataclass(frozen=True)
class Interval:
    """Lower and upper end, in percent (of a difference: percentage points)."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Two rows on the same examples. `difference` and `interval`: first minus second, in percentage points."""

    difference: float
    interval: Interval
    p_value: float  # two-sided, for one comparison; see holm for many
    method: str  # what the p-value comes from, such as "exact McNemar test"


def accuracy_interval(correct: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval, in percent, of the mean accuracy: bool [S, E], S seeds by E examples.

    Seeds and examples are both drawn with replacement (the pigeonhole bootstrap: McCullagh 2000, Owen 2007), so that
    the interval is about new seeds and new examples together. With one seed only examples are drawn: the interval is
    then about this one trained model and says nothing about training again.

    Few seeds are a weak basis: three have 10 distinct resamples, and the bootstrap sees (S - 1) / S of their variance.
    Where seeds differ by more than the examples' sampling error the interval is therefore too narrow: in simulated runs
    on 25,000 examples with seeds 3 points apart (sd), intervals of 95 % held the true mean in 59, 75, 85 and 93 % of
    cases with 2, 3, 5 and 10 seeds. Read `seed_interval` there. Where seeds hardly differ, the chance part of each
    answer is counted more than once, and the interval is somewhat too wide (98 % of cases).

    UserError unless `correct` is bool [S, E], neither empty, and level in (0, 0.999].
    """
    check_share("level", level, MAX_LEVEL)
    correct = _check_correct("correct", correct)
    num_seeds, num_examples = correct.shape
    totals = _resample_totals(correct.astype(np.int64), [num_seeds], seed)
    return percentiles(totals * (100 / (num_seeds * num_examples)), level)


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student t interval of the mean over seeds: mean ± t(n - 1) sd / sqrt(n). None for one value, which has no spread.

    `values`: one accuracy a seed, in percent [n]. It is about new seeds on these very examples, for values that are
    roughly normal. Right for few seeds that differ, where `accuracy_interval` is too narrow, but wide (n = 3: mean ±
    2.5 sd); it knows nothing of the sampling error of examples that all seeds share, so with like seeds on a small test
    split the bootstrap is the one to read. Values that are all the same give an interval without width. The ends are
    not cut at 0 and 100. UserError unless values are finite, at least one, and level in (0, 0.999].
    """
    from scipy import stats

    check_share("level", level, MAX_LEVEL)
    accuracies = np.asarray(values, dtype=np.float64)
    if accuracies.ndim != 1 or not accuracies.size or not np.isfinite(accuracies).all():
        raise UserError(f"values = {values!r}: must be finite accuracies, one a seed; leave out runs without one")
    if accuracies.size == 1:
        return None
    mean = float(accuracies.mean())
    error = accuracies.std(ddof=1) / math.sqrt(accuracies.size)
    reach = float(stats.t.ppf((1 + level) / 2, accuracies.size - 1) * error)
    return Interval(mean - reach, mean + reach)


def compare(first: np.ndarray, second: np.ndarray, *, level: float = 0.95, seed: int = 0) -> PairedTest:
    """Difference of the mean accuracies of two rows on the same examples: bool [S1, E] and bool [S2, E].

    The p-value is about these trained models on the population of examples: could they be equally good, and the
    difference be due to which examples the test split has? One seed each: McNemar's exact test on the examples where
    the two disagree. Otherwise: the sign-flip permutation test over examples (Fisher-Pitman, all 2^E sign patterns, not
    a sample of them) of each example's difference in mean correctness; with S1 = S2 = 1 it would be McNemar's. It is
    exact for equal numbers of exchangeable models and holds approximately, for many examples, where S1 and S2 differ.
    It says nothing about training again: two seeds of one row can differ significantly. Without any difference p is 1.

    The interval does include the variation of seeds: those of each row are drawn independently, the examples jointly,
    with the limits of `accuracy_interval`. So it may hold zero where the p-value is small; go by the interval when
    the claim is about mechanisms. Swapping the rows changes signs only (but where the difference is zero, the draws).

    UserError unless both are bool [seeds, examples], not empty, over as many examples, and level in (0, 0.999].
    """
    check_share("level", level, MAX_LEVEL)
    first, second = _check_correct("first", first), _check_correct("second", second)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"first has {first.shape[1]} examples, second {second.shape[1]}: a paired test needs the same examples in "
            "the same order; compare records of one task and version"
        )
    scale = math.lcm(len(first), len(second))  # whole numbers: row means x scale
    rows = np.concatenate([first * (scale // len(first)), second * -(scale // len(second))]).astype(np.int64)
    differences = rows.sum(axis=0)
    total = int(differences.sum())
    if total < 0:
        other = compare(second, first, level=level, seed=seed)
        interval = Interval(0.0 - other.interval.high, 0.0 - other.interval.low)
        return PairedTest(-other.difference, interval, other.p_value, other.method)
    to_percent = 100 / (scale * differences.size)
    interval = percentiles(_resample_totals(rows, [len(first), len(second)], seed) * to_percent, level)
    if len(first) == len(second) == 1:
        p_value, method = _mcnemar(differences), "exact McNemar test"
    else:
        p_value, method = _sign_flip(differences), "sign-flip permutation test over examples"
    return PairedTest(total * to_percent, interval, p_value, method)


def is_collapsed(num_correct: int, num_examples: int, chance: float, *, level: float = 0.01) -> bool:
    """Whether a run is not shown to be better than one constant answer, on the test split.

    One-sided exact binomial test against `chance`, the share of the most frequent label; collapsed where its p-value is
    above `level` (of significance: small). On few examples a run that learnt a little is called collapsed too.
    UserError unless 0 <= num_correct <= num_examples and 1 <= num_examples are whole, chance is in (0, 1] and level in
    (0, 0.999].
    """
    from scipy import stats

    for name, count, low in (("num_examples", num_examples, 1), ("num_correct", num_correct, 0)):
        if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < low:
            raise UserError(f"{name} = {count!r}: must be a whole number of at least {low}")
    if num_correct > num_examples:
        raise UserError(f"num_correct = {num_correct}: must not be above num_examples = {num_examples}")
    check_share("chance", chance, 1.0)
    check_share("level", level, MAX_LEVEL)
    test = stats.binomtest(int(num_correct), int(num_examples), float(chance), alternative="greater")
    return bool(test.pvalue > level)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values, in the order given: those up to a hold the family-wise error at a, however dependent.

    The k-th smallest of n becomes the largest of (n - j + 1) p_j over j <= k, at most 1. UserError unless all are in
    [0, 1]; none give none.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"p_values = {p_values!r}: must be a list of numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return tuple(adjusted.tolist())


def _resample_totals(rows: np.ndarray, blocks: list[int], seed: int) -> np.ndarray:
    """Sums of int [S, E] over its entries, rows and columns drawn with replacement: int [RESAMPLES].

    `blocks`: how many rows, from the top, are drawn among themselves. Exact and in any order: what a drawn set of rows
    gives for each column is tabulated, then how many of the E drawn columns give each value is multinomial.
    """
    rng = np.random.default_rng(check_seed(seed))
    patterns, counts = np.unique(rows, axis=1, return_counts=True)
    drawn = np.concatenate([rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in blocks], axis=1)
    patterns = patterns.astype(np.float64)  # whole numbers all the same; a product of floats is many times faster
    parts = []
    for weights, times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        values = (weights @ patterns).astype(np.int64)
        tally = np.bincount(values - values.min(), weights=counts)
        columns = rng.multinomial(rows.shape[1], tally / rows.shape[1], int(times))
        parts.append(columns @ (np.arange(tally.size) + values.min()))
    return np.concatenate(parts)


def percentiles(values: np.ndarray, level: float) -> Interval:
    """What all but (1 - level) of the values lie in, with half of these on either side."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _mcnemar(differences: np.ndarray) -> float:
    """Two-sided p-value of the signs of int [E], zeros left out."""
    from scipy import stats

    positive, discordant = int((differences > 0).sum()), int((differences != 0).sum())
    return float(stats.binomtest(positive, discordant, 0.5).pvalue) if discordant else 1.0


def _sign_flip(differences: np.ndarray) -> float:
    """P(|sum of ±d| >= |sum of d|) over all 2^E equally likely choices of signs, for int [E].

    With n_v examples of size v, the sum of those with a plus, W, is a sum of v Binomial(n_v, 1/2), and the p-value is
    2 P(W >= w). Its distribution comes from the product of characteristic functions by one Fourier transform, tilted by
    exp(s W) so that w is the mean: then a tail of 1e-100 has as many right digits as one of 0.1.
    """
    from scipy import fft, optimize, special

    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not sizes.size or not differences.sum():
        return 1.0
    step = int(np.gcd.reduce(sizes))
    sizes = sizes // step
    largest = int(sizes @ counts)
    reached = (largest + abs(int(differences.sum())) // step) // 2
    root = optimize.brentq(lambda s: float((counts * sizes) @ special.expit(s * sizes)) - reached, 0.0, 50.0)
    tilt = float(root)  # pyrefly: ignore
    length = fft.next_fast_len(largest + 1, real=True)
    angles = np.arange(length // 2 + 1) * (2 * np.pi / length)
    product = np.ones(angles.size, dtype=np.complex128)
    for size, count, plus in zip(sizes, counts, special.expit(tilt * sizes), strict=True):
        product *= (1 - plus + plus * np.exp(-1j * size * angles)) ** int(count)
    tail = fft.irfft(product, length)[reached : largest + 1]
    log_mass = float(counts @ (np.logaddexp(0.0, tilt * sizes) - math.log(2))) - tilt * reached
    return min(1.0, 2 * math.exp(log_mass) * float(tail @ np.exp(-tilt * np.arange(tail.size))))


def _check_correct(name: str, correct: np.ndarray) -> np.ndarray:
    correct = np.asarray(correct)
    if correct.dtype != np.bool_ or correct.ndim != 2 or 0 in correct.shape:
        raise UserError(f"{name} is {correct.dtype} of shape {correct.shape}: give bool [seeds, examples], not empty")
    return correct


def check_seed(seed: int) -> int:
    """The seed of a resampling. UserError unless it is a whole number of at least 0."""
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed = {seed!r}: must be a whole number of at least 0")
    return int(seed)


def check_share(name: str, value: float, highest: float) -> None:
    """UserError unless the value is in (0, highest]."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value <= highest:
        raise UserError(f"{name} = {value!r}: must be a share above 0 and at most {highest:g}")
