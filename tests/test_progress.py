"""Progress: one line moves at a time."""

from psychocounsel import progress as shown


def test_work_inside_work_that_is_shown_is_silent_and_what_follows_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(shown, "PLAIN_SECONDS", 0.0)
    with shown.progress("rounds", 2) as outer:
        outer()
        with shown.progress("replies", 3) as inner:
            inner(3, "of many")
        outer(note="loss 0.5")
    with shown.progress("rewards", 1) as after:
        after()
    lines = [line.partition(", about")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["  rounds: 1/2", "  rounds: 2/2", "  rewards: 1/1"]


def test_work_that_failed_leaves_room_for_other_work(monkeypatch, capsys):
    monkeypatch.setattr(shown, "PLAIN_SECONDS", 0.0)
    try:
        with shown.progress("replies", 1):
            raise ValueError
    except ValueError:
        pass
    with shown.progress("rewards", 1) as after:
        after()
    assert capsys.readouterr().err.startswith("  rewards: 1/1")
