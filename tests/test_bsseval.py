"""ISR, SIR and SAR against a direct formulation in time, and what becomes of hard cases."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from musdbkit import audio, bsseval, metrics
from musdbkit.bsseval import Analysis, IllConditionedWarning, Scenario, analyse, evaluate
from musdbkit.errors import MissingDependencyError, ParameterError

Array = NDArray[Any]

NAMES = ("SDR", "ISR", "SIR", "SAR")


def mixed(
    rng: np.random.Generator, nb_sources: int = 2, nb_channels: int = 2, nb_samples: int = 3000
) -> tuple[Array, Array]:
    """Return references, and estimates with an echo, some of the other sources and some noise."""
    references = rng.standard_normal((nb_sources, nb_samples, nb_channels))
    references[:, :, 1:] += 0.5 * references[:, :, :1]
    echo = np.roll(references, 3, axis=1)
    noise = 0.1 * rng.standard_normal(references.shape)
    return references, references + 0.3 * echo[..., ::-1] + 0.1 * references.sum(axis=0) + noise


def scores(references: Any, estimates: Any, **options: Any) -> Array:
    """Return all scores [shape=(4, nb_sources, nb_frames)]."""
    return np.array(evaluate(references, estimates, **({"win": 1000, "hop": 1000, "filter_length": 16} | options)))


def track(references: Array, estimates: Array) -> tuple[Callable[[slice], tuple[list[Array], list[Array]]], int]:
    """Return the first arguments of `analyse`."""
    return lambda part: ([each[part] for each in references], [each[part] for each in estimates]), references.shape[1]


# The definition once more, in time: delayed channels in a matrix, and filters by least squares.


def delayed(sources: Array, length: int) -> Array:
    """Return all channels of some sources with all delays [shape=(nb_samples + length - 1, nb_channels * length)]."""
    channels = [channel for source in sources for channel in source.T]
    rows = [np.pad(channel, (delay, length - 1 - delay)) for channel in channels for delay in range(length)]
    return np.array(rows).T


def fitted(sources: Array, estimates: Array, length: int) -> Array:
    """Return the filters of the best approximations of estimates [shape=(nb_estimates, nb_taps, nb_channels)]."""
    targets = np.concatenate([np.pad(estimate, ((0, length - 1), (0, 0))) for estimate in estimates], axis=1)
    filters = scipy.linalg.lstsq(delayed(sources, length), targets, cond=1e-12, lapack_driver="gelsy")[0]
    return np.moveaxis(filters.reshape(len(filters), len(estimates), -1), 1, 0)


def filtered(sources: Array, filters: Array, length: int) -> Array:
    """Return the sum of filtered channels, by convolution [shape=(nb_samples + length - 1, nb_channels)]."""
    channels = [channel for source in sources for channel in source.T]
    taps = filters.reshape(len(channels), length, -1)
    columns = [
        sum(np.convolve(channel, tap) for channel, tap in zip(channels, taps[:, :, c], strict=True))
        for c in range(filters.shape[1])
    ]
    return np.array(columns).T


def direct(references: Array, estimates: Array, parts: list[slice], length: int, mode: str = "v4") -> Array:
    """Return the scores by the definition [shape=(4, nb_sources, nb_frames)]."""
    if mode == "v3":
        single = [direct(references[:, p], estimates[:, p], [slice(None)], length) for p in parts]
        return np.concatenate(single, axis=2)
    out = np.empty((4, len(references), len(parts)))
    full = fitted(references, estimates, length)
    for j in range(len(references)):
        (own,) = fitted(references[j : j + 1], estimates[j : j + 1], length)
        for t, part in enumerate(parts):
            true, estimate = (np.pad(each[j, part], ((0, length - 1), (0, 0))) for each in (references, estimates))
            spatial = filtered(references[j : j + 1, part], own, length)
            everything = filtered(references[:, part], full[j], length)
            pairs = (
                (true, estimate - true),
                (true, spatial - true),
                (spatial, everything - spatial),
                (everything, estimate - everything),
            )
            with np.errstate(divide="ignore"):
                out[:, j, t] = [10 * np.log10(np.sum(top**2) / np.sum(bottom**2)) for top, bottom in pairs]
    return out


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize(("nb_sources", "nb_channels"), [(2, 2), (1, 1), (3, 1), (1, 3), (3, 3), (5, 2)])
def test_sources_and_channels(nb_sources: int, nb_channels: int, mode: str, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, nb_sources, nb_channels, 1300)
    values = scores(references, estimates, win=400, hop=400, filter_length=8, mode=mode)
    assert values.shape == (4, nb_sources, 3)
    expected = direct(references, estimates, metrics.frames(1300, 400, 400), 8, mode)
    if nb_sources == 1:  # there is no interference: SIR is the rounding error's
        assert (values[2] > 200).all()
        values[2] = expected[2] = 0
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("filter_length", [1, 2, 32, 80])
@pytest.mark.parametrize("mode", ["v4", "v3"])
def test_filter_length(filter_length: int, mode: str, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, nb_samples=2000)
    values = scores(references, estimates, win=700, hop=700, filter_length=filter_length, mode=mode)
    expected = direct(references, estimates, metrics.frames(2000, 700, 700), filter_length, mode)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


def test_512_taps(rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, nb_channels=1, nb_samples=1600)
    values = scores(references, estimates, win=700, hop=700, filter_length=512)
    expected = direct(references, estimates, metrics.frames(1600, 700, 700), 512)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-7)
    default = np.array(evaluate(references, estimates, 700, 700))
    np.testing.assert_array_equal(default, values)


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize(
    ("window", "hop"), [(500, 300), (300, 500), (500, 499), (500, 501), (333.4, 333.4), (1999, 1), (np.inf, np.inf)]
)
def test_windows_and_hops(window: float, hop: float, mode: str, rng: np.random.Generator) -> None:
    """Overlaps, gaps, parts of samples, whole tracks."""
    references, estimates = mixed(rng, nb_channels=1, nb_samples=2000)
    parts = metrics.frames(2000, window, hop)
    values = scores(references, estimates, win=window, hop=hop, filter_length=24, mode=mode)
    assert values.shape == (4, 2, len(parts))
    np.testing.assert_allclose(values, direct(references, estimates, parts, 24, mode), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("window", "hop"), [(40, 40), (20, 20), (1, 1), (1, 9), (7, 3)])
def test_frames_shorter_than_the_filters(window: int, hop: int, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, nb_channels=1, nb_samples=300)
    parts = metrics.frames(300, window, hop)
    values = scores(references, estimates, win=window, hop=hop, filter_length=24)
    np.testing.assert_allclose(values, direct(references, estimates, parts, 24), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("nb_samples", "nb_channels"), [(300, 1), (511, 1), (1, 1), (20, 2)])
def test_tracks_shorter_than_the_filters(nb_samples: int, nb_channels: int, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, 2, nb_channels, nb_samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditionedWarning)
        values = scores(references, estimates, filter_length=512)
    assert values.shape == (4, 2, 1)
    assert not np.isnan(values).any()
    np.testing.assert_allclose(values[0], metrics.framewise_sdr(references, estimates), atol=1e-9)


def test_v3_differs_and_is_v4_of_each_frame(rng: np.random.Generator) -> None:
    references, estimates = mixed(rng)
    whole = scores(references, estimates)
    framewise = scores(references, estimates, mode="v3")
    np.testing.assert_array_equal(framewise[0], whole[0])
    assert (np.abs(framewise[1:] - whole[1:]) > 1e-3).all()
    for t in range(3):
        part = slice(1000 * t, 1000 * t + 1000)
        single = scores(references[:, part], estimates[:, part])
        np.testing.assert_allclose(framewise[:, :, t : t + 1], single, rtol=0, atol=1e-9)


def test_padding(rng: np.random.Generator) -> None:
    references, estimates = mixed(rng)
    shorter = estimates[:, :2500]
    padded = estimates.copy()
    padded[:, 2500:] = 0
    np.testing.assert_array_equal(scores(references, shorter), scores(references, padded))
    np.testing.assert_array_equal(scores(references, list(shorter)), scores(references, padded))
    np.testing.assert_array_equal(scores(references[:, :2500], estimates), scores(references[:, :2500], shorter))
    ragged = [estimates[0, :2500], estimates[1]]
    expected = scores(references, [padded[0], estimates[1]])
    np.testing.assert_array_equal(scores(references, ragged), expected)
    with pytest.raises(ParameterError, match=r"\(3000, 2\), \(3000, 2\), estimates \(2500, 2\), \(2500, 2\)"):
        scores(references, shorter, padding=False)


def test_one_dimension_is_one_channel(rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, nb_channels=1)
    expected = scores(references, estimates)
    np.testing.assert_array_equal(scores(references[..., 0], estimates[..., 0]), expected)


def test_types_of_samples(rng: np.random.Generator) -> None:
    pair = [np.rint(1000 * each).astype(np.int16) for each in mixed(rng)]
    expected = scores(*(each.astype(float) for each in pair))
    np.testing.assert_array_equal(scores(*pair), expected)
    np.testing.assert_array_equal(scores(*(each.astype(np.float32) for each in pair)), expected)


def test_inputs_stay_as_they_are(rng: np.random.Generator) -> None:
    pair = mixed(rng)
    copies = [each.copy() for each in pair]
    for each in pair:
        each.flags.writeable = False
    scores(*pair)
    for each, copy in zip(pair, copies, strict=True):
        np.testing.assert_array_equal(each, copy)


# Scenarios


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize("hop", [1000, 700])
def test_two_scenarios_are_two_evaluations(hop: int, mode: str, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, 4)
    accompaniment = references[:3].sum(axis=0)
    estimates = np.concatenate([estimates, estimates[:3].sum(axis=0)[None] + 0.1 * rng.standard_normal((1, 3000, 2))])
    four = Scenario(((0,), (1,), (2,), (3,)), (0, 1, 2, 3))
    two = Scenario(((3,), (0, 1, 2)), (3, 4))
    results = analyse(*track(references, estimates), [four, two], window=1000, hop=hop, filter_length=16, mode=mode)
    expected = (
        scores(references, estimates[:4], hop=hop, mode=mode),
        scores(np.array([references[3], accompaniment]), estimates[3:], hop=hop, mode=mode),
    )
    for result, wanted in zip(results, expected, strict=True):
        assert tuple(result.scores) == NAMES
        np.testing.assert_allclose(np.array(list(result.scores.values())), wanted, rtol=0, atol=1e-9)
    expected_signal = np.sum(accompaniment.reshape(-1, 1000, 2)[:1] ** 2, axis=(1, 2))
    np.testing.assert_allclose(results[1].framewise.signal[1, :1], expected_signal)
    np.testing.assert_allclose(results[1].total.signal[1], np.sum(accompaniment**2))


def test_without_filters(rng: np.random.Generator) -> None:
    references, estimates = mixed(rng)
    scenario = Scenario(((0,), (1,)), (0, 1))
    for hop in (1000, 700):
        (result,) = analyse(*track(references, estimates), [scenario], window=1000, hop=hop, filters=False)
        assert tuple(result.scores) == ("SDR",)
        expected = metrics.framewise_sdr(references, estimates, 1000, hop)
        np.testing.assert_array_equal(result.scores["SDR"], expected)
        assert result.independence == 1
        assert not result.ill_conditioned


# Silence and other hard cases


@pytest.mark.parametrize("mode", ["v4", "v3"])
def test_one_silent_channel(mode: str, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, nb_samples=1300)
    references[0, :, 0] = 0
    values = scores(references, estimates, win=400, hop=400, mode=mode)
    expected = direct(references, estimates, metrics.frames(1300, 400, 400), 16, mode)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("mode", ["v4", "v3"])
def test_mono_in_two_channels(mode: str, sign: int, rng: np.random.Generator) -> None:
    """What L = R can approximate is well defined, though its filters are not: no doubt is cast on the scores."""
    references, estimates = mixed(rng, nb_samples=1300)
    references[1, :, 0] = sign * references[1, :, 1]
    values = scores(references, estimates, win=400, hop=400, mode=mode, silence="per-target")
    expected = direct(references, estimates, metrics.frames(1300, 400, 400), 16, mode)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize("silence", metrics.SILENCE_RULES)
def test_silent_reference(silence: metrics.Silence, mode: str, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, 3)
    references[1] = 0
    values = scores(references, estimates, silence=silence, mode=mode)
    assert np.isnan(values[:, 1]).all()
    expected = scores(references[::2], estimates[::2], mode=mode)
    np.testing.assert_allclose(values[:, ::2], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("silence", metrics.SILENCE_RULES)
def test_silent_estimate(silence: metrics.Silence, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, 3)
    before = scores(references, estimates, silence=silence)
    estimates[1] = 0
    values = scores(references, estimates, silence=silence)
    assert np.isnan(values[:, 1]).all()
    np.testing.assert_allclose(values[:, ::2], before[:, ::2], rtol=0, atol=1e-9)


def test_all_silent() -> None:
    for mode in ("v4", "v3"):
        assert np.isnan(scores(np.zeros((2, 3000, 2)), np.zeros((2, 3000, 2)), mode=mode)).all()


def test_silent_frames_by_both_rules(rng: np.random.Generator) -> None:
    references, estimates = mixed(rng)
    references[0, 1000:2000] = 0
    for mode in ("v4", "v3"):
        museval, own = (scores(references, estimates, silence=rule, mode=mode) for rule in metrics.SILENCE_RULES)
        np.testing.assert_array_equal(np.isnan(museval), np.broadcast_to([False, True, False], museval.shape))
        expected = np.broadcast_to([[False, True, False], [False, False, False]], own.shape)
        np.testing.assert_array_equal(np.isnan(own), expected)
        np.testing.assert_array_equal(own[:, :, ::2], museval[:, :, ::2])


def test_dropped_frames_are_not_flagged(rng: np.random.Generator) -> None:
    """In v3 a frame without a score has no say in how well conditioned the scores are."""
    references, estimates = mixed(rng)
    references[0, 1000:2000] = 0
    references[1, 1000:2000, 1] = np.roll(references[1, 1000:2000, 0], 5)
    references[1, 1000:1005, 1], references[1, 1995:2000, 0] = 0, 0
    assert np.isnan(scores(references, estimates, mode="v3")[:, :, 1]).all()
    with pytest.warns(IllConditionedWarning):
        scores(references, estimates, mode="v3", silence="per-target")


def hard(kind: str, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return a track with a source that is no music."""
    references, estimates = mixed(rng)
    if kind == "duplicate":
        references[1] = references[0]
    if kind == "sum":
        references, estimates = mixed(rng, 3)
        references[2] = references[0] + references[1]
    if kind == "constant":
        references[0] = 0.1
    if kind == "constants":
        references[0], references[1] = 0.1, 0.2
    if kind == "impulse":
        references[0] = 0
        references[0, 1500, 0] = 1
    if kind == "impulses":  # farther apart than filters are long
        references[:], estimates[:] = 0, 0
        references[0, 1500], references[1, 1700], estimates[0, 1600], estimates[1, 1550] = 1, 1, 1, 1
    if kind == "echo":  # a combination of delayed channels
        references[1] = np.roll(references[0], 5, axis=0)
        references[0, -5:], references[1, :5] = 0, 0
    if kind == "few samples":
        references, estimates = references[:, :10], estimates[:, :10]
    return references, estimates


@pytest.mark.parametrize(
    "kind", ["duplicate", "sum", "constant", "constants", "impulse", "impulses", "echo", "few samples"]
)
@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize("silence", metrics.SILENCE_RULES)
def test_hard_cases_have_scores(kind: str, silence: metrics.Silence, mode: str, rng: np.random.Generator) -> None:
    references, estimates = hard(kind, rng)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = scores(references, estimates, mode=mode, silence=silence)
    assert {warning.category for warning in caught} <= {IllConditionedWarning}
    assert bool(caught) == (kind in ("echo", "few samples"))
    sdr = metrics.framewise_sdr(references, estimates, 1000, 1000, silence)
    np.testing.assert_allclose(values[0], sdr, atol=1e-12)
    for row in values[1:]:
        np.testing.assert_array_equal(np.isnan(row), np.isnan(sdr))
    if kind != "impulses":  # there nothing of the estimates can be approximated
        assert np.isfinite(values[:, ~np.isnan(sdr)]).all()


def test_impulses_that_nothing_approximates(rng: np.random.Generator) -> None:
    values = scores(*hard("impulses", rng), silence="per-target")
    np.testing.assert_allclose(values[:, 0, 1], [10 * np.log10(0.5), 0, np.inf, -np.inf], atol=1e-12)


def test_impulses_by_chance() -> None:
    """Approximations without energy, which rounding errors may make negative (with 1315 they did), have scores."""
    for seed in range(1310, 1320):
        rng = np.random.default_rng(seed)
        pair = np.zeros((2, 2, 400, 2))
        for group in pair:
            for signal in group:
                signal[rng.integers(0, 400, 3), rng.integers(0, 2, 3)] = rng.standard_normal(3)
        values = scores(*pair, win=100, hop=100, filter_length=8, silence="per-target")
        for row in values[1:]:
            np.testing.assert_array_equal(np.isnan(row), np.isnan(values[0]))


@pytest.mark.parametrize("mode", ["v4", "v3"])
def test_perfect_estimates(mode: str, rng: np.random.Generator) -> None:
    references, _ = mixed(rng)
    values = scores(references, references.copy(), mode=mode)
    assert (values[0] == np.inf).all()
    assert np.isfinite(values[1:]).all()
    assert (values[1:] > 120).all()


# The same result whatever the way


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize("hop", [500, 300])
def test_threads_change_nothing(hop: int, mode: str, rng: np.random.Generator) -> None:
    references, estimates = mixed(rng, 3, nb_samples=10_000)
    results = [scores(references, estimates, win=500, hop=hop, mode=mode, workers=n) for n in (1, 3, None)]
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def require_torch() -> None:
    """Skip a test where there is no torch, but never in CI, which installs it."""
    if importlib.util.find_spec("torch") is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no torch")
        pytest.skip("needs torch")


@pytest.mark.parametrize("mode", ["v4", "v3"])
@pytest.mark.parametrize(("window", "hop"), [(500, 500), (500, 300), (np.inf, np.inf)])
def test_torch_is_numpy(window: float, hop: float, mode: str, rng: np.random.Generator) -> None:
    require_torch()
    for filter_length, nb_sources in ((1, 2), (32, 4)):
        references, estimates = mixed(rng, nb_sources, nb_samples=3300)
        references[1, 1000:2000] = 0
        options = {"win": window, "hop": hop, "filter_length": filter_length, "mode": mode}
        expected = scores(references, estimates, **options)
        values = scores(references, estimates, **options, device="torch:cpu")
        np.testing.assert_array_equal(values[0], expected[0])
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


def test_torch_with_hard_cases(rng: np.random.Generator) -> None:
    require_torch()
    for kind in ("duplicate", "constant", "impulse"):
        references, estimates = hard(kind, rng)
        values, expected = (scores(references, estimates, device=device) for device in ("torch:cpu", "cpu"))
        low = np.isnan(expected) | (expected < 120)  # the rest is rounding errors
        np.testing.assert_allclose(values[low], expected[low], rtol=0, atol=1e-8)
        assert (values[~low] > 120).all()
    with pytest.warns(IllConditionedWarning):
        assert np.isfinite(scores(*hard("echo", rng), device="torch:cpu")).all()


# Real music


def decoded(excerpt: Path, dtype: type[np.float32] | type[np.int16]) -> Array:
    """Return the stems of the excerpt in [-1, 1] [shape=(4, 268288, 2)]."""
    streams = zip(*audio.decode_stems(excerpt, dtype=dtype), strict=True)
    stems = np.array([np.concatenate(blocks) for blocks in streams][1:], float)
    return stems / 32768 if dtype is np.int16 else stems


@pytest.fixture(scope="module")
def stems(excerpt: Path) -> Array:
    """The stems of the real excerpt as a 16-bit wav file holds them, 3.2 s of them."""
    return decoded(excerpt, np.int16)[:, :141_000]


@pytest.fixture(scope="module")
def estimates(stems: Array) -> Array:
    """Estimates of them: each with some of the others, some echo and some noise."""
    noise = 1e-3 * np.random.default_rng(1).standard_normal(stems.shape)
    return 0.8 * stems + 0.1 * np.roll(stems, 40, axis=1) + 0.05 * stems.sum(axis=0) + noise


@pytest.fixture(scope="module")
def expected(stems: Array, estimates: Array) -> Array:
    return np.array(evaluate(stems, estimates))


def test_16_bit_references_are_well_conditioned(stems: Array, estimates: Array) -> None:
    scenario = Scenario(tuple((i,) for i in range(4)), tuple(range(4)))
    (result,) = analyse(*track(stems, estimates), [scenario])
    assert result.scores["SIR"].shape == (4, 3)
    assert not result.ill_conditioned
    assert result.ridge == 0
    assert 10 * bsseval.ILL_CONDITIONED < result.independence < 1e-4


def test_order_of_sources(stems: Array, estimates: Array, expected: Array) -> None:
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(evaluate(stems[order], estimates[order]), expected[:, order], rtol=0, atol=1e-6)


def test_common_gain(stems: Array, estimates: Array, expected: Array) -> None:
    np.testing.assert_allclose(evaluate(0.7 * stems, 0.7 * estimates), expected, rtol=0, atol=1e-6)


def test_torch_is_numpy_with_music(stems: Array, estimates: Array, expected: Array) -> None:
    require_torch()
    two = np.array(evaluate(stems[2:], estimates[2:]))
    np.testing.assert_allclose(evaluate(stems[2:], estimates[2:], device="torch:cpu"), two, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_torch_is_numpy_with_four_stems(stems: Array, estimates: Array, expected: Array) -> None:
    require_torch()
    np.testing.assert_allclose(evaluate(stems, estimates, device="torch:cpu"), expected, rtol=0, atol=1e-6)
    framewise = evaluate(stems[:, :88200], estimates[:, :88200], mode="v3")
    values = evaluate(stems[:, :88200], estimates[:, :88200], mode="v3", device="torch:cpu")
    np.testing.assert_allclose(values, framewise, rtol=0, atol=1e-6)


def test_float_references_are_flagged(excerpt: Path, stems: Array) -> None:
    references = decoded(excerpt, np.float32)[:, : stems.shape[1]]
    estimates = 0.8 * references + 0.1 * np.roll(references, 40, axis=1) + 0.05 * references.sum(axis=0)
    expected = np.array(evaluate(stems, estimates))
    with pytest.warns(IllConditionedWarning, match="use 16-bit references"):
        values = np.array(evaluate(references, estimates))
    assert (np.abs(values - expected)[0] < 1e-3).all()
    assert (np.abs(np.median(values, axis=2) - np.median(expected, axis=2)) < 0.1).all()
    order = [2, 0, 3, 1]
    with pytest.warns(IllConditionedWarning):
        values_in_order = evaluate(references[order], estimates[order])
    np.testing.assert_allclose(values_in_order, values[:, order], rtol=0, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "v5"}, "mode v5: expected v4 or v3"),
        ({"filter_length": 0}, "filter_length 0: expected 1 or more"),
        ({"workers": 0}, "workers 0: expected 1 or more"),
        ({"workers": -1}, "workers -1: expected 1 or more"),
        ({"win": 0}, "window 0, hop 1000: expected more than 0 samples"),
        ({"hop": np.inf}, "window 1000, hop inf: expected at least 1 sample"),
        ({"silence": "none"}, "silence rule none: expected museval or per-target"),
    ],
)
def test_parameters_that_cannot_be(options: dict[str, Any], message: str, rng: np.random.Generator) -> None:
    with pytest.raises(ParameterError, match=message):
        scores(*mixed(rng), **options)


def test_devices_that_are_not_there(rng: np.random.Generator) -> None:
    require_torch()
    import torch

    with pytest.raises(ParameterError, match="device bogus: "):
        scores(*mixed(rng), device="bogus")
    with pytest.raises(ParameterError, match="device cuda:99: "):
        scores(*mixed(rng), device="cuda:99")
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match="device cuda: "):
            scores(*mixed(rng), device="cuda")


def test_without_torch(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"device cuda needs torch: pip install 'musdbkit\[baselines\]'"):
        scores(*mixed(rng), device="cuda")


@pytest.mark.parametrize(
    ("references", "estimates"),
    [
        ((2, 100, 2), (3, 100, 2)),
        ((2, 100, 2), (2, 100, 1)),
        ((0, 100, 2), (0, 100, 2)),
        ((2, 0, 2), (2, 0, 2)),
        ((2, 100, 2, 1), (2, 100, 2, 1)),
        ((100,), (100,)),
    ],
)
def test_shapes_that_do_not_fit(references: tuple[int, ...], estimates: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match=r"references .*, estimates .*: expected as many"):
        evaluate(np.ones(references), np.ones(estimates))


def test_tracks_of_no_samples() -> None:
    with pytest.raises(ParameterError, match="nb_samples 0: expected 1 or more"):
        analyse(*track(np.ones((1, 0, 2)), np.ones((1, 0, 2))), [Scenario(((0,),), (0,))])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(value: float, rng: np.random.Generator) -> None:
    for which, name in ((0, "reference"), (1, "estimate")):
        for place in (500, 2999):
            for hop in (700, 900):
                pair = mixed(rng)
                pair[which][1, place, 0] = value
                with pytest.raises(ParameterError, match=f"{name} 1: holds samples that are not finite"):
                    scores(*pair, win=700, hop=hop)
    references, estimates = mixed(rng)
    references[:, 5, 0] = value, -value  # whose sum is no number
    for scenario, index in ((Scenario(((0, 1),), (0,)), 0), (Scenario(((1,), (0, 1)), (0, 1)), 0)):
        with pytest.raises(ParameterError, match=f"reference {index}: holds samples that are not finite"):
            analyse(*track(references, estimates), [scenario])


def test_result_is_described() -> None:
    moments = metrics.measure([np.ones((1, 1))], [np.ones((1, 1))])
    for independence, flag in ((1e-11, True), (1e-9, False)):
        result = Analysis(moments, moments, {}, independence, 0.0)
        assert result.ill_conditioned is flag
    assert bsseval.describe_conditioning(Analysis(moments, moments, {}, 1e-11, 0.0)).startswith(
        "the references determine the filters only to 1e-11"
    )


def test_calls_at_the_same_time_leave_blas_as_it_was() -> None:
    from threadpoolctl import threadpool_info

    def blas() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    before = blas()
    references = np.random.default_rng(0).standard_normal((2, 4000, 1))
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: evaluate(references, references[::-1], 2000, 2000, filter_length=32), range(8))
        )
    assert blas() == before
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_filter_longer_than_what_is_transformed_at_once_is_refused() -> None:
    with pytest.raises(ParameterError, match="filter_length 40000: expected 32768 or less"):
        evaluate(np.ones((1, 10, 1)), np.ones((1, 10, 1)), filter_length=40000)
