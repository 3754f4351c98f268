"""Pieces of SQL text: names, literals, and where `$name` and relations stand.

A value that becomes a literal does so with its type, and never as text: a string is quoted,
its quotes doubled, and whatever has no literal is refused. Statements are read token by
token, so that what stands in strings, quoted names, comments and `$$` bodies is left alone.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from .errors import QueryFailed

_TOKEN = re.compile(
    r"""
      (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<comment>--[^\n]*|/\*.*?\*/)
    | (?P<body>\$(?P<tag>[^\W\d]\w*)?\$.*?\$(?(tag)(?P=tag))\$)
    | (?P<parameter>\$[^\W\d]\w*)
    | (?P<word>[^\W\d]\w*)
    | (?P<blank>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_QUERY_WORDS = {"select", "with", "values", "table", "from"}
_TELLING_WORDS = {"show", "describe", "desc", "explain"}
_BEFORE_RELATIONS = ("from", "join", ",", "(")
_BEHIND_RELATIONS = set("where group having order limit offset fetch window qualify union intersect except".split())


def name(text: str) -> str:
    """`text` as a quoted name: columns keep their case."""
    return '"' + text.replace('"', '""') + '"'


def names(texts: Iterator[str] | list[str]) -> str:
    """Several, between commas."""
    return ", ".join(name(text) for text in texts)


def string(text: str) -> str:
    """`text` as a string literal."""
    if "\0" in text:
        raise QueryFailed("a text with a NUL character is no SQL literal. Put it into a dataset: from_items")
    return "'" + text.replace("'", "''") + "'"


def literal(value: Any) -> str:
    """A Python value as a literal of the type that is nearest.

    Raises:
        QueryFailed: there is no such literal.
    """
    scalar: Any = plain(value)
    if scalar is None:
        return "NULL"
    if isinstance(scalar, bool):
        return "TRUE" if scalar else "FALSE"
    if isinstance(scalar, int):
        return _integer(scalar)
    if isinstance(scalar, float):
        shown = repr(scalar) if math.isfinite(scalar) else {True: "NaN", False: "inf"}[math.isnan(scalar)]
        return f"CAST('{'-' if scalar == -math.inf else ''}{shown}' AS DOUBLE)"
    if isinstance(scalar, str):
        return string(scalar)
    if isinstance(scalar, (bytes, bytearray)):
        return f"X'{scalar.hex()}'"
    if isinstance(scalar, decimal.Decimal) and scalar.is_finite():
        return _decimal(scalar)
    if isinstance(scalar, datetime.datetime):
        kind = "TIMESTAMP" if scalar.tzinfo is None else "TIMESTAMP WITH TIME ZONE"
        return f"CAST('{scalar.isoformat()}' AS {kind})"
    if isinstance(scalar, datetime.date):
        return f"DATE '{scalar.isoformat()}'"
    if isinstance(scalar, datetime.time) and scalar.tzinfo is None:
        return f"TIME '{scalar.isoformat()}'"
    if type(scalar).__name__ == "datetime64":
        return f"CAST('{scalar}' AS TIMESTAMP)"
    if isinstance(scalar, datetime.timedelta) or type(scalar).__name__ == "timedelta64":
        return _duration(scalar)
    if isinstance(scalar, uuid.UUID):
        return f"'{scalar}'"
    if is_list(scalar):
        return f"[{', '.join(literal(one) for one in scalar)}]"
    raise QueryFailed(f"{type(value).__name__} has no SQL literal. Give a plain value, or a table of values by name")


def _duration(value: Any) -> str:
    if isinstance(value, datetime.timedelta) and not getattr(value, "nanoseconds", 0):
        return f"CAST(INTERVAL '{value // datetime.timedelta(microseconds=1)} microseconds' AS DURATION)"
    # Of pandas or numpy.
    nanoseconds: Any = getattr(value, "value", value)
    return f"CAST(INTERVAL '{int(nanoseconds)} nanoseconds' AS DURATION(9))"


def plain(value: Any) -> Any:
    """A value of numpy as Python has it, and None for what is missing in pandas. Times of numpy with nanoseconds,
    which Python has not, stay.

    Raises:
        QueryFailed: a time that SQL has not either.
    """
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if type(value).__module__ != "numpy" or not hasattr(value, "item"):
        return value
    if getattr(value, "ndim", 0):
        return [plain(one) for one in value]
    made = value.item()
    if not isinstance(made, int) or value.dtype.kind not in "mM":
        return made
    if str(value.dtype) not in ("datetime64[ns]", "timedelta64[ns]"):
        raise QueryFailed(f"{value!r} is no time that SQL has. Give it in 'us' or 'ns', where it has room")
    return value.reshape(())[()]


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list or a tuple, whose elements may be anything."""
    return isinstance(value, (list, tuple))


def _integer(value: int) -> str:
    if -(2**63) <= value < 2**63:
        # The parser reads the number before the minus.
        return str(value) if value != -(2**63) else "(-9223372036854775807 - 1)"
    if value < 2**64 and value >= 0:
        return str(value)
    raise QueryFailed(f"{value} does not fit a BIGINT. Give a decimal.Decimal")


def _decimal(value: decimal.Decimal) -> str:
    _, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    precision = max(len(digits) + max(0, int(exponent)), scale, 1)
    if precision > 76:
        raise QueryFailed(f"{value} has {precision} digits, 76 are the most")
    return f"CAST('{value:f}' AS DECIMAL({max(precision, 38)}, {scale}))"


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """The kind and text of each token."""
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or ""
        yield "body" if kind == "tag" else kind, found[0]


def is_query(text: str) -> bool:
    """Whether it gives rows and can stand in another query, by its first word."""
    return _first_word(text) in _QUERY_WORDS


def tells(text: str) -> bool:
    """Whether it gives rows and cannot: SHOW, DESCRIBE, EXPLAIN."""
    return _first_word(text) in _TELLING_WORDS


def _first_word(text: str) -> str:
    for kind, token in tokens(text):
        if kind not in ("blank", "comment") and token != "(":
            return token.lower()
    return ""


def within(text: str) -> str:
    """`text` so that other text may stand behind it: without semicolons and comments at its end."""
    pieces = list(tokens(text.strip()))
    while pieces and (pieces[-1][0] in ("blank", "comment") or pieces[-1][1] == ";"):
        pieces.pop()
    return "".join(token for _, token in pieces)


def filled(text: str, values: Mapping[str, Any]) -> str:
    """`text` with a literal for each `$name`.

    Raises:
        QueryFailed: a parameter without a value.
    """
    return "".join(literal(value_of(token, values)) if kind == "parameter" else token for kind, token in tokens(text))


def value_of(parameter: str, values: Mapping[str, Any]) -> Any:
    """The value for `$name`.

    Raises:
        QueryFailed: there is none.
    """
    if parameter[1:] not in values:
        raise QueryFailed(f"no value is given for {parameter}. Call sql(…, {parameter[1:]}=value)")
    return values[parameter[1:]]


def read_names(text: str) -> set[str]:
    """The unquoted words that stand where a relation may: behind FROM, JOIN and commas there, and in TABLE(). Not
    those of the text's own WITH, which go before variables of such a name."""
    named = _named_queries(text)
    return {word for word in _relation_words(text) if word.lower() not in named}


def _named_queries(text: str) -> set[str]:
    """The names, in lower case, that WITH in `text` gives to queries."""
    pieces = [(kind, token) for kind, token in tokens(text) if kind not in ("blank", "comment")]
    words = [token.lower() for _, token in pieces] + [""] * 4
    found: set[str] = set()

    def behind(place: int) -> int:
        """Where it goes on behind a parenthesis that opens at `place`."""
        depth = 0
        while place < len(pieces):
            depth += {"(": 1, ")": -1}.get(words[place], 0)
            place += 1
            if depth == 0:
                break
        return place

    for start in (place for place, word in enumerate(words) if word == "with"):
        place = start + 2 if words[start + 1] == "recursive" else start + 1
        while place < len(pieces) and pieces[place][0] in ("word", "quoted"):
            query = behind(place + 1) if words[place + 1] == "(" else place + 1
            if words[query] != "as":
                break
            query += 1
            while words[query] in ("not", "materialized"):
                query += 1
            if words[query] != "(":
                break
            found.add(words[place].strip('"'))
            query = behind(query)
            if words[query] != ",":
                break
            place = query + 1
    return found


def _relation_words(text: str) -> set[str]:
    found: set[str] = set()
    # Of each parenthesis that is open: whether it selects, and whether relations stand here.
    levels = [(False, False)]
    before = ""
    for kind, token in tokens(text):
        if kind in ("blank", "comment"):
            continue
        word = token.lower()
        selects, reads = levels[-1]
        if word == "(":
            levels.append((False, before == "table" or (reads and before in _BEFORE_RELATIONS)))
        elif word == ")" and len(levels) > 1:
            levels.pop()
        elif kind == "word":
            if reads and before in _BEFORE_RELATIONS and word not in _QUERY_WORDS:
                found.add(token)
            if word == "select":
                levels[-1] = (True, False)
            elif word == "join" or (word == "from" and before != "distinct" and (selects or before in ("", "("))):
                # FROM without a query is that of EXTRACT, TRIM and SUBSTRING.
                levels[-1] = (selects, True)
            elif word in _BEHIND_RELATIONS:
                levels[-1] = (selects, False)
        before = word
    return found


def with_relations(text: str, relations: Mapping[str, str]) -> str:
    """The query `text` in which each name stands for a query, before those it has itself."""
    if not relations:
        return text
    made = ", ".join(f"{key} AS ({query})" for key, query in relations.items())
    pieces = list(tokens(text))
    for place, (kind, token) in enumerate(pieces):
        if kind in ("blank", "comment"):
            continue
        if token.lower() != "with":
            break
        rest = "".join(token for _, token in pieces[place + 1 :])
        words = re.match(r"\s+recursive\b", rest, re.IGNORECASE)
        head = f"WITH RECURSIVE {made}, " if words else f"WITH {made}, "
        return head + rest[words.end() if words else 0 :].lstrip()
    return f"WITH {made} {text}"
