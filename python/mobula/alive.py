"""Keeps the session of a connection that asks for nothing.

A server ends sessions that are idle for `session_ttl`, and the driver closes its connection after
half an hour; settings, temporary tables and functions would go with them, while their owner is at
lunch. So something small is asked now and then, for as long as there is a connection.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .link import Link

# Well below what servers and drivers take for idle.
EVERY_S = 60.0


def keep(link: Link) -> None:
    """Until it is closed, or nobody has it."""
    threading.Thread(target=_run, args=(weakref.ref(link), link.ended), name="mobula-alive", daemon=True).start()


def _run(link: weakref.ref[Link], ended: threading.Event) -> None:
    while not ended.wait(EVERY_S):
        there = link()
        if there is None or not there.ping():
            return
        del there
