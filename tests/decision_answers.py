"""What servers with a decision endpoint answer, in the two wire forms: a distribution that leans to one level."""


def leaning(count, level, share=0.6):
    rest = (1 - share) / (count - 1)
    return [share if number == level else rest for number in range(count)]


def mean(shares):
    return sum(level * share for level, share in enumerate(shares))


def systemone(body, level=3, *, as_list=False, without=()):
    """System One: a map of questions in, a map of answers out."""
    answers = {}
    for name, asked in body["questions"].items():
        if name in without:
            answers[name] = {"type": "refusal"}
            continue
        shares = leaning(len(asked["criteria"]), level)
        table = shares if as_list else {str(number): share for number, share in enumerate(shares)}
        answers[name] = {"type": "score", "score": mean(shares), "probabilities": table, "confidence": 0.8,
                         "legend": {str(number): text for number, text in enumerate(asked["criteria"])}}  # fmt: skip
    return {"model": body["model"], "answers": answers, "usage": {"input_tokens": 40, "output_tokens": 0}}


def decisions(body, level=3, *, without=()):
    """OpenAI Decisions: a list of questions in, a list of answers in the same order out."""
    answers = []
    for asked in body["questions"]:
        if asked["name"] in without:
            answers.append({"type": "refusal", "name": asked["name"]})
            continue
        shares = leaning(len(asked["levels"]), level)
        table = [
            {"value": number, "label": entry["label"], "probability": share}
            for number, (entry, share) in enumerate(zip(asked["levels"], shares, strict=True))
        ]
        answers.append({"type": "score", "name": asked["name"], "score": mean(shares), "confidence": 0.8,
                        "probabilities": table[::-1]})  # fmt: skip
    usage = {"input_tokens": 40, "output_tokens": 0, "total_tokens": 40,
             "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
             "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
    return {"model": body["model"], "answers": answers, "usage": usage}
