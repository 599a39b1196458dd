"""Scored methods side by side: who is better on which target, by how much, and whether the tracks can tell.

Reads what `methods` loaded and SiSEC 2018's medians. Writes nothing.

Conventions: values are in dB. One metric and one aggregation at a time: each track has one value; a method's are summed
up, and methods are compared track by track. Methods are ranked together where they were scored alike: under the same
protocol and, for a target, in the same scenario and on the same tracks. A difference is significant where the p of the
paired test, after Holm's correction for all pairs that are ranked together on that target, is below `stats.LEVEL`, and
of three or more methods Friedman's p, too. Targets are tested each by itself: with five targets and no difference at
all, one in four tables shows one. Oracles are bounds and have no rank beside methods.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musdbkit import musdb18, scores, scoring, sisec18, stats
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.methods import Method, Protocol, describe_tracks, find_differences, find_unrecorded, group_alike

if TYPE_CHECKING:
    from pandas import Series

Values: TypeAlias = dict[str, dict[str, "Series"]]
"""By method and target, the value of each track that was scored, nan where it has none."""

FEW_TRACKS: Final = 10
"""With fewer tracks a comparison says little."""

_PAIR: Final = "+".join(scores.PAIR)


@dataclass(frozen=True)
class Cell:
    """What a method scores on a target.

    Attributes
    ----------
    value : aggregated over tracks, dB; nan where all tracks were dropped.
    interval : its 95 % bootstrap interval, of tracks drawn with replacement.
    nb_tracks : tracks with a value.
    nb_missing : tracks that were scored and have none: silent, or every frame was dropped.
    scenario : the targets that were evaluated together, as `vocals+accompaniment`.
    rank : from 1 for the best, among the methods that it is ranked with; None where it has no rank.
    best : whether it is significantly better than all others of its rank.
    """

    value: float
    interval: stats.Interval
    nb_tracks: int
    nb_missing: int
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
    methods : their names, in the order given.
    p_values : of each pair of methods, Wilcoxon's signed-rank test with Holm's correction for all of these pairs.
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
    baselines : by method and target, the method that it is compared with: the first that was scored alike and is no
        bound.
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
    scenarios = {method.name: method.find_scenarios(aggregation) for method in methods}
    targets = tuple(scores.order_targets({target for by_target in values.values() for target in by_target}))
    groups = [list(methods)] if together else group_alike(methods, metric)
    notes: list[str] = []
    differences = find_differences(methods, metric) | _differing_targets(values, scenarios, targets, groups)
    if together:
        values, notes = _keep_common(values, targets)
        if not any(len(each) for by_target in values.values() for each in by_target.values()):
            raise DatasetError(f"{methods[0].path}: no track is in all the scores, expected some to rank them together")
    standing = _rank_all(groups, targets, values, scenarios, aggregation, together)
    pairs = {
        name: {
            target: stats.compare_pair(*_align(values[name][target], values[baseline][target]))
            for target, baseline in by_target.items()
        }
        for name, by_target in standing.baselines.items()
    }
    cells = {
        name: {
            target: _make_cell(each, aggregation, scenarios[name][target], standing.ranks.get((name, target)))
            for target, each in by_target.items()
        }
        for name, by_target in values.items()
    }
    for name, target in standing.best:
        cells[name][target] = replace(cells[name][target], best=True)
    changes = {
        name: tuple(
            change
            for target in targets
            if target in by_target
            for change in _find_changes(target, values[name][target], values[by_target[target]][target], nb_changes)
        )
        for name, by_target in standing.baselines.items()
    }
    medians: dict[str, dict[str, float]] = {}
    remarks: list[str] = []
    if reference:
        medians, remarks = _find_reference(methods, values, scenarios, targets, metric, aggregation, together)
    return Comparison(
        metric=metric,
        aggregation=aggregation,
        together=together,
        methods=tuple(methods),
        targets=targets,
        groups=tuple(tuple(method.name for method in group) for group in groups),
        differences=differences,
        cells=cells,
        baselines=standing.baselines,
        pairs=pairs,
        rankings=tuple(standing.rankings),
        changes=changes,
        reference=medians,
        notes=(*notes, *standing.notes, *_remark(methods, values, cells, metric), *remarks),
    )


@dataclass(frozen=True)
class _Standing:
    """How methods stand to each other, by name and target: see `Comparison`."""

    rankings: list[Ranking]
    baselines: dict[str, dict[str, str]]
    ranks: dict[tuple[str, str], int]
    best: list[tuple[str, str]]
    notes: list[str]


def _rank_all(
    groups: Sequence[Sequence[Method]],
    targets: Sequence[str],
    values: Values,
    scenarios: dict[str, dict[str, str]],
    aggregation: str,
    together: bool,
) -> _Standing:
    """Return how methods stand to each other."""
    standing = _Standing([], {method.name: {} for group in groups for method in group}, {}, [], [])
    for group in groups:
        for target, alike in _find_alike(group, targets, values, scenarios, together):
            ranked = [method for method in alike if not method.bound] or alike
            for method in alike:
                if method is not ranked[0]:
                    standing.baselines[method.name][target] = ranked[0].name
            names = [method.name for method in ranked if values[method.name][target].notna().any()]
            if len(names) < 2:
                continue
            ranking = _rank(target, names, [values[name][target] for name in names])
            standing.rankings.append(ranking)
            order = sorted(names, key=lambda name: -_sum_up(values[name][target], aggregation))
            standing.ranks.update({(name, target): i + 1 for i, name in enumerate(order)})
            ahead = {
                other: stats.estimate_difference(*_align(values[order[0]][target], values[other][target]))[0]
                for other in order[1:]
            }
            if _is_best(order[0], ahead, ranking):
                standing.best.append((order[0], target))
            standing.notes.extend(
                f"{target}: {order[0]} has the higher {_statistic(aggregation)}, but track by track {other} is "
                "significantly better"
                for other, difference in ahead.items()
                if difference < 0 and ranking.find_p(order[0], other) < stats.LEVEL
            )
    return standing


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
        advice = f"score with --metrics {metric.lower()}" if method.protocol.document else "museval wrote no others"
        raise DatasetError(f"{method.path}: no {metric}, found {found}: {advice}")
    values = scores.track_values(table[table["metric"] == metric], aggregation)[metric]
    return {target: values.xs(target, level="target") for target in scores.order_targets(values.index.unique("target"))}


def _find_alike(
    group: Sequence[Method],
    targets: Sequence[str],
    values: Values,
    scenarios: dict[str, dict[str, str]],
    together: bool,
) -> Iterator[tuple[str, list[Method]]]:
    """Yield targets with the methods, two or more, that scored them in one scenario and on the same tracks.

    On request it may be any scenario, and tracks are those that all have.
    """
    for target in targets:
        by_kind: dict[object, list[Method]] = {}
        for method in group:
            if target in values[method.name]:
                kind = (scenarios[method.name][target], frozenset(values[method.name][target].index))
                by_kind.setdefault(None if together else kind, []).append(method)
        for alike in by_kind.values():
            if len(alike) > 1:
                yield target, alike


def _keep_common(values: Values, targets: Sequence[str]) -> tuple[Values, list[str]]:
    """Return of each target only the tracks that all methods with that target have, and what was left out."""
    common = {
        target: frozenset[str].intersection(*(frozenset(of[target].index) for of in values.values() if target in of))
        for target in targets
    }
    cut = [
        target
        for target in targets
        if any(len(of[target]) > len(common[target]) for of in values.values() if target in of)
    ]
    kept = {name: {t: each[each.index.isin(common[t])] for t, each in of.items()} for name, of in values.items()}
    numbers = {len(common[target]) for target in targets}
    if not cut:
        return kept, []
    if len(numbers) == 1:
        return kept, [f"only the {_count(numbers.pop(), 'track')} that all have are counted"]
    listed = ", ".join(f"{target} {len(common[target])}" for target in targets)
    return kept, [f"only tracks that all have are counted: {listed}"]


def _statistic(aggregation: str) -> Literal["median", "mean"]:
    """Return what an aggregation takes over tracks."""
    return "median" if aggregation == "sisec18" else "mean"


def _sum_up(values: "Series", aggregation: str) -> float:
    """Return the value of a method, nan where no track has one."""
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        return float(values.median() if _statistic(aggregation) == "median" else values.mean())


def _make_cell(values: "Series", aggregation: str, scenario: str, rank: int | None) -> Cell:
    """Return what a method scores on a target."""
    known = values.dropna()
    return Cell(
        value=_sum_up(values, aggregation),
        interval=stats.bootstrap_interval(known.to_numpy(), _statistic(aggregation)),
        nb_tracks=len(known),
        nb_missing=len(values) - len(known),
        scenario=scenario,
        rank=rank,
        best=False,
    )


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


def _is_best(name: str, ahead: dict[str, float], ranking: Ranking) -> bool:
    """Return whether a method is significantly better than all the others, by `stats.TIE_DB` or more."""
    if ranking.friedman is not None and not ranking.friedman.p_value < stats.LEVEL:
        return False
    return all(
        difference >= stats.TIE_DB and ranking.find_p(name, other) < stats.LEVEL for other, difference in ahead.items()
    )


def _find_changes(target: str, values: "Series", baseline: "Series", nb_changes: int) -> list[Change]:
    """Return the tracks with the largest gains, then those with the largest losses, each the largest first."""
    common = values.index.intersection(baseline.index)
    with np.errstate(invalid="ignore"):  # of two infinities
        differences = (values.loc[common] - baseline.loc[common]).dropna()
    ordered = differences.sort_values(kind="stable")
    losses = ordered[ordered <= -stats.TIE_DB].head(nb_changes)
    gains = ordered[ordered >= stats.TIE_DB].tail(nb_changes)[::-1]
    return [
        Change(target, track, float(baseline[track]), float(values[track]), float(difference))
        for part in (gains, losses)
        for track, difference in part.items()
    ]


def _differing_targets(
    values: Values,
    scenarios: dict[str, dict[str, str]],
    targets: Iterable[str],
    groups: Sequence[Sequence[Method]],
) -> dict[str, dict[str, list[str]]]:
    """Return in which scenarios, and in groups on which tracks, targets were scored, as `find_differences` does."""
    differences: dict[str, dict[str, list[str]]] = {}
    for target in targets:
        by_scenario: dict[str, list[str]] = {}
        for name, of in values.items():
            if target in of:
                by_scenario.setdefault(scenarios[name][target], []).append(name)
        if len(by_scenario) > 1:
            differences[f"scenario of {target}"] = by_scenario
        for group in groups:
            names = [method.name for method in group if target in values[method.name]]
            tracks = {name: frozenset(values[name][target].index) for name in names}
            if len({method.protocol.tracks for method in group}) == 1 and len(set(tracks.values())) > 1:
                for name, text in describe_tracks(tracks).items():
                    differences.setdefault(f"tracks of {target}", {}).setdefault(text, []).append(name)
    return differences


def _find_reference(
    methods: Sequence[Method],
    values: Values,
    scenarios: dict[str, dict[str, str]],
    targets: Sequence[str],
    metric: str,
    aggregation: str,
    together: bool,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return SiSEC 2018's medians of the targets where they can stand beside these scores, and what is to be said."""
    if metric not in scores.FRAME_METRICS or aggregation != "sisec18":
        made = f"they are of frames, in the aggregation sisec18, and these are {metric} in {aggregation}"
        return {}, [f"SiSEC 2018's medians are not shown: {made}"]
    obstacles: dict[str, list[str]] = {}
    for method in methods:
        counted = frozenset(track for each in values[method.name].values() for track in each.index)
        if (obstacle := _find_obstacle(method.protocol, counted)) is not None:
            obstacles.setdefault(obstacle, []).append(method.name)
    if not together and sum(map(len, obstacles.values())) == len(methods):
        return {}, [f"SiSEC 2018's medians are not shown: {' and '.join(obstacles)}"]
    medians = {
        method: {target: by_target[target][metric] for target in targets if target in by_target}
        for method, by_target in sisec18.read_medians().items()
    }
    shown = {name: of for name, of in medians.items() if of}
    if not shown:
        return {}, []
    first = next(target for target in targets if any(target in of for of in shown.values()))
    order = sorted(shown, key=lambda name: -shown[name].get(first, -np.inf))
    remarks = [
        f"SiSEC 2018's medians were not made like the scores of {', '.join(names)}: {obstacle}"
        for obstacle, names in obstacles.items()
    ]
    if names := [method.name for method in methods if method.layouts == ["hq"]]:
        remarks.append(
            f"SiSEC 2018 scored against MUSDB18's stem files; the references of {', '.join(names)} are wavs without "
            "accompaniment, as MUSDB18-HQ has them"
        )
    alone = [name for name in order if "accompaniment" not in sisec18.read_medians()[name]]
    beside = [name for name, of in scenarios.items() if of.get("vocals", _PAIR) != _PAIR]
    if "vocals" in targets:
        remarks.append(
            f"SiSEC 2018: vocals of {', '.join([*alone, *beside])} are scored beside drums, bass and other, those of "
            "all others against the accompaniment"
        )
    return {name: shown[name] for name in order}, [*remarks, f"SiSEC 2018: {sisec18.SOURCE}"]


def _find_obstacle(protocol: Protocol, tracks: frozenset[str]) -> str | None:
    """Return why SiSEC 2018's medians cannot stand beside scores of some tracks, None where they can."""
    seconds = {protocol.window_seconds, protocol.hop_seconds} - {None}
    if protocol.silence not in (None, "museval") or not seconds <= {sisec18.WINDOW_SECONDS} or protocol.mode == "v3":
        return "they are of BSSEval v4, frames of 1 s every 1 s and museval's silence rule"
    if sisec18.covers(tracks):
        return None
    nb_tracks = len(musdb18.TEST_TRACKS)
    if not tracks <= set(musdb18.TEST_TRACKS):
        return f"they are of MUSDB18's {nb_tracks} test tracks, and some of these tracks are none of them"
    return f"they are of MUSDB18's {nb_tracks} test tracks, and here are {len(tracks)}"


def _remark(methods: Sequence[Method], values: Values, cells: dict[str, dict[str, Cell]], metric: str) -> list[str]:
    """Return what a reader has to know of the scores themselves."""
    remarks = []
    for field, names in find_unrecorded(methods, metric).items():
        remarks.append(f"{field}: not recorded in {', '.join(names)}, taken to be as in the others")
    for method in methods:
        for target, cell in cells[method.name].items():
            of = f"of {_count(len(method.protocol.tracks), 'track')}"
            if (nb_scored := len(values[method.name][target])) < len(method.protocol.tracks):
                remarks.append(f"{method.name}: {target} was scored in {nb_scored} {of}")
            if cell.nb_missing:
                remarks.append(
                    f"{method.name}: {target} has no value in {cell.nb_missing} {of}: silent, or every frame dropped"
                )
    nb_tracks = min((cell.nb_tracks for of in cells.values() for cell in of.values()), default=0)
    if nb_tracks < FEW_TRACKS:
        remarks.append(f"{_count(nb_tracks, 'track')}: too few to tell methods apart")
    return remarks


def _count(number: int, noun: str) -> str:
    """Return a number of things as text."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
