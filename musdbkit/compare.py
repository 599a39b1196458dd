"""Scored methods side by side: who is better on which target, by how much, and whether the tracks can tell.

Reads what `methods` loaded and SiSEC 2018's medians. Writes nothing.

Conventions: values are in dB. One metric and one aggregation at a time: each track has one value; a method's are summed
up, and methods are compared track by track. `rankings` says which are ranked together, and what is significant.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from musdbkit import musdb18, scores, scoring, sisec18, stats
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.methods import Method, Protocol, describe_tracks, find_differences, find_unrecorded, group_alike
from musdbkit.rankings import Ranking, Values, align_tracks, keep_common, rank_all, statistic_of, sum_up

if TYPE_CHECKING:
    from pandas import Series

FEW_TRACKS: Final = 10
"""With fewer tracks a comparison says little, and that is noted."""

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
    nb_infinite : tracks that were scored and have none, since their frames are infinite and the aggregation leaves
        these out.
    scenario : the targets that were evaluated together, as `vocals+accompaniment`.
    rank : from 1 for the best, among the methods that it is ranked with; None where it has no rank.
    best : whether it is significantly better than all others that it is ranked with.
    apart : whether it is in another scenario or of other tracks than the first of its group that has the target, so
        that it is ranked apart from that.
    """

    value: float
    interval: stats.Interval
    nb_tracks: int
    nb_missing: int
    nb_infinite: int
    scenario: str
    rank: int | None
    best: bool
    apart: bool


@dataclass(frozen=True)
class Change:
    """What a track gains or loses by a method against the baseline, in dB."""

    target: str
    track: str
    baseline: float
    value: float
    difference: float


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
        bound, of bounds the floor.
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

    def find_p(self, target: str, first: str, second: str) -> float:
        """Return the corrected p of two methods on a target; nan where they are not ranked together."""
        found = (ranking.find_p(first, second) for ranking in self.rankings if ranking.target == target)
        return next((p for p in found if not np.isnan(p)), float("nan"))


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
    methods : one or more. The first of those that are ranked together is the baseline of the others; oracles, which are
        bounds, are no baseline of methods.
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
        values, notes = keep_common(values, targets)
        if not any(len(each) for by_target in values.values() for each in by_target.values()):
            raise DatasetError(f"{methods[0].path}: no track is in all the scores, expected some to rank them together")
    infinite = {method.name: _count_infinite(method, metric, aggregation, values[method.name]) for method in methods}
    standing = rank_all(groups, targets, values, scenarios, aggregation, together)
    pairs = {
        name: {
            target: stats.compare_pair(*align_tracks(values[name][target], values[baseline][target]))
            for target, baseline in by_target.items()
        }
        for name, by_target in standing.baselines.items()
    }
    cells = {
        name: {
            target: Cell(
                value=sum_up(each, aggregation),
                interval=stats.bootstrap_interval(each, statistic_of(aggregation)),
                nb_tracks=int(each.notna().sum()),
                nb_missing=int(each.isna().sum()) - infinite[name].get(target, 0),
                nb_infinite=infinite[name].get(target, 0),
                scenario=scenarios[name][target],
                rank=standing.ranks.get((name, target)),
                best=(name, target) in standing.best,
                apart=(name, target) in standing.apart,
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
        others = list(table["metric"].unique())
        advice = f"take --metric {others[0].lower()}"
        if method.protocol.document is not None:
            advice += f", or score with --metrics {metric.lower()}"
        raise DatasetError(f"{method.path}: no {metric}, found {', '.join(others)}: {advice}")
    values = scores.track_values(table[table["metric"] == metric], aggregation)[metric]
    return {target: values.xs(target, level="target") for target in scores.order_targets(values.index.unique("target"))}


def _count_infinite(method: Method, metric: str, aggregation: str, values: Mapping[str, "Series"]) -> dict[str, int]:
    """Return by target how many tracks have no value, but infinite frames that the aggregation leaves out."""
    rows = scores.used_rows(method.table, aggregation)
    rows = rows[(rows["metric"] == metric) & np.isinf(rows["value"])]
    found = {target: set(part) for target, part in rows["track"].groupby(rows["target"])}
    return {
        target: len(found[target].intersection(each.index[each.isna()]))
        for target, each in values.items()
        if target in found
    }


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
        return {}, [f"SiSEC 2018's medians are not shown: {obstacle}" for obstacle in obstacles]
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
        here = f", and here of {', '.join(beside)}," if beside else ""
        remarks.append(
            f"SiSEC 2018: vocals of {', '.join(alone)}{here} are scored beside drums, bass and other, those of all "
            "others against the accompaniment"
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
        return f"they are of MUSDB18's {nb_tracks} test tracks, and some of these are not among them"
    return f"they are of MUSDB18's {nb_tracks} test tracks, and here are {len(tracks)}"


def _remark(methods: Sequence[Method], values: Values, cells: dict[str, dict[str, Cell]], metric: str) -> list[str]:
    """Return what a reader has to know of the scores themselves."""
    remarks = []
    for field, names in find_unrecorded(methods, metric).items():
        remarks.append(f"{field}: not recorded in {', '.join(names)}, taken to be as in the others")
    for method in methods:
        remarks += [f"{method.name}: {note}" for note in method.notes]
        of = f"of {_count(len(method.protocol.tracks), 'track')}"
        for target, cell in cells[method.name].items():
            if (nb_scored := len(values[method.name][target])) < len(method.protocol.tracks):
                remarks.append(f"{method.name}: {target} was scored in {nb_scored} {of}")
            if cell.nb_missing:
                remarks.append(
                    f"{method.name}: {target} has no value in {cell.nb_missing} {of}: silent, or every frame dropped"
                )
            if cell.nb_infinite:
                remarks.append(
                    f"{method.name}: {target} has no value in {cell.nb_infinite} {of}: frames are infinite, which the "
                    "aggregation leaves out"
                )
    ranked = [cell.nb_tracks for of in cells.values() for cell in of.values() if cell.rank is not None]
    if (nb_tracks := min(ranked, default=FEW_TRACKS)) < stats.LEAST_TRACKS:
        remarks.append(f"{_count(nb_tracks, 'track')}: too few to tell methods apart")
    elif nb_tracks < FEW_TRACKS:
        remarks.append(f"{nb_tracks} tracks: only large differences can be found, which say little of other tracks")
    return remarks


def _count(number: int, noun: str) -> str:
    """Return a number of things as text."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
