"""What is published about MUSDB18: stems, targets, splits, errata and names.

Reads `configs/mus.yaml` of the installed musdb package by its file: importing musdb would need an ffmpeg program.
Writes nothing.

References
----------
Rafii, Liutkus, Stöter, Mimilakis, Bittner: The MUSDB18 corpus for music separation, 2017, doi:10.5281/zenodo.1117372.
"""

import importlib.util
import random
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from musdbkit.errors import MissingDependencyError


def _read_config() -> dict[str, Any]:
    """Return the content of the musdb package's configs/mus.yaml."""
    spec = importlib.util.find_spec("musdb")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("the musdb package is not installed: pip install musdb")
    path = Path(spec.submodule_search_locations[0]) / "configs" / "mus.yaml"
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingDependencyError(
            f"{path}: the musdb package's data file cannot be read: pip install --force-reinstall musdb"
        ) from error
    return config


_CONFIG = _read_config()

SAMPLE_RATE: Final = int(_CONFIG["sample_rate"])
"""Sample rate of the dataset in Hz (44100)."""

NB_CHANNELS: Final = 2
"""Every stem of the dataset is stereo."""

STREAMS: Final[tuple[str, ...]] = tuple(sorted(_CONFIG["stem_ids"], key=_CONFIG["stem_ids"].__getitem__))
"""Names of the audio streams of a `.stem.mp4` in order: mixture, drums, bass, other, vocals."""

TARGETS: Final[dict[str, tuple[str, ...]]] = {
    target: tuple(stem for stem in STREAMS if stem in parts) for target, parts in _CONFIG["targets"].items()
}
"""What is estimated and scored, each as the stems it is the sum of."""

STEMS: Final[tuple[str, ...]] = tuple(stem for stem in STREAMS if stem in TARGETS)
"""The streams that are not the mixture: drums, bass, other, vocals."""

VALIDATION_TRACKS: Final[tuple[str, ...]] = tuple(_CONFIG["validation_tracks"])
"""The 14 tracks of subset train that form the official validation split."""

TEST_TRACKS: Final = (
    "AM Contra - Heart Peripheral",
    "Al James - Schoolboy Facination",
    "Angels In Amplifiers - I'm Alright",
    "Arise - Run Run Run",
    "BKS - Bulldozer",
    "BKS - Too Much",
    "Ben Carrigan - We'll Talk About It All Tonight",
    "Bobby Nobody - Stitch Up",
    "Buitraker - Revo X",
    "Carlos Gonzalez - A Place For Us",
    "Cristina Vane - So Easy",
    "Detsky Sad - Walkie Talkie",
    "Enda Reilly - Cur An Long Ag Seol",
    "Forkupines - Semantics",
    "Georgia Wonder - Siren",
    "Girls Under Glass - We Feel Alright",
    "Hollow Ground - Ill Fate",
    "James Elder & Mark M Thompson - The English Actor",
    "Juliet's Rescue - Heartbeats",
    "Little Chicago's Finest - My Own",
    "Louis Cressy Band - Good Time",
    "Lyndsey Ollard - Catching Up",
    "M.E.R.C. Music - Knockout",
    "Moosmusic - Big Dummy Shake",
    "Motor Tapes - Shore",
    "Mu - Too Bright",
    "Nerve 9 - Pray For The Rain",
    "PR - Happy Daze",
    "PR - Oh No",
    "Punkdisco - Oral Hygiene",
    "Raft Monk - Tiring",
    "Sambasevam Shanmugam - Kaathaadi",
    "Secretariat - Borderline",
    "Secretariat - Over The Top",
    "Side Effects Project - Sing With Me",
    "Signe Jakobsen - What Have You Done To Me",
    "Skelpolu - Resurrection",
    "Speak Softly - Broken Man",
    "Speak Softly - Like Horses",
    "The Doppler Shift - Atrophy",
    "The Easton Ellises (Baumi) - SDRNR",
    "The Easton Ellises - Falcon 69",
    "The Long Wait - Dark Horses",
    "The Mountaineering Club - Mallory",
    "The Sunshine Garcia Band - For I Am The Moon",
    "Timboz - Pony",
    "Tom McKenzie - Directions",
    "Triviul feat. The Fiend - Widow",
    "We Fell From The Sky - Not You",
    "Zeno - Signs",
)
"""The 50 tracks of subset test (source: the files that SiSEC 2018 published of each method)."""

VALIDATION_SEED: Final = 0
"""Seed of the pick of validation tracks where the official ones are not asked for or not there."""

SUBSETS: Final = ("train", "test")
"""The two parts of the dataset as published, which are also its two folders."""

NB_TRACKS: Final = {"train": 100, "test": 50}
"""Number of published tracks in each subset."""


@dataclass(frozen=True)
class Erratum:
    """A known fault of a published track.

    Attributes
    ----------
    track : name of the track.
    subset : the subset it is in, `train` or `test`.
    position : where in the track, as the source says it; empty where it is the whole track or not said.
    defect : what is wrong.
    """

    track: str
    subset: str
    position: str
    defect: str


ERRATA_SOURCE: Final = (
    "sigsep.github.io/datasets/musdb.html, errata, as of 2025-03-31; sigsep/website issue 37 and pull requests 27, 51"
)

ERRATA: Final = (
    Erratum("Al James - Schoolboy Facination", "test", "", "synthesiser vocals are in other"),
    Erratum("BKS - Bulldozer", "test", "1:12", "cowbell is in other"),
    Erratum("Detsky Sad - Walkie Talkie", "test", "", "other is mixed into drums"),
    Erratum("Enda Reilly - Cur An Long Ag Seol", "test", "start", "speech is in other"),
    Erratum("PR - Oh No", "test", "", "left channel of the mixture is not the sum of the stems"),
    Erratum("Chris Durban - Celebrate", "train", "", "other instruments bleed into vocals"),
    Erratum("Hop Along - Sister Cities", "train", "", "other instruments bleed into vocals"),
    Erratum(
        "Leaf - Wicked", "train", "2:20, 3:02", "electric guitar is in drums (another source: in vocals, 3:02 to 3:08)"
    ),
)
"""Known faults of published tracks (source: `ERRATA_SOURCE`)."""

ALIASES: Final = {
    "Al James - Schoolboy Fascination": "Al James - Schoolboy Facination",
    "Jokers Jacks & Kings - Sea Of Leaves": "Jokers, Jacks & Kings - Sea Of Leaves",
    "M": "M.E.R.C. Music - Knockout",
    "Patrick Talbot - Set Free Me": "Patrick Talbot - Set Me Free",
}
"""Names of tracks as other sources write them, and the name in the dataset.

`Fascination` corrects the dataset's own spelling; the comma and `Set Free Me` are those of the website's
tracklist.csv; `M` is what is left of a name with dots when a tool takes it for a file name (sigsep/sigsep-mus-db
pull request 8, sigsep/sigsep-mus-2018 pull request 19).
"""


def canonical_name(name: str) -> str:
    """Return the dataset's own name of a track that may be known under another one, in Unicode's composed form.

    File systems hold names with accents in one of two forms that look alike.
    """
    composed = unicodedata.normalize("NFC", name)
    return ALIASES.get(composed, composed)


def split_of(name: str, subset: str) -> str:
    """Return `train`, `valid` or `test`: the official split a track of a subset belongs to."""
    if subset == "train" and canonical_name(name) in VALIDATION_TRACKS:
        return "valid"
    return subset


def pick_validation(names: Iterable[str], nb_tracks: int | None = None) -> set[str]:
    """Return the tracks to validate on where the official ones are not: picked at random, always the same ones.

    Parameters
    ----------
    names : of the tracks of subset train.
    nb_tracks : how many; a tenth by default, at least one if there is any.
    """
    ordered = sorted(names)
    if nb_tracks is None:
        nb_tracks = max(1, round(len(ordered) / 10))
    return set(random.Random(VALIDATION_SEED).sample(ordered, min(nb_tracks, len(ordered))))


def errata_of(name: str) -> tuple[Erratum, ...]:
    """Return the known faults of a track, none for most."""
    return tuple(erratum for erratum in ERRATA if erratum.track == canonical_name(name))
