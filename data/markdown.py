"""Markdown that strangers' texts cannot break: escaped cells and tables."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence


MAX_CELL = 120

# What opens markup in GitHub's and the Hub's Markdown; an underscore within a word does not. "://" and "www." open links.
_MARKDOWN = re.compile(r"([\\`*\[\]#!|~$]|(?<!\w)_|_(?!\w)|(?<=:)//|(?<=www)\.)")


def escape(text: object, limit: int = MAX_CELL) -> str:
    """One line of plain text that Markdown and HTML leave as it is.

    Control characters and line breaks become spaces, what is longer than `limit` characters is cut.

    >>> escape("Heat | <b>1995</b>\\n# x")
    'Heat \\\\| &lt;b&gt;1995&lt;/b&gt; \\\\# x'
    >>> escape("cross_entropy, ndcg@10")
    'cross_entropy, ndcg@10'
    """
    plain = "".join(character if character.isprintable() else " " for character in str(text))
    plain = " ".join(plain.split())
    if len(plain) > limit:
        plain = plain[: limit - 1].rstrip() + "…"
    # Leading "-" would open a list or a front matter.
    escaped = _MARKDOWN.sub(r"\\\1", html.escape(plain, quote=False))
    return "\\" + escaped if escaped.startswith(("-", "=")) else escaped


def number(value: object, digits: int = 4) -> str:
    """A figure for a table: four significant decimals, thousands separated, `-` where there is none.

    >>> number(0.123456), number(12345), number(None), number(float("nan"))
    ('0.1235', '12,345', '-', '-')
    """
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}" if abs(value) < 1000 else f"{value:,.1f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; header and cells must be escaped already. The first column is text, the others are figures."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
