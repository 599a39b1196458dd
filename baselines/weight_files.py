"""Files of tensors that others wrote, read without running what a pickle may hold.

Reads what `torch.save` and safetensors write, and `.npz`. Writes nothing. Tensors come out on the CPU, wherever they
were when they were saved.
"""

import io
import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from musdbkit.errors import DatasetError

_DAMAGES: Final = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""What reading a damaged file may raise."""


def read_npz(path: Path, script: str) -> dict[str, NDArray[Any]]:
    """Return all arrays of an `.npz`.

    Parameters
    ----------
    path : the file.
    script : what writes such a file, for an error.

    Raises
    ------
    DatasetError
        It cannot be read, or holds Python objects.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: np.asarray(array) for name, array in arrays.items()}
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, *_DAMAGES) as error:
        raise DatasetError(f"{path}: no .npz of arrays: write it with {script}") from error


def read_document(path: Path) -> Any:
    """Return what `torch.save` wrote of tensors and plain values, or the tensors of a `.safetensors` by name.

    Raises
    ------
    DatasetError
        It cannot be read, or not without running code of its own; the cause is an `UnpicklingError` in that case, too.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        with warnings.catch_warnings():  # what is refused anyway need not be warned of
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, *_DAMAGES) as error:
        raise DatasetError(
            f"{path}: not a file of tensors only, as torch.save writes of a state_dict(): save that, or fetch it again"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises
    ------
    DatasetError
        It cannot be read, or holds something else.
    """
    return take_tensors(path, read_document(path))


def take_tensors(path: Path, document: Any) -> dict[str, Tensor]:
    """Return what a file held as tensors by name.

    Raises
    ------
    DatasetError
        It is something else.
    """
    if not isinstance(document, dict) or not all(isinstance(tensor, Tensor) for tensor in document.values()):
        raise DatasetError(f"{path}: expected tensors by name, as torch.save writes of a state_dict()")
    return dict(document)
