"""Studies: what one setting does to quality, cost and latency.

Reads a dataset as wav. Writes a folder:

| file | what it holds |
|---|---|
| `<out>/cache/` | the spectrograms that all runs of Spleeter's models train on |
| `<out>/<stems>stems/<name>=<value>/` | one value: `run`, `estimates`, `scores`, and |
| `.../plan.json`, `.../point.json` | how the run was begun; how what was measured was made, and what it is |
| `<out>/study.csv`, `<out>/study.png` | the table and the figure of all values there that differ in nothing else |

Every value has the same budget, the same data and the same seed. A study that was stopped goes on where it was; what
was made with other settings or of other data is not used, and refused where it is in the way.

References
----------
The study of T was begun at github.com/gvne/spleeter_train_parameters, in February 2020, and has no published results.
"""

import contextlib
import csv
import glob
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from baselines import models
from baselines.block_unet import BlockUnetSettings
from baselines.cost import count_multiply_adds
from baselines.long_input import LongInputSettings
from baselines.models import Loaded, write_json
from baselines.plans import ALIASES, Plan, fingerprint, make_batches, make_plan
from baselines.separate import separate
from baselines.separation import SeparationSettings, segment_hop, separate_wave
from baselines.spleeter_unet import SpleeterSettings, UnetSettings
from baselines.train import DEFAULT_HARDWARE, Hardware, train
from musdbkit import caching, musdb18, scores, scoring, spleeter_config, templates
from musdbkit.cache_request import find_request
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from musdbkit.tracks import ALL_CORES, SEPARATION, Parallel, find_audio, find_tracks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

STEMS: Final[dict[int, tuple[str, ...]]] = {2: ("vocals", "accompaniment"), 4: musdb18.STEMS}
"""Targets by number of stems, of models that have no configuration of their own for it."""

TABLE: Final = "study.csv"
FIGURE: Final = "study.png"
"""Names of the table and the figure in a study's folder."""

_PLAN: Final = "plan.json"
_POINT: Final = "point.json"
_LIMITS: Final = ("max_steps", "max_epochs")  # in which the plans of one study may differ: it goes on with more
_LABEL_LETTERS: Final = 36  # that fit beside each other under a panel
_TIMED_SECONDS: Final = 30.0  # of noise, which is separated to measure speed
_COUNTED_FRAMES: Final = 256  # of which multiply-adds are counted for models that take whole tracks
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


@dataclass(frozen=True)
class Request:
    """What to study.

    Attributes
    ----------
    parameter : a field of the model's settings or of the recipe, or one of `plans.ALIASES`.
    values : as JSON has them.
    root : the dataset, as wav; models are trained on its subset train and scored on its subset test.
    out : the folder of the study.
    budget : what each value may take.
    model : one of `models.MODELS`.
    stems : 2 (vocals and accompaniment), 4, or both.
    recipe : one of `recipes.list_recipes(model)`, or the path of a JSON file of one's own.
    changes : other settings, for all values.
    """

    parameter: str
    values: Sequence[Any]
    root: Path
    out: Path
    budget: Budget
    model: str = "spleeter-unet"
    stems: Sequence[int] = (4,)
    recipe: str = "paper"
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what has no end or no beginning."""
        if self.budget.max_steps is None and self.budget.max_minutes is None:
            raise ParameterError("no budget: give the steps or the minutes that each value may take")
        if not set(self.stems) <= set(STEMS) or not self.stems or not self.values:
            raise ParameterError(
                f"stems {list(self.stems)}, values {list(self.values)}: expected 2 or 4, and one value or more"
            )

    @property
    def name(self) -> str:
        """The parameter, as settings and recipes name it."""
        return ALIASES.get(self.parameter, self.parameter)

    @property
    def cache(self) -> Path:
        """The folder of the cache."""
        return self.out / "cache"


@dataclass(frozen=True)
class _Task:
    """One value.

    Attributes
    ----------
    stems : number of targets.
    value : of the parameter.
    title : of both, for people.
    plan : how it is trained.
    folder : where all of it lies.
    """

    stems: int
    value: Any
    title: str
    plan: Plan
    folder: Path

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folder / "run"


def study(
    request: Request,
    *,
    hardware: Hardware = DEFAULT_HARDWARE,
    parallel: Parallel = ALL_CORES,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> list[Point]:
    """Train, separate and score a model for each value of a setting.

    Returns what was measured, now or before, of all values that the folder holds of this study.

    Parameters
    ----------
    request : what to study.
    hardware : what is computed with.
    parallel : for the cache and the scores.
    force : whether to train all values anew.
    say : called with a line when something begins.

    Raises
    ------
    ParameterError
        There is no such model or setting, or it cannot have one of the values.
    DatasetError
        The dataset cannot be used, or a value's folder holds what was begun with other settings or of other data.
    MusdbkitError
        A track could not be cached, separated or scored.
    """
    tasks = _find_tasks(request)
    if models.MODELS[request.model].reads == "cache":
        _build_cache(request, parallel, say)
    data = _fingerprint(tasks[0].plan)
    for task in tasks:
        if force:
            _clear(task)
        else:
            _check_same(task, data)
    wanted = _expect(request, tasks[0].plan, data)
    points, others = _read_points(request, wanted)
    if others:
        say(f"made otherwise, and not in the table: {', '.join(others)}")
    for task in tasks:
        say(f"{task.title}: {task.folder}")
        if (remark := _remark(task.plan)) is not None:
            say(remark)
        if _measure(task, data, request, hardware, parallel, say) or task is tasks[-1]:
            points, _ = _read_points(request, wanted)
            _write_tables(points, request.parameter, request.out)
    return points


def describe(request: Request, *, force: bool = False) -> list[dict[str, Any]]:
    """Return what `study` would do, by value, without doing it.

    Raises
    ------
    DatasetError, ParameterError
        As `study`.
    """
    tasks = _find_tasks(request)
    data = None
    with contextlib.suppress(DatasetError):  # there may be no cache yet
        data = _fingerprint(tasks[0].plan)
    described = []
    for task in tasks:
        if not force:
            _check_same(task, data)
        with torch.device("meta"):
            network = models.create(task.plan.model, task.plan.settings)
        described.append(
            {
                "stems": task.stems,
                "value": task.value,
                "folder": str(task.folder),
                "nb_parameters": sum(tensor.numel() for tensor in network.parameters()),
                **asdict(request.budget),
                "state": "to do" if force else _find_state(task, request.budget),
            }
        )
    return described


def describe_lines(described: Sequence[Mapping[str, Any]], parameter: str) -> list[str]:
    """Return what `describe` found, for reading."""
    lines = []
    for each in described:
        limits = [f"{each[f'max_{unit}']:,} {unit}" for unit in ("steps", "minutes") if each[f"max_{unit}"] is not None]
        title = _title(each["stems"], parameter, each["value"])
        lines.append(f"{title}: {each['nb_parameters']:,} parameters, {' or '.join(limits)}: {each['state']}")
    return lines


def _find_tasks(request: Request) -> list[_Task]:
    """Return what there is to do, each value once."""
    plans = _share_chunks(
        {
            (number, _folder_name(value)): _plan(request, number, value)
            for number in request.stems
            for value in request.values
        }
    )
    values = {_folder_name(value): value for value in request.values}
    find_tracks(request.root, ("test",), complete=False)
    if models.MODELS[request.model].reads == "cache":
        _check_signals(request)
    return [
        _Task(
            number,
            values[name],
            _title(number, request.parameter, values[name]),
            plan,
            request.out / f"{number}stems" / f"{request.parameter}={name}",
        )
        for (number, name), plan in plans.items()
    ]


def _title(stems: int, parameter: str, value: Any) -> str:
    """Return what a value is called."""
    return f"{stems} stems, {parameter} = {value}"


def _plan(request: Request, number: int, value: Any) -> Plan:
    """Return the plan of one value."""
    changes = {"max_steps": request.budget.max_steps, **request.changes, request.name: value}
    model, cache = request.model, request.cache
    if model != "spleeter-unet":
        data = cache if models.find_kind(model).reads == "cache" else request.root
        return make_plan(model, data=data, recipe=request.recipe, targets=STEMS[number], changes=changes)
    name = f"spleeter_{number}stems.json"
    config = spleeter_config.translate(json.loads(templates.read(name)), name)
    return make_plan(config=config, data=cache, recipe=request.recipe, changes=changes)


def _share_chunks(plans: dict[tuple[int, str], Plan]) -> dict[tuple[int, str], Plan]:
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
    if not isinstance(plan.settings, UnetSettings) or computed == plan.settings.nb_frames:
        return None
    return (
        f"segments of {plan.settings.nb_frames} frames are filled up with zeros to {computed}: "
        f"the network halves them {len(plan.settings.filters)} times"
    )


def _frames_computed(settings: Any) -> int | None:
    """Return how many frames the network computes for a segment."""
    segment = _find_segment(settings)
    if segment is None:
        return None
    multiple = 2 ** len(settings.filters) if isinstance(settings, UnetSettings) else 1
    return int(math.ceil(segment.nb_frames / multiple) * multiple)


def _list_signals(request: Request) -> tuple[str, ...]:
    """Return the targets of all models."""
    return tuple(dict.fromkeys(target for number in request.stems for target in STEMS[number]))


def _check_signals(request: Request) -> None:
    """Refuse a dataset that lacks a target: no dataset has the accompaniment of itself."""
    tracks = find_tracks(request.root, ("train",))
    lacking = [track.key for track in tracks if find_audio(track.path, "accompaniment") is None]
    if "accompaniment" in _list_signals(request) and lacking:
        raise DatasetError(
            f"{request.root}: {lacking[0]}: no accompaniment, which 2 stems need: "
            f"musdbkit make-csv {request.root} --stems 2 --make-accompaniment writes it"
        )


def _build_cache(request: Request, parallel: Parallel, say: Callable[[str], None]) -> None:
    """Build the cache that all runs share."""
    signals = _list_signals(request)
    say(f"cache of {', '.join(signals)}: {request.cache}")
    wanted = find_request(request.root, "spleeter", targets=signals)
    _stop_at(caching.build(wanted, request.cache, parallel=parallel).failed)


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


# What is there already


def _fingerprint(plan: Plan) -> str:
    """Return the hash of the data."""
    batches = make_batches(plan, torch.device("cpu"))
    batches.close()
    return fingerprint(batches.reader)


def _to_json(plan: Plan, data: str | None) -> dict[str, Any]:
    """Return how a run is made; of data that cannot be read yet, nothing is said."""
    return {
        "model": plan.model,
        "settings": models.settings_to_json(plan.settings),
        "recipe": models.settings_to_json(plan.recipe),
        "data": data,
    }


def _expect(request: Request, plan: Plan, data: str) -> dict[int, dict[str, Any]]:
    """Return how the runs of a study are made, apart from the value, by number of stems."""
    recipe = models.settings_to_json(plan.recipe)
    plans = {number: _to_json(_plan(request, number, request.values[0]), data) for number in STEMS}
    for document in plans.values():
        document["recipe"]["chunk_seconds"] = recipe["chunk_seconds"]  # which all share
    return plans


def _list_changes(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """Return in what a run was made otherwise; but for the limits, and what else is free."""
    if old["model"] != new["model"]:
        return [f"model was {old['model']}, now {new['model']}"]
    changed = [
        f"{name} was {old[part].get(name)}, now {value}"
        for part in ("settings", "recipe")
        for name, value in new[part].items()
        if name not in (*_LIMITS, *free) and old[part].get(name) != value
    ]
    return changed + (["the data are others"] if new["data"] not in (None, old["data"]) else [])


def _check_same(task: _Task, data: str | None) -> None:
    """Refuse to go on with a run that was begun otherwise."""
    if not any((task.run / f"{choice}.json").exists() for choice in models.CHOICES):
        return
    path = task.folder / _PLAN
    try:
        changed = _list_changes(json.loads(path.read_text(encoding="utf-8")), _to_json(task.plan, data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        changed = [f"{_PLAN} is not what study writes"]
    if changed:
        raise DatasetError(
            f"{task.folder}: was begun otherwise: {'; '.join(changed)}: "
            "go on as it began, --force to begin anew, or another --out"
        )


def _clear(task: _Task) -> None:
    """Remove what a value's folder has of a run, and what was measured."""
    (task.folder / _POINT).unlink(missing_ok=True)
    with models.lock_run(task.run):
        models.remove_run(task.run)


def _read_point(folder: Path) -> dict[str, Any] | None:
    """Return what was measured already, None where there is nothing that can be used."""
    try:
        document: dict[str, Any] = json.loads((folder / _POINT).read_text(encoding="utf-8"))
        document["point"]["sdr"] = {t: math.nan if v is None else v for t, v in document["point"]["sdr"].items()}
        document["point"] = Point(**document["point"])
        _list_changes(document["plan"], document["plan"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return document


def _read_points(request: Request, wanted: Mapping[int, Mapping[str, Any]]) -> tuple[list[Point], list[str]]:
    """Return what was measured of all values of a study, in order; and the folders of what was made otherwise."""
    points, others = [], []
    for folder in sorted(request.out.glob(f"*stems/{glob.escape(request.parameter)}=*")):
        document = _read_point(folder)
        if document is None:
            continue
        point: Point = document["point"]
        if _list_changes(document["plan"], wanted[point.stems], [request.name]):
            others.append(f"{folder.parent.name}/{folder.name}")
        else:
            points.append(point)
    return sorted(points, key=lambda point: (point.stems, _rank(point.value))), others


def _rank(value: Any) -> tuple[float, str]:
    """Return what values are sorted by: numbers first."""
    return (value, "") if isinstance(value, int | float) else (math.inf, _folder_name(value))


def _is_spent(found: models.Checkpoint, plan: Plan, budget: Budget) -> bool:
    """Return whether nothing is left to train."""
    steps, minutes = plan.recipe.max_steps, budget.max_minutes
    return (
        (steps is not None and found.step >= steps)
        or (minutes is not None and found.training["seconds"] >= 60 * minutes)
        or all(part["stopped"] for part in found.training["parts"].values())
    )


def _find_state(task: _Task, budget: Budget) -> str:
    """Return how far a value is."""
    found = models.read_checkpoint(task.run, "last")
    if found is None:
        return "to do"
    document = _read_point(task.folder)
    if document is not None and document["point"].steps == found.step and _is_spent(found, task.plan, budget):
        return "done already"
    return f"to do from step {found.step}"


# What is done


def _measure(
    task: _Task,
    data: str,
    request: Request,
    hardware: Hardware,
    parallel: Parallel,
    say: Callable[[str], None],
) -> bool:
    """Find out what there is to know of one value, and return True; False if it is known already."""
    plan = _to_json(task.plan, data)
    _train(task, plan, request.budget, hardware)
    loaded = models.load_run(task.run, models.choose_device(hardware.device))
    if loaded.choice == "last" and task.plan.recipe.select_best:
        say(f"{task.title}: no validation within the budget: the last weights are used")
    done = _read_point(task.folder)
    if done is not None and done.get("weights") == loaded.sha256:
        return False
    sdr = _score(task, loaded, request.root, hardware, parallel)
    checkpoint = models.read_checkpoint(task.run, "last")
    assert checkpoint is not None
    point = Point(
        stems=task.stems,
        value=task.value,
        nb_parameters=sum(tensor.numel() for tensor in loaded.network.parameters()),
        **_measure_cost(loaded),
        steps=checkpoint.step,
        minutes=checkpoint.training["seconds"] / 60,
        sdr=sdr,
    )
    write_json(task.folder / _POINT, {"weights": loaded.sha256, "plan": plan, "point": to_json(point)})
    return True


def _train(task: _Task, plan: Mapping[str, Any], budget: Budget, hardware: Hardware) -> None:
    """Train for what is left of the budget."""
    left = budget.max_minutes
    found = models.read_checkpoint(task.run, "last")
    if found is not None:
        if _is_spent(found, task.plan, budget):
            return
        if left is not None:
            left -= found.training["seconds"] / 60
    task.folder.mkdir(parents=True, exist_ok=True)
    write_json(task.folder / _PLAN, plan)
    result = train(task.plan, task.run, hardware=hardware, max_minutes=left, resume=True)
    if result.interrupted:
        raise KeyboardInterrupt


def _score(task: _Task, loaded: Loaded, root: Path, hardware: Hardware, parallel: Parallel) -> dict[str, float]:
    """Return the SDR of each target, in dB."""
    estimates = task.folder / "estimates"
    _remove_others(estimates, loaded.sha256)
    outcome = separate(task.run, [root], estimates, device=hardware.device)
    _stop_at(outcome.failed)
    result = scoring.score(
        estimates,
        scoring.find_references(root),
        task.folder / "scores",
        scoring.Settings(("sdr",)),
        subset="test",
        parallel=parallel,
    )
    _stop_at(result.failed)
    table = scores.aggregate(result.table, "sisec18")["SDR"]
    return {target: float(table[target]) for target in task.plan.settings.targets}


def _remove_others(estimates: Path, weights: str) -> None:
    """Remove estimates that weights made which have been trained further, or anew."""
    try:
        same = json.loads((estimates / SEPARATION).read_text(encoding="utf-8"))["model"]["weights"] == weights
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same and estimates.exists():
        shutil.rmtree(estimates)


def _measure_cost(loaded: Loaded) -> dict[str, Any]:
    """Return what a model costs: what it computes, and how fast it separates on the device where it is."""
    settings = loaded.settings
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, (round(_TIMED_SECONDS * settings.sample_rate), settings.nb_channels)).astype(
        np.float32
    )
    segment = _find_segment(settings)
    nb_frames = _COUNTED_FRAMES if segment is None else segment.nb_frames
    nb_new = _COUNTED_FRAMES * settings.hop_length if segment is None else segment.nb_new
    count = count_multiply_adds(loaded.model, settings, nb_frames)
    measured: dict[str, Any] = {
        "multiply_adds_per_second": count * settings.sample_rate / nb_new,
        "nb_frames": None,
        "nb_frames_computed": None,
        "segment_seconds": None,
        "compute_seconds": None,
        "latency_seconds": None,
        "real_time_factor": _time(loaded, wave) / _TIMED_SECONDS,
    }
    if segment is None:
        return measured
    seconds = segment.nb_heard / settings.sample_rate
    compute = _time(loaded, np.resize(wave, (segment.nb_new, settings.nb_channels)))
    return measured | {
        "nb_frames": nb_frames,
        "nb_frames_computed": _frames_computed(settings),
        "segment_seconds": seconds,
        "compute_seconds": compute,
        "latency_seconds": seconds + compute,
    }


@dataclass(frozen=True)
class _Segment:
    """What a model takes at a time.

    Attributes
    ----------
    nb_frames : that the network is given.
    nb_heard : samples that must be heard before its estimate begins.
    nb_new : samples of estimates that it adds to those of the segment before.
    """

    nb_frames: int
    nb_heard: int
    nb_new: int


def _find_segment(settings: Any) -> _Segment | None:
    """Return what a model takes at a time, None of a model that takes whole tracks."""
    if isinstance(settings, BlockUnetSettings):
        length, trim = settings.input_samples, settings.trim_samples
        return _Segment(settings.nb_frames, length - trim, length - 2 * trim)
    if isinstance(settings, LongInputSettings):
        nb_samples = settings.nb_block_frames * settings.hop_length
        return _Segment(settings.nb_block_frames, nb_samples, nb_samples)
    if isinstance(settings, SpleeterSettings):
        hop = segment_hop(settings.nb_frames, settings.overlap)
        return _Segment(settings.nb_frames, settings.nb_frames * settings.hop_length, hop * settings.hop_length)
    return None


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
    """Draw SDR by target, cost, latency (of models that have one) and speed against the values, as a PNG.

    Parameters
    ----------
    points : what was measured, sorted.
    parameter : its name.
    path : the file.
    """
    from matplotlib.figure import Figure

    timed = any(point.latency_seconds is not None for point in points)
    figure = Figure(figsize=(19 if timed else 15, 5.5), dpi=150, layout="constrained")
    quality, cost, *panels = figure.subplots(1, 4 if timed else 3)
    values = [_folder_name(point.value) for point in sorted(points, key=lambda point: _rank(point.value))]
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    for number, target in dict.fromkeys((point.stems, target) for point in points for target in point.sdr):
        some = [point for point in points if point.stems == number]
        sdr = [point.sdr[target] for point in some]
        _plot(quality, places, some, sdr, f"{target}, {number} stems", _COLOURS.get(target))
    for number in dict.fromkeys(point.stems for point in points):
        some = [point for point in points if point.stems == number]
        heights = (
            [point.nb_parameters / 1e6 for point in some],
            [point.multiply_adds_per_second / 1e9 for point in some],
        )
        for row, label, colour in zip(heights, ("10⁶ parameters", "10⁹ multiply-adds"), ("bass", "other"), strict=True):
            _plot(cost, places, some, row, f"{label}, {number} stems", _COLOURS[colour])
        latencies = [math.nan if point.latency_seconds is None else point.latency_seconds for point in some]
        speeds = [1 / point.real_time_factor for point in some]
        for axes, row in zip(panels, [latencies, speeds] if timed else [speeds], strict=True):
            _plot(axes, places, some, row, f"{number} stems", _COLOURS["vocals" if number == 2 else "drums"])
    _finish(quality, parameter, "SDR in dB, median of tracks", places)
    labels = ["latency in s: a segment, and computing it", "speed, times real time"]
    labels = ["parameters; multiply-adds for a second of music", *(labels if timed else labels[1:])]
    for axes, label in zip([cost, *panels], labels, strict=True):
        _scale(axes)
        _finish(axes, parameter, label, places)
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


def _plot(
    axes: "Axes",
    places: Mapping[str, int],
    points: Sequence[Point],
    heights: Sequence[float],
    label: str,
    colour: str | None,
) -> None:
    """Draw a line."""
    style = "o-" if points[0].stems == 4 else "s--"
    axes.plot([places[_folder_name(point.value)] for point in points], heights, style, color=colour, label=label)


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
    axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def print_table(points: Sequence[Point], parameter: str, console: "Console") -> None:
    """Print the table."""
    from rich import box
    from rich.table import Table

    targets = list(dict.fromkeys(target for point in points for target in point.sdr))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ["stems", parameter, "parameters", "MAC/s", "steps", "min", "latency s", "RTF", *targets]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        latency = "" if point.latency_seconds is None else f"{point.latency_seconds:.2f}"
        sdr = [f"{point.sdr[target]:.2f}" if target in point.sdr else "" for target in targets]
        cost = [_shorten(point.nb_parameters), _shorten(point.multiply_adds_per_second)]
        fixed = [str(point.stems), str(point.value), *cost, str(point.steps), f"{point.minutes:.1f}", latency]
        table.add_row(*fixed, f"{point.real_time_factor:.4f}", *sdr)
    console.print(table)


def _shorten(count: float) -> str:
    """Return a great number for reading."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"
