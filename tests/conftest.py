"""Shared fixtures. The tiny models are built here from config, never downloaded."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy machine are slower than one
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import signal
from pathlib import Path

import pytest

from psychocounsel.recipe import EmbeddedModel, SupervisedTable
from psychocounsel.records import Pair, Response, Speech, Turn

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: tests of Ctrl-C would see nothing
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLIENT_LINES = (
    "My sister and I have not talked since the funeral, and her birthday is on Friday.",
    "I moved here for work in spring. I eat lunch alone and count the hours until I can go home.",
    "Every Sunday evening my stomach hurts because of the week ahead.",
    "I said yes to a third project although I cannot finish the first two.",
    "My son left for college. The house is quiet and I keep setting his plate.",
    "I was passed over again at work and told everybody I did not mind. I did mind.",
    "We argue about money every month, and then nobody speaks for days.",
    "I stopped running after my knee healed. I tell people it still hurts.",
)
GOOD_REPLIES = (
    "It sounds as if Friday weighs on you. What would you want her to know, if it were easy to say?",
    "Counting hours sounds lonely. What part of the day feels a little less long?",
    "You notice it in your body first. What goes through you when the pain begins?",
)
PLAIN_REPLIES = (
    "You should just call. Do not worry so much.",
    "Everybody feels like that. Try to sleep more.",
    "Make a list and stop complaining.",
)
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
TINY = EmbeddedModel(vocabulary=400, hidden=32, layers=2, heads=2, context=256, epochs=1, batch=8)


def make_speech(text, split="train", cluster="", **fields):
    """A single-message speech; its cluster defaults to its own text."""
    turns = (Turn(role="client", text=text),)
    return Speech(turns=turns, source="test", split=split, cluster=cluster or text, **fields)


@pytest.fixture(scope="session")
def speeches():
    """Eight invented speeches: six to train on, two for dev."""
    return [make_speech(text, "train" if i < 6 else "dev") for i, text in enumerate(CLIENT_LINES)]


@pytest.fixture(scope="session")
def responses(speeches):
    """Three warm and three plain replies to every speech."""
    return [
        Response(speech_id=speech.id, model=f"model-{kind}-{i}", text=text)
        for speech in speeches
        for kind, texts in (("good", GOOD_REPLIES), ("plain", PLAIN_REPLIES))
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def pairs(speeches, responses):
    """Every warm reply against every plain one, by split; an easy rule to learn."""
    found = {"train": [], "dev": [], "test": []}
    for speech in speeches:
        good, plain = (
            [r for r in responses if r.speech_id == speech.id and kind in r.model] for kind in ("good", "plain")
        )
        found[speech.split] += [
            Pair(speech_id=speech.id, chosen=a.id, rejected=b.id, chosen_scores={}, rejected_scores={}, gap=1.5)
            for a in good
            for b in plain
        ]
    return found


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer as the embedded model has it, learnt from the invented texts."""
    from psychocounsel.supervised import build_tokenizer

    return build_tokenizer([*CLIENT_LINES, *GOOD_REPLIES, *PLAIN_REPLIES] * 3, TINY)


@pytest.fixture
def llama(tokenizer):
    """Make a tiny Llama from a seed."""
    from psychocounsel.supervised import build_llama

    return lambda seed=0: build_llama(tokenizer, TINY, seed)


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """A tiny Llama with its tokenizer in Hugging Face layout, fresh weights."""
    from psychocounsel.supervised import build_llama
    from psychocounsel.training.checkpoints import save_model

    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(folder, build_llama(tokenizer, TINY, 1), tokenizer)
    return folder


@pytest.fixture(scope="session")
def talker(tmp_path_factory, speeches, responses):
    """A tiny policy that has learnt to end its replies."""
    from psychocounsel.supervised import Texts, supervise

    folder = tmp_path_factory.mktemp("talker")
    table = SupervisedTable(lr=5e-3, epochs=40.0, batch=8, max_length=256, min_overall=1.0, precision="fp32",
                            embedded=TINY.model_copy(update={"epochs": 2.0}))  # fmt: skip
    supervise(Texts(speeches, responses, {r.id: 4.0 for r in responses}), "embedded", table, 0, folder)
    return folder / "model"


@pytest.fixture
def supervised_table():
    """Make a SupervisedTable of test size."""
    return lambda **changes: SupervisedTable(
        **{"lr": 1e-3, "epochs": 1.0, "batch": 8, "max_length": 256, "min_overall": 1.0, "precision": "fp32",
           "embedded": TINY} | changes
    )  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of the tiny recipe, run once to its end by the real command. Not to be changed: copy it."""
    from tiny_run import run_command, write_recipe

    place = tmp_path_factory.mktemp("finished")
    done = run_command("run", write_recipe(place), cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "stdout.txt").write_text(done.stdout, encoding="utf-8")
    (place / "stderr.txt").write_text(done.stderr, encoding="utf-8")
    return place / "runs" / "tiny"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The folder of a run with two judges that was published right after its pairs. Not to be changed: copy it."""
    from tiny_run import DATA_RECIPE, run_command, write_recipe

    place = tmp_path_factory.mktemp("dataset")
    recipe = write_recipe(place, DATA_RECIPE)
    for words in (("run", recipe, "--to", "pairs"), ("publish", recipe)):
        done = run_command(*words, cwd=place)
        assert done.returncode == 0, done.stderr
    return place / "runs" / "tiny"


@pytest.fixture
def cli(monkeypatch, capsys):
    """`cli("show", path)`: the command line's entry point in this process; gives (exit code, stdout, stderr)."""
    from psychocounsel.cli import main

    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["psychocounsel", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return call


@pytest.fixture(scope="module")
def browser():
    """A real browser for the pages. Of a module: while it is open, no event loop of another test can run."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed; apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield opened
        opened.close()
