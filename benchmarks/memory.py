"""Memory that a training step of the models for long inputs takes, and Open-Unmix's beside it.

A step is of one target, with Adam, in bfloat16 by autocast, on noise for magnitudes, of an input as long as separation
takes at a time; training examples are a second or so shorter. Networks are not compiled, which needs most.

On a GPU it is measured: the most that torch had allocated in the third step. Elsewhere it is computed: forward and
backward are gone through with tensors that have no values, as on a CPU, and the storages that live are added up after
each operation, those of weights, gradients and Adam's two averages among them. That leaves out what kernels take for
themselves, and autocast on a GPU has some normalisations in float32 that a CPU has in bfloat16. Attention is taken as
fused, which keeps no matrix of frames by frames, and, for an upper bound, as single operations that keep all they
need, which is what torch does where no fused kernel takes heads of that size (512 features for qkv2D).

    python benchmarks/memory.py [--seconds 60] [--batch-size 1] [--device auto|cpu|cuda]

Where musdbkit is not installed: PYTHONPATH=. before it.
"""

import argparse
import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baselines import models
from baselines.attention import ATTENTIONS
from baselines.auto_transformer import AutoTransformerSet, AutoTransformerSettings
from baselines.open_unmix import OpenUnmixSet, OpenUnmixSettings
from baselines.umx_transformer import UmxTransformerSet, UmxTransformerSettings

TARGETS = ("vocals",)
NB_STEPS = 3  # after the first, Adam's averages are there
DROPOUT = 0.1  # of attention
CARD_BYTES = 80e9


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that live.

    Attributes
    ----------
    live, peak : bytes, now and at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return what an operation gives; remember its storages until they are gone."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        """Count a storage, once."""
        if storage not in self._known:
            self._known.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, nb_bytes: int) -> None:
        """Count a storage no more."""
        self.live -= nb_bytes


def learn(network: nn.Module, mixture: Tensor, target: Tensor) -> None:
    """Go forward and backward."""
    with torch.autocast(mixture.device.type, torch.bfloat16):
        loss = (network(mixture)[:, 0] - target).square().mean()
    loss.backward()


def measure(make: Callable[[float], nn.Module], shape: tuple[int, ...]) -> list[int]:
    """Return the bytes that a step takes on the GPU."""
    torch.cuda.empty_cache()
    network = make(DROPOUT).cuda()
    optimiser = torch.optim.Adam(network.parameters(), 1e-4, betas=(0.5, 0.999), weight_decay=1e-5, fused=True)
    mixture, target = (torch.rand(shape, device="cuda") for _ in range(2))
    for _ in range(NB_STEPS):
        torch.cuda.reset_peak_memory_stats()
        optimiser.zero_grad()
        learn(network, mixture, target)
        optimiser.step()
    return [torch.cuda.max_memory_allocated()]


def compute(make: Callable[[float], nn.Module], shape: tuple[int, ...]) -> list[int]:
    """Return the bytes of what lives in a step, with fused attention and without.

    Fused, it is computed without dropout, with which only GPUs' kernels can do, and keep nothing more for it.
    """
    peaks = []
    for backend, dropout in ((SDPBackend.FLASH_ATTENTION, 0.0), (SDPBackend.MATH, DROPOUT)):
        with FakeTensorMode(), LiveBytes() as counter, sdpa_kernel(backend):
            network = make(dropout)
            averages = [torch.empty_like(p) for p in network.parameters() if p.requires_grad for _ in range(2)]
            learn(network, *(torch.rand(shape) for _ in range(2)))
            del averages
        peaks.append(counter.peak)
    return peaks


def make_network(model: str, attention: str, dropout: float) -> nn.Module:
    """Return the network of one target, with random weights."""
    if model == "open-unmix":
        return OpenUnmixSet(OpenUnmixSettings(targets=TARGETS))
    if model == "umx-transformer":
        return UmxTransformerSet(
            UmxTransformerSettings(targets=TARGETS, attention=attention, attention_dropout=dropout)
        )
    return AutoTransformerSet(AutoTransformerSettings(targets=TARGETS, attention=attention, attention_dropout=dropout))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of an input; 60")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    gpu = models.choose_device(options.device).type == "cuda"
    settings = OpenUnmixSettings(targets=TARGETS)
    nb_frames = settings.separation_stft.nb_frames(round(options.seconds * settings.sample_rate))
    shape = (options.batch_size, settings.nb_channels, settings.nb_bins, nb_frames)
    how = f"measured on {torch.cuda.get_device_name()}" if gpu else "computed, as for a CPU"
    print(f"Peak of a training step, {how}; torch {torch.__version__}")
    print(f"{options.batch_size} x {options.seconds:g} s, {nb_frames} frames, one target, Adam, bfloat16\n")
    columns = ["GB"] if gpu else ["GB", "GB without fused attention"]
    columns.append(f"fits in {CARD_BYTES / 1e9:g} GB")
    print("| model | attention | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns), flush=True)
    for model, attention in [
        ("open-unmix", ""),
        *itertools.product(("umx-transformer", "auto-transformer"), ATTENTIONS),
    ]:
        make = functools.partial(make_network, model, attention)
        peaks = measure(make, shape) if gpu else compute(make, shape)
        cells = [f"{peak / 1e9:.2f}" for peak in peaks]
        fits = "yes" if max(peaks) < CARD_BYTES else "no"
        print(f"| {model} | {attention} | " + " | ".join([*cells, fits]) + " |", flush=True)


if __name__ == "__main__":
    main()
