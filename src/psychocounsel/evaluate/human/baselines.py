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
FOLDS = 5


def surface(items: Sequence[Item]) -> dict[str, Array]:
    """Scores that read no meaning: words of a reply (more, fewer), and whether it asks; means over an item's parts."""
    words = np.array([fmean(len(part.reply.split()) for part in item.parts) for item in items])
    asks = np.array([fmean("?" in part.reply for part in item.parts) for item in items])
    return {"longer": words, "shorter": -words, "question mark": asks}


def folds(units: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The fold of each item: units dealt out in the order of their content hash, so that a unit is never divided."""
    ordered = sorted(set(units), key=lambda unit: content_id([seed, unit]))
    place = {unit: number % FOLDS for number, unit in enumerate(ordered)}
    return np.array([place[unit] for unit in units], dtype=np.int64)


def out_of_fold(
    fold: NDArray[np.int64], fit: Callable[[NDArray[np.bool_], NDArray[np.bool_]], Array | None], shape: tuple[int, ...]
) -> Array | None:
    """Answers for every fold by `fit(taught, asked)` of the others; None as soon as one fold cannot be taught."""
    found = np.full(shape, np.nan)
    for number in np.unique(fold):
        asked = fold == number
        answer = fit(~asked, asked)
        if answer is None:
            return None
        found[asked] = answer
    return found


def tfidf_labels(texts: Sequence[str], labels: Array, fold: NDArray[np.int64]) -> Array | None:
    """The expected label of each text by TF-IDF and logistic regression taught on the other folds.

    None where some fold's others hold a single label or no words.
    """
    table = TfIdf(texts)

    def fit(taught: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Array | None:
        model = table.logistic(taught, labels[taught])
        if model is None:
            return None
        return np.asarray(model.predict_proba(table.rows(asked)) @ model.classes_, dtype=np.float64)

    return out_of_fold(fold, fit, labels.shape)


def tfidf_levels(texts: Sequence[str], labels: Array, fold: NDArray[np.int64]) -> Array | None:
    """The likeliest level of each text, as `tfidf_labels`."""
    table = TfIdf(texts)

    def fit(taught: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Array | None:
        model = table.logistic(taught, labels[taught])
        return None if model is None else np.asarray(model.predict(table.rows(asked)), dtype=np.float64)

    return out_of_fold(fold, fit, labels.shape)


def tfidf_numbers(texts: Sequence[str], numbers: Array, fold: NDArray[np.int64]) -> Array | None:
    """A number for each text by TF-IDF and ridge regression taught on the other folds; None without two folds."""
    from sklearn.linear_model import Ridge

    table = TfIdf(texts)

    def fit(taught: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Array | None:
        if not taught.any() or not table.fit(taught):
            return None
        model = Ridge(alpha=1.0).fit(table.rows(taught), numbers[taught])
        return np.asarray(model.predict(table.rows(asked)), dtype=np.float64)

    return out_of_fold(fold, fit, numbers.shape)


def tfidf_pairs(better: Sequence[str], worse: Sequence[str], fold: NDArray[np.int64]) -> Array | None:
    """How far each better text is above the worse one, by a logistic regression of differences (no intercept).

    It learns which words preferred texts hold, from the pairs of other folds.
    """
    table = TfIdf([*better, *worse])
    count = len(better)

    def fit(taught: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Array | None:
        if not taught.any() or not table.fit(np.concatenate([taught, taught])):
            return None
        vectors = table.rows(np.ones(2 * count, dtype=bool))
        gaps = vectors[:count] - vectors[count:]
        return _pairwise(gaps, taught, asked)

    return out_of_fold(fold, fit, (count,))


def _pairwise(gaps: Any, taught: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Array:
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    both = vstack([gaps[taught], -gaps[taught]])  # each pair both ways round: the fit cannot lean to one side
    sides = np.concatenate([np.ones(int(taught.sum())), np.zeros(int(taught.sum()))])
    model = LogisticRegression(C=10.0, max_iter=200, solver="liblinear", fit_intercept=False).fit(both, sides)
    return np.asarray(model.decision_function(gaps[asked]), dtype=np.float64)


class TfIdf:
    """Texts as TF-IDF vectors of words and word pairs; weights are those of the texts it was last fitted on."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = np.asarray(texts, dtype=object)
        self.vectors: Any = None

    def fit(self, taught: NDArray[np.bool_]) -> bool:
        """Learn words and weights from these texts; False when they hold none."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        # punctuation and short words count: a question mark or 'you' is what such labels often come down to
        self.vectors = TfidfVectorizer(
            sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|\?", max_features=50_000,
            min_df=2 if taught.sum() > 200 else 1,
        )  # fmt: skip
        try:
            self.vectors.fit(self.texts[taught])
        except ValueError:
            return False
        return True

    def rows(self, wanted: NDArray[np.bool_]) -> Any:
        return self.vectors.transform(self.texts[wanted])

    def logistic(self, taught: NDArray[np.bool_], labels: Array) -> Any:
        """A fitted classifier of labels, or None where there is nothing to tell apart."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        if len(np.unique(labels)) < 2 or not self.fit(taught):
            return None
        # liblinear: one thread, the same digits everywhere; one against the rest for three levels and more
        plain = LogisticRegression(C=10.0, max_iter=200, class_weight="balanced", solver="liblinear")
        model = plain if len(np.unique(labels)) == 2 else OneVsRestClassifier(plain)
        return model.fit(self.rows(taught), labels)
