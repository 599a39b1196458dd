"""Weights of the original U-Nets with blocks of various kinds, of both its generations, for ours.

Reads a file for each target: what `torch.save` wrote of a `state_dict()` on whatever device, the same as
`.safetensors`, a checkpoint of Lightning that holds nothing but tensors and plain values, or the `.npz` that
`examples/export_lightning_checkpoint.py` makes of any other. Writes nothing; `convert_weights` does.

Two generations, told from each other by the names of tensors:

| | older | newer |
|---|---|---|
| names | downsampling, upsampling, final_conv | downsamplings, upsamplings, last_conv |
| axes of the first and the last kernel | bins, frames | frames, bins |
| channels of complex spectra | Re L, Im L, Re R, Im R | Re L, Re R, Im L, Im R |
| frames | begin with the signal, half of one from one to the next | centred |

Ours has the names and the layout of the newer one. Around the names may be prefixes: `module.`, of networks that were
trained on several GPUs, and `spec2spec.`, of the networks in Lightning's modules.

What tensors tell of the settings is taken from them. What they do not, Lightning's `hyper_parameters` say, where there
are any, or it is assumed to be what the original has by default; a note says so.

References
----------
github.com/ws-choi/ISMIR2020_U_Nets_SVS: `source_separation/` is the newer generation, `frameworks.py`,
`intermediate_layers.py` and `utils_ismir.py` of its history the older one.
"""

import dataclasses
import json
import pickle
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from baselines.block_unet import BlockUnet, BlockUnetSettings
from baselines.models import check_weights, settings_from_json
from baselines.weight_files import read_document, read_npz, take_tensors
from musdbkit.errors import DatasetError, ParameterError, printable
from musdbkit.musdb18 import TARGETS

SCRIPT: Final = "examples/export_lightning_checkpoint.py"

State = Mapping[str, Tensor]

_MODEL: Final = "block-unet"
_HYPER_PARAMETERS: Final = "hyper_parameters"  # Lightning's name for them
_PREFIXES: Final = re.compile(r"^((module|spec2spec)\.)+")
_WINDOW: Final = re.compile(r"stft\.(.+\.)?window")
_WINDOW_ERROR: Final = 1e-5  # of float32, whatever computed it

_OLD_NAMES: Final = {"downsampling": "downsamplings", "upsampling": "upsamplings", "final_conv": "last_conv"}
"""Parts of the older generation's network, and the newer one's names for them."""

_DENSE: Final = {"tfc": "", "tdc": "", "tfc-tdf": "tfc.", "tdc-rnn": "tic."}
"""Where in a block its convolutions are."""

_TDFS: Final = {"tdf": "tif.", "tfc-tdf": "tif.tif.", "tdc-rnn": "tif_f1_to_f2.tif."}
"""Where in a block its fully connected layers are."""

_SAID: Final = {
    "n_fft": "n_fft",
    "hop_length": "hop_length",
    "num_frame": "nb_frames",
    "spec_type": "spec_type",
    "spec_est_mode": "spec_est_mode",
    "first_conv_activation": "first_conv_activation",
    "last_activation": "last_activation",
    "tfc_tdf_activation": "activation",
    "tfc_activation": "activation",
    "tdc_activation": "activation",
    "tdf_activation": "activation",
    "tdc_rnn_activation": "activation",
}
"""The original's options that the tensors do not tell of, and our names."""


@dataclass(frozen=True)
class Source:
    """What files hold.

    Attributes
    ----------
    settings : of the networks of all targets.
    weights : their state, `networks.<target>.<name>`.
    step : batches that the networks were trained on, the most of any target.
    paths : the files, in the order of the targets.
    notes : what had to be assumed, or was changed.
    """

    settings: BlockUnetSettings
    weights: dict[str, Tensor]
    step: int
    paths: list[Path]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Network:
    """One target's: its state in our layout, and what it tells and what is said of its settings.

    Attributes
    ----------
    path : the file.
    state : of a `BlockUnet`.
    old : whether it was of the older generation.
    told : settings that the tensors tell.
    said : settings that the file says.
    target : that the file says, or empty.
    """

    path: Path
    state: dict[str, Tensor]
    old: bool
    told: dict[str, Any]
    said: dict[str, Any]
    target: str


def read_block_unets(
    paths: Sequence[Path], targets: Sequence[str] | None = None, changes: Mapping[str, Any] | None = None
) -> Source:
    """Return the settings and the weights of networks of the original.

    Parameters
    ----------
    paths : a file for each target. Its name has the target's among its words, such as `vocals.pt` or
        `cac_tdc_17_vocals_top1.pt`; of one file for one of `targets` it does not matter.
    targets : which targets the files are of; by default, the usual names are looked for.
    changes : settings that are not told by the tensors, by name, as JSON has them.

    Raises
    ------
    DatasetError
        A file cannot be read, or holds something else.
    ParameterError
        They are no weights of such networks, not of the same kind, or other ones than `changes` say.
    """
    changes = dict(changes or {})
    if "targets" in changes:
        raise ParameterError("targets cannot be changed like other settings: name them with --targets")
    networks = _assign([_read_network(path, changes) for path in paths], targets)
    found = {target: _find_settings(network, changes) for target, network in networks.items()}
    settings = _unite(found)
    weights = {
        f"networks.{target}.{name}": tensor
        for target, network in networks.items()
        for name, tensor in network.state.items()
    }
    step = max(int(network.state["first_conv.1.num_batches_tracked"]) for network in networks.values())
    notes = _note(list(networks.values()), settings, changes)
    return Source(settings, weights, step, [network.path for network in networks.values()], notes)


def _unite(found: Mapping[str, BlockUnetSettings]) -> BlockUnetSettings:
    """Return the settings of the networks of all targets."""
    (first_target, first), *others = found.items()
    for target, settings in others:
        for field in dataclasses.fields(first):
            values = getattr(settings, field.name), getattr(first, field.name)
            if values[0] != values[1]:
                raise ParameterError(
                    f"{field.name} of {target} is {values[0]}, but {values[1]} of {first_target}: expected targets "
                    "alike: import them to runs of their own"
                )
    return dataclasses.replace(first, targets=tuple(found))


# Files and targets


def _assign(networks: Sequence[_Network], targets: Sequence[str] | None) -> dict[str, _Network]:
    """Return the networks by target, in the order of `targets` or else the usual ones."""
    names = tuple(dict.fromkeys((*BlockUnetSettings.targets, *TARGETS)) if targets is None else targets)
    if targets is not None and len(names) == len(networks) == 1:
        return {names[0]: networks[0]}
    found: dict[str, _Network] = {}
    for network in networks:
        name = network.path.name
        words = [name[: -len(network.path.suffix)], *re.split(r"[^0-9A-Za-z]+", name)]
        matches = [target for target in names if target in words] or [t for t in names if t == network.target]
        if len(matches) != 1:
            raise ParameterError(
                f"{network.path}: its name has {' and '.join(matches) or 'none'} of {', '.join(names)} in it, "
                "expected one: name it TARGET.pt, or import it alone with one name for --targets"
            )
        if matches[0] in found:
            other = found[matches[0]].path
            raise ParameterError(f"{network.path}: {matches[0]} is in {other}, too: expected one file for each target")
        found[matches[0]] = network
    missing = [target for target in names if target not in found]
    if targets is not None and missing:
        raise ParameterError(f"no weights of {missing[0]}: found those of {', '.join(found)}: name a file TARGET.pt")
    return {target: found[target] for target in names if target in found}


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by name, and what it says of the settings."""
    document: Any
    said: Any = {}
    if path.suffix == ".npz":
        arrays = read_npz(path, SCRIPT)
        try:
            said = json.loads(str(arrays.pop(_HYPER_PARAMETERS, "{}")))
            document = {name: torch.from_numpy(array) for name, array in arrays.items()}
        except (ValueError, TypeError, RecursionError) as error:
            raise DatasetError(f"{path}: no .npz of tensors: write it with {SCRIPT}") from error
    else:
        try:
            document = read_document(path)
        except DatasetError as error:
            if isinstance(error.__cause__, pickle.UnpicklingError) and _is_lightning(path):
                raise DatasetError(
                    f"{path}: more than tensors, which is not read: if it is a checkpoint of Lightning that you "
                    f"trust, {SCRIPT} makes an .npz of it, in the Python of the original"
                ) from error
            raise
        if isinstance(document, dict) and isinstance(document.get("state_dict"), dict):
            said = document.get(_HYPER_PARAMETERS, {})
            document = document["state_dict"]
    tensors = {str(name): tensor.detach().clone() for name, tensor in take_tensors(path, document).items()}
    return tensors, said if isinstance(said, dict) else {}


def _is_lightning(path: Path) -> bool:
    """Return whether a file that could not be read seems to be Lightning's."""
    return path.suffix == ".ckpt" or re.search(rb"pytorch[-_]lightning", path.read_bytes()) is not None


def _read_network(path: Path, changes: Mapping[str, Any]) -> _Network:
    """Return what a file holds, in our layout."""
    if path.is_dir():
        raise DatasetError(f"{path}: a folder, expected a file for each target")
    tensors, hyper_parameters = _read_file(path)
    said = {ours: hyper_parameters[name] for name, ours in _SAID.items() if hyper_parameters.get(name) is not None}
    for name in ("activation", "first_conv_activation", "last_activation"):
        if isinstance(said.get(name), str):
            said[name] = said[name].replace("_", "-")
    try:
        state, windows = _strip(tensors)
        old = _is_old(state)
        told = _find_window(windows)
        if old:
            state = _rename(state)
        told |= _measure(state, dict(said) | dict(changes), told)
        state = _fit_samplings(state, told["block"])
        if old:
            state = _convert_layout(state, told["spec_type"])
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{path}: no weights of the original's U-Nets: {printable(error)}: missing, or not as expected"
        ) from error
    return _Network(path, state, old, told, said, str(hyper_parameters.get("target_name", "")))


# Layout


def _strip(tensors: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the network's tensors by their names in it, and the windows of its transforms."""
    if any(name.startswith("networks.") for name in tensors):
        raise ParameterError("weights of a run of ours: separate takes its folder as it is")
    state = {_PREFIXES.sub("", name): tensor for name, tensor in tensors.items()}
    if len(state) < len(tensors):
        raise ParameterError("names of tensors with and without a prefix, expected one network")
    windows = {name: state.pop(name) for name in list(state) if _WINDOW.fullmatch(name)}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ParameterError(f"{name} is not finite: take an earlier checkpoint")
    return state, windows


def _is_old(state: State) -> bool:
    """Return whether the names are the older generation's."""
    parts = {name.partition(".")[0] for name in state}
    old, new = parts & set(_OLD_NAMES), parts & set(_OLD_NAMES.values())
    if old and new:
        raise ParameterError(f"names of both generations: {min(old)} and {min(new)}")
    if not old | new:
        raise ParameterError("no weights of the original's U-Nets: neither last_conv nor final_conv is there")
    return bool(old)


def _rename(state: State) -> dict[str, Tensor]:
    """Return the older generation's tensors by the newer one's names."""
    renamed = {}
    for name, tensor in state.items():
        part, dot, rest = name.partition(".")
        renamed[_OLD_NAMES.get(part, part) + dot + rest] = tensor
    return renamed


def _fit_samplings(state: State, block: str) -> dict[str, Tensor]:
    """Return a state in which convolutions between levels have the names and axes that our network's have.

    Both kinds that the original has compute the same, of which the older generation leaves the choice to its user.
    """
    by_frame = block in ("tdf", "tdc")
    names = {"0": "conv", "1": "bn"} if by_frame else {"conv": "0", "bn": "1"}
    fitted = {}
    for name, tensor in state.items():
        part, *rest = name.split(".")
        if part in ("downsamplings", "upsamplings") and len(rest) > 1:
            rest[1] = names.get(rest[1], rest[1])
            if not by_frame and tensor.ndim == 3:
                tensor = tensor.unsqueeze(2)
            elif by_frame and tensor.ndim == 4 and tensor.shape[2] == 1:
                tensor = tensor.squeeze(2)
        fitted[".".join([part, *rest])] = tensor
    if len(fitted) < len(state):
        raise ParameterError("convolutions between levels under two names each, expected one network")
    return fitted


def _convert_layout(state: State, spec_type: str) -> dict[str, Tensor]:
    """Return a state of the older generation's in the newer one's order of axes and channels."""
    state = dict(state)
    first, last, bias = "first_conv.0.weight", "last_conv.0.weight", "last_conv.0.bias"
    for name in (first, last):
        state[name] = state[name].transpose(-1, -2)
    if spec_type == "complex":
        nb_inputs = state[first].shape[1]
        order = torch.arange(nb_inputs).reshape(-1, 2).T.flatten()  # all real parts, then all imaginary ones
        state[first] = state[first][:, order]
        for name in (last, bias):
            if len(state[name]) != nb_inputs:
                raise ParameterError(f"{name} has {len(state[name])} channels, but {first} {nb_inputs}")
            state[name] = state[name][order]
    return state


# Settings


def _find_window(windows: State) -> dict[str, Any]:
    """Return `n_fft`, where the window of a transform tells it."""
    lengths = set()
    for name, window in windows.items():
        if window.ndim != 1 or len(window) < 2 or not window.is_floating_point():
            raise ParameterError(f"{name} is {window.dtype} {tuple(window.shape)}, expected a window")
        expected = torch.hann_window(len(window), dtype=torch.float64)
        if not torch.allclose(window.double(), expected, rtol=0, atol=_WINDOW_ERROR):
            raise ParameterError(
                f"{name} is no periodic Hann window (it was trained, too), which separation would use in its place"
            )
        lengths.add(len(window))
    if len(lengths) > 1:
        raise ParameterError(f"windows of {' and '.join(map(str, sorted(lengths)))} samples, expected one length")
    return {"n_fft": lengths.pop()} if lengths else {}


def _measure(state: State, given: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that tensors tell; of several that would do, those that are given or else the simplest."""
    block = _find_block(state)
    nb_channels, nb_inputs = state["first_conv.0.weight"].shape[:2]
    spec_type, nb_wave_channels = _find_channels(nb_inputs, given)
    nb_levels = len({name.split(".")[1] for name in state if name.startswith("downsamplings.")})
    blocks = [*(f"encoders.{i}" for i in range(nb_levels)), "mid_block"]
    found: dict[str, Any] = {
        "block": block,
        "nb_channels": nb_wave_channels,
        "spec_type": spec_type,
        "n_blocks": 2 * nb_levels + 1,
        "internal_channels": nb_channels,
        **_find_levels(state, block, nb_levels),
    }
    if block in _DENSE:
        prefix = f"mid_block.{_DENSE[block]}H."
        kernel = state[f"{prefix}0.0.weight"].shape[2:]
        found["n_internal_layers"] = len(
            {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
        )
        found["kernel_size_f"] = kernel[-1]
        if len(kernel) == 2:
            found["kernel_size_t"] = kernel[0]
    if block in _TDFS:
        found |= _measure_tdfs(state, [f"{name}.{_TDFS[block]}" for name in blocks], given)
        default = found["bias"] or block == "tdc-rnn"
        affine = f"mid_block.{_TDFS[block]}1.weight" in state
        found["affine"] = None if affine == default else affine
        nb_bins = state[
            f"{blocks[0]}.rnn.weight_ih_l0" if block == "tdc-rnn" else f"{blocks[0]}.{_TDFS[block]}0.weight"
        ]
        n_fft = 2 * nb_bins.shape[1]
        if told.get("n_fft", n_fft) != n_fft:
            raise ParameterError(f"a window of {told['n_fft']} samples, but blocks for n_fft {n_fft}")
        found["n_fft"] = n_fft
    if block == "tdc-rnn":
        found |= _measure_rnns(state, [f"{name}.rnn." for name in blocks], given)
    return found


def _find_block(state: State) -> str:
    """Return the kind of blocks."""
    parts = {name.split(".")[1] for name in state if name.startswith("mid_block.")}
    if parts == {"tfc", "tif"}:
        return "tfc-tdf"
    if parts == {"tic", "bn", "rnn", "tif_f1_to_f2"}:
        return "tdc-rnn"
    if parts == {"tif"}:
        return "tdf"
    if parts == {"H"}:
        return "tdc" if state["mid_block.H.0.0.weight"].ndim == 3 else "tfc"
    raise ParameterError(f"blocks of {printable(', '.join(sorted(parts)) or 'nothing')}: no kind that is known here")


def _find_channels(nb_inputs: int, given: Mapping[str, Any]) -> tuple[str, int]:
    """Return the kind of spectra, and the number of the wave's channels: two, unless another number is given."""
    choices = [("complex", nb_inputs // 2)] * (nb_inputs % 2 == 0) + [("magnitude", nb_inputs)]
    wanted = given.get("nb_channels", BlockUnetSettings.nb_channels)
    found = [choice for choice in choices if choice[1] == wanted] or choices
    if len(found) != 1:
        raise ParameterError(f"spectra of {nb_inputs} channels: say with --set nb_channels=... how many the waves have")
    return found[0]


def _find_levels(state: State, block: str, nb_levels: int) -> dict[str, Any]:
    """Return at which levels frames and bins are halved; None stands for what is usual."""
    kernels = []
    for i in range(nb_levels):
        names = [f"downsamplings.{i}.{conv}.weight" for conv in ("conv", "0")]
        kernel = tuple(state[next((name for name in names if name in state), names[0])].shape[2:])
        kernels.append((1, *kernel)[-2:])
    frames, bins = (tuple(i for i, kernel in enumerate(kernels) if kernel[axis] == 2) for axis in (0, 1))
    levels = tuple(range(nb_levels))
    return {
        "t_down_layers": None if frames == (() if block in ("tdf", "tdc") else levels) else frames,
        "f_down_layers": None if bins == levels else bins,
    }


def _measure_tdfs(state: State, prefixes: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fully connected layers tell."""
    found: dict[str, Any] = {"bias": f"{prefixes[0]}0.bias" in state}
    if f"{prefixes[0]}3.weight" not in state:
        return found | {"bn_factor": None}
    widths = {(len(state[f"{prefix}3.weight"]), len(state[f"{prefix}0.weight"])) for prefix in prefixes}
    return found | _explain_widths(widths, "bn_factor", "min_bn_units", given)


def _measure_rnns(state: State, prefixes: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what recurrent layers tell."""
    names = [name.removeprefix(prefixes[0]) for name in state if name.startswith(prefixes[0])]
    found = {
        "num_layers_rnn": sum(re.fullmatch(r"weight_hh_l\d+", name) is not None for name in names),
        "bias_rnn": "bias_hh_l0" in names,
    }
    widths = {tuple(state[f"{prefix}weight_{kind}_l0"].shape[1] for kind in ("ih", "hh")) for prefix in prefixes}
    return found | _explain_widths(widths, "bn_factor_rnn", "min_bn_units_rnn", given)


def _explain_widths(
    widths: Set[tuple[int, ...]], factor_name: str, least_name: str, given: Mapping[str, Any]
) -> dict[str, int]:
    """Return a factor and a least width that give these widths for these numbers of bins: the simplest that do.

    That is with as many of the usual values (or given ones) as may be, a power of two, and small. What is given and
    does not fit is of no account here.
    """
    usual = [given.get(name, getattr(BlockUnetSettings, name)) for name in (factor_name, least_name)]
    least_width = min(width for _, width in widths)
    found = [
        (factor, least)
        for factor in range(1, max(nb_bins for nb_bins, _ in widths) + 1)
        for least in (usual[1], least_width)
        if type(least) is int and all(max(nb_bins // factor, least) == width for nb_bins, width in widths)
    ]
    if not found:
        listed = ", ".join(f"{width} for {nb_bins}" for nb_bins, width in sorted(widths, reverse=True))
        raise ParameterError(f"no {factor_name} and {least_name} explain layers of {listed} bins")

    def rank(pair: tuple[int, int]) -> tuple[int, bool, int]:
        factor, least = pair
        return (factor != usual[0]) + (least != usual[1]), factor & (factor - 1) != 0, factor

    factor, least = min(found, key=rank)
    return {factor_name: factor, least_name: least}


def _assume(network: _Network, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the original has by default of what the tensors do not tell."""
    known = network.told | dict(given)
    n_fft = known.get("n_fft", BlockUnetSettings.n_fft)
    whole = n_fft if type(n_fft) is int else BlockUnetSettings.n_fft  # what is no number is refused later
    assumed = {"n_fft": n_fft, "hop_length": 1024 if whole >= 2048 else whole // 4}
    if network.old:
        assumed |= {"hop_length": whole // 2, "nb_frames": 128 if whole == 4096 else 64, "centred": False, "trim": 5000}
    mode = "mapping" if network.told["spec_type"] == "complex" else "masking"
    return assumed | {"spec_est_mode": mode}


def _find_settings(network: _Network, changes: Mapping[str, Any]) -> BlockUnetSettings:
    """Return the settings of a network; its weights fit them."""
    given = network.said | dict(changes)
    try:
        document = _assume(network, given) | network.told | given
        settings: BlockUnetSettings = settings_from_json(_MODEL, document)
        with torch.device("meta"):
            expected = BlockUnet(settings).state_dict()
        wrong = [name for name in given if name in network.told and getattr(settings, name) != network.told[name]]
        fits = {name: tensor.shape for name, tensor in expected.items()} == {
            name: tensor.shape for name, tensor in network.state.items()
        }
        if wrong and (not fits or "n_fft" in wrong):
            values = ", ".join(
                f"{name} is {json.dumps(given[name])} {'with --set' if name in changes else 'as the file says'}, but "
                f"{json.dumps(network.told[name])} by the tensors"
                for name in wrong
            )
            raise ParameterError(f"{values}: leave it out, or take the file that was meant")
        check_weights(network.state, expected, "the network")
    except ParameterError as error:
        raise ParameterError(f"{network.path}: {error}") from error
    return settings


def _note(networks: Sequence[_Network], settings: BlockUnetSettings, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a user should know."""
    notes = []
    if any(network.old for network in networks):
        notes.append("older generation: axes and channels were brought into the newer one's order")
    known = set(changes).union(*(network.told.keys() | network.said.keys() for network in networks))
    names = ["n_fft", "hop_length", "nb_frames", "spec_est_mode"]
    names += [] if any(network.old for network in networks) else ["activation", "first_conv_activation"]
    assumed = [f"{name} {getattr(settings, name)}" for name in names if name not in known]
    if "last_activation" not in known:
        assumed.append(f"last_activation {settings.output_activation}")
    if assumed:
        notes.append(f"assumed, as the weights do not tell: {', '.join(assumed)}: --set NAME=VALUE says otherwise")
    return tuple(notes)
