"""Recipes: complete, strict, and every mistake named with its key and the nearest right one."""

import os

import pytest

from psychocounsel.errors import UserError
from psychocounsel.recipe import DATA_VARIABLE, Recipe, apply_override, data_path, load_recipe, parse_recipe

TABLES = ("principles", "speeches", "responses", "ratings", "pairs", "supervised", "reward", "policy", "evaluate")


def parse(**data):
    return parse_recipe({"name": "x", **data}, "my.toml")


def with_set(*overrides):
    data = {"name": "x"}
    for override in overrides:
        apply_override(data, override)
    return parse_recipe(data, "my.toml")


def test_a_name_is_enough_and_every_table_has_defaults():
    recipe = parse()
    assert recipe.base == "embedded"
    assert (recipe.policy.beta, recipe.policy.lr, recipe.policy.epochs, recipe.policy.batch) == (0.1, 5e-7, 3, 64)
    assert (recipe.reward.lr, recipe.reward.epochs, recipe.reward.batch) == (9e-6, 2, 128)
    assert (recipe.speeches.min_chars, recipe.speeches.max_chars, recipe.responses.per_speech) == (100, 1000, 4)
    assert (recipe.pairs.gap, recipe.pairs.test_gap, recipe.pairs.rule) == (1.0, 0.5, "gate")
    assert (recipe.policy.online.speeches, recipe.policy.online.samples) == (6400, 8)
    assert tuple(name for name in Recipe.model_fields if name in TABLES) == TABLES


@pytest.mark.parametrize("table", TABLES)
def test_every_table_takes_its_keys_and_refuses_others(table):
    fields = {
        "principles": {"drop": ["staging"]},
        "speeches": {"dev": 0.05},
        "responses": {"per_speech": 2},
        "ratings": {"judges": ["embedded"]},
        "pairs": {"gap": 0.25},
        "supervised": {"min_overall": 4.5},
        "reward": {"margin": True},
        "policy": {"loss": "ipo"},
        "evaluate": {"limit": 3},
    }[table]
    key, value = next(iter(fields.items()))
    assert getattr(getattr(parse(**{table: fields}), table), key) == value
    wrong = key + "s" if not key.endswith("s") else key[:-1]
    with pytest.raises(UserError, match=rf"my\.toml: unknown key '{table}\.{wrong}', did you mean '{key}'\?"):
        parse(**{table: {wrong: value}})


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("polcy.lr=1", r"unknown key 'polcy', did you mean 'policy'\?"),
        ("policy.online.round=2", r"unknown key 'policy\.online\.round', did you mean 'rounds'\?"),
        ("supervised.embedded.hiden=8", r"unknown key 'supervised\.embedded\.hiden', did you mean 'hidden'\?"),
        ("speeches.sources=[{load='a.csv', txt='b'}]", r"'speeches\.sources\.0\.txt', did you mean 'text'\?"),
        ("principles.add=[{id='x', nam='b'}]", r"'principles\.add\.0\.nam', did you mean 'name'\?"),
        ("qqq=1", r"unknown key 'qqq'$"),
        ("policy.lr='fast'", r"'policy\.lr': .*valid number \(found 'fast'\)"),
        ("policy.lr=fast", r"'policy\.lr': .*valid number \(found 'fast'\)"),
        ("supervised.batch=1.5", r"'supervised\.batch': .*integer"),
        ("supervised.batch=true", r"'supervised\.batch': .*integer"),
        ("reward.margin=1", r"'reward\.margin': .*boolean"),
        ("responses.models='openai:x'", r"'responses\.models': .*list"),
        ("responses.models=[]", r"'responses\.models': .*at least 1 item"),
        ("pairs.rule=mean", r"'pairs\.rule': .*'gate' or 'paper' \(found 'mean'\)"),
        ("policy=3", r"'policy': .*found 3"),
        ("name=''", r"'name': .*pattern"),
        ("name='../up'", r"'name': .*pattern"),
        ("seed='7'", r"'seed': .*integer"),
        ("seed=-1", r"'seed': .*greater than or equal to 0"),
        ("policy.lr=0", r"'policy\.lr': .*greater than 0"),
        ("policy.lr=-1e-6", r"'policy\.lr': .*greater than 0"),
        ("policy.lr=inf", r"'policy\.lr': .*finite"),
        ("policy.epochs=nan", r"'policy\.epochs': "),
        ("policy.epochs=0", r"'policy\.epochs': .*greater than 0"),
        ("reward.epochs=0.0", r"'reward\.epochs': .*greater than 0"),
        ("supervised.epochs=-0.5", r"'supervised\.epochs': .*greater than or equal to 0"),
        ("evaluate.speeches=['dev']", r"'evaluate\.speeches\.0': .*'arena' or 'test' \(found 'dev'\)"),
        ("evaluate.samples=0", r"'evaluate\.samples': .*greater than 0"),
        ("principles.weight={empathy=-1}", r"'principles\.weight\.empathy': .*greater than or equal to 0"),
        ("speeches.near_duplicate=1.01", r"'speeches\.near_duplicate': .*less than or equal to 1"),
        ("speeches.dev=1", r"'speeches\.dev': .*less than 1"),
        ("supervised.min_overall=5.5", r"'supervised\.min_overall': .*less than or equal to 5"),
        ("policy.online.samples=1", r"'policy\.online\.samples': .*greater than or equal to 2"),
        ("evaluate.limit=0", r"'evaluate\.limit': .*greater than 0"),
        ("policy.loss=dop", r"'policy\.loss': 'dop' is not a known loss, did you mean 'dpo'\?; known are dpo, ipo"),
        ("policy.loss='robust_dpo'", r"did you mean 'robust'\?"),
        ("policy.loss='my.module:'", r"or write package\.module:object"),
        ("policy.loss=3", r"'policy\.loss': .*valid string"),
        ("policy.loss=cdpo", r"policy\.loss = 'cdpo' needs policy\.smoothing, for example 0\.1"),
        ("policy.smoothing=0.1", r"policy\.smoothing is read by cdpo or robust only, not by policy\.loss = 'dpo'"),
        ("policy={loss='robust', smoothing=0.5}", r"'policy\.smoothing': .*less than 0\.5"),
        ("policy={loss='simpo', gamma=-1}", r"'policy\.gamma': .*greater than or equal to 0"),
        ("policy={loss='simpo', length_normalised=true}", r"'simpo' needs policy\.gamma"),
        ("policy={loss='simpo', gamma=1}", r"'simpo' compares mean log-probabilities; set policy\.length_normalised"),
        ("policy={loss='a.b:c', gamma=1}", r"policy\.gamma is read by simpo only, not by policy\.loss = 'a\.b:c'"),
        ("reward.weight_by_gap=1", r"'reward\.weight_by_gap': .*boolean"),
        ("speeches.min_chars=2000", r"min_chars is larger than speeches\.max_chars"),
        ("speeches={dev=0.5, test=0.5}", r"dev \+ speeches\.test must be below 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(override, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        with_set(override)
    assert str(caught.value).startswith("my.toml: ")


def test_a_recipe_without_a_name_says_so():
    with pytest.raises(UserError, match=r"^my\.toml: 'name' is missing$"):
        parse_recipe({}, "my.toml")


def test_several_mistakes_are_told_at_once():
    with pytest.raises(UserError, match=r"pairs\.gap.*; my\.toml: .*policy\.lr"):
        with_set("pairs.gap=-1", "policy.lr=0")


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("pairs.gap=0.5", lambda r: r.pairs.gap, 0.5),
        ("pairs.gap = 2", lambda r: r.pairs.gap, 2.0),
        ("policy.online.rounds=0", lambda r: r.policy.online.rounds, 0),
        ("base=org/model-1B", lambda r: r.base, "org/model-1B"),
        ('base="a=b"', lambda r: r.base, "a=b"),
        ("base=", lambda r: r.base, ""),
        ("ratings.judges=['a','b']", lambda r: r.ratings.judges, ["a", "b"]),
        ("evaluate.allow_dependent=true", lambda r: r.evaluate.allow_dependent, True),
        ("principles.weight={safety=2}", lambda r: r.principles.weight, {"safety": 2.0}),
    ],
)
def test_set_changes_one_setting(override, read, value):
    assert read(with_set(override)) == value


@pytest.mark.parametrize("key", ["responses.models", "ratings.judges", "evaluate.judges", "speeches.privacy.model"])
@pytest.mark.parametrize("url", ["https://me:hidden@example.org/v1#m", "https://example.org/v1?key=hidden#m"])
def test_a_key_in_a_models_address_is_refused_and_not_repeated(key, url):
    value = f"'{url}'" if key.endswith("model") else f"['{url}']"
    with pytest.raises(UserError, match="export the key as PSYCHOCOUNSEL_API_KEY") as caught:
        with_set(f"{key}={value}")
    assert "hidden" not in str(caught.value)
    assert with_set(f"{key}={value.replace('me:hidden@', '').replace('?key=hidden', '')}")


@pytest.mark.parametrize("override", ["pairs.gap", "=3", "pairs gap=1", ""])
def test_a_set_without_a_key_says_how_to_write_it(override):
    with pytest.raises(UserError, match=r"write it as table\.key=value"):
        apply_override({}, override)


def test_set_does_not_descend_into_a_value():
    with pytest.raises(UserError, match="'name' is not a table"):
        apply_override({"name": "x"}, "name.first=1")


def test_a_later_set_wins_over_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[pairs]\ngap = 0.1\n')
    assert load_recipe(path).pairs.gap == 0.1
    assert load_recipe(path, ["pairs.gap=0.2", "pairs.gap=0.3"]).pairs.gap == 0.3


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"name = \n[pairs]", r"a\.toml: not valid TOML.*line 1"),
        (b'name = "a"\nname = "b"', r"a\.toml: not valid TOML"),
        (b'name = "caf\xe9"', r"a\.toml: not UTF-8"),
        (b"", r"a\.toml: 'name' is missing"),
        (b"\x00" * 1000, r"a\.toml: not valid TOML"),
    ],
)
def test_a_broken_file_is_named(tmp_path, data, complaint):
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=complaint):
        load_recipe(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: no such recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(UserError, match="is a folder"):
        load_recipe(tmp_path)


def test_paths_know_variables_and_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_path(f"${DATA_VARIABLE}/a.csv") == tmp_path / "a.csv"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_path("~/b.csv") == tmp_path / "b.csv"
    monkeypatch.delenv(DATA_VARIABLE)
    before = dict(os.environ)
    for text in (f"${DATA_VARIABLE}/a.csv", f"${{{DATA_VARIABLE}}}/a.csv"):
        assert data_path(text).parts[-3:] == ("shared", "data", "a.csv")
    assert dict(os.environ) == before, "a default is nobody else's setting"
    monkeypatch.setenv(f"{DATA_VARIABLE}_OLD", str(tmp_path / "old"))
    assert data_path(f"${DATA_VARIABLE}_OLD/a.csv") == tmp_path / "old" / "a.csv"
    monkeypatch.delenv("NO_SUCH_PLACE", raising=False)
    with pytest.raises(UserError, match=r"\$NO_SUCH_PLACE/x: the environment variable"):
        data_path("$NO_SUCH_PLACE/x")


def test_every_recipe_that_comes_along_is_valid(request):
    recipes = sorted((request.config.rootpath / "recipes").glob("*.toml"))
    assert "quickstart" in [path.stem for path in recipes]
    for path in recipes:
        assert load_recipe(path).name
