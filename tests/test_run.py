"""The run folder: a stage is complete or absent."""

import json
import os

import pytest
from tiny_run import RUN_STAGES

from psychocounsel import run
from psychocounsel.errors import UserError
from psychocounsel.records import content_id, file_hash, write_text
from psychocounsel.run import STAGES, RunFolder, differences


@pytest.fixture
def folder(tmp_path):
    """A run folder whose pairs stage has made two files, one of them in a sub-folder."""
    made = RunFolder(tmp_path / "demo")
    write_text(made.stage("pairs") / "train.jsonl", '{"a": 1}\n')
    write_text(made.stage("pairs") / "model" / "config.json", "{}")
    return made


def finish(folder, settings=None):
    return folder.finish("pairs", settings or {"gap": 1.0}, {"ratings": "abc"}, {"train": 1}, 1.234)


def test_stage_folders_are_numbered_in_the_order_of_the_pipeline(tmp_path):
    folder = RunFolder(tmp_path)
    names = [folder.stage(name).name for name in STAGES]
    assert names[0] == "1-speeches"
    assert names[-1] == "9-publish"
    assert sorted(names) == names


def test_a_stage_without_a_manifest_is_not_finished(folder):
    assert folder.manifest("pairs") is None
    finish(folder)
    assert folder.manifest("pairs").counts == {"train": 1}


def test_a_manifest_names_every_file_with_the_hash_of_its_bytes(folder):
    manifest = finish(folder)
    place = folder.stage("pairs")
    assert manifest.outputs == {name: file_hash(place / name) for name in ("model/config.json", "train.jsonl")}
    assert folder.manifest("pairs") == manifest
    assert manifest.seconds == 1.23


def test_a_manifest_is_the_last_file_of_its_stage(finished):
    folder = RunFolder(finished)
    for name in RUN_STAGES:
        place = folder.stage(name)
        others = [file.stat().st_mtime_ns for file in place.rglob("*") if file.is_file() and file.parent != place]
        others += [file.stat().st_mtime_ns for file in place.glob("*.json*") if file.name != "manifest.json"]
        assert (place / "manifest.json").stat().st_mtime_ns >= max(others)


def test_a_manifest_that_cannot_be_completed_leaves_the_stage_unfinished(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        finish(folder)
    assert folder.manifest("pairs") is None
    assert not (folder.stage("pairs") / "manifest.json").exists()


def test_the_identity_of_a_stage_changes_with_one_byte_and_with_nothing_else(folder):
    first = finish(folder)
    again = folder.finish("pairs", {"gap": 2.0}, {}, {}, 99.0)
    assert again.identity == first.identity == content_id(dict(sorted(first.outputs.items())))
    write_text(folder.stage("pairs") / "train.jsonl", '{"a": 2}\n')
    assert finish(folder).identity != first.identity


def assert_damaged(folder):
    path = folder.stage("pairs") / "manifest.json"
    with pytest.raises(UserError) as caught:
        folder.manifest("pairs")
    assert str(caught.value) == f"{path}: damaged manifest; rerun with --redo pairs"


@pytest.mark.parametrize("text", ["", '{"stage": "pairs", "settings": {', "[]", '{"stage": "pairs"}', "{}"])
def test_a_damaged_manifest_is_named_with_what_to_do(folder, text):
    (folder.stage("pairs") / "manifest.json").write_text(text, encoding="utf-8")
    assert_damaged(folder)


def test_a_manifest_that_is_not_utf8_is_damaged(folder):
    (folder.stage("pairs") / "manifest.json").write_bytes(b"\xff\xfe{}")
    assert_damaged(folder)


def test_a_manifest_with_an_unknown_field_is_damaged(folder):
    finish(folder)
    path = folder.stage("pairs") / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    assert_damaged(folder)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"gap": 1.0}, {"gap": 1.0}, []),
        ({"gap": 1.0}, {"gap": 0.5}, ["gap: 1.0 -> 0.5"]),
        ({"online": {"rounds": 1}}, {"online": {"rounds": 2}}, ["online.rounds: 1 -> 2"]),
        ({}, {"seed": 1}, ["seed: null -> 1"]),
        ({"judges": ["a"]}, {"judges": ["a", "b"]}, ['judges: ["a"] -> ["a", "b"]']),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 -> 2", "b: 1 -> 2"]),
        ({"a": "x" * 500}, {"a": ""}, ['a: "' + "x" * 59 + ' -> ""']),
    ],
)
def test_differences_name_the_key_and_both_values(old, new, expected):
    assert differences(old, new) == expected


def test_writing_a_text_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "new" / "results.json"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new " * 1000)
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_text(path, "größer – ✓")
    assert path.read_text(encoding="utf-8") == "größer – ✓"
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_discarded_stage_is_gone_and_discarding_it_again_is_harmless(folder):
    finish(folder)
    folder.discard("pairs")
    assert not folder.stage("pairs").exists()
    folder.discard("pairs")
    assert folder.manifest("pairs") is None


def test_a_stage_that_was_only_half_removed_is_not_finished(folder, monkeypatch):
    finish(folder)

    def killed(path, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.discard("pairs")
    assert folder.manifest("pairs") is None
    assert (folder.stage("pairs") / "train.jsonl").exists()


def test_versions_name_what_shaped_the_outputs():
    versions = run.library_versions()
    assert {"python", "psychocounsel", "numpy", "torch", "transformers"} <= set(versions)
    assert all(versions.values())


def test_the_code_may_run_outside_a_repository(tmp_path, monkeypatch):
    place = tmp_path / "package" / "run.py"
    place.parent.mkdir()
    monkeypatch.setattr(run, "__file__", str(place))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert run.git_state() == ""
