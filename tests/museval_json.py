"""Folders of museval's JSON, as museval 0.4 and the SiSEC 2018 submissions have them, with scores that are known."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from musdbkit import musdb18, sisec18

METRICS = ("SDR", "SIR", "ISR", "SAR")
Frames = Mapping[str, Mapping[str, Sequence[float]]]
"""By target and metric, the value of each frame."""


def write_track(folder: Path, name: str, frames: Frames, *, duration: float = 1.0, hop: float = 1.0) -> None:
    """Write the JSON of one track, with NaN as museval writes it."""
    targets = [
        {
            "name": target,
            "frames": [
                {
                    "time": i * hop,
                    "duration": duration,
                    "metrics": {metric: round(values[i], 5) for metric, values in by_metric.items()},
                }
                for i in range(len(next(iter(by_metric.values()))))
            ],
        }
        for target, by_metric in frames.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"targets": targets}), encoding="utf-8")


def spread(median: float, rng: np.random.Generator, *, width: float = 2.0) -> list[float]:
    """Return frames with a median: in random order, some of them dropped, and one of them far off."""
    distances = rng.uniform(0.1, width, 4)
    values = [median, *(median + distances), *(median - distances[:3]), median - 60, math.nan, math.nan]
    return [float(value) for value in rng.permutation(values)]


def write_method(
    folder: Path,
    scores: Mapping[str, Mapping[str, float]],
    *,
    tracks: Iterable[str] = musdb18.TEST_TRACKS,
    seed: int = 0,
) -> None:
    """Write JSON of which median over frames and then tracks is known, by target and metric."""
    rng = np.random.default_rng(seed)
    names = list(tracks)
    offsets = {
        (target, metric): np.concatenate([(d := rng.uniform(0.01, 4, len(names) // 2)), -d, [0.0] * (len(names) % 2)])
        for target in scores
        for metric in scores[target]
    }
    for i, name in enumerate(names):
        frames = {
            target: {metric: spread(median + offsets[target, metric][i], rng) for metric, median in by_metric.items()}
            for target, by_metric in scores.items()
        }
        write_track(folder / "test", name, frames)


def write_submission(folder: Path, method: str) -> None:
    """Write JSON that has the medians of a method of SiSEC 2018."""
    write_method(folder, sisec18.read_medians()[method], seed=sum(map(ord, method)))


def write_values(folder: Path, values: Mapping[str, Mapping[str, float]], *, subset: str = "test") -> None:
    """Write JSON of one frame for each track: by track and target, its SDR."""
    for name, by_target in values.items():
        write_track(folder / subset, name, {target: {"SDR": [value]} for target, value in by_target.items()})
