"""How sure a BLEU may be: intervals, and paired tests of two rows, by resampling the sentences of the test set.

BLEU is no mean over sentences, so it is computed again for each resample, from the sums of the sentences' sufficient
statistics (see `bleu`): int [S, E, 10] for a row, S seeds by E sentences. Scores, differences and intervals are percent
of BLEU, as it is always given; p-values are shares. The same arguments give the same numbers, and all rows are
resampled with the same draws of sentences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lra_tasks.bleu import bleu_from_statistics, check_statistics
from lra_tasks.errors import UserError
from lra_tasks.intervals import MAX_LEVEL, Interval, PairedTest, check_seed, check_share, percentiles

RESAMPLES = 4000
AT_ONCE = 250  # resamples; bounds the memory
TIE = 1e-9  # percent: what rounding can make of no difference
BOOTSTRAP = "paired bootstrap over sentences (Koehn 2004)"
RANDOMISATION = "approximate randomisation"


@dataclass(frozen=True)
class BleuTest(PairedTest):
    """Two rows on the same sentences. `p_value`: BOOTSTRAP, two-sided."""

    p_value_randomised: float | None  # RANDOMISATION, two-sided; None for rows with different numbers of seeds


def bleu_interval(statistics: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean BLEU over seeds: int [S, E, 10].

    Seeds and sentences are both drawn with replacement, the sentences for all drawn seeds together; with one seed the
    sentences only. The interval is about new seeds and new sentences, and too narrow where a few seeds differ much:
    see `intervals.accuracy_interval`, which says how much. UserError unless there are a seed and a sentence, the counts
    are possible, and level is in (0, 0.999].
    """
    check_share("level", level, MAX_LEVEL)
    scores, rng = _resample(_check("statistics", statistics), seed)
    return percentiles(_draw_seeds(scores, rng), level)


def compare_bleu(first: np.ndarray, second: np.ndarray, *, level: float = 0.95, seed: int = 0) -> BleuTest:
    """Difference of the mean BLEU of two rows on the same sentences: int [S1, E, 10] and int [S2, E, 10].

    The p-value is about these trained models on the population of sentences: twice the share of resampled test sets on
    which the row that is better on the whole one is not, at most 1 (Koehn 2004), counting the real one among them. So
    it is never below 2 / (RESAMPLES + 1). It says nothing about training again.

    `p_value_randomised`: for each sentence a coin decides whether the two rows, all seeds of each at once, exchange
    their translations; the share of such exchanges with a difference at least as large as the real one (Noreen 1989;
    Riezler and Maxwell 2005).

    The interval does include the variation of seeds: those of each row are drawn independently, the sentences jointly.
    So it may hold zero where the p-value is small; go by the interval when the claim is about mechanisms. Swapping the
    rows changes signs only.

    UserError unless both are int [seeds, sentences, 10], not empty, and of the same references in the same order.
    """
    check_share("level", level, MAX_LEVEL)
    first, second = _check("first", first), _check("second", second)
    if first.shape[1] != second.shape[1] or (first[0, :, 1] != second[0, :, 1]).any():
        raise UserError(
            f"first has {first.shape[1]} sentences, second {second.shape[1]}, or their references differ: a paired "
            "test needs the same sentences in the same order; compare records of one task and version"
        )
    difference = float(_mean_bleu(first.sum(axis=1)) - _mean_bleu(second.sum(axis=1)))
    if difference < 0:
        other = compare_bleu(second, first, level=level, seed=seed)
        interval = Interval(0.0 - other.interval.high, 0.0 - other.interval.low)
        return BleuTest(difference, interval, other.p_value, BOOTSTRAP, other.p_value_randomised)
    scores, rng = _resample(np.concatenate([first, second]), seed)
    ours, theirs = scores[:, : len(first)], scores[:, len(first) :]
    not_better = int((ours.mean(axis=1) - theirs.mean(axis=1) <= TIE).sum())
    p_value = min(1.0, 2 * (not_better + 1) / (RESAMPLES + 1))
    interval = percentiles(_draw_seeds(ours, rng) - _draw_seeds(theirs, rng), level)
    randomised = _randomise(first, second, difference, seed) if len(first) == len(second) else None
    return BleuTest(difference, interval, p_value, BOOTSTRAP, randomised)


def _mean_bleu(sums: np.ndarray) -> np.ndarray:
    """Sums of statistics [..., S, 10] -> mean BLEU over seeds [...]."""
    return bleu_from_statistics(sums).mean(axis=-1)


def _resample(statistics: np.ndarray, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """BLEU of each model on resampled sentences, the same for all: int [S, E, 10] -> [RESAMPLES, S]; the generator."""
    rng = np.random.default_rng(check_seed(seed))
    size = statistics.shape[1]

    def draw(number: int) -> np.ndarray:
        chosen = rng.integers(size, size=(number, size)) + size * np.arange(number)[:, None]
        return np.bincount(chosen.ravel(), minlength=number * size).reshape(number, size)

    sums = [_sum_weighted(draw(number), statistics) for number in _portions()]
    return bleu_from_statistics(np.concatenate(sums)), rng


def _portions() -> Iterator[int]:
    for start in range(0, RESAMPLES, AT_ONCE):
        yield min(AT_ONCE, RESAMPLES - start)


def _sum_weighted(weights: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Whole weights [R, E] of the sentences in int [S, E, 10] -> sums [R, S, 10]."""
    flat = np.swapaxes(statistics, 0, 1).reshape(statistics.shape[1], -1)
    product = weights.astype(np.float64) @ flat.astype(np.float64)  # whole numbers, exact; many times faster than int
    return product.reshape(len(weights), *statistics.shape[::2])


def _draw_seeds(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over seeds drawn with replacement: [R, S] -> [R]."""
    size = scores.shape[1]
    return (scores * rng.multinomial(size, np.full(size, 1 / size), len(scores))).sum(axis=1) / size


def _randomise(first: np.ndarray, second: np.ndarray, difference: float, seed: int) -> float:
    """Two-sided p-value of RANDOMISATION for rows [S, E, 10] whose mean BLEU differs by `difference`."""
    rng = np.random.default_rng(seed)
    sums, other_sums = first.sum(axis=1), second.sum(axis=1)
    reached = 1  # the real one
    for number in _portions():
        exchanged = rng.integers(2, size=(number, first.shape[1]))
        moved = _sum_weighted(exchanged, second - first)
        differences = _mean_bleu(sums + moved) - _mean_bleu(other_sums - moved)
        reached += int((np.abs(differences) >= difference - TIE).sum())
    return reached / (RESAMPLES + 1)


def _check(name: str, statistics: np.ndarray) -> np.ndarray:
    statistics = np.asarray(statistics)
    if statistics.ndim != 3 or 0 in statistics.shape:
        raise UserError(f"{name} is {statistics.dtype} of shape {statistics.shape}: give int [seeds, sentences, 10]")
    checked = np.stack([check_statistics(one) for one in statistics])
    if (checked[:, :, 1] != checked[0, :, 1]).any():
        raise UserError(f"{name}: its seeds have different references; all must translate the same sentences, in order")
    return checked
