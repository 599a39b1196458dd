"""Weights of Spleeter and Open-Unmix become runs."""

import dataclasses
import hashlib
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from typer.testing import CliRunner

from baselines import convert_weights
from baselines.cli import app
from baselines.convert_weights import from_openunmix, from_spleeter, import_weights, openunmix_settings
from baselines.models import load_run
from baselines.open_unmix import OpenUnmix, OpenUnmixSettings
from baselines.spleeter_blstm import BlstmSettings, SpleeterBlstm
from baselines.spleeter_unet import SpleeterUnet, UnetSettings
from musdbkit.errors import DatasetError, ParameterError

TEMPLATE = Path(__file__).parent.parent / "templates" / "spleeter_2stems.json"
TWO = ("vocals", "accompaniment")
WIDTHS = (2, 3, 4, 5, 6, 7)
SMALL = UnetSettings(targets=TWO, nb_bins=64, nb_frames=64, filters=WIDTHS)
UMX = OpenUnmixSettings(hidden_size=8, nb_layers=2, n_fft=64, hop_length=16, bandwidth=9000.0)

Arrays = dict[str, Any]


def unet_shapes(nb_targets: int, widths: tuple[int, ...] = WIDTHS) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return the shapes of Spleeter's variables by name, and the target that each is of."""
    shapes: dict[tuple[str, int], tuple[int, ...]] = {}

    def add(layer: str, number: int, i: int, **parts: tuple[int, ...]) -> None:
        prefix = layer if number == 0 else f"{layer}_{number}"
        shapes.update({(f"{prefix}/{part}", i): shape for part, shape in parts.items()})

    for i in range(nb_targets):
        channels = [2, *widths]
        for j in range(6):
            add("conv2d", 7 * i + j, i, kernel=(5, 5, channels[j], channels[j + 1]), bias=(channels[j + 1],))
        add("conv2d", 7 * i + 6, i, kernel=(4, 4, 1, 2), bias=(2,))
        outputs = [*widths[4::-1], 1]
        inputs = [widths[5], *(2 * width for width in outputs[:5])]
        for j in range(6):
            add("conv2d_transpose", 6 * i + j, i, kernel=(5, 5, outputs[j], inputs[j]), bias=(outputs[j],))
        for j, width in enumerate([*widths, *outputs]):
            norm = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (width,))
            add("batch_normalization", 12 * i + j, i, **norm)
    return shapes


def unet_arrays(nb_targets: int, widths: tuple[int, ...] = WIDTHS) -> Arrays:
    """Return Spleeter's variables, filled by the rule of the values that Spleeter's own graph gave."""
    arrays = {}
    for (name, i), shape in unet_shapes(nb_targets, widths).items():
        s = np.sin(0.37 * np.arange(1, math.prod(shape) + 1) + 0.1 * i).reshape(shape)
        part = name.rpartition("/")[2]
        if part == "kernel":
            s = 0.75 / math.sqrt(shape[0] * shape[1] * min(shape[2:])) * s
        else:
            s = {"gamma": 1 + 0.2 * s, "moving_variance": 1 + 0.5 * s}.get(part, 0.1 * s)
        arrays[name] = s.astype(np.float32)
    return arrays


@pytest.fixture
def arrays() -> Arrays:
    return unet_arrays(2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Spleeter's JSON of small U-Nets."""
    path = tmp_path / "small.json"
    model = {"type": "unet.unet", "params": {"conv_n_filters": list(WIDTHS), "conv_activation": "ELU"}}
    path.write_text(json.dumps(json.loads(TEMPLATE.read_text()) | {"model": model, "T": 64, "F": 64}))
    return path


def write_npz(path: Path, arrays: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def test_variables_come_out_as_in_spleeter() -> None:
    full = UnetSettings(targets=TWO, encoder_activation="leaky-relu", decoder_activation="relu")
    arrays = unet_arrays(2, full.filters)
    assert len(arrays) == 148
    with torch.device("meta"):
        network = SpleeterUnet(full)
    network.load_state_dict(from_spleeter(arrays, full), assign=True)
    values = (10 * np.abs(np.sin(0.05 * np.arange(1, 64 * 64 * 2 + 1)))).reshape(1, 64, 64, 2)
    mixture = torch.from_numpy(values.astype(np.float32)).permute(0, 3, 2, 1)
    with torch.no_grad():
        estimates = network.eval()(mixture).permute(1, 0, 4, 3, 2).flatten(1)
    np.testing.assert_allclose(estimates[0, [0, 4096, 8191]], [0.2274249, 1.411957, 4.803976], rtol=1e-4)
    np.testing.assert_allclose(estimates[1, [0, 4096, 8191]], [0.2297276, 1.461156, 4.820311], rtol=1e-4)


@pytest.mark.parametrize("nb_targets", [2, 4, 5])
def test_any_number_of_targets(nb_targets: int) -> None:
    settings = dataclasses.replace(SMALL, targets=tuple("abcde"[:nb_targets]))
    weights = from_spleeter(unet_arrays(nb_targets), settings)
    assert weights.keys() == SpleeterUnet(settings).state_dict().keys()
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in weights.values())
    last = weights[f"networks.{settings.targets[-1]}.head.bias"]
    np.testing.assert_allclose(last, 0.1 * np.sin(0.37 * np.array([1, 2]) + 0.1 * (nb_targets - 1)), rtol=1e-6)


def test_what_only_training_needs_is_ignored(arrays: Arrays) -> None:
    expected = from_spleeter(arrays, SMALL)
    slots = {f"{name}/{slot}": value for name, value in arrays.items() for slot in ("Adam", "Adam_1")}
    more = {"global_step": np.int64(7), "beta1_power": np.float32(0.5), "beta2_power": np.float32(0.5)}
    got = from_spleeter(arrays | slots | more, SMALL)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    arrays["conv2d/kernel"][:] = 0
    assert expected["networks.vocals.encoder.0.convolution.weight"].any()  # no view of the caller's array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("conv2d_7/kernel"), "no variable conv2d_7/kernel, which target 2 of 2, accompaniment, needs"),
        (lambda a: a.update(other=np.zeros(1)), "unknown variable other: expected those of 2 targets"),
        (lambda a: a.update({f"{n}/Adam_2": a[n] for n in list(a)}), "unknown variable batch.*/Adam_2 and 147 more"),
        (
            lambda a: a.update({"conv2d/kernel": a["conv2d/kernel"].T}),
            r"variable conv2d/kernel is float32 \(2, 2, 5, 5\), expected float32 \(5, 5, 2, 2\)",
        ),
        (lambda a: a.update({"conv2d/bias": a["conv2d/bias"].astype(int)}), "variable conv2d/bias is int64"),
        (lambda a: a["conv2d/bias"].fill(np.nan), "variable conv2d/bias is not finite"),
    ],
)
def test_other_variables_are_refused(arrays: Arrays, change: Any, message: str) -> None:
    change(arrays)
    with pytest.raises(ParameterError, match=message):
        from_spleeter(arrays, SMALL)


def test_recurrent_layers_as_cudnn_holds_them(rng: np.random.Generator) -> None:
    settings = BlstmSettings(targets=TWO, nb_bins=3, hidden_size=4)
    with torch.device("meta"):
        expected = SpleeterBlstm(settings).state_dict()
    state = {name: rng.normal(size=tensor.shape).astype(np.float32) for name, tensor in expected.items()}
    arrays = {}
    for i, target in enumerate(TWO):
        prefix = f"networks.{target}"
        for layer in range(3):
            number = "" if i == layer == 0 else f"_{3 * i + layer}"
            for direction, suffix in (("forward", ""), ("backward", "_reverse")):
                name = f"bidirectional{number}/{direction}_cu_dnnlstm{number}"
                for ours, theirs in (("weight_ih", "kernel"), ("weight_hh", "recurrent_kernel")):
                    weight = state[f"{prefix}.lstm.{ours}_l{layer}{suffix}"]
                    gates = [gate.reshape(weight.shape[1], 4) for gate in np.split(weight, 4)]  # flat, not transposed
                    arrays[f"{name}/{theirs}"] = np.hstack(gates)
                biases = [state[f"{prefix}.lstm.bias_{part}_l{layer}{suffix}"] for part in ("ih", "hh")]
                arrays[f"{name}/bias"] = np.concatenate(biases)
        arrays[f"time_distributed_{2 * i + 1}/kernel"] = state[f"{prefix}.dense.weight"].T
        arrays[f"time_distributed_{2 * i + 1}/bias"] = state[f"{prefix}.dense.bias"]
    weights = from_spleeter(arrays, settings)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor, state[name], err_msg=name)
    arrays["bidirectional/forward_cu_dnnlstm/bias"] = np.zeros(16, np.float32)
    with pytest.raises(ParameterError, match=r"bias is float32 \(16,\), expected float32 \(32,\)"):
        from_spleeter(arrays, settings)


def test_a_checkpoint_of_spleeter_becomes_a_run(tmp_path: Path, arrays: Arrays, config: Path) -> None:
    source = write_npz(tmp_path / "x.npz", arrays | {"global_step": np.int64(1200)})
    imported = import_weights(source, "spleeter-unet", tmp_path / "run", config=config)
    expected = dataclasses.replace(SMALL, decoder_activation="relu", batch_norm="frozen", dropout=0.0, overlap=0.0)
    nb_parameters = sum(parameter.numel() for parameter in SpleeterUnet(expected).parameters())
    files = {"x.npz": hashlib.sha256(source.read_bytes()).hexdigest()}
    nb_bytes = sum(tensor.nbytes for tensor in SpleeterUnet(expected).state_dict().values())
    assert imported == convert_weights.Imported(
        tmp_path / "run", "spleeter-unet", expected, 1200, nb_parameters, nb_bytes, files
    )
    loaded = load_run(tmp_path / "run")
    assert (loaded.settings, loaded.step, loaded.choice) == (expected, 1200, "best")
    assert loaded.network.state_dict().keys() == from_spleeter(arrays, expected).keys()
    record = json.loads((tmp_path / "run" / "best.json").read_text())["training"]["imported"]
    assert record == {"files": files, "config": "small.json"}
    with pytest.raises(DatasetError, match="--force"):
        import_weights(source, "spleeter-unet", tmp_path / "run", config=config)
    import_weights(source, "spleeter-unet", tmp_path / "run", config=config, targets=["a", "b"], force=True)
    assert list(load_run(tmp_path / "run").network.networks) == ["a", "b"]


def test_the_number_of_targets_tells_which_released_model_it_is(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "2stems.npz", unet_arrays(2, UnetSettings.filters))
    upstream: dict[str, Any] = {"batch_norm": "frozen", "dropout": 0.0, "overlap": 0.0}
    leaky = {"encoder_activation": "leaky-relu", "decoder_activation": "relu"}
    two = import_weights(source, "spleeter-unet", tmp_path / "run")
    assert two.settings == UnetSettings(targets=TWO, **leaky, **upstream)
    assert two.nb_parameters == 19_647_498

    def found(nb_targets: int) -> Any:
        names = [name for name, _ in unet_shapes(nb_targets)]
        return convert_weights._find_spleeter_settings(dict.fromkeys(names), "spleeter-unet", None, None, Path("x.npz"))

    assert found(4) == UnetSettings(**upstream)
    five = ("vocals", "piano", "drums", "bass", "other")
    assert found(5) == UnetSettings(targets=five, output="softmax", **upstream)
    with pytest.raises(ParameterError, match=r"x.npz: 3 U-Nets, expected 2, 4 or 5: give the model's Spleeter JSON"):
        found(3)


def test_what_is_no_checkpoint_of_spleeter_is_refused(tmp_path: Path, arrays: Arrays, config: Path) -> None:
    def refuse(error: type[Exception], message: str, source: Path, model: str = "spleeter-unet", **more: Any) -> None:
        with pytest.raises(error, match=message) as caught:
            import_weights(source, model, tmp_path / "run", **more)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    fine = write_npz(tmp_path / "fine.npz", arrays)
    other = write_npz(tmp_path / "other.npz", arrays | {"x": np.zeros(1)})
    refuse(ParameterError, "other.npz: unknown variable x", other, config=config)
    refuse(ParameterError, "fine.npz: variable conv2d/kernel is .*expected float32 .5, 5, 2, 16.", fine)
    refuse(ParameterError, "x.pth: expected one .npz for spleeter-unet: examples/export", tmp_path / "x.pth")
    refuse(ParameterError, "recurrent model, of which none was released", fine, "spleeter-blstm")
    refuse(
        ParameterError,
        "small.json: model type unet.unet, .*import it as spleeter-unet",
        fine,
        "spleeter-blstm",
        config=config,
    )
    refuse(ParameterError, "small.json: a Spleeter configuration", fine, "open-unmix", config=config)
    refuse(ParameterError, "no weights are imported for model unet: expected", fine, "unet")
    refuse(DatasetError, "none.npz: cannot be read: No such file", tmp_path / "none.npz")
    objects = write_npz(tmp_path / "objects.npz", {"a": np.array([{}], object)})
    refuse(DatasetError, "objects.npz: no .npz of arrays", objects)
    (tmp_path / "text.npz").write_text("no zip")
    refuse(DatasetError, "text.npz: no .npz of arrays", tmp_path / "text.npz")
    (tmp_path / "cut.npz").write_bytes(fine.read_bytes()[:1000])
    refuse(DatasetError, "cut.npz: no .npz of arrays", tmp_path / "cut.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    refuse(DatasetError, "one.npz: no .npz of arrays", tmp_path / "one.npz")


# Open-Unmix


def meta_state(settings: OpenUnmixSettings) -> dict[str, Tensor]:
    with torch.device("meta"):
        return OpenUnmix(settings).state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        OpenUnmixSettings(),  # umx and umxhq
        OpenUnmixSettings(hidden_size=1024),  # umxl
        OpenUnmixSettings(bidirectional=False, nb_layers=1),
        OpenUnmixSettings(bandwidth=None, nb_channels=1),
    ],
)
def test_shapes_tell_the_settings(settings: OpenUnmixSettings) -> None:
    states = {target: meta_state(settings) for target in settings.targets}
    assert openunmix_settings(states) == settings


def test_a_bandwidth_that_is_not_16_khz_lies_between_two_bins() -> None:
    for bandwidth in (5.0, 100.0, 7000.0, 15999.0, 22049.0):
        made = OpenUnmixSettings(bandwidth=bandwidth)
        settings = openunmix_settings({"vocals": meta_state(made)})
        assert settings.nb_input_bins == made.nb_input_bins
        assert settings.bandwidth == pytest.approx(bandwidth, abs=44100 / 4096)


def test_what_tensors_do_not_tell_is_not_guessed() -> None:
    speech = OpenUnmixSettings(
        targets=("speech",),
        nb_channels=1,
        hidden_size=256,
        n_fft=1024,
        hop_length=512,
        sample_rate=16000,
        bandwidth=None,
    )
    states = {"speech": meta_state(speech)}
    with pytest.raises(ParameterError, match=r"not known of frames of 1024 samples: put .*separator.json"):
        openunmix_settings(states)
    assert openunmix_settings(states, sample_rate=16000, hop_length=512) == speech
    states["speech"]["sample_rate"] = torch.tensor(16000.0)
    assert openunmix_settings(states, hop_length=512) == speech
    with pytest.raises(ParameterError, match="sample rates of 8000 and 16000 Hz"):
        openunmix_settings(states, sample_rate=8000, hop_length=512)


def test_targets_must_be_alike() -> None:
    states = {"vocals": meta_state(UMX), "bass": meta_state(dataclasses.replace(UMX, hidden_size=10))}
    with pytest.raises(ParameterError, match="hidden_size of bass is 10, but 8 of vocals"):
        openunmix_settings(states, sample_rate=44100, hop_length=16)
    with pytest.raises(ParameterError, match=r"vocals: no weights of Open-Unmix: 'lstm.weight_hh_l0' is missing"):
        openunmix_settings({"vocals": {"fc1.weight": torch.zeros(2)}})


def test_extra_keys_are_dropped_and_others_refused() -> None:
    state = meta_state(UMX)
    assert len(meta_state(OpenUnmixSettings())) == 46
    extra = {name: torch.zeros(1) for name in ("sample_rate", "stft.window", "transform.0.window")}
    assert from_openunmix(state | extra, UMX).keys() == state.keys()
    with pytest.raises(ParameterError, match=r"has unknown stft.n_fft"):
        from_openunmix(state | {"stft.n_fft": torch.zeros(1)}, UMX)
    with pytest.raises(ParameterError, match=r"fc1.weight is \(8, 28\), expected \(10, 28\)"):
        from_openunmix(state, dataclasses.replace(UMX, hidden_size=10))
    del state["bn1.weight"]
    with pytest.raises(ParameterError, match=r"lacks bn1.weight"):
        from_openunmix(state, UMX)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of Open-Unmix's, as its training and its downloads leave it."""
    folder = tmp_path / "umx"
    folder.mkdir()
    torch.manual_seed(0)
    for name in ("vocals-b62c91ce.pth", "zither.pth", "bass.safetensors", "drums-9619578f.pth"):
        state = OpenUnmix(UMX).state_dict() | {"sample_rate": torch.tensor(44100.0), "stft.window": torch.ones(64)}
        if name.endswith("pth"):
            torch.save(state, folder / name)
        else:
            safetensors.torch.save_file(state, folder / name)
    facts = {"nfft": 64, "nhop": 16, "sample_rate": 44100.0, "nb_channels": 2}
    (folder / "separator.json").write_text(json.dumps(facts))
    (folder / "vocals.json").write_text("{}")
    (folder / "vocals.chkpnt").write_text("ignored")
    return folder


def test_a_folder_of_open_unmix_becomes_a_run(tmp_path: Path, folder: Path) -> None:
    run = tmp_path / "run"
    imported = import_weights(folder, "open-unmix", run)
    targets = ("drums", "bass", "vocals", "zither")
    loaded = load_run(run)
    assert imported.settings == loaded.settings
    assert dataclasses.replace(loaded.settings, bandwidth=9000.0) == dataclasses.replace(UMX, targets=targets)
    assert loaded.settings.nb_input_bins == UMX.nb_input_bins
    assert set(imported.files) == {path.name for path in folder.iterdir() if path.suffix in (".pth", ".safetensors")}
    network = OpenUnmix(UMX).eval()
    network.load_state_dict(torch.load(folder / "vocals-b62c91ce.pth"), strict=False)
    mixture = torch.rand(1, 2, 33, 5)
    torch.testing.assert_close(loaded.network.networks["vocals"](mixture), network(mixture))
    assert imported.nb_parameters == 4 * sum(parameter.numel() for parameter in network.parameters())

    import_weights(folder, "open-unmix", run, targets=["zither", "bass"], force=True)
    assert load_run(run).settings.targets == ("zither", "bass")
    files = [folder / "vocals-b62c91ce.pth", folder / "bass.safetensors"]
    import_weights(files, "open-unmix", run, force=True)
    assert load_run(run).settings.targets == ("bass", "vocals")


def test_what_would_be_imported(tmp_path: Path, folder: Path) -> None:
    run = tmp_path / "run"
    would = import_weights(folder, "open-unmix", run, dry_run=True)
    assert not run.exists()
    assert import_weights(folder, "open-unmix", run) == would
    written = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(DatasetError, match="holds a run already: --force"):
        import_weights(folder, "open-unmix", run, dry_run=True)
    import_weights(folder, "open-unmix", run, targets=["bass"], force=True, dry_run=True)
    assert {path: path.read_bytes() for path in run.iterdir()} == written
    (folder / "vocals-b62c91ce.pth").write_bytes(b"no weights")
    with pytest.raises(DatasetError, match="not a file of tensors only"):
        import_weights(folder, "open-unmix", run, force=True, dry_run=True)


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_command_says_what_it_writes(tmp_path: Path, folder: Path, dry_run: bool) -> None:
    run = tmp_path / "run"
    arguments = ["import", str(folder), "--model", "open-unmix", "--targets", "bass", "--out", str(run)]
    result = CliRunner().invoke(app, [*arguments, *(["--dry-run"] if dry_run else [])])
    assert result.exit_code == 0
    assert f"\n{'to write' if dry_run else 'written'}: 0.0 MB\n" in result.stdout
    assert run.exists() is not dry_run


class _Runs:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_what_is_no_folder_of_open_unmix_is_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(error: type[Exception], message: str, source: Path | None = None, **more: Any) -> None:
        with pytest.raises(error, match=message) as caught:
            import_weights(folder if source is None else source, "open-unmix", tmp_path / "run", **more)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    refuse(
        DatasetError,
        "no weights of piano: found those of drums, bass, vocals, zither: name files TARGET.pth or TARGET-HASH.pth",
        targets=["piano"],
    )
    refuse(DatasetError, "none: no such file or folder", tmp_path / "none")
    refuse(DatasetError, r"separator.json: expected a file <target>.pth", folder / "separator.json")
    (tmp_path / "empty").mkdir()
    refuse(DatasetError, "empty: no files <target>.pth", tmp_path / "empty")

    vocals = folder / "vocals-b62c91ce.pth"
    content = vocals.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "text": b"no weights",
        "code": pickle.dumps(_Runs()),
    }
    for damage in damaged.values():
        vocals.write_bytes(damage)
        refuse(DatasetError, "vocals-b62c91ce.pth: not a file of tensors only")
    torch.save({"state_dict": {}}, vocals)
    refuse(DatasetError, "expected tensors by name")
    torch.save({"state_dict": _Runs()}, vocals)
    refuse(DatasetError, "not a file of tensors only")
    torch.save({name: t for name, t in OpenUnmix(UMX).state_dict().items() if name != "bn2.bias"}, vocals)
    refuse(ParameterError, f"{re.escape(str(vocals))}: .*lacks bn2.bias")
    vocals.write_bytes(content)
    assert capsys.readouterr().out == ""

    (folder / "separator.json").write_text('{"nfft": 4096, "nhop": 1024, "sample_rate": 44100, "nb_channels": 2}')
    refuse(ParameterError, "separator.json: nfft is 4096, but the weights of drums have 64")
    (folder / "separator.json").write_text('{"nfft": 64}')
    refuse(DatasetError, "separator.json: expected JSON with sample_rate, nfft, nhop and nb_channels")
    (folder / "separator.json").unlink()
    refuse(ParameterError, "put Open-Unmix's separator.json beside the weights")
    (folder / "vocals.pth").write_bytes(content)
    refuse(DatasetError, r"vocals.pth: vocals is in .*vocals-b62c91ce.pth, too")
