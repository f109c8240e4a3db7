"""The published set: others' software reads it, the card says what is in it, and nothing of the machine is in it."""

import base64
import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from local_server import running
from tiny_run import (
    DATA_RECIPE,
    command,
    copy_run,
    environment,
    output_hashes,
    read_json,
    use_judge_module,
    write_recipe,
)

from psychocounsel.errors import UserError
from psychocounsel.preference import COLUMNS, RATED, read_preferences
from psychocounsel.publish import parquet, raters
from psychocounsel.publish.card import escaped, figure_rows, plain
from psychocounsel.publish.rows import published_name, split_name
from psychocounsel.publish.stored import Stored
from psychocounsel.records import Pair, Response, Speech, read_records, write_rows
from psychocounsel.run import RunFolder

SPLITS = {"train": "train", "dev": "validation", "test": "test"}


@pytest.fixture
def place(dataset):
    return RunFolder(dataset).stage("publish")


@pytest.fixture
def begun(dataset, tmp_path, cli):
    """A copy of the run up to its pairs, and `publish(...)`, the command on it."""
    folder = copy_run(dataset, tmp_path, "pairs")
    recipe = write_recipe(tmp_path, DATA_RECIPE)
    return folder, lambda *more: cli("publish", recipe, "--runs", tmp_path, *more)


def load(place, tmp_path, config):
    import datasets

    return datasets.load_dataset(str(place), config, cache_dir=str(tmp_path / "cache"))


def pairs_of(run, name):
    return read_records(RunFolder(run).stage("pairs") / f"{name}.jsonl", Pair)


def rows_of(place, config):
    return [row for file in sorted((place / config).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def front_of(place):
    from huggingface_hub import DatasetCard

    return DatasetCard.load(place / "README.md").data


@pytest.mark.parametrize("config", ["released", "trl", "scores"])
def test_the_datasets_library_loads_every_config_with_every_row(dataset, place, tmp_path, config):
    found = load(place, tmp_path, config)
    assert {name: len(rows) for name, rows in found.items()} == {
        split: len(pairs_of(dataset, name)) for name, split in SPLITS.items()
    }


def test_the_released_rows_are_the_pairs_in_the_released_schema(dataset, place):
    responses = {r.id: r for r in read_records(RunFolder(dataset).stage("responses") / "responses.jsonl", Response)}
    table = pq.read_table(place / "released" / "train-00000-of-00001.parquet")
    assert table.column_names == list(COLUMNS)
    for row, pair in zip(table.to_pylist(), pairs_of(dataset, "train"), strict=True):
        assert row["ID"] == pair.speech_id
        assert (row["chosen"], row["rejected"]) == (responses[pair.chosen].text, responses[pair.rejected].text)
        for name in RATED:
            assert row[f"chosen_{name}_rating"] == int(pair.chosen_scores[name] + 0.5)


def test_reading_the_set_back_gives_the_same_rows(place):
    found = read_preferences(str(place))
    rows = found.rows()
    for split in SPLITS.values():
        table = pq.read_table(place / "released" / f"{split}-00000-of-00001.parquet")
        assert rows[split] == table.to_pylist()
    assert {speech.license for speech in found.speeches} == {"cc-by-4.0"}


def test_trl_takes_the_conversations(place, tmp_path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.data_utils import is_conversational
    rows = load(place, tmp_path, "trl")["train"]
    for row in rows:
        assert is_conversational(row)
        assert row["prompt"][-1]["role"] == "user"
        assert [m["role"] for side in ("chosen", "rejected") for m in row[side]] == ["assistant", "assistant"]
        assert row["score_chosen"] > row["score_rejected"]


def test_the_scores_are_exact_and_join_the_other_forms(dataset, place):
    overall = read_json(RunFolder(dataset).stage("pairs") / "overall.json")
    scores = {(row["ID"], row["prefID"]): row for row in rows_of(place, "scores")}
    released = rows_of(place, "released")
    assert len(scores) == len(released) == len({(row["ID"], row["prefID"]) for row in released})
    pairs = {pair.id: pair for name in SPLITS for pair in pairs_of(dataset, name)}
    for row in scores.values():
        pair = pairs[row["pair_id"]]
        assert row["chosen_overall"] == overall[pair.chosen]
        assert row["gap"] == pair.gap == pytest.approx(row["chosen_overall"] - row["rejected_overall"], abs=2e-6)
        assert {name: row[f"rejected_{name}"] for name in RATED} == pair.rejected_scores
        assert row["judges"] == ["embedded", "rubric-rater"]
        assert (row["source"], row["license"], row["votes"]) == ("embedded", "Apache-2.0", pair.votes)


def test_hard_test_sets_are_apart_so_that_nobody_trains_on_them(dataset, place, tmp_path):
    hard = load(place, tmp_path, "released-hard")
    assert set(hard) <= {"near_ties", "length_matched", "same_model"}
    assert len(hard["length_matched"]) == len(pairs_of(dataset, "test-length-matched"))
    test_speeches = {row["ID"] for row in rows_of(place, "released-hard")}
    trained = {row["ID"] for name in ("train", "validation") for row in load(place, tmp_path, "released")[name]}
    assert not test_speeches & trained


def test_the_front_matter_agrees_with_the_files(place):
    from datasets import Features

    front = front_of(place)
    assert front.license == "cc-by-4.0"
    assert front.language == ["en"]
    assert [config["config_name"] for config in front.configs if config.get("default")] == ["released"]
    for config, info in zip(front.configs, front.dataset_info, strict=True):
        assert config["config_name"] == info["config_name"]
        files = sorted((place / config["config_name"]).glob("*.parquet"))
        assert info["download_size"] == sum(file.stat().st_size for file in files)
        assert info["dataset_size"] == sum(split["num_bytes"] for split in info["splits"])
        assert info["features"] == Features.from_arrow_schema(pq.read_schema(files[0]))._to_yaml_list()
        assert len(files) == len(info["splits"])
        for split, data in zip(info["splits"], config["data_files"], strict=True):
            (file,) = place.glob(data["path"])
            assert split["name"] == data["split"] == file.name.partition("-")[0]
            assert split["num_examples"] == pq.read_metadata(file).num_rows


def test_the_card_tells_how_the_set_was_made_and_what_it_is_not(dataset, place):
    text = (place / "README.md").read_text(encoding="utf-8")
    counts = RunFolder(dataset).manifest("pairs").counts
    for words in (
        "It is not therapy, and\nnothing in it is clinically validated",
        f"| `train` | {counts['train']} |",
        "2 judge(s): embedded, rubric-rater",
        "| safety | 1 | yes |",
        "chosen is longer",
        "quadratic kappa",
        "120 replies were rated by more than one judge",
        "| embedded | Apache-2.0 | Apache-2.0 | attribution |",
        "The source `embedded` is machine-written",
        "arXiv:2502.19731",
        f"pairs `{RunFolder(dataset).manifest('pairs').identity}`",
    ):
        assert words in text, words


def test_publishing_twice_gives_the_same_bytes(dataset, begun):
    folder, publish = begun
    assert publish()[0] == 0
    assert folder.manifest("publish").outputs == RunFolder(dataset).manifest("publish").outputs
    code, _, err = publish()
    assert (code, err.splitlines()[-1]) == (0, "publish: done before")


def test_it_works_right_after_the_pairs_without_torch(begun, tmp_path):
    folder, _ = begun
    code = "import sys\nsys.modules['torch'] = None\nsys.argv = ['psychocounsel', *sys.argv[1:]]\n"
    code += "from psychocounsel.cli import main\nmain()"
    words = [sys.executable, "-c", code, "publish", str(tmp_path / "tiny.toml"), "--runs", str(tmp_path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "speeches", "responses", "ratings", "pairs", "publish"
    ]  # fmt: skip
    assert folder.manifest("publish").inputs == {
        name: folder.manifest(name).identity for name in ("speeches", "responses", "ratings", "pairs")
    }


def test_publishing_needs_what_it_reads(begun):
    folder, publish = begun
    folder.discard("ratings")
    code, _, err = publish()
    assert (code, "--from publish: stage ratings is not finished" in err) == (2, True)
    assert not folder.stage("publish").exists()


def test_publishing_changes_no_result_and_a_redone_training_no_publication(finished, tmp_path, cli):
    folder, recipe = copy_run(finished, tmp_path), write_recipe(tmp_path)
    before = {name: (folder.path / name).read_bytes() for name in ("report.html", "results.json")}
    set_licence = ("--set", "publish.license=Apache-2.0")
    assert cli("publish", recipe, "--runs", tmp_path, *set_licence)[0] == 0
    published = output_hashes(folder)["publish"]
    assert {name: (folder.path / name).read_bytes() for name in before} == before
    code, _, err = cli("run", recipe, "--runs", tmp_path, *set_licence)
    assert (code, "publish" in err) == (0, False)
    assert cli("evaluate", recipe, "--runs", tmp_path, "--redo")[0] == 0
    assert output_hashes(folder)["publish"] == published
    assert cli("pairs", recipe, "--runs", tmp_path, "--redo")[0] == 0
    assert folder.manifest("publish") is None, "it was made from pairs that are gone"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("publish.license=''", 'publish: choose a licence for the published set: [publish] license = "..."'),
        ("publish.license=Apache", "license 'Apache' is not known"),
        ("publish.license=CC0-1.0", "gives away more than the sources allow: 'embedded' (Apache-2.0, "),
        ("publish.hub=nobody", "publish.hub = 'nobody': write it as OWNER/NAME"),
        ("publish.schemas=['csv']", "'publish.schemas.0': Input should be 'released' or 'trl'"),
    ],
)
def test_what_stands_in_the_way_is_one_line_and_nothing_is_written(begun, change, says):
    folder, publish = begun
    code, _, err = publish("--set", change)
    said = [line for line in err.splitlines() if "done before" not in line]
    assert (code, len(said), says in said[0]) == (2, 1, True), err
    assert list(folder.stage("publish").rglob("*.parquet")) == []


def test_a_run_to_publish_finds_a_missing_licence_before_it_trains(dataset, tmp_path, cli):
    folder = copy_run(dataset, tmp_path, "pairs")
    recipe = write_recipe(tmp_path, DATA_RECIPE)
    code, _, err = cli("run", recipe, "--runs", tmp_path, "--to", "publish", "--set", "publish.license=''")
    assert (code, len(err.splitlines())) == (2, 1)
    assert folder.manifest("supervised") is None


def test_only_one_schema_is_written_when_one_is_asked_for(begun, tmp_path):
    folder, publish = begun
    assert publish("--set", 'publish.schemas=["trl"]')[0] == 0
    place = folder.stage("publish")
    assert {path.name for path in place.iterdir() if path.is_dir()} == {"trl", "scores", "trl-hard", "scores-hard"}
    assert load(place, tmp_path, None)["train"].column_names[0] == "prompt"


def test_an_empty_split_is_left_out(begun, tmp_path):
    folder, publish = begun
    (folder.stage("pairs") / "dev.jsonl").write_text("")
    assert publish()[0] == 0
    assert set(load(folder.stage("publish"), tmp_path, "released")) == {"train", "test"}


def test_without_any_pair_there_is_nothing_to_publish(begun):
    folder, publish = begun
    for name in SPLITS:
        (folder.stage("pairs") / f"{name}.jsonl").write_text("")
    code, _, err = publish()
    assert (code, "publish: there are no pairs to publish" in err) == (2, True)


def unscored(folder, names, principle="staging"):
    """Take the score of one principle from the first pair of some sets, or from all of 'all'."""
    for path in sorted(folder.stage("pairs").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows if names == "all" else rows[: path.stem in names]:
            row["chosen_scores"][principle] = None
        write_rows(path, rows)


def test_a_pair_without_a_score_is_in_every_config_but_the_released_one_and_is_counted(begun):
    folder, publish = begun
    unscored(folder, ("train", "test"))
    assert publish()[0] == 0
    place = folder.stage("publish")
    assert len(rows_of(place, "trl")) - len(rows_of(place, "released")) == 2
    assert sum(row["chosen_staging"] is None for row in rows_of(place, "scores")) == 2
    assert "2 pairs are not in `released`" in (place / "README.md").read_text()


def test_a_set_without_one_of_the_seven_is_published_in_the_other_schema(begun):
    folder, publish = begun
    unscored(folder, "all")
    code, _, err = publish()
    assert (code, 'write schemas = ["trl"] in [publish]' in err) == (2, True)
    assert publish("--set", 'publish.schemas=["trl"]')[0] == 0


def test_many_rows_go_into_several_files(begun, tmp_path, monkeypatch):
    folder, publish = begun
    monkeypatch.setattr(parquet, "SHARD", 20)
    monkeypatch.setattr(parquet, "GROUP", 8)
    assert publish()[0] == 0
    place = folder.stage("publish")
    total = len(pairs_of(folder.path, "train"))
    names = [file.name for file in sorted((place / "released").glob("train-*"))]
    assert names == [f"train-{i:05d}-of-{len(names):05d}.parquet" for i in range(-(-total // 20))]
    assert len(load(place, tmp_path, "released")["train"]) == total


HOSTILE = (
    "I keep [bold]counting[/] <script>alert(1)</script> | the days | until **Friday** --- and?\n---\nlicense: mit",
    "'\"`{{ 7 * 7 }}` {% raw %} half an emoji: \ud83d and a tab\there: yes, & so: on # not a heading\n\n# x",
    "C'est dimanche soir: \u202eright to left\u202c and \u2028 a line separator, ‘quotes’ – dashes – and 日本語.",
    "I told my sister | that I cannot come [link](http://x) ~~never~~ $\\alpha$ *again* `again` <!-- no --> - a\n- b",
)
JUDGE = """
import json
from psychocounsel.models.scripted import Scripted
IDS = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")


def answer(request):
    return json.dumps(dict.fromkeys(IDS, 5 if "warm" in request.messages[-1]["content"] else 2))


def judge():
    return Scripted(answer, name="http://10.1.2.3:8000/v1#judge|<b>")
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch, cli):
    """A finished run over texts, ids, model names and a title that try to break out of the card."""
    use_judge_module(tmp_path, monkeypatch, JUDGE)
    with (tmp_path / "speeches.jsonl").open("w") as file:
        for i, text in enumerate(HOSTILE):
            row = {"id": f"x|{i}]: [", "text": text * (1 + 120 // len(text))}
            file.write(json.dumps(row) + "\n")
    with (tmp_path / "replies.jsonl").open("w") as file:
        for i, text in enumerate(HOSTILE):
            for model in ("local:/srv/someone/models/warm|one", "plain: [x]\n---"):
                reply = {
                    "source_id": f"x|{i}]: [",
                    "model": model,
                    "text": f"{'warm' if 'warm' in model else 'no'}: {text}",
                }
                file.write(json.dumps(reply) + "\n")
    title = 'Pairs: \\"a\\" | <b>b</b>\\n---\\nlicense: mit\\n# c'
    recipe = write_recipe(tmp_path, f"""
name = "hostile"
[speeches]
sources = [{{ load = "{tmp_path}/speeches.jsonl", id = "id", license = "CC BY-NC 4.0" }}]
max_chars = 2000
language = ""
content = false
topics = "none"
dev = 0
test = 0
[speeches.privacy]
mode = "off"
[responses]
models = ["recorded:{tmp_path}/replies.jsonl"]
[ratings]
judges = ["desk.judge:judge"]
[publish]
title = "{title}"
license = "CC-BY-NC-4.0"
""")  # fmt: skip
    assert cli("run", recipe, "--runs", tmp_path, "--to", "pairs")[0] == 0
    code, _, err = cli("publish", recipe, "--runs", tmp_path)
    assert code == 0, err
    return RunFolder(tmp_path / "hostile"), recipe


def test_hostile_texts_reach_the_tables_whole_and_the_card_not_at_all(hostile, tmp_path):
    folder, _ = hostile
    place = folder.stage("publish")
    speeches = {s.id: s for s in read_records(folder.stage("speeches") / "speeches.jsonl", Speech)}
    rows = load(place, tmp_path, "released")["train"]
    assert len(rows) >= 3
    for row in rows:
        assert row["question"] == speeches[row["ID"]].text
        assert row["chosen"].startswith("warm: ")
    text = (place / "README.md").read_text(encoding="utf-8")
    front = front_of(place)
    assert front.license == "cc-by-nc-4.0"
    assert front.pretty_name == 'Pairs: "a" | <b>b</b> --- license: mit # c'
    body = text.split("\n---\n", 1)[1]
    assert body.startswith('\n# Pairs: "a" \\| &lt;b&gt;b&lt;/b&gt; --- license: mit \\# c\n')
    for words in ("<script>", "<b>", "counting", "Friday", "\u202e", "\u2028"):
        assert words not in body
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert tables and all(line.replace("\\|", "").count("|") in (5, 6, 7, 9) for line in tables)


def test_nothing_of_the_machine_is_published(hostile, tmp_path):
    place = hostile[0].stage("publish")
    models = {row[f"{side}_model"] for row in rows_of(place, "released") for side in ("chosen", "rejected")}
    assert models == {"local:warm|one", "plain: [x]\n---".strip()}
    assert {name for row in rows_of(place, "scores") for name in row["judges"]} == {"judge|<b>"}
    for file in place.rglob("*"):
        if file.is_file() and file.name != "manifest.json":
            found = file.read_bytes()
            assert str(tmp_path).encode() not in found and b"10.1.2.3" not in found and b"/srv/" not in found, file


def test_an_nc_source_is_not_published_under_a_freer_licence(hostile, tmp_path, cli):
    folder, recipe = hostile
    arguments = ("publish", recipe, "--runs", tmp_path, "--redo", "--set")
    code, _, err = cli(*arguments, "publish.license=Apache-2.0")
    assert code == 2
    assert "'speeches.jsonl' (CC-BY-NC-4.0, " in err and 'demands non-commercial. Choose "CC-BY-NC-4.0"' in err
    assert cli(*arguments, "publish.license=other")[0] == 0
    front = front_of(folder.stage("publish"))
    assert (front.license, front.license_name) == ("other", "licences-of-the-sources")


def test_privacy_that_was_off_is_said_in_bold(hostile):
    text = (hostile[0].stage("publish") / "README.md").read_text(encoding="utf-8")
    assert "**Personal data was not looked for.**" in text


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("openai:gpt-4o", "openai:gpt-4o"),
        ("http://10.0.0.1:8000/v1#llama-3", "llama-3"),
        ("https://secret.example/v1", "remote model"),
        ("local:/srv/me/checkpoints/last/", "local:last"),
        ("local:C:\\models\\last", "local:last"),
        ("vllm:~/models/last", "vllm:last"),
        ("local:meta-llama/Llama-3.2-3B", "local:meta-llama/Llama-3.2-3B"),
        ("human:r1", "human:r1"),
        ("", ""),
    ],
)
def test_names_lose_the_machine_they_ran_on(name, published):
    assert published_name(name) == published


def test_split_names_are_those_the_hub_allows():
    assert [split_name(name) for name in ("dev", "train", "near-ties", "a b/c")] == [
        "validation", "train", "near_ties", "a_b_c"
    ]  # fmt: skip


def test_the_raters_of_a_response_are_named_once_and_sorted():
    found = raters([("r", "b"), ("r", "http://h/v1#a"), ("r", "b"), ("s", "b")])
    assert found == {"r": ("a", "b"), "s": ("b",)}


def test_figures_become_rows_and_sample_texts_do_not():
    report = {
        "replaced": {"name": 3, "phone_number": 0},
        "contexts": ["call me at 5"],
        "share": {"value": 0.51234, "low": 0.4, "high": 0.6, "n": 9},
        "length": {"share": 1, "low": None, "high": None},
        "undefined": {"value": None, "low": None, "high": None, "n": 0},
        "note": "a text of somebody",
        "flag": True,
    }
    assert figure_rows(report) == [
        ("replaced: name", "3"),
        ("replaced: phone number", "0"),
        ("share", "0.512 (0.4 to 0.6; n 9)"),
        ("length", "1"),
    ]


def test_escaping_leaves_one_harmless_line():
    assert escaped("a\n| b `c` <i> & [d](e) \x1b[0m \ud83d") == r"a \| b \`c\` &lt;i&gt; &amp; \[d\](e) \[0m ?"
    assert plain(" x\r\n\x00y ") == "x y"


def test_stored_records_are_read_by_id_and_a_changed_file_is_named(tmp_path):
    path = tmp_path / "responses.jsonl"
    rows = [Response(speech_id="s", model="m", text=text).model_dump(mode="json") for text in ("one", "zwölf\n", "")]
    write_rows(path, rows)
    with Stored(path, Response) as stored:
        assert [stored[row["id"]].text for row in reversed(rows)] == ["", "zwölf\n", "one"]
        with pytest.raises(UserError, match="there is no response 00ff; was the file changed by hand"):
            stored["00ff"]
    write_rows(path, [rows[0] | {"text": "other"}])
    with Stored(path, Response) as stored, pytest.raises(UserError, match="its id is not that of its content"):
        stored[rows[0]["id"]]
    for content in ('{"text": "no id"}\n', "not json\n", "[1]\n"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"responses.jsonl:1: not a response with an id"):
            Stored(path, Response)
    with pytest.raises(UserError, match="no such file"):
        Stored(tmp_path / "absent.jsonl", Response)


class Hub:
    """The part of the hub's interface that a push speaks, on this machine; keeps what it was sent."""

    def __init__(self):
        self.status, self.asked, self.files, self.stale = 200, [], {}, "released/train-00000-of-00007.parquet"
        self.app = FastAPI()

        @self.app.api_route("/{path:path}", methods=["GET", "POST"])
        async def answer(path: str, request: Request):
            raw = await request.body()
            self.asked.append((request.method, path, request.headers.get("authorization")))
            if self.status != 200:
                return JSONResponse({"error": "no"}, self.status)
            if path == "api/repos/create":
                self.created = json.loads(raw)
                return {"url": "http://127.0.0.1/datasets/owner/name", "id": "owner/name"}
            if "/preupload/" in path:
                asked = json.loads(raw)["files"]
                return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            if "/commit/" in path:
                for line in map(json.loads, raw.splitlines()):
                    self.files[line["value"].get("path", line["key"])] = line
                return {"commitUrl": "http://127.0.0.1/datasets/owner/name/commit/0", "commitOid": "0" * 40}
            if "/tree/" in path:
                return [{"type": "file", "path": self.stale, "size": 1, "oid": "0" * 40}]
            if "/revision/" in path or path.startswith("api/datasets/"):
                siblings = [{"rfilename": self.stale}]
                return {"id": "owner/name", "sha": "0" * 40, "siblings": siblings, "tags": [], "private": True}
            return {}


@pytest.fixture
def hub():
    made = Hub()
    with running(made.app) as made.url:
        yield made


def pushed(tmp_path, url, **variables):
    """The publish command with a hub, as a process of its own, because the library reads its variables once."""
    surroundings = environment() | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": url, "HF_TOKEN": "hf_notarealtoken"}
    words = ("publish", tmp_path / "tiny.toml", "--runs", tmp_path, "--set", "publish.hub=owner/name")
    return subprocess.run(
        command(*words), env=surroundings | variables, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )


def test_a_push_is_one_commit_into_a_private_repository(begun, tmp_path, hub):
    folder, _ = begun
    done = pushed(tmp_path, hub.url)
    assert done.returncode == 0, done.stderr
    assert f"publish: pushed to {hub.url}/datasets/owner/name (private if new)" in done.stderr
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private", hub.created
    assert hub.created["type"] == "dataset"
    assert {key for method, _, key in hub.asked if method == "POST"} == {"Bearer hf_notarealtoken"}
    assert hub.files.pop(hub.stale)["key"] == "deletedFile"
    assert hub.files.pop("header")["value"]["summary"] == "Publish the data set"
    assert {name for name in hub.files if not name.startswith(".")} == set(folder.manifest("publish").outputs)
    sent = base64.b64decode(hub.files["README.md"]["value"]["content"])
    assert sent == (folder.stage("publish") / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "the hub does not accept HF_TOKEN"),
        (403, "HF_TOKEN may not write there"),
        (404, "no such owner on the hub"),
        (418, "the hub answered 418"),
    ],
)
def test_a_push_that_the_hub_refuses_is_one_line_and_the_next_try_goes_on(begun, tmp_path, hub, status, says):
    folder, _ = begun
    hub.status = status
    done = pushed(tmp_path, hub.url)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, says in last, "the same command tries again" in last) == (2, True, True), done.stderr
    assert "hf_notarealtoken" not in done.stderr and "Traceback" not in done.stderr
    assert folder.manifest("publish") is None
    assert (folder.stage("publish") / "README.md").is_file()
    hub.status = 200
    assert pushed(tmp_path, hub.url).returncode == 0


def test_a_hub_that_does_not_answer_is_one_line(begun, tmp_path):
    done = pushed(tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "publish.hub = 'owner/name': no connection (" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "t"}, "HF_HUB_OFFLINE forbids the hub"),
        ({"HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}, "HF_TOKEN is not set; export it"),
    ],
)
def test_a_push_that_cannot_begin_is_refused_before_anything_is_written(begun, monkeypatch, variables, says):
    folder, publish = begun
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, err = publish("--set", "publish.hub=owner/name")
    assert (code, len(err.splitlines()), says in err) == (2, 1, True), err
    assert not folder.stage("publish").exists()


def test_probes_personal_data_and_leakage_come_onto_the_card_without_sample_texts(begun):
    folder, publish = begun
    share = {"value": 0.25, "low": 0.125, "high": 0.5, "n": 40}
    judged = {
        "position": {"beyond_half": share, "flipped": {**share, "value": None}},
        "injection": {"all": {"moved": share}},
    }
    probes = {"count": 40, "seed": 0, "judges": {"http://10.9.8.7/v1#judge": {"replies": 40, **judged}, "silent": {}}}
    privacy = {
        "found": {"NAME": 7},
        "recall_on_planted": {"NAME": share},
        "contexts": {"NAME": ["I am Somebody, call me"]},
    }
    leakage = {
        "splits": {"train and test": {"pairs": 3}},
        "external": {f"{kind}secrets/of/alice.jsonl": {"test": {"pairs": 1}} for kind in ("", "/home/", "fastchat:/")},
        "examples": ["a text of a client"],
    }
    for stage, name, body in (
        ("ratings", "probes", probes),
        ("speeches", "privacy", privacy),
        ("speeches", "leakage", leakage),
    ):
        (folder.stage(stage) / f"{name}.json").write_text(json.dumps(body))
    assert publish()[0] == 0
    text = (folder.stage("publish") / "README.md").read_text(encoding="utf-8")
    for line in (
        "| judge | position: beyond half | 0.25 (0.125 to 0.5; n 40) |",
        "| judge | injection: all: moved | 0.25 (0.125 to 0.5; n 40) |",
        "| NAME | 7 | 0.25 (0.125 to 0.5; n 40) | undefined |",
        "- splits: train and test: pairs: 3",
        *(f"- external: set {number}, alice.jsonl: test: pairs: 1" for number in (1, 2, 3)),
    ):
        assert line in text, line
    for words in ("Somebody", "a text of a client", "10.9.8.7", "flipped", "secrets"):
        assert words not in text, words
