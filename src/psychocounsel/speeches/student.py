"""A student that reads words (TF-IDF and logistic regression): what it has not seen, it guesses; a second opinion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psychocounsel.engine import HERE, Engine
from psychocounsel.records import Speech, content_id
from psychocounsel.speeches.clean import client_text

FOLDS = 5
LEAST = 0.0005  # probabilities below this are left out of a guess
Guess = dict[str, float]  # probability by label, the likeliest first
Labelled = Callable[[Speech], str | None]


@dataclass(frozen=True)
class Lesson:
    """What the student learns from, and what it is asked afterwards."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    asked: tuple[str, ...]


def guess(
    name: str, speeches: Sequence[Speech], teachers: Sequence[Speech], label: Labelled, engine: Engine = HERE
) -> dict[str, Guess]:
    """By speech id: the student's guess of a label it was not shown for this speech or any other of its cluster.

    Labelled speeches are guessed in FOLDS folds by cluster, the others by a student of all labelled ones. `teachers`
    (those not among the speeches) teach every time. Empty where there are no two labels to tell apart.
    """
    known = {speech.id for speech in speeches}
    extra = [speech for speech in teachers if speech.id not in known and label(speech)]
    folds = _folds([speech for speech in speeches if label(speech)], label)
    groups = [fold for fold in folds if fold]
    lessons = [
        _lesson([speech for other in groups if other is not group for speech in other] + extra, group, label)
        for group in groups
    ]
    open_ones = [speech for speech in speeches if not label(speech)]
    if open_ones:
        groups.append(open_ones)
        lessons.append(_lesson([speech for fold in folds for speech in fold] + extra, open_ones, label))
    found = engine.map(f"{name} student", learn, lessons, shard=1)
    return {
        speech.id: answer
        for group, answers in zip(groups, found, strict=True)
        for speech, answer in zip(group, answers, strict=False)  # no answers where there was nothing to learn
    }


def learn(lessons: list[Lesson]) -> list[list[Guess]]:
    """The guesses for every text asked, lesson by lesson; none for a lesson with fewer than two labels or no words."""
    return [_guesses(lesson) for lesson in lessons]


def _folds(labelled: Sequence[Speech], label: Labelled) -> list[list[Speech]]:
    """Clusters dealt out in the order of (label, content hash): every label in every fold, whatever the order read."""
    first: dict[str, Speech] = {}
    for speech in sorted(labelled, key=lambda speech: speech.id):
        first.setdefault(speech.cluster, speech)
    order = sorted(first, key=lambda cluster: (label(first[cluster]) or "", content_id(["fold", cluster])))
    fold = {cluster: place % FOLDS for place, cluster in enumerate(order)}
    return [sorted((s for s in labelled if fold[s.cluster] == number), key=lambda s: s.id) for number in range(FOLDS)]


def _lesson(taught: Sequence[Speech], asked: Sequence[Speech], label: Labelled) -> Lesson:
    taught = sorted(taught, key=lambda speech: speech.id)  # a fit depends on the order in its last digits
    return Lesson(
        tuple(client_text(speech) for speech in taught),
        tuple(label(speech) or "" for speech in taught),
        tuple(client_text(speech) for speech in asked),
    )


def _guesses(lesson: Lesson) -> list[Guess]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    if len(set(lesson.labels)) < 2 or not lesson.asked:
        return []
    student = make_pipeline(
        TfidfVectorizer(
            sublinear_tf=True,
            stop_words="english",
            ngram_range=(1, 2),
            min_df=2 if len(lesson.texts) > 200 else 1,
            max_features=50_000,
        ),
        # liblinear: one thread, no library of vectors, so the same digits in every process and on every core
        OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=200, class_weight="balanced", solver="liblinear")),
    )
    try:
        student.fit(lesson.texts, lesson.labels)
    except ValueError:  # nothing but stop words
        return []
    return [
        {
            name: p
            for p, name in sorted(
                ((round(float(p), 4), str(name)) for p, name in zip(row, student.classes_, strict=True)),
                key=lambda found: (-found[0], found[1]),
            )
            if p >= LEAST
        }
        for row in student.predict_proba(lesson.asked)
    ]
