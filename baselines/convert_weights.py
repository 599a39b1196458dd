"""Weights that Spleeter, Open-Unmix and others trained, for our networks.

Reads an `.npz` that `examples/export_spleeter_weights.py` wrote of a Spleeter checkpoint, Open-Unmix's files
`<target>-<hash>.pth` with the `separator.json` beside them, or what `import_block_unet` reads. Writes a run's folder
(see `baselines.models`), which `baselines separate` takes like one of ours.

Conventions: Spleeter's variables are found by their names in its checkpoints, which count layers through all targets.
Its kernels are (frames, bins, ...), ours (..., bins, frames): all axes in the opposite order.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.import_block_unet import read_block_unets
from baselines.models import check_free, check_weights, create, hash_file, write_weights
from baselines.open_unmix import OpenUnmix, OpenUnmixSettings
from baselines.spleeter_blstm import BlstmSettings, SpleeterBlstm
from baselines.spleeter_settings import make_settings
from baselines.spleeter_unet import SpleeterUnet, UnetSettings
from baselines.weight_files import read_npz, read_tensors
from musdbkit.errors import DatasetError, ParameterError, printable
from musdbkit.spleeter_config import read_config

Array = NDArray[Any]

_IGNORED: Final = re.compile(r"global_step|beta[12]_power|.*/(Adam|Adadelta)(_1)?")
"""Variables of a Spleeter checkpoint that only go on with training."""

_EXTRA_KEYS: Final = ("sample_rate", "stft.window", "transform.0.window")
"""What files of Open-Unmix hold beside the parameters, of older versions."""

_RELEASED: Final = {
    2: UnetSettings(targets=("vocals", "accompaniment"), encoder_activation="leaky-relu", decoder_activation="relu"),
    4: UnetSettings(targets=("vocals", "drums", "bass", "other")),
    5: UnetSettings(targets=("vocals", "piano", "drums", "bass", "other"), output="softmax"),
}
"""The configurations of Spleeter's released models, by their number of stems."""

_AS_UPSTREAM: Final[dict[type[Any], dict[str, Any]]] = {
    UnetSettings: {"batch_norm": "frozen", "dropout": 0.0, "overlap": 0.0},
    BlstmSettings: {"overlap": 0.0},
}
"""Settings of weights that Spleeter trained."""


@dataclass(frozen=True)
class Imported:
    """What was written, or with `dry_run` would be.

    Attributes
    ----------
    run : the folder.
    model, settings, step : as in `baselines.models.Checkpoint`; the step is 0 where the source does not say it.
    nb_parameters : numbers that training changes, of all targets.
    nb_bytes : size of the weights.
    files : SHA-256 of each file that was read, by name.
    notes : what had to be assumed, or was changed.
    """

    run: Path
    model: str
    settings: Any
    step: int
    nb_parameters: int
    nb_bytes: int
    files: dict[str, str]
    notes: tuple[str, ...] = ()


def import_weights(
    source: Path | Sequence[Path],
    model: str,
    run: Path,
    *,
    config: Path | None = None,
    targets: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Imported:
    """Make a run of weights that others' programs trained; return what was written.

    Parameters
    ----------
    source : of Spleeter's models an `.npz`; of Open-Unmix a folder, or files, called `<target>.pth` or
        `<target>-<hash>.pth` (or `.safetensors`); of block U-Nets what `import_block_unet` takes.
    model : one of `baselines.models.MODELS`.
    run : the folder to write.
    config : Spleeter's JSON of the model. By default the number of its targets tells which of the released U-Nets it
        is: 2, 4 or 5 stems, up to 11 kHz.
    targets : of Spleeter's models, other names for the targets, in their order; of Open-Unmix's, those to import; of
        block U-Nets, which the files are of.
    changes : of block U-Nets, settings that their tensors do not tell, by name.
    force : whether to replace a run that is there.
    dry_run : whether to read and check everything, but to write nothing.

    Raises
    ------
    DatasetError
        A file is missing, cannot be read or is another kind of file; or the run's folder is not free.
    ParameterError
        There is no such model, or they are no weights of it.
    """
    paths = [source] if isinstance(source, Path) else list(source)
    if config is not None and model in ("open-unmix", "block-unet"):
        raise ParameterError(f"{config}: a Spleeter configuration, which says nothing of {model}: leave it out")
    if changes and model != "block-unet":
        raise ParameterError(f"{min(changes)} is set, but the files of {model} tell all settings: leave it out")
    if model == "block-unet":
        read = read_block_unets(paths, targets, changes)
        found = _Found(read.settings, read.weights, read.step, read.paths, read.notes)
    elif model == "open-unmix":
        found = _read_openunmix(_find_openunmix_files(paths), targets)
    elif model in ("spleeter-unet", "spleeter-blstm"):
        if len(paths) != 1 or paths[0].suffix != ".npz":
            raise ParameterError(
                f"{', '.join(map(str, paths))}: expected one .npz for {model}: examples/export_spleeter_weights.py "
                "makes it of a checkpoint, in the Python that has Spleeter"
            )
        found = _read_spleeter(paths[0], model, config, targets)
    else:
        raise ParameterError(
            f"no weights are imported for model {model}: expected open-unmix, block-unet or a model of Spleeter's"
        )
    names = [path.name for path in found.paths]
    if len(set(names)) < len(names):  # of folders of their own
        names = [f"{path.absolute().parent.name}/{path.name}" for path in found.paths]
    files = {name: hash_file(path) for name, path in zip(names, found.paths, strict=True)}
    record: dict[str, Any] = {"files": files, "config": None if config is None else config.name}
    if found.notes:
        record["notes"] = list(found.notes)
    with torch.device("meta"):
        network = create(model, found.settings)
    if dry_run:
        check_weights(found.weights, network.state_dict(), str(run))
        check_free(run, force)
    else:
        write_weights(run, model, found.settings, found.weights, step=found.step, source=record, force=force)
    nb_parameters = sum(parameter.numel() for parameter in network.parameters())
    nb_bytes = sum(tensor.nbytes for tensor in found.weights.values())
    return Imported(run, model, found.settings, found.step, nb_parameters, nb_bytes, files, found.notes)


@dataclass(frozen=True)
class _Found:
    """What was read: the settings, the state of our network of all targets, the step, of which files, and notes."""

    settings: Any
    weights: dict[str, Tensor]
    step: int
    paths: list[Path]
    notes: tuple[str, ...] = ()


# Spleeter


def from_spleeter(arrays: Mapping[str, Array], settings: UnetSettings | BlstmSettings) -> dict[str, Tensor]:
    """Return the state of our network from the variables of a Spleeter checkpoint [float32].

    The U-Net's order of axes is verified against Spleeter 2.4.2 itself (tests/parity/test_spleeter_model.py). The
    recurrent network's layers run on GPUs only; their variables hold cuDNN's flat parameters: each gate's kernel,
    (outputs, inputs), is stored under the shape (inputs, outputs) without being transposed. Verified against the
    conversion to ordinary layers that Keras 2.12 has itself (`hdf5_format.preprocess_weights_for_loading`), on a CPU.

    Parameters
    ----------
    arrays : values by the variables' names; what only training needs is ignored.
    settings : which network.

    Raises
    ------
    ParameterError
        A variable is missing, unknown, of another shape, or not finite.
    """
    with torch.device("meta"):
        if isinstance(settings, BlstmSettings):
            expected = SpleeterBlstm(settings).state_dict()
            rows = [_blstm_variables(settings.nb_layers, i) for i in range(len(settings.targets))]
        else:
            expected = SpleeterUnet(settings).state_dict()
            rows = [_unet_variables(len(settings.filters), i) for i in range(len(settings.targets))]
    left = {name for name in arrays if not _IGNORED.fullmatch(name)}
    weights: dict[str, Tensor] = {}
    for i, target in enumerate(settings.targets):
        for name, key, convert in rows[i]:
            key = f"networks.{target}.{key}"
            if name not in arrays:
                where = f"target {i + 1} of {len(settings.targets)}, {target}"
                raise ParameterError(f"no variable {name}, which {where}, needs: fewer targets, or another model")
            array, shape = arrays[name], expected[key].shape[::-1]
            if convert in _HALVES:
                shape = torch.Size([2 * shape[0]])
            if array.shape != shape or array.dtype.kind != "f":
                raise ParameterError(
                    f"variable {name} is {array.dtype} {array.shape}, expected float32 {tuple(shape)}: "
                    "other settings, or another model"
                )
            if not np.isfinite(array).all():
                raise ParameterError(f"variable {name} is not finite: export it again, or take an earlier checkpoint")
            weights[key] = torch.from_numpy(np.array(convert(array), np.float32, order="C"))
            left.discard(name)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ParameterError(
            f"unknown variable {printable(min(left))}{more}: expected those of {len(settings.targets)} targets "
            f"({', '.join(settings.targets)}): more targets, or another model"
        )
    return weights


_Row = tuple[str, str, Callable[[Array], Array]]

_LAYER: Final = {"kernel": "weight", "bias": "bias"}
_NORM: Final = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def _number(layer: str, index: int) -> str:
    """Return a layer's name as Keras makes it."""
    return f"{layer}_{index}" if index else layer


def _unet_variables(nb_stages: int, i: int) -> Iterator[_Row]:
    """Yield the variables of the U-Net number `i`: their names, our names, and how to convert them."""
    layers = []
    for j in range(nb_stages):
        layers += [
            ("conv2d", (nb_stages + 1) * i + j, f"encoder.{j}.convolution"),
            ("batch_normalization", 2 * nb_stages * i + j, f"encoder.{j}.norm"),
            ("conv2d_transpose", nb_stages * i + j, f"decoder.{j}.deconvolution"),
            ("batch_normalization", 2 * nb_stages * i + nb_stages + j, f"decoder.{j}.norm"),
        ]
    layers.append(("conv2d", (nb_stages + 1) * i + nb_stages, "head"))
    for layer, index, ours in layers:
        for name, key in (_NORM if layer == "batch_normalization" else _LAYER).items():
            yield f"{_number(layer, index)}/{name}", f"{ours}.{key}", np.transpose


def _blstm_variables(nb_layers: int, i: int) -> Iterator[_Row]:
    """Yield the variables of the recurrent network number `i`, as `_unet_variables` does."""
    for layer in range(nb_layers):
        index = nb_layers * i + layer
        for direction, suffix in (("forward", ""), ("backward", "_reverse")):
            prefix = f"{_number('bidirectional', index)}/{_number(f'{direction}_cu_dnnlstm', index)}"
            yield f"{prefix}/kernel", f"lstm.weight_ih_l{layer}{suffix}", _split_gates
            yield f"{prefix}/recurrent_kernel", f"lstm.weight_hh_l{layer}{suffix}", _split_gates
            yield f"{prefix}/bias", f"lstm.bias_ih_l{layer}{suffix}", _first_half
            yield f"{prefix}/bias", f"lstm.bias_hh_l{layer}{suffix}", _second_half
    for name, key in _LAYER.items():
        yield f"{_number('time_distributed', 2 * i + 1)}/{name}", f"dense.{key}", np.transpose


def _split_gates(kernel: Array) -> Array:
    """Return the kernels of four gates, one below the other [shape=(4 * nb_outputs, nb_inputs)]."""
    nb_inputs, nb_outputs = kernel.shape[0], kernel.shape[1] // 4
    return np.concatenate([gate.reshape(nb_outputs, nb_inputs) for gate in np.split(kernel, 4, axis=1)])


def _first_half(bias: Array) -> Array:
    """Return the biases that are added to what comes in."""
    return bias[: len(bias) // 2]


def _second_half(bias: Array) -> Array:
    """Return the biases that are added to what comes back."""
    return bias[len(bias) // 2 :]


_HALVES: Final = (_first_half, _second_half)


def _read_spleeter(path: Path, model: str, config: Path | None, targets: Sequence[str] | None) -> _Found:
    """Return what a file of variables holds."""
    arrays = read_npz(path, "examples/export_spleeter_weights.py")
    settings = _find_spleeter_settings(arrays, model, config, targets, path)
    try:
        weights = from_spleeter(arrays, settings)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error
    return _Found(settings, weights, int(arrays.get("global_step", 0)), [path])


def _find_spleeter_settings(
    arrays: Mapping[str, Array], model: str, config: Path | None, targets: Sequence[str] | None, source: Path
) -> UnetSettings | BlstmSettings:
    """Return the settings of a Spleeter checkpoint."""
    kind: type[Any] = UnetSettings if model == "spleeter-unet" else BlstmSettings
    changes = dict(_AS_UPSTREAM[kind])
    if targets is not None:
        changes["targets"] = tuple(targets)
    if config is not None:
        read = read_config(config)
        is_recurrent = isinstance(make_settings(read), BlstmSettings)
        if is_recurrent != (kind is BlstmSettings):
            other = "spleeter-blstm" if is_recurrent else "spleeter-unet"
            raise ParameterError(f"{config}: model type {read.model}, expected one of {model}: import it as {other}")
        return make_settings(read, **changes)
    if kind is BlstmSettings:
        raise ParameterError(f"{source}: a recurrent model, of which none was released: give its Spleeter JSON, too")
    nb_targets = sum(name.startswith("conv2d_transpose") and name.endswith("/kernel") for name in arrays) // 6
    if nb_targets not in _RELEASED:
        raise ParameterError(f"{source}: {nb_targets} U-Nets, expected 2, 4 or 5: give the model's Spleeter JSON, too")
    return dataclasses.replace(_RELEASED[nb_targets], **changes)


# Open-Unmix


def from_openunmix(state: Mapping[str, Tensor], settings: OpenUnmixSettings) -> dict[str, Tensor]:
    """Return the state of our network of one target from that of Open-Unmix's, without what older versions add.

    Raises
    ------
    ParameterError
        A tensor is missing, unknown or of another shape.
    """
    weights = {name: tensor for name, tensor in state.items() if name not in _EXTRA_KEYS}
    with torch.device("meta"):
        expected = OpenUnmix(settings).state_dict()
    check_weights(weights, expected, "Open-Unmix")
    return weights


def openunmix_settings(
    states: Mapping[str, Mapping[str, Tensor]], *, sample_rate: int | None = None, hop_length: int | None = None
) -> OpenUnmixSettings:
    """Return the settings of Open-Unmix's networks, from the shapes of their tensors.

    The dropout of training leaves no trace; it is as in the defaults.

    Parameters
    ----------
    states : Open-Unmix's state of each target.
    sample_rate : Hz; by default what the states say (some do), and 44100 for frames of 4096 samples.
    hop_length : samples; by default 1024 for frames of 4096 samples. Tensors say nothing of it.

    Raises
    ------
    ParameterError
        They are no states of Open-Unmix, differ from each other, or do not tell the sample rate or hop length.
    """
    found = {target: _measure(target, state) for target, state in states.items()}
    first_target, first = next(iter(found.items()))
    for target, sizes in found.items():
        for name, value in sizes.items():
            if value != first[name]:
                raise ParameterError(
                    f"{name} of {target} is {value}, but {first[name]} of {first_target}: expected targets alike: "
                    "import them to runs of their own"
                )
    nb_input_bins, n_fft = first.pop("nb_input_bins"), first["n_fft"]
    rates = {round(float(state["sample_rate"])) for state in states.values() if "sample_rate" in state}
    rates |= {sample_rate} if sample_rate else set()
    if len(rates) > 1:
        raise ParameterError(f"sample rates of {' and '.join(map(str, sorted(rates)))} Hz: expected one")
    rate = rates.pop() if rates else (44100 if n_fft == 4096 else None)
    hop = hop_length or (1024 if n_fft == 4096 else None)
    if rate is None or hop is None:
        raise ParameterError(
            f"sample rate and hop length are not known of frames of {n_fft} samples: put Open-Unmix's separator.json "
            "beside the weights"
        )
    settings = OpenUnmixSettings(**first, targets=tuple(states), bandwidth=None, sample_rate=rate, hop_length=hop)
    for bandwidth in (None, 16000.0, (nb_input_bins - 0.5) * rate / n_fft):  # the last: between two bins
        settings = dataclasses.replace(settings, bandwidth=bandwidth)
        if settings.nb_input_bins == nb_input_bins:
            break
    return settings


def _measure(target: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the tensors of a target tell."""
    try:
        recurrent = state["lstm.weight_hh_l0"]
        nb_bins = len(state["output_scale"])
        bidirectional = "lstm.weight_hh_l0_reverse" in state
        return {
            "nb_channels": len(state["fc3.weight"]) // nb_bins,
            "hidden_size": recurrent.shape[1] * (2 if bidirectional else 1),
            "nb_layers": sum(re.fullmatch(r"lstm\.weight_hh_l\d+", name) is not None for name in state),
            "bidirectional": bidirectional,
            "n_fft": 2 * (nb_bins - 1),
            "nb_input_bins": len(state["input_mean"]),
        }
    except (KeyError, IndexError, TypeError) as error:
        raise ParameterError(f"{target}: no weights of Open-Unmix: {error} is missing or not as expected") from error


_FILE: Final = re.compile(r"(?P<target>.+?)(-[0-9a-f]{8})?\.(pth|safetensors)")
"""Names of files of weights; the digits are the beginning of a hash."""


def _find_openunmix_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files of weights by target, the usual targets first."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder")
        files += sorted(path.iterdir()) if path.is_dir() else [path]
    found: dict[str, Path] = {}
    for path in files:
        match = _FILE.fullmatch(path.name)
        if match is None and path in paths:
            raise DatasetError(f"{path}: expected a file <target>.pth, <target>-<hash>.pth or .safetensors")
        if match is None:
            continue
        target = match["target"]
        if target in found:
            raise DatasetError(f"{path}: {target} is in {found[target]}, too: expected one file for each target")
        found[target] = path
    if not found:
        raise DatasetError(f"{paths[0]}: no files <target>.pth, <target>-<hash>.pth or .safetensors of Open-Unmix")
    usual = OpenUnmixSettings().targets
    return {target: found[target] for target in sorted(found, key=lambda target: (*usual, target).index(target))}


def _read_openunmix(found: Mapping[str, Path], targets: Sequence[str] | None) -> _Found:
    """Return what files of weights hold."""
    chosen = tuple(found) if targets is None else tuple(targets)
    for target in chosen:
        if target not in found:
            raise DatasetError(
                f"no weights of {target}: found those of {', '.join(found)}: name files TARGET.pth or TARGET-HASH.pth"
            )
    states = {target: read_tensors(found[target]) for target in chosen}
    beside = sorted({path.parent / "separator.json" for path in found.values()})
    said: dict[str, int] = {}
    for path in filter(Path.exists, beside):
        said = _read_separator(path)
        for target, state in states.items():
            sizes = _measure(target, state)
            for key, name in (("nfft", "n_fft"), ("nb_channels", "nb_channels")):
                if said[key] != sizes[name]:
                    raise ParameterError(
                        f"{path}: {key} is {said[key]}, but the weights of {target} have {sizes[name]}"
                    )
    settings = openunmix_settings(states, sample_rate=said.get("sample_rate"), hop_length=said.get("nhop"))
    weights: dict[str, Tensor] = {}
    for target, state in states.items():
        try:
            ours = from_openunmix(state, settings)
        except ParameterError as error:
            raise ParameterError(f"{found[target]}: {error}") from error
        weights |= {f"networks.{target}.{name}": tensor for name, tensor in ours.items()}
    return _Found(settings, weights, 0, [found[target] for target in chosen])


def _read_separator(path: Path) -> dict[str, int]:
    """Return the numbers of Open-Unmix's separator.json."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {key: int(document[key]) for key in ("sample_rate", "nfft", "nhop", "nb_channels")}
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: expected JSON with sample_rate, nfft, nhop and nb_channels") from error
