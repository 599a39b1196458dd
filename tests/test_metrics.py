"""Measures without filters: values by hand and from a second formulation, and what becomes of silence and bad input."""

import functools
import math
import operator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from musdbkit import metrics
from musdbkit.errors import ParameterError
from musdbkit.metrics import Moments, framewise_sdr, measure, si_sdr, snr, usdr

Array = NDArray[Any]


def noisy(rng: np.random.Generator, decibels: float, nb_samples: int = 5000) -> tuple[Array, Array]:
    """Return a reference and an estimate whose SNR is given."""
    reference, noise = rng.standard_normal((2, nb_samples, 2))
    gain = np.sqrt(np.sum(reference**2) / np.sum(noise**2)) * 10 ** (-decibels / 20)
    return reference, reference + gain * noise


def group(rng: np.random.Generator, nb_sources: int = 4, nb_samples: int = 4500) -> tuple[Array, Array]:
    """Return references and estimates."""
    references = rng.standard_normal((nb_sources, nb_samples, 2))
    return references, references + 0.1 * rng.standard_normal(references.shape)


# Values


def test_thrice_the_reference(rng: np.random.Generator) -> None:
    reference = rng.standard_normal((3000, 2))
    expected = -20 * math.log10(2)
    np.testing.assert_allclose(framewise_sdr([reference], [3 * reference], 1000, 1000), np.full((1, 3), expected))
    assert snr(reference, 3 * reference) == pytest.approx(expected)
    assert usdr(reference, 3 * reference) == pytest.approx(expected, abs=1e-6)


def test_sdr_is_that_of_each_frame(rng: np.random.Generator) -> None:
    references, estimates = group(rng)
    values = framewise_sdr(references, estimates, 1000, 700)
    assert values.shape == (4, 6)
    for t in range(6):
        part = slice(700 * t, 700 * t + 1000)
        for j in range(4):
            assert values[j, t] == pytest.approx(snr(references[j, part], estimates[j, part]), abs=1e-12)


def test_usdr_by_hand() -> None:
    reference, estimate = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[3.0, 1.0], [0.0, 4.0]])
    silence = np.zeros((2, 2))
    assert usdr(reference, estimate) == pytest.approx(10 * math.log10((25 + 1e-7) / (1 + 1e-7)), abs=1e-12)
    assert usdr(reference, estimate, delta=2) == pytest.approx(10 * math.log10(27 / 3), abs=1e-12)
    assert usdr(reference, reference) == pytest.approx(10 * math.log10(25 / 1e-7 + 1), abs=1e-12)
    assert usdr(silence, estimate) == pytest.approx(10 * math.log10(1e-7 / (26 + 1e-7)), abs=1e-12)
    assert usdr(reference, silence) == 0
    assert usdr(silence, silence) == 0


def test_snr_by_hand() -> None:
    reference, estimate = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[3.0, 1.0], [0.0, 4.0]])
    silence = np.zeros((2, 2))
    assert snr(reference, estimate) == pytest.approx(10 * math.log10(25), abs=1e-12)
    assert snr(reference, reference) == np.inf
    assert snr(silence, estimate) == -np.inf
    assert snr(reference, silence) == 0
    assert math.isnan(snr(silence, silence))


def direct_si_sdr(reference: Array, estimate: Array) -> float:
    """Return the SI-SDR in two passes: first the scale, then the error itself."""
    target = np.sum(reference * estimate) / np.sum(reference**2) * reference
    return float(10 * np.log10(np.sum(target**2) / np.sum((target - estimate) ** 2)))


@pytest.mark.parametrize("decibels", [-20, 0, 10, 60, 100])
@pytest.mark.parametrize("gain", [-1, 1, 1e-6, 1e-3, 1e4])
def test_si_sdr_in_two_passes(decibels: float, gain: float, rng: np.random.Generator) -> None:
    reference, estimate = noisy(rng, decibels)
    expected = direct_si_sdr(reference, estimate)
    tolerance = max(1e-9, 10 ** (decibels / 10 - 12))  # the scale costs digits
    assert si_sdr(reference, gain * estimate) == pytest.approx(expected, abs=tolerance)
    assert si_sdr(gain * reference, estimate) == pytest.approx(expected, abs=tolerance)


def test_si_sdr_of_silence(rng: np.random.Generator) -> None:
    reference, estimate = noisy(rng, 10)
    assert math.isnan(si_sdr(np.zeros_like(reference), estimate))
    assert math.isnan(si_sdr(reference, np.zeros_like(reference)))
    assert math.isnan(si_sdr(np.zeros_like(reference), np.zeros_like(reference)))
    assert si_sdr(reference[:, :1], np.ones_like(reference[:, :1])) < -20
    assert si_sdr([[1.0, 0.0]], [[0.0, 1.0]]) == -np.inf


@pytest.mark.parametrize("decibels", [60, 80, 100])
def test_high_values_are_exact(decibels: float, rng: np.random.Generator) -> None:
    reference, estimate = noisy(rng, decibels, nb_samples=200_000)
    error = estimate - reference
    expected = 10 * math.log10(math.fsum((reference**2).flat) / math.fsum((error**2).flat))
    assert snr(reference, estimate) == pytest.approx(expected, abs=1e-9)
    assert framewise_sdr([reference], [estimate], np.inf, 1)[0, 0] == pytest.approx(expected, abs=1e-9)
    assert usdr(reference, estimate, delta=0) == pytest.approx(expected, abs=1e-9)
    assert si_sdr(reference, estimate) == pytest.approx(direct_si_sdr(reference, estimate), abs=1e-8)


def test_sums_are_of_float64(rng: np.random.Generator) -> None:
    reference, estimate = noisy(rng, 80, nb_samples=100_000)
    single = reference.astype(np.float32), estimate.astype(np.float32)
    double = tuple(each.astype(float) for each in single)
    for value in (snr, usdr, si_sdr):
        assert value(*single) == value(*double)
    np.testing.assert_array_equal(framewise_sdr(*([each] for each in single)), framewise_sdr(*([e] for e in double)))


def test_integer_samples(rng: np.random.Generator) -> None:
    reference, estimate = rng.integers(-32768, 32768, (2, 3000, 2)).astype(np.int16)
    reference[0], estimate[0] = -32768, 32767  # whose difference int16 does not hold
    double = reference.astype(float), estimate.astype(float)
    for value in (snr, usdr, si_sdr):
        assert value(reference, estimate) == value(*double)
    expected = framewise_sdr([double[0]], [double[1]], 1000, 1000)
    np.testing.assert_array_equal(framewise_sdr([reference], [estimate], 1000, 1000), expected)
    mute = np.tile(np.array([-32768, 16384, 16384], np.int16), (10, 1))
    assert metrics.is_mute(mute)


def test_one_dimension_is_one_channel(rng: np.random.Generator) -> None:
    references, estimates = rng.standard_normal((2, 3, 2000))
    expected = framewise_sdr(references[..., None], estimates[..., None], 500, 500)
    np.testing.assert_array_equal(framewise_sdr(references, estimates, 500, 500), expected)
    assert snr(references[0], estimates[0]) == snr(references[0][:, None], estimates[0][:, None])


# Frames


def test_frames_by_hand() -> None:
    assert metrics.frames(10, 4, 3) == [slice(0, 4), slice(3, 7), slice(6, 10)]
    assert metrics.frames(10, 4, 4) == [slice(0, 4), slice(4, 8)]
    assert metrics.frames(10, 2, 5) == [slice(0, 2), slice(5, 7)]
    assert (
        metrics.frames(10, 10, 1) == metrics.frames(10, 11, 1) == metrics.frames(10, np.inf, np.inf) == [slice(0, 10)]
    )
    assert metrics.frames(10, 2.5, 2.5) == [slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10)]
    assert len(metrics.frames(int(5.9 * 44100), 44100, 44100)) == 5
    assert len(metrics.frames(22050, 44100, 44100)) == 1


@pytest.mark.parametrize(
    ("window", "hop"),
    [(0, 1), (1, 0), (-1, 1), (1, -1), (np.nan, 1), (1, np.nan), (0.5, 1), (1, 0.5), (10, np.inf)],
)
def test_frames_that_cannot_be(window: float, hop: float, rng: np.random.Generator) -> None:
    with pytest.raises(ParameterError, match=r"window .*, hop .*: expected"):
        metrics.frames(100, window, hop)
    with pytest.raises(ParameterError, match=r"window .*, hop .*: expected"):
        framewise_sdr(*group(rng), window, hop)


def test_follow() -> None:
    assert metrics.follow([slice(0, 3), slice(3, 5)])
    assert not metrics.follow([slice(0, 3), slice(2, 5)])
    assert not metrics.follow([slice(0, 3), slice(4, 5)])
    assert not metrics.follow([slice(1, 3)])


# Silence


def sdr(pair: tuple[Array, Array], silence: metrics.Silence) -> Array:
    return framewise_sdr(*pair, 1000, 1000, silence)


def test_a_silent_drum_takes_no_vocals_away(rng: np.random.Generator) -> None:
    references, estimates = group(rng)
    before = sdr((references, estimates), "per-target")
    assert np.isfinite(before).all()
    for which in (references, estimates):
        saved = which[0, 1000:3000].copy()
        which[0, 1000:3000] = 0
        values = sdr((references, estimates), "per-target")
        np.testing.assert_array_equal(values[1:], before[1:])
        np.testing.assert_array_equal(np.isnan(values[0]), [False, True, True, False])
        np.testing.assert_array_equal(
            np.isnan(sdr((references, estimates), "museval")), [[False, True, True, False]] * 4
        )
        which[0, 1000:3000] = saved


def test_channels_that_cancel(rng: np.random.Generator) -> None:
    references, estimates = group(rng)
    before = sdr((references, estimates), "per-target")
    estimates[2, 1000:2000, 0] = -estimates[2, 1000:2000, 1]
    np.testing.assert_array_equal(np.isnan(sdr((references, estimates), "museval")), [[False, True, False, False]] * 4)
    values = sdr((references, estimates), "per-target")
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(np.delete(values, 2, 0), np.delete(before, 2, 0))
    references[2, :, 0] = -references[2, :, 1]  # in the whole track: museval raises an error
    values = sdr((references, estimates), "museval")
    assert np.isnan(values[2]).all()
    np.testing.assert_array_equal(np.delete(values, 2, 0), np.delete(before, 2, 0))
    assert np.isfinite(sdr((references, estimates), "per-target")).all()


@pytest.mark.parametrize("silence", metrics.SILENCE_RULES)
@pytest.mark.parametrize("which", [0, 1])
def test_wholly_silent(silence: metrics.Silence, which: int, rng: np.random.Generator) -> None:
    pair = group(rng)
    before = sdr(pair, silence)
    pair[which][3] = 0
    values = sdr(pair, silence)
    assert np.isnan(values[3]).all()
    np.testing.assert_array_equal(values[:3], before[:3])
    pair[which][:] = 0
    assert np.isnan(sdr(pair, silence)).all()


@pytest.mark.parametrize("hop", [1000, 800])
def test_silent_in_all_frames_but_not_in_the_tail(hop: int, rng: np.random.Generator) -> None:
    references, estimates = group(rng, nb_samples=4900)
    references[3, :4200] = 0
    assert metrics.frames(4900, 1000, hop)[-1].stop <= 4200
    assert np.isnan(framewise_sdr(references, estimates, 1000, hop, "museval")).all()
    assert np.isfinite(framewise_sdr(references, estimates, 1000, hop, "per-target")[:3]).all()
    references[3] = 0
    assert np.isfinite(framewise_sdr(references, estimates, 1000, hop, "museval")[:3]).all()


def test_silent_in_all_frames_but_not_between_them(rng: np.random.Generator) -> None:
    references, estimates = group(rng)
    for start in range(0, 4500, 700):
        references[3, start : start + 500] = 0
    references[3, 4000:] = 0  # and in the tail
    assert np.isnan(framewise_sdr(references, estimates, 500, 700, "museval")).all()
    assert np.isfinite(framewise_sdr(references, estimates, 500, 700, "per-target")[:3]).all()


def test_a_late_first_sample_is_no_silence(rng: np.random.Generator) -> None:
    samples = np.zeros((200_000, 2))
    assert metrics.is_zero(samples)
    assert metrics.is_mute(samples)
    for place in (0, 63, 64, 70_000, 199_999):
        samples[:] = 0
        samples[place] = 1, -1
        assert not metrics.is_zero(samples)
        assert metrics.is_mute(samples)
        samples[place, 0] = 2
        assert not metrics.is_mute(samples)


def test_infinities_are_kept(rng: np.random.Generator) -> None:
    references, estimates = group(rng, 2, 2000)
    estimates[0, :1000] = references[0, :1000]
    values = framewise_sdr(references, estimates, 1000, 1000)
    assert values[0, 0] == np.inf
    assert np.isfinite(np.delete(values.ravel(), 0)).all()
    np.testing.assert_array_equal(metrics.ratio_db([0, 0, 1, 10], [0, 1, 0, 1]), [np.inf, -np.inf, np.inf, 10])


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(value: float, rng: np.random.Generator) -> None:
    for which, name in ((0, "reference"), (1, "estimate")):
        pair = group(rng)
        pair[which][2, 4400, 1] = value  # in the tail
        with pytest.raises(ParameterError, match=f"{name} 2: holds samples that are not finite"):
            sdr(pair, "museval")
        with pytest.raises(ParameterError, match=f"{name} 2: holds samples that are not finite"):
            framewise_sdr(*pair, 1000, 900)
        for function in (snr, usdr, si_sdr):
            with pytest.raises(ParameterError, match=f"{name} 0: holds samples that are not finite"):
                function(pair[0][2], pair[1][2])
    for which in (0, 1):  # the sum of the channels, then the difference of reference and estimate, are no numbers
        pair = group(rng)
        pair[0][2, 5, 0] = pair[which][2, 5, 1 - which] = value
        pair[0][2, :5] = 0
        pair[0][2, 5, 1] *= -1
        with pytest.raises(ParameterError, match="reference 2: holds samples that are not finite"):
            sdr(pair, "museval")


@pytest.mark.parametrize(
    ("references", "estimates"),
    [
        ((2, 100, 2), (3, 100, 2)),
        ((2, 100, 2), (2, 99, 2)),
        ((2, 100, 2), (2, 100, 1)),
        ((2, 100, 2), (2, 100)),
        ((0, 100, 2), (0, 100, 2)),
        ((2, 0, 2), (2, 0, 2)),
        ((2, 100, 0), (2, 100, 0)),
        ((2, 100, 2, 1), (2, 100, 2, 1)),
        ((100,), (100,)),
    ],
)
def test_shapes_that_do_not_fit(references: tuple[int, ...], estimates: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match=r"references .*, estimates .*: expected as many") as error:
        framewise_sdr(np.ones(references), np.ones(estimates))
    assert len(str(error.value)) < 300


def test_sources_of_several_lengths() -> None:
    ragged = [np.ones((100, 2)), np.ones((90, 2))]
    with pytest.raises(ParameterError, match=r"\(100, 2\), \(90, 2\)"):
        framewise_sdr(ragged, ragged)


def test_unknown_silence_rule(rng: np.random.Generator) -> None:
    with pytest.raises(ParameterError, match="silence rule none: expected museval or per-target"):
        framewise_sdr(*group(rng), silence="none")  # type: ignore[arg-type]


def test_inputs_stay_as_they_are(rng: np.random.Generator) -> None:
    pair = group(rng)
    copies = [each.copy() for each in pair]
    for each in pair:
        each.flags.writeable = False
    sdr(pair, "museval")
    for function in (snr, usdr, si_sdr):
        function(pair[0][0], pair[1][0])
    for each, copy in zip(pair, copies, strict=True):
        np.testing.assert_array_equal(each, copy)


# Streaming


def test_moments_of_blocks_add_up(rng: np.random.Generator) -> None:
    references, estimates = group(rng, 3, 3000)
    references[0, :1000] = 0
    references[1, :, 0] = -references[1, :, 1]
    estimates[2] = 0
    blocks = [slice(0, 1000), slice(1000, 1001), slice(1001, 3000)]
    rows = [measure(references[:, block], estimates[:, block]) for block in blocks]
    total = functools.reduce(operator.add, rows)
    for moments in (total, metrics.measure_blocks(list(references), list(estimates))):
        np.testing.assert_allclose(moments.signal, np.sum(references**2, axis=(1, 2)))
        np.testing.assert_allclose(moments.error, np.sum((references - estimates) ** 2, axis=(1, 2)))
        np.testing.assert_allclose(moments.estimate, np.sum(estimates**2, axis=(1, 2)))
        np.testing.assert_allclose(moments.product, np.sum(references * estimates, axis=(1, 2)))
        np.testing.assert_array_equal(moments.reference_zero, [False, False, False])
        np.testing.assert_array_equal(moments.estimate_zero, [False, False, True])
        np.testing.assert_array_equal(moments.reference_mute, [False, True, False])
        np.testing.assert_array_equal(moments.estimate_mute, [False, False, True])
    np.testing.assert_array_equal(rows[0].reference_zero, [True, False, False])
    stacked = metrics.stack(rows)
    assert isinstance(stacked, Moments)
    assert stacked.signal.shape == stacked.reference_zero.shape == (3, 3)
    np.testing.assert_array_equal(stacked.signal[:, 1], rows[1].signal)
    expected = [[f(r, e) for r, e in zip(references[:2], estimates[:2], strict=True)] for f in (snr, usdr, si_sdr)]
    for values, wanted in zip((metrics.snr_of, metrics.usdr_of, metrics.si_sdr_of), expected, strict=True):
        np.testing.assert_allclose(values(total)[:2], wanted, atol=1e-9)
