"""What every command as typed is held to."""

from __future__ import annotations


def assert_one_line(code: int, out: str, err: str, words: str) -> None:
    """Bad input ends with code 2, nothing on stdout and one line on stderr that has `words` in it."""
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err, err
