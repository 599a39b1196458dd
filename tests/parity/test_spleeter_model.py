"""Spleeter 2.4.2's own models, checkpoints and separation (see setup_spleeter.sh) against ours, from file to waves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.convert_weights import import_weights
from baselines.models import load_run
from baselines.separation import SeparationSettings, separate_wave
from baselines.spleeter_blstm import BlstmSettings
from baselines.spleeter_unet import UnetSettings
from tests.parity.peer import PYTHON, run_spleeter

pytestmark = pytest.mark.spleeter

if not PYTHON:
    pytest.skip("MUSDBKIT_SPLEETER_PYTHON names no Python with Spleeter", allow_module_level=True)

REPOSITORY = Path(__file__).parent.parent.parent

SCRIPT = """
import json, math, sys
import numpy as np
import tensorflow as tf
from keras.saving.legacy import hdf5_format
from spleeter.model import EstimatorSpecBuilder
from spleeter.model.functions import blstm

samples = np.load("samples.npy")

def fill(variable, k):
    shape = variable.shape.as_list()
    s = np.sin(0.37 * np.arange(1, np.prod(shape) + 1) + 0.1 * k)
    if len(shape) == 4:
        s *= 0.75 / math.sqrt(shape[0] * shape[1] * min(shape[2], shape[3]))
    elif len(shape) == 2:
        s *= 0.75 / math.sqrt(min(shape))
    else:
        s = {"gamma": 1 + 0.2 * s, "moving_variance": 1 + 0.5 * s}.get(variable.op.name.split("/")[-1], 0.1 * s)
    return s.reshape(shape).astype(np.float32)

def load(session, variables, values):
    # at once: each call of Variable.load would prepare the graph anew
    feeds = {v.initializer.inputs[1]: value for v, value in zip(variables, values, strict=True)}
    session.run([v.initializer for v in variables], feeds)

def separate(params, values, name):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        wave = tf.compat.v1.placeholder(tf.float32, (None, params["n_channels"]))
        builder = EstimatorSpecBuilder({"waveform": wave}, params)
        outputs = builder.outputs
        load(session, tf.compat.v1.global_variables(), values)
        if params["n_channels"] == 1:
            outputs = builder.model_outputs | {"mixture": builder.spectrogram_feature}
        np.savez(name, **session.run(outputs, {wave: samples[:, :params["n_channels"]]}))

def save(params, name):
    options = tf.compat.v1.GraphOptions(place_pruned_graph=True)  # not all that is built can run on a CPU
    config = tf.compat.v1.ConfigProto(graph_options=options)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        tf.compat.v1.train.get_or_create_global_step()
        shape = (1, params["T"], params["F"], params["n_channels"])
        builder = EstimatorSpecBuilder({"mix_spectrogram": tf.zeros(shape)}, params)
        labels = {f"{target}_spectrogram": tf.zeros(shape) for target in params["instrument_list"]}
        if params.pop("trained", False):
            builder.build_train_model(labels)
        else:
            builder.model_outputs
        session.run(tf.compat.v1.global_variables_initializer())
        variables = [v for v in tf.compat.v1.global_variables() if "Adam" not in v.name and v.shape.rank]
        values = [fill(variable, k) for k, variable in enumerate(variables)]
        load(session, variables, values)
        tf.compat.v1.train.Saver().save(session, f"{name}/model")
    return values

def as_ordinary_layers(values):
    # what Keras does where it loads layers for GPUs only into ordinary ones
    values, ordinary = list(values), []
    while values:
        if len(values[0].shape) == 2 and values[1].ndim == 2:
            layer = tf.keras.layers.LSTM(values[1].shape[0])
            ordinary += hdf5_format.preprocess_weights_for_loading(layer, values[:3])
            del values[:3]
        else:
            ordinary += [values.pop(0)]
    return ordinary

for name in sys.argv[1:]:
    params = json.load(open(f"{name}.json"))
    values = save(dict(params), name)
    if name == "blstm":
        values = as_ordinary_layers(values)
        blstm.CuDNNLSTM = tf.keras.layers.LSTM
    separate(params, values, f"{name}-estimates.npz")
"""

EXPORT = """
import sys

example, *names = sys.argv[1:]
for name in names:
    sys.argv = [example, name, f"{name}.npz"]
    exec(open(example).read())
"""

SMALL = [2, 3, 4, 5, 6, 7]

CASES: dict[str, dict[str, Any]] = {
    "2stems": {},
    "4stems": {"mask_extension": "average"},
    "5stems": {
        "instrument_list": ["vocals", "piano", "drums", "bass", "other"],
        "model": {"type": "unet.softmax_unet", "params": {"conv_n_filters": SMALL, "conv_activation": "ELU"}},
        "trained": True,
    },
    "wiener": {"model": {"type": "unet.unet", "params": {"conv_n_filters": SMALL}}, "F": 128, "MWF": True},
    "mono": {"model": {"type": "unet.unet", "params": {"conv_n_filters": SMALL}}, "F": 128, "n_channels": 1},
    "blstm": {"model": {"type": "blstm.blstm", "params": {"lstm_units": 7}}, "F": 128},
}
"""What is changed in a template. Trained ones are checkpoints with all that Adam needs, though no step is taken."""


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Quiet noise and sines, of two and a half segments of 64 frames."""
    rng = np.random.default_rng(0)
    times = np.arange(161_000)[:, None] / 44100
    sines = np.sin(2 * np.pi * np.array([440, 443]) * times) + np.sin(2 * np.pi * np.array([3000, 900]) * times)
    return (0.02 * sines * np.cos(3 * times) + rng.normal(0, 0.01, (161_000, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, samples: np.ndarray) -> Path:
    """Configurations, what Spleeter separates by them, and its exported checkpoints."""
    folder = tmp_path_factory.mktemp("spleeter")
    np.save(folder / "samples.npy", samples)
    for name, values in CASES.items():
        template = REPOSITORY / "templates" / f"spleeter_{4 if name == '4stems' else 2}stems.json"
        config = json.loads(template.read_text()) | {"T": 64} | values
        (folder / f"{name}.json").write_text(json.dumps(config))
    run_spleeter(SCRIPT, *CASES, cwd=folder)
    # one after another in one process: TensorFlow takes seconds to load
    run_spleeter(EXPORT, str(REPOSITORY / "examples" / "export_spleeter_weights.py"), *CASES, cwd=folder)
    with np.load(folder / "5stems.npz") as file:
        assert {"global_step", "beta1_power", "conv2d/kernel/Adam", "conv2d/kernel/Adam_1"} <= set(file)
    return folder


@pytest.mark.parametrize("name", [name for name in CASES if name != "mono"])
def test_estimates_are_spleeters(folder: Path, samples: np.ndarray, tmp_path: Path, name: str) -> None:
    model = "spleeter-blstm" if name == "blstm" else "spleeter-unet"
    source, config = folder / f"{name}.npz", folder / f"{name}.json"
    imported = import_weights(source, model, tmp_path / "run", config=config)
    loaded = load_run(tmp_path / "run")
    settings = SeparationSettings(nb_wiener_iterations=1 if name == "wiener" else None)
    estimates = separate_wave(loaded, samples, settings)

    assert imported.settings == loaded.settings
    assert loaded.settings.overlap == 0
    assert isinstance(loaded.settings, BlstmSettings if name == "blstm" else UnetSettings)
    with np.load(folder / f"{name}-estimates.npz") as file:
        expected = dict(file)
    assert list(estimates) == list(expected) == json.loads(config.read_text())["instrument_list"]
    for target, wave in estimates.items():
        deviation = np.abs(wave - expected[target]).max()
        print(f"{name} {target}: {deviation:.1e} of {np.abs(expected[target]).max():.2f}")
        assert deviation < 5e-6
    waves = list(expected.values())  # the weights make masks that differ
    assert all(np.abs(waves[0] - wave).max() > 1e-3 for wave in waves[1:])
    assert all(np.abs(wave).max() > 1e-3 for wave in waves)


def test_of_mono_ours_is_the_mean_of_spleeters_two(folder: Path, tmp_path: Path) -> None:
    import_weights(folder / "mono.npz", "spleeter-unet", tmp_path / "run", config=folder / "mono.json")
    with np.load(folder / "mono-estimates.npz") as file:
        expected = dict(file)
    mixture = torch.from_numpy(expected.pop("mixture")).permute(0, 3, 2, 1)
    estimates = load_run(tmp_path / "run").network(mixture)
    for j, target in enumerate(("vocals", "accompaniment")):
        mean = expected[f"{target}_spectrogram"].mean(axis=3)  # batch_size, nb_frames, nb_bins
        np.testing.assert_allclose(estimates[:, j, 0].mT, mean, rtol=1e-4, atol=1e-5)
