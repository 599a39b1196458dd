"""Golden values of Spleeter 2.4.2's own transforms, for tests/test_stft.py; writes spleeter_stft.npz beside this file.

Run by hand, with a Python that has Spleeter (tests/parity/setup_spleeter.sh makes one): PYTHON make_spleeter_stft.py
It needs nothing of ours, and no random numbers: the signal is the formula that the test has, too. Spleeter's code runs
on float64 here: TensorFlow 2.12's transform of float32 is wrong by 1e-5 of the greatest magnitude, that of float64 by
1e-13.
"""

import functools
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import tensorflow as tf
from spleeter.dataset import InstrumentDatasetBuilder
from spleeter.model import EstimatorSpecBuilder

NB_SAMPLES = 4096 + 5 * 1024 + 777
PARAMS = {
    "mix_name": "mix",
    "instrument_list": ["vocals"],
    "n_channels": 2,
    "T": 512,
    "F": 1024,
    "frame_length": 4096,
    "frame_step": 1024,
}


def make_signal() -> np.ndarray:
    """Return a signal over the whole range of 16 bits [shape=(NB_SAMPLES, 2)]."""
    n = np.arange(NB_SAMPLES, dtype=np.int64)
    channels = [(n * n * 31 + n * 977) % 65521 - 32760, (n * n * n * 7 + n * 4099) % 65519 - 32759]
    return np.stack(channels, axis=1) / 32768


def training_features(samples: np.ndarray) -> np.ndarray:
    """Return the magnitudes that Spleeter's dataset is mapped to, before it leaves bins out."""
    parent = SimpleNamespace(_frame_length=PARAMS["frame_length"], _frame_step=PARAMS["frame_step"])
    instrument = InstrumentDatasetBuilder(parent, "mix")
    return instrument.compute_spectrogram({"waveform": tf.constant(samples)})["mix_spectrogram"].numpy()


samples = make_signal()
training = training_features(samples)
builder = EstimatorSpecBuilder({"waveform": tf.constant(samples)}, PARAMS)
with mock.patch.object(tf, "zeros", functools.partial(tf.zeros, dtype=tf.float64)):  # the frame of zeros before it
    inference = builder.stft_feature.numpy()
gains = np.array([0.25, 0.5, 1.0])[np.arange(inference.shape[1]) % 3]  # no signal has such a spectrogram
inverse = builder._inverse_stft(tf.constant(inference * gains[:, None])).numpy()

bins = np.r_[0:2049:23, 1:8, 1020:1028, 2044:2049]
places = np.r_[0:20, 20 : NB_SAMPLES - 20 : 29, NB_SAMPLES - 20 : NB_SAMPLES]
np.savez_compressed(
    Path(__file__).with_name("spleeter_stft.npz"),
    bins=bins,
    training=training[:, bins],
    inference=inference[:, bins],
    places=places,
    inverse=inverse[places],
    nb_samples=len(inverse),
)
