"""Statistics: each against scipy, theory or a computation by hand."""

import math
from collections.abc import Callable
from itertools import product
from typing import Literal

import numpy as np
import pytest
import scipy.stats

from musdbkit import stats
from musdbkit.errors import ParameterError
from musdbkit.stats import Interval

NAN, INF = math.nan, math.inf


def against_zero(*differences: float) -> tuple[list[float], list[float]]:
    """Return two columns of scores with these differences."""
    return list(differences), [0.0] * len(differences)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fifty tracks that vary by 3 dB, and a method that is better by 0.3 dB, give or take 0.5 dB."""
    second = rng.normal(5, 3, 50)
    return second + rng.normal(0.3, 0.5, 50), second


# Wilcoxon


@pytest.mark.parametrize("nb_tracks", [1, 2, 6, 14, 50])
def test_wilcoxon_is_scipys_where_nothing_ties(rng: np.random.Generator, nb_tracks: int) -> None:
    for shift in (0.0, 0.4, -0.4):
        first, second = rng.normal(shift, 1, nb_tracks), rng.normal(0, 1, nb_tracks)
        expected = scipy.stats.wilcoxon(first, second, method="exact").pvalue
        assert stats.wilcoxon(first, second) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_approaches_scipys_normal_approximation(rng: np.random.Generator) -> None:
    first, second = rng.normal(0.15, 1, 200), np.zeros(200)
    expected = scipy.stats.wilcoxon(first, second, correction=True).pvalue
    assert stats.wilcoxon(first, second) == pytest.approx(expected, rel=0.03)


def test_wilcoxon_by_hand() -> None:
    # Ranks 1 to 6, only 3 is negative. Of the 2^6 = 64 ways to choose which are negative, {}, {1}, {2}, {3} and {1, 2}
    # have a sum of 3 or less: 5 / 64, and as many on the other side.
    assert stats.wilcoxon(*against_zero(1, 2, -3, 4, 5, 6)) == 10 / 64


def test_wilcoxon_is_exact_with_ties() -> None:
    # Ranks 2, 2, 2 and 4: the sum of the negative one is 2. Of 16 ways, {} and three {2} are as far: 4 / 16.
    assert stats.wilcoxon(*against_zero(1, 1, -1, 2)) == 0.5
    differences = np.array([0.5, 0.5, 0.5, -0.5, 1, 1, -1, 2, 2, 3, 4])
    ranks = scipy.stats.rankdata(np.abs(differences))
    sums = np.array([ranks @ signs for signs in product((-1, 1), repeat=ranks.size)])
    expected = (np.abs(sums) >= abs(ranks @ np.sign(differences))).mean()
    assert stats.wilcoxon(*against_zero(*differences)) == pytest.approx(expected, rel=1e-12)


def test_wilcoxon_leaves_zeros_and_missing_scores_out() -> None:
    first, second = against_zero(1, 2, -3, 4, 5, 6)
    assert stats.wilcoxon([7.0, *first, NAN, 8.0], [7.0, *second, 1.0, NAN]) == 10 / 64


def test_wilcoxon_of_nothing_and_of_equals() -> None:
    assert stats.wilcoxon([1.5, 2.5], [1.5, 2.5]) == 1
    assert stats.wilcoxon([1.5], [0.5]) == 1
    assert math.isnan(stats.wilcoxon([], []))
    assert math.isnan(stats.wilcoxon([NAN, 1.0, INF], [1.0, NAN, INF]))


def test_rounding_errors_break_no_ties() -> None:
    first, second = [1.3, 2.3, 0.3, 7.7], [1.2, 2.2, 0.4, 7.7 - 1e-12]
    assert len({abs(a - b) for a, b in zip(first, second, strict=True)}) == 4
    assert stats.wilcoxon(first, second) == stats.wilcoxon(*against_zero(0.1, 0.1, -0.1))


def test_infinite_differences_have_the_greatest_ranks() -> None:
    assert stats.wilcoxon(*against_zero(1, 2, -3, 4, 5, INF)) == 10 / 64
    assert stats.wilcoxon(*against_zero(1, 2, -3, INF, INF, -INF)) == stats.wilcoxon(*against_zero(1, 2, -3, 9, 9, -9))


def test_a_planted_difference_is_found_only_in_pairs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    assert stats.wilcoxon(first, second) < 0.001
    assert stats.wilcoxon(first, np.random.default_rng(1).permutation(second)) > 0.2


# Holm


def test_holm_by_hand() -> None:
    # In order: 4 x 0.005 = 0.02, 3 x 0.01 = 0.03, 2 x 0.03 = 0.06, and 1 x 0.04, which may not be less than 0.06.
    assert stats.adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.adjust_holm([0.6, 0.7]).tolist() == [1, 1]
    assert stats.adjust_holm([]).size == 0


def test_missing_p_values_do_not_count_as_tests() -> None:
    p_values = np.array([[NAN, 0.01], [0.04, NAN]])
    np.testing.assert_allclose(stats.adjust_holm(p_values), [[NAN, 0.02], [0.04, NAN]])
    assert p_values[0, 1] == 0.01


# Several methods


def test_friedman_by_hand() -> None:
    # Ranks (1, 2, 3), (1.5, 1.5, 3), (2, 1, 3), (1, 2.5, 2.5), with sums of 5.5, 7 and 11.5. Without ties
    # 12 / (4 x 3 x 4) x (5.5^2 + 7^2 + 11.5^2) - 3 x 4 x 4 = 4.875, and the two ties of two divide it by
    # 1 - 2 x (2^3 - 2) / (4 x 3 x (3^2 - 1)) = 0.875: 39 / 7. Of two degrees of freedom, p = exp(-statistic / 2).
    result = stats.friedman([[3, 2, 1], [5, 5, 1], [2, 4, 0], [NAN, 1, 9], [7, 6, 6]])
    assert result.nb_tracks == 4
    assert result.mean_ranks == (5.5 / 4, 7 / 4, 11.5 / 4)
    assert result.statistic == pytest.approx(39 / 7)
    assert result.p_value == pytest.approx(math.exp(-39 / 14))


def test_friedman_is_scipys(rng: np.random.Generator) -> None:
    values = np.round(rng.normal(0, 1, (50, 1)) + rng.normal((0, 0.1, 0.2, 0.3), 1, (50, 4)), 1)
    expected = scipy.stats.friedmanchisquare(*values.T)
    result = stats.friedman(values + rng.normal(0, 1e-9, values.shape))
    assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue))


def test_friedman_of_infinities_equals_and_nothing() -> None:
    assert stats.friedman([[INF, 1, -INF], [INF, INF, 2]]) == stats.friedman([[3, 2, 1], [3, 3, 2]])
    assert stats.friedman([[3, 2, 1]]).mean_ranks == (1, 2, 3)
    assert stats.friedman([[1, 1, 1], [2, 2, 2]]) == stats.Friedman(2, 0, 1, (2, 2, 2))
    nothing = stats.friedman([[NAN, 1, 2]])
    assert nothing.nb_tracks == 0
    assert np.isnan([nothing.statistic, nothing.p_value, *nothing.mean_ranks]).all()


def test_all_pairs_are_tested_and_adjusted_together() -> None:
    # First and second differ on all six tracks with one sign: 2 / 64. The third has a track less: 2 / 32 against both,
    # the fourth none. Three tests: 3 x 2 / 64, then 2 x 2 / 32, which the last may not be less than.
    tracks = np.arange(6.0)
    third = [*range(30, 40, 2), NAN]
    result = stats.compare_all(np.column_stack((tracks, tracks * 1.5 + 10, third, np.full(6, NAN))))
    expected = np.full((4, 4), NAN)
    for i, j, p_value in ((0, 1, 6 / 64), (0, 2, 4 / 32), (1, 2, 4 / 32)):
        expected[i, j] = expected[j, i] = p_value
    np.testing.assert_allclose(result, expected)


# Bootstrap


@pytest.mark.parametrize(("statistic", "function"), [("median", np.median), ("mean", np.mean)])
def test_the_interval_is_scipys(
    rng: np.random.Generator, statistic: Literal["median", "mean"], function: Callable[..., float]
) -> None:
    values = rng.normal(5, 3, 30)
    expected = scipy.stats.bootstrap(
        (values,),
        function,
        confidence_level=0.9,
        n_resamples=2000,
        method="percentile",
        random_state=np.random.default_rng(7),
    )
    drawn = np.sort(expected.bootstrap_distribution)
    interval = stats.bootstrap_interval([*values, NAN], statistic, confidence=0.9, nb_resamples=2000, seed=7)
    assert interval == Interval(drawn[99], drawn[1900])  # 5 % of 1999 steps is 99.95: outwards, 99 of each end
    assert interval.low <= expected.confidence_interval.low <= drawn[100]
    assert drawn[1899] <= expected.confidence_interval.high <= interval.high


@pytest.mark.parametrize("nb_tracks", [7, 15, 49])
def test_the_interval_of_a_median_is_that_of_all_resamples(nb_tracks: int) -> None:
    # The median of an odd number of draws is at most the k-th value where most of them are: a binomial chance.
    chances = scipy.stats.binom.sf(nb_tracks // 2, nb_tracks, np.arange(1, nb_tracks + 1) / nb_tracks)
    low = int(np.flatnonzero(chances > 0.025)[0])
    assert stats.bootstrap_interval(np.arange(nb_tracks)) == Interval(low, nb_tracks - 1 - low)


def test_the_interval_holds_the_truth_as_often_as_it_says(rng: np.random.Generator) -> None:
    # Of 2000 intervals of 95 %, 1900 are expected to hold it; the binomial's standard deviation is 9.7.
    intervals = [stats.bootstrap_interval(rng.normal(5, 3, 50), nb_resamples=300, seed=i) for i in range(2000)]
    assert 1870 <= sum(interval.low <= 5 <= interval.high for interval in intervals) <= 1930


def test_an_interval_is_repeated_and_mirrored(rng: np.random.Generator) -> None:
    values = rng.normal(0, 1, 20)
    interval = stats.bootstrap_interval(values, "mean")
    assert interval == stats.bootstrap_interval(values, "mean")
    assert interval != stats.bootstrap_interval(values, "mean", seed=1)
    assert stats.bootstrap_interval(-values, "mean") == Interval(-interval.high, -interval.low)


def test_intervals_of_infinities_and_of_few() -> None:
    assert stats.bootstrap_interval([1.0, *[2.0] * 3, *[INF] * 3]) == Interval(2, INF)
    assert stats.bootstrap_interval([-INF, *range(6)], "mean").low == -INF
    assert stats.bootstrap_interval([2.0] * 6) == Interval(2, 2)
    for values in ([], [1.0], range(5), [NAN, *range(5)], [*[-INF] * 3, *[INF] * 3]):
        interval = stats.bootstrap_interval(values)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


# The typical difference


def test_the_typical_difference_by_hand() -> None:
    # Of 1, 2 and 6 the pairs have means 1, 1.5, 3.5, 2, 4 and 6; in order 1, 1.5, 2, 3.5, 4, 6.
    assert stats.estimate_difference(*against_zero(1, 2, 6))[0] == 2.75
    # Of 6 tracks only a rank sum of 0 is significant, of a chance of 2 / 64: the interval is from least to most.
    assert stats.estimate_difference(*against_zero(*range(6)))[1] == Interval(0, 5)
    assert math.isnan(stats.estimate_difference(*against_zero(*range(5)))[1].low)
    difference, interval = stats.estimate_difference(*against_zero(*range(7), INF))
    assert (difference, interval.high) == (3.5, INF)  # the 18th and 19th of 36


def test_the_interval_of_a_difference_holds_what_the_test_does_not_reject(rng: np.random.Generator) -> None:
    for nb_tracks in (6, 13, 50):
        differences = rng.gamma(2, 0.2, nb_tracks) - 0.3
        difference, interval = stats.estimate_difference(differences, np.zeros(nb_tracks))
        assert interval.low < difference < interval.high
        for end, inwards in ((interval.low, 1), (interval.high, -1)):
            for step, rejected in ((2e-5, False), (-2e-5, True)):
                shift = np.full(nb_tracks, end + inwards * step)
                assert (stats.wilcoxon(differences, shift) < 0.05) == rejected


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(rng: np.random.Generator) -> None:
    draws = (stats.estimate_difference(rng.normal(1, 0.5, 20), np.zeros(20))[1] for _ in range(2000))
    assert 1870 <= sum(interval.low <= 1 <= interval.high for interval in draws) <= 1930


# The smallest difference


@pytest.mark.parametrize(("nb_tracks", "power"), [(50, 0.8), (50, 0.5), (100, 0.8)])
def test_the_smallest_difference_is_that_of_theory(nb_tracks: int, power: float) -> None:
    # Of normal differences the Wilcoxon test has 3 / pi of the efficiency of the t-test.
    sd = 0.5
    differences = 1 + sd * scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)
    quantiles = scipy.stats.norm.ppf([0.975, power]).sum()
    expected = quantiles * sd / math.sqrt(nb_tracks) * math.sqrt(math.pi / 3)
    found = stats.smallest_difference(differences, np.zeros(400), nb_tracks=nb_tracks, power=power)
    assert found == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_smallest_difference_is_found_as_often_as_it_says(sign: int, rng: np.random.Generator) -> None:
    observed = sign * rng.gamma(4, 0.25, 200)  # skewed
    shift = stats.smallest_difference(observed, np.zeros(200), nb_tracks=20)
    averages = np.add.outer(observed, observed)[np.tri(200, dtype=bool)] / 2
    drawn = rng.choice(observed - np.median(averages), (2000, 20))
    found = {s: np.mean([stats.wilcoxon(draw + s, np.zeros(20)) < 0.05 for draw in drawn]) for s in (shift, -shift)}
    assert np.mean(list(found.values())) == pytest.approx(0.8, abs=0.025)


def test_the_smallest_difference_shrinks_with_tracks_and_is_the_same_both_ways(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    few, many = (stats.smallest_difference(*pair, nb_tracks=nb_tracks) for nb_tracks in (10, 50))
    assert many < few / 2
    assert stats.smallest_difference(*pair[::-1]) == pytest.approx(many, rel=1e-9)
    assert stats.smallest_difference(*pair, level=0.01) > many
    assert stats.smallest_difference(*pair, power=0.01) == 0  # rarer than what chance finds


def test_the_smallest_difference_of_what_does_not_vary_and_of_too_few() -> None:
    assert stats.smallest_difference(*against_zero(*[1.0] * 6)) == 0
    assert stats.smallest_difference(*against_zero(*[1.0] * 6), nb_tracks=6) == 0
    assert math.isnan(stats.smallest_difference(*against_zero(*[1.0] * 5)))
    assert math.isnan(stats.smallest_difference(*against_zero(*[1.0] * 6), nb_tracks=5))
    assert math.isnan(stats.smallest_difference(*against_zero(*[1.0] * 6, INF)))


# A pair


def test_a_pair_is_compared(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    differences = np.round(first - second, 5)
    paired = stats.compare_pair([*first, NAN, 1.0, INF], [*second, 1.0, NAN, INF])
    assert (paired.nb_tracks, paired.nb_left_out) == (50, 3)
    averages = np.add.outer(differences, differences)[np.tri(50, dtype=bool)] / 2
    assert paired.difference == pytest.approx(np.median(averages))
    assert (paired.difference, paired.interval) == stats.estimate_difference(first, second)
    assert paired.interval.low < paired.difference < paired.interval.high
    assert paired.p_value == stats.wilcoxon(first, second)
    assert paired.resolvable == stats.smallest_difference(first, second, nb_tracks=50)


def test_wins_ties_and_losses() -> None:
    paired = stats.compare_pair([5.01, 5.009, 5.0, 4.991, 4.99, INF, NAN], [5.0] * 7)
    assert (paired.wins, paired.ties, paired.losses) == (2, 3, 1)


def test_pairs_of_one_track_none_and_equals() -> None:
    one = stats.compare_pair([2.0], [1.5])
    assert (one.nb_tracks, one.difference, one.wins, one.p_value) == (1, 0.5, 1, 1)
    assert np.isnan([one.interval.low, one.interval.high, one.resolvable]).all()
    none = stats.compare_pair([NAN], [1.5])
    assert (none.nb_tracks, none.nb_left_out, none.wins, none.ties, none.losses) == (0, 1, 0, 0, 0)
    assert np.isnan([none.difference, none.interval.low, none.p_value, none.resolvable]).all()
    equal = stats.compare_pair(range(8), range(8))
    assert equal == stats.Paired(8, 0, 0, Interval(0, 0), 0, 8, 0, 1, 0)
    assert str(stats.compare_pair([1 - 1e-9], [1.0]).difference) == "0.0"


def test_a_pair_with_infinities() -> None:
    paired = stats.compare_pair(*against_zero(-INF, *range(1, 8), INF))
    assert np.isnan([paired.difference, paired.interval.low]).all()
    assert paired.p_value == stats.wilcoxon(*against_zero(-8, *range(1, 8), 8))
    assert math.isnan(paired.resolvable)
    assert math.isnan(stats.compare_pair(*against_zero(-INF, INF)).difference)


# What is refused


@pytest.mark.parametrize(
    "function", [stats.wilcoxon, stats.compare_pair, stats.estimate_difference, stats.smallest_difference]
)
def test_what_is_no_pair_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ParameterError, match=r"shapes \(2,\) and \(3,\), expected pairs"):
        function([1, 2], [1, 2, 3])
    with pytest.raises(ParameterError, match="expected pairs"):
        function([[1, 2]], [[1, 2]])


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ParameterError, match="2 methods: expected 3 or more"):
        stats.friedman([[1, 2], [3, 4]])
    for function in (stats.friedman, stats.compare_all):
        with pytest.raises(ParameterError, match=r"shape \(3,\), expected \(nb_tracks, nb_methods\)"):
            function([1, 2, 3])
    with pytest.raises(ParameterError, match="statistic is mode, expected median or mean"):
        stats.bootstrap_interval([1.0, 2.0], "mode")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="confidence is 95, expected a number between 0 and 1"):
        stats.bootstrap_interval([1.0, 2.0], confidence=95)
    with pytest.raises(ParameterError, match="level is 0"):
        stats.smallest_difference([1.0], [2.0], level=0)
    with pytest.raises(ParameterError, match="power is 1"):
        stats.smallest_difference([1.0], [2.0], power=1)
