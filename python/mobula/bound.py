"""Values that travel beside a statement: which of its `$name` the server takes so, and as what.

A bound value never becomes SQL, and a statement whose text stays the same is planned once.
The server binds wherever a literal may stand in queries, INSERT, COPY and CREATE TABLE … AS.
It does not where the text has to be known to plan: options of calls, arguments of table
functions, files behind FROM and TO, and other statements. There the value becomes a literal,
which means the same.
"""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import local_rows, sql_text
from .compute import ENGINE_OPTIONS
from .errors import QueryFailed

if TYPE_CHECKING:
    import pyarrow as pa

# Arguments by name that the server reads while it plans.
_OPTIONS = ENGINE_OPTIONS | {
    "batch_format",
    "batch_size",
    "concurrency",
    "label_selector",
    "memory",
    "num_cpus",
    "num_gpus",
    "order_by",
    "partition_by",
    "resources",
    "zero_copy_batch",
}
# Words in front of what is a literal by SQL's grammar, a file, or a column by its place.
_OF_LITERALS = {"by", "date", "from", "interval", "join", "time", "timestamp", "to"}
# Words that begin a clause, and end the list of relations behind FROM.
_CLAUSES = {"select", "from", "where", "group", "having", "order", "limit", "offset", "qualify", "window", "union", "except", "intersect", "values", "set", "on", "using"}
_BINDING = {"select", "with", "values", "table", "from", "insert", "copy", "update", "delete"}


class Values:
    """The values of one statement, by the names that they have in its text."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}

    def placed(self, text: str, values: Mapping[str, Any]) -> str:
        """`text` with a name of this statement for each `$name` that the server binds, and a
        literal for the others.

        Raises:
            QueryFailed: a parameter without a value, or a value that has no SQL type.
        """
        made: list[str] = []
        given: dict[str, str] = {}
        for kind, token, is_literal in _places(text):
            if kind == "parameter":
                value = sql_text.value_of(token, values)
                if is_literal:
                    token = sql_text.literal(value)
                else:
                    if token not in given:
                        given[token] = f"value_{len(self.by_name) + 1}"
                        self.by_name[given[token]] = plain(value)
                    token = f"${given[token]}"
            made.append(token)
        return "".join(made)

    def row(self) -> pa.RecordBatch | None:
        """What is bound: a column a value, one row."""
        import pyarrow as pa

        if not self.by_name:
            return None
        arrays = [_array(value) for value in self.by_name.values()]
        return pa.record_batch(arrays, list(self.by_name))

    def as_literals(self, text: str) -> str:
        """`text` of `placed` as a statement that stands alone."""
        return sql_text.filled(text, self.by_name) if self.by_name else text


def is_bindable(statement: str) -> bool:
    """Whether the server binds values of such a statement: by its first words."""
    words = (token.lower() for kind, token in sql_text.tokens(statement) if kind == "word")
    first = next(words, "")
    if first != "create":
        return first in _BINDING
    made = next((word for word in words if word not in ("or", "replace", "temp", "temporary")), "")
    return made == "table" and "as" in words


def plain(value: Any) -> Any:
    """A value as Python has it.

    Raises:
        QueryFailed: SQL has no type for it.
    """
    value = sql_text.plain(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if sql_text.is_list(value):
        return [plain(one) for one in value]
    if not isinstance(value, str):
        # What has a literal can be bound. Texts may have more: a NUL character.
        sql_text.literal(value)
    return value


def _array(value: Any) -> pa.Array[Any]:
    import pyarrow as pa

    if isinstance(value, int) and not isinstance(value, bool) and value >= 2**63:
        return pa.array([value], pa.uint64())
    if isinstance(value, decimal.Decimal):
        _, digits, exponent = value.as_tuple()
        scale = max(0, -int(exponent))
        precision = max(len(digits) + max(0, int(exponent)), scale, 38)
        return pa.array([value], pa.decimal128(38, scale) if precision <= 38 else pa.decimal256(precision, scale))
    if isinstance(value, bytearray):
        value = bytes(value)
    try:
        return local_rows.of_values([value])
    except (pa.ArrowException, TypeError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise QueryFailed(f"{value!r} is no value of one SQL type: {text}. Give elements of one type") from None


def _places(text: str) -> Iterator[tuple[str, str, bool]]:
    """The kind and text of each token, and whether a value there has to be a literal."""
    # Of each open parenthesis: whether all in it are literals, and the clause it is in.
    outer: list[tuple[bool, str]] = []
    none_bound = not is_bindable(text)
    all_literal, clause = none_bound, ""
    last: list[str] = ["", "", ""]
    for kind, token in sql_text.tokens(text):
        if kind in ("blank", "comment"):
            yield kind, token, False
            continue
        word = token.lower()
        is_option = last[-2:] == ["=", ">"] and last[-3] in _OPTIONS
        yield kind, token, all_literal or is_option or last[-1] in _OF_LITERALS
        if word == "(":
            outer.append((all_literal, clause))
            is_relation = clause == "from" and last[-2] in ("from", "join", ",", "lateral")
            if last[-1] == "table":
                all_literal = none_bound
            elif is_relation or last[-1] == "options":
                all_literal = True
            clause = ""
        elif word == ")" and outer:
            all_literal, clause = outer.pop()
        elif word == "join" or (word == "," and clause in ("on", "using")):
            clause = "from"
        elif kind == "word" and word in _CLAUSES:
            clause = word
        last = [*last[1:], word]
