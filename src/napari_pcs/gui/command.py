"""A command of this package in a process of its own: started, told to stop, asked what went wrong."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from napari_pcs.errors import PcsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["Command"]

_WINDOWS = sys.platform == "win32"
_TERMINATE_S, _KILL_S = 60.0, 90.0
"""After asking nicely: a checkpoint on a slow disk takes its time, a process that hangs takes for ever."""
_ERROR, _RUN = "Error: ", "run: "
_log = logging.getLogger(__name__)
_running: WeakSet[Command] = WeakSet()


class Command:
    """Context manager around a process, in a group of its own: Ctrl-C in napari's terminal is not for it.

    When napari ends it is told to stop, and saves what it has; nobody waits for it then.

    Parameters
    ----------
    arguments
        What to run. Its messages go to files, so that nothing has to be read for it to go on.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._folder = TemporaryDirectory(prefix="napari-pcs-", ignore_cleanup_errors=True)
        self._messages = Path(self._folder.name) / "messages"
        self._told_at: float | None = None
        with self._messages.open("wb") as stderr:
            self._process = subprocess.Popen(  # noqa: S603  our own command, without a shell
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=not _WINDOWS,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        _running.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.exit_code is None:
            self.tell_to_stop()
        else:
            self._folder.cleanup()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    @property
    def run(self) -> Path | None:
        """Folder of its run, as soon as it has said `run: FOLDER`."""
        return next((Path(line.removeprefix(_RUN)) for line in self._lines() if line.startswith(_RUN)), None)

    def tell_to_stop(self) -> None:
        """Ask it to save and to end; asked again for a minute without success, end it."""
        if self.exit_code is not None:
            return
        if self._told_at is None:
            self._told_at = time.monotonic()
            # To the process alone: readers that it has started are its own to stop.
            self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        elif time.monotonic() - self._told_at > _KILL_S:
            self._process.kill()
        elif time.monotonic() - self._told_at > _TERMINATE_S:
            self._process.terminate()

    def require_success(self) -> None:
        """Say what went wrong, if anything did.

        Raises
        ------
        PcsError
            With the command's own sentence, or the last line of what it wrote.
        """
        if self.exit_code == 0:
            return
        lines = [line for line in self._lines() if line.strip()]
        own = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        if own:
            raise PcsError(own[-1])
        _log.error("The command ended with exit code %s:\n%s", self.exit_code, "\n".join(lines))
        msg = (
            f"The command ended unexpectedly (exit code {self.exit_code}: {lines[-1] if lines else 'no message'})."
            " The log has the details."
        )
        raise PcsError(msg)

    def _lines(self) -> list[str]:
        return self._messages.read_text(errors="replace").splitlines()


@atexit.register
def _tell_all_to_stop() -> None:
    for command in list(_running):
        command.tell_to_stop()
