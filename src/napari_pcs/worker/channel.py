"""Messages as lines, and the worker's end of the line: the standard streams it was started with."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pydantic import TypeAdapter

from napari_pcs.worker.messages import AnyRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

__all__ = ["Channel", "encode", "number_of", "read_reply", "read_request"]

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_REQUEST: TypeAdapter[Any] = TypeAdapter(AnyRequest)


def encode(message: BaseModel) -> bytes:
    """Return a message as one line of ASCII; a figure that is no number stays one that is none."""
    return json.dumps(message.model_dump(mode="json")).encode() + b"\n"


def read_request(line: bytes) -> AnyRequest:
    """Return the request of a line.

    Raises
    ------
    ValueError
        If it is none.
    """
    return _REQUEST.validate_python(json.loads(line))  # type: ignore[no-any-return]


def read_reply(line: bytes) -> Reply:
    """Return the reply of a line.

    Raises
    ------
    ValueError
        If it is none.
    """
    return Reply.model_validate(json.loads(line))


def number_of(line: bytes) -> int:
    """Return the number of a request that may be malformed otherwise; 0 if there is none."""
    try:
        found = json.loads(line)["id"]
    except (ValueError, KeyError, TypeError):
        return 0
    return found if isinstance(found, int) else 0


class Channel:
    """Requests in, replies out. Replies may be sent from any thread.

    Parameters
    ----------
    requests, replies
        Binary streams.
    """

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests, self._replies = requests, replies
        self._lock = threading.Lock()

    @classmethod
    def of_this_process(cls) -> Self:
        """Take the standard streams for messages alone.

        What anything in the process prints goes to standard error from then on, and whoever reads
        standard input, such as a program that a library starts, finds it empty.
        """
        requests, replies = os.fdopen(os.dup(_STDIN), "rb"), os.fdopen(os.dup(_STDOUT), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, _STDIN)
        os.close(nothing)
        os.dup2(_STDERR, _STDOUT)
        return cls(requests, replies)

    def lines(self) -> Iterator[bytes]:
        """Yield one line after the other, until whoever sends them is gone."""
        yield from iter(self._requests.readline, b"")

    def send(self, reply: Reply) -> None:
        """Send one reply.

        Raises
        ------
        OSError
            If nobody can read it any more.
        """
        line = encode(reply)
        with self._lock:
            self._replies.write(line)
            self._replies.flush()
