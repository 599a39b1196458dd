"""The published facts, against the musdb package's data file and the dataset page."""

from musdbkit import musdb18


def test_streams_and_targets() -> None:
    assert musdb18.STREAMS == ("mixture", "drums", "bass", "other", "vocals")
    assert musdb18.STEMS == ("drums", "bass", "other", "vocals")
    assert musdb18.TARGETS["accompaniment"] == ("drums", "bass", "other")
    assert musdb18.TARGETS["linear_mixture"] == ("drums", "bass", "other", "vocals")
    assert (musdb18.SAMPLE_RATE, musdb18.NB_CHANNELS) == (44100, 2)


def test_there_are_14_validation_tracks_in_train() -> None:
    assert len(set(musdb18.VALIDATION_TRACKS)) == 14
    assert musdb18.split_of("ANiMAL - Rockshow", "train") == "valid"
    assert musdb18.split_of("ANiMAL - Rockshow", "test") == "test"
    assert musdb18.split_of("Leaf - Wicked", "train") == "train"


def test_errata_are_five_test_and_three_train_tracks() -> None:
    subsets = [erratum.subset for erratum in musdb18.ERRATA]
    assert (subsets.count("test"), subsets.count("train")) == (5, 3)
    assert len({erratum.track for erratum in musdb18.ERRATA}) == 8
    assert {e.track for e in musdb18.ERRATA if e.subset == "train"}.isdisjoint(musdb18.VALIDATION_TRACKS)


def test_aliases_lead_to_the_datasets_names() -> None:
    assert musdb18.canonical_name("Patrick Talbot - Set Free Me") == "Patrick Talbot - Set Me Free"
    assert musdb18.canonical_name("anything else") == "anything else"
    assert musdb18.canonical_name("Cafe\N{COMBINING ACUTE ACCENT}") == "Caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert not set(musdb18.ALIASES) & set(musdb18.ALIASES.values())
    assert [e.position for e in musdb18.errata_of("Al James - Schoolboy Fascination")] == [""]
    assert musdb18.errata_of("Plain - Song") == ()
