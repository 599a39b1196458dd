"""Losses: against their formulas written out, of spectrograms, waves and stretches of waves; silence; refusals."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.losses import LOSSES, measure_losses, needs_waves, normalise
from baselines.recipes import Recipe
from baselines.torch_stft import stft
from musdbkit import stft as numpy_stft
from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams

OF_SPECTROGRAMS = ("l1", "weighted-l1", "mse")
OF_WAVES = tuple(loss for loss in LOSSES if loss not in OF_SPECTROGRAMS)
OF_STRETCHES = OF_WAVES[3:]
CENTRED = StftParams(64, 32, alignment="center", padding="reflect")
UNCENTRED = StftParams(64, 32)
NB_SAMPLES = 9 * 32  # 10 centred frames, 8 others
RECIPE = Recipe()


def as_waves(rng: np.random.Generator, *shape: int) -> Tensor:
    """Return noise [shape=(*shape, NB_SAMPLES), float64]."""
    return torch.tensor(rng.standard_normal((*shape, NB_SAMPLES)))


def measure_waves(
    loss: str, estimates: Tensor, waves: Tensor, transform: StftParams = CENTRED, recipe: Recipe = RECIPE
) -> Tensor:
    """Return losses of complex spectrograms that are those of waves."""
    found, targets = stft(estimates, transform), stft(waves, transform)
    return measure_losses(recipe, loss, found, targets, waves=waves, transform=transform)


# Spectrograms


def loss_by_hand(loss: str, estimates: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Return the loss of one target, example by example [shape of both=(batch_size, channels, bins, frames)]."""
    found = []
    for estimate, target in zip(estimates, targets, strict=True):
        distance = np.abs(estimate - target)
        if loss == "mse":
            found.append(np.mean(distance**2))
        else:
            found.append(np.mean(distance) * (np.mean(target) if loss == "weighted-l1" else 1))
    return float(np.mean(found))


@pytest.mark.parametrize("loss", OF_SPECTROGRAMS)
def test_losses_of_magnitudes(loss: str, rng: np.random.Generator) -> None:
    estimates, targets = rng.uniform(0, 2, (2, 3, 4, 2, 5, 6))
    targets *= np.arange(1, 4)[:, None, None, None, None]  # so that examples weigh differently
    got = measure_losses(RECIPE, loss, torch.tensor(estimates), torch.tensor(targets))
    assert got.shape == (4,)
    expected = [loss_by_hand(loss, estimates[:, i], targets[:, i]) for i in range(4)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("loss", ["l1", "mse"])
def test_losses_of_complex_spectrograms_are_of_real_and_imaginary_parts(loss: str, rng: np.random.Generator) -> None:
    parts = rng.standard_normal((2, 2, 3, 4, 2, 5, 6))
    estimates, targets = parts[0] + 1j * parts[1]
    got = measure_losses(RECIPE, loss, torch.tensor(estimates), torch.tensor(targets))
    apart = [np.concatenate([each.real, each.imag], axis=2) for each in (estimates, targets)]  # as channels
    expected = [loss_by_hand(loss, apart[0][:, i], apart[1][:, i]) for i in range(4)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("loss", OF_SPECTROGRAMS)
def test_losses_of_half_precision_are_computed_in_single(loss: str, rng: np.random.Generator) -> None:
    estimates, targets = torch.tensor(rng.uniform(0, 300, (2, 3, 4, 2, 5, 6)), dtype=torch.float32)
    got = measure_losses(RECIPE, loss, estimates.bfloat16(), targets)
    assert got.dtype == torch.float32
    assert torch.equal(got, measure_losses(RECIPE, loss, estimates.bfloat16().float(), targets))
    assert torch.isfinite(got).all()


# Waves


@pytest.mark.parametrize("transform", [CENTRED, UNCENTRED], ids=["centred", "uncentred"])
@pytest.mark.parametrize("loss", ["raw-l1", "raw-mse"])
def test_losses_of_waves(loss: str, transform: StftParams, rng: np.random.Generator) -> None:
    """Where frames begin with the signal, they do not determine its ends: half a frame is left out of each."""
    estimates, waves = as_waves(rng, 3, 4, 2), as_waves(rng, 3, 4, 2)
    got = measure_waves(loss, estimates, waves, transform)
    difference = (estimates - waves).numpy()
    if transform is UNCENTRED:
        difference = difference[..., 32:-32]
    distance = difference**2 if loss == "raw-mse" else np.abs(difference)
    np.testing.assert_allclose(got.numpy(), distance.mean((0, 2, 3)), rtol=1e-9)


def test_samples_that_no_frame_is_centred_behind_are_left_out(rng: np.random.Generator) -> None:
    """The last frame's end is weighed down by its window: with hops of half a frame nothing is left of it."""
    estimates, waves = as_waves(rng, 1, 2, 2)[..., :-1], as_waves(rng, 1, 2, 2)[..., :-1]
    got = measure_waves("raw-l1", estimates, waves)
    expected = (estimates - waves)[..., : 8 * 32].abs().mean((0, 2, 3))
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-9)


def test_magnitudes_take_the_phase_of_the_mixture(rng: np.random.Generator) -> None:
    mixture, waves = as_waves(rng, 3, 2), as_waves(rng, 3, 4, 2)
    spectrum = stft(mixture, CENTRED)
    estimates = torch.tensor(rng.standard_normal((3, 4, *spectrum.shape[1:])))  # some below zero, as mapping may give
    got = measure_losses(RECIPE, "raw-l1", estimates, estimates, spectrum=spectrum, waves=waves, transform=CENTRED)
    expected = np.zeros(4)
    for i in range(3):
        for j in range(4):
            found = estimates[i, j].numpy() * np.exp(1j * np.angle(spectrum[i].numpy()))
            made = numpy_stft.istft(found.transpose(2, 1, 0), CENTRED, nb_samples=NB_SAMPLES).T
            expected[j] += np.abs(made - waves[i, j].numpy()).mean() / 3
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("raw", "spec"), [("l1", "mse"), ("mse", "l1")])
def test_both(raw: str, spec: str, rng: np.random.Generator) -> None:
    estimates, waves = as_waves(rng, 3, 4, 2), as_waves(rng, 3, 4, 2)
    recipe = Recipe(loss="raw-and-spec", raw_weight=3.0, spec_weight=0.25, raw_part=raw, spec_part=spec)
    got = measure_waves("raw-and-spec", estimates, waves, recipe=recipe)
    expected = 3 * measure_waves(f"raw-{raw}", estimates, waves) + measure_waves(spec, estimates, waves) / 4
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-9)


# Stretches


def stretch_by_hand(loss: str, estimate: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return the loss of one stretch of one channel."""
    if loss in ("ncs", "nlcs"):
        cosine = np.dot(estimate, target) / max(np.linalg.norm(estimate) * np.linalg.norm(target), 1e-16)
        return float(-cosine if loss == "ncs" else -np.log(cosine + 1 + 1e-8))
    scaled = (np.dot(estimate, target) + 1e-8) / (np.dot(target, target) + 1e-8) * target
    wrong, right = np.sum((estimate - scaled) ** 2), np.sum(scaled**2)
    if loss == "distortion":
        return float(np.sqrt(wrong))
    wrong, right = wrong + 1e-8, right + 1e-8
    return float(
        {
            "sdr-like": wrong - right,
            "dsr": wrong / right,
            "nsdr": -right / wrong,
            "ldsr": np.log(wrong) - np.log(right),
        }[loss]
    )


def cut_by_hand(wave: NDArray[np.float64], window: int, hop: int) -> list[NDArray[np.float64]]:
    """Return the stretches of one channel, zeros before and behind; of an odd number one more behind."""
    nb_stretches = len(wave) // hop + 1
    nb_zeros = (nb_stretches - 1) * hop + window - len(wave)
    padded = np.concatenate([np.zeros(nb_zeros // 2), wave, np.zeros(nb_zeros - nb_zeros // 2)])
    return [padded[i * hop : i * hop + window] for i in range(nb_stretches)]


@pytest.mark.parametrize(
    ("window", "hop"), [(None, None), (50, 25), (51, 25)], ids=["transform", "own", "odd number of zeros"]
)
@pytest.mark.parametrize("loss", OF_STRETCHES)
def test_losses_of_stretches(loss: str, window: int | None, hop: int | None, rng: np.random.Generator) -> None:
    waves = as_waves(rng, 2, 3, 2)
    estimates = waves + as_waves(rng, 2, 3, 2) * torch.tensor([0.5, 1, 2])[:, None, None]
    estimates[:, :, 1] *= 1e-4  # nearly silent: what is added to energies counts
    waves[:, :, 1] *= 1e-4
    got = measure_waves(loss, estimates, waves, recipe=Recipe(loss=loss, loss_window=window, loss_hop=hop))
    expected = np.zeros(3)
    for i, j, c in np.ndindex(2, 3, 2):
        cut = [cut_by_hand(each[i, j, c].numpy(), window or 64, hop or 32) for each in (estimates, waves)]
        found = [stretch_by_hand(loss, *pair) for pair in zip(*cut, strict=True)]
        expected[j] += (np.sum(found) if loss in ("distortion", "sdr-like") else np.mean(found)) / 4
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


# All


@pytest.mark.parametrize("loss", LOSSES)
def test_better_estimates_have_lower_losses(loss: str, rng: np.random.Generator) -> None:
    waves, noise = as_waves(rng, 2, 3, 2), as_waves(rng, 2, 3, 2)
    found = []
    for amount in (0.1, 0.5, 2):
        estimates, targets = stft(waves + amount * noise, CENTRED), stft(waves, CENTRED)
        if loss == "weighted-l1":
            estimates, targets = estimates.abs(), targets.abs()
        found.append(measure_losses(RECIPE, loss, estimates, targets, waves=waves, transform=CENTRED))
    assert (found[0] < found[1]).all()
    assert (found[1] < found[2]).all()


@pytest.mark.parametrize("silent", ["both", "estimate", "target"])
@pytest.mark.parametrize(
    ("loss", "kind"),
    [*((loss, "magnitude") for loss in LOSSES), *((loss, "complex") for loss in LOSSES if loss != "weighted-l1")],
)
def test_silence_has_a_loss_and_a_gradient(loss: str, kind: str, silent: str, rng: np.random.Generator) -> None:
    noise = as_waves(rng, 2, 3, 2).float()
    waves = noise * (silent == "estimate")
    spectra = stft(noise * (silent == "target"), CENTRED)
    targets = stft(waves, CENTRED)
    if kind == "magnitude":
        spectra, targets = spectra.abs(), targets.abs()
    spectra.requires_grad_()
    mixture = stft(waves.sum(1), CENTRED)
    got = measure_losses(RECIPE, loss, spectra, targets, spectrum=mixture, waves=waves, transform=CENTRED)
    assert torch.isfinite(got).all()
    got.sum().backward()
    assert spectra.grad is not None
    assert torch.isfinite(torch.view_as_real(spectra.grad) if kind == "complex" else spectra.grad).all()


def test_opposite_estimates_have_a_loss(rng: np.random.Generator) -> None:
    """The cosine of an angle of 180 degrees is rounded to less than -1 at times."""
    waves = as_waves(rng, 8, 8, 2).float()
    assert torch.isfinite(measure_waves("nlcs", -waves, waves)).all()


@pytest.mark.parametrize("loss", OF_WAVES)
def test_each_target_has_its_own_loss(loss: str, rng: np.random.Generator) -> None:
    estimates, waves = as_waves(rng, 2, 3, 2), as_waves(rng, 2, 3, 2)
    together = measure_waves(loss, estimates, waves)
    apart = [measure_waves(loss, estimates[:, i : i + 1], waves[:, i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(together.numpy(), torch.cat(apart).numpy(), rtol=1e-9)


def test_which_losses_need_waves() -> None:
    assert [loss for loss in LOSSES if not needs_waves(loss)] == list(OF_SPECTROGRAMS)


# Names and refusals


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spec_l1", "l1"),
        ("spec_l2", "mse"),
        ("spec_mse", "mse"),
        ("raw_l1", "raw-l1"),
        ("raw_l2", "raw-mse"),
        ("raw_mse", "raw-mse"),
        ("raw_and_spec", "raw-and-spec"),
        ("sdr_like", "sdr-like"),
        *((loss, loss) for loss in LOSSES),
    ],
)
def test_other_names(name: str, expected: str) -> None:
    assert normalise(name) == expected
    assert Recipe(loss=name, valid_loss=name) == Recipe(loss=expected, valid_loss=expected)


def test_other_names_of_parts() -> None:
    assert Recipe(raw_part="l2", spec_part="l2") == Recipe(raw_part="mse", spec_part="mse")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sdr", "which grows with what is right, so that training would make estimates worse: use nsdr"),
        ("nsdr_44100", "expected nsdr with loss_window 44100 and loss_hop 22050"),
        ("ncs_44100", "expected ncs with loss_window 44100 and loss_hop 22050"),
        ("kl_lr", "which the original names but does not define: use another"),
        ("l2", "expected one of l1, weighted-l1, mse, raw-l1, "),
    ],
)
@pytest.mark.parametrize("field", ["loss", "valid_loss"])
def test_names_that_are_refused(field: str, name: str, reason: str) -> None:
    with pytest.raises(ParameterError) as caught:
        dataclasses.replace(RECIPE, **{field: name})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{field} is {name}, {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["waves", "transform", "spectrum"])
@pytest.mark.parametrize("loss", OF_WAVES)
def test_losses_of_waves_need_waves(loss: str, missing: str, rng: np.random.Generator) -> None:
    waves = as_waves(rng, 1, 1, 2)
    targets = stft(waves, CENTRED)
    given: dict[str, Any] = {"spectrum": targets[:, 0], "waves": waves, "transform": CENTRED} | {missing: None}
    with pytest.raises(ParameterError, match=f"^loss is {loss}, which needs waves, expected one of spectrograms: "):
        measure_losses(RECIPE, loss, targets.abs(), targets.abs(), **given)


def test_weighted_l1_needs_magnitudes() -> None:
    spectra = torch.zeros(1, 1, 2, 5, 6, dtype=torch.complex64)
    with pytest.raises(ParameterError, match=r"^loss is weighted-l1, which needs magnitudes, expected l1 or mse"):
        measure_losses(RECIPE, "weighted-l1", spectra, spectra)
