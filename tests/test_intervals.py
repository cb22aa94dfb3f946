"""Intervals and tests against SciPy, statsmodels and enumeration; that they cover, and what they say at the edges."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from lra_tasks import intervals
from lra_tasks.errors import UserError
from lra_tasks.intervals import Interval, accuracy_interval, compare, holm, is_collapsed, seed_interval


def make_correct(seeds, examples, mean=0.5, seed_sd=0.1, seed=0, difficulty=None):
    """bool [seeds, examples]: right where ability + luck > difficulty; without one, the same for every call."""
    rng = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).normal(size=examples) if difficulty is None else difficulty
    ability = mean + seed_sd * rng.normal(size=(seeds, 1))
    return ability - difficulty + rng.normal(size=(seeds, examples)) > 0


def exact_bootstrap_distribution(blocks):
    """All resamples of small rows: {percent: probability}; blocks [(sign, bool [S, E])] share the examples drawn."""
    examples = blocks[0][1].shape[1]
    mass = Counter()
    draws = [list(itertools.product(range(len(block)), repeat=len(block))) for _, block in blocks]
    for rows in itertools.product(*draws):
        score = sum(sign * block[list(drawn)].mean(axis=0) for (sign, block), drawn in zip(blocks, rows, strict=True))
        for columns in itertools.product(range(examples), repeat=examples):
            mass[round(100 * float(score[list(columns)].mean()), 7)] += 1
    return {value: count / mass.total() for value, count in mass.items()}


def assert_quantiles(interval, distribution, level):
    """Each end is a quantile of {percent: probability} to within the noise of the resampling."""
    noise = 5 * math.sqrt(level * (1 - level) / intervals.RESAMPLES)
    for end, share in ((interval.low, (1 - level) / 2), (interval.high, (1 + level) / 2)):
        below = sum(mass for value, mass in distribution.items() if value < end - 1e-6)
        up_to = sum(mass for value, mass in distribution.items() if value <= end + 1e-6)
        assert below - noise <= share <= up_to + noise


@pytest.mark.parametrize(("right", "examples", "level"), [(150, 400, 0.95), (1234, 2000, 0.9), (39, 40, 0.99)])
def test_one_seed_is_the_bootstrap_of_scipy_and_the_binomial(right, examples, level):
    correct = np.arange(examples)[None] < right
    found = accuracy_interval(correct, level=level)
    one = 100 / examples
    binomial = stats.binom.ppf([(1 - level) / 2, (1 + level) / 2], examples, right / examples) * one
    theirs = stats.bootstrap(
        (correct[0],), np.mean, confidence_level=level, method="percentile", n_resamples=9999, rng=1
    ).confidence_interval
    room = one + 0.04 * (binomial[1] - binomial[0])
    np.testing.assert_allclose([found.low, found.high], binomial, atol=room)
    np.testing.assert_allclose([found.low, found.high], 100 * np.array(theirs), atol=room)


def test_seeds_and_examples_are_both_drawn():
    """The distribution of all 3^3 x 4^4 resamples; rows apart, so that drawing examples only would be far narrower."""
    correct = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    distribution = exact_bootstrap_distribution([(1, correct)])
    for level in (0.5, 0.8, 0.95):
        assert_quantiles(accuracy_interval(correct, level=level), distribution, level)


def test_many_seeds_against_plain_resampling():
    """Five seeds, patterns of them drawn together, against indexing with drawn rows and columns."""
    correct = make_correct(5, 300, seed_sd=0.3)
    rng = np.random.default_rng(5)
    plain = [correct[np.ix_(rng.integers(5, size=5), rng.integers(300, size=300))].mean() * 100 for _ in range(4000)]
    found = accuracy_interval(correct)
    width = found.high - found.low
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.06 * width)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 50), (4, 50)])
@pytest.mark.parametrize("right", [False, True])
def test_all_right_or_all_wrong_leaves_no_width(shape, right):
    assert accuracy_interval(np.full(shape, right)) == Interval(100.0 * right, 100.0 * right)


def test_the_interval_covers(monkeypatch):
    """Share of 150 draws of seeds and examples that hold the true mean: 95 %, less where few seeds differ much."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    rng = np.random.default_rng(8)

    def coverage(seeds, sd):
        true = 100 * stats.norm.cdf(0.5 / math.sqrt(2 + sd**2))
        hits = 0
        for trial in range(150):
            correct = make_correct(seeds, 500, 0.5, sd, seed=trial, difficulty=rng.normal(size=500))
            found = accuracy_interval(correct)
            hits += found.low <= true <= found.high
        return hits / 150

    assert 0.9 <= coverage(1, 0.0) <= 0.985  # standard error of each: 0.018
    assert 0.94 <= coverage(3, 0.05) <= 1.0
    assert 0.6 <= coverage(3, 1.0) <= 0.87  # as the docstring warns: 75 % where seeds dominate


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("values", [(60.0, 70.0), (64.2, 65.0, 63.1), tuple(np.linspace(30, 50, 10))])
def test_seed_interval_is_student_t(values, level):
    from statsmodels.stats.weightstats import DescrStatsW

    found = seed_interval(values, level)
    expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
    np.testing.assert_allclose(expected, DescrStatsW(values).tconfint_mean(alpha=1 - level), rtol=1e-9)


def test_seed_interval_at_the_edges():
    assert seed_interval([64.2]) is None
    assert seed_interval([50.0, 50.0, 50.0]) == Interval(50.0, 50.0)


@pytest.mark.parametrize("seed", range(4))
def test_one_seed_each_is_exact_mcnemar(seed):
    from statsmodels.stats.contingency_tables import mcnemar

    first, second = make_correct(1, 200, 0.7, seed=seed), make_correct(1, 200, 0.4, seed=seed + 10)
    table = [[np.sum((first == a) & (second == b)) for b in (True, False)] for a in (True, False)]
    found = compare(first, second)
    assert found.method == "exact McNemar test"
    assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert found.difference == pytest.approx(100 * (first.mean() - second.mean()))
    assert intervals._sign_flip(first[0].astype(int) - second[0]) == pytest.approx(found.p_value, rel=1e-9)


@pytest.mark.parametrize(("first_seeds", "second_seeds"), [(3, 3), (2, 3), (1, 4), (5, 2)])
def test_several_seeds_is_the_permutation_test_of_scipy(first_seeds, second_seeds):
    """All 2^12 sign patterns, which SciPy runs through one by one."""
    first, second = make_correct(first_seeds, 12, 0.9, seed=3), make_correct(second_seeds, 12, -0.2, seed=4)
    # whole numbers, so that no two equal sums differ by rounding
    whole = first.sum(axis=0) * second_seeds, second.sum(axis=0) * first_seeds
    theirs = stats.permutation_test(
        whole, lambda x, y: np.sum(x - y), permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    found = compare(first, second)
    assert found.method == "sign-flip permutation test over examples"
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.difference == pytest.approx(100 * (first.mean() - second.mean()))


@pytest.mark.parametrize(
    "counts",  # {difference: how many examples}
    [{1: 40, -1: 10}, {1: 300, -1: 280, 2: 60, -2: 50, 3: 9}, {4: 200, -6: 100, 10: 30}, {1: 900, 3: 60}, {2: 1}],
)
def test_sign_flip_has_right_tails_however_small(counts):
    """Against products of polynomials in Python's whole numbers, which lose nothing: 2^-959 is right too."""
    differences = np.repeat(list(counts), list(counts.values()))
    ways = np.array([1], object)  # [w]: how many sign patterns give the plus signs a sum of w
    for size, number in Counter(abs(differences).tolist()).items():
        steps = np.zeros(size * number + 1, object)
        steps[::size] = [math.comb(number, k) for k in range(number + 1)]
        ways = np.convolve(ways, steps)
    sums = 2 * np.arange(ways.size) - abs(differences).sum()
    extreme = sum(ways[abs(sums) >= abs(differences.sum())])
    assert intervals._sign_flip(differences) == pytest.approx(extreme / 2**differences.size, rel=1e-8, abs=0)
    assert intervals._sign_flip(-differences) == intervals._sign_flip(differences)


def test_seeds_apart_and_examples_together_are_drawn():
    """The distribution of all resamples of two rows on the same examples."""
    first, second = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool), np.array([[1, 0, 0, 0], [0, 0, 1, 0]], bool)
    distribution = exact_bootstrap_distribution([(1, first), (-1, second)])
    for level in (0.5, 0.8, 0.95):
        assert_quantiles(compare(first, second, level=level).interval, distribution, level)


def test_one_seed_interval_is_the_paired_bootstrap_of_scipy():
    first, second = make_correct(1, 400, 0.7, seed=1), make_correct(1, 400, 0.3, seed=2)
    theirs = stats.bootstrap(
        (first[0], second[0]), lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis), paired=True, method="percentile",
        n_resamples=9999, rng=3,
    ).confidence_interval  # fmt: skip
    found = compare(first, second).interval
    np.testing.assert_allclose([found.low, found.high], 100 * np.array(theirs), atol=0.25 + 0.04 * 10)


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (2, 3)])
def test_swapping_negates_and_the_order_of_examples_is_nothing(seeds):
    first, second = (make_correct(count, 500, mean, seed=count) for count, mean in zip(seeds, (0.4, 0.6), strict=True))
    found, swapped = compare(first, second), compare(second, first)
    assert found.difference != 0
    assert swapped.difference == -found.difference
    assert swapped.interval == Interval(-found.interval.high, -found.interval.low)
    assert (swapped.p_value, swapped.method) == (found.p_value, found.method)
    shuffled = np.random.default_rng(1).permutation(500)
    assert compare(first[:, shuffled], second[:, shuffled]) == found
    assert accuracy_interval(first[:, shuffled]) == accuracy_interval(first)
    unpaired = compare(first[:, shuffled], second)
    assert unpaired.interval != found.interval
    assert unpaired.difference == found.difference


def test_no_difference_is_p_one():
    correct = make_correct(1, 50)
    assert compare(correct, correct) == intervals.PairedTest(0.0, Interval(0.0, 0.0), 1.0, "exact McNemar test")
    several = make_correct(3, 50)
    same = compare(several, several)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert same.interval.low < 0 < same.interval.high  # new seeds may differ
    balanced = compare(np.array([[1, 0, 1]], bool), np.array([[0, 1, 1]], bool))
    assert (balanced.difference, balanced.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("examples", [1, 10])
def test_all_right_against_all_wrong(examples):
    for seeds in (1, 3):
        found = compare(np.ones((seeds, examples), bool), np.zeros((seeds, examples), bool))
        assert found.interval == Interval(100.0, 100.0)
        assert found.difference == 100.0
        assert found.p_value == pytest.approx(2.0 ** (1 - examples), rel=1e-9)


def test_the_same_arguments_give_the_same_numbers_and_a_large_split_is_quick():
    first, second = make_correct(3, 25_000, 0.5, seed=1), make_correct(3, 25_000, 0.45, seed=2)
    found = compare(first, second)
    assert compare(first, second) == found
    other = compare(first, second, seed=1)
    assert other.interval != found.interval
    width = found.interval.high - found.interval.low
    assert other.interval.low == pytest.approx(found.interval.low, abs=0.06 * width)
    assert other.p_value == found.p_value  # nothing in it is drawn
    assert accuracy_interval(first) == accuracy_interval(first) != accuracy_interval(first, seed=1)
    wide, narrow = accuracy_interval(first, level=0.99), accuracy_interval(first, level=0.5)
    assert wide.low < narrow.low < 100 * first.mean() < narrow.high < wide.high


def test_collapsed_is_a_one_sided_binomial_test():
    """2,000 examples, ten classes: 233 right are significant at 1 %, 232 are not; below chance is collapsed too."""
    limit = 233
    assert stats.binom.sf(limit - 1, 2000, 0.1) <= 0.01 < stats.binom.sf(limit - 2, 2000, 0.1)
    assert not is_collapsed(limit, 2000, 0.1)
    assert is_collapsed(limit - 1, 2000, 0.1)
    assert is_collapsed(0, 2000, 0.1)
    assert is_collapsed(limit, 2000, 0.1, level=0.001)
    assert not is_collapsed(limit - 1, 2000, 0.1, level=0.05)
    assert is_collapsed(np.int64(2000), 2000, 1.0)
    assert is_collapsed(1, 1, 0.5)


@pytest.mark.parametrize("p_values", [[0.04, 0.01, 0.03], [0.5], [0.02, 0.02, 1.0, 0.0], [0.9, 0.6, 0.01, 0.011, 0.2]])
def test_holm(p_values):
    from statsmodels.stats.multitest import multipletests

    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12)
    assert all(type(value) is float for value in holm(p_values))


def test_holm_of_nothing():
    assert holm([]) == ()


GOOD = np.ones((2, 5), bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy_interval(np.ones((2, 5))), "correct is float64 of shape (2, 5): give bool [seeds, examples]"),
        (lambda: accuracy_interval(GOOD[0]), "correct is bool of shape (5,)"),
        (lambda: accuracy_interval(GOOD[:, :0]), "shape (2, 0)"),
        (lambda: accuracy_interval(GOOD[:0]), "shape (0, 5)"),
        (lambda: accuracy_interval(GOOD, level=95), "level = 95: must be a share above 0 and at most 0.999"),
        (lambda: accuracy_interval(GOOD, level=0.0), "level = 0.0"),
        (lambda: accuracy_interval(GOOD, level=0.9999), "level = 0.9999"),
        (lambda: accuracy_interval(GOOD, level=math.nan), "level = nan"),
        (lambda: accuracy_interval(GOOD, level="0.95"), "level = '0.95'"),
        (lambda: accuracy_interval(GOOD, seed=-1), "seed = -1: must be a whole number"),
        (lambda: accuracy_interval(GOOD, seed=0.5), "seed = 0.5"),
        (lambda: compare(GOOD, GOOD, level=1.0), "level = 1.0"),
        (lambda: compare(GOOD.astype(int), GOOD), "first is int64"),
        (lambda: compare(GOOD, GOOD[0]), "second is bool of shape (5,)"),
        (lambda: compare(GOOD, GOOD[:, 1:]), "first has 5 examples, second 4: a paired test needs the same examples"),
        (lambda: seed_interval([]), "values = []: must be finite"),
        (lambda: seed_interval([1.0, math.nan]), "values = [1.0, nan]"),
        (lambda: seed_interval([[1.0, 2.0]]), "must be finite accuracies"),
        (lambda: seed_interval([1.0, 2.0], level=2), "level = 2"),
        (lambda: is_collapsed(5, 0, 0.5), "num_examples = 0"),
        (lambda: is_collapsed(-1, 5, 0.5), "num_correct = -1"),
        (lambda: is_collapsed(0.5, 5, 0.5), "num_correct = 0.5"),
        (lambda: is_collapsed(6, 5, 0.5), "num_correct = 6: must not be above num_examples = 5"),
        (lambda: is_collapsed(1, 5, 50.0), "chance = 50.0: must be a share above 0 and at most 1"),
        (lambda: is_collapsed(1, 5, 0.5, level=0), "level = 0"),
        (lambda: holm([0.5, 1.5]), "p_values = [0.5, 1.5]"),
        (lambda: holm([math.nan]), "p_values = [nan]"),
    ],
)
def test_refused(call, words):
    with pytest.raises(UserError) as caught:
        call()
    assert words in str(caught.value)
