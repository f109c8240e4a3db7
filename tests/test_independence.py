"""Whoever labels may not grade: whose a model is, what is declared, and what a judge may not share."""

import json
from types import SimpleNamespace

import pytest
from tiny_run import write_recipe

from psychocounsel.errors import UserError
from psychocounsel.evaluate.contest.independence import check_independence, dependence_reasons, parties
from psychocounsel.models.families import families_of, family_of
from psychocounsel.pipeline.preflight import independent
from psychocounsel.recipe import load_recipe


def judge(name, family=""):
    return SimpleNamespace(name=name, family=family)


def reasons(name, declared=None, **others):
    return dependence_reasons([judge(name)], parties(**others), declared).get(name, [])


# --- whose a model is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai:gpt-4o-2024-08-06", "openai"),
        ("http://127.0.0.1:8000/v1#openai/gpt-oss-120b", "openai"),
        ("openai-community/gpt2", "openai"),
        ("EleutherAI/gpt-neox-20b", "eleutherai"),
        ("anthropic:claude-sonnet-4-20250514", "anthropic"),
        ("google/medgemma-27b-it", "google"),
        ("lmsys/vicuna-13b-v1.5", "meta"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "meta"),
        ("http://localhost:11434/v1#qwen3:32b", "alibaba"),
        ("http://localhost:11434/v1#phi4", "microsoft"),
        ("HuggingFaceH4/zephyr-7b-beta", "mistral"),
        ("codestral-22b", "mistral"),
        ("open-mixtral-8x22b", "mistral"),
        ("CohereForAI/aya-expanse-8b", "cohere"),
        ("x-ai/grok-4", "xai"),
        ("http://localhost:11434/v1#yi:34b", "01-ai"),
        ("zai-org/GLM-4.5", "zhipu"),
        ("moonshotai/Kimi-K2-Instruct", "moonshot"),
        ("recorded:replies.jsonl#gpt-4o", "openai"),
    ],
)
def test_published_names_tell_whose_they_are(name, family):
    assert families_of(name) == (family,)


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", {"deepseek", "meta"}),
        ("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", {"nvidia", "meta"}),
        ("cognitivecomputations/samantha-mistral-7b", {"meta", "mistral"}),
        ("HuggingFaceH4/zephyr-7b-gemma-v0.1", {"mistral", "google"}),
        ("allenai/tulu-2-dpo-70b", {"allenai", "meta"}),
        ("WizardLM-2-8x22B", {"microsoft", "mistral", "meta"}),
    ],
)
def test_a_model_made_from_anothers_is_of_both_families(name, families):
    assert set(families_of(name)) == families


@pytest.mark.parametrize(
    "name",
    [
        "", "hermes", "marco-o1", "metastone-s1-32b", "daiyi-7b", "Orca-2-13b", "human:r1", "mine.judges:own",
        "embedded",
        "recorded:gpt-4o.jsonl",  # what a file is called
        "http://api.openai.com/v1#mine", "http://llama.example.org/v1",  # whose machine it is
        "local:/data/llama-factory/out", "runs/mistral/policy/model",  # where it lies
        "x" * 100_000, "\x00", "../" * 2000, "~nobody-of-this-name/model", "💬",
    ],
    ids=lambda name: repr(name[:30]),
)  # fmt: skip
def test_what_a_name_does_not_tell_stays_unknown(name):
    assert families_of(name) == () and family_of(name) == ""


@pytest.mark.parametrize(
    ("file", "config", "families"),
    [
        ("config.json", {"model_type": "qwen2", "_name_or_path": ""}, ("alibaba",)),
        ("config.json", {"model_type": "llama", "_name_or_path": "mistralai/Mistral-7B-v0.1"}, ("mistral",)),
        ("config.json", {"model_type": "gemma3_text", "_name_or_path": "/disks/llama-factory/out"}, ("google",)),
        ("adapter_config.json", {"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}, ("meta",)),
        ("config.json", {"model_type": "llama"}, ()),  # everybody uses its shape
        ("config.json", {"model_type": ["qwen2"], "_name_or_path": 7}, ()),
        ("config.json", ["qwen2"], ()),
        ("config.json", b'{"model_type": "qwen', ()),
        ("config.json", b"\xff\xfe\x00", ()),
        ("config.json", b"", ()),
    ],
)
def test_a_folder_is_known_by_its_config(tmp_path, file, config, families):
    folder = tmp_path / "llama" / "mine"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    assert [families_of(f"{prefix}{folder}") for prefix in ("", "local:", "vllm:")] == [families] * 3


def test_the_name_of_a_folder_does_not_hide_what_its_config_tells(tmp_path):
    folder = tmp_path / "claude-like"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert families_of(str(folder)) == ("anthropic", "alibaba")


def test_a_declared_family_overrules_the_name_and_is_the_registrys():
    declared = {"mine": "Mistral", "gpt-4o-like": "llama", "mixed": "deepseek, meta", "ours": "Uni-Lab", "blank": " , "}
    found = {name: families_of(name, declared) for name in declared}
    assert found["mine"] == ("mistral",)
    assert found["gpt-4o-like"] == ("meta",)  # nobody passes by calling one family by two words
    assert found["mixed"] == ("deepseek", "meta")
    assert found["ours"] == ("uni-lab",)
    assert found["blank"] == ()
    assert families_of("MINE", declared) == ()  # names are taken as they are written


def test_a_slip_in_a_declared_family_is_no_family_of_its_own():
    with pytest.raises(UserError, match="family 'antropic' of mine: did you mean 'anthropic'"):
        families_of("mine", {"mine": "antropic"})


# --- who may not grade ------------------------------------------------------------------------------------------------


def test_the_setting_of_the_paper_fails_for_labels_candidate_and_baseline():
    found = reasons("openai:gpt-4o", labellers=["gpt-4o"], candidates=["openai:gpt-4o-mini"], baselines=["gpt-4o"])
    assert found == [
        "openai:gpt-4o and labeller gpt-4o are of one family (openai)",
        "openai:gpt-4o and candidate openai:gpt-4o-mini are of one family (openai)",
        "openai:gpt-4o and baseline gpt-4o are of one family (openai)",
    ]
    assert reasons("anthropic:claude-sonnet-4", labellers=["gpt-4o"], baselines=["gpt-4o"], base="Qwen/Qwen3-8B") == []


@pytest.mark.parametrize("role", ["labellers", "candidates", "baselines"])
def test_a_family_in_common_is_enough_whatever_else_a_model_is_made_from(role):
    found = reasons("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", **{role: ["meta-llama/Llama-3.1-8B"]})
    assert len(found) == 1 and "are of one family (meta)" in found[0]


@pytest.mark.parametrize(
    ("others", "role"),
    [
        ({"labellers": ["rater-7"]}, "labeller rater-7"),
        ({"base": "made-at-home"}, "base model made-at-home"),
        ({"candidates": ["tuned"]}, "candidate tuned"),
        ({"baselines": ["old"]}, "baseline old"),
    ],
)
def test_an_unknown_family_is_a_reason_with_its_remedy(others, role):
    (found,) = reasons("anthropic:claude-sonnet-4", **others)
    name = role.split()[-1]
    assert found.startswith(f"the family of {role} is unknown")
    assert f"--family '{name}=FAMILY'" in found and "evaluate.families" in found
    assert reasons("anthropic:claude-sonnet-4", {name: "meta"}, **others) == []
    assert len(reasons("anthropic:claude-sonnet-4", {name: "Claude"}, **others)) == 1


def test_an_unknown_judge_is_dependent_until_it_is_declared():
    (found,) = reasons("house-judge", baselines=["openai:gpt-4o"])
    assert found.startswith("the family of judge house-judge is unknown")
    assert reasons("house-judge", {"house-judge": "cohere"}, baselines=["openai:gpt-4o"]) == []


def test_people_and_a_model_made_here_belong_to_no_family():
    others = {"labellers": ["human:r1", "human:r2"], "base": "embedded", "candidates": ["embedded"]}
    assert reasons("openai:gpt-4o", **others) == []


def test_nobody_grades_their_own_words_under_a_declared_name():
    (found,) = reasons("house-judge", {"house-judge": "cohere"}, candidates=["house-judge"])
    assert found == "house-judge is candidate and judge at once, of one family"


def test_the_embedded_judge_is_always_dependent():
    (found,) = dependence_reasons([judge("embedded", "embedded")], [])["embedded"]
    assert "fitted on ratings" in found


def test_each_judge_has_its_own_reasons_and_an_independent_one_has_none():
    panel = [judge("openai:gpt-5"), judge("anthropic:claude-sonnet-4"), judge("mistral-large-2411")]
    found = dependence_reasons(panel, parties(labellers=["gpt-4o", "gpt-4o"], base="mistralai/Ministral-8B"))
    assert {name: len(told) for name, told in found.items()} == {"openai:gpt-5": 1, "mistral-large-2411": 1}


def test_the_error_counts_the_other_reasons_and_an_override_returns_them_all():
    found = {"a": ["first", "second"], "b": ["second", "third"]}
    with pytest.raises(UserError, match=r"^here: .*: first \(and 2 more\); name another judge, or allow it$"):
        check_independence(found, False, "here", "allow it")
    assert check_independence(found, True, "here", "allow it") == ["first", "second", "third"]
    assert check_independence({}, False, "here", "allow it") == []


# --- in a recipe ------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path):
    def made(*changes):
        return load_recipe(write_recipe(tmp_path), ["evaluate.allow_dependent=false", *changes])

    return made


def test_a_recipe_declares_whose_a_model_is(recipe):
    panel, labels = [judge("house-judge")], ["gpt-4o"]
    with pytest.raises(UserError, match=r"family of judge house-judge is unknown.*evaluate.allow_dependent = true"):
        independent(recipe(), panel, labels)
    assert independent(recipe('evaluate.families={house-judge = "mistral"}'), panel, labels) == {}
    with pytest.raises(UserError, match=r"labeller gpt-4o are of one family \(openai\)"):
        independent(recipe('evaluate.families={house-judge = "openai"}'), panel, labels)
    told = independent(recipe("evaluate.allow_dependent=true"), panel, labels)
    assert list(told) == ["house-judge"]


def test_a_judge_has_one_voice(recipe):
    panel = [judge("anthropic:claude-sonnet-4")] * 2
    with pytest.raises(UserError, match=r"evaluate.judges: anthropic:claude-sonnet-4 is named twice"):
        independent(recipe(), panel, [])


def test_the_base_of_a_recipe_is_looked_at_before_anything_runs(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    changes = ['base="somebody/tuned"', 'evaluate.judges=["anthropic:claude-4"]', "evaluate.allow_dependent=false"]
    changes += ['evaluate.families={rubric-rater = "google"}']  # who rated the embedded texts: its name does not tell
    options = [word for change in changes for word in ("--set", change)]
    code, out, err = cli("run", write_recipe(tmp_path), "--runs", tmp_path / "runs", *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "the family of base model somebody/tuned is unknown" in err and "evaluate.families" in err
    assert not (tmp_path / "runs" / "tiny" / "calls.sqlite").exists()
