"""What the extension needs of asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Awaitable, Callable, Generator
from typing import Any

_LEGACY = logging.getLogger("mitmproxy_wireguard.task")
_MODERN = logging.getLogger("wg_embed.mitmproxy.task")


class ReadFuture(asyncio.Future[bytes]):
    """A read that waits. If its task is cancelled after the bytes have come, and before it goes on, they go back."""

    give_back: Callable[[bytes], None]

    def __await__(self) -> Generator[Any, None, bytes]:
        if not self.done():
            self._asyncio_future_blocking = True
            try:
                yield self
            except BaseException:
                if self.done() and not self.cancelled() and self.exception() is None:
                    self.give_back(self.result())
                raise
        return self.result()

    __iter__ = __await__


def run_handler(
    loop: asyncio.AbstractEventLoop,
    running: set[asyncio.Future[Any]],
    context: contextvars.Context,
    handler: Callable[[Any], Awaitable[None]],
    stream: Any,
    legacy: bool,
) -> None:
    """Starts a handler's task for a new connection. It is in `running` until it ends."""
    try:
        task: asyncio.Future[None] = context.run(_start, loop, handler, stream)
    except Exception as error:
        _report(error, legacy)
        return
    running.add(task)
    task.add_done_callback(running.discard)
    task.add_done_callback(_ended_legacy if legacy else _ended_modern)


def _start(
    loop: asyncio.AbstractEventLoop, handler: Callable[[Any], Awaitable[None]], stream: Any
) -> asyncio.Future[None]:
    return asyncio.ensure_future(handler(stream), loop=loop)


def _report(error: BaseException, legacy: bool) -> None:
    logger = _LEGACY if legacy else _MODERN
    # As text: a record that is kept would keep the handler's frame, and with it the stream, open.
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    logger.error("TCP connection handler coroutine raised an exception: %s", text.rstrip())


def _ended_legacy(task: asyncio.Future[None]) -> None:
    if task.cancelled():
        _report(asyncio.CancelledError(), True)
    elif (error := task.exception()) is not None:
        _report(error, True)


def _ended_modern(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _report(error, False)
