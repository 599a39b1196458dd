"""Weights of the original's U-Nets, of both generations, become runs that compute the same."""

import dataclasses
import json
import math
import re
import runpy
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from baselines.block_unet import BLOCKS, BlockUnet, BlockUnetSettings
from baselines.cli import app
from baselines.convert_weights import Imported, import_weights
from baselines.models import load_run
from baselines.separation import separate_wave
from musdbkit.errors import DatasetError, ParameterError

SCRIPT = Path(__file__).parent.parent / "examples" / "export_lightning_checkpoint.py"
FOUR = [0, 2, 1, 3]  # from [Re L, Im L, Re R, Im R] to [Re L, Re R, Im L, Im R], and back
SMALL = BlockUnetSettings(
    targets=("vocals",),
    n_fft=64,
    hop_length=16,
    nb_frames=16,
    trim=32,
    n_blocks=5,
    internal_channels=3,
    n_internal_layers=2,
)
FRAMES = {"n_fft": 64, "hop_length": 16, "nb_frames": 16, "trim": 32}  # what tensors do not tell

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_state(settings: BlockUnetSettings) -> State:
    """Return the state of a network that has seen a batch or two."""
    network = BlockUnet(settings)
    with torch.no_grad():
        for _ in range(2):
            nb_bins, nb_frames = settings.nb_bins, settings.nb_frames
            network(torch.randn(2, settings.nb_input_channels, nb_frames, nb_bins))
    return network.state_dict()


def run(tmp_path: Path, state: Any, name: str = "vocals.pt", **options: Any) -> Imported:
    """Write what is given to a file, and import it."""
    torch.save(state, tmp_path / name)
    return import_weights(tmp_path / name, "block-unet", tmp_path / "run", **({"force": True} | options))


# The older generation


def old_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of the file that was released, in their order."""

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (24,)
        yield f"{name}.num_batches_tracked", ()

    def block(name: str, nb_inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for j in range(5):
            yield f"{name}.H.{j}.0.weight", (24, nb_inputs + 24 * j, 3)
            yield f"{name}.H.{j}.0.bias", (24,)
            yield from norm(f"{name}.H.{j}.1")

    def sampling(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.conv.weight", (24, 24, 2)
        yield f"{name}.conv.bias", (24,)
        yield from norm(f"{name}.bn")

    yield "first_conv.0.weight", (24, 4, 2, 1)
    yield "first_conv.0.bias", (24,)
    yield from norm("first_conv.1")
    for i in range(8):
        yield from block(f"encoders.{i}", 24)
    for i in range(8):
        yield from sampling(f"downsampling.{i}")
    for i in range(8):
        yield from block(f"decoders.{i}", 48)
    for i in range(8):
        yield from sampling(f"upsampling.{i}")
    yield "final_conv.0.weight", (4, 24, 2, 1)
    yield "final_conv.0.bias", (4,)
    yield from block("mid_block", 24)


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor's values by the rule of the original's values."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(150006)
    s = torch.sin(0.37 * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).reshape(shape)
    if len(shape) > 1:
        s = 1.5 / math.sqrt(s.numel() / shape[0]) * s
    elif re.search(r"(1|bn)\.weight$", name):
        s = 1 + 0.2 * s
    else:
        s = 1 + 0.5 * s if name.endswith("running_var") else 0.1 * s
    return s.float()


def save_as_on_a_gpu(state: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file of torch's old format, whose tensors were on the third GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:2")
        torch.save(state, path, _use_new_zipfile_serialization=False)
    assert b"cuda:2" in path.read_bytes()


def test_the_released_file_s_layout_gives_the_original_s_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = OrderedDict((name, fill(name, shape)) for name, shape in old_shapes())
    assert len(state) == 716
    path = tmp_path / "cac_tdc_17_vocals_top1.pt"
    save_as_on_a_gpu(state, path, monkeypatch)
    arguments = ["import", str(path), "--model", "block-unet", "--targets", "vocals", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "block-unet: vocals; 535,924 parameters\nnote: older generation: " in result.stdout
    assert "note: assumed, as the weights do not tell: n_fft 2048, hop_length 1024, nb_frames 64, " in result.stdout

    loaded = load_run(tmp_path / "run")
    assert loaded.step == 150006
    expected = BlockUnetSettings(targets=("vocals",), nb_frames=64, centred=False, trim=5000, block="tdc", n_blocks=17)
    assert loaded.settings == expected
    values = torch.sin(0.05 * torch.arange(1, 4 * 1025 * 4 + 1, dtype=torch.float64)).float()
    mixture = values.reshape(1, 4, 1025, 4)
    with torch.no_grad():
        estimate = loaded.network.networks["vocals"](mixture[:, FOUR].mT)[:, FOUR].mT
    flat = estimate.flatten()
    got = torch.stack([flat.mean(), flat.abs().mean(), flat[0], flat[8200], flat[-1]])
    torch.testing.assert_close(
        got, torch.tensor([0.1355113, 0.1355113, 0.03732681, 0.1555931, 0.05995794]), rtol=1e-4, atol=0
    )


class OldDense(nn.Module):
    """Convolutions, each of all that is before it, of the older generation."""

    def __init__(self, nb_inputs: int, nb_channels: int, *, by_frame: bool) -> None:
        super().__init__()
        self.by_frame = by_frame
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if by_frame else (nn.Conv2d, nn.BatchNorm2d)
        self.H = nn.ModuleList(
            nn.Sequential(conv(n, nb_channels, 3, padding=1), norm(nb_channels), nn.ReLU())
            for n in (nb_inputs, nb_inputs + nb_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).flatten(0, 1) if self.by_frame else x
        first = self.H[0](frames)
        second: Tensor = self.H[1](torch.cat([first, frames], dim=1))
        return second.unflatten(0, (len(x), -1)).transpose(1, 2) if self.by_frame else second


class OldTdf(nn.Module):
    """Two fully connected layers of the older generation: normalisation always has parameters."""

    def __init__(self, nb_channels: int, nb_values: int, nb_bins: int, bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for sizes in ((nb_values, max(nb_bins // 2, 6)), (max(nb_bins // 2, 6), nb_bins)):
            layers += [nn.Linear(*sizes, bias=bias), nn.BatchNorm2d(nb_channels), nn.ReLU()]
        self.tif = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tif(x)
        return y


class OldSum(nn.Module):
    """TFC-TDF or TDC-RNN of the older generation."""

    def __init__(self, nb_inputs: int, nb_channels: int, nb_bins: int, *, recurrent: bool) -> None:
        super().__init__()
        self.recurrent = recurrent
        if recurrent:
            nb_units = max(nb_bins // 4, 3)
            self.tic = OldDense(nb_inputs, nb_channels, by_frame=True)
            self.bn = nn.BatchNorm2d(nb_channels)
            self.rnn = nn.GRU(nb_bins, nb_units, 2, batch_first=True, bidirectional=True)
            self.tif_f1_to_f2 = OldTdf(nb_channels, 2 * nb_units, nb_bins, bias=True)
        else:
            self.tfc = OldDense(nb_inputs, nb_channels, by_frame=False)
            self.tif = OldTdf(nb_channels, nb_bins, nb_bins, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.recurrent:
            x = self.tfc(x)
            return x + self.tif(x)
        x = self.bn(self.tic(x))
        states = self.rnn(x.flatten(0, 1))[0].unflatten(0, x.shape[:2])
        return x + self.tif_f1_to_f2(states)


class OldByFrame(nn.Module):
    """A convolution between levels of the older generation, of each frame."""

    def __init__(self, nb_channels: int, up: bool) -> None:
        super().__init__()
        self.conv = (nn.ConvTranspose1d if up else nn.Conv1d)(nb_channels, nb_channels, 2, stride=2)
        self.bn = nn.BatchNorm2d(nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)
        normed: Tensor = self.bn(y)
        return normed


class OldUnet(nn.Module):
    """A network of the older generation: bins before frames outside, 5 blocks, n_fft 64; time is halved once."""

    def __init__(self, block: str, nb_inputs: int, *, by_frame: bool) -> None:
        super().__init__()
        c = 3
        self.masking = nb_inputs == 2
        self.first_conv = nn.Sequential(nn.Conv2d(nb_inputs, c, (2, 1)), nn.BatchNorm2d(c), nn.ReLU())
        self.encoders = nn.ModuleList(self.make_block(block, c, c, nb_bins) for nb_bins in (32, 16))
        self.mid_block = self.make_block(block, c, c, 8)
        self.decoders = nn.ModuleList(self.make_block(block, 2 * c, c, nb_bins) for nb_bins in (16, 32))
        if by_frame:
            self.downsampling = nn.ModuleList(OldByFrame(c, False) for _ in range(2))
            self.upsampling = nn.ModuleList(OldByFrame(c, True) for _ in range(2))
        else:
            scales = ((1, 2), (2, 2))
            self.downsampling = nn.ModuleList(
                nn.Sequential(nn.Conv2d(c, c, scale, stride=scale), nn.BatchNorm2d(c)) for scale in scales
            )
            self.upsampling = nn.ModuleList(
                nn.Sequential(nn.ConvTranspose2d(c, c, scale, stride=scale), nn.BatchNorm2d(c))
                for scale in reversed(scales)
            )
        self.final_conv = nn.Sequential(nn.Conv2d(c, nb_inputs, (2, 1), padding=(1, 0)))

    @staticmethod
    def make_block(block: str, nb_inputs: int, c: int, nb_bins: int) -> nn.Module:
        if block in ("tfc", "tdc"):
            return OldDense(nb_inputs, c, by_frame=block == "tdc")
        if block == "tdf":
            tdf = OldTdf(nb_inputs, nb_bins, nb_bins, bias=False)
            return tdf if nb_inputs == c else nn.Sequential(tdf, nn.Conv2d(nb_inputs, c, 1))
        return OldSum(nb_inputs, c, nb_bins, recurrent=block == "tdc-rnn")

    def forward(self, mixture: Tensor) -> Tensor:
        x = self.first_conv(mixture).mT
        skips = []
        for encoder, down in zip(self.encoders, self.downsampling, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.mid_block(x)
        for up, decoder in zip(self.upsampling, self.decoders, strict=True):
            x = decoder(torch.cat([up(x), skips.pop()], dim=1))
        x = self.final_conv(x.mT)
        return torch.sigmoid(x) * mixture if self.masking else x


@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize("nb_inputs", [4, 2])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_older_generation_computes_the_same(tmp_path: Path, block: str, nb_inputs: int, by_frame: bool) -> None:
    network = OldUnet(block, nb_inputs, by_frame=by_frame)
    mixture = torch.randn(2, nb_inputs, 33, 6)
    with torch.no_grad():
        for _ in range(3):
            network(mixture)
    network.eval()
    changes = {"nb_frames": 8, "trim": 32} | ({"n_fft": 64} if block in ("tfc", "tdc") else {})
    imported = run(
        tmp_path, {f"module.{name}": tensor for name, tensor in network.state_dict().items()}, changes=changes
    )
    settings = imported.settings
    assert (settings.block, settings.n_fft, settings.hop_length, settings.centred) == (block, 64, 32, False)
    assert settings.scales == ((1, 2), (1, 2) if by_frame else (2, 2))
    assert settings.spec_type == ("complex" if nb_inputs == 4 else "magnitude")
    assert imported.step == 3
    if block in ("tdf", "tfc-tdf", "tdc-rnn"):
        assert (settings.bn_factor, settings.min_bn_units) == (2, 6)
        assert (settings.bias, settings.affine) == ((True, None) if block == "tdc-rnn" else (False, True))
    if block == "tdc-rnn":
        assert (settings.bn_factor_rnn, settings.min_bn_units_rnn, settings.num_layers_rnn) == (4, 3, 2)

    loaded = load_run(tmp_path / "run")
    with torch.no_grad():
        expected = network(mixture)
        if nb_inputs == 2:
            estimate = loaded.network(mixture)[:, 0]
        else:
            pairs = mixture.unflatten(1, (2, 2))  # of each channel the real and the imaginary part
            complex_estimate = loaded.network(torch.complex(pairs[:, :, 0], pairs[:, :, 1]))[:, 0]
            estimate = torch.view_as_real(complex_estimate).movedim(-1, 2).flatten(1, 2)
    torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-5)


# The newer generation

ODD: dict[str, dict[str, Any]] = {
    "tdf": {"bn_factor": None, "bias": True, "n_blocks": 3},
    "tdc": {"kernel_size_f": 5, "t_down_layers": (1,), "internal_channels": 4},
    "tfc": {"kernel_size_t": 5, "kernel_size_f": 2, "t_down_layers": (), "f_down_layers": (1,)},
    "tfc-tdf": {"bn_factor": 4, "min_bn_units": 3, "t_down_layers": (0,), "affine": True},
    "tdc-rnn": {
        "bn_factor": 5,
        "min_bn_units": 4,
        "bn_factor_rnn": 3,
        "min_bn_units_rnn": 2,
        "num_layers_rnn": 3,
        "bias_rnn": True,
        "affine": False,
    },
}


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", ["pt", "safetensors", "npz"])
def test_the_newer_generation_s_settings_are_found(tmp_path: Path, block: str, odd: bool, kind: str) -> None:
    nb_layers = 5 if block == "tdf" else 2  # which has none, so that its tensors do not tell
    settings = dataclasses.replace(SMALL, block=block, n_internal_layers=nb_layers, **(ODD[block] if odd else {}))
    state = make_state(settings)
    stored = {f"spec2spec.{name}": tensor for name, tensor in state.items()}
    stored["stft.stft.window"] = torch.hann_window(64)
    path = tmp_path / f"the vocals.{kind}"
    if kind == "pt":
        torch.save(state if odd else stored, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in stored.items()})
    else:
        safetensors.torch.save_file(stored, path)
    changes = {name: value for name, value in FRAMES.items() if name != "n_fft" or kind == "pt"}
    imported = import_weights(path, "block-unet", tmp_path / "run", changes=changes)
    assert imported.settings == settings
    assert imported.step == 2
    got = load_run(tmp_path / "run").network.networks["vocals"].state_dict()
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("block", BLOCKS)
def test_defaults_of_the_newer_generation(tmp_path: Path, block: str) -> None:
    settings = BlockUnetSettings(targets=("vocals",), block=block)
    imported = run(tmp_path, BlockUnet(settings).state_dict(), dry_run=True)
    assert imported.settings == settings
    told = "" if block in ("tdf", "tfc-tdf", "tdc-rnn") else "n_fft 2048, "
    assert imported.notes[0].startswith(f"assumed, as the weights do not tell: {told}hop_length 1024, nb_frames 128, ")


def test_frameworks(tmp_path: Path) -> None:
    magnitude = make_state(dataclasses.replace(SMALL, spec_type="magnitude"))

    def found(state: State, **changes: Any) -> tuple[Any, ...]:
        settings = run(tmp_path, state, changes=FRAMES | changes, dry_run=True).settings
        return settings.spec_type, settings.nb_channels, settings.spec_est_mode, settings.output_activation

    assert found(magnitude) == ("magnitude", 2, "masking", "sigmoid")
    assert found(magnitude, spec_est_mode="mapping") == ("magnitude", 2, "mapping", "relu")
    assert found(magnitude, last_activation="relu") == ("magnitude", 2, "masking", "relu")
    assert found(magnitude, nb_channels=1) == ("complex", 1, "mapping", "identity")
    assert found(make_state(SMALL), spec_est_mode="masking") == ("complex", 2, "masking", "tanh")
    assert found(make_state(SMALL), nb_channels=4) == ("magnitude", 4, "masking", "sigmoid")
    eight = make_state(dataclasses.replace(SMALL, nb_channels=4))
    assert found(eight, nb_channels=4) == ("complex", 4, "mapping", "identity")
    with pytest.raises(ParameterError, match="spectra of 8 channels: say with --set nb_channels="):
        found(eight)


def test_frames_of_the_large_models(tmp_path: Path) -> None:
    settings = BlockUnetSettings(n_fft=4096, n_blocks=9, block="tdf", bias=True)
    state = BlockUnet(settings).state_dict()
    assert run(tmp_path, state, dry_run=True).settings.hop_length == 1024
    old = {re.sub("^(down|up)samplings", r"\1sampling", name): tensor for name, tensor in state.items()}
    for part in ("weight", "bias"):
        old[f"final_conv.0.{part}"] = old.pop(f"last_conv.0.{part}")
    for name in ("first_conv.0.weight", "final_conv.0.weight"):
        old[name] = old[name].mT
    imported = run(tmp_path, old, dry_run=True)
    assert (imported.settings.hop_length, imported.settings.nb_frames) == (2048, 128)
    small = dataclasses.replace(
        SMALL, n_fft=1024, hop_length=256, nb_frames=128, trim=None, block="tdf", n_internal_layers=5
    )
    assert run(tmp_path, make_state(small), dry_run=True).settings == small


# What the user says


def test_settings_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    state = make_state(SMALL)

    def refuse(message: str, **changes: Any) -> None:
        with pytest.raises(ParameterError, match=message) as caught:
            run(tmp_path, state, changes=FRAMES | changes, dry_run=True)
        assert "\n" not in str(caught.value)

    refuse(
        r"vocals.pt: n_fft is 128 with --set, but 64 by the tensors: leave it out, or take the file that was meant",
        n_fft=128,
        hop_length=64,
    )
    refuse("bias is true with --set, but false by the tensors", bias=True)
    refuse('block is "tfc" with --set, but "tfc-tdf" by the tensors', block="tfc")
    refuse(r"t_down_layers is \[1\] with --set, but null by the tensors", t_down_layers=[1])
    refuse('spec_type is "magnitude" with --set, but "complex"', spec_type="magnitude")
    refuse("n_blocks is 4, expected an odd number", n_blocks=4)
    refuse('n_fft is "a", expected a whole number', n_fft="a")
    refuse("no setting hop_lenght: did you mean hop_length", hop_lenght=16)
    refuse("last_activation is swish, expected one of", last_activation="swish")
    refuse("targets cannot be changed like other settings: name them with --targets", targets=["bass"])
    same = {"bias": False, "t_down_layers": [0, 1], "affine": False, "bn_factor": 40, "n_fft": 64}
    assert run(tmp_path, state, changes=FRAMES | same, dry_run=True).settings.bn_factor == 40  # units are the same
    state = make_window_state(64)
    refuse("n_fft is 128 with --set, but 64 by the tensors", n_fft=128)
    with pytest.raises(ParameterError, match="dropout is set, but the files of open-unmix tell all settings"):
        import_weights(tmp_path / "vocals.pt", "open-unmix", tmp_path / "run", changes={"dropout": 0})
    with pytest.raises(ParameterError, match=r"x.json: a Spleeter configuration, which says nothing of block-unet"):
        run(tmp_path, state, config=Path("x.json"))


def make_window_state(length: int) -> State:
    """Return a network whose n_fft nothing but a window tells."""
    return make_state(dataclasses.replace(SMALL, block="tdc")) | {"stft.stft.window": torch.hann_window(length)}


def test_a_window_that_was_trained_is_refused(tmp_path: Path) -> None:
    state = make_window_state(64)
    frames = {name: value for name, value in FRAMES.items() if name != "n_fft"}
    assert run(tmp_path, state, changes=frames).settings.n_fft == 64
    for window, message in (
        (torch.hann_window(64, periodic=False), "stft.stft.window is no periodic Hann window"),
        (torch.hann_window(64) + 1e-3, "stft.stft.window is no periodic Hann window"),
        (torch.ones(2, 2), r"stft.stft.window is torch.float32 \(2, 2\), expected a window"),
    ):
        with pytest.raises(ParameterError, match=message):
            run(tmp_path, state | {"stft.stft.window": window}, changes=frames)
    wide = make_state(SMALL) | {"stft.stft.window": torch.hann_window(128)}
    with pytest.raises(ParameterError, match="a window of 128 samples, but blocks for n_fft 64"):
        run(tmp_path, wide, changes=frames)


# Files and targets


def test_several_files_make_one_run(tmp_path: Path) -> None:
    first, second = make_state(SMALL), make_state(SMALL)
    torch.save(first, tmp_path / "vocals.pth")
    torch.save(second, tmp_path / "net-1_drums (best).pt")
    paths = [tmp_path / "vocals.pth", tmp_path / "net-1_drums (best).pt"]
    imported = import_weights(paths, "block-unet", tmp_path / "run", changes=FRAMES)
    assert imported.settings == dataclasses.replace(SMALL, targets=("drums", "vocals"))
    assert set(imported.files) == {path.name for path in paths}
    networks = load_run(tmp_path / "run").network.networks
    torch.testing.assert_close(networks["vocals"].state_dict(), first)
    torch.testing.assert_close(networks["drums"].state_dict(), second)
    record = json.loads((tmp_path / "run" / "best.json").read_text())["training"]["imported"]
    assert record == {"files": imported.files, "config": None, "notes": list(imported.notes)}
    named = import_weights(
        paths, "block-unet", tmp_path / "run", targets=["vocals", "drums"], changes=FRAMES, force=True
    )
    assert named.settings.targets == ("vocals", "drums")

    def refuse(message: str, paths: list[Path], **options: Any) -> None:
        with pytest.raises((ParameterError, DatasetError), match=message) as caught:
            import_weights(paths, "block-unet", tmp_path / "run", changes=FRAMES, force=True, **options)
        assert "\n" not in str(caught.value)

    refuse("vocals.pth: its name has none of bass, drums in it", paths, targets=["bass", "drums"])
    refuse("no weights of bass: found those of vocals, drums", paths, targets=["bass", "drums", "vocals"])
    torch.save(first, tmp_path / "vocals.pt")
    refuse("vocals.pt: vocals is in .*vocals.pth, too", [paths[0], tmp_path / "vocals.pt"])
    torch.save(first, tmp_path / "vocals_and_bass.pt")
    refuse("its name has bass and vocals of .* in it, expected one", [tmp_path / "vocals_and_bass.pt"])
    torch.save(first, tmp_path / "top1.pt")
    refuse("top1.pt: its name has none of .* in it, expected one: name it TARGET.pt", [tmp_path / "top1.pt"])
    torch.save(make_state(dataclasses.replace(SMALL, n_internal_layers=1)), tmp_path / "bass.pt")
    refuse("n_internal_layers of vocals is 2, but 1 of bass", [paths[0], tmp_path / "bass.pt"])
    refuse("none.pt: cannot be read: No such file", [tmp_path / "none.pt"])
    refuse("a folder, expected a file for each target", [tmp_path])
    alone = import_weights(
        tmp_path / "top1.pt", "block-unet", tmp_path / "run", targets=["lead"], changes=FRAMES, force=True
    )
    assert alone.settings.targets == ("lead",)


class _Runs:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_what_is_no_network_of_the_original_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make_state(SMALL)

    def refuse(error: type[Exception], message: str, document: Any) -> None:
        with pytest.raises(error, match=message) as caught:
            run(tmp_path, document, changes=FRAMES)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "vocals.pt") in str(caught.value)
        assert not (tmp_path / "run").exists()

    def without(*names: str) -> State:
        return {name: tensor for name, tensor in state.items() if name not in names}

    refuse(DatasetError, "not a file of tensors only", {"first_conv.0.weight": _Runs()})
    refuse(DatasetError, "not a file of tensors only", state | {"x": _Runs()})
    refuse(DatasetError, "expected tensors by name", [1, 2])
    refuse(DatasetError, "expected tensors by name", {"epoch": 3})
    refuse(ParameterError, "neither last_conv nor final_conv is there", {"weight": torch.zeros(2)})
    refuse(ParameterError, "names of both generations: final_conv and ", state | {"final_conv.0.bias": torch.zeros(4)})
    refuse(ParameterError, "'first_conv.0.weight': missing, or not as expected", without("first_conv.0.weight"))
    refuse(ParameterError, "missing, or not as expected", state | {"first_conv.0.weight": torch.zeros(2)})
    refuse(ParameterError, "the network: lacks encoders.0.tfc.H.1.1.bias", without("encoders.0.tfc.H.1.1.bias"))
    refuse(ParameterError, "the network: has unknown optimiser", state | {"optimiser": torch.zeros(2)})
    refuse(ParameterError, r"last_conv.0.bias is \(3,\), expected", state | {"last_conv.0.bias": torch.zeros(3)})
    refuse(
        ParameterError,
        "is torch.float64, expected torch.float32",
        state | {"last_conv.0.bias": torch.zeros(4).double()},
    )
    refuse(ParameterError, "last_conv.0.bias is not finite", state | {"last_conv.0.bias": torch.full((4,), math.nan)})
    refuse(
        ParameterError, "weights of a run of ours", {f"networks.vocals.{name}": each for name, each in state.items()}
    )
    refuse(ParameterError, "with and without a prefix", state | {"spec2spec.last_conv.0.bias": torch.zeros(4)})
    refuse(
        ParameterError,
        "between levels under two names each",
        state | {"downsamplings.0.conv.weight": state["downsamplings.0.0.weight"]},
    )
    parts = {name.replace("tif.tif", "rnn"): tensor for name, tensor in state.items()}
    refuse(
        ParameterError,
        "blocks of rnn, tfc: no kind that is known here",
        {n.replace(".tif", ""): t for n, t in parts.items()},
    )
    name = "mid_block.tif.tif.0.weight"
    refuse(
        ParameterError,
        "no bn_factor and min_bn_units explain layers of 16 for 32, 16 for 16, 40 for 8 bins",
        state | {name: torch.zeros(40, 8)},
    )
    assert capsys.readouterr().out == ""


def test_damaged_files_are_refused_in_a_line(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(dataclasses.replace(SMALL, block="tdc", n_blocks=1, n_internal_layers=1, internal_channels=1))
    for suffix in ("pt", "safetensors", "npz", "pth"):
        path = tmp_path / f"vocals.{suffix}"
        if suffix == "safetensors":
            safetensors.torch.save_file(state, path)
        elif suffix == "npz":
            with path.open("wb") as file:
                np.savez(file, **{name: tensor.numpy() for name, tensor in state.items()})
        elif suffix == "pth":
            save_as_on_a_gpu(state, path, monkeypatch)
        else:
            torch.save(state, path)
        content = path.read_bytes()
        damaged = [content[:length] for length in (0, 1, 100, len(content) // 2, len(content) - 1)]
        for _ in range(25):
            flipped = bytearray(content)
            for position in rng.integers(len(flipped), size=3):
                flipped[position] = rng.integers(256)
            damaged.append(bytes(flipped))
        messages = []
        for each in damaged:
            path.write_bytes(each)
            try:
                import_weights(path, "block-unet", tmp_path / "run", changes=FRAMES, dry_run=True)
            except (DatasetError, ParameterError) as error:
                messages.append(str(error))
        assert len(messages) >= 5
        assert not any("\n" in message for message in messages)


# Lightning


def make_checkpoint(**hyper_parameters: Any) -> dict[str, Any]:
    """Return what Lightning writes, without what needs its classes."""
    stored = {
        f"spec2spec.{name}": tensor for name, tensor in make_state(dataclasses.replace(SMALL, block="tdc")).items()
    }
    options = {"target_name": "bass", "n_fft": 64, "hop_length": 16, "num_frame": 32, "spec_est_mode": "mapping"}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "0.9.0",
        "state_dict": stored | {"stft.stft.window": torch.hann_window(64)},
        "hyper_parameters": options | hyper_parameters,
    }


def test_a_checkpoint_of_tensors_and_plain_values_says_settings(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tdc_activation="leaky_relu", last_activation="tanh", musdb_root="/data")
    imported = run(tmp_path, checkpoint, "epoch=3.ckpt", changes={"trim": 32, "nb_frames": 16})
    expected = dataclasses.replace(
        SMALL, targets=("bass",), block="tdc", activation="leaky-relu", last_activation="tanh"
    )
    assert imported.settings == expected
    assert imported.notes == (
        "assumed, as the weights do not tell: first_conv_activation relu: --set NAME=VALUE says otherwise",
    )
    with pytest.raises(ParameterError, match="n_fft is 128 as the file says, but 64 by the tensors"):
        run(tmp_path, make_checkpoint(n_fft=128), "bass.ckpt", changes={"trim": 32})


def test_a_checkpoint_with_classes_is_exported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint()
    path = tmp_path / "vocals_epoch=3.ckpt"
    lightning = types.ModuleType("pytorch_lightning")
    callback = type("EarlyStopping", (), {"__module__": lightning.__name__})
    vars(lightning)[callback.__name__] = callback
    monkeypatch.setitem(sys.modules, lightning.__name__, lightning)
    plain = {**checkpoint["hyper_parameters"], "logger": callback()}
    torch.save({**checkpoint, "callbacks": {callback: {}}, "hyper_parameters": plain}, path)
    hint = r"more than tensors, which is not read: .*examples/export_lightning_checkpoint.py makes an .npz of it"
    for name in (path.name, "bass.pt"):
        path = path.rename(tmp_path / name)
        with pytest.raises(DatasetError, match=hint) as caught:
            import_weights(path, "block-unet", tmp_path / "run")
        assert "\n" not in str(caught.value)

    out = tmp_path / "epoch=3.npz"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(path), str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out == f"{out}: {len(checkpoint['state_dict'])} tensors\n"
    imported = import_weights(out, "block-unet", tmp_path / "run", changes={"trim": 32})
    expected = dataclasses.replace(SMALL, targets=("bass",), block="tdc", nb_frames=32)
    assert imported.settings == expected
    got = load_run(tmp_path / "run").network.networks["bass"].state_dict()
    assert all(torch.equal(tensor, checkpoint["state_dict"][f"spec2spec.{name}"]) for name, tensor in got.items())


# The run


def separate_as_the_older_generation(network: nn.Module, wave: np.ndarray, nb_frames: int, trim: int) -> np.ndarray:
    """Return what segments of a wave give whose frames begin with them, and whose ends are cut off."""
    hop = 32
    size = hop * (nb_frames + 1)
    span = size - 2 * trim
    nb_segments = -(-len(wave) // span)
    padded = np.zeros((2, nb_segments * span + 2 * trim))
    padded[:, trim : trim + len(wave)] = wave.T
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * hop) / (2 * hop))
    pieces = []
    for start in range(0, nb_segments * span, span):
        frames = np.stack([padded[:, start + t * hop :][:, : 2 * hop] * window for t in range(nb_frames)], axis=-1)
        spectra = np.fft.rfft(frames, axis=1)  # channels, bins, frames
        parts = np.stack([part for channel in spectra for part in (channel.real, channel.imag)])
        with torch.no_grad():
            estimate = network(torch.from_numpy(parts[None]).float())[0].double().numpy()
        frames = np.fft.irfft(estimate[0::2] + 1j * estimate[1::2], axis=1)
        added, weights = np.zeros((2, size)), np.full(size, 1e-12)
        for t in range(nb_frames):
            added[:, t * hop : (t + 2) * hop] += frames[:, :, t] * window
            weights[t * hop : (t + 2) * hop] += window**2
        pieces.append((added / weights)[:, trim : size - trim])
    return np.concatenate(pieces, axis=1).T[: len(wave)]


def test_a_run_of_the_older_generation_separates_as_that_did(tmp_path: Path, rng: np.random.Generator) -> None:
    network = OldUnet("tfc-tdf", 4, by_frame=False).eval()
    run(tmp_path, network.state_dict(), changes={"nb_frames": 8, "trim": 40})
    wave = rng.normal(size=(1000, 2)).astype(np.float32)
    (estimate,) = separate_wave(load_run(tmp_path / "run"), wave).values()
    expected = separate_as_the_older_generation(network, wave, nb_frames=8, trim=40)
    np.testing.assert_allclose(estimate, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_run_of_the_newer_generation_separates(tmp_path: Path, rng: np.random.Generator) -> None:
    run(tmp_path, make_state(SMALL), changes=FRAMES)
    wave = rng.normal(size=(1000, 2)).astype(np.float32)
    (estimate,) = separate_wave(load_run(tmp_path / "run"), wave).values()
    assert estimate.shape == wave.shape
    assert np.isfinite(estimate).all()
    assert np.abs(estimate).max() > 0


def test_the_command_takes_settings(tmp_path: Path) -> None:
    torch.save(make_state(SMALL), tmp_path / "vocals.pt")
    out = tmp_path / "run"
    arguments = ["import", str(tmp_path / "vocals.pt"), "--model", "block-unet", "--out", str(out), "--json"]
    for name, value in FRAMES.items():
        arguments += ["--set", f"{name}={value}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["settings"]["hop_length"] == 16
    assert document["notes"][0].startswith("assumed, as the weights do not tell: spec_est_mode mapping, ")
    result = CliRunner().invoke(app, [*arguments, "--force", "--set", "bias=true"])
    assert isinstance(result.exception, ParameterError)
    assert "bias is true with --set" in str(result.exception)
