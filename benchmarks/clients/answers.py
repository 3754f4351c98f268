"""Compares two answers to one query, as the TPC-H tests need it.

Integers, texts, dates and decimals must be equal; floats to 1e-9 of their size;
a decimal against a float to one unit of the decimal's scale. Rows must come in
the order that ORDER BY asks for, ties free; without one, in any order.
"""

import datetime
import decimal
import math
import re

# Columns of ORDER BY with their direction, by column name of the result.
ORDER_BY = re.compile(r"order by\s+(.*?)(?:\s+limit\s+\d+)?\s*;?\s*$", re.S | re.I)


def same_value(a, b):
    if a is None or b is None:
        return a is b
    if isinstance(a, decimal.Decimal) and isinstance(b, decimal.Decimal):
        return a == b
    if isinstance(a, decimal.Decimal) and isinstance(b, float):
        a, b = b, a
    if isinstance(b, decimal.Decimal) and isinstance(a, float):
        unit = 10.0 ** b.as_tuple().exponent
        return abs(a - float(b)) <= unit
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(a, datetime.datetime) or isinstance(b, datetime.datetime):
        return str(a)[:10] == str(b)[:10]
    return a == b


def sort_key(row):
    """Rows that are the same but for rounding sort alike."""
    key = []
    for value in row:
        if isinstance(value, (float, decimal.Decimal)):
            key.append((1, f"{float(value):.3f}"))
        elif value is None:
            key.append((0, ""))
        else:
            key.append((2, str(value)))
    return key


def ordering(sql, columns):
    """Result columns that the query's last ORDER BY names, with directions."""
    found = ORDER_BY.search(sql)
    keys = []
    for part in found.group(1).split(",") if found else []:
        words = part.split()
        if words[0] in columns:
            keys.append((columns.index(words[0]), words[-1].lower() == "desc"))
    return keys


def is_ordered(rows, keys):
    for before, after in zip(rows, rows[1:]):
        for column, descending in keys:
            a, b = before[column], after[column]
            if a == b:
                continue
            if (a < b) == descending:
                return False
            break
    return True


def differences(sql, columns, ours, theirs):
    """What is wrong with `ours`, as a list of texts."""
    if len(ours) != len(theirs):
        return [f"{len(ours)} rows, expected {len(theirs)}"]
    keys = ordering(sql, columns)
    found = [] if is_ordered(ours, keys) else [f"not ordered by {keys}"]
    # With a limit, rows tied at the cut may differ: compare the keys' columns
    # in order, and whole rows as multisets.
    for i, (a, b) in enumerate(zip(ours, theirs)):
        for column, _ in keys:
            if not same_value(a[column], b[column]):
                found.append(f"row {i}, {columns[column]}: {a[column]!r}, expected {b[column]!r}")
    for a, b in zip(sorted(ours, key=sort_key), sorted(theirs, key=sort_key)):
        if not all(same_value(x, y) for x, y in zip(a, b)):
            found.append(f"{a!r}, expected {b!r}")
    return found
