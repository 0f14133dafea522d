"""One process of the worker: pipes to and from it, and what is said when it dies."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from napari_pcs.errors import PcsError
from napari_pcs.worker.channel import encode, read_reply
from napari_pcs.worker.messages import LOST_DEVICE, Quit, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_pcs.worker.messages import Request

__all__ = ["Answer", "Process", "WorkerError"]

_WINDOWS = sys.platform == "win32"
_FLAGS = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
_LAST_LINES = 30
_DRAIN_S = 2.0
_AFTER = "The labels are untouched; the worker starts anew with the next request."
_log = logging.getLogger(__name__)


class WorkerError(PcsError):
    """The worker's process is gone, and with it what it was doing."""


Answer = Reply | WorkerError
"""One reply to a request, or what the process died of instead."""


class Process:
    """The process, in a group of its own: Ctrl-C in the viewer's terminal is not for it.

    Nothing here waits: requests leave and answers arrive on threads.

    Parameters
    ----------
    command
        What to start.

    Raises
    ------
    WorkerError
        If the system refuses.

    Attributes
    ----------
    ready
        Set once the process has said so, or is over.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._folder = TemporaryDirectory(prefix="napari-pcs-", ignore_cleanup_errors=True)
        self._messages = Path(self._folder.name) / "messages"
        try:
            with self._messages.open("wb") as stderr:
                self._process = subprocess.Popen(  # noqa: S603  our own command, without a shell
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
                    start_new_session=not _WINDOWS,
                    creationflags=_FLAGS,
                )
        except OSError as error:
            self._folder.cleanup()
            msg = f"The worker could not be started ({error.strerror or error}). Close other programs, and try again."
            raise WorkerError(msg) from error
        self.ready = threading.Event()
        self._lock = threading.Lock()
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self._over = ""
        self._asked_to_end = False
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader, self._watcher, writer = (
            threading.Thread(target=work, name=f"napari-pcs: worker {self._process.pid}", daemon=True)
            for work in (self._read, self._watch, self._write)
        )
        for thread in (self._reader, self._watcher, writer):
            thread.start()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return not self._over and not self._asked_to_end and self._process.poll() is None

    def send(self, request: Request, heed: Callable[[Answer], None] | None = None) -> None:
        """Send a request.

        Parameters
        ----------
        request
            With its number.
        heed
            Called on another thread with each answer.
        """
        with self._lock:
            over = self._over
            if heed is not None and not over:
                self._waiting[request.id] = heed
        if heed is not None and over:
            _answer(heed, WorkerError(over))
        self._outgoing.put(encode(request))

    def answer_with(self, number: int, heed: Callable[[Answer], None]) -> None:
        """Give the answers that are still to come to somebody else."""
        with self._lock:
            if number in self._waiting:
                self._waiting[number] = heed

    def quit(self, seconds: float) -> None:
        """Ask it to end, and kill it if it has not after some seconds."""
        self._asked_to_end = True
        self._outgoing.put(encode(Quit()))
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        if threading.current_thread() not in {self._reader, self._watcher}:
            self._watcher.join(seconds)

    def kill(self) -> None:
        """End it at once."""
        self._asked_to_end = True
        self._process.kill()

    def _write(self) -> None:
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        try:
            while (line := self._outgoing.get()) is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            self._process.stdin.close()
        except OSError:
            _log.debug("The worker does not listen any more")

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        with self._process.stdout as replies:
            for line in replies:
                try:
                    reply = read_reply(line)
                except ValueError:
                    _log.warning("Found %r among the worker's replies; passed over", line[:200])
                    continue
                self._hand_on(reply)

    def _hand_on(self, reply: Reply) -> None:
        if reply.kind == "ready":
            self.ready.set()
        with self._lock:
            heed = self._waiting.pop(reply.id, None) if reply.is_end else self._waiting.get(reply.id)
        if heed is not None:
            _answer(heed, reply)
        elif reply.kind == "failed":
            _log.warning("The worker: %s", reply.content.get("sentence"))

    def _watch(self) -> None:
        code = self._process.wait()
        self._outgoing.put(None)
        self._reader.join(_DRAIN_S)  # a process that it left behind may hold the pipe open for ever
        lines = self._last_lines()
        self._folder.cleanup()
        if not self._asked_to_end:
            _log.error("The worker ended (%s). Its last messages:\n%s", how_it_ended(code), "\n".join(lines))
        with self._lock:
            self._over = self._sentence(code, lines)
            waiting = list(self._waiting.values())
            self._waiting.clear()
        self.ready.set()
        for heed in waiting:
            _answer(heed, WorkerError(self._over))

    def _last_lines(self) -> list[str]:
        try:
            return self._messages.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        except OSError as error:
            return [f"They could not be read ({error})."]

    def _sentence(self, code: int, lines: list[str]) -> str:
        if self._asked_to_end:
            return f"The worker was ended before this was done. {_AFTER}"
        if code == LOST_DEVICE:
            return f"The worker ended because the GPU failed. Try again, or choose the CPU. {_AFTER}"
        last = f": {lines[-1].strip()}" if code > 0 and lines else ""
        return f"The worker ended unexpectedly ({how_it_ended(code)}{last}). {_AFTER}"


def _answer(heed: Callable[[Answer], None], answer: Answer) -> None:
    try:
        heed(answer)
    except Exception:  # noqa: BLE001  whatever it is
        # The thread that reads for everybody must not end because one listener fails.
        _log.exception("A listener to the worker failed")


def how_it_ended(code: int) -> str:
    """Say what an exit code means."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    likely = "; the computer probably ran out of memory, so close other programs" if name == "SIGKILL" else ""
    return f"{name}{likely}"
