"""What the 2018 signal separation evaluation campaign published: the scores of 31 methods on MUSDB18's test tracks.

Reads `sisec18.csv` beside this module: of each method and target the median over tracks of the median over frames, in
dB, which is the aggregation `sisec18` of `scores`. Writes nothing.
"""

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from musdbkit import musdb18

SOURCE: Final = (
    "F.-R. Stöter, A. Liutkus, N. Ito: The 2018 signal separation evaluation campaign, LVA/ICA 2018, arXiv:1804.06267; "
    "medians of the scores in github.com/sigsep/sigsep-mus-2018"
)
"""Whom to cite."""

FLOOR: Final = "MIX"
"""The mixture as the estimate of every target."""

CEILINGS: Final = ("IBM1", "IBM2", "IRM1", "IRM2", "MWF")
"""Oracles, which know the true stems."""

WINDOW_SECONDS: Final = 1.0
"""Length of the campaign's frames, and their distance."""


@cache
def read_medians() -> dict[str, dict[str, dict[str, float]]]:
    """Return the published medians in dB by method, target and metric (SDR, SIR, ISR, SAR), rounded to 0.001 dB."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        medians: dict[str, dict[str, dict[str, float]]] = {}
        for row in csv.DictReader(file):
            values = {metric: float(row[metric]) for metric in ("SDR", "ISR", "SIR", "SAR")}
            medians.setdefault(row["method"], {})[row["target"]] = values
    return medians


def covers(tracks: frozenset[str]) -> bool:
    """Return whether tracks are those that the campaign scored, all of MUSDB18's subset test."""
    return tracks == frozenset(musdb18.TEST_TRACKS)


def find_submissions(methods: Iterable[str]) -> list[str]:
    """Return those of the campaign's methods that are neither the floor nor a ceiling."""
    return [name for name in methods if name != FLOOR and name not in CEILINGS]
