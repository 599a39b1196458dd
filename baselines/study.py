"""Studies: what one setting does to quality, cost and latency.

Reads a dataset as wav. Writes a folder:

| file | what it holds |
|---|---|
| `<out>/cache/` | the spectrograms that all runs of Spleeter's models train on |
| `<out>/<stems>stems/<name>=<value>/` | one value: `run`, `estimates`, `scores`, and |
| `.../plan.json`, `.../point.json` | how the run was begun; how what was measured was made, and what it is |
| `<out>/study.csv`, `<out>/study.png` | all values there that differ in nothing else; see `study_tables` |

Every value has the same budget, the same data and the same seed. A study that was stopped goes on where it was; what
was made with other settings or of other data is not used, and refused where it is in the way.

References
----------
The study of T was begun at github.com/gvne/spleeter_train_parameters, in February 2020, and has no published results.
"""

import contextlib
import glob
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from baselines import models
from baselines.block_unet import BlockUnetSettings
from baselines.cost import count_multiply_adds
from baselines.long_input import LongInputSettings
from baselines.models import Loaded, write_json
from baselines.plans import ALIASES, Plan, fingerprint, make_batches, make_plan
from baselines.recipes import complete
from baselines.separate import separate
from baselines.separation import SeparationSettings, segment_hop, separate_wave
from baselines.spleeter_unet import SpleeterSettings, UnetSettings
from baselines.study_tables import Point, folder_name, rank, to_json, write_tables
from baselines.train import DEFAULT_HARDWARE, Hardware, train
from musdbkit import caching, musdb18, scores, scoring, spleeter_config, templates
from musdbkit.cache_request import find_request
from musdbkit.errors import DatasetError, MusdbkitError, ParameterError
from musdbkit.tracks import ALL_CORES, SEPARATION, Parallel, find_audio, find_tracks

STEMS: Final[dict[int, tuple[str, ...]]] = {2: ("vocals", "accompaniment"), 4: musdb18.STEMS}
"""Targets by number of stems, of models that have no configuration of their own for it."""

_PLAN: Final = "plan.json"
_POINT: Final = "point.json"
_LIMITS: Final = ("max_steps", "max_epochs")  # in which the plans of one study may differ: it goes on with more
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
    targets : what is estimated instead of those, if anything; what their number is, is then that of the stems.
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
    targets: tuple[str, ...] | None = None
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
        changed = {ALIASES.get(name, name) for name in self.changes}
        if taken := changed & {self.name, "targets"}:
            what = "what is studied" if self.name in taken else "given by stems or targets"
            raise ParameterError(f"{min(taken)} is set for all values, but is {what}: leave it out")

    @property
    def name(self) -> str:
        """The parameter, as settings and recipes name it."""
        return ALIASES.get(self.parameter, self.parameter)

    @property
    def targets_of(self) -> Mapping[int, tuple[str, ...]]:
        """The targets by number of stems."""
        if self.targets is not None:
            return {len(self.targets): self.targets}
        return {number: STEMS[number] for number in self.stems}

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
    data = _check_data(tasks)
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
            write_tables(points, request.parameter, request.out)
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
        data = _check_data(tasks)
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
            (number, folder_name(value)): _plan(request, number, value)
            for number in request.targets_of
            for value in request.values
        }
    )
    values = {folder_name(value): value for value in request.values}
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
    targets = STEMS[number] if request.targets is None else request.targets
    if model != "spleeter-unet" or request.targets is not None:
        data = cache if models.find_kind(model).reads == "cache" else request.root
        return make_plan(model, data=data, recipe=request.recipe, targets=targets, changes=changes)
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
    return tuple(dict.fromkeys(itertools.chain(*request.targets_of.values())))


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


# What is there already


def _check_data(tasks: Sequence[_Task]) -> str:
    """Return the hash of the data, which all values can be trained on."""
    for task in tasks:
        batches = make_batches(task.plan, torch.device("cpu"))
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
    numbers = STEMS if request.targets is None else request.targets_of
    plans = {number: _to_json(_plan(request, number, request.values[0]), data) for number in numbers}
    for document in plans.values():
        document["recipe"]["chunk_seconds"] = recipe["chunk_seconds"]  # which all share
    return plans


def _list_changes(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """Return in what a run was made otherwise; but for the limits, and what else is free."""
    if old["model"] != new["model"]:
        return [f"model was {old['model']}, now {new['model']}"]
    old = {**old, "recipe": complete(old["recipe"])}
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
        expected = wanted.get(point.stems)
        if expected is None or _list_changes(document["plan"], expected, [request.name]):
            others.append(f"{folder.parent.name}/{folder.name}")
        else:
            points.append(point)
    return sorted(points, key=lambda point: (point.stems, rank(point))), others


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
    segment = _find_segment(settings)
    seconds = _TIMED_SECONDS
    if segment is not None:  # two of them at least
        seconds = max(seconds, 2 * segment.nb_new / settings.sample_rate)
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, (round(seconds * settings.sample_rate), settings.nb_channels)).astype(np.float32)
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
        "real_time_factor": _time(loaded, wave) / seconds,
    }
    if segment is None:
        return measured
    seconds = segment.nb_heard / settings.sample_rate
    compute = _time(loaded, wave[: segment.nb_timed])
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
    nb_timed : length of a wave that is one segment.
    """

    nb_frames: int
    nb_heard: int
    nb_new: int
    nb_timed: int


def _find_segment(settings: Any) -> _Segment | None:
    """Return what a model takes at a time, None of a model that takes whole tracks."""
    if isinstance(settings, BlockUnetSettings):
        length, trim = settings.input_samples, settings.trim_samples
        return _Segment(settings.nb_frames, length - trim, length - 2 * trim, length - 2 * trim)
    if isinstance(settings, LongInputSettings):
        nb_samples = settings.nb_block_frames * settings.hop_length
        return _Segment(settings.nb_block_frames, nb_samples, nb_samples, nb_samples - settings.hop_length)
    if isinstance(settings, SpleeterSettings):
        nb_samples = settings.nb_frames * settings.hop_length
        hop = segment_hop(settings.nb_frames, settings.overlap) * settings.hop_length
        return _Segment(settings.nb_frames, nb_samples, hop, nb_samples)
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
