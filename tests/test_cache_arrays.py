"""One array of the spectrogram cache: magnitudes and codes by their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from musdbkit import cache_arrays
from musdbkit.cache import RECORD, Parameters, open_cache, read_record
from musdbkit.caching import build
from tests.sites import NB_SAMPLES, ONE, SIGNALS, SMALL, Site, magnitudes


def quantise(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], float, float]:
    """Return Spleeter's codes, lo and hi, by their definition."""
    decibels = 20 * np.log10(np.maximum(values.astype(np.float64), 1e-9))
    decibels = np.maximum(decibels, decibels.max() - 100)
    lo, hi = decibels.min(), decibels.max()
    return np.floor((decibels - lo) / (hi - lo + 1e-16) * 255.9999), lo, hi


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT")]
)
@pytest.mark.parametrize("nb_channels", [1, 2])
def test_arrays_are_the_magnitudes_by_their_definition(site: Site, suffix: str, subtype: str, nb_channels: int) -> None:
    site.add("A", suffix=suffix, subtype=subtype, nb_channels=nb_channels)
    parameters = replace(SMALL, nb_channels=nb_channels, dtype="float32")
    assert not site.build(site.request("A", parameters=parameters, suffix=suffix)).failed
    for each in SIGNALS:
        expected = magnitudes(site.root / "A" / f"{each}.{suffix}", parameters)
        assert len(expected) > 2 * cache_arrays._BLOCK_FRAMES  # several blocks, and a part of one
        got = np.load(site.out / "A" / f"{each}.npy")
        assert got.dtype == np.float32
        assert got.shape == expected.shape == (184, 20, nb_channels)
        assert np.abs(got - expected).max() <= 1e-6 * expected.max()
    build(site.request("A", parameters=replace(parameters, dtype="float16"), suffix=suffix), site.folder / "half")
    half = np.load(site.folder / "half" / "A" / "drums.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, got.astype(np.float16))


@pytest.mark.parametrize("nb_samples", [64, 79, 80, 64 * 16 + 48, 64 * 16 + 49, 2 * 64 * 16 + 48])
def test_no_frame_is_lost_or_added_at_the_ends_of_blocks(site: Site, nb_samples: int) -> None:
    site.add("A", nb_samples=nb_samples)
    parameters = replace(SMALL, dtype="float32")
    assert not site.build(site.request("A", parameters=parameters)).failed
    expected = magnitudes(site.root / "A" / "mixture.wav", parameters)
    got = np.load(site.out / "A" / "mixture.npy")
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-6 * expected.max()


def test_spleeters_transform_on_music_that_is_long_enough(site: Site) -> None:
    site.add("A", ("mixture",), nb_samples=4096 + 1024 * 130 + 7)
    parameters = Parameters(4096, 1024, "hann", 8000, 2, 1024, "float32")
    assert not site.build(site.request("A", parameters=parameters, signals=("mixture",))).failed
    expected = magnitudes(site.root / "A" / "mixture.wav", parameters)
    got = np.load(site.out / "A" / "mixture.npy")
    assert got.shape == expected.shape == (131, 1024, 2)
    assert np.abs(got - expected).max() <= 1e-6 * expected.max()


def test_codes_are_spleeters(site: Site) -> None:
    folder = site.add("A")
    fading = np.geomspace(1, 1e-7, NB_SAMPLES)[:, None] * site.rng.uniform(-1, 1, (NB_SAMPLES, 2))  # beyond 100 dB
    soundfile.write(folder / "vocals.wav", fading, 8000, "FLOAT")
    site.build(site.request("A", parameters=replace(SMALL, dtype="uint8")))
    build(site.request("A", parameters=replace(SMALL, dtype="float32")), site.folder / "exact", parallel=ONE)
    record = read_record(site.out / "A")
    assert record is not None
    for each in SIGNALS:
        expected, lo, hi = quantise(np.load(site.folder / "exact" / "A" / f"{each}.npy"))
        got = np.load(site.out / "A" / f"{each}.npy")
        assert got.dtype == np.uint8
        difference = np.abs(got - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 2e-3
        entry = record.signals[each]
        assert (entry.lo, entry.hi) == pytest.approx((lo, hi), abs=2e-5)
    assert record.signals["vocals"].hi - record.signals["vocals"].lo == pytest.approx(100, abs=1e-4)  # type: ignore[operator]
    assert sorted(path.name for path in (site.out / "A").iterdir()) == [RECORD, *(f"{s}.npy" for s in sorted(SIGNALS))]


def test_silence_is_spleeters_too(site: Site) -> None:
    folder = site.add("A")
    soundfile.write(folder / "drums.wav", np.zeros((NB_SAMPLES, 2)), 8000)
    for dtype in ("uint8", "float16", "float32"):
        site.build(site.request("A", parameters=replace(SMALL, dtype=dtype)))
        array = np.load(site.out / "A" / "drums.npy")
        assert array.shape == (184, 20, 2)
        assert not array.any()
        record = read_record(site.out / "A")
        assert record is not None
        levels = record.signals["drums"].lo, record.signals["drums"].hi
        assert levels == (pytest.approx((-180, -180), abs=2e-5) if dtype == "uint8" else (None, None))
        read = open_cache(site.out).segment("A", 3, 7)["drums"]
        np.testing.assert_allclose(read, 1e-9 if dtype == "uint8" else 0, rtol=1e-5)


def test_float16_is_rounded_as_numpy_rounds(rng: np.random.Generator) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    exact = np.concatenate([halves, middles])
    near = [np.nextafter(exact, np.float32(end)) for end in (0, np.inf)]
    bits = rng.integers(0, np.float32(65504).view(np.uint32), 1_000_000, dtype=np.uint32, endpoint=True)
    tiny = np.arange(1, 5000, dtype=np.uint32)  # float32's own subnormals
    values = np.concatenate([exact, *near, bits.view(np.float32), tiny.view(np.float32)])
    values = values[values <= 65504]
    np.testing.assert_array_equal(cache_arrays._to_half(values), values.astype(np.float16).view(np.uint16))
