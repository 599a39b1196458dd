"""The published medians, against what the campaign and others say of them."""

import pytest

from musdbkit import musdb18, scores, sisec18


def test_all_methods_are_there() -> None:
    medians = sisec18.read_medians()
    assert len(medians) == 31
    assert {sisec18.FLOOR, *sisec18.CEILINGS} <= set(medians)
    for by_target in medians.values():
        assert set(by_target) <= {*musdb18.STEMS, "accompaniment"}
        assert {"vocals"} <= set(by_target)
        assert {tuple(values) for values in by_target.values()} == {scores.FRAME_METRICS}
    assert [name for name, by_target in medians.items() if "drums" not in by_target] == [
        *("2DFT", "HPLP", "HPSS", "MDL1", "MDLT", "MELO", "REP1", "REP2", "RPCA", "STL1")
    ]


@pytest.mark.parametrize(
    ("method", "sdr"),
    [("TAK1", 6.600), ("TAK2", 7.159), ("UHL2", 5.926), ("IRM2", 9.431), ("MWF", 9.126)],
)
def test_vocals_are_what_is_published(method: str, sdr: float) -> None:
    assert sisec18.read_medians()[method]["vocals"]["SDR"] == sdr


def test_metrics_are_not_confused() -> None:
    assert sisec18.read_medians()["MIX"]["drums"] == {"SDR": 1.328, "ISR": 2.495, "SIR": -4.257, "SAR": 29.878}


def test_it_covers_the_50_test_tracks() -> None:
    assert sisec18.covers(frozenset(musdb18.TEST_TRACKS))
    assert not sisec18.covers(frozenset(musdb18.TEST_TRACKS[1:]))
    assert not sisec18.covers(frozenset({*musdb18.TEST_TRACKS, "Mine"}))
