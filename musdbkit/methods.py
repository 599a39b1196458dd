"""Scored methods, each with the protocol that its scores came about by, and in what the protocols differ.

Reads folders of scores, ours or museval's JSON of any origin (see `scores.load`). Writes nothing.

Conventions: of a folder of ours the protocol is that of its `protocol.json`. museval's JSON says nothing of it but the
windows: its silence rule is museval's own, its scenarios follow from the targets (vocals are scored against the
accompaniment where there is one), and what else there is to know was not recorded, which is None here and differs from
nothing.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musdbkit import musdb18, oracle, scores, sisec18
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
    align : whether estimates of any length were cut or padded, not only up to 1024 samples.
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
    align: bool | None
    tracks: frozenset[str]
    document: dict[str, Any] | None

    @property
    def seconds(self) -> tuple[float, float]:
        """Length and distance of the frames in seconds: 1 where the length, the length where the distance lacks."""
        length = self.window_seconds or 1.0
        return length, self.hop_seconds or length

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
    notes : what was left out.
    """

    name: str
    path: Path
    table: "DataFrame"
    protocol: Protocol
    notes: tuple[str, ...] = ()

    @property
    def layouts(self) -> list[str]:
        """The layouts of the dataset that was scored against, `stems`, `wav` or `hq`; none where not recorded."""
        found = _entry(_entry(self.protocol.document, "dataset"), "layout")
        return list(map(str, found)) if isinstance(found, list) else []

    @property
    def bound(self) -> str | None:
        """`floor` for the mixture as estimate, `ceiling` for an oracle that knows the stems, None for a method.

        That is known of scores of `oracle`'s estimates, and of museval's JSON that is named as SiSEC 2018 names them.
        """
        if self.protocol.document is None:
            return "floor" if self.name == sisec18.FLOOR else "ceiling" if self.name in sisec18.CEILINGS else None
        separation = _entry(self.protocol.document, "separation")
        if _entry(separation, "program") != oracle.PROGRAM:
            return None
        return "floor" if _entry(_entry(separation, "model"), "name") == "mix" else "ceiling"

    def find_scenarios(self, aggregation: str) -> dict[str, str]:
        """Return by target what it was evaluated together with, as an aggregation reads it.

        Parameters
        ----------
        aggregation : one of `scores.AGGREGATIONS`.
        """
        rows = scores.used_rows(self.table, aggregation)[["target", "scenario"]].drop_duplicates()
        targets = set(rows["target"])
        found: dict[str, list[str]] = {}
        for target, scenario in sorted(zip(rows["target"], rows["scenario"], strict=True)):
            name = "+".join(_find_partners(target, targets)) if scenario == scores.MUSEVAL else scenario
            found.setdefault(target, []).append(name)
        return {target: " or ".join(names) for target, names in found.items()}


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
    return [_load(name, path) for name, (_, path) in zip(_name(named), named, strict=True)]


def find_differences(methods: Sequence[Method], metric: str = "SDR") -> dict[str, dict[str, list[str]]]:
    """Return in what protocols differ: by field, by value as text, the names of the methods.

    Only fields are there of which at least two values are known, and only methods of which the value is. Fields that
    have no influence on a metric of whole tracks are left out for such. References are compared by the hash of their
    files, so that stem files differ from the wavs made of them, and only among methods with the same tracks.

    Parameters
    ----------
    methods : what is compared.
    metric : one of `scores.FRAME_METRICS` or `scores.TRACK_METRICS`.
    """
    fields = _list_fields(methods, metric)
    disputed = [method.name for method in methods if _is_disputed(method, methods)]
    fields["references"] = {name: value for name, value in fields["references"].items() if name in disputed}
    differences: dict[str, dict[str, list[str]]] = {}
    for field, by_name in fields.items():
        by_value: dict[str, list[str]] = {}
        for name, value in by_name.items():
            if value is not None:
                by_value.setdefault(value, []).append(name)
        if len(by_value) > 1:
            differences[field] = by_value
    return differences


def find_unrecorded(methods: Sequence[Method], metric: str = "SDR") -> dict[str, list[str]]:
    """Return by field in which methods it is not recorded, where it is in others."""
    fields = _list_fields(methods, metric)
    return {
        field: unknown
        for field, by_name in fields.items()
        if 0 < len(unknown := [name for name, value in by_name.items() if value is None]) < len(by_name)
    }


def group_alike(methods: Sequence[Method], metric: str = "SDR") -> list[list[Method]]:
    """Return methods in groups that were scored alike, in the order given; what is not recorded is alike to all."""
    groups: list[list[Method]] = []
    for method in methods:
        for group in groups:
            if not any(find_differences([method, other], metric) for other in group):
                group.append(method)
                break
        else:
            groups.append([method])
    return groups


def _list_fields(methods: Sequence[Method], metric: str) -> dict[str, dict[str, str | None]]:
    """Return by field and method what is recorded, as text."""
    protocols = {method.name: method.protocol for method in methods}
    fields: dict[str, dict[str, str | None]] = {}
    if metric in scores.FRAME_METRICS:
        fields["silence rule"] = {name: protocol.silence for name, protocol in protocols.items()}
        fields["window"] = {name: _say_seconds(protocol.window_seconds) for name, protocol in protocols.items()}
        fields["hop"] = {
            name: _say_seconds(protocol.hop_seconds)
            for name, protocol in protocols.items()
            if protocol.hop_seconds is not None or protocol.window_seconds is None  # of a single window there is none
        }
        fields["BSSEval"] = {name: protocol.mode for name, protocol in protocols.items()}
    fields["align"] = {
        name: None if protocol.align is None else "on" if protocol.align else "off"
        for name, protocol in protocols.items()
    }
    fields["subset"] = {name: protocol.subset for name, protocol in protocols.items()}
    fields["references"] = {name: protocol.references for name, protocol in protocols.items()}
    fields["tracks"] = {**describe_tracks({name: protocol.tracks for name, protocol in protocols.items()})}
    return fields


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
        text = rest
    else:
        name = ""
    if not text:
        raise ParameterError("no folder is named, expected one of scores, or NAME=FOLDER")
    return name or None, Path(text)


def _name(named: Sequence[tuple[str | None, Path]]) -> list[str]:
    """Return a unique name for each path: as short as can be."""
    candidates = [[given] if given is not None else _find_names(path) for given, path in named]
    chosen = [0] * len(named)
    while True:
        names = [each[i] for each, i in zip(candidates, chosen, strict=True)]
        counts = Counter(names)
        longer = [k for k, i in enumerate(chosen) if counts[names[k]] > 1 and i + 1 < len(candidates[k])]
        if not longer:
            break
        for k in longer:
            chosen[k] += 1
    if twice := [name for name, number in counts.items() if number > 1]:
        raise ParameterError(f"{twice[0]}: the name of two methods, expected another for each: NAME=PATH gives names")
    return names


def _find_names(path: Path) -> list[str]:
    """Return what a method may be called after its path, the shortest first; what says nothing of it comes last."""
    parts = list(path.resolve().parts[1:]) or ["/"]
    if parts[-1] == "scores.csv" and len(parts) > 1:
        parts.pop()
    last = parts.pop().removesuffix(".json")
    if last in musdb18.SUBSETS and parts:
        method = parts.pop()
        own = [method.removesuffix("-scores") or method, f"{method}/{last}"]
    else:
        own = [last.removesuffix("-scores") or last]
    longer = ["/".join([*parts[-i:], own[-1]]) for i in range(1, len(parts) + 1)]
    return [*own, *longer[:-1], *(f"/{name}" for name in longer[-1:])]


def _load(name: str, path: Path) -> Method:
    """Return one method."""
    folder = path if path.is_dir() else path.parent
    document = read_protocol(folder)
    if document is None and folder.resolve().name in musdb18.SUBSETS:  # a part of what `score` wrote
        document = read_protocol(folder.parent)
    windows: dict[str, scores.Windows] = {}
    notes: list[str] = []
    if document is not None or path.name == "scores.csv" or (path / "scores.csv").is_file():
        table = scores.load(path)
    else:
        table, windows = scores.read_museval(path)
        if (path / "test").is_dir() and any((path / "train").rglob("*.json")):
            notes.append("its train tracks are left out, as museval does: name its folder train to compare these")
    if table.empty:
        raise DatasetError(f"{path}: no scores, expected at least those of one track: score again")
    names = {track: musdb18.canonical_name(track) for track in {*table["track"].unique(), *windows}}
    if len(set(names.values())) < len(names):  # two tracks are not made one
        names = {track: track for track in names}
    table = table.assign(track=table["track"].map(names))
    tracks = frozenset(names.values())
    protocol = _infer(path, windows, tracks) if document is None else _read(document, tracks)
    return Method(name, path, table, protocol, tuple(notes))


def _read(document: dict[str, Any], tracks: frozenset[str]) -> Protocol:
    """Return the protocol that a `protocol.json` tells of; what it lacks is not recorded."""
    settings, dataset = _entry(document, "settings"), _entry(document, "dataset")
    layouts, subsets, fingerprint = (_entry(dataset, key) for key in ("layout", "subsets", "fingerprint"))
    window, hop, align = (_entry(settings, key) for key in ("window_seconds", "hop_seconds", "align"))
    return Protocol(
        silence=_text(_entry(settings, "silence")),
        window_seconds=float(window) if isinstance(window, int | float) else None,
        hop_seconds=float(hop) if isinstance(hop, int | float) else None,
        mode=_text(_entry(settings, "mode")),
        align=align if isinstance(align, bool) else None,
        subset="+".join(map(str, subsets)) if isinstance(subsets, list) else None,
        references=f"{'+'.join(map(str, layouts))} {fingerprint[:12]}"
        if isinstance(layouts, list) and isinstance(fingerprint, str)
        else None,
        tracks=tracks,
        document=document,
    )


def _infer(path: Path, windows: dict[str, scores.Windows], tracks: frozenset[str]) -> Protocol:
    """Return what museval's JSON tells of the protocol."""
    lengths, hops = (sorted({s for each in windows.values() if (s := each[i]) is not None}) for i in (0, 1))
    for kind, found in (("windows of", lengths), ("windows every", hops)):
        if len(found) > 1:
            listed = " and ".join(f"{seconds:g} s" for seconds in found)
            raise DatasetError(f"{path}: {kind} {listed}, expected those of one evaluation")
    subset = next((name for name in ("test", "train") if (path / name).is_dir()), None)
    return Protocol(
        silence="museval",
        window_seconds=next(iter(lengths), None),
        hop_seconds=next(iter(hops), None),
        mode=None,
        subset=subset or next((part for part in reversed(path.resolve().parts) if part in musdb18.SUBSETS), None),
        references=None,
        align=None,
        tracks=tracks,
        document=None,
    )


def _find_partners(target: str, targets: set[str]) -> list[str]:
    """Return what museval evaluates a target together with, of the targets in its JSON."""
    if set(scores.PAIR) <= targets and target in scores.PAIR:
        return list(scores.PAIR)
    return scores.order_targets(targets - {"accompaniment"} | {target})


def describe_tracks(tracks: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Return sets of tracks as text, equal ones alike: how many, and what they lack of all that there are."""
    union = frozenset[str]().union(*tracks.values())
    for nb_named in (_NB_NAMED, len(union)):  # all of them where a few do not tell sets apart
        texts = {name: _describe_set(each, union, nb_named) for name, each in tracks.items()}
        if len(set(texts.values())) == len(set(tracks.values())):
            break
    return texts


def _describe_set(tracks: frozenset[str], union: frozenset[str], nb_named: int) -> str:
    """Return a set of tracks as text."""
    lacking = sorted(union - tracks)
    more = len(lacking) - nb_named
    shown = "; ".join(lacking[:nb_named]) + (f" and {more} more" if more > 0 else "")
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
