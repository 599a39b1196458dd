"""Separation in memory: values against the definitions, chunks against the whole, and what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines import separation
from baselines.auto_transformer import AutoTransformerSettings
from baselines.block_unet import BlockUnetSettings
from baselines.models import Loaded, create
from baselines.open_unmix import OpenUnmixSettings
from baselines.separation import (
    Plan,
    SeparationSettings,
    cut_chunks,
    find_grid,
    make_plan,
    separate_chunks,
    separate_wave,
)
from baselines.spleeter_blstm import BlstmSettings
from baselines.spleeter_unet import UnetSettings
from baselines.umx_transformer import UmxTransformerSettings
from musdbkit.errors import ParameterError
from musdbkit.stft import istft, stft

RATE = 8000
TRANSFORM = {"sample_rate": RATE, "n_fft": 256, "hop_length": 64}
UNET = UnetSettings(
    targets=("vocals", "drums", "bass"),
    nb_bins=64,
    nb_frames=64,
    filters=(2, 3, 4, 5, 6, 7),
    overlap=0.0,
    **TRANSFORM,  # type: ignore[arg-type]
)
BLSTM = BlstmSettings(
    targets=("vocals", "accompaniment"),
    nb_bins=64,
    nb_frames=20,
    hidden_size=8,
    nb_layers=1,
    overlap=0.0,
    **TRANSFORM,  # type: ignore[arg-type]
)
OPEN_UNMIX = OpenUnmixSettings(
    targets=("vocals", "drums"),
    hidden_size=16,
    nb_layers=1,
    bandwidth=3000.0,
    nb_wiener_iterations=0,
    **TRANSFORM,  # type: ignore[arg-type]
)
BLOCK_UNET = BlockUnetSettings(
    targets=("vocals", "drums"),
    nb_frames=32,
    trim=150,
    n_blocks=3,
    internal_channels=4,
    n_internal_layers=2,
    sample_rate=RATE,
    n_fft=256,
    hop_length=128,
)
LONG: dict[str, Any] = {"targets": ("vocals", "drums"), "hidden_size": 16, "nb_heads": 2, "nb_layers": 1}
LONG |= {"feedforward_size": 8, "input_seconds": 0.5, "shift": 500}
UMX_TRANSFORMER = UmxTransformerSettings(bandwidth=3000.0, **LONG, **TRANSFORM)
AUTO_TRANSFORMER = AutoTransformerSettings(attention="qkv2D", **LONG, **TRANSFORM)
NAMES = {
    UnetSettings: "spleeter-unet",
    BlstmSettings: "spleeter-blstm",
    OpenUnmixSettings: "open-unmix",
    BlockUnetSettings: "block-unet",
    UmxTransformerSettings: "umx-transformer",
    AutoTransformerSettings: "auto-transformer",
}
ONE_CHUNK = SeparationSettings()

Wave = NDArray[np.float32]


def load(settings: Any) -> Loaded:
    """Return a model with random weights that are large enough to matter."""
    torch.manual_seed(0)
    name = NAMES[type(settings)]
    network = create(name, settings).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter += 0.5 * torch.randn_like(parameter)
    return Loaded(name, settings, network, Path("run/best.safetensors"), "0" * 64, 7, "best")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute in one thread: for such small arrays several cost more than they help."""
    nb_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(nb_threads)


@pytest.fixture
def song(rng: np.random.Generator) -> Wave:
    """Nine seconds of noise that swells, more to the left."""
    envelope = 0.1 + np.sin(np.linspace(0, 9, 9 * RATE))[:, None] ** 2
    return (0.2 * envelope * rng.standard_normal((9 * RATE, 2)) * [1, 0.6]).astype(np.float32)


@pytest.fixture
def wave(song: Wave) -> Wave:
    """The first three of them."""
    return song[: 3 * RATE]


def assert_close(found: dict[str, Wave], expected: dict[str, Wave], tolerance: float = 2e-6) -> None:
    assert list(found) == list(expected)
    for name, samples in expected.items():
        assert found[name].dtype == np.float32
        assert np.abs(samples).max() > 1e-3  # else anything would do
        np.testing.assert_allclose(found[name], samples, atol=tolerance, err_msg=name)


# The definitions once more, on spectrograms of (nb_frames, nb_bins, nb_channels), in float64


def apply(network: torch.nn.Module, magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a network makes of a spectrogram [shape=(nb_targets, nb_frames, nb_bins, nb_channels)]."""
    batch = torch.from_numpy(magnitudes.transpose(2, 1, 0)[None].astype(np.float32))
    return network(batch)[0].permute(0, 3, 2, 1).numpy().astype(float)


def spleeters_magnitudes(loaded: Loaded, x: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return the estimates of one segment after the other."""
    length, nb_bins = loaded.settings.nb_frames, loaded.settings.nb_bins
    magnitudes = np.abs(x[:, :nb_bins])
    padded = np.pad(magnitudes, ((0, -len(x) % length), (0, 0), (0, 0)))
    segments = [apply(loaded.network, padded[i : i + length]) for i in range(0, len(padded), length)]
    return np.concatenate(segments, axis=1)[:, : len(x)]


def spleeters_masks(s: NDArray[np.float64], exponent: float, extension: str, nb_bins: int) -> list[NDArray[np.float64]]:
    masks = []
    for s_i in s:
        mask = (s_i**exponent + 1e-10 / len(s)) / (np.sum(s**exponent, axis=0) + 1e-10)
        mean = mask.mean(axis=1, keepdims=True) if extension == "average" else np.zeros_like(mask[:, :1])
        masks.append(np.concatenate([mask, np.repeat(mean, nb_bins - mask.shape[1], axis=1)], axis=1))
    return masks


def expectation_maximisation(
    x: NDArray[np.complex128], y: NDArray[np.complex128], nb_iterations: int, eps: float
) -> NDArray[np.complex128]:
    """Return refined sources [shape=(nb_sources, nb_frames, nb_bins, nb_channels)], by the formulas."""
    scale = max(1, np.abs(x).max() / 10)
    x, y = x / scale, y / scale
    for _ in range(nb_iterations):
        v = np.mean(np.abs(y) ** 2, axis=-1)
        r = np.einsum("jtfa,jtfb->jfab", y, y.conj()) / (eps + v.sum(axis=1))[..., None, None]
        c = np.einsum("jtf,jfab->tfab", v, r) + np.sqrt(eps) * np.eye(x.shape[-1])
        y = np.einsum("jtf,jfab,tfbc,tfc->jtfa", v, r, np.linalg.inv(c), x)
    return y * scale


def inverted(loaded: Loaded, spectra: Any, wave: Wave, names: tuple[str, ...]) -> dict[str, Wave]:
    params = loaded.settings.separation_stft
    return {
        name: istft(spectrum, params, nb_samples=len(wave)).astype(np.float32)
        for name, spectrum in zip(names, spectra, strict=True)
    }


@pytest.mark.parametrize("nb_samples", [20_000, 64 * 64 * 3, 1000, 100, 7])
@pytest.mark.parametrize("extension", ["zeros", "average"])
def test_unet_is_as_spleeter_defines_it(wave: Wave, extension: str, nb_samples: int) -> None:
    loaded = load(replace(UNET, mask_extension=extension))
    part = wave[1000 : 1000 + nb_samples]
    x = stft(part.astype(float), UNET.separation_stft)
    masks = spleeters_masks(spleeters_magnitudes(loaded, x), 2, extension, x.shape[1])
    assert_close(separate_wave(loaded, part), inverted(loaded, [x * mask for mask in masks], part, UNET.targets))


def test_softmax_unet_and_blstm_get_the_same_masks(wave: Wave) -> None:
    for settings in (replace(UNET, output="softmax", nb_channels=1), BLSTM):
        loaded = load(settings)
        mixture = wave[:, : settings.nb_channels]
        x = stft(mixture.astype(float), settings.separation_stft)
        masks = spleeters_masks(spleeters_magnitudes(loaded, x), 2, "zeros", x.shape[1])
        expected = inverted(loaded, [x * mask for mask in masks], mixture, settings.targets)
        assert_close(separate_wave(loaded, mixture), expected)


def test_options_go_before_the_models_own(wave: Wave) -> None:
    loaded = load(UNET)
    x = stft(wave.astype(float), UNET.separation_stft)
    masks = spleeters_masks(spleeters_magnitudes(loaded, x), 1.5, "average", x.shape[1])
    options = SeparationSettings(mask_exponent=1.5, mask_extension="average", segment_overlap=0.0)
    found = separate_wave(load(replace(UNET, overlap=0.5)), wave, options)
    assert_close(found, inverted(loaded, [x * mask for mask in masks], wave, UNET.targets))


def test_overlapping_segments_are_cross_faded(wave: Wave) -> None:
    loaded = load(replace(UNET, overlap=0.5))
    x = stft(wave.astype(float), UNET.separation_stft)
    total, weights = np.zeros((3, len(x) + 64, 64, 2)), np.zeros(len(x) + 64)
    triangle = np.minimum(np.arange(1, 65), np.arange(64, 0, -1)).clip(max=33)
    magnitudes = np.pad(np.abs(x[:, :64]), ((0, 64), (0, 0), (0, 0)))
    for start in range(0, max(len(x) - 32, 1), 32):
        total[:, start : start + 64] += triangle[:, None, None] * apply(loaded.network, magnitudes[start : start + 64])
        weights[start : start + 64] += triangle
    s = total[:, : len(x)] / weights[: len(x), None, None]
    s = np.concatenate([s, np.maximum(np.abs(x[:, :64]) - s.sum(axis=0), 0)[None]])  # depends on their scale, too
    masks = spleeters_masks(s, 2, "zeros", x.shape[1])
    masks[3][:, 64:] = 1
    found = separate_wave(loaded, wave, SeparationSettings(residual=True))
    assert_close(found, inverted(loaded, [x * mask for mask in masks], wave, (*UNET.targets, "residual")))


@pytest.mark.parametrize(("nb_iterations", "window"), [(1, 0), (2, 0), (1, 30)])
def test_spleeters_wiener_filter(wave: Wave, nb_iterations: int, window: int) -> None:
    loaded = load(UNET)
    loudest = 0.9 * np.sin(np.arange(len(wave)) * 2 * np.pi * 3000 / RATE)  # in bins that the network does not see
    loudest *= np.linspace(0.2, 1, len(wave))  # so windows have scales of their own
    wave = (0.1 * wave + loudest[:, None]).astype(np.float32)
    x = stft(wave.astype(float), UNET.separation_stft)
    v = np.pad(spleeters_magnitudes(loaded, x), ((0, 0), (0, 0), (0, x.shape[1] - 64), (0, 0)))
    eps = float(np.finfo(np.float32).eps)
    y = x * v / (eps + v.sum(axis=0))
    size = window or len(x)
    parts = [
        expectation_maximisation(x[i : i + size], y[:, i : i + size], nb_iterations, eps)
        for i in range(0, len(x), size)
    ]
    settings = SeparationSettings(nb_wiener_iterations=nb_iterations, wiener_window=window)
    found = separate_wave(loaded, wave, settings)
    assert_close(found, inverted(loaded, np.concatenate(parts, axis=1), wave, UNET.targets), 1e-5)


def open_unmix_magnitudes(loaded: Loaded, x: NDArray[np.complex128]) -> NDArray[np.float64]:
    return apply(loaded.network, np.abs(x))


@pytest.mark.parametrize("softmask", [False, True])
def test_open_unmix_without_wiener_filter(wave: Wave, softmask: bool) -> None:
    loaded = load(OPEN_UNMIX)
    x = stft(wave.astype(float), OPEN_UNMIX.separation_stft)
    v = open_unmix_magnitudes(loaded, x)
    y = x * v / (1e-10 + v.sum(axis=0)) if softmask else v * np.exp(1j * np.angle(x))
    found = separate_wave(loaded, wave, SeparationSettings(softmask=softmask))
    assert_close(found, inverted(loaded, y, wave, OPEN_UNMIX.targets), 1e-5)


@pytest.mark.parametrize(("window", "residual"), [(None, False), (100, False), (100, True)])
def test_open_unmix_with_wiener_filter(wave: Wave, window: int | None, residual: bool) -> None:
    loaded = load(replace(OPEN_UNMIX, nb_wiener_iterations=1, wiener_window=window, residual=residual))
    x = stft(wave.astype(float), OPEN_UNMIX.separation_stft)
    y = open_unmix_magnitudes(loaded, x) * np.exp(1j * np.angle(x))
    if residual:
        y = np.concatenate([y, (x - y.sum(axis=0))[None]])
    size = window or len(x)
    parts = [expectation_maximisation(x[i : i + size], y[:, i : i + size], 1, 1e-10) for i in range(0, len(x), size)]
    names = (*OPEN_UNMIX.targets, *(["residual"] if residual else []))
    found = separate_wave(loaded, wave)
    assert_close(found, inverted(loaded, np.concatenate(parts, axis=1), wave, names), 2e-5)


def block_unets_waves(loaded: Loaded, wave: Wave, trim: int) -> dict[str, Wave]:
    """Return the estimates of segments that overlap by twice `trim`, cut at both ends and joined."""
    model = loaded.settings
    length = model.input_samples
    span = length - 2 * trim
    nb_segments = -(-len(wave) // span)
    padded = np.pad(wave.astype(float), ((trim, nb_segments * span + trim - len(wave)), (0, 0)))
    parts = []
    for i in range(nb_segments):
        x = stft(padded[i * span : i * span + length], model.separation_stft)  # nb_frames, nb_bins, nb_channels
        assert len(x) == model.nb_frames
        channels = np.concatenate([x.real, x.imag], axis=2) if model.spec_type == "complex" else np.abs(x)
        batch = torch.from_numpy(channels.transpose(2, 0, 1)[None].astype(np.float32))
        waves = []
        for network in loaded.network.networks.values():
            y = network(batch)[0].permute(1, 2, 0).numpy().astype(float)
            y = y * channels if model.spec_est_mode == "masking" else y
            y = y[..., :2] + 1j * y[..., 2:] if model.spec_type == "complex" else y * np.exp(1j * np.angle(x))
            waves.append(istft(y, model.separation_stft, start=trim, nb_samples=span))
        parts.append(np.stack(waves))
    joined = np.concatenate(parts, axis=1)[:, : len(wave)].astype(np.float32)
    return dict(zip(model.targets, joined, strict=True))


@pytest.mark.parametrize("nb_samples", [20_000, 3 * 3668, 3668, 100, 7])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spec_type": "magnitude", "spec_est_mode": "masking", "last_activation": "sigmoid"},
        {"spec_est_mode": "masking", "last_activation": "tanh", "targets": ("vocals",)},
        {"spec_type": "magnitude", "block": "tdc-rnn", "last_activation": "relu"},
        {"centred": False, "block": "tdc"},
    ],
)
def test_block_unets_take_segments_of_the_wave(wave: Wave, nb_samples: int, changes: dict[str, Any]) -> None:
    loaded = load(replace(BLOCK_UNET, **changes))
    part = wave[1000 : 1000 + nb_samples]
    expected = block_unets_waves(loaded, part, 150)
    if changes.get("last_activation") == "relu" and not any(samples.any() for samples in expected.values()):
        pytest.fail("only zeros")
    assert_close(separate_wave(loaded, part), expected, 1e-5 * max(np.abs(each).max() for each in expected.values()))


def test_a_segment_is_trimmed_by_whole_hops_of_5000_samples() -> None:
    assert BlockUnetSettings().trim_samples == 5120
    assert BlockUnetSettings(hop_length=512).trim_samples == 5120
    assert BlockUnetSettings(hop_length=1000).trim_samples == 5000


def long_inputs_magnitudes(loaded: Loaded, x: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Return the estimates of one block after the other, the last one shorter."""
    length = loaded.settings.nb_block_frames
    return np.concatenate([apply(loaded.network, np.abs(x[i : i + length])) for i in range(0, len(x), length)], axis=1)


@pytest.mark.parametrize("settings", [UMX_TRANSFORMER, AUTO_TRANSFORMER], ids=["umx", "auto"])
@pytest.mark.parametrize("nb_samples", [20_000, 62 * 64 * 3, 200])
def test_transformers_take_blocks_as_long_as_inputs(wave: Wave, settings: Any, nb_samples: int) -> None:
    assert settings.nb_block_frames == 62
    loaded = load(settings)
    part = wave[1000 : 1000 + nb_samples]
    x = stft(part.astype(float), settings.separation_stft)
    y = long_inputs_magnitudes(loaded, x) * np.exp(1j * np.angle(x))
    assert_close(separate_wave(loaded, part), inverted(loaded, y, part, settings.targets), 2e-5)


def test_transformers_estimates_may_be_filtered(wave: Wave) -> None:
    loaded = load(UMX_TRANSFORMER)
    x = stft(wave.astype(float), UMX_TRANSFORMER.separation_stft)
    v = long_inputs_magnitudes(loaded, x)
    y = expectation_maximisation(x, v * np.exp(1j * np.angle(x)), 1, 1e-10)
    found = separate_wave(loaded, wave, SeparationSettings(nb_wiener_iterations=1, wiener_window=0))
    assert_close(found, inverted(loaded, y, wave, UMX_TRANSFORMER.targets), 2e-5)
    own = load(replace(UMX_TRANSFORMER, nb_wiener_iterations=1))  # with windows, which blocks are no multiple of
    parts = [
        expectation_maximisation(x[i : i + 300], (v * np.exp(1j * np.angle(x)))[:, i : i + 300], 1, 1e-10)
        for i in range(0, len(x), 300)
    ]
    expected = inverted(own, np.concatenate(parts, axis=1), wave, UMX_TRANSFORMER.targets)
    assert_close(separate_wave(own, wave), expected, 2e-5)
    y = x * v / (1e-10 + v.sum(axis=0))
    found = separate_wave(loaded, wave, SeparationSettings(softmask=True))
    assert_close(found, inverted(loaded, y, wave, UMX_TRANSFORMER.targets), 2e-5)


# Properties


MODELS = {
    "unet": UNET,
    "overlapping": replace(UNET, overlap=0.25),
    "average": replace(UNET, mask_extension="average"),
    "blstm": BLSTM,
    "open-unmix": OPEN_UNMIX,
    "wiener": replace(OPEN_UNMIX, nb_wiener_iterations=1),
    "block-unet": BLOCK_UNET,
    "magnitudes": replace(BLOCK_UNET, spec_type="magnitude", spec_est_mode="masking", last_activation="sigmoid"),
    "umx-transformer": UMX_TRANSFORMER,
    "auto-transformer": AUTO_TRANSFORMER,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("softmask", [False, True])
def test_estimates_and_residual_sum_to_the_mixture(wave: Wave, name: str, softmask: bool) -> None:
    loaded = load(MODELS[name])
    softmask = softmask and not isinstance(MODELS[name], BlockUnetSettings)
    estimates = separate_wave(loaded, wave, SeparationSettings(residual=True, softmask=softmask))
    assert list(estimates) == [*MODELS[name].targets, "residual"]
    assert all(np.abs(each).max() > 1e-3 for each in estimates.values())
    np.testing.assert_allclose(np.sum(list(estimates.values()), axis=0), wave, atol=1e-4)


@pytest.mark.parametrize("settings", [UNET, OPEN_UNMIX], ids=["unet", "open-unmix"])
def test_one_target_and_what_it_leaves(wave: Wave, settings: Any) -> None:
    loaded = load(replace(settings, targets=("vocals",)))
    estimates = separate_wave(loaded, wave, SeparationSettings(residual=True))
    assert list(estimates) == ["vocals", "residual"]
    np.testing.assert_allclose(estimates["vocals"] + estimates["residual"], wave, atol=1e-5)
    assert np.abs(estimates["residual"]).max() > 0.01


def test_spleeters_residual_is_what_the_estimates_leave(wave: Wave) -> None:
    loaded = load(replace(UNET, targets=("vocals", "drums")))
    x = stft(wave.astype(float), UNET.separation_stft)
    s = spleeters_magnitudes(loaded, x)
    s = np.concatenate([s, np.maximum(np.abs(x[:, :64]) - s.sum(axis=0), 0)[None]])
    masks = spleeters_masks(s, 2, "zeros", x.shape[1])
    masks[2][:, 64:] = 1  # bins that no target has
    expected = inverted(loaded, [x * mask for mask in masks], wave, ("vocals", "drums", "residual"))
    assert_close(separate_wave(loaded, wave, SeparationSettings(residual=True)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_depends_on_how_frames_are_grouped(wave: Wave, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    loaded = load(replace(MODELS[name], wiener_window=5) if name == "wiener" else MODELS[name])
    expected = separate_wave(loaded, wave)
    monkeypatch.setitem(separation._BLOCK_FRAMES, "cpu", 3)  # fewer than reach a sample
    monkeypatch.setattr(separation, "_BATCH_VALUES", 1)
    monkeypatch.setitem(separation._WAVE_VALUES, "cpu", 1)
    assert_close(separate_wave(loaded, wave), expected)


@pytest.mark.parametrize("nb_samples", [20_000, 20_096, 20_095, 129, 1])
def test_frames_that_overlap_by_half_determine_the_last_sample(wave: Wave, nb_samples: int) -> None:
    for settings in (OPEN_UNMIX, UMX_TRANSFORMER):
        loaded = load(replace(settings, hop_length=128))
        estimates = separate_wave(loaded, wave[:nb_samples], SeparationSettings(residual=True))
        np.testing.assert_allclose(np.sum(list(estimates.values()), axis=0), wave[:nb_samples], atol=1e-5)


def test_inputs_are_not_changed_and_nothing_needs_gradients(wave: Wave) -> None:
    for settings in (UNET, OPEN_UNMIX):
        before = wave.copy()
        separate_wave(load(settings), wave)
        np.testing.assert_array_equal(wave, before)
    assert not torch.is_inference_mode_enabled()


def test_mono_is_doubled_and_silence_stays_silent(wave: Wave) -> None:
    loaded = load(UNET)
    mono = wave[:, :1]
    assert_close(separate_wave(loaded, mono), separate_wave(loaded, np.repeat(mono, 2, axis=1)))
    for settings in MODELS.values():
        loaded = load(settings)
        if not isinstance(settings, BlockUnetSettings) or settings.spec_est_mode == "masking":
            for samples in separate_wave(loaded, np.zeros((5000, 2), np.float32)).values():
                np.testing.assert_array_equal(samples, 0)
        assert {s.shape for s in separate_wave(load(settings), np.zeros((0, 2), np.float32)).values()} == {(0, 2)}


# Chunks


def chunked(loaded: Loaded, wave: Wave, settings: SeparationSettings) -> tuple[dict[str, Wave], int]:
    """Return the estimates of a wave that comes in small blocks, and into how many chunks it was cut."""
    plan = make_plan(loaded, settings)
    nb_chunks = 0

    def count() -> Iterator[separation.Chunk]:
        nonlocal nb_chunks
        blocks = (wave[i : i + 777] for i in range(0, len(wave), 777))
        for chunk in cut_chunks(blocks, wave.shape[1], find_grid(loaded, plan)):
            nb_chunks += 1
            yield chunk

    pieces = list(separate_chunks(loaded, plan, count()))
    estimates = {name: np.concatenate([p[i] for p in pieces]) for i, name in enumerate(plan.sources)}
    return estimates, nb_chunks


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("nb_samples", [9 * RATE, 8 * RATE + 17])
def test_chunks_of_spleeters_networks_equal_the_whole(song: Wave, overlap: float, nb_samples: int) -> None:
    loaded = load(replace(UNET, overlap=overlap))
    settings = SeparationSettings(chunk_seconds=3.7, overlap_seconds=0.2)
    found, nb_chunks = chunked(loaded, song[:nb_samples], settings)
    assert nb_chunks >= 3
    assert_close(found, separate_wave(loaded, song[:nb_samples]), 1e-5)
    assert_close(found, separate_wave(loaded, song[:nb_samples], settings), 1e-7)


@pytest.mark.parametrize("nb_samples", [9 * RATE, 8 * RATE + 17])
@pytest.mark.parametrize(
    "settings",
    [BLOCK_UNET, replace(BLOCK_UNET, centred=False), UMX_TRANSFORMER, AUTO_TRANSFORMER],
    ids=["centred", "uncentred", "umx", "auto"],
)
def test_chunks_of_what_takes_inputs_of_one_length_equal_the_whole(song: Wave, settings: Any, nb_samples: int) -> None:
    loaded = load(settings)
    options = SeparationSettings(chunk_seconds=3.7, overlap_seconds=0.2, residual=True)
    found, nb_chunks = chunked(loaded, song[:nb_samples], options)
    assert nb_chunks >= 3
    assert_close(found, separate_wave(loaded, song[:nb_samples], SeparationSettings(residual=True)), 1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("nb_iterations", [0, 1])
def test_chunks_of_open_unmix_equal_the_whole_away_from_their_ends(
    song: Wave, bidirectional: bool, nb_iterations: int
) -> None:
    loaded = load(replace(OPEN_UNMIX, bidirectional=bidirectional, nb_wiener_iterations=nb_iterations))
    settings = SeparationSettings(chunk_seconds=4, overlap_seconds=1.5, wiener_window=20)
    found, nb_chunks = chunked(loaded, song, settings)
    whole = separate_wave(loaded, song, replace(settings, chunk_seconds=600))
    rough, _ = chunked(loaded, song, replace(settings, overlap_seconds=0))
    assert nb_chunks == 4
    grid = find_grid(loaded, make_plan(loaded, settings))
    for name, samples in whole.items():
        difference, hard = (np.abs(each[name] - samples).max(axis=1) for each in (found, rough))
        assert hard.max() > 0.05
        assert difference.max() < (1e-4 if nb_iterations == 0 else 0.01)  # a window of 1280 samples is at each end
        for k in range(1, nb_chunks):
            start = (k - 1) * grid.hop + grid.fade + 1500, k * grid.hop
            assert difference[slice(*start)].max() < 1e-5  # where a single chunk is heard


def test_a_wave_of_just_a_chunk_is_not_cut(song: Wave) -> None:
    loaded = load(OPEN_UNMIX)
    settings = SeparationSettings(chunk_seconds=4, overlap_seconds=1)
    for nb_samples, expected in ((4 * RATE, 1), (4 * RATE + 1, 2), (7 * RATE, 2), (7 * RATE + 1, 3)):
        found, nb_chunks = chunked(loaded, song[:nb_samples], settings)
        assert nb_chunks == expected
        assert {len(samples) for samples in found.values()} == {nb_samples}


def test_what_is_cross_faded_keeps_its_sum(song: Wave) -> None:
    loaded = load(OPEN_UNMIX)
    settings = SeparationSettings(chunk_seconds=3, overlap_seconds=0.5, residual=True)
    found, nb_chunks = chunked(loaded, song, settings)
    assert nb_chunks == 4
    np.testing.assert_allclose(np.sum(list(found.values()), axis=0), song, atol=1e-5)


def test_a_gpus_pieces_are_handed_over_while_the_next_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does in turn is played here: a copy is there once its event has been waited for, not before."""
    told: list[str] = []
    pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Held:
        def __init__(self, shape: torch.Size, *, dtype: torch.dtype, pin_memory: bool) -> None:
            assert pin_memory
            self.samples = torch.full(tuple(shape), torch.nan).to(dtype)

        def copy_(self, source: torch.Tensor, *, non_blocking: bool) -> None:
            assert non_blocking
            assert source.is_contiguous()
            pending.append((self.samples, source))

        def numpy(self) -> Wave:
            samples: Wave = self.samples.numpy()
            return samples

    class Event:
        def __init__(self) -> None:
            self.copy, self.name = pending[-1], f"waited for {len(pending) - 1}"

        def synchronize(self) -> None:
            told.append(self.name)
            self.copy[0].copy_(self.copy[1])

    def compute() -> Iterator[Any]:
        for i, samples in enumerate(pieces):
            told.append(f"computed {i}")
            yield SimpleNamespace(device=torch.device("cuda"), dtype=samples.dtype, mT=samples.mT)

    pieces = [torch.randn(3, 2, nb_samples) for nb_samples in (50, 40, 50)]
    monkeypatch.setattr(torch, "empty", Held)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(record_event=Event))
    found = list(separation._fetch(compute()))
    assert told == ["computed 0", "computed 1", "waited for 0", "computed 2", "waited for 1", "waited for 2"]
    for samples, expected in zip(found, pieces, strict=True):  # all are kept, and none is written over
        np.testing.assert_array_equal(samples, expected.numpy().transpose(0, 2, 1))


# What is refused, and what is left open


def test_defaults_are_the_models_own() -> None:
    assert make_plan(load(replace(UNET, overlap=0.25, mask_exponent=1.5))) == Plan(
        ("vocals", "drums", "bass"), 0, None, True, False, 0.25, 1.5, "zeros", 600.0, 10.0, "float32"
    )
    model = replace(OPEN_UNMIX, nb_wiener_iterations=2, wiener_window=200, residual=True)
    assert make_plan(load(model)) == Plan(
        ("vocals", "drums", "residual"), 2, 200, False, True, None, None, None, 600.0, 10.0, "float32"
    )
    settings = SeparationSettings(nb_wiener_iterations=1, wiener_window=0, residual=False, softmask=True)
    plan = make_plan(load(model), settings)
    assert (plan.nb_wiener_iterations, plan.wiener_window, plan.residual, plan.softmask) == (1, None, False, True)
    alone = make_plan(load(replace(model, targets=("vocals",), residual=False)))
    assert alone.nb_wiener_iterations == 0  # with a single target there is nothing to refine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nb_wiener_iterations": -1}, "nb_wiener_iterations is -1, expected a whole number, 0 or more"),
        ({"wiener_window": 1.5}, "wiener_window is 1.5, expected a whole number"),
        ({"chunk_seconds": 0}, "chunk_seconds is 0, expected more than 0"),
        ({"chunk_seconds": float("nan")}, "chunk_seconds is nan"),
        ({"overlap_seconds": -1}, "overlap_seconds is -1, expected 0 or more"),
        ({"segment_overlap": 1.0}, "segment_overlap is 1.0, expected 0 to less than 1"),
        ({"mask_exponent": 0}, "mask_exponent is 0, expected a number above 0"),
        ({"mask_extension": "ones"}, "mask_extension is ones, expected zeros or average"),
        ({"precision": "fp8"}, "precision is fp8, expected float32 or bf16"),
    ],
)
def test_unusable_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SeparationSettings(**options)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (replace(UNET, targets=("vocals",)), {}, "vocals is the only target, and masks that are ratios would give it"),
        (replace(OPEN_UNMIX, targets=("drums",)), {"softmask": True}, "drums is the only target, and masks"),
        (replace(OPEN_UNMIX, targets=("drums",)), {"nb_wiener_iterations": 1}, "drums is the only .* a Wiener filter"),
        (replace(OPEN_UNMIX, targets=("residual", "x")), {"residual": True}, "has a target of that name"),
        (OPEN_UNMIX, {"mask_exponent": 2.0}, "mask_exponent is given, but means nothing to open-unmix"),
        (UMX_TRANSFORMER, {"segment_overlap": 0.5}, "segment_overlap is given, but means nothing to umx-transformer"),
        (BLOCK_UNET, {"nb_wiener_iterations": 1}, "nb_wiener_iterations is given, but means nothing to block-unet"),
        (BLOCK_UNET, {"softmask": True}, "softmask is given, but means nothing to block-unet"),
        (OPEN_UNMIX, {"precision": "bf16"}, "precision bf16 is for CUDA, not for cpu"),
        (
            UNET,
            {"chunk_seconds": 2},
            r"chunk_seconds is 2, expected 23 or more for spleeter-unet with overlap_sec.* 10",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(wave: Wave, model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        separate_wave(load(model), wave, SeparationSettings(**options))


def test_the_least_chunk_that_is_named_is_enough() -> None:
    for settings in (*MODELS.values(), replace(UNET, overlap=0.9)):
        for overlap in (0.0, 0.1, 3.3):
            loaded = load(settings)
            with pytest.raises(ParameterError, match="or more") as refused:
                find_grid(loaded, make_plan(loaded, SeparationSettings(chunk_seconds=1e-4, overlap_seconds=overlap)))
            least = int(str(refused.value).partition("expected ")[2].partition(" ")[0])
            options = SeparationSettings(chunk_seconds=max(least, 1), overlap_seconds=overlap)
            grid = find_grid(loaded, make_plan(loaded, options))
            assert grid.hop >= grid.fade >= round(overlap * RATE)


@pytest.mark.parametrize("shape", [(100, 3), (100,), (100, 0), (1, 100, 2)])
def test_what_is_no_wave_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match=r"expected \(nb_samples, 2\), the model's channels"):
        separate_wave(load(UNET), np.zeros(shape, np.float32))
