"""Spleeter's recurrent networks: their size, their order of values, and what the settings say."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from baselines.spleeter_blstm import Blstm, BlstmSettings, SpleeterBlstm
from musdbkit.errors import ParameterError

SMALL = BlstmSettings(targets=("vocals", "other"), nb_bins=9, nb_frames=7, hidden_size=5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_parameters_are_as_many_as_upstream() -> None:
    with torch.device("meta"):
        network = SpleeterBlstm(BlstmSettings(targets=("vocals", "accompaniment")))
    assert sum(p.numel() for p in network.parameters()) == 2 * 8_634_048
    assert sum(t.numel() for t in network.state_dict().values()) == 2 * 8_634_048


def test_values_are_those_of_the_equations() -> None:
    """One layer against numpy, a frame at a time: the order of bins and channels, gates, directions, the ReLU."""
    network = Blstm(dataclasses.replace(SMALL, nb_layers=1)).double().eval()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    mixture = torch.rand(1, 2, 9, 7, dtype=torch.float64)
    frames = mixture[0].numpy().transpose(2, 1, 0).reshape(7, 18)

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    outputs = []
    for suffix, order in (("", range(7)), ("_reverse", range(6, -1, -1))):
        h, c = np.zeros(5), np.zeros(5)
        states = np.zeros((7, 5))
        for t in order:
            gates = state[f"lstm.weight_ih_l0{suffix}"] @ frames[t] + state[f"lstm.bias_ih_l0{suffix}"]
            gates += state[f"lstm.weight_hh_l0{suffix}"] @ h + state[f"lstm.bias_hh_l0{suffix}"]
            i, f, g, o = gates.reshape(4, 5)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states[t] = h
        outputs.append(states)
    expected = np.maximum(np.concatenate(outputs, 1) @ state["dense.weight"].T + state["dense.bias"], 0)
    with torch.no_grad():
        got = network(mixture)[0].numpy().transpose(2, 1, 0).reshape(7, 18)
    assert (expected == 0).any()
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_each_target_has_its_own_network() -> None:
    network = SpleeterBlstm(SMALL).eval()
    mixture = torch.rand(3, 2, 9, 4)  # any number of frames
    before = mixture.clone()
    estimates = network(mixture)
    assert estimates.shape == (3, 2, 2, 9, 4)
    assert torch.equal(estimates[:, 1], network.networks["other"](mixture))
    assert not torch.equal(estimates[:, 0], estimates[:, 1])
    assert torch.equal(mixture, before)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network(mixture)
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - estimates).abs().max() < 0.02


@pytest.mark.filterwarnings("ignore:The tensor attribute.*_flat_weights")  # of any LSTM, by torch itself
def test_export_with_any_batch_size() -> None:
    network = SpleeterBlstm(dataclasses.replace(SMALL, nb_layers=1)).eval()
    program = torch.export.export(network, (torch.rand(2, 2, 9, 7),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    many = torch.rand(5, 2, 9, 7)
    torch.testing.assert_close(program.module()(many), network(many))


def test_weights_are_drawn_as_upstream() -> None:
    network = Blstm(dataclasses.replace(SMALL, nb_bins=50, hidden_size=20))
    state = network.state_dict()
    for layer, nb_inputs in ((0, 100), (1, 40), (2, 40)):
        for suffix in ("", "_reverse"):
            kernel, recurrent, first, second = (
                state[f"lstm.{name}_l{layer}{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            limit = math.sqrt(6 / nb_inputs)
            assert 0.95 * limit < kernel.abs().max() <= limit
            torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(20), atol=1e-5, rtol=0)
            assert not first.any()
            assert second.tolist() == [0] * 20 + [1] * 20 + [0] * 40
    assert 0.95 * math.sqrt(6 / 40) < state["dense.weight"].abs().max() <= math.sqrt(6 / 40)
    assert not state["dense.bias"].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0, expected a whole number above 0"),
        ({"nb_layers": 1.5}, "nb_layers is 1.5"),
        ({"targets": ("a", "a")}, "a occurs twice"),
        ({"nb_bins": 5000}, "nb_bins is 5000"),
    ],
)
def test_what_cannot_be_built_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        BlstmSettings(**values)
