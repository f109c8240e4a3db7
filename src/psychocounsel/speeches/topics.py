"""Topics: a TF-IDF classifier taught by the speeches whose source gave a topic, or a language model's closed choice."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.store import CallStore, ask_all
from psychocounsel.principles import load_topics
from psychocounsel.principles.prompts import quoted, topic_prompt
from psychocounsel.progress import progress
from psychocounsel.records import Speech


def fill_by_tfidf(speeches: Sequence[Speech], teachers: Sequence[Speech]) -> list[Speech]:
    """Fill missing topics with a TF-IDF + logistic regression classifier taught by `teachers` that carry a topic."""
    taught = [speech for speech in teachers if speech.topic]
    open_ones = [speech for speech in speeches if not speech.topic]
    if not open_ones or len({speech.topic for speech in taught}) < 2:
        return list(speeches)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, stop_words="english", ngram_range=(1, 2), min_df=1, max_features=50_000),
        LogisticRegression(C=10.0, max_iter=200, class_weight="balanced", solver="liblinear")
        if len({speech.topic for speech in taught}) == 2
        else LogisticRegression(C=10.0, max_iter=200, class_weight="balanced"),
    )
    model.fit([speech.text for speech in taught], [speech.topic for speech in taught])
    found = dict(zip((s.id for s in open_ones), model.predict([s.text for s in open_ones]), strict=True))
    return [
        speech if speech.topic else speech.model_copy(update={"topic": str(found[speech.id]), "topic_by": "tfidf"})
        for speech in speeches
    ]


def fill_by_model(speeches: Sequence[Speech], model: ChatModel, store: CallStore) -> list[Speech]:
    """Fill missing topics by a model's closed choice; an answer outside the taxonomy leaves the topic empty."""
    topics = load_topics()
    system = topic_prompt(topics)
    open_ones = [speech for speech in speeches if not speech.topic]
    jobs = [
        (
            model,
            Request(
                messages=(
                    {"role": "system", "content": system},
                    {"role": "user", "content": quoted("CLIENT", speech.text)},
                ),
                sampling={"temperature": 0.0, "max_tokens": 60},
                subject={"speech_id": speech.id, "source_id": speech.source_id},
            ),
        )
        for speech in open_ones
    ]
    with progress("topics", len(jobs)) as advance:
        answers = ask_all(jobs, store, lambda _: advance())
    found = {speech.id: _read_topic(answer.text) for speech, answer in zip(open_ones, answers, strict=True)}
    return [
        speech.model_copy(update={"topic": found[speech.id], "topic_by": model.name})
        if found.get(speech.id)
        else speech
        for speech in speeches
    ]


def _read_topic(text: str) -> str | None:
    """The topic of {"topic": ID}; else the first topic id among the words (models add fences and remarks)."""
    topics = load_topics()
    try:
        answer = json.loads(text)["topic"]
    except (ValueError, KeyError, TypeError):
        return next((word for word in re.findall(r"[a-z]+(?:_[a-z]+)*", text.lower()) if word in topics), None)
    return answer if isinstance(answer, str) and answer in topics else None
