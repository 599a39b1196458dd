"""U-Nets with blocks: sizes, the original's values, every combination of settings, channels, what frames depend on."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines.block_unet import (
    BLOCKS,
    SPEC_EST_MODES,
    SPEC_TYPES,
    BlockUnet,
    BlockUnetSet,
    BlockUnetSettings,
    find_receptive_field,
)
from baselines.blocks import ACTIVATIONS
from musdbkit.errors import ParameterError
from musdbkit.stft import StftParams

SMALL = BlockUnetSettings(
    targets=("vocals", "bass"),
    n_fft=32,
    hop_length=16,
    nb_frames=8,
    trim=16,
    n_blocks=5,
    internal_channels=3,
    n_internal_layers=2,
    bn_factor=2,
    min_bn_units=2,
    bn_factor_rnn=2,
    min_bn_units_rnn=2,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def change(**options: Any) -> BlockUnetSettings:
    """Return the small settings, changed."""
    return dataclasses.replace(SMALL, **options)


def fill(network: nn.Module) -> None:
    """Give the network the acceptance test's values."""
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        waves = torch.sin(0.37 * torch.arange(1, tensor.numel() + 1, dtype=torch.float64)).reshape(tensor.shape)
        if tensor.ndim > 1:
            values = 1.5 / math.sqrt(tensor.numel() / len(tensor)) * waves
        elif name.endswith(".weight"):  # of batch normalisation: no other has one axis
            values = 1 + 0.2 * waves
        elif name.endswith("running_var"):
            values = 1 + 0.5 * waves
        else:
            values = 0.1 * waves
        tensor.copy_(values)


def count(settings: BlockUnetSettings) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in BlockUnet(settings).parameters())


# Sizes


COUNTS = {  # TDF, TDC, TFC, TFC-TDF without and with biases, TDC-RNN, by n_fft and blocks
    (1024, 7): (103_492, 217_684, 639_316, 731_476, 734_148, 574_788),
    (1024, 9): (110_188, 281_332, 826_228, 921_460, 924_452, 655_876),
    (1024, 17): (127_564, 535_924, 1_573_876, 1_671_988, 1_675_966, 947_300),
    (2048, 7): (359_492, 217_684, 639_316, 987_476, 992_100, 1_532_228),
    (2048, 9): (369_260, 281_332, 826_228, 1_180_532, 1_185_572, 1_624_068),
    (2048, 17): (389_516, 535_924, 1_573_876, 1_933_940, 1_940_056, 1_925_572),
    (4096, 7): (1_395_780, 217_684, 639_316, 2_023_764, 2_032_324, 5_417_284),
    (4096, 9): (1_411_692, 281_332, 826_228, 2_222_964, 2_232_132, 5_530_628),
    (4096, 17): (1_437_708, 535_924, 1_573_876, 2_982_132, 2_992_556, 5_852_292),
}
KINDS = (("tdf", False), ("tdc", False), ("tfc", False), ("tfc-tdf", False), ("tfc-tdf", True), ("tdc-rnn", False))


@pytest.mark.parametrize(("n_fft", "n_blocks"), COUNTS)
def test_parameters_are_as_many_as_the_originals(n_fft: int, n_blocks: int) -> None:
    for (block, bias), expected in zip(KINDS, COUNTS[n_fft, n_blocks], strict=True):
        settings = BlockUnetSettings(
            block=block, bias=bias, n_fft=n_fft, hop_length=512, n_blocks=n_blocks, nb_frames=256
        )
        assert count(settings) == expected
        if n_blocks == 7:
            assert count(dataclasses.replace(settings, spec_type="magnitude")) == expected - 194


def test_parameters_are_as_many_as_the_older_generations() -> None:
    settings = BlockUnetSettings(n_blocks=17, bias=True, affine=True, t_down_layers=(0, 2, 4, 6), nb_frames=64)
    assert count(settings) == 1_930_840
    assert count(dataclasses.replace(settings, block="tdc", t_down_layers=None)) == 535_924
    assert count(dataclasses.replace(settings, bias=False)) > count(
        dataclasses.replace(settings, bias=False, affine=None)
    )


@pytest.mark.parametrize(
    ("block", "encoder", "decoder", "sampling"),
    [
        ("tdf", ["tif.{0,3}.weight"], ["0.tif.{0,3}.weight", "1.{weight,bias}"], "conv"),
        ("tdc", ["H.{0,1}.{0,1}.{weight,bias}"], ["H.{0,1}.{0,1}.{weight,bias}"], "conv"),
        ("tfc", ["H.{0,1}.{0,1}.{weight,bias}"], ["H.{0,1}.{0,1}.{weight,bias}"], "0"),
        ("tfc-tdf", ["tfc.H.{0,1}.{0,1}.{weight,bias}", "tif.tif.{0,3}.weight"], None, "0"),
        (
            "tdc-rnn",
            [
                "tic.H.{0,1}.{0,1}.{weight,bias}",
                "bn.{weight,bias}",
                "rnn.weight_{ih,hh}_l0{,_reverse}",
                "tif_f1_to_f2.tif.{0,3}.weight",
                "tif_f1_to_f2.tif.{1,4}.{weight,bias}",
            ],
            None,
            "0",
        ),
    ],
)
def test_parameters_have_the_originals_names(
    block: str, encoder: list[str], decoder: list[str] | None, sampling: str
) -> None:
    norm = "bn" if sampling == "conv" else "1"
    patterns = ["first_conv.{0,1}.{weight,bias}", "last_conv.0.{weight,bias}"]
    patterns += [f"{where}.{each}" for where in ("encoders.{0,1}", "mid_block") for each in encoder]
    patterns += [f"decoders.{{0,1}}.{each}" for each in decoder or encoder]
    patterns += ["{downsamplings,upsamplings}.{0,1}.{%s,%s}.{weight,bias}" % (sampling, norm)]  # noqa: UP031 - braces
    expected = sorted(name for pattern in patterns for name in expand(pattern))
    network = BlockUnet(change(block=block))
    assert sorted(name for name, _ in network.named_parameters()) == expected
    shape = network.get_parameter(f"downsamplings.0.{sampling}.weight").shape
    assert shape == ((3, 3, 2) if sampling == "conv" else (3, 3, 2, 2))


def expand(pattern: str) -> list[str]:
    """Return what a shell makes of braces."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [before]
    choices, _, after = rest.partition("}")
    return [before + choice + tail for choice in choices.split(",") for tail in expand(after)]


def test_transforms_and_segments_are_the_originals() -> None:
    newer = BlockUnetSettings()
    assert newer.training_stft == newer.separation_stft == StftParams(2048, 1024, alignment="center", padding="reflect")
    assert (newer.nb_bins, newer.input_samples, newer.trim_samples) == (1025, 130_048, 5120)
    assert newer.input_samples - 2 * newer.trim_samples == 119_808
    assert newer.training_stft.nb_frames(newer.input_samples) == 128
    older = BlockUnetSettings(nb_frames=64, centred=False, trim=5000)
    assert older.training_stft == older.separation_stft == StftParams(2048, 1024, alignment="start", padding="none")
    assert (older.input_samples, older.input_samples - 2 * older.trim_samples) == (66_560, 56_560)
    assert older.training_stft.nb_frames(older.input_samples) == 64
    assert BlockUnetSettings(hop_length=768).trim_samples == 7 * 768


# Values


@pytest.mark.parametrize(
    ("block", "bias", "nb_parameters", "values"),
    [
        ("tdf", False, 41_028, (0.3058073, 0.6165796, -0.4857620, 0.1497782, 0.2848185)),
        ("tdc", False, 217_684, (0.1334211, 0.1334211, 0.03838803, 0.1591448, 0.05646501)),
        ("tfc", False, 639_316, (0.1245855, 0.1279456, 0.04211968, 0.1556264, 0.04131388)),
        ("tfc-tdf", False, 669_012, (0.2148158, 0.2414079, 0.05658031, 0.1830970, 0.009881295)),
        ("tfc-tdf", True, 670_724, (0.1687239, 0.1830979, 0.05529638, 0.2148669, 0.02167771)),
        ("tdc-rnn", False, 343_876, (0.09611180, 0.1739672, 0.03808080, 0.1709052, 0.04817255)),
    ],
)
@torch.no_grad()
def test_values_are_the_originals(block: str, bias: bool, nb_parameters: int, values: tuple[float, ...]) -> None:
    network = BlockUnet(BlockUnetSettings(block=block, bias=bias, n_fft=512, hop_length=256, nb_frames=16, trim=0))
    assert sum(p.numel() for p in network.parameters()) == nb_parameters
    fill(network.eval())
    x = torch.sin(0.05 * torch.arange(1, 4 * 16 * 257 + 1, dtype=torch.float64)).float().reshape(1, 4, 16, 257)
    y = network(x)
    assert y.shape == x.shape
    found = (y.mean(), y.abs().mean(), y.flatten()[0], y.flatten()[8224], y.flatten()[-1])
    assert [float(each) for each in found] == pytest.approx(values, rel=1e-4)


@torch.no_grad()
def test_values_are_the_older_generations() -> None:
    """Frequency first, complex parts of a channel side by side: as a converter must permute the weights."""
    network = BlockUnet(BlockUnetSettings(block="tdc", n_blocks=17, centred=False, nb_frames=64, trim=5000))
    fill(network.eval())
    first, last = network.first_conv[0], network.last_conv[0]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    order = [0, 2, 1, 3]
    first.weight.copy_(first.weight[:, order])
    last.weight.copy_(last.weight[order])
    assert last.bias is not None
    last.bias.copy_(last.bias[order])
    x = torch.sin(0.05 * torch.arange(1, 4 * 1025 * 4 + 1, dtype=torch.float64)).float().reshape(1, 4, 1025, 4)
    y = network(x[:, order].mT)[:, order].mT
    found = (y.mean(), y.abs().mean(), y.flatten()[0], y.flatten()[8200], y.flatten()[-1])
    assert [float(each) for each in found] == pytest.approx(
        (0.1355113, 0.1355113, 0.03732681, 0.1555931, 0.05995794), rel=1e-4
    )


# Combinations


def run(settings: BlockUnetSettings) -> None:
    """Refuse a network that does not give a spectrogram of its input's shape, and gradients for all parameters."""
    network = BlockUnetSet(dataclasses.replace(settings, targets=("vocals",)))
    mixture = torch.rand(2, settings.nb_channels, settings.nb_bins, settings.nb_frames)
    if settings.spec_type == "complex":
        mixture = torch.complex(mixture, torch.rand_like(mixture))
    estimates = network(mixture)
    assert estimates.shape == (2, 1, *mixture.shape[1:])
    assert estimates.dtype == mixture.dtype
    torch.view_as_real(estimates).sum().backward() if estimates.is_complex() else estimates.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("block", BLOCKS)
def test_every_framework_runs_with_every_activation(block: str) -> None:
    for spec_type, mode, activation in itertools.product(SPEC_TYPES, SPEC_EST_MODES, ACTIVATIONS):
        run(
            change(
                block=block,
                spec_type=spec_type,
                spec_est_mode=mode,
                n_blocks=3,
                n_internal_layers=1,
                activation=activation,
                first_conv_activation=activation,
                last_activation=activation,
            )
        )


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "options",
    [
        {"internal_channels": 5},
        {"internal_channels": 1, "n_internal_layers": 1},
        {"n_blocks": 1},
        {"t_down_layers": (1,)},
        {"t_down_layers": (), "nb_frames": 7},
        {"t_down_layers": (0,), "f_down_layers": (1,)},
        {"f_down_layers": (), "n_fft": 34, "hop_length": 17},
        {"t_down_layers": (1, 0), "f_down_layers": ()},
        {"kernel_size_t": 5, "kernel_size_f": 1},
        {"kernel_size_t": 2, "kernel_size_f": 4},
        {"kernel_size_t": 3, "kernel_size_f": 2},
        {"bn_factor": None},
        {"bn_factor": None, "bias": True, "affine": False},
        {"bias": True, "bias_rnn": True, "num_layers_rnn": 2},
        {"affine": True, "min_bn_units": 40, "min_bn_units_rnn": 40},
        {"nb_channels": 1},
        {"nb_channels": 3, "spec_type": "magnitude"},
        {"layer_level_init_weight": True},
        {"layer_level_init_weight": True, "activation": "sigmoid", "bn_factor": None},
    ],
    ids=str,
)
def test_every_option_works_with_every_block(block: str, options: dict[str, Any]) -> None:
    run(change(block=block, **options))


@pytest.mark.parametrize("block", ["tdf", "tfc-tdf"])
@pytest.mark.parametrize("bn_factor", [None, 3])
def test_layers_along_frequency_can_begin_as_averages(block: str, bn_factor: int | None) -> None:
    for by_layer in (False, True):
        settings = change(block=block, bn_factor=bn_factor, tif_init_mode="dk", layer_level_init_weight=by_layer)
        run(settings)
        network = BlockUnet(settings)
        prefix = "encoders.0." + ("tif." if block == "tfc-tdf" else "")
        weight = network.get_parameter(f"{prefix}tif.0.weight")
        if bn_factor is None:
            assert torch.equal(weight, torch.eye(16))
        else:
            back = network.get_parameter(f"{prefix}tif.3.weight")
            assert (weight.shape, back.shape) == ((5, 16), (16, 5))
            assert torch.equal(weight > 0, back.T > 0)


def test_sampling_halves_the_axes_of_its_levels() -> None:
    for block, name in (("tdc", "conv"), ("tfc", "0")):
        network = BlockUnet(change(block=block, n_blocks=9, t_down_layers=(0, 1), f_down_layers=(1, 3)))
        scales = [(2, 1), (2, 2), (1, 1), (1, 2)]
        assert list(network.settings.scales) == scales
        for level, scale in enumerate(scales):
            shape = (3, 3, scale[1]) if block == "tdc" and scale[0] == 1 else (3, 3, *scale)
            for where in (f"downsamplings.{level}", f"upsamplings.{3 - level}"):
                assert network.get_parameter(f"{where}.{name}.weight").shape == shape


# Initialisation


@pytest.mark.parametrize("block", BLOCKS)
def test_weights_are_drawn_by_the_last_activation(block: str) -> None:
    for last, rectifier in (("relu", True), ("leaky-relu", True), ("identity", False), ("sigmoid", False)):
        network = BlockUnet(change(block=block, internal_channels=24, last_activation=last, activation="tanh"))
        check_deviations(network, dict.fromkeys(names_of(network), rectifier))


@pytest.mark.parametrize("block", BLOCKS)
def test_weights_are_drawn_by_what_follows_each_layer(block: str) -> None:
    network = BlockUnet(
        change(block=block, internal_channels=24, layer_level_init_weight=True, first_conv_activation="tanh")
    )
    linear = ("first_conv.", "last_conv.", "downsamplings.", "upsamplings.", "decoders.0.1.", "decoders.1.1.")
    check_deviations(network, {name: not (name.startswith(linear) or ".rnn." in name) for name in names_of(network)})


def names_of(network: nn.Module) -> list[str]:
    """Return the names of parameters with two axes or more."""
    return [name for name, p in network.named_parameters() if p.ndim > 1]


def check_deviations(network: nn.Module, rectified: dict[str, bool]) -> None:
    """Refuse weights whose root mean square, over those of all layers, each over what is expected, is not one."""
    for rectifier in (False, True):
        scaled = []
        for name, chosen in rectified.items():
            weight = network.get_parameter(name).detach()
            nb_outputs, nb_inputs = weight.shape[:2]
            field = weight[0, 0].numel()
            variance = 2 / (nb_inputs * field) if chosen else 2 / ((nb_inputs + nb_outputs) * field)
            if chosen == rectifier:
                assert abs(weight.square().mean() / variance - 1) < 5 * math.sqrt(2 / weight.numel())
                scaled.append(weight.flatten() / math.sqrt(variance))
        if scaled:
            assert float(torch.cat(scaled).square().mean()) == pytest.approx(1, abs=0.05)


# Sets


class _Spy(nn.Module):
    """A network that gives what it gets, times numbers for channels, and keeps it."""

    def __init__(self, gains: list[float]) -> None:
        super().__init__()
        self.gains = torch.tensor(gains).reshape(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x * self.gains


def test_complex_parts_are_channels() -> None:
    network = BlockUnetSet(SMALL)
    spies = {"vocals": _Spy([1, 2, 3, 4]), "bass": _Spy([1, 1, 1, 1])}
    network.networks = nn.ModuleDict(spies)
    mixture = torch.randn(3, 2, 17, 8, dtype=torch.complex64)
    before = mixture.clone()
    estimates = network(mixture)
    left, right = mixture.unbind(1)
    assert torch.equal(spies["vocals"].seen, torch.stack([left.real, right.real, left.imag, right.imag], 1).mT)
    assert torch.equal(estimates[:, 1], mixture)
    assert torch.equal(estimates[:, 0, 0], torch.complex(left.real, 3 * left.imag))
    assert torch.equal(estimates[:, 0, 1], torch.complex(2 * right.real, 4 * right.imag))
    assert torch.equal(mixture, before)
    assert estimates.stride()[-2:] == (1, 17)


def test_masks_are_multiplied_channel_by_channel() -> None:
    network = BlockUnetSet(change(spec_est_mode="masking", targets=("vocals",)))
    network.networks = nn.ModuleDict({"vocals": _Spy([1, 1, 1, 1])})
    mixture = torch.randn(3, 2, 17, 8, dtype=torch.complex64)
    expected = torch.complex(mixture.real.square(), mixture.imag.square())
    torch.testing.assert_close(network(mixture)[:, 0], expected)
    network = BlockUnetSet(change(spec_est_mode="masking", targets=("vocals",), spec_type="magnitude"))
    network.networks = nn.ModuleDict({"vocals": _Spy([1, 1])})
    torch.testing.assert_close(network(mixture.abs())[:, 0], mixture.abs().square())


@torch.no_grad()
def test_the_set_gives_all_targets_in_order() -> None:
    network = BlockUnetSet(change(spec_type="magnitude", spec_est_mode="masking", last_activation="sigmoid")).eval()
    mixture = torch.rand(3, 2, 17, 8)
    estimates = network(mixture)
    assert list(network.networks) == ["vocals", "bass"]
    for j, target in enumerate(network.networks.values()):
        torch.testing.assert_close(estimates[:, j], mixture * target(mixture.mT).mT)
    assert not torch.equal(estimates[:, 0], estimates[:, 1])
    assert ((estimates >= 0) & (estimates <= mixture[:, None])).all()


@pytest.mark.parametrize("block", ["tdc", "tfc-tdf"])
@torch.no_grad()
def test_networks_can_be_exported(block: str) -> None:
    """As one graph, of real tensors; but for recurrent layers, which torch does not compile."""
    network = BlockUnet(change(block=block, n_blocks=3, n_internal_layers=1, kernel_size_f=2)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (torch.rand(2, 4, 8, 17),), dynamic_shapes=({0: batch},)).module()
    for batch_size in (1, 5):
        x = torch.rand(batch_size, 4, 8, 17)
        torch.testing.assert_close(exported(x), network(x))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("spec_type", SPEC_TYPES)
def test_it_works_in_bfloat16(block: str, spec_type: str) -> None:
    """Autocast on a CPU, forwards and back; estimates are float32, or complex of two such."""
    network = BlockUnetSet(change(block=block, spec_type=spec_type, spec_est_mode="masking", n_blocks=3))
    mixture = torch.rand(2, 2, 17, 8, dtype=torch.complex64 if spec_type == "complex" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        estimates = network(mixture)
    assert estimates.dtype == mixture.dtype
    estimates.abs().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    network.eval()
    with torch.no_grad():
        expected = network(mixture)
        with torch.autocast("cpu", torch.bfloat16):
            estimates = network(mixture)
    assert not torch.equal(estimates, expected)
    assert float((estimates - expected).abs().mean()) < 0.05 * float(expected.abs().mean())


@pytest.mark.parametrize("block", BLOCKS)
def test_all_parameters_are_trained_and_gradients_are_right(block: str) -> None:
    settings = change(block=block, n_fft=8, hop_length=4, nb_frames=4, trim=0, n_blocks=3, activation="tanh", bias=True)
    network = BlockUnet(dataclasses.replace(settings, first_conv_activation="gelu", affine=True)).double().eval()
    fill(network)
    x = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def forward(*values: Tensor) -> Any:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, parameters, fast_mode=True)
    network.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in parameters)
    assert all(p.grad.any() for name, p in zip(names, parameters, strict=True) if not name.endswith("bias"))


# Frames


@pytest.mark.parametrize("block", ["tdc", "tdf"])
@torch.no_grad()
def test_frames_are_computed_on_their_own(block: str) -> None:
    network = BlockUnet(change(block=block)).eval()
    x = torch.randn(2, 4, 8, 17)
    y = network(x)
    for t in range(8):
        torch.testing.assert_close(network(x[:, :, t : t + 1]), y[:, :, t : t + 1])
    order = torch.randperm(8)
    torch.testing.assert_close(network(x[:, :, order]), y[:, :, order])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"block": "tdc"}, 1),
        ({"block": "tdf", "n_blocks": 1}, 1),
        ({"block": "tdc", "t_down_layers": (1,)}, 2),
        ({"block": "tdf", "t_down_layers": (0, 1)}, 4),
        ({"block": "tfc", "n_blocks": 1}, 5),
        ({"block": "tfc", "n_blocks": 1, "kernel_size_t": 4}, 7),
        ({"block": "tfc", "n_blocks": 1, "kernel_size_t": 1}, 1),
        ({"block": "tfc", "kernel_size_t": 1}, 4),
        ({"block": "tfc", "t_down_layers": ()}, 21),
        ({"block": "tfc-tdf", "n_blocks": 3, "n_internal_layers": 1}, 10),
        ({"block": "tfc-tdf", "kernel_size_t": 2, "n_internal_layers": 3}, 37),
        ({"block": "tfc", "t_down_layers": (1,), "n_internal_layers": 1}, 14),
    ],
    ids=str,
)
def test_receptive_field_is_that_of_gradients(options: dict[str, Any], expected: int) -> None:
    """Without rectifiers hardly any gradient is zero but those of frames that are not seen."""
    nb_frames = 128
    settings = change(
        nb_frames=nb_frames, internal_channels=2, activation="identity", first_conv_activation="identity", **options
    )
    network = BlockUnet(settings).double().eval()
    x = torch.randn(1, 4, nb_frames, 17, dtype=torch.float64, requires_grad=True)
    y = network(x)
    widths = []
    for t in range(nb_frames // 2, nb_frames // 2 + 4):
        (gradient,) = torch.autograd.grad(y[:, :, t].sum(), x, retain_graph=True)
        seen = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        widths.append(int(seen[-1] - seen[0]) + 1)
    assert max(widths) < nb_frames // 2
    assert find_receptive_field(settings) == max(widths) == expected


def test_receptive_fields_of_the_originals_nets() -> None:
    """Five layers of three frames reach five frames to either side, 40 at the deepest level of three."""
    assert find_receptive_field(BlockUnetSettings()) == 230
    assert find_receptive_field(BlockUnetSettings(n_blocks=1)) == 11
    assert find_receptive_field(BlockUnetSettings(block="tdc", n_blocks=17)) == 1
    assert find_receptive_field(BlockUnetSettings(block="tdc-rnn")) is None


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("bass", "bass")}, "targets are "),
        ({"nb_channels": 0}, "nb_channels is 0, expected a whole number, 1 or more"),
        ({"sample_rate": 44100.0}, "sample_rate is 44100.0, expected a whole number"),
        ({"nb_frames": 0}, "nb_frames is 0, expected a whole number"),
        ({"n_internal_layers": 0}, "n_internal_layers is 0, expected a whole number"),
        ({"internal_channels": True}, "internal_channels is True, expected a whole number"),
        ({"kernel_size_t": 0}, "kernel_size_t is 0, expected a whole number"),
        ({"bn_factor": 0}, "bn_factor is 0, expected a whole number"),
        ({"num_layers_rnn": 0}, "num_layers_rnn is 0, expected a whole number"),
        ({"n_blocks": 6}, "n_blocks is 6, expected an odd number"),
        ({"block": "tic"}, "block is tic, expected one of tdf, tdc, tfc, tfc-tdf, tdc-rnn"),
        ({"spec_type": "mag"}, "spec_type is mag, expected one of complex, magnitude"),
        ({"spec_est_mode": "mask"}, "spec_est_mode is mask, expected one of mapping, masking"),
        ({"activation": "leaky_relu"}, "activation is leaky_relu, expected one of relu, leaky-relu"),
        ({"last_activation": "none"}, "last_activation is none, expected one of"),
        ({"tif_init_mode": "averages"}, "tif_init_mode is averages, expected one of None, dk"),
        ({"tif_init_mode": "dk", "block": "tdc-rnn"}, "tif_init_mode is dk with block tdc-rnn, expected none"),
        ({"t_down_layers": (0, 2)}, r"t_down_layers is \(0, 2\), expected levels from 0 to less than 2, each once"),
        ({"t_down_layers": (0, 0)}, "t_down_layers is "),
        ({"f_down_layers": (-1,)}, "f_down_layers is "),
        ({"f_down_layers": [0]}, "f_down_layers is "),
        ({"n_fft": 33}, "n_fft is 33, expected an even number"),
        ({"n_fft": 36}, "n_fft // 2 is 18, expected a multiple of 4, as it is halved 2 times"),
        ({"n_fft": 34, "f_down_layers": (1,)}, "n_fft // 2 is 17, expected a multiple of 2, as it is halved 1 times"),
        ({"nb_frames": 10}, "nb_frames is 10, expected a multiple of 4, as it is halved 2 times"),
        ({"hop_length": 17}, "hop_length is 17, expected half of n_fft at most, which is 16"),
        ({"hop_length": 0}, "hop_length is 0, expected 1 to n_fft"),
        ({"trim": -1}, "trim is -1, expected a whole number of samples, 0 or more"),
        ({"trim": 1.5}, "trim is 1.5, expected a whole number of samples"),
        ({"trim": 56}, "trim is 56, expected less than half of a segment of 8 frames, which is 112 samples"),
        ({"trim": None}, "trim is 5008, expected less than half of a segment"),
        ({"trim": 15, "centred": False}, "trim is 15, expected 16 or more: frames that begin with the signal"),
        ({"block": "tdc", "nb_frames": 2, "trim": 0}, "nb_frames is 2: segments of 16 samples, expected more than 16"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        change(**options)


def test_the_defaults_are_the_originals_recommended_net() -> None:
    settings = BlockUnetSettings()
    assert count(settings) == 987_476
    assert settings.nb_input_channels == 4
    assert (settings.spec_type, settings.spec_est_mode) == ("complex", "mapping")


def test_the_last_activation_follows_the_framework() -> None:
    for spec_type, spec_est_mode, expected in (
        ("complex", "mapping", "identity"),
        ("complex", "masking", "tanh"),
        ("magnitude", "mapping", "relu"),
        ("magnitude", "masking", "sigmoid"),
    ):
        settings = change(spec_type=spec_type, spec_est_mode=spec_est_mode, last_activation=None)
        assert settings.output_activation == expected
        assert isinstance(BlockUnet(settings).last_conv[1], type(ACTIVATIONS[expected]()))
    assert change(last_activation="elu").output_activation == "elu"


def test_the_originals_names_of_blocks() -> None:
    for name, block in (("tfc_tdf_net", "tfc-tdf"), ("tdc_rnn", "tdc-rnn"), ("tdf", "tdf")):
        assert change(block=name).block == block
