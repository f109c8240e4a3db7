"""The exception tree: everything a user can cause is a UserError with one clear line."""


class UserError(Exception):
    """Something the user can mend. The message says where, what, and what to do. Exit code 2."""


class RunInterrupted(Exception):
    """The user pressed Ctrl-C. What was finished or paid for is on disk; the same command continues. Exit code 130."""


def nearest(word: str, known: list[str]) -> str:
    """Return ', did you mean X?' for the known word closest to `word`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""
