"""A file made part by part: complete or absent, and nothing that was made is made again."""

import json

import pytest

from psychocounsel.errors import UserError
from psychocounsel.policy.parts import in_parts
from psychocounsel.records import read_rows

PARTS = [(f"part {number}", number) for number in range(5)]


class Killed(Exception):
    pass


class Maker:
    """Makes two rows of each part, and notes which; raises when it comes to `stop`."""

    def __init__(self, stop=None):
        self.stop, self.made = stop, []

    def __call__(self, number):
        if number == self.stop:
            raise Killed
        self.made.append(number)
        return [{"number": number, "row": row, "text": "naïve ✓\u2028"} for row in range(2)]


def rows(path):
    return [(row["number"], row["row"]) for _, row in read_rows(path)]


WHOLE = [(number, row) for number in range(5) for row in range(2)]


def test_parts_are_made_in_order_and_only_the_file_is_left(tmp_path):
    path, maker = tmp_path / "round" / "rows.jsonl", Maker()
    in_parts(path, PARTS, maker, "parts", shared=False)
    assert maker.made == [0, 1, 2, 3, 4] and rows(path) == WHOLE
    assert [found.name for found in path.parent.iterdir()] == ["rows.jsonl"]
    in_parts(path, PARTS, again := Maker(), "parts", shared=True)
    assert again.made == []


@pytest.mark.parametrize("stop", range(5))
def test_what_was_made_before_a_kill_is_used(tmp_path, stop):
    path, first, second = tmp_path / "rows.jsonl", Maker(stop), Maker()
    with pytest.raises(Killed):
        in_parts(path, PARTS, first, "parts", shared=False)
    assert not path.exists()
    in_parts(path, PARTS, second, "parts", shared=False)
    assert first.made + second.made == [0, 1, 2, 3, 4] and rows(path) == WHOLE


@pytest.mark.parametrize(("cut", "made"), [(1, [3, 4]), (2, [2, 3, 4]), (60, [2, 3, 4])])
def test_a_line_that_a_kill_cut_off_is_made_again(tmp_path, cut, made):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        in_parts(path, PARTS, Maker(3), "parts", shared=False)
    part = tmp_path / "rows.jsonl.0.part"
    part.write_bytes(part.read_bytes()[:-cut])
    in_parts(path, PARTS, again := Maker(), "parts", shared=False)
    assert again.made == made and rows(path) == WHOLE


def test_parts_of_other_content_are_not_taken(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        in_parts(path, PARTS, Maker(3), "parts", shared=False)
    other = [(f"other {number}", number) for number in range(4)]
    in_parts(path, other, again := Maker(), "parts", shared=False)
    assert again.made == [0, 1, 2, 3] and rows(path) == WHOLE[:8]


def test_two_processes_share_the_parts_and_one_finishes_what_the_other_left(tmp_path, monkeypatch):
    """The other process is this one under another number; neither waits, as no process group is open."""
    path = tmp_path / "rows.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    in_parts(path, PARTS, second := Maker(), "parts", shared=True)
    assert second.made == [1, 3] and not path.exists()
    monkeypatch.setenv("RANK", "0")
    in_parts(path, PARTS, first := Maker(), "parts", shared=True)
    assert first.made == [0, 2, 4] and rows(path) == WHOLE


def test_a_process_that_does_not_share_makes_nothing_and_its_lost_parts_are_said(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    in_parts(path, PARTS, second := Maker(), "parts", shared=False)
    assert second.made == [] and not path.exists()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"rows\.jsonl: 2 of 5 parts are not there any more; run the same command"):
        in_parts(path, PARTS, Maker(), "parts", shared=True)  # those of the other process
    monkeypatch.setenv("WORLD_SIZE", "1")
    in_parts(path, PARTS, alone := Maker(), "parts", shared=True)
    assert alone.made == [1, 3] and rows(path) == WHOLE


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[]\n", b"null\n", b'{"part": "part 0"}\n', b"\n"])
def test_junk_beside_the_file_counts_as_nothing(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    (tmp_path / "rows.jsonl.3.part").write_bytes(line)
    in_parts(path, PARTS, maker := Maker(), "parts", shared=False)
    assert maker.made == [0, 1, 2, 3, 4] and rows(path) == WHOLE


def test_a_value_json_cannot_hold_is_no_row(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        in_parts(tmp_path / "rows.jsonl", PARTS, lambda _: [{"reward": float("nan")}], "parts", shared=False)
    assert json.dumps(float("nan")) == "NaN"  # which is what would have been written
