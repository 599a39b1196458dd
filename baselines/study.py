"""Studies: what one setting does to quality and latency.

Reads a dataset as wav. Writes a folder:

| file | what it holds |
|---|---|
| `<out>/cache/` | the spectrograms that all runs of Spleeter's models train on |
| `<out>/<stems>stems/<name>=<value>/` | one value: `run`, `estimates`, `scores`, and `point.json`: what was measured |
| `<out>/study.csv`, `<out>/study.png` | the table and the figure |

Every value has the same budget, the same data and the same seed. A study that was stopped goes on where it was.

References
----------
The study of T was begun at github.com/gvne/spleeter_train_parameters, in February 2020, and has no published results.
"""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from baselines import models
from baselines.models import Loaded, write_json
from baselines.plans import Plan, make_plan
from baselines.separate import separate
from baselines.separation import SeparationSettings, separate_wave
from baselines.spleeter_unet import UnetSettings
from baselines.train import DEFAULT_HARDWARE, Hardware, train
from musdbkit import caching, musdb18, scores, scoring, spleeter_config, templates
from musdbkit.cache_request import find_request
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from musdbkit.tracks import ALL_CORES, Parallel, find_audio, find_tracks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

ALIASES: Final = {"T": "nb_frames"}
"""Settings by the names that papers give them."""

STEMS: Final[dict[int, tuple[str, ...]]] = {2: ("vocals", "accompaniment"), 4: musdb18.STEMS}
"""Targets by number of stems, of models that have no configuration of their own for it."""

TABLE: Final = "study.csv"
FIGURE: Final = "study.png"
"""Names of the table and the figure in a study's folder."""

_POINT: Final = "point.json"
_TIMED_SECONDS: Final = 30.0  # of noise, which is separated to measure speed
_NB_TIMED: Final = 3


@dataclass(frozen=True)
class Budget:
    """What each value may take.

    Attributes
    ----------
    max_steps : optimiser steps.
    max_minutes : minutes of training.
    """

    max_steps: int | None = None
    max_minutes: float | None = None


@dataclass(frozen=True)
class Point:
    """What was measured of one value.

    Attributes
    ----------
    stems : number of targets.
    value : of the parameter.
    nb_parameters : of the network.
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
    nb_frames: int | None
    nb_frames_computed: int | None
    segment_seconds: float | None
    compute_seconds: float | None
    latency_seconds: float | None
    real_time_factor: float
    steps: int
    minutes: float
    sdr: dict[str, float]


def study(
    parameter: str,
    values: Sequence[Any],
    *,
    root: Path,
    out: Path,
    model: str = "spleeter-unet",
    stems: Sequence[int] = (4,),
    recipe: str = "paper",
    budget: Budget,
    changes: Mapping[str, Any] | None = None,
    hardware: Hardware = DEFAULT_HARDWARE,
    parallel: Parallel = ALL_CORES,
    say: Callable[[str], None] = print,
) -> list[Point]:
    """Train, separate and score a model for each value of a setting; return what was measured.

    Parameters
    ----------
    parameter : a field of the model's settings or of the recipe, or one of `ALIASES`.
    values : as JSON has them.
    root : the dataset, as wav; models are trained on its subset train and scored on its subset test.
    out : the folder to write.
    model : one of `models.MODELS`.
    stems : 2 (vocals and accompaniment), 4, or both.
    recipe : `paper` or `upstream`.
    budget : what each value may take.
    changes : other settings, for all values.
    hardware : what is computed with.
    parallel : for the cache and the scores.
    say : called with a line when something begins.

    Raises
    ------
    ParameterError
        There is no such model or setting, or it cannot have one of the values.
    DatasetError
        The dataset cannot be used, or the folder holds another study.
    MusdbkitError
        A track could not be cached, separated or scored.
    """
    if budget.max_steps is None and budget.max_minutes is None:
        raise ParameterError("no budget: give the steps or the minutes that each value may take")
    name = ALIASES.get(parameter, parameter)
    unknown = [number for number in stems if number not in STEMS]
    if unknown or not stems or not values:
        raise ParameterError(f"stems {list(stems)}, values {list(values)}: expected 2 or 4, and one value or more")
    cache = out / "cache"
    plans: dict[tuple[int, Any], Plan] = {}
    for number in stems:
        for value in values:
            shared = {"max_steps": budget.max_steps, **(changes or {}), name: value}
            plans[number, value] = _plan(model, number, recipe, shared, root, cache)
    plans = _share_chunks(plans)
    find_tracks(root, ("test",), complete=False)
    if models.MODELS[model].reads == "cache":
        _build_cache(root, cache, stems, parallel, say)
    points = []
    for (number, value), plan in plans.items():
        folder = out / f"{number}stems" / f"{parameter}={_folder_name(value)}"
        say(f"{number} stems, {parameter} = {value}: {folder}")
        if (remark := _remark(plan)) is not None:
            say(remark)
        points.append(_measure(plan, number, value, folder, root, budget, hardware, parallel))
        _write_tables(points, parameter, out)
    return points


def _plan(model: str, number: int, recipe: str, changes: dict[str, Any], root: Path, cache: Path) -> Plan:
    """Return the plan of one value."""
    if model != "spleeter-unet":
        data = cache if models.find_kind(model).reads == "cache" else root
        return make_plan(model, data=data, recipe=recipe, targets=STEMS[number], changes=changes)
    name = f"spleeter_{number}stems.json"
    config = spleeter_config.translate(json.loads(templates.read(name)), name)
    return make_plan(config=config, data=cache, recipe=recipe, changes=changes)


def _share_chunks(plans: dict[tuple[int, Any], Plan]) -> dict[tuple[int, Any], Plan]:
    """Return plans whose chunks are all as long as the longest segment needs, so that all train on the same excerpts.

    Spleeter's chunks of 20 s hold 857 frames.
    """
    needed = 0.0
    for plan in plans.values():
        if models.MODELS[plan.model].reads == "cache":
            s = plan.settings
            needed = max(needed, (s.n_fft + s.nb_frames * s.hop_length) / s.sample_rate)
    return {
        key: replace(plan, recipe=replace(plan.recipe, chunk_seconds=max(plan.recipe.chunk_seconds, needed)))
        for key, plan in plans.items()
    }


def _remark(plan: Plan) -> str | None:
    """Return what is to be known of a plan."""
    computed = _frames_computed(plan.settings)
    if computed is None or computed == plan.settings.nb_frames:
        return None
    return (
        f"segments of {plan.settings.nb_frames} frames are filled up with zeros to {computed}: "
        f"the network halves them {len(plan.settings.filters)} times"
    )


def _frames_computed(settings: Any) -> int | None:
    """Return how many frames the network computes for a segment."""
    if not hasattr(settings, "nb_frames"):
        return None
    multiple = 2 ** len(settings.filters) if isinstance(settings, UnetSettings) else 1
    return int(math.ceil(settings.nb_frames / multiple) * multiple)


def _build_cache(root: Path, cache: Path, stems: Sequence[int], parallel: Parallel, say: Callable[[str], None]) -> None:
    """Build the cache that all runs share."""
    signals = tuple(dict.fromkeys(target for number in stems for target in STEMS[number]))
    lacking = [track.key for track in find_tracks(root, ("train",)) if find_audio(track.path, "accompaniment") is None]
    if "accompaniment" in signals and lacking:
        raise DatasetError(
            f"{root}: {lacking[0]}: no accompaniment, which 2 stems need: "
            f"musdbkit make-csv {root} --stems 2 --make-accompaniment writes it"
        )
    say(f"cache of {', '.join(signals)}: {cache}")
    result = caching.build(find_request(root, "spleeter", targets=signals), cache, parallel=parallel)
    _stop_at(result.failed)


def _stop_at(failed: Mapping[str, str]) -> None:
    """Raise an error that names the tracks that failed, if any did."""
    if failed:
        raise MusdbkitError(
            "; ".join(message if key in message else f"{key}: {message}" for key, message in failed.items())
        )


def _folder_name(value: Any) -> str:
    """Return a value as part of a folder's name."""
    text = str(value) if isinstance(value, str | int | float) else json.dumps(value, separators=(",", ":"))
    if not text or set(text) & set("/\\\0") or text.startswith("."):
        raise ParameterError(f"value {text!r}: expected one without slashes that does not begin with a dot")
    return text


def _measure(
    plan: Plan,
    number: int,
    value: Any,
    folder: Path,
    root: Path,
    budget: Budget,
    hardware: Hardware,
    parallel: Parallel,
) -> Point:
    """Return what there is to know of one value, as far as possible from what is there already."""
    run = folder / "run"
    _train(plan, run, budget, hardware)
    loaded = models.load_run(run, models.choose_device(hardware.device))
    done = _read_point(folder / _POINT)
    if done is not None and done.get("weights") == loaded.sha256:
        return Point(**done["point"])
    outcome = separate(run, [root], folder / "estimates", device=hardware.device)
    _stop_at(outcome.failed)
    settings = scoring.Settings(("sdr",))
    result = scoring.score(
        folder / "estimates",
        scoring.find_references(root),
        folder / "scores",
        settings,
        subset="test",
        parallel=parallel,
    )
    _stop_at(result.failed)
    checkpoint = models.read_checkpoint(run, "last")
    assert checkpoint is not None
    table = scores.aggregate(result.table, "sisec18")["SDR"]
    point = Point(
        stems=number,
        value=value,
        nb_parameters=sum(tensor.numel() for tensor in loaded.network.parameters()),
        **_measure_speed(loaded),
        steps=checkpoint.step,
        minutes=checkpoint.training["seconds"] / 60,
        sdr={target: float(table[target]) for target in plan.settings.targets},
    )
    write_json(folder / _POINT, {"weights": loaded.sha256, "point": to_json(point)})
    return point


def _train(plan: Plan, run: Path, budget: Budget, hardware: Hardware) -> None:
    """Train for what is left of the budget."""
    left = budget.max_minutes
    found = models.read_checkpoint(run, "last")
    if found is not None:
        if left is not None:
            left -= found.training["seconds"] / 60
            if left <= 0:
                return
        if plan.recipe.max_steps is not None and found.step >= plan.recipe.max_steps:
            return
    result = train(plan, run, hardware=hardware, max_minutes=left, resume=True)
    if result.interrupted:
        raise KeyboardInterrupt


def _measure_speed(loaded: Loaded) -> dict[str, Any]:
    """Return how fast a model separates, on the device where it is."""
    settings = loaded.settings
    nb_frames = getattr(settings, "nb_frames", None)
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, (round(_TIMED_SECONDS * settings.sample_rate), settings.nb_channels)).astype(
        np.float32
    )
    factor = _time(loaded, wave) / _TIMED_SECONDS
    if nb_frames is None:
        return {
            "nb_frames": None,
            "nb_frames_computed": None,
            "segment_seconds": None,
            "compute_seconds": None,
            "latency_seconds": None,
            "real_time_factor": factor,
        }
    nb_samples = nb_frames * settings.hop_length
    compute = _time(loaded, np.resize(wave, (nb_samples, settings.nb_channels)))
    return {
        "nb_frames": nb_frames,
        "nb_frames_computed": _frames_computed(settings),
        "segment_seconds": nb_samples / settings.sample_rate,
        "compute_seconds": compute,
        "latency_seconds": nb_samples / settings.sample_rate + compute,
        "real_time_factor": factor,
    }


def _time(loaded: Loaded, wave: Any) -> float:
    """Return the seconds that separating a wave takes: the median of some runs after a first."""
    times = []
    for _ in range(_NB_TIMED + 1):
        start = time.perf_counter()
        separate_wave(loaded, wave, SeparationSettings())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def to_json(point: Point) -> dict[str, Any]:
    """Return a point as JSON has it: nan is null."""
    document = asdict(point)
    document["sdr"] = {target: value if math.isfinite(value) else None for target, value in point.sdr.items()}
    return document


def _read_point(path: Path) -> dict[str, Any] | None:
    """Return what was measured already, None where there is nothing that can be used."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        document["point"]["sdr"] = {t: math.nan if v is None else v for t, v in document["point"]["sdr"].items()}
        Point(**document["point"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return document


# What is shown


def _write_tables(points: Sequence[Point], parameter: str, out: Path) -> None:
    """Write the table and the figure."""
    targets = list(dict.fromkeys(target for point in points for target in point.sdr))
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


def draw(points: Sequence[Point], parameter: str, path: Path) -> None:
    """Draw SDR by target, latency and real-time factor against the values, as a PNG.

    Parameters
    ----------
    points : what was measured.
    parameter : its name.
    path : the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=150, layout="constrained")
    quality, speed = figure.subplots(1, 2)
    values = list(dict.fromkeys(point.value for point in points))
    for number in dict.fromkeys(point.stems for point in points):
        some = [point for point in points if point.stems == number]
        places = [values.index(point.value) for point in some]
        style = "o-" if number == 4 else "s--"
        for target in some[0].sdr:
            colour = _COLOURS.get(target)
            label = f"{target}, {number} stems"
            quality.plot(places, [point.sdr[target] for point in some], style, color=colour, label=label)
        if some[0].latency_seconds is not None:
            speed.plot(
                places,
                [point.latency_seconds for point in some],
                style,
                color="#0072B2",
                label=f"latency in s, {number} stems",
            )
        speed.plot(
            places,
            [point.real_time_factor for point in some],
            style,
            color="#D55E00",
            label=f"real-time factor, {number} stems",
        )
    speed.set_yscale("log")
    for axes, title, label in (
        (quality, "Quality", "SDR in dB, median of tracks"),
        (speed, "Latency (segment and computing), real-time factor", "s; s of computing per s of music"),
    ):
        _finish(axes, title, parameter, label, values)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png")
    partial.replace(path)


_COLOURS: Final = {
    "drums": "#0072B2",
    "bass": "#D55E00",
    "other": "#009E73",
    "vocals": "#CC79A7",
    "accompaniment": "#56B4E9",
}
"""Colours that the colour-blind tell apart (Okabe and Ito)."""


def _finish(axes: "Axes", title: str, parameter: str, label: str, values: Sequence[Any]) -> None:
    """Label a panel."""
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(parameter)
    axes.set_ylabel(label)
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def print_table(points: Sequence[Point], parameter: str, console: "Console") -> None:
    """Print the table."""
    from rich import box
    from rich.table import Table

    targets = list(dict.fromkeys(target for point in points for target in point.sdr))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("stems", parameter, "steps", "min", "latency s", "RTF", *targets):
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        latency = "" if point.latency_seconds is None else f"{point.latency_seconds:.2f}"
        sdr = [f"{point.sdr[target]:.2f}" if target in point.sdr else "" for target in targets]
        fixed = [str(point.stems), str(point.value), str(point.steps), f"{point.minutes:.1f}", latency]
        table.add_row(*fixed, f"{point.real_time_factor:.4f}", *sdr)
    console.print(table)
