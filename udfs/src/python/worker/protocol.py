"""Frames over the socket; the other end is `protocol.rs`, which describes them.

A frame is read into one aligned buffer that the decoded block shares, so a
batch that user code keeps stays valid: no buffer is ever used twice.
"""

import json
import os
import struct
import sys

import pyarrow as pa

INIT, DESCRIBE, LOAD, PROCESS, SHUTDOWN, FORK = 1, 2, 3, 4, 5, 6
READY, OUTPUT, DONE, ERROR, FORKED, EXITED, FAILED = 18, 19, 20, 21, 22, 23, 24

VERSION = 1
HEADER = struct.Struct("<IBBHQ")
LENGTH = struct.Struct("<I")
ALIGNMENT = 64
FLAG_PAYLOAD = 1
# What a frame may need besides its payload.
OVERHEAD_BYTES = 4096


class Frame:
    """A word from the engine: `body` is a dict, `payload` a buffer or None."""

    __slots__ = ("kind", "seq", "body", "payload")

    def __init__(self, kind, seq, body, payload):
        self.kind = kind
        self.seq = seq
        self.body = body
        self.payload = payload


class Channel:
    """Our end of the socket: of this process, not of one that it forks."""

    def __init__(self, sock):
        self.sock = sock
        self.pid = os.getpid()
        self.max_frame_bytes = 1 << 20

    def receive(self):
        """The next frame, or None when the engine is gone."""
        self._end_a_copy()
        header = bytearray(HEADER.size)
        if not self._fill(memoryview(header)):
            return None
        rest_bytes, kind, flags, _slot, seq = HEADER.unpack(header)
        if rest_bytes > self.max_frame_bytes:
            raise ValueError(f"a frame of {rest_bytes} bytes where {self.max_frame_bytes} are allowed")
        rest = pa.allocate_buffer(rest_bytes)
        if rest_bytes and not self._fill(memoryview(rest)):
            return None
        if not flags & FLAG_PAYLOAD:
            return Frame(kind, seq, _body(rest), None)
        (body_bytes,) = LENGTH.unpack(rest.slice(0, 4))
        start = _payload_start(body_bytes)
        return Frame(kind, seq, _body(rest.slice(4, body_bytes)), rest.slice(start))

    def send(self, kind, seq, body, payload=None):
        """Sends one frame; raises OSError when the engine is gone."""
        self._end_a_copy()
        body = json.dumps(body).encode()
        if payload is None:
            self._send_all([HEADER.pack(len(body), kind, 0, 0, seq) + body])
            return
        start = _payload_start(len(body))
        head = HEADER.pack(start + len(payload), kind, FLAG_PAYLOAD, 0, seq)
        head += LENGTH.pack(len(body)) + body
        self._send_all([head.ljust(HEADER.size + start, b"\0"), memoryview(payload)])

    def payload_bytes_max(self):
        return self.max_frame_bytes - OVERHEAD_BYTES

    def _end_a_copy(self):
        # User code forked and came back in the child: two would answer.
        if os.getpid() != self.pid:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(0)

    def _fill(self, view):
        while view:
            count = self.sock.recv_into(view)
            if count == 0:
                return False
            view = view[count:]
        return True

    def _send_all(self, parts):
        parts = [memoryview(part).cast("B") for part in parts if len(part)]
        while parts:
            count = self.sock.sendmsg(parts)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][count:]


def _body(buffer):
    return json.loads(buffer.to_pybytes()) if buffer.size else {}


def _payload_start(body_bytes):
    return (4 + body_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
