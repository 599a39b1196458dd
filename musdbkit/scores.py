"""Scores of tracks: recorded, tabled, aggregated by name, and exchanged with museval.

Reads `scores.csv` and museval's JSON of any origin. Writes `scores.csv`; what it returns as text or JSON, others write.

Conventions: all values are in dB. nan is a value that was dropped, usually a frame in which something was silent. An
infinity is a result, as of a perfect estimate; museval's JSON has none, there it is nan. A table of scores is a pandas
DataFrame with one value in each row and the columns `COLUMNS`:

| column | holds |
|---|---|
| `track` | name of the track |
| `target` | what was scored |
| `scenario` | the targets that were evaluated together, as `vocals+accompaniment`; else `ALONE` or `MUSEVAL` |
| `frame` | number of the window, from 0; missing (Int64's NA) where the value is of the whole track |
| `metric` | one of `FRAME_METRICS` or `TRACK_METRICS` |
| `value` | dB |

References
----------
Stöter, Liutkus, Ito: The 2018 signal separation evaluation campaign, 2018, arXiv:1804.06267 (`sisec18`).
Mitsufuji et al.: Music Demixing Challenge 2021, Front. Signal Process. 1, 2022, doi:10.3389/frsip.2021.808395 (`mdx`).
"""

import csv
import io
import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np

from musdbkit import musdb18
from musdbkit.errors import DatasetError, ParameterError, printable

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from rich.console import Console

Kind = TypeVar("Kind")

Windows: TypeAlias = tuple[float | None, float | None]
"""Length and distance of windows in seconds; None is not known, as the distance where there is but one window."""

FRAME_METRICS: Final = ("SDR", "ISR", "SIR", "SAR")
"""Metrics with a value for each window."""

TRACK_METRICS: Final = ("uSDR", "SI-SDR", "SNR")
"""Metrics with one value for the whole track."""

COLUMNS: Final = ("track", "target", "scenario", "frame", "metric", "value")
"""Columns of a table of scores and of `scores.csv`."""

PAIR: Final = ("vocals", "accompaniment")
"""The scenario of two targets that museval adds where there is an accompaniment; its vocals replace the others."""

ALONE: Final = "alone"
"""The scenario of a metric of the whole track, on which no other target has influence."""

MUSEVAL: Final = "museval"
"""The scenario of all that was read from museval's JSON, which does not say what was evaluated together."""

MEAN_OF_TARGETS: Final = "mean of targets"
"""The row of a mean over targets, of which none is a sum that holds another: never accompaniment beside drums."""

AGGREGATIONS: Final = {
    "sisec18": "median over frames, then over tracks; infinite frames are left out; vocals against "
    "accompaniment where that was scored (SiSEC 2018, museval's EvalStore)",
    "demucs-mean": "median over frames, then mean over tracks; infinities count; vocals beside the other stems "
    "(Demucs' evaluate.py)",
    "mdx": "uSDR of whole tracks, mean over tracks; infinities count (Music Demixing Challenge 2021)",
    "track-mean": "other metrics of whole tracks, mean over tracks; infinities count",
}
"""Ways to come from many values to one, by name; `aggregate` says how each treats what is missing."""

METRICS_OF: Final = {
    "sisec18": FRAME_METRICS,
    "demucs-mean": FRAME_METRICS,
    "mdx": ("uSDR",),
    "track-mean": ("SI-SDR", "SNR"),
}
"""The metrics that each aggregation is made of."""

_MUSEVAL_METRICS: Final = ("SDR", "SIR", "SAR", "ISR")  # in the order of its JSON
_KINDS: Final[dict[Any, str]] = {dict: "an object", list: "a list", str: "text"}


@dataclass(frozen=True)
class Scenario:
    """Targets that were evaluated together: each is interference to the others.

    Attributes
    ----------
    targets : their names.
    frames : by target and metric, one of `FRAME_METRICS`, the value of each window in dB: nan where it was dropped.
    """

    targets: tuple[str, ...]
    frames: dict[str, dict[str, tuple[float, ...]]]

    @property
    def name(self) -> str:
        """The targets, as `vocals+accompaniment`."""
        return "+".join(self.targets)


@dataclass(frozen=True)
class TrackScores:
    """All scores of one track.

    Attributes
    ----------
    track : its name.
    subset : `train` or `test`.
    window_seconds, hop_seconds : length and distance of the frames, in seconds.
    scenarios : scores by frame.
    whole : by target and metric, one of `TRACK_METRICS`, the value of the whole track in dB.
    """

    track: str
    subset: str
    window_seconds: float
    hop_seconds: float
    scenarios: tuple[Scenario, ...]
    whole: dict[str, dict[str, float]]


# Records of single tracks


def to_json(track: TrackScores) -> dict[str, Any]:
    """Return a track's scores as strict JSON: nan as null, infinities as text, all else exact."""
    return {
        "track": track.track,
        "subset": track.subset,
        "window_seconds": track.window_seconds,
        "hop_seconds": track.hop_seconds,
        "scenarios": [
            {
                "targets": list(scenario.targets),
                "frames": {
                    target: {metric: [encode(value) for value in values] for metric, values in by_metric.items()}
                    for target, by_metric in scenario.frames.items()
                },
            }
            for scenario in track.scenarios
        ],
        "whole": {
            target: {metric: encode(value) for metric, value in by_metric.items()}
            for target, by_metric in track.whole.items()
        },
    }


def from_json(document: object) -> TrackScores:
    """Return the scores of a track that `to_json` made a document of.

    Raises
    ------
    DatasetError
        The document is not such a one.
    """
    where = "record of a track"
    seconds = {key: _decode(_entry(document, key, object, where), where) for key in ("window_seconds", "hop_seconds")}
    for key, value in seconds.items():
        if not 0 < value < math.inf:
            raise DatasetError(f"{where}: {key} is {value}, expected a number above 0")
    subset = _entry(document, "subset", str, where)
    if subset not in musdb18.SUBSETS:
        raise DatasetError(f"{where}: subset is {reprlib.repr(subset)}, expected {' or '.join(musdb18.SUBSETS)}")
    whole = {
        target: {metric: _decode(value, where) for metric, value in by_metric.items()}
        for target, by_metric in _by_target(_entry(document, "whole", dict, where), TRACK_METRICS, where).items()
    }
    scenarios = tuple(_scenario(each, where) for each in _entry(document, "scenarios", list, where))
    return TrackScores(_entry(document, "track", str, where), subset, scenarios=scenarios, whole=whole, **seconds)


def museval_json(track: TrackScores) -> str:
    """Return a track's scores as the text that museval would write for them.

    Values are rounded to five decimals, infinities are NaN, and so is a metric that was not computed: museval's own
    stores need all four. Vocals are those of the scenario `PAIR` where there is one. A target that was evaluated by
    itself, of which museval writes nothing, is there too.
    """
    import simplejson

    chosen: dict[str, Scenario] = {}
    for scenario in sorted(track.scenarios, key=lambda scenario: _rank(scenario.name, pair_first=True)):
        for target in scenario.targets:
            chosen.setdefault(target, scenario)
    targets = []
    for scenario in sorted(track.scenarios, key=lambda scenario: scenario.targets == PAIR):
        for target in scenario.targets:
            if chosen[target] is scenario:
                by_metric = scenario.frames[target]
                frames = [
                    {
                        "time": i * track.hop_seconds,
                        "duration": track.window_seconds,
                        "metrics": {
                            metric: Decimal(_rounded(by_metric[metric][i]) if metric in by_metric else "NaN")
                            for metric in _MUSEVAL_METRICS
                        },
                    }
                    for i in range(max(map(len, by_metric.values()), default=0))
                ]
                targets.append({"name": target, "frames": frames})
    document = {"targets": targets, "museval_version": metadata.version("museval")}
    text: str = simplejson.dumps(document, indent=2, allow_nan=True, use_decimal=True)
    return text


# Tables of many tracks


def to_frame(tracks: Iterable[TrackScores]) -> "DataFrame":
    """Return a table of scores: tracks as given, then their scenarios, targets, frames and metrics in order."""
    return _table(row for track in tracks for row in _rows_of(track))


def write_csv(frame: "DataFrame", path: Path) -> None:
    """Write a table of scores, whole or not at all; every value is exact, and what is missing is an empty cell.

    Raises
    ------
    DatasetError
        The file cannot be written.
    """
    cells = {column: frame[column].tolist() for column in COLUMNS}
    cells["frame"] = ["" if missing else i for i, missing in zip(cells["frame"], frame["frame"].isna(), strict=True)]
    cells["value"] = ["" if math.isnan(value) else value for value in cells["value"]]
    buffer = io.StringIO(newline="")
    # a lone carriage return ends a line for readers, but is no reason for Python 3.11's writer to quote
    returns = any("\r" in name for name in {*cells["track"], *cells["target"]})
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(COLUMNS)
    writer.writerows(zip(*cells.values(), strict=True))
    hidden = path.with_name(f".{path.name}")
    try:
        if path.is_file() and path.read_bytes() == buffer.getvalue().encode():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text(buffer.getvalue(), encoding="utf-8", newline="")
        hidden.replace(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            hidden.unlink()


def read_csv(path: Path) -> "DataFrame":
    """Return the table of scores that `write_csv` wrote.

    Raises
    ------
    DatasetError
        There is no such file, a line is not what it should be, or a value is there twice.
    """
    rows: list[tuple[Any, ...]] = []
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if tuple(header) != COLUMNS:
                found = reprlib.repr(",".join(header))
                raise DatasetError(f"{path}: the first line is {found}, expected {','.join(COLUMNS)}")
            for cells in reader:
                line = reader.line_num
                track, target, scenario, number, metric, value = cells
                index = int(number) if number else None
                rows.append((track, target, scenario, index, metric, float(value) if value else math.nan))
        frame = _table(rows)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, OverflowError, csv.Error) as error:
        raise DatasetError(f"{path}: after line {line}: {error}, expected a table of scores: score again") from error
    return _checked(frame, path)


def load(path: Path) -> "DataFrame":
    """Return the table of scores of a folder or file, whoever wrote it.

    Parameters
    ----------
    path : a `scores.csv`; a folder that holds one; a museval JSON; or a folder of them, flat or as
        `<subset>/**/<track>.json`. Where that folder holds `test`, only its tracks are read, as museval's stores do.

    Raises
    ------
    DatasetError
        There are no scores, a file cannot be read, or a track is there twice.
    """
    if path.is_file():
        return read_museval(path)[0] if path.name.endswith(".json") else read_csv(path)
    if (path / "scores.csv").is_file():
        return read_csv(path / "scores.csv")
    return read_museval(path)[0]


def read_museval(path: Path) -> "tuple[DataFrame, dict[str, Windows]]":
    """Return the table of scores in museval's JSON, and the windows that each track's are of, those of no scores too.

    Parameters
    ----------
    path : a file or folder as `load` takes it.

    Raises
    ------
    DatasetError
        There are no scores, a file or folder cannot be read, or a track is there twice.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder, expected scores")
    files = [path] if path.is_file() else _museval_files(path)
    if not files:
        raise DatasetError(
            f"{path}: no scores, looked for scores.csv and for {_museval_folder(path) / '**' / '*.json'}"
        )
    rows: list[tuple[Any, ...]] = []
    windows: dict[str, Windows] = {}
    for file in files:
        name, document = file.name.removesuffix(".json"), _read_museval(file)
        rows += _museval_rows(name, document, str(file))
        windows[name] = _museval_windows(document, str(file))
    return _checked(_table(rows), path), windows


# Aggregates


def used_rows(frame: "DataFrame", name: str) -> "DataFrame":
    """Return the rows that an aggregation is made of: its metrics, and of each target in a track one scenario.

    Parameters
    ----------
    frame : a table of scores.
    name : one of `AGGREGATIONS`; `aggregate` says which scenario counts.

    Raises
    ------
    ParameterError
        There is no aggregation of that name.
    """
    if name not in AGGREGATIONS:
        raise ParameterError(f"{name!r} is no aggregation, expected one of {', '.join(AGGREGATIONS)}")
    rows = frame[frame["metric"].isin(METRICS_OF[name])]
    scenarios = sorted(rows["scenario"].unique(), key=lambda each: _rank(each, pair_first=name == "sisec18"))
    ranks = rows["scenario"].map({scenario: i for i, scenario in enumerate(scenarios)})
    return rows[ranks == ranks.groupby([rows["track"], rows["target"]]).transform("min")]


def track_values(frame: "DataFrame", name: str) -> "DataFrame":
    """Return what an aggregation makes of each track, in dB: by track and target (rows), and metric (columns).

    nan is a target of which all frames were dropped.

    Parameters
    ----------
    frame : a table of scores, its rows in any order.
    name : one of `AGGREGATIONS`; `aggregate` says which values count.

    Raises
    ------
    ParameterError
        There is no aggregation of that name.
    DatasetError
        The table holds none of the metrics that it is made of.
    """
    table = _by_track(frame, name).unstack("metric")
    return table[[metric for metric in METRICS_OF[name] if metric in table]].rename_axis(columns=None)


def aggregate(frame: "DataFrame", name: str) -> "DataFrame":
    """Return one value for each target (rows) and metric (columns), in dB.

    Of a target in several scenarios one counts: for `sisec18` the one that museval writes, `PAIR` where the track has
    it; else that of the most targets. In medians and means over tracks a track without any value is left out, and nan
    is left only where all are. Demucs itself would answer nan for a single such track. In a mean, plus and minus
    infinity make nan.

    `sisec18` rounds each frame to five decimals first, as the JSON between museval and its stores does, so that the
    result is to the last bit theirs. All but `sisec18` have a row `MEAN_OF_TARGETS` where there are two targets or
    more: for `demucs-mean` the mean of the rows above, nan if one is; for the others the mean over tracks of each
    track's mean over its targets, MDX's song score.

    Parameters
    ----------
    frame : a table of scores, its rows in any order.
    name : one of `AGGREGATIONS`.

    Raises
    ------
    ParameterError
        There is no aggregation of that name.
    DatasetError
        The table holds none of the metrics that it is made of.
    """
    tracks = _by_track(frame, name)
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        by_target = tracks.groupby(["target", "metric"])
        table = (by_target.median() if name == "sisec18" else by_target.mean()).unstack("metric")
        table = table.loc[order_targets(table.index), [metric for metric in METRICS_OF[name] if metric in table]]
        parts = _without_sums(table.index)
        if name != "sisec18" and len(parts) > 1:
            songs = tracks.unstack("target")[parts].mean(axis="columns").groupby("metric").mean()
            table.loc[MEAN_OF_TARGETS] = table.loc[parts].mean(skipna=False) if name == "demucs-mean" else songs
    return table.rename_axis(columns=None)


def dropped_frames(frame: "DataFrame", name: str = "sisec18") -> "DataFrame":
    """Return how many frames an aggregation got over all tracks, by target and scenario.

    Columns are `frames`; `dropped`, those of them that are nan; and `infinite`. They are counted in the first metric
    of `FRAME_METRICS` that there is; there are no rows where there is none.

    Parameters
    ----------
    frame : a table of scores.
    name : one of `AGGREGATIONS`, those of values by frame.
    """
    rows = used_rows(frame, name)
    rows = rows[rows["metric"] == next((metric for metric in FRAME_METRICS if (rows["metric"] == metric).any()), "")]
    counts = rows[["target", "scenario"]].assign(
        frames=1, dropped=rows["value"].isna().astype(int), infinite=np.isinf(rows["value"]).astype(int)
    )
    table = counts.groupby(["target", "scenario"]).sum()
    return table.loc[order_targets(table.index.unique("target"))] if len(table) else table


def summary(frame: "DataFrame") -> dict[str, Any]:
    """Return all aggregates that the metrics allow as strict JSON, exact and encoded as in `to_json`.

    That is, by name of the aggregation, target and metric, a value; and under `frames`, by target and scenario, what
    `dropped_frames` counts.
    """
    document: dict[str, Any] = {}
    for name in _possible(frame, tuple(AGGREGATIONS)):
        rows = aggregate(frame, name).to_dict("index")
        document[name] = {target: {key: encode(value) for key, value in row.items()} for target, row in rows.items()}
    document["frames"] = {}
    for name in ("sisec18", "demucs-mean"):  # of a target in two scenarios each takes another
        for (target, scenario), counts in dropped_frames(frame, name).iterrows():
            document["frames"].setdefault(target, {})[scenario] = counts.to_dict()
    return document


def print_table(frame: "DataFrame", console: "Console", names: Sequence[str] = tuple(AGGREGATIONS)) -> None:
    """Print a table for each of the named aggregations that the metrics allow, with the numbers of frames."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for name in _possible(frame, names):
        values = aggregate(frame, name)
        counts = dropped_frames(frame, name).groupby("target").sum()
        console.print(Text.assemble((name, "bold"), f": {AGGREGATIONS[name]}"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("target", overflow="fold")
        for column in (*values.columns, *(("frames", "dropped") if len(counts) else ())):
            table.add_column(column, justify="right", no_wrap=True)
        for target, row in values.iterrows():
            cells = [f"{value:.3f}" for value in row]
            if target in counts.index:
                nb_frames, nb_dropped = counts.loc[target, ["frames", "dropped"]]
                cells += [str(nb_frames), f"{nb_dropped} ({nb_dropped / nb_frames:.1%})"]
            table.add_row(Text(printable(target)), *cells)
        console.print(table)
        if infinite := [f"{target} {n}" for target, n in counts.get("infinite", {}).items() if n]:
            console.print(Text(f"infinite frames: {printable(', '.join(infinite))}\n"))


def order_targets(targets: Iterable[str]) -> list[str]:
    """Return targets in the dataset's order, others behind by name."""
    known = list(musdb18.TARGETS)
    return sorted(targets, key=lambda target: (known.index(target) if target in known else len(known), target))


# Values and JSON


def encode(value: float) -> float | str | None:
    """Return a value as strict JSON has it: nan as null, infinities as text."""
    if math.isfinite(value):
        return float(value)
    return None if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _decode(value: Any, where: str) -> float:
    """Return a value from JSON, ours or one with the literals NaN and Infinity."""
    if type(value) is float:  # as nearly all are, of which a dataset has hundreds of thousands
        return value
    if value is None:
        return math.nan
    if value in ("inf", "-inf") or type(value) in (int, float):
        with suppress(OverflowError):  # a whole number of hundreds of digits
            return float(value)
    raise DatasetError(f"{where}: a value is {reprlib.repr(value)}, expected a number, null, inf or -inf")


def _rounded(value: float) -> str:
    """Return a value as it stands in museval's JSON, which is rounded to even in the fifth decimal."""
    return f"{value:.5f}" if math.isfinite(value) else "NaN"


def _entry(document: object, key: str, kind: type[Kind], where: str) -> Kind:
    """Return an entry of a JSON object, which must be of a kind."""
    if not isinstance(document, dict):
        raise DatasetError(f"{where}: found {reprlib.repr(document)}, expected an object with {key}")
    if key not in document:
        raise DatasetError(f"{where}: no {key}, found {reprlib.repr(list(document))}")
    value = document[key]
    if not isinstance(value, kind):
        raise DatasetError(f"{where}: {key} is {reprlib.repr(value)}, expected {_KINDS[kind]}")
    return value


def _by_target(document: dict[str, Any], metrics: Sequence[str], where: str) -> dict[str, dict[str, Any]]:
    """Return an object of targets, of which each must be an object of some of the metrics."""
    for target in document:
        found = _entry(document, target, dict, where)
        if not set(found) <= set(metrics):
            raise DatasetError(f"{where}: {target} has {reprlib.repr(list(found))}, expected {', '.join(metrics)}")
    return document


def _scenario(document: object, where: str) -> Scenario:
    """Return a scenario from JSON."""
    targets = _entry(document, "targets", list, where)
    frames = _by_target(_entry(document, "frames", dict, where), FRAME_METRICS, where)
    if not all(isinstance(target, str) for target in targets) or sorted(targets) != sorted(frames):
        found = f"targets {reprlib.repr(targets)} but frames of {reprlib.repr(list(frames))}"
        raise DatasetError(f"{where}: {found}, expected the same")
    scores = {
        target: {
            metric: tuple(_decode(value, where) for value in _entry(by_metric, metric, list, where))
            for metric in by_metric
        }
        for target, by_metric in frames.items()
    }
    if len(lengths := {len(values) for by_metric in scores.values() for values in by_metric.values()}) > 1:
        raise DatasetError(f"{where}: {' and '.join(map(str, sorted(lengths)))} frames in one scenario")
    return Scenario(tuple(targets), scores)


# Rows


def _rows_of(track: TrackScores) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one track."""
    for scenario in track.scenarios:
        for target in scenario.targets:
            by_metric = scenario.frames[target]
            metrics = list(filter(by_metric.__contains__, FRAME_METRICS))
            for i, values in enumerate(zip(*(by_metric[metric] for metric in metrics), strict=True)):
                for metric, value in zip(metrics, values, strict=True):
                    yield track.track, target, scenario.name, i, metric, value
    for target, whole in track.whole.items():
        for metric in filter(whole.__contains__, TRACK_METRICS):
            yield track.track, target, ALONE, None, metric, whole[metric]


def _museval_folder(path: Path) -> Path:
    """Return the folder below a path that is read: that of subset test where there is one."""
    return next((path / subset for subset in ("test", "train") if (path / subset).is_dir()), path)


def _museval_files(path: Path) -> list[Path]:
    """Return the museval JSON files below a folder."""

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}") from error

    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(_museval_folder(path), onerror=refuse)
        for name in names
        if name.endswith(".json") and not re.match(r"\.[^.]", name)
    )


def _read_museval(path: Path) -> Any:
    """Return the content of a museval JSON, which may hold the literals NaN and Infinity."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is not JSON: {error}") from error


def _museval_rows(track: str, document: Any, where: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a museval JSON."""
    for scored in _entry(document, "targets", list, where):
        target = _entry(scored, "name", str, where)
        for i, window in enumerate(_entry(scored, "frames", list, where)):
            metrics = _entry(window, "metrics", dict, where)
            for metric in filter(metrics.__contains__, FRAME_METRICS):
                yield track, target, MUSEVAL, i, metric, _decode(metrics[metric], where)


def _museval_windows(document: Any, where: str) -> Windows:
    """Return length and distance of the windows that a museval JSON says its first target's are of."""
    for scored in _entry(document, "targets", list, where)[:1]:
        frames = [frame for frame in _entry(scored, "frames", list, where)[:2] if isinstance(frame, dict)]
        times = [_decode(frame["time"], where) for frame in frames if "time" in frame]
        lengths = [_decode(frame["duration"], where) for frame in frames[:1] if "duration" in frame]
        if not all(map(math.isfinite, (*times, *lengths))):
            raise DatasetError(f"{where}: a time or duration is no number of seconds, expected one")
        return (lengths[0] if lengths else None), (times[1] - times[0] if len(times) == 2 else None)
    return None, None


def _table(rows: Iterable[tuple[Any, ...]]) -> "DataFrame":
    """Return rows as a table of scores."""
    import pandas as pd

    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    kinds = {"track": "str", "target": "str", "scenario": "str", "frame": "Int64", "metric": "str", "value": "float64"}
    return pd.DataFrame(
        {name: pd.Series(column, dtype=kinds[name]) for name, column in zip(COLUMNS, columns, strict=True)}
    )


def _checked(frame: "DataFrame", path: Path) -> "DataFrame":
    """Return a table in which no value may be there twice."""
    twice = frame.duplicated(list(COLUMNS[:-1]))
    if twice.any():
        track, target = frame.loc[twice.idxmax(), ["track", "target"]]
        raise DatasetError(f"{path}: {target} of {track} is there twice, expected the scores of one method")
    return frame


def _rank(scenario: str, *, pair_first: bool) -> tuple[bool, int, str]:
    """Return what scenarios are sorted by so that the one that counts is first; `PAIR` is first or last."""
    return (scenario == "+".join(PAIR)) != pair_first, -scenario.count("+"), scenario


def _by_track(frame: "DataFrame", name: str) -> "Series":
    """Return the value of each track, target and metric that an aggregation takes the median or mean of."""
    rows = used_rows(frame, name)
    if rows.empty:
        found = ", ".join(map(str, frame["metric"].unique())) or "none"
        raise DatasetError(f"{name}: made of {' or '.join(METRICS_OF[name])}, found {found}: score with these metrics")
    values = rows["value"]
    if name == "sisec18":
        values = values.map(lambda value: float(_rounded(value)))
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        return values.groupby([rows["track"], rows["target"], rows["metric"]]).median()


def _possible(frame: "DataFrame", names: Sequence[str]) -> list[str]:
    """Return those of the aggregations that a table holds values for."""
    return [name for name in names if not used_rows(frame, name).empty]


def _without_sums(targets: Iterable[str]) -> list[str]:
    """Return targets less those that are sums of stems of which one is a target too."""
    names = list(targets)
    parts = {name: set(musdb18.TARGETS.get(name, ())) - {name} for name in names}
    return [name for name in names if parts[name].isdisjoint(names)]
