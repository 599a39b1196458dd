"""The models, by name, and their weights on disk.

Reads and writes a run's folder:

| file | what it holds |
|---|---|
| `<run>/best.json`, `<run>/last.json` | a checkpoint: model, settings, step, files, and how it was trained |
| `<run>/best-<step>.safetensors`, `<run>/last-<step>.safetensors` | the weights, which separation uses |
| `<run>/state-<step>.safetensors` | what training needs beside them to go on, of the last checkpoint |

A checkpoint is its JSON: that is written last, by a rename, and names the other files with their SHA-256. So whatever
happens, the JSON that is there describes files that are whole. Files that no JSON names are removed by the next write.
What is written anew at the same step, with other content, is `<choice>-<step>-1.safetensors`. Nothing here is a pickle.
"""

import contextlib
import dataclasses
import difflib
import fcntl
import hashlib
import itertools
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from baselines.auto_transformer import AutoTransformerSet, AutoTransformerSettings
from baselines.block_unet import BlockUnetSet, BlockUnetSettings
from baselines.open_unmix import OpenUnmixSet, OpenUnmixSettings
from baselines.spleeter_blstm import BlstmSettings, SpleeterBlstm
from baselines.spleeter_unet import SpleeterUnet, UnetSettings
from baselines.umx_transformer import UmxTransformerSet, UmxTransformerSettings
from musdbkit import __version__
from musdbkit.errors import DatasetError, ParameterError

VERSION: Final = 1
"""Version of the format."""

LOG: Final = "metrics.jsonl"
"""Name of a run's log."""

DEVICES: Final = ("auto", "cpu", "cuda")
"""Where to compute; `auto` is a GPU if there is one."""

CHOICES: Final = ("best", "last")
"""The checkpoints of a run: the one that validated best, and the one that training goes on from."""


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes
    ----------
    settings : dataclass of what may be chosen; its instances have the transforms, too.
    network : made from settings; takes magnitudes of the mixture, or its spectra, and gives those of all targets.
    reads : what it trains on: `cache` (magnitudes) or `waves`.
    """

    settings: type[Any]
    network: type[nn.Module]
    reads: str


MODELS: Final = {
    "spleeter-unet": Kind(UnetSettings, SpleeterUnet, "cache"),
    "spleeter-blstm": Kind(BlstmSettings, SpleeterBlstm, "cache"),
    "open-unmix": Kind(OpenUnmixSettings, OpenUnmixSet, "waves"),
    "block-unet": Kind(BlockUnetSettings, BlockUnetSet, "waves"),
    "umx-transformer": Kind(UmxTransformerSettings, UmxTransformerSet, "waves"),
    "auto-transformer": Kind(AutoTransformerSettings, AutoTransformerSet, "waves"),
}
"""All models by name."""


@dataclass(frozen=True)
class Checkpoint:
    """What the JSON of a checkpoint holds.

    Attributes
    ----------
    model : one of `MODELS`.
    settings : an instance of the model's settings.
    step : optimiser steps that were taken.
    weights : name of the file with the weights, in the run's folder.
    files : SHA-256 of each file of the checkpoint, by name.
    training : how the weights came about: recipe, losses, data, and what the training loop must remember.
    versions : of Python packages, and `commit` of the source where it is known.
    """

    model: str
    settings: Any
    step: int
    weights: str
    files: dict[str, str]
    training: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Loaded:
    """A network with its weights.

    Attributes
    ----------
    model, settings, step : as in `Checkpoint`.
    network : in evaluation mode, without gradients.
    path : the file of the weights.
    sha256 : of that file.
    choice : `best` or `last`.
    """

    model: str
    settings: Any
    network: nn.Module
    path: Path
    sha256: str
    step: int
    choice: str


def find_kind(model: str) -> Kind:
    """Return what is known of a model.

    Raises
    ------
    ParameterError
        There is no such model.
    """
    if model in MODELS:
        return MODELS[model]
    near = difflib.get_close_matches(model, MODELS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(MODELS)}"
    raise ParameterError(f"no model {model}: {hint}")


def create(model: str, settings: Any) -> nn.Module:
    """Return a network with random weights, from torch's random numbers."""
    network: nn.Module = find_kind(model).network(settings)
    return network


def settings_to_json(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON has them."""
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), allow_nan=False))
    return document


def from_json(kind: type[Any], document: Any, where: str) -> Any:
    """Return an instance of a dataclass of plain values from what `settings_to_json` made of it, or from part of that.

    Parameters
    ----------
    kind : the dataclass; its fields are strings, numbers, booleans, None, or tuples of those.
    document : values by the names of fields; the others keep their defaults.
    where : what an error begins with.

    Raises
    ------
    ParameterError
        There is no such field, or it cannot have that value.
    """
    if not isinstance(document, dict):
        raise ParameterError(f"{where}: {type(document).__name__}, expected an object")
    hints = typing.get_type_hints(kind)
    names = [entry.name for entry in dataclasses.fields(kind) if entry.init]
    values = {}
    for name, value in document.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(names)}"
            raise ParameterError(f"{where}: no setting {name}: {hint}")
        try:
            values[name] = _convert(hints[name], value)
        except TypeError as error:
            raise ParameterError(f"{where}: {name} is {json.dumps(value)}, expected {error}") from error
    try:
        return kind(**values)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from error


_WORDS: Final = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _convert(hint: Any, value: Any) -> Any:
    """Return a JSON value as a type wants it; raise a TypeError that says what that is."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        wanted = []
        for choice in typing.get_args(hint):
            try:
                return _convert(choice, value)
            except TypeError as error:
                wanted.append(str(error))
        raise TypeError(" or ".join(wanted))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        try:
            return tuple(_convert(inner, each) for each in (value if isinstance(value, list | tuple) else [None]))
        except TypeError as error:
            raise TypeError(f"a list, each {error}") from error
    if type(value) is hint or (hint is float and type(value) is int and abs(value) < 2**1023):
        return hint(value) if hint is float else value
    raise TypeError(_WORDS[hint])


def settings_from_json(model: str, document: Any) -> Any:
    """Return a model's settings from JSON; what it does not name keeps its default.

    Raises
    ------
    ParameterError
        There is no such model or setting, or it cannot have that value.
    """
    return from_json(find_kind(model).settings, document, model)


def write_checkpoint(
    run: Path,
    choice: str,
    model: str,
    settings: Any,
    weights: Mapping[str, Tensor],
    *,
    step: int,
    training: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Write a checkpoint of a run, in place of the one of that choice; return it.

    Parameters
    ----------
    run : the run's folder, which is made.
    choice : one of `CHOICES`.
    model, settings, step, training : as in `Checkpoint`.
    weights : the network's state, `networks.<target>.<name>`.
    state : what training needs beside them to go on.
    """
    run.mkdir(parents=True, exist_ok=True)
    name, digest = _write_tensors(run, f"{choice}-{step:08d}", weights)
    files = {name: digest}
    if state is not None:
        state_name, state_digest = _write_tensors(run, f"state-{step:08d}", state)
        files[state_name] = state_digest
    checkpoint = Checkpoint(model, settings, step, name, files, dict(training), find_versions())
    document = {"version": VERSION, **dataclasses.asdict(checkpoint), "settings": settings_to_json(settings)}
    write_json(run / f"{choice}.json", document)
    _remove_unnamed(run)
    return checkpoint


def write_weights(
    run: Path,
    model: str,
    settings: Any,
    weights: Mapping[str, Tensor],
    *,
    step: int,
    source: Mapping[str, Any],
    force: bool = False,
) -> None:
    """Make a run of weights that were trained elsewhere.

    Parameters
    ----------
    run : the folder to write.
    model, settings, weights, step : as in `write_checkpoint`.
    source : where they come from, for the record.
    force : whether to replace a run that is there.

    Raises
    ------
    DatasetError
        There is a run already, or something else.
    ParameterError
        They are no weights of such a network.
    """
    with torch.device("meta"):
        expected = create(model, settings).state_dict()
    check_weights(weights, expected, str(run))
    check_free(run, force)
    remove_run(run)
    write_checkpoint(run, "best", model, settings, weights, step=step, training={"imported": dict(source)})


def check_free(run: Path, force: bool) -> None:
    """Refuse a folder that holds something else than a run, or a run that is not to be replaced.

    Raises
    ------
    DatasetError
        The folder is not free.
    """
    if run.exists() and not run.is_dir():
        raise DatasetError(f"{run}: is a file, expected a folder to write a run to: name another with --out")
    there = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
    if there and not _is_run(run):
        raise DatasetError(f"{run}: holds {there[0]}, expected no folder yet or a run's: name another with --out")
    if any((run / f"{choice}.json").exists() for choice in CHOICES) and not force:
        raise DatasetError(f"{run}: holds a run already: --force replaces it, or train --resume goes on with it")


def _is_run(run: Path) -> bool:
    """Return whether a folder holds a run, be it one that has only begun."""
    if any((run / f"{choice}.json").is_file() for choice in CHOICES):
        return True
    try:
        with (run / LOG).open(encoding="utf-8", errors="replace") as file:
            line = file.readline()
        return not line or "step" in json.loads(line)
    except (OSError, ValueError, TypeError):
        names = [path.name for path in run.iterdir()]
        return bool(names) and all(map(_OURS.fullmatch, names))


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Let nobody else train in a folder, which is made, as long as this lasts.

    Raises
    ------
    DatasetError
        Somebody does already.
    """
    run.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DatasetError(
                    f"{run}: another process trains here: wait for it, or name another folder"
                ) from error
        yield
    finally:
        os.close(descriptor)


def remove_run(run: Path) -> None:
    """Remove the files of a run; first those that make the others count."""
    names = [path.name for path in run.iterdir() if _OURS.fullmatch(path.name)] if run.is_dir() else []
    for name in sorted(names, key=lambda name: not name.endswith(".json")):
        (run / name).unlink()


_OURS: Final = re.compile(
    r"(best|last|run)\.json|(best|last|state)-\d{8,}(-\d+)?\.safetensors|metrics\.jsonl|\.[a-z0-9.-]+\.partial"
)
"""Names of the files of a run; TensorBoard's lie in a folder of their own."""


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are not those of a network.

    Raises
    ------
    ParameterError
        One is missing, too many, or of another shape or type.
    """
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    for names, what in ((missing, "lacks"), (unknown, "has unknown")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ParameterError(f"{where}: {what} {names[0]}{more}: other settings, or another model's weights")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise ParameterError(
                f"{where}: {name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}: "
                "other settings, or another model's weights"
            )
        if weights[name].dtype != tensor.dtype:
            raise ParameterError(f"{where}: {name} is {weights[name].dtype}, expected {tensor.dtype}: convert it")


def read_checkpoint(run: Path, choice: str) -> Checkpoint | None:
    """Return a checkpoint of a run, None where there is none.

    Raises
    ------
    DatasetError
        Its JSON is none that this version reads.
    """
    path = run / f"{choice}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    try:
        values = dict(document)
        version = values.pop("version")
        settings = settings_from_json(values.pop("model"), values.pop("settings"))
        checkpoint = Checkpoint(document["model"], settings, **values)
        sound = checkpoint.weights in checkpoint.files and all(
            _OURS.fullmatch(name) and isinstance(digest, str) for name, digest in checkpoint.files.items()
        )
        sound &= isinstance(checkpoint.training, dict) and isinstance(checkpoint.versions, dict)
    except ParameterError as error:
        raise DatasetError(f"{path}: {error}: a newer musdbkit may read it") from error
    except (KeyError, TypeError, ValueError, AttributeError):
        sound, version = False, None
    if not sound or version != VERSION or type(checkpoint.step) is not int:
        raise DatasetError(f"{path}: no checkpoint of format {VERSION}: a newer musdbkit may read it")
    return checkpoint


def load_tensors(run: Path, checkpoint: Checkpoint, name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of one file of a checkpoint.

    Raises
    ------
    DatasetError
        The file is not there, or not what was written.
    """
    path = run / name
    try:
        digest = hash_file(path)
        if digest != checkpoint.files[name]:
            raise DatasetError(
                f"{path}: not what was written (SHA-256 {digest[:8]}..., expected "
                f"{checkpoint.files[name][:8]}...): fetch it again"
            )
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path, device=str(device))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise DatasetError(f"{path}: no safetensors file: {error}") from error
    return tensors


def load_run(run: Path, device: torch.device | str = "cpu") -> Loaded:
    """Return the network of a run that validated best, or the last one of a run that has not validated yet.

    Raises
    ------
    DatasetError
        There is no such run, or a file of it is not whole.
    """
    for choice in CHOICES:
        checkpoint = read_checkpoint(run, choice)
        if checkpoint is None:
            continue
        weights = load_tensors(run, checkpoint, checkpoint.weights, device)
        with torch.device("meta"):
            network = create(checkpoint.model, checkpoint.settings)
        try:
            check_weights(weights, network.state_dict(), str(run / checkpoint.weights))
        except ParameterError as error:
            raise DatasetError(str(error)) from error
        network.load_state_dict(weights, assign=True)
        network.eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # cuDNN wants its weights in one piece
        path = run / checkpoint.weights
        sha256 = checkpoint.files[checkpoint.weights]
        return Loaded(checkpoint.model, checkpoint.settings, network, path, sha256, checkpoint.step, choice)
    what = "no such folder" if not run.is_dir() else "no best.json or last.json: training has not saved yet"
    raise DatasetError(f"{run}: {what}: expected the folder that baselines train or import wrote (--out)")


def choose_device(device: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises
    ------
    ParameterError
        There is no such device, or no GPU that torch can use.
    """
    if device not in DEVICES:
        raise ParameterError(f"device is {device}, expected one of {', '.join(DEVICES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"device cuda: torch {torch.__version__} sees no GPU: use --device cpu, or another torch")
    return torch.device(device)


def find_versions() -> dict[str, str]:
    """Return the versions that a result depends on, and the commit of the source where it lies in a repository."""
    versions = {"musdbkit": __version__, "torch": torch.__version__}
    if commit := _find_commit(Path(__file__).parent.parent):
        versions["commit"] = commit
    return versions


def _find_commit(folder: Path) -> str:
    """Return the commit that a repository is at, by reading its files: git may not be installed."""
    git = folder / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, ValueError):
        return ""


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write strict JSON under a temporary name, then rename it."""
    with _replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_tensors(run: Path, stem: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write a safetensors file under a temporary name, then rename it; return its name and its SHA-256.

    A file that is there may be what a JSON describes, and stays until that is replaced.
    """
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    first = f"{stem}.safetensors"
    names = itertools.chain([first], (f"{stem}-{i}.safetensors" for i in itertools.count(1)))
    name = next(name for name in names if not (run / name).exists())
    with _replacing(run / name) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # as the user's umask wants it; safetensors lets nobody else read its files
        safetensors.torch.save_file(plain, partial)
        partial.chmod(mode)
        digest = hash_file(partial)
    if name != first and hash_file(run / first) == digest:
        (run / name).unlink()
        name = first
    return name, digest


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; then rename it, once it is on disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise DatasetError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _remove_unnamed(run: Path) -> None:
    """Remove files of checkpoints that have been replaced, and what a killed run left."""
    named: set[str] = set()
    for choice in CHOICES:
        checkpoint = read_checkpoint(run, choice)
        named |= set(checkpoint.files) if checkpoint is not None else set()
    for path in run.iterdir():
        stale = path.name.endswith((".safetensors", ".partial")) and path.name not in named
        if stale and _OURS.fullmatch(path.name):
            path.unlink()
