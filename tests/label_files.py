"""Label files in the layout their authors publish, filled with invented texts."""

import csv
import json

from psychocounsel.evaluate.human import annomi, counselbench, counselchat, epitome, siri

POSTS = (
    "My exam went badly and I cannot look at the books any more.",
    "Nobody at the new office eats lunch with me.",
    "My brother moved out and the flat is very quiet.",
    "I keep checking the stove five times before I leave.",
    "The dog died on Monday and people say it was only a dog.",
    "I said no to my mother and feel bad about it since.",
)
WARM = "That sounds hard, and it makes sense that it weighs on you."
ASKING = "What part of this stays with you the most?"
ASKING_LONG = f"{ASKING} Only if you like."
FLAT = "Happens to everybody."
FLAT_LONG = "It happens to everybody at some time, and then it goes away by itself."
REPLIES = ((WARM, ASKING, FLAT), (WARM, ASKING_LONG, FLAT_LONG))


NAMED = {"input": "therapist_input"}  # as AnnoMI writes it


def write_csv(path, columns, rows, encoding="utf-8"):
    """Rows are dicts; columns without a value are filled with ''."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def epitome_rows(levels):
    """For each post a warm, an asking and a flat reply (the last two longer in turn); `levels` gives their levels."""
    return [
        {"sp_id": f"s{i}", "rp_id": f"r{i}-{j}", "seeker_post": post, "response_post": f"{reply} ({i})", "level": level}
        for i, post in enumerate(POSTS * 2)
        for j, (reply, level) in enumerate(zip(REPLIES[i % 2], levels, strict=True))
    ]  # fmt: skip


def write_epitome(folder):
    columns = (*epitome.COLUMNS, "rationales")
    for name, levels in (("ER", (2, 0, 0)), ("IP", (1, 0, 0)), ("EX", (0, 2, 0))):
        write_csv(folder / epitome.FILES[name], columns, epitome_rows(levels))
    return folder


def turn(transcript, place, role, text, *, quality="high", topic="smoking", annotator="1", **codes):
    """One row of AnnoMI-full.csv; `codes`: input, reflection, question with a subtype, absent where there is none."""
    row = {"mi_quality": quality, "transcript_id": transcript, "topic": topic, "utterance_id": place,
           "interlocutor": role, "utterance_text": text, "annotator_id": annotator,
           "main_therapist_behaviour": "n/a", "client_talk_type": "neutral"}  # fmt: skip
    for code, column in (("input", "therapist_input"), ("reflection", "reflection"), ("question", "question")):
        row[f"{column}_exists"] = "n/a" if role == "client" else str(code in codes)
        row[f"{column}_subtype"] = codes.get(code, "n/a")
    if role == "therapist":
        row |= {
            "client_talk_type": "n/a",
            "main_therapist_behaviour": NAMED.get(next(iter(codes), ""), next(iter(codes), "other")),
        }
    return row


def annomi_rows():
    """Twelve transcripts: good ones reflect and ask, poor ones inform and advise."""
    rows = []
    for number in range(12):
        good = number % 3 > 0
        common = {"quality": "high" if good else "low", "topic": ("smoking", "sleep")[number % 2]}
        said = f"I tried it again in week {number} and it did not last."
        replies = (
            ({"reflection": "complex"}, "It matters to you, and it is still hard to keep up."),
            ({"question": "open"}, "What would a small first step look like for you?"),
            ({"question": "closed"}, "Did you try it on the weekend as well?"),
        ) if good else (
            ({"input": "information"}, "Studies show that most people need several tries before it lasts."),
            ({"input": "advice"}, "You should throw all of it away tonight and be done."),
            ({"reflection": "simple"}, "So you tried it again and it did not last."),
        )  # fmt: skip
        for place, (codes, reply) in enumerate(replies):
            rows.append(turn(str(number), 2 * place, "client", said, **common))
            rows.append(turn(str(number), 2 * place + 1, "therapist", reply, **common, **codes))
    return rows


def write_annomi(path, rows=None):
    return write_csv(path, annomi.COLUMNS, annomi_rows() if rows is None else rows)


def write_siri(path):
    rows = [
        {"scenario": i + 1, "client": post, "reply": reply, "expert_mean": mean}
        for i, post in enumerate(POSTS * 2)
        for reply, mean in ((f"{WARM} {ASKING}", 2.5 - i / 10), (FLAT, -2.0 + i / 10))
    ]
    return write_csv(path, siri.COLUMNS, rows)


def counselchat_rows():
    """A question in twelve has three answers; votes follow views in all but the second question."""
    rows = []
    for i, post in enumerate(POSTS * 2):
        votes = ((3, 900), (1, 500), (0, 20)) if i != 1 else ((3, 10), (1, 500), (0, 520))
        for (upvotes, views), reply in zip(votes, (f"{WARM} {ASKING}", ASKING, FLAT), strict=True):
            rows.append({"questionID": i, "questionTitle": "A title", "questionText": post, "answerText": reply,
                         "therapistInfo": "Ann ExampleCounsellor", "upvotes": upvotes, "views": views})  # fmt: skip
    return rows


def write_counselchat(path):
    return write_csv(path, counselchat.COLUMNS, counselchat_rows())


def counselbench_rows():
    scores = {"gpt4": (5, 4, 4, 5, 4), "human": (3, 3, 2, 4, 3), "gemini": (4, 4, 3, 4, 4)}
    rows = []
    for i, post in enumerate(POSTS * 2):
        for responder, reply in (("gpt4", f"{WARM} {ASKING}"), ("human", "Ask for more tablets."), ("gemini", ASKING)):
            for rater, score in enumerate(scores[responder]):
                said = "I am not sure" if rater == 4 else "Yes" if responder == "human" and rater else "No"
                rows.append({"questionID": f"questionID_{i}", "questionTitle": "A title", "questionText": post,
                             "responder": responder, "response": reply, "survey_id": rater, "overall_score": score,
                             "medical_advice_score": said})  # fmt: skip
    return rows


def write_counselbench(path):
    return write_csv(path, counselbench.COLUMNS, counselbench_rows())


def mindeval_rows():
    """Two raters, one milder than the other; both prefer the asking system."""
    rows = []
    for i, post in enumerate(POSTS * 2):
        for system, reply in (("asking", f"{WARM} {ASKING}"), ("flat", FLAT)):
            chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": post},
                    {"role": "assistant", "content": reply}, {"role": "user", "content": "Yes, that is how it is."},
                    {"role": "assistant", "content": reply}]  # fmt: skip
            for rater, base in (("one", 2), ("two", 4)):
                scores = {"alliance": base + (system == "asking"), "response": base}
                names = {"profile": f"p{i}", "system": system, "rater": rater}
                rows.append({**names, "interaction": chat, "scores": scores})
    return rows


def write_mindeval(path, rows=None):
    lines = [json.dumps(row) for row in (mindeval_rows() if rows is None else rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_all(folder):
    """Every set, by the name `human_labels` knows it by."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "epitome": write_epitome(folder / "epitome"),
        "annomi": write_annomi(folder / "AnnoMI-full.csv"),
        "siri-2": write_siri(folder / "siri.csv"),
        "counselchat": write_counselchat(folder / "counselchat.csv"),
        "counselbench": write_counselbench(folder / "counselbench.csv"),
        "mindeval": write_mindeval(folder / "mindeval.jsonl"),
    }
