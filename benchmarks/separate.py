"""`musdbkit baselines separate` against Open-Unmix's Separator, and against what must be done at least.

Times are told as seconds of music per second. The music is one synthetic track; the networks are of full size with
random weights, which take as long as others. `separate_wave` is timed from samples in memory to estimates in memory,
transfers included, after one call that is not; the command on files with its start-up, reading and writing, and next
to it a dry run, which is the start-up.

Open-Unmix's Separator gets the same weights, the same samples, and the device in the same calls by turns, as torch's
defaults have it; its estimates are brought back to memory, too. Differences are the largest of all samples, next to the
largest sample of the Separator's. With Wiener iterations it computes in float32, ours in float64.

Spleeter cannot be measured here, as it runs on TensorFlow 1. Its paper says 100 times real time for 4 stems on a GPU
(files read and written, Hennequin et al. 2020): a figure of other hardware.

The bound: all of the estimates copied once from the device, and the networks alone (`--profile`, which also tells the
rest apart).

    python benchmarks/separate.py [--small] [--profile] [--only open-unmix|spleeter-unet] [--json FILE]

Where musdbkit is not installed: PYTHONPATH=. before it.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch

from baselines import models, separation
from baselines.models import Loaded
from baselines.separation import SeparationSettings, Wave, separate_wave
from musdbkit.synth import synth

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 1800  # seconds that a command may take
SPLEETERS_CLAIM = 100  # times real time, on a GPU; Hennequin et al., J. Open Source Softw. 5(50), 2020
NOT_INSTALLED = "peer not installed: pip install --no-deps openunmix"

SMALL = {
    "spleeter-unet": {"nb_frames": 64, "nb_bins": 256, "filters": [4, 8, 16, 32, 64, 128]},
    "open-unmix": {"hidden_size": 64},
}

WAYS: dict[str, dict[str, dict[str, int]]] = {
    "spleeter-unet": {
        "masks": {"nb_wiener_iterations": 0},
        "1 Wiener iteration": {"nb_wiener_iterations": 1},
    },
    "open-unmix": {
        "no iteration": {"nb_wiener_iterations": 0},
        "1 iteration, windows of 300 frames": {"nb_wiener_iterations": 1, "wiener_window": 300},
        "1 iteration, whole": {"nb_wiener_iterations": 1, "wiener_window": 0},
    },
}
"""How each model is used."""


def make_music(folder: Path, seconds: float) -> Path:
    """Return a wav file of a mixture."""
    result = synth(folder, train=0, valid=0, test=1, seconds=seconds, layout="wav")
    if result.failed:
        raise SystemExit(f"{folder}: {result.failed}")
    return result.made[0].path / "mixture.wav"


def make_run(folder: Path, model: str, small: bool) -> Path:
    """Return a run with random weights."""
    torch.manual_seed(0)
    settings = models.settings_from_json(model, SMALL[model] if small else {})
    weights = models.create(model, settings).state_dict()
    models.write_weights(folder / model, model, settings, weights, step=0, source={"weights": "random"})
    return folder / model


def make_peer(loaded: Loaded, nb_iterations: int, window: int | None) -> Callable[[Wave], list[Wave]]:
    """Return Open-Unmix's Separator with the same weights, as a function of samples in memory.

    The package imports torchaudio, but needs it for none of this: an empty module stands in for it.
    """
    before = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        peer = importlib.import_module("openunmix.model")
    finally:
        del sys.modules["torchaudio"]
        if before is not None:
            sys.modules["torchaudio"] = before
    settings: Any = loaded.settings
    networks: Any = loaded.network.networks
    targets = {}
    for target, network in networks.items():
        targets[target] = peer.OpenUnmix(
            nb_bins=settings.nb_bins, hidden_size=settings.hidden_size, max_bin=settings.nb_input_bins
        )
        targets[target].load_state_dict(network.state_dict())
    separator = peer.Separator(targets, niter=nb_iterations, wiener_win_len=window)
    separator.freeze()
    device = next(loaded.network.parameters()).device
    separator.to(device)

    def separate(wave: Wave) -> list[Wave]:
        with torch.no_grad():
            audio = torch.from_numpy(wave.T.copy())[None].to(device)
            estimates: Wave = separator(audio)[0].cpu().numpy()
        return list(estimates.swapaxes(1, 2))

    return separate


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Timed:
    """A call, and how long it takes.

    Attributes
    ----------
    seconds : of each call.
    nb_bytes : the most memory that tensors took on a GPU.
    result : of the last call.
    failure : what went wrong, or nothing; a call that failed is not made again.
    """

    def __init__(self, call: Callable[[], list[Wave]], device: torch.device) -> None:
        self.seconds: list[float] = []
        self.nb_bytes = 0
        self.result: list[Wave] = []
        self.failure = ""
        self._call = call
        self._device = device

    def run(self, keep: bool) -> None:
        """Make the call; its time counts if it is to be kept."""
        if self.failure:
            return
        self.result = []
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            synchronise(self._device)
            start = time.perf_counter()
            self.result = self._call()
            synchronise(self._device)
            seconds = time.perf_counter() - start
        except (RuntimeError, MemoryError) as error:  # as for too little memory
            self.failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            return
        if keep:
            self.seconds.append(seconds)
        if self._device.type == "cuda":
            self.nb_bytes = torch.cuda.max_memory_allocated()


def compare(loaded: Loaded, wave: Wave, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return the figures of a model in memory."""
    device = next(loaded.network.parameters()).device
    seconds = len(wave) / loaded.settings.sample_rate
    peers = loaded.model == "open-unmix" and importlib.util.find_spec("openunmix") is not None
    print(f"\n| {loaded.model}, in memory | s | times real time | GB | this / Separator | largest difference |")
    print("|---|---|---|---|---|---|", flush=True)
    if loaded.model == "open-unmix" and not peers:
        print(f"| {NOT_INSTALLED} |", flush=True)
    rows = []
    for way, settings in WAYS[loaded.model].items():
        calls = {}
        # of a whole track the Separator's iteration takes many times the memory
        if peers and (settings.get("wiener_window") != 0 or device.type == "cuda" or options.small):
            separator = make_peer(loaded, settings["nb_wiener_iterations"], settings.get("wiener_window") or None)
            calls["Open-Unmix's Separator"] = Timed(lambda call=separator: call(wave), device)
        for precision in ("float32", "bf16") if device.type == "cuda" else ("float32",):
            chosen = SeparationSettings(**settings, precision=precision)
            calls[f"ours, {precision}"] = Timed(
                lambda chosen=chosen: list(separate_wave(loaded, wave, chosen).values()), device
            )
        for i in range(options.runs + 1):
            for call in calls.values():
                call.run(keep=i > 0)
        rows += [print_call(way, name, calls, seconds) for name in calls]
        calls.clear()
    return rows


def print_call(way: str, name: str, calls: dict[str, Timed], seconds: float) -> dict[str, Any]:
    """Print and return a line."""
    call, peer = calls[name], calls.get("Open-Unmix's Separator")
    if call.failure:
        print(f"| {name}, {way} | {call.failure} |", flush=True)
        return {"name": name, "way": way, "failed": call.failure}
    took = statistics.median(call.seconds)
    ratio = difference = None
    if peer is not None and peer is not call and not peer.failure:
        ratio = statistics.median(a / b for a, b in zip(peer.seconds, call.seconds, strict=True))
        pairs = zip(peer.result, call.result, strict=True)
        largest = max(float(np.abs(estimate).max()) for estimate in peer.result)
        difference = max(float(np.abs(theirs - mine).max()) for theirs, mine in pairs) / largest
    memory = f"{call.nb_bytes / 1e9:.2f}" if call.nb_bytes else ""
    cells = [f"{name}, {way}", f"{took:.2f}", f"{seconds / took:.3g}", memory]
    cells += [f"{ratio:.2f}" if ratio else "", f"{difference:.1g}" if difference is not None else ""]
    print("| " + " | ".join(cells) + " |", flush=True)
    return {
        "name": name,
        "way": way,
        "seconds": call.seconds,
        "real_time": seconds / took,
        "memory_bytes": call.nb_bytes or None,
        "ratio": ratio,
        "difference": difference,
    }


def run_command(run: Path, inputs: list[Path], out: Path, device: str, arguments: list[str]) -> float | str:
    """Return the seconds that a command takes, or in one line what went wrong."""
    command = [sys.executable, "-m", "musdbkit", "baselines", "separate", str(run), *map(str, inputs)]
    command += ["--out", str(out), "--device", device, *arguments]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return f"failed: took more than {LONGEST} s"
    if done.returncode:
        return f"failed, exit status {done.returncode}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
    return time.perf_counter() - start


def time_commands(
    run: Path, model: str, music: Path, seconds: float, device: torch.device, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Print and return the figures of the command on files."""
    rows = []
    with tempfile.TemporaryDirectory(dir=run.parent) as name:
        folder = Path(name)
        inputs = [folder / f"track {i}.wav" for i in range(options.tracks)]
        for path in inputs:
            path.symlink_to(music)
        print(f"\n| {model}, {len(inputs)} file(s), the command | s | times real time | less start-up |")
        print("|---|---|---|---|", flush=True)
        start_up = run_command(run, inputs, folder / "dry", device.type, ["--dry-run"])
        print(
            f"| start-up: --dry-run | {start_up if isinstance(start_up, str) else f'{start_up:.2f}'} | | |", flush=True
        )
        ways = list(WAYS[model].items())[:2]
        precisions = ("float32", "bf16") if device.type == "cuda" else ("float32",)
        for i, (way, precision) in enumerate((way, p) for way in ways for p in precisions):
            arguments = ["--wiener", str(way[1]["nb_wiener_iterations"]), "--precision", precision]
            took = run_command(run, inputs, folder / str(i), device.type, arguments)
            label = f"{way[0]}, {precision}"
            row: dict[str, Any] = {"name": "command", "way": label, "seconds": took, "start_up": start_up}
            if isinstance(took, str):
                print(f"| {label} | {took} |", flush=True)
            else:
                row["real_time"] = seconds * len(inputs) / took
                alone = took - start_up if isinstance(start_up, float) else 0.0
                less = f"{seconds * len(inputs) / alone:.3g}" if alone > 0 else ""
                print(f"| {label} | {took:.2f} | {row['real_time']:.3g} | {less} |", flush=True)
            rows.append(row)
    return rows


class Parts:
    """Measures what the parts of `separate_wave` take, each waited for.

    Attributes
    ----------
    seconds : by part.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._loaded = loaded
        self._device = next(loaded.network.parameters()).device

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure meanwhile."""
        network: Any = self._loaded.network
        spleeter = self._loaded.model != "open-unmix"
        with contextlib.ExitStack() as stack:
            parts = {
                "stft": "STFT",
                "istft": "iSTFT",
                "wiener": "filter",
                "_mask": "filter",
                "_wait": "waiting for copies",
            }
            for name, part in parts.items():
                patched = self._wrap(part, getattr(separation, name))
                stack.enter_context(mock.patch.object(separation, name, patched))
            for each in [network] if spleeter else network.networks.values():
                stack.enter_context(mock.patch.object(each, "forward", self._wrap("networks", each.forward)))
            chunks = separation.separate_chunks
            stack.enter_context(mock.patch.object(separation, "separate_chunks", self._between(chunks)))
            yield

    def _wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is measured."""

        def measured(*arguments: Any, **named: Any) -> Any:
            synchronise(self._device)
            start = time.perf_counter()
            result = call(*arguments, **named)
            synchronise(self._device)
            self.seconds[part] += time.perf_counter() - start
            return result

        return measured

    def _between(self, call: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Return a generator of which is measured what is done with its pieces."""

        def measured(*arguments: Any) -> Iterator[Any]:
            for piece in call(*arguments):
                start = time.perf_counter()
                yield piece
                self.seconds["into the caller's arrays"] += time.perf_counter() - start

        return measured


def profile(loaded: Loaded, wave: Wave) -> list[dict[str, Any]]:
    """Print and return what the parts take."""
    device = next(loaded.network.parameters()).device
    names = ("STFT", "networks", "filter", "iSTFT", "waiting for copies", "into the caller's arrays")
    print(f"\n| {loaded.model}: seconds of | all | {' | '.join(names)} | the rest |")
    print("|---|" + "---|" * (len(names) + 2), flush=True)
    rows = []
    for way, settings in WAYS[loaded.model].items():
        for precision in ("float32", "bf16") if device.type == "cuda" else ("float32",):
            chosen = SeparationSettings(**settings, precision=precision)
            if device.type == "cuda":
                separate_wave(loaded, wave, chosen)
            parts = Parts(loaded)
            with parts.measuring():
                synchronise(device)
                start = time.perf_counter()
                separate_wave(loaded, wave, chosen)
                synchronise(device)
                total = time.perf_counter() - start
            measured = [parts.seconds[name] for name in names]
            cells = [f"{value:.3f}" for value in (total, *measured, total - sum(measured))]
            print(f"| {way}, {precision} | " + " | ".join(cells) + " |", flush=True)
            rows.append({"way": way, "precision": precision, "all": total} | dict(parts.seconds))
    return rows


def print_copies(nb_samples: int, nb_targets: int, device: torch.device) -> dict[str, float]:
    """Print and return how long plain copies of all estimates take, the least that there is to do."""
    on_device = torch.ones((nb_targets, 2, nb_samples), device=device)
    target = torch.ones((nb_targets, 2, nb_samples))
    pinned = torch.ones((nb_targets, 2, nb_samples), pin_memory=device.type == "cuda")
    copies = {
        "new memory": lambda: on_device.clone() if device.type == "cpu" else on_device.cpu(),
        "memory in use": lambda: target.copy_(on_device),
        "pinned memory": lambda: pinned.copy_(on_device),
    }
    measured = {}
    for name, copy in copies.items():
        copy()
        synchronise(device)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            copy()
            synchronise(device)
            times.append(time.perf_counter() - start)
        measured[name] = statistics.median(times)
    said = ", ".join(f"to {name} {1000 * seconds:.0f} ms" for name, seconds in measured.items())
    print(f"\nall estimates, {on_device.nbytes / 1e6:.0f} MB, copied once from the device: {said}", flush=True)
    return measured


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small networks and 20 s")
    parser.add_argument("--only", choices=tuple(WAYS))
    parser.add_argument("--profile", action="store_true", help="tell the parts apart, too")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seconds", type=float, help="of music; 240, or 20 with --small")
    parser.add_argument("--runs", type=int, help="after one that does not count; 3 on a GPU, else 1")
    parser.add_argument("--tracks", type=int, help="files that the command separates; 4 on a GPU, else 1; 0: none")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:  # the command sets it, but torch has been loaded here
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    device = models.choose_device(options.device)
    options.runs = options.runs or (3 if device.type == "cuda" else 1)
    options.tracks = (4 if device.type == "cuda" else 1) if options.tracks is None else options.tracks
    seconds = options.seconds or (20 if options.small else 240)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    document: dict[str, Any] = {
        "device": gpu or f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "small": options.small,
        "seconds": seconds,
    }
    print(f"{document['device']}; torch {torch.__version__}, CUDA {torch.version.cuda}, {platform.python_version()}")
    print(f"{seconds:g} s of music, {'small' if options.small else 'full'} networks with random weights")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        music = make_music(folder / "musdb", seconds)
        wave, _ = soundfile.read(music, dtype="float32", always_2d=True)
        for model in [options.only] if options.only else WAYS:
            run = make_run(folder, model, options.small)
            loaded = models.load_run(run, device)
            document[model] = {"in memory": compare(loaded, wave, options)}
            if options.profile:
                document[model]["parts"] = profile(loaded, wave)
            document[model]["copies"] = print_copies(len(wave), len(loaded.settings.targets), device)
            if model == "spleeter-unet":
                print(f"no peer here; Spleeter's paper says {SPLEETERS_CLAIM} times real time on a GPU of 2019")
            del loaded
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            if options.tracks:
                document[model]["command"] = time_commands(run, model, music, seconds, device, options)
            if options.json:
                options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
