"""An asyncio transport over a connection of the userspace network."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Optional, Union, cast

from . import _native

_READ = 256 * 1024
# Bytes handed to a protocol before other callbacks of the loop have their turn.
_TURN = 1024 * 1024


class TcpTransport(asyncio.Transport):
    """
    A TCP connection. `get_extra_info` has `peername`, `sockname`, and `wg_embed`, the connection itself.
    """

    # With this, loop.start_tls() takes it.
    _start_tls_compatible = True
    # For `__del__` if `__init__` fails.
    _buffered = 0

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: _native.Tcp, protocol: asyncio.BaseProtocol
    ) -> None:
        super().__init__({"peername": connection.peer(), "sockname": connection.local()})
        self._loop = loop
        self._connection = connection
        self._protocol = protocol
        self._buffer: deque[bytes] = deque()
        self._offset = 0
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._protocol_paused = False
        self._paused = False  # asyncio's TLS reads it, until Python 3.10.
        self._eof = False
        self._eof_read = False
        self._closing = False
        self._lost = False
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self._lost:
            return
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error)
            return
        self._connection.watch(self._ready)

    def _ready(self) -> None:
        """Something may go on: called once at first, then by the tunnel."""
        if self._lost:
            return
        try:
            self._flush()
            if not (self._paused or self._eof_read or self._closing):
                self._receive()
        except OSError as error:
            # Without the frames that it has passed: until Python 3.10 they keep those that have called them, and with
            # them the event loop, for as long as someone keeps the exception.
            self._lose(error.with_traceback(None))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """A callback of the protocol has raised this."""
        self._loop.call_exception_handler(
            {
                "message": "Fatal error: a protocol's callback failed",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._force_close(error)

    def _receive(self) -> None:
        taken = 0
        while not (self._paused or self._lost or self._closing):
            if taken >= _TURN:
                self._loop.call_soon(self._ready)
                return
            data = self._connection.read(_READ)
            if data is None:
                return
            if not data:
                self._eof_read = True
                keep_open = cast(asyncio.Protocol, self._protocol).eof_received()
                if not keep_open:
                    self.close()
                elif self._eof:
                    self._close_when_flushed()
                return
            taken += len(data)
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(data)
            return
        rest = memoryview(data)
        while rest:
            room = memoryview(cast(Any, protocol.get_buffer(len(rest))))
            count = min(len(room), len(rest))
            if not count:
                raise RuntimeError("get_buffer() returned an empty buffer")
            room[:count] = rest[:count]
            rest = rest[count:]
            protocol.buffer_updated(count)

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._ready)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection if name == "wg_embed" else super().get_extra_info(name, default)

    def write(self, data: Union[bytes, bytearray, memoryview]) -> None:
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        # A memoryview refuses what is not bytes-like, and `bytes` would take a number.
        data = data if isinstance(data, bytes) else memoryview(data).tobytes()
        if self._lost or self._closing or not data:
            return
        self._buffer.append(data)
        self._buffered += len(data)
        if len(self._buffer) == 1:
            try:
                self._flush()
            except OSError as error:
                self._loop.call_soon(self._lose, error)
                return
        self._pause_if_full()

    def _pause_if_full(self) -> None:
        if self._buffered > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        while self._buffer:
            data = self._buffer[0]
            written = self._connection.write(data, self._offset)
            self._buffered -= written
            self._offset += written
            if self._offset < len(data):
                break
            self._buffer.popleft()
            self._offset = 0
        if self._protocol_paused and self._buffered <= self._low:
            self._protocol_paused = False
            self._protocol.resume_writing()
        if not self._buffer and (self._eof or self._closing):
            self._close_when_flushed()

    def _close_when_flushed(self) -> None:
        if self._buffer or self._lost:
            return
        if self._closing or self._eof_read:
            # Later: a protocol that has called this does not expect to be called itself.
            self._loop.call_soon(self._lose, None)
        else:
            self._connection.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._eof or self._closing:
            return
        self._eof = True
        try:
            self._flush()
        except OSError as error:
            self._loop.call_soon(self._lose, error)

    def set_write_buffer_limits(self, high: Optional[int] = None, low: Optional[int] = None) -> None:
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._pause_if_full()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        """What was written is still delivered."""
        if self._closing or self._lost:
            return
        self._closing = True
        if not self._buffer:
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, error: Optional[BaseException]) -> None:
        """asyncio's TLS also calls it."""
        if not self._lost:
            self._connection.reset()
            self._closing = True
            self._buffer.clear()
            self._buffered = 0
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: Optional[BaseException]) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._buffer.clear()
        self._buffered = 0
        connection = self._connection
        connection.watch(None)
        if error is None:
            try:
                connection.write_eof()
            except OSError:
                pass  # It is closed, or was reset.
        connection.close()
        self._protocol.connection_lost(cast(Optional[Exception], error))

    def __del__(self) -> None:
        # Its loop was closed before it was: a FIN would make what has been sent look complete.
        if self._buffered and not self._lost:
            self._connection.reset()

    def __repr__(self) -> str:
        state = "closed" if self._lost else "closing" if self._closing else "open"
        return f"<TcpTransport {state} peer={self.get_extra_info('peername')}>"
