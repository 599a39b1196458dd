"""Scored methods side by side: who is better on which target, by how much, and whether the tracks can tell.

Reads what `methods` loaded and SiSEC 2018's medians. Writes nothing.

Conventions: values are in dB. One metric and one aggregation at a time: each track has one value; a method's are summed
up, and methods are compared track by track. Methods are ranked together where they were scored alike: under the same
protocol and, for a target, in the same scenario. A difference counts as significant where Holm's p of the paired tests
of all methods that are ranked together is below `stats.LEVEL`, and of three or more methods Friedman's p, too. Oracles
are bounds and have no rank beside methods.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from musdbkit import musdb18, scores, scoring, sisec18, stats
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.methods import Method, Protocol, find_differences, group_alike

if TYPE_CHECKING:
    from pandas import Series

FEW_TRACKS: Final = 10
"""With fewer tracks a comparison says little."""


@dataclass(frozen=True)
class Cell:
    """What a method scores on a target.

    Attributes
    ----------
    value : aggregated over tracks, dB; nan where all tracks were dropped.
    interval : its 95 % bootstrap interval, of tracks drawn with replacement.
    nb_tracks : tracks with a value.
    nb_dropped : tracks without, of which every frame was dropped.
    scenario : the targets that were evaluated together, as `vocals+accompaniment`.
    rank : from 1 for the best, among the methods that it is ranked with; None where it has no rank.
    best : whether it is significantly better than all others of its rank.
    """

    value: float
    interval: stats.Interval
    nb_tracks: int
    nb_dropped: int
    scenario: str
    rank: int | None
    best: bool


@dataclass(frozen=True)
class Change:
    """What a track gains or loses by a method against the baseline, in dB."""

    target: str
    track: str
    baseline: float
    value: float
    difference: float


@dataclass(frozen=True)
class Ranking:
    """Methods that were scored alike on a target, and the tests among them.

    Attributes
    ----------
    target : what was scored.
    methods : their names, in the order given; the first is the baseline of the pairs.
    p_values : of each pair of methods, Wilcoxon's signed-rank test with Holm's correction for all pairs.
    friedman : of three or more methods; None of two.
    """

    target: str
    methods: tuple[str, ...]
    p_values: dict[tuple[str, str], float]
    friedman: stats.Friedman | None

    def find_p(self, first: str, second: str) -> float:
        """Return the p of a pair, in any order."""
        return self.p_values.get((first, second), self.p_values.get((second, first), float("nan")))


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes
    ----------
    metric, aggregation : what is compared.
    together : whether methods that were scored unlike are ranked together.
    methods : in the order given.
    targets : all that any method has, in the dataset's order.
    groups : names of the methods that were scored alike, or all of them on request.
    differences : in what protocols differ, as `methods.find_differences` returns it.
    cells : by method and target; a target that a method lacks is not there.
    baselines : by method and target, the method that it is compared with.
    pairs : by method and target, its comparison with that baseline.
    rankings : of each target, where at least two methods were scored alike.
    changes : by method, the tracks with the largest gains and losses against the baseline, by target.
    reference : medians of SiSEC 2018 by method and target; empty where they cannot stand beside these scores.
    notes : what a reader has to know.
    """

    metric: str
    aggregation: str
    together: bool
    methods: tuple[Method, ...]
    targets: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    differences: dict[str, dict[str, list[str]]]
    cells: dict[str, dict[str, Cell]]
    baselines: dict[str, dict[str, str]]
    pairs: dict[str, dict[str, stats.Paired]]
    rankings: tuple[Ranking, ...]
    changes: dict[str, tuple[Change, ...]]
    reference: dict[str, dict[str, float]]
    notes: tuple[str, ...]


def compare(
    methods: Sequence[Method],
    *,
    metric: str = "SDR",
    aggregation: str | None = None,
    together: bool = False,
    nb_changes: int = 5,
    reference: bool = True,
) -> Comparison:
    """Return methods side by side.

    Parameters
    ----------
    methods : one or more. The first of those that are ranked together is the baseline of the others.
    metric : one of `scores.FRAME_METRICS` or `scores.TRACK_METRICS`, in any case.
    aggregation : one of `scores.AGGREGATIONS` that is made of this metric; the first such by default.
    together : rank methods together that were scored unlike; then only tracks count that all of them have.
    nb_changes : gains, and losses, for each method and target.
    reference : whether SiSEC 2018's medians stand beside, where they can.

    Raises
    ------
    ParameterError
        There is no such metric, or the aggregation is not made of it; or there are no methods.
    DatasetError
        A method has no scores of this metric, or no track is common to methods that are to be ranked together.
    """
    if not methods:
        raise ParameterError("no scores to compare, expected at least one folder")
    metric = scoring.METRICS.get(metric.lower(), metric)
    aggregation = _choose_aggregation(metric, aggregation)
    values = {method.name: _track_values(method, metric, aggregation) for method in methods}
    scenarios = {
        method.name: {target: method.find_scenario(target, aggregation) for target in values[method.name]}
        for method in methods
    }
    targets = tuple(scores.order_targets({target for by_target in values.values() for target in by_target}))
    groups = [list(methods)] if together else group_alike(methods)
    notes = []
    if together and len({method.protocol.tracks for method in methods}) > 1:
        common = frozenset[str].intersection(*(method.protocol.tracks for method in methods))
        if not common:
            raise DatasetError(f"{methods[0].path}: no track is in all the scores, expected some to rank them together")
        values = {name: {t: each[each.index.isin(common)] for t, each in of.items()} for name, of in values.items()}
        notes.append(f"only the {_count(len(common), 'track')} that all have are counted")

    rankings = []
    baselines: dict[str, dict[str, str]] = {method.name: {} for method in methods}
    ranks: dict[tuple[str, str], int] = {}
    best: set[tuple[str, str]] = set()
    for group in groups:
        for target, alike in _find_alike(group, targets, scenarios, together):
            baselines |= {each.name: baselines[each.name] | {target: alike[0].name} for each in alike[1:]}
            names = [method.name for method in alike if not method.bound] or [method.name for method in alike]
            if len(names) < 2:
                continue
            ranking = _rank(target, names, [values[name][target] for name in names])
            rankings.append(ranking)
            order = sorted(names, key=lambda name: _sort_key(_sum_up(values[name][target], aggregation)))
            ranks |= {(name, target): i + 1 for i, name in enumerate(order)}
            if _is_best(order[0], ranking):
                best.add((order[0], target))

    pairs = {
        name: {
            target: stats.compare_pair(*_align(values[name][target], values[baseline][target]))
            for target, baseline in by_target.items()
        }
        for name, by_target in baselines.items()
    }
    cells = {
        name: {
            target: _make_cell(
                each, aggregation, scenarios[name][target], ranks.get((name, target)), (name, target) in best
            )
            for target, each in by_target.items()
        }
        for name, by_target in values.items()
    }
    changes = {
        name: tuple(
            change
            for target in targets
            if target in by_target
            for change in _find_changes(target, values[name][target], values[by_target[target]][target], nb_changes)
        )
        for name, by_target in baselines.items()
    }
    medians, remarks = _find_reference(groups, targets, metric, aggregation, together) if reference else ({}, [])
    return Comparison(
        metric=metric,
        aggregation=aggregation,
        together=together,
        methods=tuple(methods),
        targets=targets,
        groups=tuple(tuple(method.name for method in group) for group in groups),
        differences=find_differences(methods) | _differing_scenarios(scenarios, targets),
        cells=cells,
        baselines=baselines,
        pairs=pairs,
        rankings=tuple(rankings),
        changes=changes,
        reference=medians,
        notes=(*notes, *_remark(methods, cells), *remarks),
    )


def _choose_aggregation(metric: str, aggregation: str | None) -> str:
    """Return the aggregation of a metric."""
    possible = [name for name, metrics in scores.METRICS_OF.items() if metric in metrics]
    if not possible:
        known = ", ".join(scoring.METRICS.values())
        raise ParameterError(f"metric is {metric!r}, expected one of {known}")
    if aggregation is None:
        return possible[0]
    if aggregation not in scores.AGGREGATIONS:
        raise ParameterError(f"{aggregation!r} is no aggregation, expected one of {', '.join(scores.AGGREGATIONS)}")
    if aggregation not in possible:
        raise ParameterError(f"{aggregation} is not made of {metric}, expected {' or '.join(possible)}")
    return aggregation


def _track_values(method: Method, metric: str, aggregation: str) -> dict[str, "Series"]:
    """Return a method's values by target, each a Series over tracks in order of their names."""
    table = method.table
    if metric not in set(table["metric"]):
        found = ", ".join(table["metric"].unique())
        raise DatasetError(f"{method.path}: no {metric}, found {found}: score with --metrics {metric.lower()}")
    values = scores.track_values(table[table["metric"] == metric], aggregation)[metric]
    return {target: values.xs(target, level="target") for target in scores.order_targets(values.index.unique("target"))}


def _find_alike(
    group: Sequence[Method], targets: Sequence[str], scenarios: dict[str, dict[str, str]], together: bool
) -> Iterator[tuple[str, list[Method]]]:
    """Yield targets with the methods, two or more, that scored them in the same scenario; or in any, on request."""
    for target in targets:
        by_scenario: dict[str, list[Method]] = {}
        for method in group:
            if target in scenarios[method.name]:
                by_scenario.setdefault("" if together else scenarios[method.name][target], []).append(method)
        for alike in by_scenario.values():
            if len(alike) > 1:
                yield target, alike


def _statistic(aggregation: str) -> Literal["median", "mean"]:
    """Return what an aggregation takes over tracks."""
    return "median" if aggregation == "sisec18" else "mean"


def _sum_up(values: "Series", aggregation: str) -> float:
    """Return the value of a method, nan where no track has one."""
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        return float(values.median() if _statistic(aggregation) == "median" else values.mean())


def _make_cell(values: "Series", aggregation: str, scenario: str, rank: int | None, best: bool) -> Cell:
    """Return what a method scores on a target."""
    known = values.dropna()
    return Cell(
        value=_sum_up(values, aggregation),
        interval=stats.bootstrap_interval(known.to_numpy(), _statistic(aggregation)),
        nb_tracks=len(known),
        nb_dropped=len(values) - len(known),
        scenario=scenario,
        rank=rank,
        best=best,
    )


def _sort_key(value: float) -> tuple[bool, float]:
    """Return what values are sorted by, the greatest first and nan last."""
    return np.isnan(value), -value


def _align(*columns: "Series") -> list[NDArray[np.float64]]:
    """Return the values of all tracks that any of the columns has, nan where one has it not."""
    import pandas as pd

    return list(pd.concat(columns, axis="columns").to_numpy().T)


def _rank(target: str, names: list[str], columns: list["Series"]) -> Ranking:
    """Return the tests among methods that were scored alike."""
    values = np.stack(_align(*columns), axis=1)
    p_values = stats.compare_all(values)
    return Ranking(
        target=target,
        methods=tuple(names),
        p_values={(names[i], names[k]): float(p_values[i, k]) for i, k in combinations(range(len(names)), 2)},
        friedman=stats.friedman(values) if len(names) > 2 else None,
    )


def _is_best(name: str, ranking: Ranking) -> bool:
    """Return whether a method, the first of its rank, is significantly better than all the others."""
    if ranking.friedman is not None and not ranking.friedman.p_value < stats.LEVEL:
        return False
    return all(ranking.find_p(name, other) < stats.LEVEL for other in ranking.methods if other != name)


def _find_changes(target: str, values: "Series", baseline: "Series", nb_changes: int) -> list[Change]:
    """Return the tracks with the largest gains, then those with the largest losses, each the largest first."""
    common = values.index.intersection(baseline.index)
    with np.errstate(invalid="ignore"):  # of two infinities
        differences = (values.loc[common] - baseline.loc[common]).dropna()
    ordered = differences.sort_values(kind="stable")
    losses, gains = ordered[ordered < 0].head(nb_changes), ordered[ordered > 0].tail(nb_changes)[::-1]
    return [
        Change(target, track, float(baseline[track]), float(values[track]), float(difference))
        for part in (gains, losses)
        for track, difference in part.items()
    ]


def _differing_scenarios(
    scenarios: dict[str, dict[str, str]], targets: Iterable[str]
) -> dict[str, dict[str, list[str]]]:
    """Return in what scenarios targets were scored where not all methods have the same, as `find_differences` does."""
    differences: dict[str, dict[str, list[str]]] = {}
    for target in targets:
        by_value: dict[str, list[str]] = {}
        for name, of in scenarios.items():
            if target in of:
                by_value.setdefault(of[target], []).append(name)
        if len(by_value) > 1:
            differences[f"scenario of {target}"] = by_value
    return differences


def _find_reference(
    groups: Sequence[Sequence[Method]], targets: Sequence[str], metric: str, aggregation: str, together: bool
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return SiSEC 2018's medians of the targets where they can stand beside these scores, and what is to be said."""
    obstacles = [_find_obstacle(group, metric, aggregation) for group in groups]
    if None not in obstacles and (not together or metric not in scores.FRAME_METRICS):
        return {}, [f"SiSEC 2018's medians are not shown: {obstacles[0]}"]
    medians = {
        method: {target: by_target[target][metric] for target in targets if target in by_target}
        for method, by_target in sisec18.read_medians().items()
    }
    first = next((target for target in targets if target in musdb18.TARGETS), "")
    shown = {name: of for name, of in medians.items() if of}
    order = sorted(shown, key=lambda name: -shown[name].get(first, -np.inf))
    alone = [name for name in order if "accompaniment" not in sisec18.read_medians()[name]]
    remarks = [f"SiSEC 2018: {sisec18.SOURCE}"] if shown else []
    if obstacles[0] is not None and shown:
        remarks.append(f"SiSEC 2018's medians were not made like these scores: {obstacles[0]}")
    if "vocals" in targets and alone:
        remarks.append(f"SiSEC 2018: {', '.join(alone)} have vocals scored beside drums, bass and other")
    return {name: shown[name] for name in order}, remarks


def _find_obstacle(group: Sequence[Method], metric: str, aggregation: str) -> str | None:
    """Return why SiSEC 2018's medians cannot stand beside the scores of a group, None where they can."""
    if metric not in scores.FRAME_METRICS or aggregation != "sisec18":
        return f"they are of frames, in the aggregation sisec18, and these are {metric} in {aggregation}"
    protocol = group[0].protocol
    seconds = {protocol.window_seconds, protocol.hop_seconds} - {None}
    if protocol.silence not in (None, "museval") or not seconds <= {sisec18.WINDOW_SECONDS} or protocol.mode == "v3":
        return "they are of BSSEval v4, frames of 1 s every 1 s and museval's silence rule"
    return _find_foreign_tracks(protocol)


def _find_foreign_tracks(protocol: Protocol) -> str | None:
    """Return in what tracks differ from those of SiSEC 2018, None where they do not."""
    if sisec18.covers(protocol.tracks):
        return None
    nb_tracks = len(musdb18.TEST_TRACKS)
    known = len(protocol.tracks.intersection(musdb18.TEST_TRACKS))
    if known < len(protocol.tracks):
        return f"they are of MUSDB18's {nb_tracks} test tracks, and some of these tracks are none of them"
    return f"they are of MUSDB18's {nb_tracks} test tracks, and here are {known}"


def _remark(methods: Sequence[Method], cells: dict[str, dict[str, Cell]]) -> list[str]:
    """Return what a reader has to know of the scores themselves."""
    remarks = []
    for method in methods:
        dropped = {target: cell.nb_dropped for target, cell in cells[method.name].items() if cell.nb_dropped}
        if dropped:
            found = ", ".join(f"{target} of {_count(number, 'track')}" for target, number in dropped.items())
            remarks.append(f"{method.name}: every frame was dropped: {found}")
    nb_tracks = min(len(method.protocol.tracks) for method in methods)
    if nb_tracks < FEW_TRACKS:
        remarks.append(f"{_count(nb_tracks, 'track')}: too few to tell methods apart")
    return remarks


def _count(number: int, noun: str) -> str:
    """Return a number of things as text."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
