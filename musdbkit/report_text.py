"""What a report says: sentences, tables and the protocol, as text.

Reads a comparison. Writes nothing: what it returns is plain text in dicts and lists, which the template
templates/report.html.j2 sets, and escapes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from musdbkit import musdb18, scores, sisec18, stats
from musdbkit.compare import Cell, Comparison
from musdbkit.excerpts import worst_seconds
from musdbkit.methods import Method, find_differences
from musdbkit.rankings import Ranking, statistic_of
from musdbkit.report_data import frame_aggregation

NB_WORST: Final = 20
"""Worst seconds that are listed of each method."""

_MINUS, _NO_VALUE, _TIED = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}"
_NB_SENTENCES: Final = 3  # about single methods, at the top of the page
_NB_SUBMISSIONS: Final = 4  # of SiSEC 2018, in the short list beside the best of each target
_TAGS: Final = {"floor": "the mixture, a floor", "ceiling": "an oracle, a ceiling", None: ""}
_MUSDB18: Final = (
    "Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis, R. Bittner: The MUSDB18 corpus for music separation, 2017,",
    "https://doi.org/10.5281/zenodo.1117372",
)
_WILCOXON: Final = (
    "J. Demšar: Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006,",
    "https://jmlr.org/papers/v7/demsar06a.html",
)


def make_page(comparison: Comparison, tracks: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template writes as text.

    Parameters
    ----------
    comparison : what is reported.
    tracks : names of all tracks, in the order of the page.
    values : by metric and method, of each track and target, as `report_data.track_values` returns.
    """
    methods, metric = comparison.methods, comparison.metric
    names = [method.name for method in methods if not method.bound] or [method.name for method in methods]
    remarks = [note for note in comparison.notes if note.startswith("SiSEC 2018")]
    return {
        "title": f"Scores of {_join(names)}" if len(names) < 4 else f"Scores of {len(names)} methods",
        "metric": metric,
        "targets": comparison.targets,
        "sentences": _write_sentences(comparison),
        "facts": _list_facts(comparison, tracks),
        "warnings": _list_warnings(comparison, remarks),
        "summary": _list_groups(comparison),
        "apart": _explain_daggers(comparison),
        "reference": _reference_rows(comparison),
        "choice": _explain_choice(comparison),
        "reading": _how_to_read(comparison, remarks),
        "pairs": _list_pairs(comparison),
        "tests": _explain_tests(comparison),
        "changes": _list_changes(comparison),
        "metric_options": [(each, each) for each in values],
        "frame_metric_options": list(enumerate(each for each in values if each in scores.FRAME_METRICS)),
        "method_options": [(i, method.name) for i, method in enumerate(methods)],
        **_list_tracks(comparison, tracks, values[metric]),
        "worst": _list_worst(comparison, tracks),
        "protocols": [_describe_protocol(method) for method in methods],
        "sources": [
            {"text": sisec18.SOURCE, "link": ""},
            {"text": _MUSDB18[0], "link": _MUSDB18[1]},
            {"text": _WILCOXON[0], "link": _WILCOXON[1]},
        ],
    }


def _write_sentences(comparison: Comparison) -> list[str]:
    """Return what was found, in words: who leads, then a few methods against their baselines, the furthest first."""
    methods = {method.name: method for method in comparison.methods}
    ranked = [
        name
        for name, by_target in comparison.baselines.items()
        if not methods[name].bound and any(not methods[baseline].bound for baseline in by_target.values())
    ]
    ranked.sort(key=lambda name: -_greatest_difference(comparison, name))
    baselines = {baseline for name in ranked for baseline in comparison.baselines[name].values()}
    alone = [name for name in methods if name not in ranked and name not in baselines and not methods[name].bound]
    described = [_compare_in_words(comparison, name) for name in ranked]
    described += [_score_in_words(comparison, name) for name in alone or ([] if ranked else methods)]
    sentences = [*_name_leaders(comparison), *described[:_NB_SENTENCES]]
    if (nb_more := len(described) - _NB_SENTENCES) > 0:
        sentences.append(f"{nb_more} more method{' is' if nb_more == 1 else 's are'} compared below.")
    return sentences


def _greatest_difference(comparison: Comparison, name: str) -> float:
    """Return by how much a method differs from its baseline on the target where it does most, in dB."""
    sizes = (abs(pair.difference) for pair in comparison.pairs[name].values())
    return max((size for size in sizes if not math.isnan(size)), default=0.0)


def _name_leaders(comparison: Comparison) -> list[str]:
    """Return which method leads on each target, whether significantly, and which targets have no ranking."""
    if not comparison.rankings:
        return []
    numbers = [ranking.target for ranking in comparison.rankings]
    clauses: dict[tuple[str, str, str], list[str]] = {}
    for ranking in comparison.rankings:
        cells = {name: comparison.cells[name][ranking.target] for name in ranking.methods}
        leader = min(cells, key=lambda name: cells[name].rank or len(cells) + 1)
        nb_methods = len(ranking.methods)
        scope = _join(ranking.methods) if nb_methods < 4 else f"{nb_methods} methods"
        among = f" among {scope}" if numbers.count(ranking.target) > 1 else ""
        kind = "best" if cells[leader].best else "few" if _is_short(comparison, ranking) else "none"
        clauses.setdefault((kind, leader if kind == "best" else "", among), []).append(
            ranking.target if kind == "best" else f"{ranking.target} (highest: {leader})"
        )
    words = {
        "none": "no method leads significantly",
        "few": f"the tracks are too few to tell who leads, fewer than {stats.LEAST_TRACKS},",
    }
    found = [
        f"{f'{leader} leads significantly' if kind == 'best' else words[kind]}{among} on {_join(targets)}"
        for (kind, leader, among), targets in sorted(
            clauses.items(), key=lambda item: ("best", "none", "few").index(item[0][0])
        )
    ]
    unranked = [target for target in comparison.targets if target not in numbers]
    if unranked:
        verb = "is" if len(unranked) == 1 else "are"
        found.append(f"{_join(unranked)} {verb} not ranked, for no two methods were scored alike on {_them(unranked)}")
    return [f"In {comparison.metric}, {'; '.join(found)}."]


def _them(names: Sequence[str]) -> str:
    """Return the pronoun of names."""
    return "it" if len(names) == 1 else "them"


def _is_short(comparison: Comparison, ranking: Ranking) -> bool:
    """Return whether no paired test among ranked methods could be significant, whatever the values."""
    tracks = (comparison.cells[name][ranking.target].nb_tracks for name in ranking.methods)
    return min(tracks) < stats.LEAST_TRACKS


def _compare_in_words(comparison: Comparison, name: str) -> str:
    """Return how a method compares with its baseline."""
    bounds = {method.name for method in comparison.methods if method.bound}
    parts: dict[tuple[str, str], list[str]] = {}
    counts, few = set(), set()
    for target, baseline in comparison.baselines[name].items():
        if baseline in bounds:
            continue
        pair, p = comparison.pairs[name][target], comparison.find_p(target, name, baseline)
        if pair.nb_tracks < stats.LEAST_TRACKS:
            parts.setdefault((baseline, "few"), []).append(target)
            few.add(pair.nb_tracks)
            continue
        counts.add(pair.nb_tracks)
        if p < stats.LEVEL:
            kind = "better" if pair.difference > 0 else "worse"
            size = f" by {_size(abs(pair.difference), pair.interval, pair.difference < 0)} ({_p_text(p)})"
            parts.setdefault((baseline, kind), []).append(f"on {target}{size}")
        else:
            parts.setdefault((baseline, "none"), []).append(target)
    clauses = [
        f"{name} is {kind} than {baseline} {_join(found)}"
        for (baseline, kind), found in parts.items()
        if kind in ("better", "worse")
    ]
    for (baseline, kind), found in parts.items():
        if kind == "none":
            between = f"from {baseline}" if clauses else f"between {name} and {baseline}"
            clauses.append(f"no significant difference {between} is found on {_join(found)}")
    told = [f"Over {_span(counts)}, {'; '.join(clauses)}."] if clauses else []
    told += [
        f"{_span(few)} {'is' if few == {1} else 'are'} too few to tell {name} from {baseline} on {_join(found)}."
        for (baseline, kind), found in parts.items()
        if kind == "few"
    ]
    return " ".join(told)


def _span(counts: Collection[int]) -> str:
    """Return numbers of tracks as text."""
    low, high = min(counts), max(counts)
    return f"{low} to {high} tracks" if low < high else f"{low} track{'' if low == 1 else 's'}"


def _score_in_words(comparison: Comparison, name: str) -> str:
    """Return what a method scores."""
    cells = comparison.cells[name]
    found = [f"{_size(cell.value, cell.interval)} on {target}" for target, cell in cells.items()]
    nb_tracks = max((cell.nb_tracks for cell in cells.values()), default=0)
    statistic = statistic_of(comparison.aggregation)
    return (
        f"{name} has {'an' if comparison.metric[0] in 'SI' and comparison.metric != 'SI-SDR' else 'a'} "
        f"{comparison.metric} of {_join(found)}: the {statistic} over {nb_tracks} track{'' if nb_tracks == 1 else 's'}."
    )


def _list_facts(comparison: Comparison, tracks: Sequence[str]) -> list[tuple[str, str]]:
    """Return what was compared, as labels and values."""
    nb_bounds = sum(method.bound is not None for method in comparison.methods)
    nb_methods = len(comparison.methods) - nb_bounds
    bounds = f"{nb_bounds} bound{'' if nb_bounds == 1 else 's'}"
    of = {_sum_up_protocol(method, comparison.metric) for method in comparison.methods}
    return [
        ("Methods", bounds if not nb_methods else f"{nb_methods} and {bounds}" if nb_bounds else str(nb_methods)),
        ("Tracks", str(len(tracks))),
        ("Metric", f"{comparison.metric}, aggregated as {comparison.aggregation}"),
        ("Protocol", of.pop() if len(of) == 1 else "not the same for all methods"),
    ]


def _sum_up_protocol(method: Method, metric: str) -> str:
    """Return how a method was scored, as far as it has influence on the metric."""
    protocol, assumed = method.protocol, ", assumed" if method.protocol.document is None else ""
    subset = f"subset {protocol.subset or 'not recorded'}"
    if metric in scores.TRACK_METRICS:
        return f"whole tracks, {subset}"
    silence = f"{protocol.silence}{chr(39)}s" if protocol.silence == "museval" else protocol.silence
    return (
        f"BSSEval {protocol.mode or '(version not recorded)'}, frames of {protocol.window or 'a length not recorded'}, "
        f"silence rule {f'{silence}{assumed}' if silence else 'not recorded'}, {subset}"
    )


def _list_warnings(comparison: Comparison, remarks: Sequence[str]) -> list[str]:
    """Return what a reader has to know before the numbers."""
    warnings = [
        f"The methods differ in {field}: "
        + "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())
        + "."
        for field, by_value in comparison.differences.items()
    ]
    if len(comparison.groups) > 1:
        groups = "; ".join(", ".join(group) for group in comparison.groups)
        warnings.append(f"Only methods that were scored alike are ranked together: {groups}.")
    for method in comparison.methods:
        counts = (method.protocol.document or {}).get("tracks")
        for kind, word in (("missing", "without estimates"), ("failed", "could not be scored")):
            names = counts.get(kind) if isinstance(counts, dict) else None
            if names and isinstance(names, list | dict):  # a list of names, or an object of reasons
                listed = ", ".join(map(str, names))
                warnings.append(f"{method.name}: {len(names)} track{'' if len(names) == 1 else 's'} {word}: {listed}.")
    notes = [note for note in comparison.notes if note not in remarks]
    return [*warnings, *(f"{note}." for note in notes)]


def _summary_row(comparison: Comparison, method: Method) -> dict[str, Any]:
    """Return a method's row in the table of scores."""
    cells = comparison.cells[method.name]
    return {
        "name": method.name,
        "chosen": True,
        "tag": _TAGS[method.bound],
        "kind": "bound" if method.bound else "method",
        "cells": [_summary_cell(cells.get(target)) for target in comparison.targets],
    }


def _summary_cell(cell: Cell | None) -> dict[str, Any] | None:
    """Return a cell of the table of scores, None where there is no value."""
    if cell is None or math.isnan(cell.value):
        return None
    return {"text": _db(cell.value), "interval": _interval(cell.interval), "best": cell.best, "apart": cell.apart}


def _list_groups(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of the table of scores, by group of methods that were scored alike, each with its heading."""
    methods = {method.name: method for method in comparison.methods}
    protocols = find_differences(comparison.methods, comparison.metric)
    groups = []
    for i, names in enumerate(comparison.groups):
        kinds = [f"{field} {value}" for field, of in protocols.items() for value, who in of.items() if names[0] in who]
        heading = f"scored {'otherwise' if i else 'alike'}: {'; '.join(kinds)}" if len(comparison.groups) > 1 else ""
        groups.append({"heading": heading, "rows": [_summary_row(comparison, methods[name]) for name in names]})
    return groups


def _explain_daggers(comparison: Comparison) -> str:
    """Return what is different about the cells that are ranked apart from the others of their column."""
    found: dict[str, list[str]] = {}
    for group in comparison.groups:
        for target in comparison.targets:
            cells = {name: of[target] for name in group if target in (of := comparison.cells[name])}
            first = next(iter(cells.values()), None)
            for name, cell in cells.items():
                if cell.apart and first is not None:
                    how = (
                        f"on other tracks ({cell.nb_tracks})"
                        if cell.scenario == first.scenario
                        else f"as {cell.scenario} instead of {first.scenario}"
                    )
                    found.setdefault(f"{target} was scored {how}", []).append(name)
    if not found:
        return ""
    listed = "; ".join(f"{what} ({', '.join(names)})" for what, names in found.items())
    return f"† Ranked apart from the other values of the column: {listed}."


def _reference_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of SiSEC 2018's methods, with those that are chosen for the short list."""
    reference = comparison.reference
    submissions = sisec18.find_submissions(reference)
    best = [
        max((name for name in group if target in reference[name]), key=lambda name: reference[name][target], default="")
        for group in (submissions, [name for name in reference if name in sisec18.CEILINGS])
        for target in comparison.targets
    ]
    chosen = {sisec18.FLOOR, *best, *submissions[:_NB_SUBMISSIONS]}
    return [
        {
            "name": name,
            "tag": "mixture" if name == sisec18.FLOOR else "oracle" if name in sisec18.CEILINGS else "",
            "kind": "reference",
            "chosen": name in chosen,
            "cells": [
                {"text": _db(values[target]), "interval": "", "best": False, "apart": False}
                if target in values
                else None
                for target in comparison.targets
            ],
        }
        for name, values in reference.items()
    ]


def _explain_choice(comparison: Comparison) -> str:
    """Return why which methods of SiSEC 2018 are in the short list."""
    if not comparison.reference:
        return ""
    first = next(target for target in comparison.targets if any(target in of for of in comparison.reference.values()))
    return (
        f"Of SiSEC 2018's {len(comparison.reference)} methods are shown the mixture, the best submission and the best "
        f"oracle of each target, and the {_NB_SUBMISSIONS} best submissions on {first}; medians are as published, "
        "without intervals, and not tested."
    )


def _explain_tests(comparison: Comparison) -> str:
    """Return what the columns of the table of differences mean, as far as there are values in them."""
    rows = [row for pair in _list_pairs(comparison) for row in pair["rows"]]
    words = [
        "The difference is the shift about which the signed ranks balance (Hodges and Lehmann); the interval holds all "
        "shifts that the test of this pair alone, uncorrected, would not reject. Better, same and worse count tracks; "
        f"less than {stats.TIE_DB:g} dB is the same."
    ]
    if any(row["p"] != _NO_VALUE for row in rows):
        words.append(
            "p is of a paired Wilcoxon signed-rank test over tracks, corrected after Holm for all pairs of methods "
            "that are ranked together on the target."
        )
    if any(row["significant"] for row in rows):
        words.append(f"* marks p below {stats.LEVEL:g}.")
    if any(row["resolvable"] != _NO_VALUE for row in rows):
        words.append(
            "Resolvable is the smallest difference that 50 such tracks would show, by this test alone, uncorrected, in "
            "four of five cases."
        )
    if any(method.bound for method in comparison.methods):
        words.append("Bounds are not tested and have no p.")
    return " ".join(words)


def _how_to_read(comparison: Comparison, remarks: Sequence[str]) -> list[str]:
    """Return what the table of scores means."""
    sentences = [
        f"Each value is {comparison.metric} in dB, aggregated as {comparison.aggregation}: "
        f"{scores.AGGREGATIONS[comparison.aggregation]}.",
    ]
    if any(not math.isnan(cell.interval.low) for cells in comparison.cells.values() for cell in cells.values()):
        sentences.append("In brackets is the 95 % bootstrap interval over tracks.")
    if any(cell.best for cells in comparison.cells.values() for cell in cells.values()):
        sentences.append(
            "Bold and an asterisk mark the best where it is significantly better than all it is ranked with."
        )
    return [" ".join(sentences), *(f"{remark}." for remark in remarks if sisec18.SOURCE not in remark)]


def _list_pairs(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the paired comparisons, by method and baseline."""
    pairs = []
    for name, by_target in comparison.baselines.items():
        for baseline in dict.fromkeys(by_target.values()):
            targets = [target for target, other in by_target.items() if other == baseline]
            rows = [_pair_row(comparison, name, baseline, target) for target in targets]
            pairs.append({"method": name, "baseline": baseline, "rows": rows})
    return pairs


def _pair_row(comparison: Comparison, name: str, baseline: str, target: str) -> dict[str, Any]:
    """Return one paired comparison."""
    pair, p = comparison.pairs[name][target], comparison.find_p(target, name, baseline)
    return {
        "target": target,
        "difference": _db(pair.difference, signed=True),
        "interval": _interval(pair.interval) or _NO_VALUE,
        "counts": f"{pair.wins} / {pair.ties} / {pair.losses}",
        "p": _NO_VALUE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "significant": p < stats.LEVEL,
        "resolvable": _db(pair.resolvable),
        "tracks": str(pair.nb_tracks) + (f" (of {pair.nb_tracks + pair.nb_left_out})" if pair.nb_left_out else ""),
    }


def _list_changes(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the largest gains and losses, by method; bounds gain and lose everywhere."""
    bounds = {method.name for method in comparison.methods if method.bound}
    return [
        {
            "method": name,
            "baseline": " or ".join(dict.fromkeys(comparison.baselines[name].values())),
            "rows": [
                {
                    "track": change.track,
                    "target": change.target,
                    "before": _db(change.baseline),
                    "after": _db(change.value),
                    "difference": _db(change.difference, signed=True),
                }
                for change in changes
            ],
        }
        for name, changes in comparison.changes.items()
        if changes and name not in bounds
    ]


def _list_tracks(
    comparison: Comparison, tracks: Sequence[str], values: Sequence[Mapping[tuple[str, str], float]]
) -> dict[str, Any]:
    """Return the table of tracks: a group of columns for each target, in it one for each method that has the target."""
    by_method = {method.name: column for method, column in zip(comparison.methods, values, strict=True)}
    columns: list[dict[str, Any]] = [
        {"target": i, "method": method.name, "name": target}
        for i, target in enumerate(comparison.targets)
        for method in comparison.methods
        if target in comparison.cells[method.name]
    ]
    firsts = [i == 0 or column["target"] != columns[i - 1]["target"] for i, column in enumerate(columns)]
    dropped = _count_dropped(comparison)
    infinite = _find_infinite(comparison)
    rows = []
    for track in tracks:
        row = [by_method[column["method"]].get((track, column["name"]), math.nan) for column in columns]
        nb_dropped, nb_frames = dropped.get(track, (0, 0))
        rows.append(
            {
                "name": track,
                "errata": [
                    f"{fault.position}: {fault.defect}".removeprefix(": ") for fault in musdb18.errata_of(track)
                ],
                "cells": [
                    {
                        "value": f"{value:.5f}",
                        "target": column["target"],
                        "first": first,
                        **_track_cell(value, infinite.get((column["method"], track, column["name"]))),
                    }
                    for value, column, first in zip(row, columns, firsts, strict=True)
                ],
                "dropped": nb_dropped if nb_frames else "nan",
                "dropped_text": f"{nb_dropped} of {nb_frames}" if nb_frames else _NO_VALUE,
            }
        )
    return {
        "tracks": rows,
        "columns": [column | {"first": first} for column, first in zip(columns, firsts, strict=True)],
        "groups": [
            (target, i, sum(column["target"] == i for column in columns)) for i, target in enumerate(comparison.targets)
        ],
        "column_options": [("all", "all targets"), *enumerate(comparison.targets)],
        "aggregation_of_track": "median over its frames"
        if comparison.metric in scores.FRAME_METRICS
        else "of it whole",
        "infinite_note": f"∞: every frame is infinite, and {comparison.aggregation} leaves such frames out, so "
        "that the track has no value and does not count."
        if infinite
        else "",
        "dropped_note": "Dropped frames are those of the method and target with the most." if dropped else "",
        "errata_source": musdb18.ERRATA_SOURCE if any(row["errata"] for row in rows) else "",
    }


def _track_cell(value: float, infinite: str | None) -> dict[str, str]:
    """Return how a value of a track is shown: one that it lacks since all its frames are infinite as that infinity."""
    if not math.isnan(value) or infinite is None:
        return {"text": _db(value), "title": ""}
    return {"text": infinite, "title": "every frame is infinite: no value"}


def _find_infinite(comparison: Comparison) -> dict[tuple[str, str, str], str]:
    """Return by method, track and target the infinity that all frames of tracks without a value are."""
    if comparison.metric not in scores.FRAME_METRICS or comparison.aggregation != "sisec18":
        return {}
    found = {}
    for method in comparison.methods:
        rows = scores.used_rows(method.table, comparison.aggregation)
        rows = rows[(rows["metric"] == comparison.metric) & rows["value"].notna()]
        extremes = (
            rows["value"].groupby([rows["track"], rows["target"]]).agg(["min", "max", lambda each: each.abs().min()])
        )
        for (track, target), low, high, least in extremes.itertuples():
            if math.isinf(least):
                found[method.name, track, target] = "±∞" if low < high else _db(low)
    return found


def _count_dropped(comparison: Comparison) -> dict[str, tuple[int, int]]:
    """Return of each track the numbers of dropped and of all frames of the method and target with the most dropped."""
    most: dict[str, tuple[int, int]] = {}
    for method in comparison.methods:
        rows = scores.used_rows(method.table, frame_aggregation(comparison))
        rows = rows[rows["metric"] == next((m for m in scores.FRAME_METRICS if (rows["metric"] == m).any()), "")]
        counts = rows["value"].isna().groupby([rows["track"], rows["target"]]).agg(["sum", "size"])
        for (track, _), dropped, size in counts.itertuples():
            most[track] = max(most.get(track, (-1, 0)), (int(dropped), int(size)))
    return most


def _list_worst(comparison: Comparison, tracks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the worst seconds of each method, of bounds only where there is nothing else, the lowest value first.

    None is listed that is above the median of its target's frames: a short piece has no twenty bad seconds.
    """
    if comparison.metric not in scores.FRAME_METRICS:
        return []
    listed = [(i, method) for i, method in enumerate(comparison.methods) if not method.bound]
    numbers = {track: i for i, track in enumerate(tracks)}
    found = []
    for i, method in listed or list(enumerate(comparison.methods)):
        used = scores.used_rows(method.table, frame_aggregation(comparison))
        frames = used[used["metric"] == comparison.metric]
        medians = frames["value"].groupby(frames["target"]).median()
        seconds = worst_seconds(
            frames,
            comparison.metric,
            nb_seconds=NB_WORST,
            hop_seconds=method.protocol.seconds[1],
            window_seconds=method.protocol.seconds[0],
        )
        rows = [
            {
                "track": second.track,
                "index": numbers[second.track],
                "target": second.target,
                "target_index": comparison.targets.index(second.target),
                "start": second.start,
                "seconds": second.seconds,
                "time": _clock(second.start),
                "value": _db(second.value),
                "clip": None,
            }
            for second in sorted(seconds, key=lambda each: each.value)
            if second.value <= medians[second.target]
        ]
        if rows:
            found.append({"method": method.name, "index": i, "rows": rows})
    return found


def link_sounds(worst: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return worst seconds with the number of the excerpt that each is heard in."""
    places = [(clip["method"], clip["track"], clip["target"], clip["start"], clip["stop"]) for clip in clips]
    return [
        {
            **each,
            "rows": [
                row
                | {
                    "clip": next(
                        (
                            i
                            for i, (*place, start, stop) in enumerate(places)
                            if place == [each["index"], row["index"], row["target_index"]]
                            and start <= row["start"] < stop
                        ),
                        None,
                    )
                }
                for row in each["rows"]
            ],
        }
        for each in worst
    ]


def _describe_protocol(method: Method) -> dict[str, Any]:
    """Return how a method's scores came about, in full; of museval's JSON, what it tells and what it does not."""
    protocol = method.protocol
    if protocol.document is not None:
        order = ("settings", "separation", "dataset", "estimates", "tracks", "frames", "notes", "versions")
        keys = [*(key for key in order if key in protocol.document), *(k for k in protocol.document if k not in order)]
        return {"method": method.name, "lacking": [], "document": {key: protocol.document[key] for key in keys}}
    known = {
        "scores": str(method.path),
        "format": "museval's JSON",
        "silence rule": protocol.silence,
        "frames": protocol.window,
        "subset": protocol.subset,
        "tracks": len(protocol.tracks),
    }
    lacking = [key for key, value in known.items() if value is None]
    unknown = ["version of BSSEval", "references", "how the estimates were made", "versions of the software"]
    return {
        "method": method.name,
        "lacking": [*lacking, *unknown],
        "document": {key: value for key, value in known.items() if value is not None},
    }


# Values as text


def _db(value: float, *, signed: bool = False) -> str:
    """Return a value in dB with two decimals, a dash for nan."""
    if math.isnan(value):
        return _NO_VALUE
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return f"{value:{'+' if signed else ''}.2f}".replace("-", _MINUS)


def _interval(interval: stats.Interval, negated: bool = False) -> str:
    """Return an interval in brackets, empty where there is none; negated is that of the opposite difference."""
    low, high = (-interval.high, -interval.low) if negated else (interval.low, interval.high)
    return "" if math.isnan(low) or math.isnan(high) else f"[{_db(low)}, {_db(high)}]"


def _size(value: float, interval: stats.Interval, negated: bool = False) -> str:
    """Return a value in dB with its interval, neither broken over lines."""
    return f"{_db(value)} dB".replace(" ", _TIED) + f" {_interval(interval, negated)}".rstrip().replace(
        ", ", f",{_TIED}"
    )


def _p_text(p: float) -> str:
    """Return a p-value that is not broken over lines."""
    return ("p < 0.001" if p < 0.001 else f"p = {p:.3f}").replace(" ", _TIED)


def _clock(seconds: float) -> str:
    """Return a time as m:ss, with tenths where it has any."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}".removesuffix(".0") if rest % 1 else f"{int(minutes)}:{int(rest):02d}"


def _join(names: Sequence[str]) -> str:
    """Return names as an English list."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
