"""What a report draws and plays: values of tracks and frames, SiSEC 2018's bands, and sounds.

Reads a comparison and excerpts. Writes nothing: what it returns is JSON in the page, which templates/report.js reads.

Conventions: values are in dB, of tracks to 0.001 dB, of frames as little-endian int16 in hundredths of a dB, as base64
(`_encode_frames`). Methods, targets and tracks are numbers, in the order in which the page names them.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musdbkit import scores, sisec18
from musdbkit.compare import Comparison
from musdbkit.errors import ParameterError
from musdbkit.excerpts import SIGNALS, Excerpt
from musdbkit.methods import Method

_ABSENT, _DROPPED, _INFINITE, _CLIPPED = 32766, -32768, 32767, 32000  # see _encode_frames


def make_data(comparison: Comparison, tracks: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is drawn, as strict JSON.

    Parameters
    ----------
    comparison : of which methods and targets.
    tracks : names of all tracks, in the order of the page.
    values : as `track_values` returns.
    """
    methods, targets = comparison.methods, comparison.targets
    metrics = [metric for metric in values if metric in scores.FRAME_METRICS]
    return {
        "metric": comparison.metric,
        "signals": SIGNALS,
        "targets": targets,
        "tracks": tracks,
        "methods": [
            {
                "name": method.name,
                "bound": method.bound,
                "hop": method.protocol.seconds[1],
                "window": method.protocol.seconds[0],
            }
            for method in methods
        ],
        "values": {
            metric: [
                [[_number(column.get((track, target), math.nan)) for track in tracks] for column in columns]
                for target in targets
            ]
            for metric, columns in values.items()
        },
        "boxes": {metric: _make_boxes(columns, tracks, targets) for metric, columns in values.items()},
        "bands": _make_bands(comparison),
        "frames": [_encode_method(comparison, method, metrics, tracks) for method in methods] if metrics else [],
        "frame_metrics": metrics,
    }


def track_values(
    methods: Sequence[Method], aggregation: str = "sisec18"
) -> dict[str, list[dict[tuple[str, str], float]]]:
    """Return by metric, those that any method has, the values of each method by track and target.

    Of a metric that several aggregations are made of, values are as the given one has them where it is one of these.
    """
    found: dict[str, list[dict[tuple[str, str], float]]] = {}
    for metrics in dict.fromkeys(scores.METRICS_OF.values()):
        names = [name for name, of in scores.METRICS_OF.items() if of == metrics]
        name = aggregation if aggregation in names else names[0]
        tables = [
            scores.track_values(method.table, name) if method.table["metric"].isin(metrics).any() else None
            for method in methods
        ]
        for metric in metrics:
            columns = [table[metric].to_dict() if table is not None and metric in table else {} for table in tables]
            if any(columns):
                found[metric] = columns
    return found


def frame_aggregation(comparison: Comparison) -> str:
    """Return the aggregation that says which scenario's frames are shown: the chosen one where it is of frames."""
    return comparison.aggregation if comparison.metric in scores.FRAME_METRICS else "sisec18"


def _make_boxes(
    columns: Sequence[Mapping[tuple[str, str], float]], tracks: Sequence[str], targets: Sequence[str]
) -> list[list[dict[str, float] | None]]:
    """Return by target and method what a box plot is drawn of, of its finite values; None where there is none.

    Quartiles are interpolated linearly. Whiskers end at the last value within 1.5 times the middle half.
    """
    return [
        [_make_box([column.get((track, target), math.nan) for track in tracks]) for column in columns]
        for target in targets
    ]


def _make_box(values: Sequence[float]) -> dict[str, float] | None:
    """Return the box of one method and target."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if not finite.size:
        return None
    low, middle, high = np.quantile(finite, (0.25, 0.5, 0.75))
    reach = 1.5 * (high - low)
    box = {
        "least": finite.min(),
        "lower": finite[finite >= low - reach].min(),
        "q1": low,
        "median": middle,
        "q3": high,
        "upper": finite[finite <= high + reach].max(),
        "greatest": finite.max(),
    }
    return {"number": finite.size} | {key: round(float(value), 3) for key, value in box.items()}


def _make_bands(comparison: Comparison) -> dict[str, Any]:
    """Return what SiSEC 2018 says, by metric and target: quartiles of the submissions, the mixture, the best oracle."""
    bands: dict[str, Any] = {}
    medians = {name: by_target for name, by_target in sisec18.read_medians().items() if name in comparison.reference}
    for metric in scores.FRAME_METRICS if medians else ():
        bands[metric] = []
        for target in comparison.targets:
            values = {name: of[target][metric] for name, of in medians.items() if target in of}
            if not values:
                bands[metric].append(None)
                continue
            low, high = np.quantile([values[name] for name in sisec18.find_submissions(values)], (0.25, 0.75))
            best = max((name for name in sisec18.CEILINGS if name in values), key=values.__getitem__)
            bands[metric].append(
                {
                    "low": round(float(low), 3),
                    "high": round(float(high), 3),
                    "number": len(sisec18.find_submissions(values)),
                    "floor": values[sisec18.FLOOR],
                    "ceiling": values[best],
                    "oracle": best,
                }
            )
    return bands


def _encode_method(
    comparison: Comparison, method: Method, metrics: Sequence[str], tracks: Sequence[str]
) -> dict[str, Any]:
    """Return the number of frames of each track, and by metric and target the values of all tracks, one by one.

    Of a target in several scenarios the values are of the one that counts for the aggregation.
    """
    targets = comparison.targets
    rows = scores.used_rows(method.table, frame_aggregation(comparison))
    numbers, metric_codes, target_codes = (
        rows[column].map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.int64)
        for column, names in (("track", tracks), ("metric", metrics), ("target", targets))
    )
    places = rows["frame"].to_numpy(dtype=np.int64)
    lengths = np.zeros(len(tracks), np.int64)
    np.maximum.at(lengths, numbers, places + 1)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    columns = np.full((len(metrics), len(targets), starts[-1]), _ABSENT, "<i2")
    columns[metric_codes, target_codes, starts[numbers] + places] = _encode_frames(rows["value"].to_numpy(np.float64))
    encoded = [
        [base64.b64encode(column.tobytes()).decode() if (column != _ABSENT).any() else None for column in by_target]
        for by_target in columns
    ]
    return {"lengths": lengths.tolist(), "values": encoded}


def _encode_frames(values: NDArray[np.float64]) -> NDArray[np.int16]:
    """Return values in hundredths of a dB, up to 320 dB; codes beyond are infinities and dropped frames."""
    finite = np.clip(np.nan_to_num(values, posinf=0.0, neginf=0.0) * 100, -_CLIPPED, _CLIPPED).round()
    codes = np.select(
        [np.isnan(values), values == np.inf, values == -np.inf], [_DROPPED, _INFINITE, -_INFINITE], finite
    )
    return codes.astype(np.int16)


def make_clip(page: Mapping[str, Any], method: int, excerpt: Excerpt, sounds: dict[str, str]) -> dict[str, Any]:
    """Return an excerpt as the page has it, and add its sounds, by content: methods share mixtures and references."""
    names = [row["name"] for row in page["tracks"]]
    if excerpt.track not in names or excerpt.target not in page["targets"]:
        raise ParameterError(f"excerpt of {excerpt.target} of {excerpt.track}, expected one of a track that was scored")
    contents = [base64.b64encode(excerpt.signals[signal]).decode() for signal in SIGNALS]
    track, target = names.index(excerpt.track), page["targets"].index(excerpt.target)
    stop = excerpt.start + excerpt.seconds
    inside = [
        row
        for each in page["worst"]
        for row in each["rows"]
        if (each["index"], row["index"], row["target_index"]) == (method, track, target)
        and excerpt.start <= row["start"] < stop
    ]
    return {
        "method": method,
        "track": track,
        "target": target,
        "start": round(excerpt.start, 6),
        "stop": round(stop, 6),
        "gain_db": round(excerpt.gain_db, 2),
        "sounds": [sounds.setdefault(content, f"sound-{len(sounds)}") for content in contents],
        "worst": [{key: row[key] for key in ("start", "seconds", "value")} for row in inside],
    }


def keep_frames(data: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return what is drawn with the frames of one metric only."""
    i = data["frame_metrics"].index(metric)
    frames = [{**each, "values": [each["values"][i]]} for each in data["frames"]]
    return {**data, "frame_metrics": [metric], "frames": frames}


def _number(value: float) -> float | str | None:
    """Return a value as strict JSON has it, to 0.001 dB."""
    if math.isfinite(value):
        return round(value, 3)
    return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
