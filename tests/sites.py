"""A dataset of tiny tracks, Spleeter's files beside it and a cache, for the tests of what is asked for and built."""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from musdbkit.cache import Parameters
from musdbkit.cache_request import Request, Wanted
from musdbkit.caching import Result, build
from musdbkit.tracks import Parallel

REPOSITORY = Path(__file__).parent.parent
ONE = Parallel(1)
SMALL = Parameters(64, 16, "hann", 8000, 2, 20, "float16")
SIGNALS = ("mixture", "vocals", "drums")
NB_SAMPLES = 3000

CONFIG: dict[str, Any] = {
    "train_csv": "train.csv",
    "validation_csv": "valid.csv",
    "model_dir": "model",
    "mix_name": "mix",
    "instrument_list": ["vocals", "drums"],
    "sample_rate": 8000,
    "frame_length": 64,
    "frame_step": 16,
    "T": 4,
    "F": 20,
    "n_channels": 2,
    "chunk_duration": 0.2,
    "separation_exponent": 2,
    "mask_extension": "zeros",
    "learning_rate": 1e-4,
    "batch_size": 4,
    "training_cache": "spleeter/training",
    "validation_cache": None,
    "train_max_steps": 10,
    "throttle_secs": 10,
    "random_seed": 3,
    "save_checkpoints_steps": 5,
    "save_summary_steps": 5,
    "model": {"type": "unet.unet", "params": {}},
}


class Site:
    """A folder with a dataset `wav`, Spleeter's files beside it, and a cache `cache`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "wav"
        self.out = folder / "cache"
        self.rng = np.random.default_rng(0)

    def add(
        self,
        name: str,
        signals: Sequence[str] = SIGNALS,
        *,
        nb_samples: int = NB_SAMPLES,
        nb_channels: int = 2,
        sample_rate: int = 8000,
        subtype: str = "PCM_16",
        suffix: str = "wav",
        level: float = 0.3,
    ) -> Path:
        """Write the files of one track, relative to the root; return its folder."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        for each in signals:
            samples = level * self.rng.uniform(-1, 1, (nb_samples, nb_channels))
            soundfile.write(folder / f"{each}.{suffix}", samples, sample_rate, subtype)
        return folder

    def wanted(
        self, name: str, signals: Sequence[str] = SIGNALS, *, splits: tuple[str, ...] = ("train",), suffix: str = "wav"
    ) -> Wanted:
        return Wanted(name, name, splits, {s: self.root / name / f"{s}.{suffix}" for s in signals})

    def request(
        self, *names: str, parameters: Parameters = SMALL, signals: Sequence[str] = SIGNALS, **options: Any
    ) -> Request:
        tracks = tuple(self.wanted(name, signals, **options) for name in names)
        return Request(parameters, tuple(signals), tracks)

    def build(self, request: Request, **options: Any) -> Result:
        return build(request, self.out, parallel=ONE, **options)

    def configure(
        self, train: Sequence[str], valid: Sequence[str] = (), *, paths: dict[str, str] | None = None, **changes: Any
    ) -> Path:
        """Write a configuration and its CSVs; `paths` gives the mixture's path of tracks in no folder of their own."""
        settings = CONFIG | changes
        for name, tracks in (("train", train), ("valid", valid or train[:1])):
            with (self.folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                columns = [settings["mix_name"], *settings["instrument_list"]]
                writer.writerow([*(f"{column}_path" for column in columns), "duration"])
                for track in tracks:
                    mixture = (paths or {}).get(track, f"{track}/mixture.wav")
                    writer.writerow([mixture, *(f"{track}/{s}.wav" for s in columns[1:]), NB_SAMPLES / 8000])
        path = self.folder / "config.json"
        path.write_text(json.dumps(settings))
        return path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def state(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return what each file is: content, time of change, and inode, which tell a file from a copy."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in paths
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def statuses(result: Result) -> dict[str, str]:
    return {name: track.status for name, track in result.tracks.items()}


def stale(result: Result) -> dict[str, dict[str, str]]:
    return {name: track.stale for name, track in result.tracks.items() if track.stale}


def change_one_sample(path: Path) -> None:
    """Change one sample of a file, whose size stays."""
    samples, rate = soundfile.read(path, dtype="int16")
    samples[1000, 1] += 1 if samples[1000, 1] < 0 else -1
    size = path.stat().st_size
    soundfile.write(path, samples, rate, "PCM_16")
    assert path.stat().st_size == size


def forbid_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a hash was computed")

    monkeypatch.setattr(hashlib, "file_digest", refuse)


def magnitudes(path: Path, parameters: Parameters) -> NDArray[np.float64]:
    """Return what an array is to hold, by its definition."""
    samples = soundfile.read(path, dtype="float64", always_2d=True)[0]
    n_fft, hop = parameters.n_fft, parameters.hop_length
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))[:, None]
    frames = []
    start = 0
    while start + n_fft <= len(samples):
        frames.append(np.abs(np.fft.rfft(samples[start : start + n_fft] * window, axis=0)))
        start += hop
    return np.array(frames)[:, : parameters.nb_bins]
