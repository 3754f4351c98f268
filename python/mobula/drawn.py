"""Rows that are drawn: shuffles and samples, with a seed the same ones at each run."""

from __future__ import annotations

import dataclasses

from . import sql_text
from .steps import Rendering, Step

# The column of places, which count from 1 and leave out none.
PLACE = "__mobula_place"


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn(Step):
    """All rows in another order, or some of them.

    With a seed, what is drawn depends on the rows alone and not on how they come: they are
    numbered in the order of all their columns. Rows that are equal are as good as each other.
    """

    source: Step
    seed: int | None
    # Of a sample: the probability of each row.
    fraction: float | None = None

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.source,)

    @property
    def label(self) -> str:
        what = "random_shuffle" if self.fraction is None else f"random_sample {self.fraction}"
        return what if self.seed is None else f"{what}, seed {self.seed}"

    def sql(self, query: Rendering) -> str:
        if query.is_below_call and self.fraction is None:
            return self._below_call(query)
        if self.seed is None:
            name = query.name_of(self.source)
            drawn = "random()" if self.fraction is None else f"random() < {sql_text.literal(float(self.fraction))}"
            return f"SELECT * FROM {name} {self._clause(drawn)}"
        listed, digits, numbered = self._numbered(query)
        drawn = digits if self.fraction is None else f"{digits} < {sql_text.string(_digits(self.fraction))}"
        return f"SELECT {listed} FROM {numbered} {self._clause(drawn)}"

    def first_sql(self, query: Rendering, limit: int) -> str | None:
        return self._below_call(query, f"BETWEEN 1 AND {limit}") if self.fraction is None else None

    def _below_call(self, query: Rendering, chosen: str = "> 0") -> str:
        """The order of a window in place of ORDER BY's: what is drawn goes to no function."""
        if self.seed is None:
            placed = f"SELECT *, row_number() OVER (ORDER BY random()) AS {PLACE} FROM {query.name_of(self.source)}"
        else:
            placed = self.placed_sql(query)
        # All of them: a number that nobody asks for is not computed.
        return f"SELECT * EXCEPT ({PLACE}) FROM ({placed}) WHERE {PLACE} {chosen}"

    def placed_sql(self, query: Rendering) -> str:
        """Of a shuffle with a seed: its rows and their places."""
        listed, digits, numbered = self._numbered(query)
        return f"SELECT {listed}, row_number() OVER (ORDER BY {digits}) AS {PLACE} FROM {numbered}"

    def _numbered(self, query: Rendering) -> tuple[str, str, str]:
        """The columns, random digits for each row's number, and the relation that has these."""
        columns = query.columns_of(self.source)
        number = "n"
        while number in columns:
            number += "_"
        listed = sql_text.names(columns)
        digits = f"md5(concat({sql_text.string(f'{self.seed}:')}, {number}))"
        name = query.name_of(self.source)
        return listed, digits, f"(SELECT *, row_number() OVER (ORDER BY {listed}) AS {number} FROM {name})"

    def _clause(self, drawn: str) -> str:
        return f"ORDER BY {drawn}" if self.fraction is None else f"WHERE {drawn}"


def _digits(share: float) -> str:
    """What a `share` of all texts of hexadecimal digits is below."""
    # Above all of them: a letter behind the digits.
    return "g" if share >= 1 else f"{int(share * (1 << 52)):013x}"
