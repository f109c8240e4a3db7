"""How long a full contest takes once every answer is in the call store: 2,324 speeches, three judges, both orders.

Two recorded policies answer invented texts; three scripted judges of known faults compare them through the real
protocol. That fills a store once. Then the same evaluation is made again: every reply and every verdict is read from
the store, parsed, and measured with 10,000 bootstrap draws, and the page is written. Nothing may be asked.

    python benchmarks/arena.py [--speeches 2324] [--bootstrap 10000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.evals.lineup import Settings, line_up
from psychocounsel.evals.place import evaluation
from psychocounsel.evals.winrate import found_in, replies_of, tables_of, verdicts_on
from psychocounsel.models.chat import Request
from psychocounsel.models.scripted import Scripted
from psychocounsel.principles import load_principles
from psychocounsel.recipe import ModelsTable, Source
from psychocounsel.records import write_records, write_rows

WORDS = 20_000  # of the invented vocabulary, so that texts are alike only where they are meant to be
TWINS = 10  # one speech in so many is a near-duplicate of the one before it
REPLIES = re.compile(r"<<<REPLY [AB]\n(.*?)\n>>>", re.DOTALL)
LEVELS = ("B much better", "B better", "tie", "A better", "A much better")
PRINCIPLES = [principle.id for principle in load_principles()]
ASKED: list[str] = []


def chance(*parts: object) -> float:
    """A number from 0 to 1 that depends on nothing but `parts`."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def judge(name: str, place: float, length: float) -> Scripted:
    """A judge of replies by a quality hidden in their words, who likes the first place and longer replies so much."""

    def answer(request: Request) -> str:
        ASKED.append(name)
        a, b = REPLIES.findall(request.messages[1]["content"])

        def word(topic: str) -> str:
            better = chance(topic, a) - chance(topic, b) + place + length * (len(a) - len(b)) / 400
            better += 0.4 * (chance(name, topic, *sorted((a, b))) - 0.5)
            return LEVELS[min(max(round(2 + 2 * better), 0), 4)]

        return json.dumps({**{key: word(key).split()[0] for key in PRINCIPLES}, "overall": word("overall")})

    return Scripted(answer, name)


def fair() -> Scripted:
    return judge("fair-judge", 0.0, 0.0)


def first() -> Scripted:
    return judge("first-judge", 0.1, 0.0)


def longer() -> Scripted:
    return judge("longer-judge", 0.0, 0.5)


def invented(folder: Path, count: int) -> None:
    """The speeches and both recordings, in the shapes that users bring."""
    random_ = random.Random(7)
    vocabulary = [f"{a}{b}" for a in ("ka", "lo", "mi", "su", "re") for b in range(WORDS // 5)]

    def text(words: int) -> str:
        return " ".join(random_.choices(vocabulary, k=words)).capitalize() + "."

    speeches = [text(random_.randint(40, 120)) for _ in range(count)]
    for number in range(1, count, TWINS):
        speeches[number] = f"{speeches[number - 1]} {text(3)}"
    write_rows(folder / "speeches.jsonl", ({"id": str(i), "text": said} for i, said in enumerate(speeches)))
    for name, words in (("candidate", (60, 220)), ("baseline", (50, 180))):
        rows = ({"source_id": str(i), "model": name, "text": text(random_.randint(*words))} for i in range(count))
        write_rows(folder / f"{name}.jsonl", rows)


@contextmanager
def timed(part: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 2)


def evaluate(folder: Path, bootstrap: int, measured: bool) -> dict[str, float]:
    """`psychocounsel eval winrate` with the seconds of each part; without `measured` it ends with the verdicts."""
    seconds: dict[str, float] = {}
    settings = Settings(
        Source(load=str(folder / "speeches.jsonl"), id="id"),
        (f"recorded:{folder / 'candidate.jsonl'}",),
        f"recorded:{folder / 'baseline.jsonl'}",
        ("arena:fair", "arena:first", "arena:longer"),
        families={name: name for name in ("candidate", "baseline", "fair-judge", "first-judge", "longer-judge")},
        bootstrap=bootstrap,
    )
    with timed("speeches, clusters, recordings", seconds):
        lineup = line_up(settings, ModelsTable(), allow_dependent=False)
    with evaluation(folder / "found", "eval winrate", settings.stored()) as place:
        with timed("replies", seconds):
            replies = replies_of(lineup, settings, place)
        with timed("verdicts", seconds):
            verdicts = verdicts_on(lineup, replies, place)
            write_records(folder / "found" / "verdicts.jsonl", verdicts["candidate"])
        if not measured:
            return seconds
        with timed("statistics", seconds):
            tables = tables_of(lineup, settings, replies, verdicts)
            found = found_in(lineup, settings, replies, tables, place)
        with timed("results and page", seconds):
            place.finish("benchmark", found)
    return seconds


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speeches", type=int, default=2324)
    parser.add_argument("--bootstrap", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="the goal for replay, statistics and page")
    asked = parser.parse_args(arguments)
    sys.path.insert(0, str(Path(__file__).parent))  # so that judges are found by name, as a user's are
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        invented(folder, asked.speeches)
        filling = evaluate(folder, asked.bootstrap, measured=False)
        asked_of = sys.modules["arena"].ASKED  # the judges' module, which is not this one when this is the script
        before = len(asked_of)
        start = time.process_time()
        seconds = evaluate(folder, asked.bootstrap, measured=True)
        processor = time.process_time() - start
        calls, page = len(asked_of) - before, (folder / "found" / "report.html").stat().st_size
    for part, took in seconds.items():
        print(f"{part}: {took:.2f} s{f' (when asked: {filling[part]:.2f} s)' if part in filling else ''}")
    total = round(sum(seconds.values()), 2)
    figures = {
        "speeches": asked.speeches,
        "verdicts": before,
        "asked_again": calls,
        "seconds": seconds,
        "total_seconds": total,
        "processor_seconds": round(processor, 2),  # beside it, because other work on the machine blurs the first
        "page_mb": round(page / 1e6, 2),
    }
    met = total < asked.seconds and calls == 0
    goal = f"replay, statistics and page within {asked.seconds:g} s, and nobody asked again"
    print(json.dumps({"benchmark": "arena", "figures": figures, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
