"""What Spleeter 2.4.2 itself reads from the CSVs is what our cache holds; set up with setup_spleeter.sh."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from musdbkit.cache import open_cache
from musdbkit.cache_request import read_request
from musdbkit.caching import build
from musdbkit.spleeter_files import make_csv
from musdbkit.synth import synth
from musdbkit.tracks import Parallel
from tests.parity.peer import PYTHON, run_spleeter

pytestmark = pytest.mark.spleeter

if not PYTHON:
    pytest.skip("MUSDBKIT_SPLEETER_PYTHON names no Python with Spleeter", allow_module_level=True)

SPLEETER = """
import csv
import numpy as np
import tensorflow as tf
from spleeter.audio.ffmpeg import FFMPEGProcessAudioAdapter
from spleeter.dataset import DatasetBuilder
from spleeter.utils.configuration import load_configuration

params = load_configuration("musdb_4stems.json")
builder = DatasetBuilder(params, FFMPEGProcessAudioAdapter(), "musdb", chunk_duration=20.0)
examples = builder.build(
    params["train_csv"], 1, shuffle=False, random_time_crop=False, infinite_generator=False, n_chunks_per_song=1
)
((mixture, targets),) = examples
coded = {key.removesuffix("_spectrogram"): value[0].numpy() for key, value in {**mixture, **targets}.items()}
np.savez("uint8.npz", **coded)
exact = {}
with open(params["train_csv"], newline="") as file:
    (row,) = csv.DictReader(file)
for instrument, name in zip(builder.instruments, coded, strict=True):
    sample = {f"{name}_path": "musdb/" + row[f"{name}_path"], "start": tf.constant(0.0)}
    sample = instrument.filter_frequencies(instrument.compute_spectrogram(instrument.load_waveform(sample)))
    exact[name] = sample[f"{name}_spectrogram"].numpy()[173 : 173 + 512]
np.savez("float32.npz", **exact)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A track of exactly one chunk, and what Spleeter makes of it: the 512 frames in its middle, exact and coded."""
    folder = tmp_path_factory.mktemp("spleeter")
    synth(folder / "musdb", train=1, valid=1, test=0, seconds=20.0, layout="wav", parallel=Parallel(1))
    with contextlib.chdir(folder):
        make_csv(Path("musdb"), stems=4)
    run_spleeter(SPLEETER, cwd=folder)
    return folder


def read_both(
    folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return Spleeter's magnitudes and ours of each signal."""
    monkeypatch.chdir(folder)
    build(read_request(Path("musdb_4stems.json"), Path("musdb"), dtype), Path(dtype), parallel=Parallel(1))
    cache = open_cache(dtype)
    (track,) = cache.in_split("train")
    assert cache.nb_frames(track) == 858
    ours = cache.segment(track, 173, 512)
    with np.load(f"{dtype}.npz") as arrays:
        theirs = {"mixture" if name == "mix" else name: arrays[name] for name in arrays.files}
    assert ours.keys() == theirs.keys()
    return {signal: (theirs[signal], ours[signal]) for signal in ours}


def test_magnitudes_are_spleeters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for signal, (theirs, ours) in read_both(folder, "float32", monkeypatch).items():
        assert ours.shape == theirs.shape == (512, 1024, 2), signal
        # TensorFlow 2.12's own transform of float32 is wrong by 1e-5 (see test_stft.py)
        assert np.abs(ours - theirs).max() < 1e-5 * theirs.max(), signal


def test_uint8_is_spleeters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for signal, (theirs, ours) in read_both(folder, "uint8", monkeypatch).items():
        loud = theirs > 1e-3 * theirs.max()  # below, TensorFlow's error is more than a code
        assert loud.mean() > 0.05, signal
        steps = np.abs(20 * np.log10(ours[loud] / theirs[loud])) / 0.3907
        assert steps.max() < 1.01, signal  # at a rounding boundary, the code beside
        assert (steps > 0.01).mean() < 0.01, signal
        np.testing.assert_allclose([ours.min(), ours.max()], [theirs.min(), theirs.max()], rtol=1e-5)
