"""Which words of SQL text call functions: those in front of a parenthesis that are neither
SQL's syntax nor types, relations, or names that the text gives itself.

A text is read once, token by token, with a level for each open parenthesis. A level knows the
clause it is in, since names in FROM and WITH are of relations, and who opened it, since what
stands inside says whether that was a call: `extract(year FROM day)` and `count(*)` are SQL's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from . import sql_text

# They stand before a parenthesis and call nothing.
_SYNTAX = set(
    "all and any array as between by case distinct else escape except exists from group having ilike in intersect interval is"
    " join lateral like limit not offset on or over qualify rlike select sets similar some table then to union using values"
    " when where with xor".split()
)
_CLAUSES = set("select where group having qualify order limit offset fetch window union except intersect values".split())
_GROUPINGS = {"cube", "rollup"}
_CASTS = {"cast", "try_cast", "safe_cast"}
# Behind a call of an aggregate or of a window function.
_OF_AGGREGATES = {("filter", "("), ("within", "group"), ("ignore", "nulls"), ("respect", "nulls")}
_WILDCARD, _CAST_SIGN = "wildcard *", "::"


@dataclasses.dataclass
class _Level:
    """The text, or what stands in a parenthesis of it."""

    opener: str = ""
    """The word in front, in lower case."""
    call: int | None = None
    """The place of that word, if it may be a call."""
    behind: str = "("
    """What the parenthesis counts as for what follows it."""
    no_calls: bool = False
    """It has types or names alone."""
    clause: str = ""
    selects: bool = False
    n_words: int = 0


def called_names(text: str) -> set[str]:
    """What is called, each name as it may be written in Python. SQL does not tell the case of an
    unquoted one."""
    pieces = list(sql_text.tokens(text))
    return {name for place in _places(pieces) for name in _meant(*pieces[place])}


def with_calls(text: str, names: Mapping[str, str]) -> str:
    """`text` with other names for what is called."""
    if not names:
        return text
    pieces = list(sql_text.tokens(text))
    made = [token for _, token in pieces]
    for place in _places(pieces):
        made[place] = next((names[name] for name in _meant(*pieces[place]) if name in names), made[place])
    return "".join(made)


def _meant(kind: str, token: str) -> tuple[str, ...]:
    return (token, token.lower()) if kind == "word" else (token[1:-1].replace('""', '"'),)


def _places(pieces: list[tuple[str, str]]) -> set[int]:
    """Where the names of calls are."""
    seen = [(place, kind, token.lower()) for place, (kind, token) in enumerate(pieces) if kind not in ("blank", "comment")]
    words = [word for _, _, word in seen] + ["", ""]
    calls: set[int] = set()
    levels = [_Level()]
    behind = before = ""
    for number, (_, kind, word) in enumerate(seen):
        level, following = levels[-1], words[number + 1]
        means = word
        if word == "(":
            levels.append(_opened(level, seen, number, behind, before))
        elif word == ")" and len(levels) > 1:
            levels.pop()
            means = level.behind
            is_aggregate = following == "over" or (following, words[number + 2]) in _OF_AGGREGATES
            if level.call is not None and not is_aggregate:
                calls.add(level.call)
        elif word == "*" and behind in ("select", "distinct", "all", ",", ".", "("):
            means = _WILDCARD
            if following == ")":
                level.call = None
        elif word == ":" and behind == ":":
            means = _CAST_SIGN
        elif word == "," and level.clause == "on":
            level.clause = "from"
        elif kind == "word" and behind != ".":
            _read(level, word, behind)
        level.n_words += 1 if word != "(" else 0
        before, behind = behind, means
    return calls


def _opened(level: _Level, seen: list[tuple[int, str, str]], number: int, behind: str, before: str) -> _Level:
    """The level of a parenthesis, which stands behind `behind`."""
    level.n_words += 1
    place, kind, word = seen[number - 1] if number else (0, "", "")
    named = kind in ("word", "quoted") and behind == word
    opener = word if kind == "word" else ""
    made = _Level(opener, no_calls=level.no_calls, behind=")")
    if not named or opener in _SYNTAX:
        # Relations may stand in parentheses. What follows those of DISTINCT ON is an expression.
        made.clause = "from" if level.clause == "from" and opener in ("", "from", "join") else ""
        made.behind = "distinct" if opener == "on" and before == "distinct" else ")"
        return made
    if before in ("as", _CAST_SIGN):
        made.no_calls = True
    is_name = level.no_calls or level.clause in ("with", "from") or before in ("as", _CAST_SIGN, ".", ")", _WILDCARD)
    if not is_name and not (level.clause == "group" and opener in _GROUPINGS):
        made.call = place
    return made


def _read(level: _Level, word: str, behind: str) -> None:
    """What a word says of the level that it is in."""
    first = level.n_words == 0
    if first and level.call is not None and word in ("distinct", "all", "where"):
        level.call = None
    if word == "with" and first:
        level.clause = "with"
    elif word == "join":
        level.clause = "from"
    elif word == "on" and level.clause == "from":
        level.clause = "on"
    elif word == "from" and behind != "distinct":
        # Without a query it is that of EXTRACT, TRIM and SUBSTRING.
        if level.selects or first:
            level.clause = "from"
        level.call = level.call if level.selects or first else None
    elif word == "as" and level.opener in _CASTS and not level.selects:
        level.no_calls, level.call = True, None
    elif word == "in" and level.opener == "position":
        level.call = None
    elif word in _CLAUSES:
        level.clause = word
        level.selects = level.selects or word == "select"
        if word == "order" and not level.selects:
            # Of an aggregate.
            level.call = None
