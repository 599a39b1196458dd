"""What a study has found: its table, its figure, and what is printed.

Writes `study.csv` and `study.png` in a study's folder, whose other files are those of `study`.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from musdbkit.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

TABLE: Final = "study.csv"
FIGURE: Final = "study.png"
"""Names of the table and the figure in a study's folder."""

_LABEL_LETTERS: Final = 48  # that fit beside each other under a panel

_COLOURS: Final = {
    "drums": "#0072B2",
    "bass": "#D55E00",
    "other": "#009E73",
    "vocals": "#CC79A7",
    "accompaniment": "#56B4E9",
}
"""Colours that the colour-blind tell apart (Okabe and Ito)."""


@dataclass(frozen=True)
class Point:
    """What was measured of one value.

    Attributes
    ----------
    stems : number of targets.
    value : of the parameter.
    nb_parameters : of the networks of all targets.
    multiply_adds_per_second : of the networks, for a second of music: see `cost.count_multiply_adds`.
    nb_frames : frames of a segment; None for models that take whole tracks.
    nb_frames_computed : frames that the network computes for it, which are filled up to a multiple of what it halves.
    segment_seconds : length of a segment, which has to be heard before its estimate begins.
    compute_seconds : time to separate one segment.
    latency_seconds : both; None for models that take whole tracks.
    real_time_factor : time to separate, divided by the length of what is separated.
    steps, minutes : what training took.
    sdr : median over tracks of the median over frames, in dB, by target.
    """

    stems: int
    value: Any
    nb_parameters: int
    multiply_adds_per_second: float
    nb_frames: int | None
    nb_frames_computed: int | None
    segment_seconds: float | None
    compute_seconds: float | None
    latency_seconds: float | None
    real_time_factor: float
    steps: int
    minutes: float
    sdr: dict[str, float]


def to_json(point: Point) -> dict[str, Any]:
    """Return a point as JSON has it: nan is null."""
    document = asdict(point)
    document["sdr"] = {target: value if math.isfinite(value) else None for target, value in point.sdr.items()}
    return document


def folder_name(value: Any) -> str:
    """Return a value as part of a folder's name.

    Raises
    ------
    ParameterError
        There can be no such folder.
    """
    text = str(value) if isinstance(value, str | int | float) else json.dumps(value, separators=(",", ":"))
    if not text or set(text) & set("/\\\0") or text.startswith("."):
        raise ParameterError(f"value {text!r}: expected one without slashes that does not begin with a dot")
    return text


def rank(point: Point) -> tuple[float, int, str]:
    """Return what values are sorted by: numbers first, others by the size of their networks."""
    if isinstance(point.value, int | float):
        return point.value, 0, ""
    return math.inf, point.nb_parameters, folder_name(point.value)


def write_tables(points: Sequence[Point], parameter: str, out: Path) -> None:
    """Write the table and the figure.

    Parameters
    ----------
    points : what was measured, sorted.
    parameter : its name.
    out : the study's folder.
    """
    targets = _list_targets(points)
    columns = [
        "stems",
        parameter,
        *[name for name in Point.__dataclass_fields__ if name not in ("stems", "value", "sdr")],
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"sdr_{target}" for target in targets)])
    for point in points:
        fixed = [point.value if column == parameter else getattr(point, column) for column in columns]
        cells = [point.sdr.get(target) for target in targets]
        writer.writerow(["" if cell is None else cell for cell in (*fixed, *cells)])
    partial = out / f".{TABLE}.partial"
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(out / TABLE)
    draw(points, parameter, out / FIGURE)


def _list_targets(points: Iterable[Point]) -> list[str]:
    """Return all targets of some points."""
    return list(dict.fromkeys(target for point in points for target in point.sdr))


def draw(points: Sequence[Point], parameter: str, path: Path) -> None:
    """Draw SDR by target, cost, latency (of models that have one) and speed against the values, as a PNG.

    Values that are no numbers are not joined by lines.

    Parameters
    ----------
    points : what was measured, sorted.
    parameter : its name.
    path : the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10), dpi=120, layout="constrained")
    quality, cost, speed, latency = figure.subplots(2, 2).flat
    values = [folder_name(point.value) for point in sorted(points, key=rank)]
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    groups = {
        stems: [point for point in points if point.stems == stems] for stems in {each.stems: 0 for each in points}
    }
    for stems, some in groups.items():
        note = f", {stems} stems" if len(groups) > 1 else ""
        colour = _COLOURS["vocals" if stems == 2 else "drums"]
        for target in _list_targets(some):
            _plot(quality, places, some, [point.sdr[target] for point in some], target + note, _COLOURS.get(target))
        for heights, label, shade in (
            ([point.nb_parameters / 1e6 for point in some], "millions of parameters", _COLOURS["bass"]),
            ([point.multiply_adds_per_second / 1e9 for point in some], "billions of multiply-adds", _COLOURS["other"]),
        ):
            _plot(cost, places, some, heights, label + note, shade)
        _plot(speed, places, some, [1 / point.real_time_factor for point in some], f"{stems} stems", colour)
        latencies = [math.nan if point.latency_seconds is None else point.latency_seconds for point in some]
        _plot(latency, places, some, latencies, f"{stems} stems", colour)
    _finish(quality, parameter, "SDR in dB, median of tracks", places)
    for axes, label in (
        (cost, "parameters; multiply-adds for a second of music"),
        (speed, "speed, times real time"),
        (latency, "latency in s: a segment, and computing it"),
    ):
        _scale(axes)
        _finish(axes, parameter, label, places)
    for axes in (quality, cost, *([speed, latency] if len(groups) > 1 else [])):
        ncols = 2 if len(groups) > 1 else 4
        axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=ncols)
    if all(point.latency_seconds is None for point in points):
        latency.remove()
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png")
    partial.replace(path)


def _plot(
    axes: "Axes",
    places: Mapping[str, int],
    points: Sequence[Point],
    heights: Sequence[float],
    label: str,
    colour: str | None,
) -> None:
    """Draw a line, or points."""
    marker, line = ("s", "--") if points[0].stems == 2 else ("o", "-")
    if not all(isinstance(point.value, int | float) for point in points):
        line = ""
    x = [places[folder_name(point.value)] for point in points]
    axes.plot(x, heights, marker=marker, linestyle=line, color=colour, label=label)


def _scale(axes: "Axes") -> None:
    """Give a panel a logarithmic axis with plain numbers, and room for some of them."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    room = max(1.0, math.sqrt(10 / (high / low)))  # a decade at least
    axes.set_ylim(low / room, high * room)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _finish(axes: "Axes", parameter: str, label: str, places: Mapping[str, int]) -> None:
    """Label a panel."""
    axes.set_xlabel(parameter)
    axes.set_ylabel(label)
    crowded = sum(map(len, places)) > _LABEL_LETTERS
    axes.set_xticks(
        range(len(places)), list(places), rotation=30 if crowded else 0, ha="right" if crowded else "center"
    )
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.grid(alpha=0.3)


def print_tables(points: Sequence[Point], parameter: str, console: "Console") -> None:
    """Print what the values are worth, and what they cost.

    Parameters
    ----------
    points : what was measured, sorted.
    parameter : its name.
    console : where to.
    """
    from rich import box
    from rich.table import Table

    targets = _list_targets(points)
    several = len({point.stems for point in points}) > 1
    quality, cost = (Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left") for title in _TITLES)
    names = [*(["stems"] if several else []), parameter]
    for table, columns in (
        (quality, [*names, "steps", "min", *targets]),
        (cost, [*names, "parameters", "multiply-adds/s", "latency s", "RTF"]),
    ):
        for column in columns:
            table.add_column(column, justify="right", overflow="fold")
    for point in points:
        fixed = [*([str(point.stems)] if several else []), folder_name(point.value)]
        sdr = [f"{point.sdr[target]:.2f}" if target in point.sdr else "" for target in targets]
        quality.add_row(*fixed, str(point.steps), f"{point.minutes:.1f}", *sdr)
        latency = "" if point.latency_seconds is None else f"{point.latency_seconds:.2f}"
        counts = [_shorten(point.nb_parameters), _shorten(point.multiply_adds_per_second)]
        cost.add_row(*fixed, *counts, latency, f"{point.real_time_factor:.4f}")
    console.print(quality)
    console.print(cost)


_TITLES: Final = ("SDR in dB, median of tracks", "Cost; RTF: time to separate, of what is separated")


def _shorten(count: float) -> str:
    """Return a great number for reading."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"
