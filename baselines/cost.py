"""What a network costs: multiply-adds of one input.

Reads and writes nothing.
"""

import warnings
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from baselines import models


def count_multiply_adds(model: str, settings: Any, nb_frames: int) -> int:
    """Return how often the networks of all targets multiply and add, together, to separate one input.

    Counted are products of matrices, convolutions, attention and recurrent layers; what is done to each value by itself
    (activations, normalisation, masks) is not, nor are transforms and filters.

    Parameters
    ----------
    model : one of `models.MODELS`.
    settings : the model's.
    nb_frames : length of the input.
    """
    alone = replace(settings, targets=settings.targets[:1])  # all networks are alike
    with torch.random.fork_rng(devices=[]):
        network = models.create(model, alone).eval().requires_grad_(False)
    dtype = torch.complex64 if getattr(settings, "spec_type", "") == "complex" else torch.float32
    mixture = torch.ones((1, settings.nb_channels, settings.nb_bins, nb_frames), dtype=dtype)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)  # which the next line does not ask for
        # what is counted are torch's basic operations: recurrent layers and attention are to be made of them
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))
        network(mixture)
    return len(settings.targets) * int(counter.get_total_flops()) // 2
