"""The zygote: imports what every worker needs, once, and forks the workers.

It never runs user code, so it stays what it was. It reaps its workers and tells
how they ended. When the engine goes, it ends them and whatever they left behind:
it is the kernel's new parent of every orphan below it.
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback

from . import protocol, serve as worker
from .protocol import HEADER, Channel

SET_PARENT_DEATH_SIGNAL = 1
SET_CHILD_SUBREAPER = 36
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DESCRIPTORS = 3
# How long processes that cannot be killed are waited for.
END_SECONDS = 5


class EngineGone(Exception):
    """Nobody is left to fork for."""


class Zygote:
    """The forking side, and what a worker must shed of it."""

    def __init__(self, control):
        self.control = control
        self.channel = Channel(control)
        self.pid = os.getpid()
        self.engine = os.getppid()
        self.workers = set()
        # What each signal does in a process that is started as this one was.
        self.usual = {}
        self.kernel = ctypes.CDLL(None, use_errno=True)
        self.woken, self.waker = socket.socketpair()
        self.woken.setblocking(False)
        self.waker.setblocking(False)

    def take_charge(self):
        """From here on signals wake it, and orphans below it are its own."""
        for number in HANDLED:
            self.usual[number] = signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self._control_process(SET_CHILD_SUBREAPER, 1)
        # Told, not killed, when the engine goes: there is tidying up to do.
        self._control_process(SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))
        # What is here already is shared with all workers; do not touch it.
        gc.collect()
        gc.freeze()

    def worker_socket(self):
        """Forks until the engine goes; returns only in a worker, its socket."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.woken, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.woken.fileno():
                    self._look_around()
                    continue
                sock = self._answer()
                if sock is not None:
                    return sock

    def end_all(self):
        """Ends every process below this one."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            for pid in self._children():
                _kill(os.kill, pid)
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.002)
            except ChildProcessError:
                return

    def _answer(self):
        data, descriptors, _, _ = socket.recv_fds(
            self.control, HEADER.size, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if len(data) < HEADER.size or len(descriptors) < DESCRIPTORS:
            raise EngineGone
        body_bytes, *_, seq = HEADER.unpack(data)
        body = self._read(body_bytes)
        try:
            pid = self._fork()
        except OSError as error:
            message = f"cannot fork: {error.strerror}"
            body = {"reason": "internal", "message": message, "traceback": None}
            self.channel.send(protocol.ERROR, seq, body)
            pid = None
        if pid == 0:
            return self._become_worker(descriptors, json.loads(body)["env"])
        for descriptor in descriptors:
            os.close(descriptor)
        if pid is not None:
            self.workers.add(pid)
            self.channel.send(protocol.FORKED, seq, {"pid": pid})
        return None

    def _read(self, count):
        data = b""
        while len(data) < count:
            part = self.control.recv(count - len(data))
            if not part:
                raise EngineGone
            data += part
        return data

    def _fork(self):
        # A signal in between would be dealt with by the wrong one of the two.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        pid = None
        try:
            pid = os.fork()
            if pid:
                # Both sides do it, so that it is done whoever comes first.
                _ignoring_the_dead(os.setpgid, pid, pid)
        finally:
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        return pid

    def _become_worker(self, descriptors, env):
        try:
            os.environ.update(env)
            os.setpgid(0, 0)
            self._control_process(SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
            signal.set_wakeup_fd(-1)
            for number, usual in self.usual.items():
                signal.signal(number, usual)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            for inherited in (self.control, self.woken, self.waker):
                inherited.close()
            sock, stdout, stderr = descriptors
            for ours, place in ((stdout, 1), (stderr, 2)):
                os.dup2(ours, place)
                os.close(ours)
            if os.getppid() != self.pid:
                os._exit(1)
            _reseed()
            return socket.socket(fileno=sock)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _look_around(self):
        """Deals with signals: the engine's end, and those of children."""
        try:
            self.woken.recv(4096)
        except BlockingIOError:
            pass
        if os.getppid() != self.engine:
            raise EngineGone
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._reap(ended.si_pid)

    def _reap(self, pid):
        if pid not in self.workers:
            # An orphan that a worker left.
            os.waitpid(pid, 0)
            return
        # What it left in its group ends with it, while the number is still its.
        _kill(os.killpg, pid)
        _, status = os.waitpid(pid, 0)
        self.workers.discard(pid)
        self.channel.send(protocol.EXITED, 0, {"pid": pid, "status": status})

    def _children(self):
        try:
            with open(f"/proc/self/task/{self.pid}/children") as children:
                return [int(pid) for pid in children.read().split()]
        except OSError:
            return self.workers

    def _control_process(self, option, value):
        if self.kernel.prctl(option, value, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def serve(control):
    """Forks workers until the engine goes, and is each of them."""
    worker.warm()
    zygote = Zygote(control)
    zygote.take_charge()
    threads = len(os.listdir("/proc/self/task"))
    zygote.channel.send(protocol.READY, 0, {"threads": threads})
    try:
        sock = zygote.worker_socket()
    except (EngineGone, BrokenPipeError, ConnectionResetError):
        zygote.end_all()
        os._exit(0)
    worker.serve(sock)


def _reseed():
    # Python's own generator does it by itself; numpy's shared one does not.
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _kill(how, pid):
    _ignoring_the_dead(how, pid, signal.SIGKILL)


def _ignoring_the_dead(deed, *args):
    try:
        deed(*args)
    except (ProcessLookupError, PermissionError):
        pass
