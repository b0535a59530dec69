"""Text that is made from numbers, between two marks of a Markdown page: `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations


def put(text: str, mark: str, made: str) -> str:
    """The page with `made` between its marks. Raises ValueError where it lacks them.

    >>> put("a <!-- x -->\\nold\\n<!-- /x -->\\n", "x", "new\\n")
    'a <!-- x -->\\nnew\\n<!-- /x -->\\n'
    """
    before, begin, rest = text.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->\n")
    if not (begin and end):
        raise ValueError(f"no <!-- {mark} --> ... <!-- /{mark} -->")
    return before + begin + made + end + after
