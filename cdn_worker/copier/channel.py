"""Messages between two processes of one program, over a socket pair: neither ever blocks on the other."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
CHUNK = 256 << 10


class Channel:
    """Sends and receives pickled values; both ends are this program. `closed`: the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._out = bytearray()
        self._in = bytearray()
        self.closed = False

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not taken yet."""
        return len(self._out)

    def send(self, message: object) -> None:
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._out += _LENGTH.pack(len(data))
        self._out += data
        self.flush()

    def flush(self) -> None:
        """Hand over what the other end takes now."""
        while self._out and not self.closed:
            try:
                sent = self._end.send(self._out[:CHUNK])
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()  # it is gone; what it had sent before can still be read
                return
            del self._out[:sent]

    def received(self) -> list[Any]:
        """What has come, whole messages only."""
        while not self.closed:
            try:
                data = self._end.recv(CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            self._in += data
        messages, at = [], 0
        while len(self._in) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._in, at)
            if len(self._in) - at - _LENGTH.size < size:
                break
            at += _LENGTH.size
            messages.append(pickle.loads(memoryview(self._in)[at : at + size]))  # noqa: S301 - our own process wrote it  # nosec B301
            at += size
        del self._in[:at]
        return messages

    def close(self) -> None:
        self.closed = True
        self._end.close()
