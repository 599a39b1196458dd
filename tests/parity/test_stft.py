"""The transforms against the programs whose they are: Spleeter 2.4.2 (see setup_spleeter.sh) and Open-Unmix 1.3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from musdbkit.audio import decode_stems
from musdbkit.stft import PRESETS, istft, magnitude, stft
from tests.parity.peer import PYTHON, import_openunmix, run_spleeter

SPLEETER = """
import functools, sys
from types import SimpleNamespace
from unittest import mock
import numpy as np
import tensorflow as tf
from spleeter.dataset import InstrumentDatasetBuilder
from spleeter.model import EstimatorSpecBuilder

params = {"mix_name": "mix", "instrument_list": ["vocals"], "n_channels": 2, "T": 512, "F": 1024}
params |= {"frame_length": 4096, "frame_step": 1024}
instrument = InstrumentDatasetBuilder(SimpleNamespace(_frame_length=4096, _frame_step=1024), "mix")
samples, gains = np.load("samples.npy"), np.load("gains.npy")
wave = tf.constant(samples)
with mock.patch.object(tf, "zeros", functools.partial(tf.zeros, dtype=wave.dtype)):
    builder = EstimatorSpecBuilder({"waveform": wave}, params)
    spectrogram = builder.stft_feature
np.save("training.npy", instrument.compute_spectrogram({"waveform": wave})["mix_spectrogram"])
np.save("inference.npy", spectrogram)
np.save("inverse.npy", builder._inverse_stft(spectrogram * gains[:, None]))
"""


@pytest.fixture(scope="module")
def samples(excerpt: Path) -> NDArray[np.float32]:
    """The mixture of the real excerpt."""
    return np.concatenate([streams[0] for streams in decode_stems(excerpt)])


def error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest absolute difference, as a share of the largest magnitude."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.spleeter
@pytest.mark.skipif(not PYTHON, reason="MUSDBKIT_SPLEETER_PYTHON names no Python with Spleeter")
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(np.float64, 1e-6), (np.float32, 3e-5)],  # TensorFlow 2.12's own transform of float32 is wrong by 1e-5
)
def test_transforms_are_spleeters(tmp_path: Path, samples: NDArray[np.float32], dtype: Any, limit: float) -> None:
    gains = np.array([0.25, 0.5, 1], dtype)[np.arange(2049) % 3]
    np.save(tmp_path / "samples.npy", samples.astype(dtype))
    np.save(tmp_path / "gains.npy", gains)
    run_spleeter(SPLEETER, cwd=tmp_path)
    training, inference, inverse = (np.load(tmp_path / f"{name}.npy") for name in ("training", "inference", "inverse"))

    assert training.dtype == inverse.dtype == dtype
    assert error(magnitude(samples, PRESETS["spleeter"]), training) < limit
    spectrogram = stft(samples, PRESETS["spleeter-inference"])
    assert error(spectrogram, inference) < limit
    wave = istft(spectrogram * gains[:, None], PRESETS["spleeter-inference"], nb_samples=len(samples))
    assert wave.shape == inverse.shape
    assert np.abs(wave - inverse).max() < limit


@pytest.fixture(scope="module")
def filterbanks() -> dict[str, tuple[torch.nn.Module, torch.nn.Module]]:
    """Open-Unmix's own transforms and their inverses, by our names of them."""
    transforms, model = import_openunmix("transforms"), import_openunmix("model")
    separator = model.Separator({"vocals": torch.nn.Identity()})
    return {"openunmix": transforms.make_filterbanks(), "openunmix-inference": (separator.stft, separator.istft)}


@pytest.mark.parametrize("preset", ["openunmix", "openunmix-inference"])
def test_transforms_are_openunmixs(
    filterbanks: dict[str, tuple[torch.nn.Module, torch.nn.Module]], samples: NDArray[np.float32], preset: str
) -> None:
    forward, _ = filterbanks[preset]
    with torch.no_grad():
        parts = forward(torch.from_numpy(samples.T.copy())[None])[
            0
        ].numpy()  # channels, bins, frames, real and imaginary
    expected = (parts[..., 0] + 1j * parts[..., 1]).transpose(2, 1, 0)
    assert error(stft(samples, PRESETS[preset]), expected) < 1e-6
    assert error(magnitude(samples, PRESETS[preset]), np.abs(expected)) < 1e-6


def test_inverse_is_openunmixs(
    filterbanks: dict[str, tuple[torch.nn.Module, torch.nn.Module]], samples: NDArray[np.float32]
) -> None:
    params = PRESETS["openunmix-inference"]
    gains = np.array([0.25, 0.5, 1], np.float32)[np.arange(2049) % 3]
    spectrogram = stft(samples, params) * gains[:, None]
    parts = torch.view_as_real(torch.from_numpy(spectrogram.transpose(2, 1, 0).copy()))
    with torch.no_grad():
        expected = filterbanks["openunmix-inference"][1](parts[None], length=len(samples))[0].numpy().T
    wave = istft(spectrogram, params, nb_samples=len(samples))
    assert wave.shape == expected.shape
    assert np.abs(wave - expected).max() < 1e-6
