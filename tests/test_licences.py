"""The licence gate: what may not be passed on is refused, and no licence gives away more than the sources do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.publish.licences import (
    OTHER,
    TERMS,
    check_licence,
    clear_sources,
    hub_licence,
    known_licence,
    read_licence,
    suggested,
)

CREATIVE = [f"CC-{kind}-{version}" for kind in ("BY", "BY-SA", "BY-NC", "BY-NC-SA") for version in ("3.0", "4.0")]
PASSABLE = [*TERMS, *CREATIVE]


def cleared(**sources):
    """Sources as the gate lets them through; 10 pairs each."""
    return clear_sources({(name, licence): 10 for name, licence in sources.items()}, [])


@pytest.mark.parametrize(
    ("text", "spdx", "standing"),
    [
        ("MIT", "MIT", "free"),
        ("The MIT License", "MIT", "free"),
        ("Apache License, Version 2.0", "Apache-2.0", "free"),
        ("apache-2.0", "Apache-2.0", "free"),
        ("BSD 3-Clause", "BSD-3-Clause", "free"),
        ("CC0", "CC0-1.0", "free"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0", "free"),
        ("Attribution 4.0 International (CC BY 4.0)", "CC-BY-4.0", "free"),
        ("CC BY-NC 4.0", "CC-BY-NC-4.0", "conditions"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0", "conditions"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0", "conditions"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0", "conditions"),
        ("CC BY-NC", "CC-BY-NC", "conditions"),
        ("odbl", "ODbL-1.0", "conditions"),
        ("openrail", "OpenRAIL", "conditions"),
        ("CC BY-ND 4.0", "CC-BY-ND-4.0", "forbidden"),
        ("Creative Commons Attribution No Derivatives 4.0", "CC-BY-ND-4.0", "forbidden"),
        ("All rights reserved.", "All rights reserved.", "forbidden"),
        ("for the study only, must not be redistributed", None, "forbidden"),
        ("You may not share this file", None, "forbidden"),
        ("CC BY 4.0 except the images", None, "unknown"),
        ("CC-BY-3.0 or CC-BY-4.0", None, "unknown"),
        ("RAIL-D", None, "unknown"),
        ("see its repository", None, "unknown"),
        ("unknown", None, "unknown"),
        ("cc", None, "unknown"),
        ("", None, "unknown"),
        ("\x00\ud800 [red]|", None, "unknown"),
    ],
)
def test_a_licence_is_read_or_said_to_be_unknown(text, spdx, standing):
    found = read_licence(text)
    assert (found.id, found.standing) == (spdx or text.strip(), standing)


@given(st.text(max_size=60))
def test_any_text_is_read_and_an_unknown_one_demands_nothing_it_did_not_say(text):
    found = read_licence(text)
    assert found.standing != "unknown" or not found.demands


@pytest.mark.parametrize("name", PASSABLE)
def test_every_known_id_is_read_as_itself_in_any_spelling(name):
    for spelling in (name, name.lower(), name.replace("-", " "), f" {name} License "):
        assert read_licence(spelling).id == name


def test_a_forbidden_source_is_refused_with_its_licence_its_rows_and_a_way_out():
    with pytest.raises(UserError) as caught:
        clear_sources({("clinic", "CC BY-NC-ND 4.0"): 12, ("open", "MIT"): 3}, ["CC BY-NC-ND 4.0"])
    message = str(caught.value)
    assert "source 'clinic' (12 pairs): its licence 'CC BY-NC-ND 4.0' forbids redistribution" in message
    assert "'open'" not in message
    assert "speeches.sources" in message and "--redo speeches" in message
    assert len(message.splitlines()) == 1


def test_every_source_in_the_way_is_named_at_once():
    with pytest.raises(
        UserError, match=r"'a' \(1 pairs\): no licence is stated; source 'b' \(2 pairs\): the licence 'X"
    ):
        clear_sources({("b", "X-1"): 2, ("a", ""): 1}, [])


def test_an_unknown_licence_passes_only_when_the_publisher_has_read_it():
    sources = {("amod", "RAIL-D"): 7}
    with pytest.raises(UserError, match=r"the licence 'RAIL-D' is not known.*publish.accept"):
        clear_sources(sources, ["MIT"])
    (row,) = clear_sources(sources, [" rail-d "])
    assert (row.accepted, row.licence.standing, row.pairs) == (True, "unknown", 7)


def test_a_licence_that_nobody_stated_cannot_be_accepted():
    with pytest.raises(UserError, match="no licence is stated"):
        clear_sources({("mine", " "): 1}, ["", " "])


@pytest.mark.parametrize(
    ("chosen", "source", "demand"),
    [
        ("Apache-2.0", "CC BY-NC 4.0", "non-commercial"),
        ("CC-BY-4.0", "CC BY-SA 4.0", "share-alike"),
        ("CC-BY-NC-4.0", "CC BY-NC-SA 4.0", "share-alike"),
        ("CC-BY-SA-4.0", "CC BY-NC-SA 4.0", "non-commercial and share-alike"),
        ("CC-BY-NC-SA-4.0", "CC BY-SA 4.0", "share-alike"),
        ("CC-BY-SA-3.0", "CC BY-SA 4.0", "share-alike"),
        ("CC0-1.0", "MIT", "attribution"),
        ("CC-BY-4.0", "openrail", "use restrictions"),
        ("CC-BY-4.0", "ODbL", "share-alike"),
    ],
)
def test_a_licence_may_not_give_away_more_than_a_source_allows(chosen, source, demand):
    with pytest.raises(UserError) as caught:
        check_licence(chosen, cleared(psych8k=source))
    message = str(caught.value)
    assert f"license '{chosen}' gives away more than the sources allow: 'psych8k' (" in message
    assert f"10 pairs) demands {demand}. Choose " in message


@pytest.mark.parametrize(
    ("chosen", "source"),
    [
        ("CC-BY-4.0", "MIT"),
        ("cc by-nc 4.0", "Apache-2.0"),
        ("CC-BY-SA-4.0", "CC BY-SA 3.0"),
        ("CC-BY-NC-SA-4.0", "CC BY-NC 4.0"),
        ("ODbL-1.0", "odbl"),
        ("OpenRAIL", "openrail"),
        ("MIT", "CC0"),
    ],
)
def test_a_licence_that_keeps_every_demand_passes(chosen, source):
    assert check_licence(chosen, cleared(a=source)) == read_licence(chosen).id


def test_a_mixture_that_no_licence_fits_may_keep_the_licence_of_each_row():
    mixture = cleared(psych8k="CC BY-NC-SA 4.0", phi="openrail", chat="MIT")
    assert suggested(mixture) == OTHER
    assert check_licence("other", mixture) == OTHER
    with pytest.raises(UserError, match=r'Choose "other", or leave the source out'):
        check_licence("CC-BY-NC-SA-4.0", mixture)


def test_without_a_licence_the_one_that_fits_is_told():
    with pytest.raises(UserError, match=r'"CC-BY-NC-4\.0" fits'):
        check_licence("", cleared(a="CC BY-NC 4.0", b="MIT"))


@pytest.mark.parametrize("text", ["Apache", "CC-BY", "all rights reserved", "my own", "CC BY 4.0 or so", "\n"])
def test_a_published_licence_must_be_known(text):
    with pytest.raises(UserError, match=r"not known|choose a licence"):
        check_licence(text, cleared(a="MIT"))
    if text.strip():
        with pytest.raises(UserError, match="is not known"):
            known_licence(text)


@given(st.lists(st.sampled_from(PASSABLE), min_size=1, max_size=5))
def test_the_suggested_licence_always_fits_and_more_sources_never_make_a_licence_fit_better(names):
    rows = cleared(**{f"s{i}": name for i, name in enumerate(names)})
    assert check_licence(suggested(rows), rows)
    for chosen in PASSABLE:
        try:
            check_licence(chosen, rows)
        except UserError:
            continue
        assert all(check_licence(chosen, [row]) for row in rows)


@pytest.mark.parametrize(
    ("name", "tag"),
    [("CC-BY-NC-4.0", "cc-by-nc-4.0"), ("ODbL-1.0", "odbl"), ("OpenRAIL", "openrail"), (OTHER, "other")],
)
def test_the_hub_gets_its_own_tag(name, tag):
    assert hub_licence(name) == tag
