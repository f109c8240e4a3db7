"""What a scorer must beat: length either way, a question mark, and words counted on other units' labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psychocounsel.evaluate.human.items import Item
from psychocounsel.records import content_id

Array = NDArray[np.float64]
Places = NDArray[np.int64]
FOLDS = 5
MOST_WORDS = 50_000  # words and word pairs in a vector, the most frequent


def surface(items: Sequence[Item]) -> dict[str, Array]:
    """Scores that read no meaning: words of a reply (more, fewer), and whether it asks; means over an item's parts."""
    words = np.array([fmean(len(part.reply.split()) for part in item.parts) for item in items])
    asks = np.array([fmean("?" in part.reply for part in item.parts) for item in items])
    return {"longer": words, "shorter": -words, "question mark": asks}


def folds(units: Sequence[str], seed: int) -> Places:
    """The fold of each item: units dealt out in the order of their content hash, so that a unit is never divided."""
    ordered = sorted(set(units), key=lambda unit: content_id([seed, unit]))
    place = {unit: number % FOLDS for number, unit in enumerate(ordered)}
    return np.array([place[unit] for unit in units], dtype=np.int64)


class Words:
    """Replies as counts of words and word pairs, from which TF-IDF vectors are made with the weights of a part.

    Counted once: every fold of every test of a set then only chooses columns and weights.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        # punctuation and short words count: a question mark or 'you' is what such labels often come down to
        counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|\?")
        try:
            self.counts: Any = counter.fit_transform(texts).tocsr()
        except ValueError:  # no words at all
            self.counts = None

    def vectors(self, taught: Places) -> Any:
        """TF-IDF vectors of all texts, with the words and weights of the taught ones; None where these hold no word."""
        from sklearn.feature_extraction.text import TfidfTransformer

        if self.counts is None or not len(taught):
            return None
        held = np.bincount(self.counts[taught].indices, minlength=self.counts.shape[1])
        kept = np.flatnonzero(held >= (2 if len(taught) > 200 else 1))
        if len(kept) > MOST_WORDS:
            kept = np.sort(kept[np.argsort(-held[kept], kind="stable")[:MOST_WORDS]])
        if not len(kept):
            return None
        part = self.counts[:, kept]
        return TfidfTransformer(sublinear_tf=True).fit(part[taught]).transform(part)


def out_of_fold(fold: Places, fit: Callable[[Places, Places], Array | None]) -> Array | None:
    """Answers for every fold by `fit(taught, asked)` of the others; None as soon as one fold cannot be taught."""
    found = np.full(len(fold), np.nan)
    for number in np.unique(fold):
        taught, asked = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        answer = fit(taught, asked) if len(taught) else None
        if answer is None:
            return None
        found[asked] = answer
    return found


def tfidf_labels(words: Words, places: Places, labels: Array, fold: Places) -> Array | None:
    """The expected label of each text (at `places`) by TF-IDF and logistic regression taught on the other folds.

    None where some fold's others hold a single label or no words.
    """

    def fit(taught: Places, asked: Places) -> Array | None:
        model, vectors = _classifier(words, places, labels, taught)
        return None if model is None else model.predict_proba(vectors[places[asked]]) @ model.classes_

    return out_of_fold(fold, fit)


def tfidf_levels(words: Words, places: Places, labels: Array, fold: Places) -> Array | None:
    """The likeliest level of each text, as `tfidf_labels`."""

    def fit(taught: Places, asked: Places) -> Array | None:
        model, vectors = _classifier(words, places, labels, taught)
        return None if model is None else model.predict(vectors[places[asked]])

    return out_of_fold(fold, fit)


def tfidf_numbers(words: Words, places: Places, numbers: Array, fold: Places) -> Array | None:
    """A number for each text by TF-IDF and ridge regression taught on the other folds; None without two folds."""
    from sklearn.linear_model import Ridge

    def fit(taught: Places, asked: Places) -> Array | None:
        vectors = words.vectors(places[taught])
        if vectors is None:
            return None
        model = Ridge(alpha=1.0).fit(vectors[places[taught]], numbers[taught])
        return np.asarray(model.predict(vectors[places[asked]]), dtype=np.float64)

    return out_of_fold(fold, fit)


def tfidf_pairs(words: Words, sides: Places, fold: Places) -> Array | None:
    """How far each better text is above the worse one, by a logistic regression of differences (no intercept).

    `sides` is (pairs, 2). The regression learns which words preferred texts hold, from the pairs of other folds.
    """
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    def fit(taught: Places, asked: Places) -> Array | None:
        vectors = words.vectors(np.unique(sides[taught]))
        if vectors is None:
            return None
        gaps = vectors[sides[taught, 0]] - vectors[sides[taught, 1]]
        both = vstack([gaps, -gaps])  # each pair both ways round: the fit cannot lean to one side
        won = np.repeat([1.0, 0.0], len(taught))
        model = LogisticRegression(C=10.0, max_iter=200, solver="liblinear", fit_intercept=False).fit(both, won)
        unknown = vectors[sides[asked, 0]] - vectors[sides[asked, 1]]
        return np.asarray(model.decision_function(unknown), dtype=np.float64)

    return out_of_fold(fold, fit)


def _classifier(words: Words, places: Places, labels: Array, taught: Places) -> tuple[Any, Any]:
    """(a fitted classifier, vectors), both None where there is nothing to tell apart."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    vectors = words.vectors(places[taught])
    count = len(np.unique(labels[taught]))
    if vectors is None or count < 2:
        return None, None
    # liblinear: one thread, the same digits everywhere; one against the rest for three levels and more
    plain = LogisticRegression(C=10.0, max_iter=200, class_weight="balanced", solver="liblinear")
    model = plain if count == 2 else OneVsRestClassifier(plain)
    return model.fit(vectors[places[taught]], labels[taught]), vectors
