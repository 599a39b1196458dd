"""Scores against the installed museval.

Its module of metrics is loaded by its file, which needs no ffmpeg program; importing museval does.
"""

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.signal
from numpy.typing import NDArray

from musdbkit import audio, metrics
from musdbkit.bsseval import IllConditionedWarning, evaluate
from tests.conftest import require_ffmpeg

Array = NDArray[Any]
Pair = tuple[Array, Array]

ORDER = (2, 0, 3, 1)
GAIN = 0.7


@pytest.fixture(scope="module")
def museval() -> ModuleType:
    """The module museval.metrics."""
    package = importlib.util.find_spec("museval")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs(
    museval: ModuleType,
    pair: Pair,
    window: float = metrics.SECOND,
    hop: float = metrics.SECOND,
    mode: str = "v4",
    filter_length: int = 512,
) -> Array:
    """Return museval's scores [shape=(4, nb_sources, nb_frames)]."""
    options = {"filters_len": filter_length, "framewise_filters": mode == "v3"}
    return np.array(museval.bss_eval(*pair, window=window, hop=hop, **options)[:4])


def ours(pair: Pair, window: float = metrics.SECOND, hop: float = metrics.SECOND, **options: Any) -> Array:
    """Return our scores [shape=(4, nb_sources, nb_frames)]."""
    return np.array(evaluate(*pair, window, hop, **options))


def check(values: Array, expected: Array, atol: float = 1e-5) -> None:
    """Check that scores are equal."""
    np.testing.assert_allclose(values[0], expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(values[1:], expected[1:], rtol=0, atol=atol)


def mixed(rng: np.random.Generator, nb_sources: int, nb_channels: int, nb_samples: int) -> Pair:
    """Return references, and estimates with an echo, some of the other sources and some noise."""
    references = rng.standard_normal((nb_sources, nb_samples, nb_channels))
    echo = np.roll(references, 3, axis=1)[..., ::-1]
    noise = 0.1 * rng.standard_normal(references.shape)
    return references, references + 0.3 * echo + 0.1 * references.sum(axis=0) + noise


# Frames


def test_frames_are_musevals(museval: ModuleType, rng: np.random.Generator) -> None:
    cases = [(n, w, h) for n in (1, 2, 99, 100, 101, 1000, 4410) for w in (1, 3, 100, 333) for h in (1, 50, 100, 333)]
    cases += [
        (268288, w * 44100, h * 44100) for w, h in ((1, 1), (2, 1.5), (0.1, 0.1), (30, 15), (1, 0.3), (1 / 3, 0.7))
    ]
    cases += [
        (n, window, hop) for n in (10, 44100) for window, hop in ((np.inf, np.inf), (np.inf, 10), (44100, np.inf))
    ]
    lengths, windows, hops = rng.integers(1, 5000, 500), rng.uniform(1, 3000, 500), rng.uniform(1, 3000, 500)
    cases += list(zip(lengths.tolist(), windows.tolist(), hops.tolist(), strict=True))
    for nb_samples, window, hop in cases:
        expected = list(museval.Framing(window, hop, nb_samples))
        assert metrics.frames(nb_samples, window, hop) == expected, (nb_samples, window, hop)


# Random signals


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize(
    ("nb_sources", "nb_channels", "window", "hop"),
    [
        (2, 2, 500, 500),
        (4, 2, 500, 300),
        (1, 2, 500, 700),
        (3, 1, 333.3, 222.2),
        (2, 3, np.inf, np.inf),
        (3, 3, 999, 1),
    ],
)
def test_random(
    nb_sources: int,
    nb_channels: int,
    window: float,
    hop: float,
    mode: str,
    museval: ModuleType,
    rng: np.random.Generator,
) -> None:
    pair = mixed(rng, nb_sources, nb_channels, 1003 if hop == 1 else 2000)
    values = ours(pair, window, hop, mode=mode, filter_length=16)
    expected = theirs(museval, pair, window, hop, mode, 16)
    if nb_sources == 1:  # without interference SIR is a rounding error
        assert (values[2] > 200).all()
        assert (expected[2] > 200).all()
        values[2] = expected[2] = 0
    check(values, expected, atol=1e-9)


@pytest.mark.parametrize("mode", ["v4", "v3"])
def test_512_taps(mode: str, museval: ModuleType, rng: np.random.Generator) -> None:
    pair = mixed(rng, 2, 1, 10_000)
    check(ours(pair, 4000, 4000, mode=mode), theirs(museval, pair, 4000, 4000, mode), atol=1e-8)


@pytest.mark.parametrize("mode", ["v4", "v3"])
def test_silent_frames(mode: str, museval: ModuleType, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, 3, 2, 4300)
    references[0, 400:1300] = 0
    estimates[1, 1400:2200] = 0
    references[2, 2000:2600, 0] = -references[2, 2000:2600, 1]  # which museval takes for silence
    references[1, 2600:3200, 0] = 0
    estimates[1, 3200:3400] = 0
    for hop in (500, 400):
        values = ours((references, estimates), 500, hop, mode=mode, filter_length=16)
        expected = theirs(museval, (references, estimates), 500, hop, mode, 16)
        assert 3 <= np.isnan(expected[0, 0]).sum() < expected.shape[2] - 3
        check(values, expected, atol=1e-9)


@pytest.mark.parametrize("nb_samples", [1, 2, 100, 511, 512, 4000])
def test_sdr_of_short_tracks(nb_samples: int, museval: ModuleType, rng: np.random.Generator) -> None:
    pair = mixed(rng, 2, 1, nb_samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditionedWarning)
        values = ours(pair)
    expected = theirs(museval, pair)
    assert values.shape == expected.shape == (4, 2, 1)
    np.testing.assert_allclose(values[0], expected[0], rtol=0, atol=1e-9)
    if nb_samples == 4000:
        check(values, expected)


def test_import_museval(rng: np.random.Generator) -> None:
    require_ffmpeg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import museval
    references, estimates = mixed(rng, 2, 1, 5000)
    longer = np.concatenate([estimates, estimates], axis=1)
    cases: list[tuple[Array, dict[str, Any]]] = [
        (estimates, {}),
        (estimates[:, :4000], {"win": 2500, "hop": 2500}),
        (longer, {"win": 2500, "hop": 2000, "mode": "v3"}),
        (estimates, {"win": 4000, "hop": 1000, "mode": "v4", "padding": False}),
    ]
    for given, options in cases:
        values, expected = (f(references, given, **options) for f in (evaluate, museval.evaluate))
        assert [(each.shape, each.dtype) for each in values] == [(each.shape, each.dtype) for each in expected]
        check(np.array(values), np.array(expected))


# Real music


def decoded(excerpt: Path, dtype: type[np.float32] | type[np.int16]) -> Array:
    """Return the stems of the excerpt in [-1, 1] [shape=(4, 268288, 2)]."""
    streams = zip(*audio.decode_stems(excerpt, dtype=dtype), strict=True)
    stems = np.array([np.concatenate(blocks) for blocks in streams][1:], float)
    return stems / 32768 if dtype is np.int16 else stems


def masked(stems: Array) -> Array:
    """Return estimates as models make them: soft masks on the sum of the stems, and a little of their neighbours."""
    spectra = np.array([scipy.signal.stft(stem.T, nperseg=2048)[2] for stem in stems])
    powers = np.abs(spectra) ** 2
    masks = powers / (powers.sum(axis=0) + 1e-12)
    signals = [scipy.signal.istft(mask * spectra.sum(axis=0), nperseg=2048)[1] for mask in masks]
    estimates = np.array([signal[:, : stems.shape[1]].T for signal in signals])
    return np.rint(32768 * (estimates + 0.02 * stems.sum(axis=0))) / 32768


@pytest.fixture(scope="module")
def wavs(excerpt: Path) -> Pair:
    """The four stems of the excerpt as 16-bit wav files hold them, and estimates."""
    stems = decoded(excerpt, np.int16)
    return stems, masked(stems)


@pytest.fixture(scope="module")
def floats(excerpt: Path) -> Pair:
    """The four stems of the excerpt as they are decoded, and estimates."""
    stems = decoded(excerpt, np.float32)
    return stems, masked(stems)


def pick(pair: Pair, sources: tuple[int, ...], nb_samples: int | None = None, gain: float = 1) -> Pair:
    """Return some of the sources, in an order and with a gain, repeated to a length."""
    nb_samples = nb_samples or pair[0].shape[1]
    repeated = [np.tile(each[list(sources)], (1, -(-nb_samples // each.shape[1]), 1)) for each in pair]
    return gain * repeated[0][:, :nb_samples], gain * repeated[1][:, :nb_samples]


def test_20_seconds(museval: ModuleType, wavs: Pair) -> None:
    pair = pick(wavs, (0, 3), 20 * 44100)
    expected = theirs(museval, pair)
    assert expected.shape == (4, 2, 20)
    check(ours(pair), expected)


def test_v3(museval: ModuleType, wavs: Pair) -> None:
    pair = pick(wavs, (1, 2), 60_000)
    check(ours(pair, 30_000, 30_000, mode="v3"), theirs(museval, pair, 30_000, 30_000, "v3"))


@pytest.mark.parametrize("kind", ["mono", "one channel", "silent beginning", "quiet"])
def test_unlike_sources(kind: str, museval: ModuleType, wavs: Pair) -> None:
    references, estimates = pick(wavs, (0, 3), 100_000)
    if kind == "mono":
        references[1] = references[1, :, :1]
    if kind == "one channel":
        references[0, :, 1] = 0
    if kind == "silent beginning":
        references[1, :50_000] = 0
    if kind == "quiet":
        references[1] = np.rint(references[1] * 328) / 32768
        estimates[1] /= 100
    expected = theirs(museval, (references, estimates))
    assert np.isnan(expected).any() == (kind == "silent beginning")
    check(ours((references, estimates)), expected)


def spreads(variants: list[Array]) -> Array:
    """Return by how much ISR, SIR and SAR differ from those of the first variant, at most [shape=(3,), dB]."""
    return np.array([np.abs(values - variants[0])[1:].max(axis=(1, 2)) for values in variants[1:]]).max(axis=0)


def warned(pair: Pair) -> Array:
    """Return our scores of references that are flagged."""
    with pytest.warns(IllConditionedWarning, match="16-bit references"):
        return ours(pair)


def test_float_references(museval: ModuleType, floats: Pair) -> None:
    pairs = [pick(floats, order, 100_000, gain) for order, gain in (((3, 1), 1), ((1, 3), 1), ((3, 1), GAIN))]
    values, expected = ([f(pair) for pair in pairs] for f in (warned, lambda pair: theirs(museval, pair)))
    for variants in (values, expected):
        variants[1] = variants[1][:, ::-1]
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value[0], wanted[0], rtol=0, atol=1e-9)
    assert (spreads(values) < 1e-5).all()
    assert (spreads(values) < spreads(expected))[1:].all()  # of ISR both are rounding errors of 1e-8 dB and less


# All four stems


@pytest.mark.slow
def test_four_stems(museval: ModuleType, wavs: Pair) -> None:
    pair = pick(wavs, (0, 1, 2, 3), 20 * 44100)
    check(ours(pair), theirs(museval, pair))


@pytest.mark.slow
def test_four_stems_v3(museval: ModuleType, wavs: Pair) -> None:
    pair = pick(wavs, (0, 1, 2, 3), 88_200)
    check(ours(pair, mode="v3"), theirs(museval, pair, mode="v3"))


@pytest.mark.slow
def test_four_stems_through_evaluate(wavs: Pair) -> None:
    require_ffmpeg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import museval
    references, estimates = pick(wavs, (0, 1, 2, 3), 150_000)
    check(np.array(evaluate(references, estimates)), np.array(museval.evaluate(references, estimates)))
    pair = [np.array([each[3], each[:3].sum(axis=0)]) for each in (references, estimates)]
    check(np.array(evaluate(*pair)), np.array(museval.evaluate(*pair)))


@pytest.mark.slow
def test_four_float_references(museval: ModuleType, floats: Pair, wavs: Pair) -> None:
    four = (0, 1, 2, 3)
    pairs = [pick(floats, four, 150_000), pick(floats, ORDER, 150_000), pick(floats, four, 150_000, GAIN)]
    values, expected = ([f(pair) for pair in pairs] for f in (warned, lambda pair: theirs(museval, pair)))
    for variants in (values, expected):
        variants[1] = variants[1][:, np.argsort(ORDER)]
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value[0], wanted[0], rtol=0, atol=1e-9)
    assert (spreads(values) < 1e-5).all()
    assert (spreads(values) < spreads(expected)).all()
    of_16_bit = ours((pick(wavs, four, 150_000)[0], pairs[0][1]))
    medians = [np.abs(np.median(each[0], axis=2) - np.median(of_16_bit, axis=2)) for each in (values, expected)]
    assert medians[0].max() < 0.2 < medians[1].max()


def test_a_single_source(museval: ModuleType) -> None:
    rng = np.random.default_rng(5)
    reference = np.round(rng.standard_normal((1, 12000, 2)) * 3000) / 32768
    estimate = 0.7 * reference + 0.01 * rng.standard_normal(reference.shape)
    expected = museval.bss_eval(reference, estimate, window=4000, hop=4000)[:4]
    values = evaluate(reference, estimate, 4000, 4000)
    assert np.isinf(expected[2]).all()
    for ours, theirs in zip(values, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
