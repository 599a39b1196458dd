"""Spleeter's U-Nets: numbers of Spleeter's own graph, and what the settings say."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.spleeter_unet import SpleeterUnet, Unet, UnetSettings
from musdbkit.errors import ParameterError
from musdbkit.stft import PRESETS

TWO = ("vocals", "accompaniment")
FOUR = ("vocals", "drums", "bass", "other")
FIVE = ("vocals", "piano", "drums", "bass", "other")

SMALL = UnetSettings(targets=TWO, nb_bins=64, nb_frames=64, filters=(2, 3, 4, 5, 6, 7))


def on_meta(settings: UnetSettings) -> SpleeterUnet:
    """Return a network without memory."""
    with torch.device("meta"):
        return SpleeterUnet(settings)


def fill_by_rule(name: str, shape: tuple[int, ...], i: int) -> Tensor:
    """Return a tensor of the network of target `i` by the rule that Spleeter's graph was filled by.

    The rule counts values as they lie in TensorFlow, where a kernel's axes are in the opposite order.
    """
    s = np.sin(0.37 * np.arange(1, math.prod(shape) + 1) + 0.1 * i)
    if len(shape) == 4:
        a, b, c, d = shape[::-1]
        kernel = 0.75 / math.sqrt(a * b * min(c, d)) * s
        return torch.from_numpy(np.ascontiguousarray(kernel.reshape(a, b, c, d).T, np.float32))
    rules = {"running_var": 1 + 0.5 * s, "running_mean": 0.1 * s, "bias": 0.1 * s, "weight": 1 + 0.2 * s}
    return torch.from_numpy(rules[name.rpartition(".")[2]].astype(np.float32))


def filled(settings: UnetSettings, which: tuple[str, ...]) -> SpleeterUnet:
    """Return the networks of some targets, filled as those of all."""
    network = on_meta(dataclasses.replace(settings, targets=which))
    state = {}
    for key, tensor in network.state_dict().items():
        target, _, name = key.removeprefix("networks.").partition(".")
        state[key] = fill_by_rule(name, tuple(tensor.shape), settings.targets.index(target))
    network.load_state_dict(state, assign=True)
    return network.eval()


def random_statistics(network: nn.Module) -> None:
    """Give all buffers values that differ from 0 and 1."""
    for buffer in network.buffers():
        buffer.uniform_(0.5, 1.5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def mixture() -> Tensor:
    return torch.rand(2, 2, 64, 64) * 10


@pytest.mark.parametrize(
    ("settings", "nb_trainable", "nb_all"),
    [
        (UnetSettings(targets=("vocals",)), 9_823_749, 9_826_759),
        (UnetSettings(targets=TWO, encoder_activation="leaky-relu"), 19_647_498, 19_653_518),
        (UnetSettings(nb_bins=1536), 39_294_996, 39_307_036),
        (UnetSettings(targets=FIVE, output="softmax"), 49_118_745, 49_133_795),
        (UnetSettings(targets=("vocals",), nb_channels=1), 9_823_349, 9_826_359),
    ],
)
def test_parameters_are_as_many_as_upstream(settings: UnetSettings, nb_trainable: int, nb_all: int) -> None:
    network = on_meta(settings)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == nb_trainable
    assert sum(t.numel() for t in network.state_dict().values()) == nb_all
    assert len(list(network.parameters())) == 50 * len(settings.targets)
    assert len(network.state_dict()) == 74 * len(settings.targets)


LEAKY = UnetSettings(targets=TWO, encoder_activation="leaky-relu", decoder_activation="relu")
SOFTMAX = UnetSettings(targets=FIVE, output="softmax")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [  # mean, and values number 0, 4096 and 8191 in TensorFlow's order
        (
            LEAKY,
            {
                "vocals": (3.261155, 0.2274249, 1.411957, 4.803976),
                "accompaniment": (3.199980, 0.2297276, 1.461156, 4.820311),
            },
        ),
        (
            UnetSettings(targets=FOUR),
            {
                "vocals": (3.237469, 0.2119954, 1.360380, 4.782423),
                "other": (3.095831, 0.2251392, 1.540011, 4.888357),
            },
        ),
        (
            SOFTMAX,
            {
                "vocals": (1.410780, 0.09296469, 1.076689, 1.802857),
                "piano": (1.322514, 0.09601632, 1.124440, 1.831304),
                "drums": (1.254754, 0.09951045, 1.187459, 1.859460),
                "bass": (1.204810, 0.1034533, 1.267690, 1.887095),
                "other": (1.170775, 0.1078469, 1.367507, 1.913915),
            },
        ),
    ],
    ids=["2stems", "4stems", "5stems"],
)
def test_values_are_spleeters(settings: UnetSettings, expected: dict[str, tuple[float, ...]]) -> None:
    network = filled(settings, tuple(expected))
    values = (10 * np.abs(np.sin(0.05 * np.arange(1, 64 * 64 * 2 + 1)))).reshape(1, 64, 64, 2)
    mixture = torch.from_numpy(values.astype(np.float32)).permute(0, 3, 2, 1)
    with torch.no_grad():
        estimates = network(mixture)
    assert estimates.shape == (1, len(expected), 2, 64, 64)
    for j, (target, vector) in enumerate(expected.items()):
        flat = estimates[0, j].permute(2, 1, 0).flatten().double()
        got = torch.tensor([flat.mean(), flat[0], flat[4096], flat[8191]])
        np.testing.assert_allclose(got, vector, rtol=1e-4, err_msg=target)


def test_the_last_normalisation_of_the_encoder_has_no_effect(mixture: Tensor) -> None:
    network = Unet(SMALL).eval()
    before = network(mixture)
    network.encoder[5].norm.weight.data.fill_(7.0)
    assert torch.equal(network(mixture), before)
    network.encoder[4].norm.weight.data.fill_(7.0)
    assert not torch.equal(network(mixture), before)
    network(mixture).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == ["encoder.5.norm.weight", "encoder.5.norm.bias"]


def test_frozen_statistics_stay_as_loaded_and_the_rest_is_trained(mixture: Tensor) -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, batch_norm="frozen", dropout=0.0))
    random_statistics(network)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    in_training = network.train()(mixture)
    in_training.sum().backward()
    assert torch.equal(in_training, network.eval()(mixture))
    assert all(torch.equal(buffers[name], buffer) for name, buffer in network.named_buffers())
    norm = network.networks["vocals"].decoder[0].norm
    assert norm.weight.grad.abs().sum() > 0
    assert norm.bias.grad.abs().sum() > 0


def test_batch_statistics_are_averaged_with_keras_constants(mixture: Tensor) -> None:
    network = Unet(dataclasses.replace(SMALL, dropout=0.0)).train()
    raw: list[Tensor] = []
    network.encoder[0].convolution.register_forward_hook(lambda *call: raw.append(call[2]))
    in_training = network(mixture)
    norm = network.encoder[0].norm
    torch.testing.assert_close(norm.running_mean, 0.01 * raw[0].mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 0.99 + 0.01 * raw[0].var((0, 2, 3)))
    assert not torch.allclose(in_training, network.eval()(mixture))
    x = torch.rand(3, 2, 4, 4)
    expected = x / math.sqrt(1.001)
    torch.testing.assert_close(type(norm)(2, frozen=True)(x), expected)


def test_dropout_is_in_the_first_three_stages_of_the_decoder_and_only_in_training() -> None:
    network = Unet(dataclasses.replace(SMALL, batch_norm="frozen", filters=(4, 4, 4, 4, 4, 8)))
    shares: dict[int, float] = {}

    def count(i: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            shares[i] = float((inputs[0][:, 4:] == 0).float().mean())  # the second half is the stage before

        return hook

    for i, stage in enumerate(network.decoder):
        stage.deconvolution.register_forward_hook(count(i))
    x = torch.rand(8, 2, 128, 128)
    network.train()(x)
    assert all(abs(shares[i] - 0.5) < 0.06 for i in (1, 2, 3)), shares
    assert [shares[i] for i in (4, 5)] == [0, 0]
    assert torch.equal(network.eval()(x), network(x))
    assert [shares[i] for i in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("shape", [(64, 16), (64, 32), (40, 65), (1, 1)])
def test_any_size_is_filled_up_with_zeros_at_the_end(shape: tuple[int, int]) -> None:
    network = SpleeterUnet(SMALL).eval()
    nb_bins, nb_frames = shape
    mixture = torch.rand(2, 2, nb_bins, nb_frames)
    whole = torch.zeros(2, 2, 64, 64 if nb_frames <= 64 else 128)
    whole[..., :nb_bins, :nb_frames] = mixture
    estimates = network(mixture)
    assert estimates.shape == (2, 2, 2, nb_bins, nb_frames)
    torch.testing.assert_close(estimates, network(whole)[..., :nb_bins, :nb_frames])


def test_bins_and_frames_are_not_mixed_up() -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, filters=(2, 3)))
    random_statistics(network)
    network.eval()
    x = torch.rand(1, 2, 8, 16)
    assert not torch.allclose(network(x.mT).mT, network(x))


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_masks_share_out_the_mixture(mixture: Tensor, output: str) -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, targets=FOUR, output=output)).eval()
    before = mixture.clone()
    estimates = network(mixture)
    assert torch.equal(mixture, before)
    assert (estimates >= 0).all()
    assert (estimates <= mixture[:, None]).all()
    assert torch.allclose(estimates.sum(1), mixture) == (output == "softmax")


def test_of_mono_the_estimate_is_the_mean_of_both_masks(mixture: Tensor) -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, nb_channels=1)).eval()
    mono = mixture[:, :1]
    estimates = network(mono)
    assert estimates.shape == (2, 2, 1, 64, 64)
    both = network.networks["accompaniment"](mono).sigmoid() * mono
    assert both.shape == mixture.shape
    torch.testing.assert_close(estimates[:, 1], both.mean(1, keepdim=True))


def test_export_with_any_batch_size(mixture: Tensor) -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, output="softmax", nb_frames=24)).eval()
    program = torch.export.export(network, (mixture[..., :24],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    many = torch.rand(5, 2, 64, 24)
    torch.testing.assert_close(program.module()(many), network(many))


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("batch_norm", ["batch", "frozen"])
def test_with_bfloat16_the_mixture_keeps_its_precision(mixture: Tensor, output: str, batch_norm: str) -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, output=output, batch_norm=batch_norm, dropout=0.0))
    full = network.train()(mixture)
    logits: list[Tensor] = []
    for unet in network.networks.values():
        unet.head.register_forward_hook(lambda *call: logits.append(call[2].detach().float()))
    with torch.autocast("cpu", torch.bfloat16):
        estimates = network(mixture)
        estimates.sum().backward()
    for i, unet in enumerate(network.networks.values()):
        unet.head.weight.data.zero_()
        unet.head.bias.data.fill_(-100 if i else 100)
    with torch.autocast("cpu", torch.bfloat16):
        saturated = network(mixture)
    assert estimates.dtype == torch.float32
    stacked = torch.stack(logits[:2], dim=1)
    masks = stacked.softmax(1) if output == "softmax" else stacked.sigmoid()
    assert torch.equal(estimates, masks * mixture[:, None])
    assert 0 < (estimates - full).abs().mean() < 0.05
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert torch.equal(saturated[:, 0], mixture)  # which bfloat16 would round


def test_weights_are_drawn_as_upstream() -> None:
    network = SpleeterUnet(dataclasses.replace(SMALL, filters=(16, 17, 18, 19, 20, 21)))
    unet = network.networks["vocals"]
    inputs = [2, 16, 17, 18, 19, 20]
    outputs = [20, 19, 18, 17, 16, 1]  # which Keras takes for a deconvolution's inputs
    layers = [stage.convolution for stage in unet.encoder] + [stage.deconvolution for stage in unet.decoder]
    for layer, nb_values in zip((*layers, unet.head), (*(25 * n for n in inputs + outputs), 16), strict=True):
        limit = math.sqrt(6 / nb_values)
        assert 0.85 * limit < layer.weight.abs().max() <= limit
        assert layer.weight.min() < 0 < layer.weight.max()
        assert not layer.bias.any()
    assert math.isclose(math.sqrt(6 / (25 * 256)), 0.0306, rel_tol=1e-3)
    for name, tensor in network.state_dict().items():
        if ".norm." in name:
            assert (tensor == (1 if name.endswith(("weight", "var")) else 0)).all(), name
    assert not torch.equal(unet.head.weight, network.networks["accompaniment"].head.weight)
    torch.manual_seed(0)
    again = SpleeterUnet(network.settings).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


def test_transforms_are_spleeters() -> None:
    assert UnetSettings().training_stft == PRESETS["spleeter"]
    assert UnetSettings().separation_stft == PRESETS["spleeter-inference"]
    small = UnetSettings(n_fft=512, hop_length=128, nb_bins=128)
    assert (small.training_stft.n_fft, small.training_stft.hop_length, small.training_stft.alignment) == (
        512,
        128,
        "start",
    )
    assert (small.separation_stft.n_fft, small.separation_stft.alignment) == (512, "end")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": ()}, "targets is .*, expected one name or more"),
        ({"targets": "vocals"}, "targets is 'vocals', expected one name"),
        ({"targets": ("a", "b", "a")}, "targets are a, b, a: a occurs twice"),
        ({"targets": ("a.b",)}, "target a.b: expected a name without"),
        ({"targets": ("a/b",)}, "target a/b: "),
        ({"targets": ("a\\b",)}, "target a\\\\b: "),
        ({"targets": ("a\0b",)}, r"target a\\x00b: "),
        ({"targets": ("",)}, "target without a name: "),
        ({"targets": ("pop",)}, "target pop: .*torch's own words"),
        ({"nb_channels": 3}, "nb_channels is 3, expected 1 or 2"),
        ({"nb_channels": 0}, "nb_channels is 0, expected a whole number above 0"),
        ({"nb_bins": 2050}, "nb_bins is 2050, expected at most n_fft / 2 . 1 = 2049"),
        ({"nb_frames": 0}, "nb_frames is 0"),
        ({"nb_frames": True}, "nb_frames is True"),
        ({"filters": ()}, "filters is .*whole numbers"),
        ({"filters": (16, 0)}, "filters is .16, 0., expected whole numbers above 0"),
        ({"encoder_activation": "ELU"}, "encoder_activation is ELU, expected leaky-relu or relu or elu"),
        ({"decoder_activation": "tanh"}, "decoder_activation is tanh"),
        ({"output": "mask"}, "output is mask, expected sigmoid or softmax"),
        ({"batch_norm": "none"}, "batch_norm is none, expected batch or frozen"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 to less than 1"),
        ({"mask_exponent": 0.0}, "mask_exponent is 0.0, expected a number above 0"),
        ({"mask_exponent": math.nan}, "mask_exponent is nan"),
        ({"mask_extension": "mean"}, "mask_extension is mean, expected zeros or average"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"n_fft": 4095}, "n_fft is 4095"),
        ({"hop_length": 0}, "hop_length is 0"),
    ],
)
def test_what_cannot_be_built_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        UnetSettings(**values)
