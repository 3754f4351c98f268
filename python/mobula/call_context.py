"""`mobula.context()`: what user code may ask about the call that it is in.

Workers have a module `mobula` of their own, with the names of this file in it, and user code that
travels finds it there. Here they stand for those who write, import and check such code.
"""

from __future__ import annotations


class Context:
    """What is known of one call."""

    block_id: str
    """Names the block: the same when it is sent again."""
    row: int
    """The first of its rows that the call is for."""

    @property
    def call_id(self) -> str:
        """Both in one text: the same when the call is made again."""
        return f"{self.block_id}.{self.row}"


def context() -> Context:
    """What is known of the call that this is in, where a worker calls user code for rows.

    Raises:
        RuntimeError: there is no such call.
    """
    raise RuntimeError("mobula.context() is for code that is called for rows. There are none now")


# They travel by their names, which are those of the worker's module.
Context.__module__ = context.__module__ = "mobula"
