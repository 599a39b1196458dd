"""Models by name and runs on disk: round trips, what is left by a kill at any moment, and what is refused."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from baselines import models
from baselines.auto_transformer import AutoTransformerSettings
from baselines.block_unet import BlockUnetSettings
from baselines.models import (
    CHOICES,
    MODELS,
    check_free,
    check_weights,
    choose_device,
    create,
    find_kind,
    find_versions,
    from_json,
    load_run,
    load_tensors,
    read_checkpoint,
    remove_run,
    settings_from_json,
    settings_to_json,
    write_checkpoint,
    write_weights,
)
from baselines.open_unmix import OpenUnmixSettings
from baselines.spleeter_blstm import BlstmSettings
from baselines.spleeter_unet import UnetSettings
from baselines.umx_transformer import UmxTransformerSettings
from musdbkit import __version__
from musdbkit.errors import DatasetError, ParameterError

SIZES: dict[str, Any] = {"targets": ("vocals", "drums"), "sample_rate": 8000, "n_fft": 64, "hop_length": 16}
TRANSFORMER: dict[str, Any] = {"hidden_size": 8, "nb_heads": 2, "nb_layers": 1, "feedforward_size": 4}
TRANSFORMER |= {"input_seconds": 0.1}
SETTINGS: dict[str, Any] = {
    "spleeter-unet": UnetSettings(nb_bins=20, nb_frames=64, filters=(2, 3, 4, 5, 6, 7), **SIZES),
    "spleeter-blstm": BlstmSettings(nb_bins=20, nb_frames=6, hidden_size=8, nb_layers=2, **SIZES),
    "open-unmix": OpenUnmixSettings(hidden_size=8, nb_layers=2, bandwidth=3000.0, **SIZES),
    "block-unet": BlockUnetSettings(
        nb_frames=16, trim=64, n_blocks=3, internal_channels=3, t_down_layers=(0,), spec_type="magnitude", **SIZES
    ),
    "umx-transformer": UmxTransformerSettings(bandwidth=3000.0, shift=9, **SIZES, **TRANSFORMER),
    "auto-transformer": AutoTransformerSettings(attention="qkv2D", **SIZES, **TRANSFORMER),
}
TINY = OpenUnmixSettings(hidden_size=2, nb_layers=1, n_fft=4, hop_length=2, bandwidth=None, targets=("vocals",))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute in one thread: for such small arrays several cost more than they help."""
    nb_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(nb_threads)


def weights(seed: int, model: str = "open-unmix", settings: Any = TINY) -> dict[str, Tensor]:
    """Return the state of a network of random weights and statistics."""
    torch.manual_seed(seed)
    state = create(model, settings).state_dict()
    return {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor + seed for name, tensor in state.items()
    }


def write(run: Path, choice: str = "best", *, seed: int = 0, step: int = 0, **options: Any) -> models.Checkpoint:
    """Write a checkpoint of the smallest network."""
    return write_checkpoint(
        run, choice, "open-unmix", TINY, weights(seed), step=step, **{"training": {"seed": seed}} | options
    )


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether tensors are equal, bit for bit."""
    assert state.keys() == other.keys()
    return all(state[name].dtype == other[name].dtype and torch.equal(state[name], other[name]) for name in state)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def change(run: Path, choice: str = "best", **values: Any) -> None:
    """Change what the JSON of a checkpoint says."""
    path = run / f"{choice}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(run: Path) -> str:
    """Return with what words a run is refused, which are one line."""
    with pytest.raises(DatasetError) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Settings


@pytest.mark.parametrize("model", MODELS)
def test_settings_as_json(model: str) -> None:
    settings = SETTINGS[model]
    document = settings_to_json(settings)
    assert document == json.loads(json.dumps(document))  # lists, no tuples
    assert document.keys() == {entry.name for entry in dataclasses.fields(settings)}
    again = settings_from_json(model, json.loads(json.dumps(document)))
    assert again == settings
    assert type(again) is type(settings)
    for entry in dataclasses.fields(settings):
        assert type(getattr(again, entry.name)) is type(getattr(settings, entry.name))
    assert settings_from_json(model, {}) == MODELS[model].settings()


def test_null_and_whole_numbers() -> None:
    settings = settings_from_json("open-unmix", {"bandwidth": None, "wiener_window": None, "dropout": 0})
    assert (settings.bandwidth, settings.wiener_window, settings.dropout) == (None, None, 0.0)
    assert type(settings.dropout) is float
    settings = settings_from_json("open-unmix", {"bandwidth": 8000})
    assert type(settings.bandwidth) is float
    settings = settings_from_json("spleeter-unet", {"filters": [1, 2, 3, 4, 5, 6], "targets": ["a"]})
    assert (settings.filters, settings.targets) == ((1, 2, 3, 4, 5, 6), ("a",))


@pytest.mark.parametrize(
    ("model", "document", "reason"),
    [
        ("open-unmix", {"hiden_size": 8}, "no setting hiden_size: did you mean hidden_size?"),
        ("open-unmix", {"q": 8}, "no setting q: expected some of targets, nb_channels, "),
        ("open-unmix", {"nb_bins": 8}, "no setting nb_bins: "),
        ("open-unmix", {"hidden_size": "8"}, 'hidden_size is "8", expected a whole number'),
        ("open-unmix", {"hidden_size": 8.0}, "hidden_size is 8.0, expected a whole number"),
        ("open-unmix", {"hidden_size": True}, "hidden_size is true, expected a whole number"),
        ("open-unmix", {"bidirectional": 1}, "bidirectional is 1, expected true or false"),
        ("open-unmix", {"dropout": None}, "dropout is null, expected a number"),
        ("open-unmix", {"dropout": False}, "dropout is false, expected a number"),
        ("open-unmix", {"bandwidth": "all"}, 'bandwidth is "all", expected a number or null'),
        ("open-unmix", {"targets": "vocals"}, 'targets is "vocals", expected a list, each text'),
        ("open-unmix", {"targets": ["a", 1]}, 'targets is ["a", 1], expected a list, each text'),
        ("open-unmix", {"targets": []}, "targets "),
        ("open-unmix", {"targets": ["a", "a"]}, "targets "),
        ("open-unmix", {"targets": ["../a"]}, "target "),
        ("open-unmix", {"hidden_size": 7}, "hidden_size is 7, expected an even number"),
        ("open-unmix", {"dropout": 10**400}, "dropout is 1000"),
        ("spleeter-unet", {"filters": [1, 2.5]}, "filters is [1, 2.5], expected a list, each a whole number"),
        ("spleeter-unet", {"output": "tanh"}, "output is "),
        ("spleeter-blstm", {"filters": [1]}, "no setting filters: "),
        ("spleeter-blstm", [1], "list, expected an object"),
        ("spleeter-blstm", None, "NoneType, expected an object"),
    ],
)
def test_settings_that_are_none(model: str, document: Any, reason: str) -> None:
    with pytest.raises(ParameterError) as caught:
        settings_from_json(model, document)
    assert str(caught.value).startswith(f"{model}: {reason}")
    assert "\n" not in str(caught.value)


def test_models_that_are_none() -> None:
    with pytest.raises(ParameterError, match=r"^no model open-unmx: did you mean open-unmix\?$"):
        find_kind("open-unmx")
    with pytest.raises(ParameterError, match=r"^no model x: expected one of spleeter-unet, .*, auto-transformer$"):
        settings_from_json("x", {})


def test_every_kind_of_field() -> None:
    @dataclasses.dataclass(frozen=True)
    class Fields:
        text: str = "a"
        counts: tuple[int, ...] = (1,)
        derived: int = dataclasses.field(default=3, init=False)

    assert from_json(Fields, {"text": "b", "counts": [2, 3]}, "here") == Fields("b", (2, 3))
    with pytest.raises(ParameterError, match=r"^here: no setting derived: "):
        from_json(Fields, {"derived": 4}, "here")


# Round trips


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_what_was_written(model: str, tmp_path: Path) -> None:
    settings, state = SETTINGS[model], weights(1, model, SETTINGS[model])
    written = write_checkpoint(
        tmp_path / "a" / "run", "best", model, settings, state, step=12, training={"x": [1, 2.5]}
    )
    run = tmp_path / "a" / "run"
    assert read_checkpoint(run, "best") == written
    assert read_checkpoint(run, "last") is None
    assert (written.model, written.settings, written.step, written.training) == (model, settings, 12, {"x": [1, 2.5]})
    assert names(run) == ["best-00000012.safetensors", "best.json"]
    digest = hashlib.sha256((run / "best-00000012.safetensors").read_bytes()).hexdigest()
    assert written.files == {"best-00000012.safetensors": digest}
    loaded = load_run(run)
    assert same(dict(loaded.network.state_dict()), state)
    assert (loaded.model, loaded.settings, loaded.step, loaded.choice) == (model, settings, 12, "best")
    assert (loaded.path, loaded.sha256) == (run / "best-00000012.safetensors", digest)
    assert not loaded.network.training
    tensors = [*loaded.network.parameters(), *loaded.network.buffers()]
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in tensors)
    network = create(model, settings).eval()
    network.load_state_dict(state)
    mixture = torch.rand(2, 2, settings.nb_bins, 64 if model == "spleeter-unet" else 6)
    assert torch.equal(loaded.network(mixture), network(mixture))


def test_state_of_training(tmp_path: Path) -> None:
    state = {"average": torch.arange(3.0), "steps": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}
    state["turned"] = torch.rand(2, 3).T  # which is not contiguous
    written = write(tmp_path, "last", step=123_456_789, state=state)
    assert set(written.files) == {"last-123456789.safetensors", "state-123456789.safetensors"}
    assert same(load_tensors(tmp_path, written, "state-123456789.safetensors"), state)


def test_best_comes_before_last(tmp_path: Path) -> None:
    write(tmp_path, "last", seed=1, step=5)
    assert (load_run(tmp_path).choice, load_run(tmp_path).step) == ("last", 5)
    write(tmp_path, "best", seed=2, step=3)
    loaded = load_run(tmp_path)
    assert (loaded.choice, loaded.step) == ("best", 3)
    assert same(dict(loaded.network.state_dict()), weights(2))


def test_files_that_were_replaced_are_removed(tmp_path: Path) -> None:
    foreign = ["notes.txt", "other.safetensors", "best-1.safetensors", "metrics.jsonl", "x.partial"]
    for name in foreign:
        (tmp_path / name).write_text("")
    (tmp_path / ".last-00000009.safetensors.partial").write_text("left by a kill")
    (tmp_path / "state-00000009.safetensors").write_text("left by a kill")
    state = {"x": torch.zeros(1)}
    write(tmp_path, "last", step=10, state=state)
    write(tmp_path, "best", step=10)
    write(tmp_path, "last", step=20, state=state)
    expected = ["best-00000010.safetensors", "best.json", "last-00000020.safetensors", "last.json"]
    assert names(tmp_path) == sorted([*foreign, *expected, "state-00000020.safetensors"])


def test_the_same_step_again(tmp_path: Path) -> None:
    """A run that goes on may come to other weights at the same step: until the JSON says so, the old file stays."""
    write(tmp_path, seed=1, step=4)
    before = names(tmp_path)
    write(tmp_path, seed=1, step=4)
    assert names(tmp_path) == before
    for seed in (2, 3, 1):
        write(tmp_path, seed=seed, step=4)
        assert same(dict(load_run(tmp_path).network.state_dict()), weights(seed))
        assert len(names(tmp_path)) == 2


# Kills


class Killed(BaseException):
    """What no program catches."""


class Killer:
    """What stops a process at its n-th change of a folder: nothing is changed from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        for holder, name in ((os, "replace"), (os, "unlink"), (os, "fsync"), (safetensors.torch, "save_file")):
            monkeypatch.setattr(holder, name, self.guard(getattr(holder, name)))
        monkeypatch.setattr(Path, "write_text", self.guard(Path.write_text))

    def guard(self, function: Any) -> Any:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if self.left <= 0:
                if self.left == 0 and function.__name__ == "save_file":
                    Path(arguments[1]).write_bytes(b"half")
                self.left -= 1
                raise Killed
            self.left -= 1
            return function(*arguments, **options)

        return guarded


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_leaves_the_old_or_the_new(
    choice: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same step as before, too."""
    before, after, state = weights(1), weights(2), {"x": torch.zeros(1)}
    survivors = []
    for number in range(100):
        run = tmp_path / str(number)
        for each in CHOICES:
            write(run, each, seed=1, step=1, state={"x": torch.ones(1)} if each == "last" else None)
        options = {"state": state} if choice == "last" else {}
        with monkeypatch.context() as context:
            killer = Killer(context, number)
            with contextlib.suppress(Killed):
                write(run, choice, seed=2, step=step, **options)
        for each in CHOICES:
            checkpoint = read_checkpoint(run, each)
            assert checkpoint is not None
            for name in checkpoint.files:
                load_tensors(run, checkpoint, name)
            found = load_tensors(run, checkpoint, checkpoint.weights)
            new = checkpoint.training == {"seed": 2}
            assert same(found, after if new else before)
            assert each == choice or not new
            if each == choice:
                survivors.append(new)
        load_run(run)
        write(run, choice, seed=3, step=3, **options)  # and the next one tidies up
        named = {name for each in CHOICES for name in (read_checkpoint(run, each) or checkpoint).files}
        assert set(names(run)) == named | {"best.json", "last.json"}
        if killer.left >= 0:
            break
    assert number > 5
    assert survivors == sorted(survivors)
    assert set(survivors) == {False, True}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), safetensors.SafetensorError("disk full")])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    write(tmp_path, seed=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(DatasetError) as caught:
        write(tmp_path, seed=2, step=3)
    reason = "No space left on device" if isinstance(error, OSError) else "disk full"
    assert str(caught.value) == f"{tmp_path / 'best-00000003.safetensors'}: cannot be written: {reason}"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# Runs that are none


def test_no_run(tmp_path: Path) -> None:
    advice = "expected the folder that baselines train or import wrote (--out)"
    assert refused(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such folder: {advice}"
    assert refused(tmp_path) == f"{tmp_path}: no best.json or last.json: training has not saved yet: {advice}"
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file").startswith(f"{tmp_path / 'file'}: no such folder")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"version": 1' + b"0" * 5000 + b"}"], ids=range(5)
)
def test_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.json").write_bytes(content)
    assert refused(tmp_path).startswith(f"{tmp_path / 'best.json'}: not JSON: ")


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "best.json").mkdir()
    assert refused(tmp_path) == f"{tmp_path / 'best.json'}: cannot be read: Is a directory"


def test_json_with_a_part_missing(tmp_path: Path) -> None:
    write(tmp_path)
    whole = json.loads((tmp_path / "best.json").read_text())
    assert list(whole) == ["version", "model", "settings", "step", "weights", "files", "training", "versions"]
    expected = f"{tmp_path / 'best.json'}: no checkpoint of format 1: a newer musdbkit may read it"
    for document in (
        *({key: whole[key] for key in whole if key != missing} for missing in whole),
        *([whole], None, 3, "text", {}),
        whole | {"more": 1},
        whole | {"version": 2},
        whole | {"version": 2, "more": 1},
        whole | {"model": ["open-unmix"]},
        whole | {"step": "3"},
        whole | {"step": None},
        whole | {"step": True},
        whole | {"weights": ["best-00000000.safetensors"]},
        whole | {"weights": "state-00000000.safetensors"},
        whole | {"files": list(whole["files"])},
        whole | {"files": dict.fromkeys(whole["files"], 3)},
        whole | {"files": whole["files"] | {"state-00000000.safetensors": None}},
        whole | {"files": {}},
        whole | {"training": None},
        whole | {"versions": []},
    ):
        (tmp_path / "best.json").write_text(json.dumps(document))
        assert refused(tmp_path) == expected


def test_json_of_a_newer_version(tmp_path: Path) -> None:
    write(tmp_path)
    end = ": a newer musdbkit may read it"
    path = tmp_path / "best.json"
    change(tmp_path, version=2, model="open-unmix-2")
    assert refused(tmp_path) == f"{path}: no model open-unmix-2: did you mean open-unmix?{end}"
    change(tmp_path, version=1, model="open-unmix", settings={"depth": 3})
    assert refused(tmp_path).startswith(f"{path}: open-unmix: no setting depth: ")
    assert refused(tmp_path).endswith(end)


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/best-00000000.safetensors", "x", "..", ""])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    write(run)
    target = tmp_path / "x.safetensors"
    (run / "best-00000000.safetensors").rename(target)
    content = target.read_bytes()
    name = str(target) if name.startswith("/") else name
    change(run, weights=name, files={name: hashlib.sha256(content).hexdigest()})
    expected = f"{run / 'best.json'}: no checkpoint of format 1: a newer musdbkit may read it"
    assert refused(run) == expected
    with pytest.raises(DatasetError, match="no checkpoint of format 1"):
        write(run, "last")  # which would remove what is not named any more
    assert target.read_bytes() == content


def test_weights_that_are_damaged(tmp_path: Path) -> None:
    written = write(tmp_path)
    path = tmp_path / "best-00000000.safetensors"
    content = path.read_bytes()
    digest = written.files[path.name]
    for damaged in (content[:-1], content[:50], b"", content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        found = hashlib.sha256(damaged).hexdigest()
        assert refused(tmp_path) == (
            f"{path}: not what was written (SHA-256 {found[:8]}..., expected {digest[:8]}...): fetch it again"
        )
    path.unlink()
    assert refused(tmp_path) == f"{path}: cannot be read: No such file or directory"
    path.mkdir()
    assert refused(tmp_path) == f"{path}: cannot be read: Is a directory"


class Trap:
    """What runs a program when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "short"])
def test_files_that_are_no_safetensors(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    write(run)
    path, trap = run / "best-00000000.safetensors", tmp_path / "sprung"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    elif kind == "torch":
        torch.save({"weights": Trap(trap)}, path)
    else:
        path.write_bytes({"text": b"version https://git-lfs\noid sha256:1\n", "short": b"\x10"}[kind])
    change(run, files={path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
    assert refused(run).startswith(f"{path}: no safetensors file: ")
    assert not trap.exists()


def test_weights_of_another_network(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, settings=settings_to_json(dataclasses.replace(TINY, hidden_size=4)))
    path = tmp_path / "best-00000000.safetensors"
    assert refused(tmp_path) == (
        f"{path}: networks.vocals.fc1.weight is (2, 6), expected (4, 6): other settings, or another model's weights"
    )
    change(tmp_path, settings=settings_to_json(dataclasses.replace(TINY, targets=("drums",))))
    assert refused(tmp_path).startswith(f"{path}: lacks networks.drums.")
    change(tmp_path, settings=settings_to_json(dataclasses.replace(TINY, targets=("vocals", "drums"))))
    assert refused(tmp_path).startswith(f"{path}: lacks networks.drums.")


def test_what_weights_may_be() -> None:
    expected = weights(0)
    check_weights(expected, expected, "here")
    some = {name: tensor for name, tensor in expected.items() if "lstm" not in name}
    with pytest.raises(ParameterError, match=r"^here: lacks networks\.vocals\.lstm\.\w+ and 7 more: other settings"):
        check_weights(some, expected, "here")
    with pytest.raises(ParameterError, match=r"^here: has unknown x: other settings, or another model's weights$"):
        check_weights(expected | {"x": torch.zeros(1)}, expected, "here")
    name = "networks.vocals.fc1.weight"
    with pytest.raises(ParameterError, match=rf"^here: {name} is torch\.float16, expected torch\.float32: convert it$"):
        check_weights(expected | {name: expected[name].half()}, expected, "here")


# Weights that were trained elsewhere


def test_weights_from_elsewhere(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_weights(run, "open-unmix", TINY, weights(1), step=9, source={"files": {"a.pth": "f00d"}})
    checkpoint = read_checkpoint(run, "best")
    assert checkpoint is not None
    assert checkpoint.training == {"imported": {"files": {"a.pth": "f00d"}}}
    assert same(dict(load_run(run).network.state_dict()), weights(1))
    with pytest.raises(
        DatasetError, match=r"run: holds a run already: --force replaces it, or train --resume goes on with it$"
    ):
        write_weights(run, "open-unmix", TINY, weights(2), step=9, source={})
    assert same(dict(load_run(run).network.state_dict()), weights(1))
    write_weights(run, "open-unmix", TINY, weights(2), step=9, source={}, force=True)
    assert same(dict(load_run(run).network.state_dict()), weights(2))
    assert names(run) == ["best-00000009.safetensors", "best.json"]


def test_weights_that_do_not_fit_replace_nothing(tmp_path: Path) -> None:
    write(tmp_path, seed=1)
    wrong = {name: tensor for name, tensor in weights(2).items() if "fc1" not in name}
    with pytest.raises(ParameterError, match=r"lacks networks\.vocals\.fc1\.weight: other settings"):
        write_weights(tmp_path, "open-unmix", TINY, wrong, step=0, source={}, force=True)
    assert same(dict(load_run(tmp_path).network.state_dict()), weights(1))
    with pytest.raises(ParameterError):
        write_weights(tmp_path / "new", "open-unmix", TINY, wrong, step=0, source={})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("force", [False, True])
def test_folders_that_are_free(tmp_path: Path, force: bool) -> None:
    check_free(tmp_path / "not there", force)
    check_free(tmp_path, force)
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_run_is_never_replaced(tmp_path: Path, force: bool) -> None:
    for name in ("photo.jpg", "best.txt", "my-best.json", "best-1.safetensors", "weights.safetensors", ".partial"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(DatasetError) as caught:
            check_free(folder, force)
        expected = f"{folder}: holds {name}, expected no folder yet or a run's: name another with --out"
        assert str(caught.value) == expected
        assert (folder / name).read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match=r"file: is a file, expected a folder to write a run to"):
        check_free(tmp_path / "file", force)


def test_a_forced_run_leaves_what_is_not_a_runs(tmp_path: Path) -> None:
    write(tmp_path, "last", state={"x": torch.zeros(1)})
    write(tmp_path, "best")
    foreign = ["notes.txt", "other.safetensors", "best-1.safetensors", "x.json"]
    for name in (*foreign, "metrics.jsonl", ".metrics.jsonl.partial", ".best-00000003.safetensors.partial"):
        (tmp_path / name).write_text("")
    with pytest.raises(DatasetError, match="holds a run already"):
        check_free(tmp_path, False)
    check_free(tmp_path, True)
    remove_run(tmp_path)
    assert names(tmp_path) == sorted(foreign)


# Devices


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(
        ParameterError, match=r"^device cuda: torch \S+ sees no GPU: use --device cpu, or another torch$"
    ):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


# Versions


def commit_of(folder: Path) -> str:
    return models._find_commit(folder)


def test_versions_in_a_wheel_and_in_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "baselines"
    package.mkdir(parents=True)
    (tmp_path / ".git").mkdir()  # of another project, whose virtual environment this lies in
    (tmp_path / ".git" / "HEAD").write_text("f" * 40 + "\n")
    monkeypatch.setattr(models, "__file__", str(package / "models.py"))
    assert find_versions() == {"musdbkit": __version__, "torch": torch.__version__}
    (package.parent / ".git").mkdir()
    (package.parent / ".git" / "HEAD").write_text("a" * 40 + "\n")
    assert find_versions() == {"musdbkit": __version__, "torch": torch.__version__, "commit": "a" * 40}


def test_the_commit_of_this_repository() -> None:
    folder = Path(models.__file__).parent.parent
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        pytest.skip("needs git")
    if done.returncode or not (folder / ".git").is_dir():
        pytest.skip("needs a repository")
    assert find_versions()["commit"] == done.stdout.strip()


def test_commits_in_all_forms(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    assert commit_of(tmp_path) == ""
    git.write_text("gitdir: /elsewhere\n")  # of a worktree
    assert commit_of(tmp_path) == ""
    git.unlink()
    (git / "refs" / "heads").mkdir(parents=True)
    assert commit_of(tmp_path) == ""
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit_of(tmp_path) == ""  # nothing was committed yet
    (git / "packed-refs").write_text(f"# pack-refs\n{'b' * 40} refs/heads/not-main\n{'c' * 40} refs/heads/main\n^dd\n")
    assert commit_of(tmp_path) == "c" * 40
    (git / "refs" / "heads" / "main").write_text("e" * 40 + "\n")
    assert commit_of(tmp_path) == "e" * 40
    (git / "HEAD").write_bytes(b"\xff\xff")
    assert commit_of(tmp_path) == ""
