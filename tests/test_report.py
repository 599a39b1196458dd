"""The report as a file: what is in it, that names stay text, that it asks for nothing outside, what it may replace."""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musdbkit import musdb18, oracle, report, report_data, scores, sisec18
from musdbkit.errors import DatasetError, ParameterError
from musdbkit.excerpts import SIGNALS, Excerpt
from musdbkit.methods import Method, Protocol, load_methods
from musdbkit.scores import Scenario, TrackScores

NAN, INF = math.nan, math.inf
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
HOSTILE = '<img src=x onerror=alert(1)> & "friends"'
TRACKS = ("A.B. - Dots", HOSTILE, "Motörhead - 東京", "PR - Oh No", "Song 5", "Song 6", "Song 7")
TARGETS = ("vocals", "accompaniment")


def make_method(
    name: str,
    values: Callable[[int, int, int], float],
    *,
    tracks: Sequence[str] = TRACKS,
    targets: Sequence[str] = TARGETS,
    nb_frames: int = 12,
    metrics: Sequence[str] = ("SDR", "SIR"),
    whole: Sequence[str] = ("uSDR",),
    silence: str = "museval",
    separation: dict[str, Any] | None = None,
) -> Method:
    """Return a method whose SDR is a function of the numbers of track, target and frame; SIR is 10 dB more."""
    scored = [
        TrackScores(
            track,
            "test",
            1.0,
            1.0,
            (
                Scenario(
                    tuple(targets),
                    {
                        target: {
                            metric: tuple(values(i, k, frame) + 10 * j for frame in range(nb_frames))
                            for j, metric in enumerate(metrics)
                        }
                        for k, target in enumerate(targets)
                    },
                ),
            )
            if metrics
            else (),
            {target: {metric: values(i, k, 0) for metric in whole} for k, target in enumerate(targets)},
        )
        for i, track in enumerate(tracks)
    ]
    document = {"settings": {"silence": silence}, "separation": separation, "tracks": {"missing": [], "failed": {}}}
    protocol = Protocol(
        silence=silence,
        window_seconds=1.0,
        hop_seconds=1.0,
        mode="v4",
        subset="test",
        references="wav 0123456789ab",
        align=False,
        tracks=frozenset(tracks),
        document=document,
    )
    return Method(name, Path(f"{name}-scores"), scores.to_frame(scored), protocol)


def first(track: int, target: int, frame: int) -> float:
    """Values of a method: 3 dB and more, a dropped second, a worst one, and an infinite one."""
    if frame == 4:
        return NAN
    if frame == 7:
        return -20.0 - track
    if (track, target, frame) == (0, 0, 9):
        return INF
    return 3.0 + 2 * target + track / 4 + frame / 8


def second(track: int, target: int, frame: int) -> float:
    """Values of a method that is better by 0.3 dB and more on the first target, and as good on the second."""
    return first(track, target, frame) + (0.3 + track / 50 if target == 0 else 0.0)


def make_methods() -> list[Method]:
    """Return two methods and the two bounds."""
    bounds = {
        name: make_method(name, values, separation={"program": oracle.PROGRAM, "model": {"name": name}})
        for name, values in (("mix", lambda i, k, f: first(i, k, f) - 5), ("irm1", lambda i, k, f: first(i, k, f) + 5))
    }
    return [make_method("one", first), make_method("<b>two</b>", second), *bounds.values()]


def make_excerpt(track: str, target: str, start: float, *, seconds: float = 5.0) -> Excerpt:
    """Return an excerpt of four tones."""
    rate, signals = 44100, {}
    for i, signal in enumerate(SIGNALS):
        tone = 0.1 * np.sin(2 * np.pi * 220 * (i + 1) * np.arange(int(rate * seconds)) / rate)
        buffer = io.BytesIO()
        soundfile.write(buffer, np.stack([tone, tone], axis=1), rate, format="MP3")
        signals[signal] = buffer.getvalue()
    return Excerpt(track, target, start, seconds, rate, -1.5, signals)


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page, as far as it is looked at here."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    scripts: list[tuple[dict[str, str], str]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._script = self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        self._script = tag in ("script", "style")
        if self._script:
            self.scripts.append((found, ""))
        elif tag == "table":
            self.tables[found.get("id", str(len(self.tables)))] = []
        elif tag == "tr":
            self.tables[next(reversed(self.tables))].append([])
        elif tag in ("th", "td"):
            self._cell = True
            self.tables[next(reversed(self.tables))][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._script = False
        elif tag in ("th", "td"):
            self._cell = False
            row = self.tables[next(reversed(self.tables))][-1]
            row[-1] = " ".join(row[-1].split())

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
            return
        self.text += data
        if self._cell:
            row = self.tables[next(reversed(self.tables))][-1]
            row[-1] += data

    def data(self) -> Any:
        """Return what is drawn."""
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))

    def elements(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def read(path: Path) -> Page:
    """Return a page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def write(methods: Sequence[Method], folder: Path, **options: Any) -> Page:
    """Write a report and return it."""
    report.report(methods, folder / "report.html", **options)
    return read(folder / "report.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page with all that there can be."""
    excerpts = {"one": [make_excerpt(HOSTILE, "vocals", 5.0), make_excerpt("A.B. - Dots", "vocals", 0.0)]}
    return write(make_methods(), tmp_path_factory.mktemp("report"), excerpts=excerpts)


# What a browser may do with it


def test_asks_for_nothing_outside(page: Page) -> None:
    asking = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "ping", "manifest"}
    for tag, attributes in page.tags:
        for name in asking & attributes.keys():
            allowed = r"#\w+|https://\S+" if tag == "a" else r"data:,"
            assert re.fullmatch(allowed, attributes[name]), (tag, attributes)
    assert not re.search(r"@import|url\(", next(text for attributes, text in page.scripts if not attributes))
    assert {"iframe", "object", "embed", "base", "form", "video", "audio"}.isdisjoint(tag for tag, _ in page.tags)


def test_policy_allows_the_pages_own_scripts_only(page: Page) -> None:
    (policy,) = (
        each["content"] for each in page.elements("meta") if each.get("http-equiv") == "Content-Security-Policy"
    )
    rules = {name: values for name, *values in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == rules["connect-src"] == ["'none'"]
    style, *scripts = (text for attributes, text in page.scripts if "type" not in attributes)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert rules["script-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) == 2
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "light-dark(" in style


def test_names_are_text(tmp_path: Path) -> None:
    closing = "</script></style><script>alert(1)</script>"
    methods = [
        make_method(name, values, tracks=(HOSTILE, closing), targets=("vocals", "<i>hum</i>"))
        for name, values in ((HOSTILE, first), (closing, second))
    ]
    page = write(methods, tmp_path, excerpts={HOSTILE: [make_excerpt(closing, "<i>hum</i>", 0.0)]})
    assert {"img", "i"}.isdisjoint(tag for tag, _ in page.tags)
    assert len([script for script in page.scripts if not script[0]]) == 3  # style, plotly, ours
    assert [row[0] for row in page.tables["tracks-table"][2:]] == [closing, HOSTILE]
    assert [row[0] for row in page.tables["summary-table"][1:]] == [HOSTILE, closing]
    assert page.tables["summary-table"][0][1:] == ["vocals", "<i>hum</i>"]
    assert page.data()["tracks"] == [closing, HOSTILE]
    assert page.text.count(HOSTILE) > 5


def test_headings_controls_and_landmarks(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.elements("html")[0]["lang"] == "en"
    assert {"header", "main", "footer", "nav"} <= {tag for tag, _ in page.tags}
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    labelled = {each["for"] for each in page.elements("label") if "for" in each}
    assert labelled == {each["id"] for each in page.elements("select")} | {"filter"}
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, identifiers[0]) in identifiers
    targets = [each["href"][1:] for each in page.elements("a") if each["href"].startswith("#")]
    assert set(targets) <= set(identifiers)


# What is in it


def test_summary_has_the_aggregates(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables["summary-table"]}
    assert rows["SDR, dB"] == list(TARGETS)
    for method, label in zip(
        make_methods(), ("one", "<b>two</b>", "mix the mixture, a floor", "irm1 an oracle, a ceiling"), strict=True
    ):
        values = scores.aggregate(method.table, "sisec18")["SDR"]
        for target, cell in zip(TARGETS, rows[label], strict=True):
            value, low, high = map(float, re.findall(r"-?\d+\.\d+", cell.replace(MINUS, "-")))
            assert value == pytest.approx(values[target], abs=0.00501)
            assert low <= value <= high


def test_tracks_have_their_values(page: Page) -> None:
    rows = page.tables["tracks-table"]
    assert rows[0] == ["", *TARGETS, ""]
    assert rows[1] == ["Track", *["one", "<b>two</b>", "mix", "irm1"] * 2, "Dropped frames"]
    values = scores.track_values(make_methods()[1].table, "sisec18")["SDR"]
    for row in rows[2:]:
        track = next(track for track in TRACKS if row[0].startswith(track))
        assert float(row[2]) == pytest.approx(values[track, "vocals"], abs=0.00501)
        assert float(row[6]) == pytest.approx(values[track, "accompaniment"], abs=0.00501)
        assert row[9] == "1 of 12"
    (erratum,) = musdb18.errata_of("PR - Oh No")
    assert any(row[0].endswith(erratum.defect) for row in rows)


def test_differences_are_paired(page: Page) -> None:
    rows = page.tables["pairs-table"]
    start = rows.index(["<b>two</b> against one"])
    # differences are 0.30, 0.32 ... 0.42, their pairwise means 0.30, 0.31, 0.32 ..., of which two at either end may go
    assert rows[start + 1][:5] == ["vocals", "+0.36*", "[0.32, 0.40]", "7 / 0 / 0", "0.016"]  # 2 of 2 ** 7 signs
    assert rows[start + 2][:5] == ["accompaniment", "+0.00", "[0.00, 0.00]", "0 / 7 / 0", "1.000"]


def test_sentence_says_who_is_better(tmp_path: Path) -> None:
    tracks = [f"track {i}" for i in range(12)]
    methods = [make_method(name, values, tracks=tracks) for name, values in (("one", first), ("two", second))]
    text = write(methods, tmp_path).text.replace("\xa0", " ")
    size = re.search(
        r"Over 12 tracks, two is better than one on vocals by (0\.41 dB \[0\.\d\d, 0\.\d\d\] \(p .*?\));", text
    )
    assert size
    assert "; no significant difference from one is found on accompaniment." in text
    assert (
        "In SDR, two leads significantly on vocals; no method leads significantly on accompaniment (highest: " in text
    )
    swapped = write(methods[::-1], tmp_path).text.replace("\xa0", " ")
    assert f"one is worse than two on vocals by {size[1]};" in swapped


def test_too_few_tracks_are_not_called_equal(tmp_path: Path) -> None:
    page = write(
        [make_method(name, values, tracks=TRACKS[:5]) for name, values in (("one", first), ("two", second))], tmp_path
    )
    assert "5 tracks are too few to tell two from one on vocals and accompaniment." in page.text
    assert "In SDR, the tracks are too few to tell who leads, fewer than 6, on vocals (highest: two) and " in page.text
    assert page.tables["pairs-table"][2][2] == DASH


def test_sentences_are_few_and_start_with_the_largest_difference(tmp_path: Path) -> None:
    tracks = [f"track {i}" for i in range(12)]
    methods = [
        make_method(
            f"plus {up:g}", lambda i, k, f, up=up: first(i, k, f) + up + i / 50, tracks=tracks, targets=("vocals",)
        )
        for up in (0.0, 0.1, 0.4, 0.2, 0.3)
    ]
    alone = make_method("drummer", first, tracks=tracks, targets=("vocals", "drums"))
    page = write([*methods, alone], tmp_path)
    leads = [text for text in page.text.split("\n") if " is better than plus 0 on vocals by" in text]
    assert [re.search(r"plus 0\.\d", text)[0] for text in leads] == ["plus 0.4", "plus 0.3", "plus 0.2"]  # type: ignore[index]
    assert "2 more methods are compared below." in page.text
    assert "drums is not ranked, for no two methods were scored alike on it." in page.text


def test_boxes_are_of_finite_values(tmp_path: Path) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 30.0, INF, NAN]
    method = make_method(
        "one", lambda i, k, f: values[i], tracks=list("ABCDEFG"), targets=("vocals",), metrics=(), whole=("uSDR",)
    )
    (((box,),),) = write([method], tmp_path, metric="uSDR").data()["boxes"].values()
    # numpy's linear quartiles of 1, 2, 3, 4, 30 are 2, 3, 4; within 1.5 * 2 of these are 1 and 4
    assert box == {
        "number": 5, "least": 1.0, "lower": 1.0, "q1": 2.0, "median": 3.0, "q3": 4.0, "upper": 4.0, "greatest": 30.0
    }  # fmt: skip


def test_values_are_of_the_chosen_aggregation() -> None:
    frames = {"vocals": {"SDR": (1.0, INF, INF)}}
    table = scores.to_frame([TrackScores("A", "test", 1.0, 1.0, (Scenario(("vocals",), frames),), {})])
    method = replace(make_method("one", first), table=table)
    for aggregation, expected in (("sisec18", 1.0), ("demucs-mean", INF), ("mdx", 1.0)):
        assert report_data.track_values([method], aggregation)["SDR"] == [{("A", "vocals"): expected}]


def test_cells_ranked_apart_have_a_dagger(tmp_path: Path) -> None:
    methods = [make_method("one", first, targets=("vocals", "drums")), make_method("two", first)]
    page = write(methods, tmp_path)
    rows = {row[0]: row[1:] for row in page.tables["summary-table"]}
    assert ["†" in cell for cell in rows["one"]] == [False, False, False]
    assert ["†" in cell for cell in rows["two"]] == [True, False, False]
    assert "vocals was scored as vocals+accompaniment instead of vocals+drums (two)." in page.text
    assert "†" not in write(methods[:1], tmp_path).text


def test_groups_have_headings(tmp_path: Path) -> None:
    methods = [
        make_method("one", first),
        make_method("two", second, silence="per-target"),
        make_method("three", second),
    ]
    rows = [row[0] for row in write(methods, tmp_path).tables["summary-table"]]
    assert rows[1:] == [
        "scored alike: silence rule museval", "one", "three", "scored otherwise: silence rule per-target", "two"
    ]  # fmt: skip
    assert not any(row[0].startswith("scored") for row in write(methods[:1], tmp_path).tables["summary-table"])


def test_bounds_are_not_tested(page: Page) -> None:
    rows = page.tables["pairs-table"]
    assert rows[0][2] == "95 % interval (this pair alone)"
    bounds = rows[rows.index(["mix against one"]) :]
    assert {row[4] for row in bounds if len(row) > 1} == {DASH}
    assert "Bounds are not tested and have no p." in page.text
    assert "in four of five cases" in page.text


def test_footnotes_are_of_what_is_shown(tmp_path: Path, page: Page) -> None:
    assert "Bold and an asterisk" in page.text
    same = write([make_method("one", first), make_method("two", first)], tmp_path)
    assert "Bold and an asterisk" not in same.text
    assert "* marks p" not in same.text
    assert "Bounds are not" not in same.text


def test_protocol_says_what_matters(tmp_path: Path) -> None:
    method = make_method("one", first)
    assert "BSSEval v4, frames of 1 s every 1 s, silence rule museval's, subset test" in write([method], tmp_path).text
    whole = write([method], tmp_path, metric="uSDR").text
    assert "Protocol whole tracks, subset test" in whole
    foreign = replace(method, protocol=replace(method.protocol, document=None, mode=None))
    assert (
        "(version not recorded), frames of 1 s every 1 s, silence rule museval's, assumed,"
        in write([foreign], tmp_path).text
    )
    bounds = write(make_methods()[2:], tmp_path)
    assert "Methods 2 bounds" in bounds.text


def test_best_is_marked_where_it_is_significant(tmp_path: Path) -> None:
    tracks = [f"track {i}" for i in range(12)]
    rows = write([make_method("one", first, tracks=tracks), make_method("two", second, tracks=tracks)], tmp_path).tables
    assert ["*" in cell for cell in rows["summary-table"][1]] == [False, False, False]
    assert ["*" in cell for cell in rows["summary-table"][2]] == [False, True, False]


def test_sisec18_stands_beside_scores_of_its_tracks(tmp_path: Path) -> None:
    page = write([make_method("one", first, tracks=musdb18.TEST_TRACKS, nb_frames=3)], tmp_path)
    rows = {row[0]: row[1:] for row in page.tables["summary-table"]}
    medians = sisec18.read_medians()
    assert rows["MIX mixture"] == [f"{medians['MIX'][target]['SDR']:.2f}" for target in TARGETS]
    assert "TAK2" in rows
    band = page.data()["bands"]["SIR"][0]
    assert band["floor"] == medians["MIX"]["vocals"]["SIR"]
    submitted = [
        of["vocals"]["SIR"]
        for name, of in medians.items()
        if name not in (*sisec18.CEILINGS, sisec18.FLOOR) and "vocals" in of
    ]
    assert band["number"] == len(submitted)
    assert [band["low"], band["high"]] == pytest.approx(np.quantile(submitted, [0.25, 0.75]), abs=1e-3)


def decode(data: Any, method: int, metric: int, target: int, track: int) -> list[float]:
    """Return values by frame as the page reads them."""
    frames = data["frames"][method]
    start = sum(frames["lengths"][:track])
    codes = np.frombuffer(base64.b64decode(frames["values"][metric][target]), "<i2")[
        start : start + frames["lengths"][track]
    ]
    special = {-32768: NAN, 32767: INF, -32767: -INF, 32766: NAN}
    return [special.get(code, code / 100) for code in codes.tolist()]


def test_frames_survive(page: Page) -> None:
    data = page.data()
    assert data["frame_metrics"] == ["SDR", "SIR"]
    for track, name in enumerate(data["tracks"]):
        number = TRACKS.index(name)
        for target in (0, 1):
            expected = [first(number, target, frame) for frame in range(12)]
            assert decode(data, 0, 0, target, track) == pytest.approx(expected, abs=0.00501, nan_ok=True)
            assert decode(data, 0, 1, target, track) == pytest.approx(
                [each + 10 for each in expected], abs=0.00501, nan_ok=True
            )


def test_extreme_frames(tmp_path: Path) -> None:
    values = [NAN, INF, -INF, 400.0, -400.0, 0.004, -0.006]
    page = write([make_method("one", lambda i, k, frame: values[frame], tracks=["A"], nb_frames=7)], tmp_path)
    expected = [NAN, INF, -INF, 320.0, -320.0, 0.0, -0.01]
    assert decode(page.data(), 0, 0, 0, 0) == pytest.approx(expected, nan_ok=True)


def test_tracks_without_a_value_are_a_dash(tmp_path: Path) -> None:
    values = {0: NAN, 1: -INF, 2: 5.0}
    method = make_method("one", lambda i, k, f: values.get(i, INF if f % 2 else -INF), tracks=list("ABCD"), whole=())
    page = write([method], tmp_path)
    shown = [DASH, f"{MINUS}∞", "5.00", "±∞"]
    assert [row[1] for row in page.tables["tracks-table"][2:]] == shown
    assert page.data()["values"]["SDR"][0][0] == [None, None, 5.0, None]  # sisec18 leaves infinities out
    assert [row[3] for row in page.tables["tracks-table"][2:]] == ["12 of 12", "0 of 12", "0 of 12", "0 of 12"]
    assert len([each for each in page.elements("td") if "every frame is infinite" in each.get("title", "")]) == 4
    assert "∞: every frame is infinite, and sisec18 leaves such frames out" in page.text
    assert "every frame is infinite" not in write([make_method("one", first)], tmp_path).text


def test_whole_tracks_may_be_infinite(tmp_path: Path) -> None:
    method = make_method("one", lambda i, k, f: INF if i else 1.0, tracks=["A", "B"], metrics=(), whole=("uSDR",))
    page = write([method], tmp_path, metric="uSDR")
    assert [row[1] for row in page.tables["tracks-table"][2:]] == ["1.00", "∞"]
    assert page.data()["values"]["uSDR"][0][0] == [1.0, "inf"]
    assert not page.data()["frames"]
    identifiers = {attributes.get("id") for _, attributes in page.tags}
    assert {"seconds", "worst"}.isdisjoint(identifiers)
    assert "button" not in [tag for tag, attributes in page.tags if attributes.get("class") == "text"]


def test_a_method_without_frames_beside_one_with(tmp_path: Path) -> None:
    methods = [make_method("one", first), make_method("two", second, metrics=())]
    data = write(methods, tmp_path, metric="uSDR").data()
    assert data["frames"][1] == {"lengths": [0] * len(TRACKS), "values": [[None, None], [None, None]]}
    assert data["values"]["SDR"][0][1] == [None] * len(TRACKS)


def test_one_track_one_target_one_method(tmp_path: Path) -> None:
    page = write([make_method("one", first, tracks=["A"], targets=["vocals"])], tmp_path)
    assert "pairs-table" not in page.tables
    assert "one has an SDR of" in page.text
    assert "the median over 1 track." in page.text
    assert [row[0] for row in page.tables["tracks-table"][2:]] == ["A"]


def test_methods_with_other_targets(tmp_path: Path) -> None:
    page = write([make_method("one", first), make_method("two", first, targets=("drums", "vocals"))], tmp_path)
    rows = page.tables["summary-table"]
    assert rows[0][1:] == ["vocals", "drums", "accompaniment"]
    assert rows[1][2] == rows[2][3] == DASH
    assert page.tables["tracks-table"][1][1:-1] == ["one", "two", "two", "one"]
    assert page.data()["frames"][0]["values"][0][1] is None
    assert "scenario of vocals: vocals+accompaniment (one); " in page.text


def test_unlike_protocols_come_first(tmp_path: Path) -> None:
    page = write([make_method("one", first), make_method("two", second, silence="per-target")], tmp_path)
    warning = "The methods differ in silence rule: museval (one); per-target (two)."
    assert 0 < page.text.index(warning) < page.text.index("Distribution over tracks")
    assert "Only methods that were scored alike are ranked together: one; two." in page.text
    assert "pairs-table" not in page.tables


def test_worst_seconds_lead_to_sounds(page: Page) -> None:
    seconds = [each for each in page.elements("button") if "second" in each.get("class", "")]
    assert {each["data-method"] for each in seconds} == {"0", "1"}  # of bounds none
    data = page.data()
    sounding = [each for each in seconds if "data-clip" in each]
    assert sounding
    for each in sounding:
        clip = data["clips"][int(each["data-clip"])]
        assert (clip["method"], clip["track"], clip["target"]) == tuple(
            int(each[f"data-{key}"]) for key in ("method", "track", "target")
        )
        assert clip["start"] <= float(each["data-start"]) < clip["stop"]


def test_worst_seconds_start_with_the_worst(page: Page, tmp_path: Path) -> None:
    rows = page.tables[next(key for key, table in page.tables.items() if table[0][-1] == "Excerpt")][1:]
    values = [float(row[3].replace(MINUS, "-")) for row in rows]
    assert values == sorted(values)
    assert values[0] == -26.0
    assert {row[4] for row in rows} == {"listen", DASH}
    seconds = [each for each in page.elements("button") if "listen" in each.get("class", "")]
    assert all("data-clip" in each and each["aria-label"].startswith("listen to ") for each in seconds)
    few = make_method("one", lambda i, k, f: float(f), tracks=["A"], targets=["vocals"], nb_frames=11)
    table = list(write([few], tmp_path).tables.values())[-1]
    assert [row[3] for row in table[1:]] == ["0.00", "5.00"]  # five seconds apart; the median is 5


def test_tables_have_captions_and_buttons_names(page: Page) -> None:
    assert len(page.elements("caption")) == len(page.elements("table"))
    names = [each.get("aria-label") for each in page.elements("button") if each.get("class") == "sort"]
    assert names[1:3] == ["vocals, one", "vocals, <b>two</b>"]


def test_sounds_are_embedded_once(page: Page) -> None:
    sounds = {attributes["id"]: text for attributes, text in page.scripts if attributes.get("type") == "text/plain"}
    data = page.data()
    assert len(sounds) == len(SIGNALS)  # both excerpts have the same four tones
    for clip in data["clips"]:
        assert [sounds[name] for name in clip["sounds"]] == [
            base64.b64encode(make_excerpt("A", "vocals", 0.0).signals[signal]).decode() for signal in SIGNALS
        ]
    assert data["clips"][0]["gain_db"] == -1.5


def test_foreign_scores_say_what_was_not_recorded(tmp_path: Path) -> None:
    track = TrackScores("A", "test", 1.0, 1.0, (Scenario(("vocals",), {"vocals": {"SDR": (1.0, NAN)}}),), {})
    path = tmp_path / "umx" / "test" / "A.json"
    path.parent.mkdir(parents=True)
    path.write_text(scores.museval_json(track))
    page = write(load_methods([tmp_path / "umx"]), tmp_path)
    assert "Not recorded: version of BSSEval, references, how the estimates were made" in page.text


# The file


def test_same_scores_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    excerpts = {"one": [make_excerpt(HOSTILE, "vocals", 5.0)]}
    written = report.report(make_methods(), out, excerpts=excerpts)
    content = out.read_bytes()
    assert (written.status, written.nb_bytes, written.nb_excerpts, written.notes) == ("written", len(content), 1, ())
    assert report.report(make_methods(), out, excerpts=excerpts).status == "already there"
    assert out.read_bytes() == content
    assert report.report(make_methods()[:1], out).status == "replaced"
    assert out.read_bytes() != content
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "thesis.html"
    out.write_text("<!doctype html><title>musdbkit</title>")
    with pytest.raises(DatasetError, match=r"thesis\.html: is there and is no report of musdbkit: .* --force"):
        report.report(make_methods(), out)
    assert out.read_text() == "<!doctype html><title>musdbkit</title>"
    assert report.report(make_methods(), out, force=True).status == "replaced"


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    planned = report.report(make_methods(), out, dry_run=True)
    assert planned.status == "to write"
    assert not out.parent.exists()
    assert report.report(make_methods(), out).nb_bytes == planned.nb_bytes
    assert report.report(make_methods()[:1], out, dry_run=True).status == "to replace"


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"report\.html: cannot be written: "):
        report.report(make_methods()[:1], tmp_path / "file" / "report.html")
    with pytest.raises(DatasetError, match=r"cannot be read: "):
        report.report(make_methods()[:1], tmp_path)


def test_what_does_not_fit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    excerpts = {
        "one": [make_excerpt(HOSTILE, "vocals", 5.0), make_excerpt(HOSTILE, "vocals", 0.0)],
        "<b>two</b>": [make_excerpt("A.B. - Dots", "vocals", 5.0)],
    }
    base = report.report(make_methods(), tmp_path / "a.html").nb_bytes
    size = sum(4 * math.ceil(len(sound) / 3) for sound in excerpts["one"][0].signals.values())
    monkeypatch.setattr(report, "LIMIT_BYTES", base + 2 * size + 10_000)
    written = report.report(make_methods(), tmp_path / "b.html", excerpts=excerpts)
    assert written.notes == ("1 of 3 excerpts of sound are left out: the page would be too large",)
    assert written.nb_bytes < report.LIMIT_BYTES
    assert [clip["method"] for clip in read(tmp_path / "b.html").data()["clips"]] == [0, 1]  # the first of each

    monkeypatch.setattr(report, "LIMIT_BYTES", base)
    (note,) = report.report(make_methods(), tmp_path / "c.html").notes
    assert note == "seconds are shown of SDR only: with the other metrics the page would be too large"
    assert note[1:] in read(tmp_path / "c.html").text
    assert read(tmp_path / "c.html").data()["frame_metrics"] == ["SDR"]

    monkeypatch.setattr(report, "LIMIT_BYTES", base // 2)
    with pytest.raises(DatasetError, match=r"the report would have \d+\.\d MB, expected less than 2 MB: report fewer"):
        report.report(make_methods(), tmp_path / "d.html")
    assert not (tmp_path / "d.html").exists()


def test_fifty_tracks_stay_below_the_limit(tmp_path: Path) -> None:
    tracks = [f"track {i}" for i in range(50)]
    method = make_method("one", first, tracks=tracks, nb_frames=240, targets=("vocals", "drums", "bass", "other"))
    written = report.report([method], tmp_path / "report.html")
    assert written.nb_bytes < 6_000_000


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no scores to report"):
        report.report([], tmp_path / "a.html")
    with pytest.raises(ParameterError, match="metric is 'SDR2'"):
        report.report(make_methods(), tmp_path / "a.html", metric="SDR2")
    with pytest.raises(ParameterError, match="excerpts of three, expected those of one, "):
        report.report(make_methods(), tmp_path / "a.html", excerpts={"three": []})
    with pytest.raises(ParameterError, match="excerpt of drums of A, expected one of a track that was scored"):
        report.report(make_methods(), tmp_path / "a.html", excerpts={"one": [make_excerpt("A", "drums", 0.0)]})
    assert not list(tmp_path.iterdir())
