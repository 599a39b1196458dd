"""Paired comparisons of methods over tracks: the differences that tracks show, and those that they could show.

Reads and writes arrays only.

Conventions: scores are in dB, one of each track, the tracks in the same order for all methods; nan is a score that is
missing, and leaves its track out. Tracks differ far more than methods do, so all is about differences within tracks.
These are rounded to museval's five decimals first: otherwise rounding errors of 1e-15 dB would decide which of them are
zero and which share a rank. Infinite differences count, with the greatest rank; infinity less infinity is nan. What is
drawn at random is the same with the same seed.

References
----------
Wilcoxon: Individual comparisons by ranking methods, Biometrics Bulletin 1(6), 1945.
Hodges, Lehmann: Estimates of location based on rank tests, Ann. Math. Statist. 34, 1963.
Holm: A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
Demšar: Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006.
Benavoli, Corani, Mangili: Should we really use post-hoc tests based on mean-ranks?, JMLR 17(5), 2016.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musdbkit.errors import ParameterError

TIE_DB: Final = 0.01
"""Smaller differences are neither won nor lost, in dB: papers print two decimals at most."""

LEVEL: Final = 0.05
"""Smaller p-values are called significant."""

LEAST_TRACKS: Final = 6
"""With fewer no paired test can come below `LEVEL`, and no interval holds 95 %."""

_DECIMALS: Final = 5
_NB_DRAWS: Final = 1000  # that count the power: the smallest difference then varies by 1 % with the seed
_STATISTICS: Final[dict[str, Callable[..., Any]]] = {"median": np.median, "mean": np.mean}


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends in dB."""

    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """How the first of two methods differs from the second, on the tracks where both have a score.

    Attributes
    ----------
    nb_tracks, nb_left_out : tracks that count, and tracks where a score is missing or the difference is nan.
    difference, interval : the typical first - second in dB, with its 95 % interval (`estimate_difference`). It is
        neither the difference of two medians nor quite the median of the differences, but what the test is about.
    wins, ties, losses : tracks on which the first is better by `TIE_DB` or more, neither is, or the second is.
    p_value : of the paired test (`wilcoxon`), of this pair alone.
    resolvable : what 50 such tracks could show, in dB (`smallest_difference`).
    """

    nb_tracks: int
    nb_left_out: int
    difference: float
    interval: Interval
    wins: int
    ties: int
    losses: int
    p_value: float
    resolvable: float


@dataclass(frozen=True)
class Friedman:
    """Whether any of several methods differs from the others, on the tracks where all have a score.

    Attributes
    ----------
    nb_tracks : tracks that count.
    statistic, p_value : of the test (`friedman`).
    mean_ranks : of each method; rank 1 is the greatest score of a track, equal scores share the mean of their ranks.
    """

    nb_tracks: int
    statistic: float
    p_value: float
    mean_ranks: tuple[float, ...]


# Tests


def wilcoxon(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p-value of the Wilcoxon signed-rank test [shape of each=(nb_tracks,)].

    It is 1 where all differences are zero, and nan where no track has both scores. It is exact, counted over all ways
    to choose signs, also where differences share a rank. scipy.stats.wilcoxon gives the same where none do, up to 50
    tracks; beyond, it approximates, not alike in all its versions. Differences of zero are left out, as Wilcoxon did
    and scipy and R do by default: such a track favours neither method, and the test stays exact without it. (Pratt
    keeps the ranks of zeros, Demšar splits them between the signs; `Paired` counts the ties beside the p-value.)

    Raises
    ------
    ParameterError
        The scores are not pairs.
    """
    from scipy.stats import rankdata

    differences = _paired_differences(first, second)
    if not differences.size:
        return math.nan
    differences = differences[differences != 0]
    doubled = np.rint(2 * rankdata(np.abs(differences))).astype(np.int64)  # shared ranks may be halves
    rank_sum = min(doubled[differences > 0].sum(), doubled[differences < 0].sum())
    return min(1.0, 2 * float(_rank_sum_chances(doubled)[: rank_sum + 1].sum()))


def adjust_holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted by Holm's method: `LEVEL` then bounds the chance of any false finding among them all.

    Parameters
    ----------
    p_values : of any shape; nan stays nan, and does not count as a test.
    """
    adjusted = np.array(p_values, float)
    tests = np.flatnonzero(~np.isnan(adjusted))
    ascending = tests[np.argsort(adjusted.flat[tests])]
    nb_left = np.arange(ascending.size, 0, -1)
    adjusted.flat[ascending] = np.minimum(np.maximum.accumulate(nb_left * adjusted.flat[ascending]), 1)
    return adjusted


def friedman(values: ArrayLike) -> Friedman:
    """Return Friedman's test of three or more methods, with the chi-squared p-value of scipy.stats.friedmanchisquare.

    The statistic is 0 and the p-value 1 where all scores of each track are equal; both are nan where no track counts.

    Parameters
    ----------
    values : scores [shape=(nb_tracks, nb_methods)]; a track without a score of every method is left out.

    Raises
    ------
    ParameterError
        There are fewer methods.
    """
    from scipy.stats import friedmanchisquare, rankdata

    scores = _check_table(values)
    if scores.shape[1] < 3:
        raise ParameterError(f"Friedman's test of {scores.shape[1]} methods: expected 3 or more")
    scores = scores[~np.isnan(scores).any(axis=1)]
    if not scores.size:
        return Friedman(0, math.nan, math.nan, (math.nan,) * scores.shape[1])
    ranks = rankdata(-np.round(scores, _DECIMALS), axis=1)
    all_equal = (ranks == ranks[0, 0]).all()
    statistic, p_value = (0.0, 1.0) if all_equal else friedmanchisquare(*ranks.T)
    return Friedman(len(ranks), float(statistic), float(p_value), tuple(ranks.mean(axis=0).tolist()))


def compare_all(values: ArrayLike) -> NDArray[np.float64]:
    """Return the p-value of each pair of methods: paired Wilcoxon tests, adjusted by Holm's method.

    This is what follows Friedman's test. The customary sequel compares mean ranks (Demšar, section 3.2.2), but then it
    depends on the other methods whether two differ; Benavoli et al. show so, and advise tests of the pair alone.

    Parameters
    ----------
    values : scores [shape=(nb_tracks, nb_methods)]; a pair is compared on all tracks where both have a score.

    Returns
    -------
    p_values : [shape=(nb_methods, nb_methods)], symmetric; nan on the diagonal and for pairs without a common track.

    Raises
    ------
    ParameterError
        The values are no table.
    """
    columns = _check_table(values).T
    pairs = list(itertools.combinations(range(len(columns)), 2))
    p_values = np.full((len(columns), len(columns)), math.nan)
    for (i, j), p_value in zip(pairs, adjust_holm([wilcoxon(columns[i], columns[j]) for i, j in pairs]), strict=True):
        p_values[i, j] = p_values[j, i] = p_value
    return p_values


# Sizes of differences


def bootstrap_interval(
    values: ArrayLike,
    statistic: Literal["median", "mean"] = "median",
    *,
    confidence: float = 0.95,
    nb_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return a confidence interval of the median or mean over tracks: percentiles of a bootstrap.

    It is that of scipy.stats.bootstrap's method "percentile", but each end is a value that was drawn, the next one
    outwards: infinities are not interpolated, and the interval of -values is the mirrored one.

    Parameters
    ----------
    values : one of each track, in dB [shape=(nb_tracks,)]; nan is left out.
    confidence : how often such intervals hold the true value; papers print 95 %. With 7 tracks it is 86 % of the time.
    nb_resamples : how often tracks are drawn; with 10,000 the ends vary by 1 % of the interval with the seed.

    Returns
    -------
    interval : nan where there are fewer than `LEAST_TRACKS` values, of which it would hold the truth far less often
        than it says, or where infinities of both signs meet in a median or mean.

    Raises
    ------
    ParameterError
        There is no such statistic or confidence.
    """
    if statistic not in _STATISTICS:
        raise ParameterError(f"statistic is {statistic}, expected {' or '.join(_STATISTICS)}")
    _check_probability("confidence", confidence)
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if known.size < LEAST_TRACKS:
        return Interval(math.nan, math.nan)
    draws = np.random.default_rng(seed).integers(known.size, size=(nb_resamples, known.size))
    with np.errstate(invalid="ignore"):  # infinities of both signs
        resampled = _STATISTICS[statistic](known[draws], axis=1)
    tail = (1 - confidence) / 2
    low = np.quantile(resampled, tail, method="lower")
    high = np.quantile(resampled, 1 - tail, method="higher")
    return Interval(float(low), float(high))


def estimate_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> tuple[float, Interval]:
    """Return the typical first - second in dB, and its confidence interval [shape of each=(nb_tracks,)].

    It is the median of the means of all pairs of differences (Hodges and Lehmann): the shift about which their signed
    ranks balance. The interval holds all shifts that `wilcoxon` would not reject, so that where no differences are tied
    or zero it leaves out 0 just if the p-value is below 1 - confidence.

    Returns
    -------
    difference : nan where there is no track with both scores, or differences are infinite in both directions.
    interval : nan there, too, and of too few tracks: fewer than `LEAST_TRACKS` at 95 %.

    Raises
    ------
    ParameterError
        The scores are not pairs, or the confidence is no probability.
    """
    _check_probability("confidence", confidence)
    differences = _paired_differences(first, second)
    nowhere = Interval(math.nan, math.nan)
    if not differences.size or {-math.inf, math.inf} <= set(differences):
        return math.nan, nowhere
    means = np.sort(_pair_means(differences))
    most = _greatest_significant(differences.size, 1 - confidence)
    return float(np.median(means)), Interval(float(means[most]), float(means[-1 - most])) if most >= 0 else nowhere


def compare_pair(first: ArrayLike, second: ArrayLike) -> Paired:
    """Return how the first of two methods differs from the second [shape of each=(nb_tracks,)].

    Raises
    ------
    ParameterError
        The scores are not pairs.
    """
    differences = _paired_differences(first, second)
    wins = int((differences >= TIE_DB).sum())
    losses = int((differences <= -TIE_DB).sum())
    difference, interval = estimate_difference(first, second)
    return Paired(
        nb_tracks=differences.size,
        nb_left_out=np.size(first) - differences.size,
        difference=difference,
        interval=interval,
        wins=wins,
        ties=differences.size - wins - losses,
        losses=losses,
        p_value=wilcoxon(first, second),
        resolvable=smallest_difference(first, second),
    )


def smallest_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    nb_tracks: int = 50,
    level: float = LEVEL,
    power: float = 0.8,
    seed: int = 0,
) -> float:
    """Return the smallest difference of two methods, of either sign, that so many tracks would show, in dB.

    Tracks are drawn from the observed differences less their centre, and shifted. Their centre is the median of the
    means of all pairs (Hodges and Lehmann), about which signed ranks balance, which skewed differences do not about
    their median. The rank sum of the negative differences is the number of pairs whose mean is negative: a draw is
    significant from that shift on which leaves few enough of them. That is an order statistic, and needs no search.

    Parameters
    ----------
    first, second : scores [shape=(nb_observed,)].
    nb_tracks : how many tracks would be compared; 50 are MUSDB18's test tracks.
    level : of the two-sided Wilcoxon test.
    power : the chance that a true difference of that size is found; 80 % is the custom.

    Returns
    -------
    difference : nan where a difference is infinite, which no shift changes, and where the tracks observed, or those to
        be compared, are too few for the test to find anything: fewer than 6 at a level of 5 %.

    Raises
    ------
    ParameterError
        The scores are not pairs, or `level` or `power` is no probability.
    """
    _check_probability("level", level)
    _check_probability("power", power)
    differences = _paired_differences(first, second)
    most = _greatest_significant(nb_tracks, level)
    if min(most, _greatest_significant(differences.size, level)) < 0 or np.isinf(differences).any():
        return math.nan
    draws = np.random.default_rng(seed).integers(differences.size, size=(_NB_DRAWS, nb_tracks))
    centred = differences - np.median(_pair_means(differences))
    means = np.sort(_pair_means(centred[draws]))
    shifts = np.concatenate((-means[:, most], means[:, -1 - most]))  # upwards and downwards
    return max(0.0, float(np.quantile(shifts, power)))


def _paired_differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return first - second, rounded, of the tracks where that is a number."""
    minuends, subtrahends = np.asarray(first, float), np.asarray(second, float)
    if minuends.ndim != 1 or minuends.shape != subtrahends.shape:
        raise ParameterError(
            f"scores of shapes {minuends.shape} and {subtrahends.shape}, expected pairs, one per track"
        )
    with np.errstate(invalid="ignore"):  # two equal infinities
        differences: NDArray[np.float64] = np.round(minuends - subtrahends, _DECIMALS)
    return differences[~np.isnan(differences)]


def _check_table(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values as an array [shape=(nb_tracks, nb_methods)]."""
    scores = np.asarray(values, float)
    if scores.ndim != 2:
        raise ParameterError(f"scores of shape {scores.shape}, expected (nb_tracks, nb_methods)")
    return scores


def _check_probability(name: str, value: float) -> None:
    """Refuse what is not between 0 and 1."""
    if not 0 < value < 1:
        raise ParameterError(f"{name} is {value}, expected a number between 0 and 1")


def _rank_sum_chances(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the chance of each sum, from 0 on, of ranks each of which counts or not with equal chance."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1
    for rank in ranks:
        chances /= 2
        chances[rank:] += chances[:-rank]
    return chances


@functools.lru_cache
def _greatest_significant(nb_tracks: int, level: float) -> int:
    """Return the greatest rank sum of one sign that is significant, no ranks being shared; -1 where none is."""
    chances = _rank_sum_chances(np.arange(1, nb_tracks + 1))
    return int(np.searchsorted(2 * np.cumsum(chances), level)) - 1


def _pair_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of all pairs on the last axis, each value with itself too [shape=(..., n * (n + 1) / 2)]."""
    first, second = np.triu_indices(values.shape[-1])
    means: NDArray[np.float64] = (values[..., first] + values[..., second]) / 2
    return means
