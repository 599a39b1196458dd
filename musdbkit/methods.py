"""Scored methods, each with the protocol that its scores came about by, and in what the protocols differ.

Reads folders of scores, ours or museval's JSON of any origin (see `scores.load`). Writes nothing.

Conventions: of a folder of ours the protocol is that of its `protocol.json`. museval's JSON says nothing of it but the
windows: its silence rule is museval's own, its scenarios follow from the targets (vocals are scored against the
accompaniment where there is one), and what else there is to know was not recorded, which is None here and differs from
nothing.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musdbkit import musdb18, oracle, scores
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.scoring import read_protocol

if TYPE_CHECKING:
    from pandas import DataFrame

_NB_NAMED = 3  # tracks of a set that are named where it differs from another


@dataclass(frozen=True)
class Protocol:
    """What scores depend on beside the estimates; None is not recorded.

    Attributes
    ----------
    silence : which frames were dropped, `museval` or `per-target`: see `metrics.dropped`.
    window_seconds, hop_seconds : length and distance of the frames.
    mode : of BSSEval, `v4` or `v3`.
    subset : `train`, `test` or `train+test`.
    references : layout and hash of the references that were scored against, as `wav dd86418d6760`.
    tracks : names of the tracks, as the dataset has them.
    document : `protocol.json` as it is.
    """

    silence: str | None
    window_seconds: float | None
    hop_seconds: float | None
    mode: str | None
    subset: str | None
    references: str | None
    tracks: frozenset[str]
    document: dict[str, Any] | None

    @property
    def window(self) -> str | None:
        """The frames as text."""
        if self.window_seconds is None:
            return None
        hop = "" if self.hop_seconds is None else f" every {self.hop_seconds:g} s"  # of one window there is none
        return f"{self.window_seconds:g} s{hop}"


@dataclass(frozen=True)
class Method:
    """The scores of one method.

    Attributes
    ----------
    name : what it is called, unique among those that were loaded together.
    path : the folder or file that its scores are from.
    table : the scores, see `scores`; tracks are named as the dataset names them.
    protocol : how they came about.
    """

    name: str
    path: Path
    table: "DataFrame"
    protocol: Protocol

    @property
    def bound(self) -> str | None:
        """`floor` for the mixture as estimate, `ceiling` for an oracle that knows the stems, None for a method."""
        separation = _entry(self.protocol.document, "separation")
        if _entry(separation, "program") != oracle.PROGRAM:
            return None
        return "floor" if _entry(_entry(separation, "model"), "name") == "mix" else "ceiling"

    def find_scenario(self, target: str, aggregation: str) -> str:
        """Return the targets that a target was evaluated together with, as an aggregation reads it.

        Parameters
        ----------
        target : one of the table's targets.
        aggregation : one of `scores.AGGREGATIONS`.
        """
        rows = scores.used_rows(self.table, aggregation)
        names = set(rows.loc[rows["target"] == target, "scenario"])
        if scores.MUSEVAL in names:
            return "+".join(_find_partners(target, set(self.table["target"])))
        return " or ".join(sorted(names))


def load_methods(paths: Sequence[str | Path]) -> list[Method]:
    """Return scored methods, in the order given.

    Parameters
    ----------
    paths : folders or files as `scores.load` takes them, or `NAME=PATH`. A method is named after its folder, less
        `-scores`; where two would have the same name, their parents' names are put before it.

    Raises
    ------
    ParameterError
        Two methods were given the same name.
    DatasetError
        There are no scores, or they cannot be read.
    """
    named = [_split(path) for path in paths]
    names = _name([(name, path) for name, path in named])
    return [_load(name, path) for name, (_, path) in zip(names, named, strict=True)]


def find_differences(methods: Sequence[Method]) -> dict[str, dict[str, list[str]]]:
    """Return in what protocols differ: by field, by value as text, the names of the methods.

    Only fields are there of which at least two values are known, and only methods of which the value is. References are
    compared by the hash of their files, so that stem files differ from the wavs made of them, and only among methods
    with the same tracks.
    """
    union = frozenset[str]().union(*(method.protocol.tracks for method in methods))
    fields: dict[str, dict[str, str | None]] = {
        "silence rule": {method.name: method.protocol.silence for method in methods},
        "window": {method.name: _say_seconds(method.protocol.window_seconds) for method in methods},
        "hop": {method.name: _say_seconds(method.protocol.hop_seconds) for method in methods},
        "BSSEval": {method.name: method.protocol.mode for method in methods},
        "subset": {method.name: method.protocol.subset for method in methods},
        "references": {method.name: method.protocol.references for method in methods if _is_disputed(method, methods)},
        "tracks": {method.name: _describe_tracks(method.protocol.tracks, union) for method in methods},
    }
    differences: dict[str, dict[str, list[str]]] = {}
    for field, by_name in fields.items():
        by_value: dict[str, list[str]] = {}
        for name, value in by_name.items():
            if value is not None:
                by_value.setdefault(value, []).append(name)
        if len(by_value) > 1:
            differences[field] = by_value
    return differences


def are_alike(first: Method, second: Method) -> bool:
    """Return whether two methods were scored under the same protocol, as far as it is recorded."""
    return not find_differences([first, second])


def group_alike(methods: Sequence[Method]) -> list[list[Method]]:
    """Return methods in groups that were scored alike, in the order given."""
    groups: list[list[Method]] = []
    for method in methods:
        for group in groups:
            if all(are_alike(method, other) for other in group):
                group.append(method)
                break
        else:
            groups.append([method])
    return groups


def _is_disputed(method: Method, methods: Sequence[Method]) -> bool:
    """Return whether another method was scored on the same tracks with other references."""
    own = method.protocol
    others = [other.protocol.references for other in methods if other.protocol.tracks == own.tracks]
    return own.references is not None and any(other not in (None, own.references) for other in others)


def _split(path: str | Path) -> tuple[str | None, Path]:
    """Return the name that a path was given, if any, and the path."""
    text = os.fspath(path)
    name, equals, rest = text.partition("=")
    if isinstance(path, str) and equals and name and os.sep not in name and not Path(text).exists():
        return name, Path(rest)
    return None, Path(path)


def _name(named: Sequence[tuple[str | None, Path]]) -> list[str]:
    """Return a unique name for each path."""
    parts = [_name_parts(path) for _, path in named]
    depths = [1] * len(named)
    while True:
        names = [
            given if given is not None else "/".join(each[-depth:])
            for (given, _), each, depth in zip(named, parts, depths, strict=True)
        ]
        counts = Counter(names)
        deeper = [i for i, (given, _) in enumerate(named) if given is None and counts[names[i]] > 1]
        deeper = [i for i in deeper if depths[i] < len(parts[i])]
        if not deeper:
            break
        for i in deeper:
            depths[i] += 1
    if twice := [name for name, number in counts.items() if number > 1]:
        raise ParameterError(f"{twice[0]}: the name of two methods, expected another for each: NAME=PATH gives names")
    return names


def _name_parts(path: Path) -> list[str]:
    """Return what a method may be named after: the parts of its path, less those that say nothing of it."""
    parts = list(path.resolve().parts[1:])
    if parts and parts[-1].endswith(".json"):
        return [*parts[:-1], parts[-1].removesuffix(".json")]
    if parts and parts[-1] == "scores.csv":
        parts.pop()
    if len(parts) > 1 and parts[-1] in musdb18.SUBSETS:
        parts.pop()
    if not parts:
        return ["/"]
    return [*parts[:-1], parts[-1].removesuffix("-scores") or parts[-1]]


def _load(name: str, path: Path) -> Method:
    """Return one method."""
    table = scores.load(path)
    if table.empty:
        raise DatasetError(f"{path}: no scores, expected at least those of one track: score again")
    names = {track: musdb18.canonical_name(track) for track in table["track"].unique()}
    if len(set(names.values())) == len(names):
        table = table.assign(track=table["track"].map(names))
    tracks = frozenset(table["track"])
    document = read_protocol(path if path.is_dir() else path.parent)
    return Method(name, path, table, _infer(path, tracks) if document is None else _read(document, tracks))


def _read(document: dict[str, Any], tracks: frozenset[str]) -> Protocol:
    """Return the protocol that a `protocol.json` tells of; what it lacks is not recorded."""
    settings, dataset = _entry(document, "settings"), _entry(document, "dataset")
    layouts, subsets, fingerprint = (_entry(dataset, key) for key in ("layout", "subsets", "fingerprint"))
    window, hop = (_entry(settings, key) for key in ("window_seconds", "hop_seconds"))
    return Protocol(
        silence=_text(_entry(settings, "silence")),
        window_seconds=float(window) if isinstance(window, int | float) else None,
        hop_seconds=float(hop) if isinstance(hop, int | float) else None,
        mode=_text(_entry(settings, "mode")),
        subset="+".join(map(str, subsets)) if isinstance(subsets, list) else None,
        references=f"{'+'.join(map(str, layouts))} {fingerprint[:12]}"
        if isinstance(layouts, list) and isinstance(fingerprint, str)
        else None,
        tracks=tracks,
        document=document,
    )


def _infer(path: Path, tracks: frozenset[str]) -> Protocol:
    """Return what museval's JSON tells of the protocol."""
    windows = Counter(scores.read_windows(path).values())
    lengths = {length for length, _ in windows}
    hops = {hop for _, hop in windows if hop is not None}
    if len(lengths) > 1 or len(hops) > 1:
        found = " and ".join(sorted(f"{length:g} s every {hop:g} s" for length, hop in windows if hop is not None))
        raise DatasetError(f"{path}: windows of {found}, expected those of one evaluation")
    subset = next((name for name in ("test", "train") if (path / name).is_dir()), None)
    return Protocol(
        silence="museval",
        window_seconds=next(iter(lengths), None),
        hop_seconds=next(iter(hops), None),
        mode=None,
        subset=subset or next((part for part in reversed(path.resolve().parts) if part in musdb18.SUBSETS), None),
        references=None,
        tracks=tracks,
        document=None,
    )


def _find_partners(target: str, targets: set[str]) -> list[str]:
    """Return what museval evaluates a target together with, of the targets in its JSON."""
    if set(scores.PAIR) <= targets and target in scores.PAIR:
        return list(scores.PAIR)
    return scores.order_targets(targets - {"accompaniment"} | {target})


def _describe_tracks(tracks: frozenset[str], union: frozenset[str]) -> str:
    """Return a set of tracks as text, with what it lacks of all that there are."""
    lacking = sorted(union - tracks)
    shown = "; ".join(lacking[:_NB_NAMED]) + (f" and {len(lacking) - _NB_NAMED} more" if lacking[_NB_NAMED:] else "")
    return f"{len(tracks)} {'track' if len(tracks) == 1 else 'tracks'}" + (f", without {shown}" if lacking else "")


def _say_seconds(seconds: float | None) -> str | None:
    """Return a length as text, where it is known."""
    return None if seconds is None else f"{seconds:g} s"


def _entry(document: Any, key: str) -> Any:
    """Return an entry of a JSON document that anyone may have written, None where it has none."""
    return document.get(key) if isinstance(document, dict) else None


def _text(value: Any) -> str | None:
    """Return a value if it is text."""
    return value if isinstance(value, str) else None
