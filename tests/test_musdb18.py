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


def test_a_tenth_is_picked_to_validate_on() -> None:
    names = [f"T{i:03}" for i in range(100)]
    for nb_tracks, expected in ((0, 0), (1, 1), (2, 1), (14, 1), (15, 2), (100, 10)):
        assert len(musdb18.pick_validation(names[:nb_tracks])) == expected
    assert musdb18.pick_validation(reversed(names)) == musdb18.pick_validation(names) < set(names)
    assert musdb18.pick_validation("ABCDEFGHIJ") == {"G"}  # another pick would mix tracks of old runs
    assert musdb18.pick_validation("ABCDEFGHIJ", 3) == {"A", "G", "J"}
    assert musdb18.pick_validation("AB", 3) == {"A", "B"}


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


def test_there_are_50_test_tracks() -> None:
    assert len(set(musdb18.TEST_TRACKS)) == musdb18.NB_TRACKS["test"] == 50
    assert {erratum.track for erratum in musdb18.ERRATA if erratum.subset == "test"} < set(musdb18.TEST_TRACKS)
    assert set(musdb18.TEST_TRACKS).isdisjoint(musdb18.VALIDATION_TRACKS)
    assert all(musdb18.canonical_name(name) == name for name in musdb18.TEST_TRACKS)
