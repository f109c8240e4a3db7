"""Agreement of judges, against sklearn and Krippendorff's published example."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from psychocounsel.principles import load_principles
from psychocounsel.ratings.agreement import judge_agreement, quadratic_kappa
from psychocounsel.records import Rating

EMPATHY = load_principles()[:1]


def ratings(**judges):
    """One rating per judge and score; None leaves the response unrated, 'none' rates it without basis."""
    return [
        Rating(response_id=f"r{i}", judge=judge, scores={"empathy": None if score == "none" else score})
        for judge, scores in judges.items()
        for i, score in enumerate(scores)
        if score is not None
    ]


def agreement(**judges):
    return judge_agreement(ratings(**judges), EMPATHY)["empathy"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=30))
def test_kappa_is_that_of_sklearn(pairs):
    first, second = zip(*pairs, strict=True)
    found = quadratic_kappa(pairs)
    if len({*first, *second}) == 1:
        assert found is None
    else:
        expected = cohen_kappa_score(first, second, weights="quadratic", labels=[1, 2, 3, 4, 5])
        assert found == pytest.approx(expected, abs=1e-12)


def test_alpha_is_that_of_krippendorffs_example():
    """Krippendorff (2011), Computing Krippendorff's alpha-reliability, data of section D; ordinal alpha .815."""
    found = agreement(
        A=[1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        B=[1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        C=[None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        D=[1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    )
    assert found["alpha"] == pytest.approx(0.815, abs=5e-4)
    assert found["n"] == 11


def test_perfect_agreement_is_one_and_perfect_disagreement_below_zero():
    assert agreement(a=[1, 3, 5], b=[1, 3, 5]) == {"kappa": 1.0, "alpha": 1.0, "n": 3}
    upside_down = agreement(a=[1, 2, 4, 5], b=[5, 4, 2, 1])
    assert upside_down["kappa"] == -1.0
    assert upside_down["alpha"] < 0


@pytest.mark.parametrize(
    "judges",
    [
        {},
        {"a": [1, 2, 3]},
        {"a": [1, 2, None, None], "b": [None, None, 3, 4]},
        {"a": ["none", "none"], "b": [1, 2]},
    ],
)
def test_without_doubly_rated_replies_agreement_is_undefined(judges):
    assert agreement(**judges) == {"kappa": None, "alpha": None, "n": 0}


def test_without_variation_agreement_is_undefined_and_not_one():
    assert agreement(a=[3, 3, 3], b=[3, 3, 3]) == {"kappa": None, "alpha": None, "n": 3}


def test_a_rating_without_basis_is_left_out():
    assert agreement(a=[1, 5, "none"], b=[1, 5, 3]) == {"kappa": 1.0, "alpha": 1.0, "n": 2}


def test_every_principle_has_its_own_row():
    both = [
        Rating(response_id=f"r{i}", judge=judge, scores={"empathy": i + 1, "clarity": clarity})
        for i in range(4)
        for judge, clarity in (("a", 1 + i), ("b", 4 - i))
    ]
    table = judge_agreement(both, load_principles())
    assert set(table) == {principle.id for principle in load_principles()}
    assert (table["empathy"]["kappa"], table["clarity"]["kappa"]) == (1.0, -1.0)
    assert table["safety"] == {"kappa": None, "alpha": None, "n": 0}
