"""What `python -c` runs when the engine starts a worker.

Ties this process to its parent, takes the socket, says hello, then loads the
worker's modules from the socket and serves, as a worker or as the zygote that
forks them. Written for any Python 3, so that a
too old one can say so.
"""

import sys

sys.path[:] = [entry for entry in sys.path if entry]

import json
import os
import socket
import struct
import types

PROTOCOL = 6
HELLO = 17


def die_with_parent(parent):
    # Also in the middle of C code, and when the parent is killed.
    if sys.platform.startswith("linux"):
        import ctypes
        import signal

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def take_socket():
    # User code must neither read the protocol nor inherit it.
    sock = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return sock


def missing_packages():
    missing = []
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        missing.append("pyarrow" if error.name == "pyarrow" else "pyarrow (%s)" % error)
    except Exception as error:
        missing.append("pyarrow (%s)" % error)
    return missing


def say_hello(sock):
    fits = sys.version_info >= (3, 10)
    missing = missing_packages() if fits else []
    hello = {
        "protocol": PROTOCOL,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "python_ok": fits,
        "missing": missing,
    }
    body = json.dumps(hello).encode()
    sock.sendall(struct.pack("<IBBHQ", len(body), HELLO, 0, 0, 0) + body)
    return fits and not missing


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def load_modules(sock):
    (length,) = struct.unpack("<I", read_exactly(sock, 4))
    package = types.ModuleType("mobula_worker")
    package.__path__ = []
    sys.modules[package.__name__] = package
    for name, text in json.loads(read_exactly(sock, length).decode()):
        module = types.ModuleType("mobula_worker." + name)
        module.__package__ = package.__name__
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(text, "<mobula %s>" % name, "exec"), module.__dict__)
    return package


def start():
    die_with_parent(int(sys.argv[1]))
    role = sys.argv[2]
    sys.argv[:] = ["mobula"]
    sock = take_socket()
    if say_hello(sock):
        getattr(load_modules(sock), role).serve(sock)


if __name__ == "__main__":
    start()
