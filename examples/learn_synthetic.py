"""Proof of learning: train on synthetic music, separate tracks that were held out, score them beside bounds.

    python examples/learn_synthetic.py OUT                          # minutes on a CPU, with a small network
    python examples/learn_synthetic.py OUT --full --device cuda     # the networks as published, on a GPU

Prints the median SDR of each target for the mixture (the floor), the model and an ideal ratio mask (the ceiling of
masking), and writes a report of them, OUT/report.html; exits with status 1 if the model is not between them for vocals
and drums. Needs `musdbkit[baselines]`.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for each other leave the processor to others

from baselines.plans import make_plan
from baselines.separate import separate
from baselines.train import Hardware, train
from musdbkit import caching, musdb18, scores, scoring
from musdbkit.cache_request import find_request
from musdbkit.excerpts import cut_worst
from musdbkit.methods import load_methods
from musdbkit.oracle import oracle
from musdbkit.report import report
from musdbkit.synth import synth

SMALL = {
    "spleeter-unet": {
        "filters": [8, 16, 16, 32, 32, 32],
        "nb_bins": 512,
        "nb_frames": 64,
        "mask_extension": "average",  # music goes on above the 5.5 kHz that 512 bins are
        "loss": "mse",  # Spleeter's own, the mean of differences, takes longer to hear a voice that is mostly silent
        "dropout": 0.0,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "ema_decay": 0.95,
        "epoch_steps": 50,
    },
    "block-unet": {
        "n_fft": 1024,
        "hop_length": 512,
        "nb_frames": 64,
        "n_blocks": 5,
        "internal_channels": 12,
        "n_internal_layers": 2,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "ema_decay": 0.95,
        "epoch_steps": 50,
    },
    "umx-transformer": {
        "n_fft": 2048,
        "hidden_size": 128,
        "nb_heads": 4,
        "nb_layers": 2,
        "feedforward_size": 256,
        "input_seconds": 3.0,
        "shift": 40_000,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "ema_decay": 0.95,
        "epoch_steps": 50,
        "valid_epochs": 1,
    },
}
FULL = {
    "spleeter-unet": {"epoch_steps": 250, "batch_size": 8, "learning_rate": 3e-4},
    "open-unmix": {"epoch_steps": 250},
    "block-unet": {"epoch_steps": 250},
    "umx-transformer": {"epoch_steps": 250, "valid_epochs": 1},
    "auto-transformer": {"epoch_steps": 250, "valid_epochs": 1},
}
METHODS = ("mix", "irm2")


def main() -> int:
    """Run the walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--model", default="spleeter-unet", choices=list(FULL), help="which model")
    parser.add_argument("--full", action="store_true", help="the network as published, and more tracks")
    parser.add_argument("--steps", type=int, help="steps of training, in place of minutes")
    parser.add_argument("--minutes", type=float, default=8.0, help="minutes of training")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args()
    if not options.full and options.model not in SMALL:
        parser.error(f"only {', '.join(SMALL)} have small settings: add --full")

    root = options.out / "wav"
    nb_train, nb_test, seconds = (40, 8, 60.0) if options.full else (16, 4, 30.0)
    synth(root, train=nb_train, valid=3, test=nb_test, seconds=seconds, layout="wav")
    data = root
    if options.model == "spleeter-unet":
        data = options.out / "cache"
        caching.build(find_request(root, "spleeter"), data)
    changes = (FULL if options.full else SMALL)[options.model]
    plan = make_plan(
        options.model, data=data, targets=musdb18.STEMS, changes={**changes, "max_steps": options.steps, "seed": 0}
    )
    run = options.out / "run"
    minutes = options.minutes if options.steps is None else None
    trained = train(plan, run, hardware=Hardware(options.device), max_minutes=minutes, resume=True)
    if trained.interrupted:
        return 130
    estimates = {method: options.out / method for method in METHODS}
    for method, folder in estimates.items():
        oracle(root, folder, method, subsets=("test",))
    estimates["model"] = options.out / "estimates"
    separate(run, [root], estimates["model"], device=options.device, force=True)
    sdr = {}
    for name, folder in estimates.items():
        settings = scoring.Settings(("sdr",))
        result = scoring.score(
            folder, scoring.find_references(root), options.out / "scores" / name, settings, subset="test"
        )
        sdr[name] = scores.aggregate(result.table, "sisec18")["SDR"]
    print(f"{options.model}, {trained.nb_parameters:,} parameters, {trained.step} steps in {trained.seconds:.0f} s")
    print(f"median SDR in dB of {nb_test} held-out tracks of {seconds:.0f} s")
    print(f"{'':8}{'mixture':>10}{'model':>10}{'IRM2':>10}")
    for target in musdb18.STEMS:
        print(f"{target:8}" + "".join(f"{sdr[name][target]:10.2f}" for name in ("mix", "model", "irm2")))
    names = ("model", *METHODS)
    methods = load_methods([options.out / "scores" / name for name in names])
    sounds = cut_worst(methods, [estimates[name] for name in names], root)
    page = report(methods, options.out / "report.html", excerpts=sounds.excerpts)
    print(f"to read and to listen to: {page.path}")
    good = all(sdr["mix"][target] < sdr["model"][target] < sdr["irm2"][target] for target in ("vocals", "drums"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
