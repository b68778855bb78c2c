"""Tunnels."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Optional, Union

from . import _native
from ._closing import Closing
from .config import Config
from .net import Network

_LOG = logging.getLogger("wg_embed")

# The maximum number of queued events; the oldest is dropped for one more.
_MOST = 1024


class Event(NamedTuple):
    """An event of a tunnel."""

    name: str
    """
    `handshake_completed`, `handshake_failed`, `endpoint_changed`, `resolve_failed`, `routing_loop`, `session_expired`,
    `sockets_lost`, `sockets_recovered`, `ended`. Later versions may add names.
    """
    peer: Optional[str]
    """The public key of the peer that it concerns."""
    detail: Optional[str]
    """The new endpoint, the reason, or the port."""


@dataclass(frozen=True)
class PeerState:
    """A peer's configuration and state."""

    public_key: str
    endpoint: Optional[str]
    last_handshake: float
    """Seconds since 1970; 0 if there was none."""
    rx_bytes: int
    tx_bytes: int
    persistent_keepalive: int
    allowed_ips: list[str]
    has_session: bool


class Totals(NamedTuple):
    """Sums over all peers, including removed ones: bytes of UDP payload, and packets inside the tunnel."""

    peers: int
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int


class Tunnel(Closing):
    """
    A running tunnel.

    `config` is a `Config`, or the contents of a .conf file. The tunnel has a userspace network, `net`, unless it gets
    `fd`, a descriptor that carries IP packets (of which it uses a duplicate), or `tun`, the name of a TUN device to
    create. `mtu` replaces the MTU of the configuration, that of `net` or of the TUN device; `memory` limits the buffers
    of `net`, in bytes. `bind` is the local address of its UDP socket, by default all addresses. `learn` is the
    number of source addresses of each peer that are learned from its packets and added to its allowed IPs. `workers` is
    the largest number of threads that help with encryption while one processor is not enough, 0 to 8; by default it is
    one less than the processors, at most 3, and 0 on one or two processors.

    Its functions may be called on any thread. It ends with `close()`, at the end of a `with` block, or when nothing
    refers to it or to `net`. Raises `ConfigError` or `OSError` if it cannot be started.
    """

    def __init__(
        self,
        config: Union[Config, str, bytes],
        *,
        fd: Optional[int] = None,
        tun: Optional[str] = None,
        mtu: Optional[int] = None,
        memory: Optional[int] = None,
        bind: Optional[str] = None,
        learn: int = 0,
        workers: Optional[int] = None,
    ) -> None:
        conf = _conf_bytes(config)
        self._native = _native.Tunnel(
            conf, fd=fd, tun=tun, mtu=mtu, memory=memory, bind=bind, learn=learn, workers=workers
        )
        native_net = self._native.net
        self._net = None if native_net is None else Network(native_net, self._native)
        self._events = _Events(self._native)

    @classmethod
    def from_file(
        cls,
        path: Union[str, os.PathLike[str]],
        *,
        fd: Optional[int] = None,
        tun: Optional[str] = None,
        mtu: Optional[int] = None,
        memory: Optional[int] = None,
        bind: Optional[str] = None,
        learn: int = 0,
        workers: Optional[int] = None,
    ) -> Tunnel:
        """Returns the tunnel of a .conf file."""
        with open(path, "rb") as file:
            conf = file.read()
        return cls(conf, fd=fd, tun=tun, mtu=mtu, memory=memory, bind=bind, learn=learn, workers=workers)

    def close(self) -> None:
        """Ends the tunnel; every connection and descriptor of its network gets an error. Idempotent."""
        self._native.close()

    async def __aenter__(self) -> Tunnel:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __repr__(self) -> str:
        return "<Tunnel closed>" if self.closed else f"<Tunnel {self.public_key} port={self.listen_port}>"

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._native.closed

    @property
    def net(self) -> Network:
        """The userspace network. Raises `AttributeError` if the tunnel has a descriptor or a TUN."""
        if self._net is None:
            raise AttributeError("this tunnel has no userspace network")
        return self._net

    @property
    def listen_port(self) -> int:
        """The UDP port."""
        return self._native.listen_port

    @property
    def mtu(self) -> int:
        """The MTU of the inner network."""
        return self._native.mtu

    @property
    def public_key(self) -> str:
        """The tunnel's own public key."""
        return self._native.public_key

    @property
    def peers(self) -> dict[str, PeerState]:
        """The peers by public key, in the order in which they were added."""
        return {row[0]: PeerState(*row) for row in self._native.peers()}

    def peer_at(self, address: str) -> Optional[PeerState]:
        """The peer that packets to an inner address are sent to."""
        found = self._native.peer_at(address)
        return None if found is None else self.peers.get(found[0])

    @property
    def totals(self) -> Totals:
        """Traffic of all peers."""
        return Totals(*self._native.totals())

    def stats(self) -> dict[str, int]:
        """All counters by name: packets and drops by reason, handshakes, memory limits reached."""
        return self._native.counters()

    def get_config(self) -> str:
        """
        Configuration and state as text of the cross-platform userspace interface (`private_key=...`), with private and
        preshared keys.
        """
        return self._native.get_config()

    def set_config(self, config: Union[Config, str, bytes]) -> None:
        """
        Changes the configuration as a whole, or not at all.

        A `Config` and the text of a .conf file replace it. Peers in both keep their sessions. The port stays unless the
        new configuration has one, and so do the endpoints of such peers. Text of the cross-platform interface
        (`public_key=...`, line by line) changes only the settings that it contains. Addresses, DNS servers and MTU of
        the inner network stay unchanged. Concurrent calls, including those of `remove_peer()`, are serialized.
        """
        conf = _conf_bytes(config)
        if isinstance(config, Config) or _is_conf(conf):
            self._native.set_conf(conf)
        else:
            self._native.set_config(conf.decode())

    def wireproto(self, request: bytes) -> bytes:
        """
        Answers a control request in WireProto; `wg_embed.wireproto` builds requests and reads responses.

        Errors in a request or a command are answers in the response, not exceptions. Each tunnel is one client: its
        events are queued from its first command `events` on. A command `events` with a field `wait` waits for an event,
        for at most 30 seconds, while other threads run; `close()` ends that wait.
        """
        return self._native.wireproto(request)

    def remove_peer(self, public_key: str) -> None:
        """Removes a peer. Raises `FileNotFoundError` if there is no such peer."""
        self._native.remove_peer(public_key)

    def rebind(self) -> None:
        """Opens new UDP sockets. Call this when the network of the system has changed."""
        self._native.rebind()

    def pause(self) -> None:
        """Stops all traffic until `resume()`. Idempotent."""
        self._native.pause()

    def resume(self) -> None:
        """Resumes after `pause()`."""
        self._native.resume()

    def events(self) -> AsyncIterator[Event]:
        """
        Returns the events on the running event loop: `async for event in tunnel.events()`. The first iterator begins
        with earlier events, at most 1024; it ends after `ended`. Any number of iterators may run in one event loop, and
        each gets all events.
        """
        return self._events.iterate()

    def on_event(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """
        Calls `callback` with each event, first with earlier ones, at most 1024. All callbacks share one thread, and are
        called one after another. Exceptions are logged. Returns a function that ends the calls; until then, or until
        the tunnel is closed, the tunnel is kept alive. It must not be combined with `events()`.
        """
        return self._events.call(callback)


def _conf_bytes(config: Union[Config, str, bytes]) -> bytes:
    if isinstance(config, Config):
        return config.to_conf().encode()
    return config.encode() if isinstance(config, str) else config


def _is_conf(text: bytes) -> bool:
    """Returns whether it is the text of a .conf file: its first line other than comments begins a section."""
    if b"\0" in text:
        return True  # UTF-16, which no other text is in.
    for line in text.lstrip(b"\xef\xbb\xbf").splitlines():
        line = line.strip()
        if line and line[:1] not in b"#;":
            return line[:1] == b"["
    return False


class _Iteration:
    """The events that an iterator has not returned yet."""

    def __init__(self) -> None:
        self.queue: deque[Event] = deque(maxlen=_MOST)
        self.more = asyncio.Event()


class _Events:
    """Passes the events of a tunnel to iterators, or to callbacks in one thread."""

    def __init__(self, native: _native.Tunnel) -> None:
        self._native = native
        # Weak, as each refers to its loop, which may be dropped with it.
        self._iterations: weakref.WeakSet[_Iteration] = weakref.WeakSet()
        # Of what follows all but the queue, which only the thread has while it runs, is used under the lock.
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[Event], object]] = {}
        self._runs = False
        self._queue: deque[Event] = deque(maxlen=_MOST)
        self._ended = False

    def _take(self) -> None:
        self._queue.extend(Event(*row) for row in self._native.take_events())

    def _arrived(self) -> None:
        self._take()
        while self._queue:
            event = self._queue.popleft()
            self._ended = self._ended or event.name == "ended"
            for iteration in self._iterations:
                iteration.queue.append(event)
                iteration.more.set()

    async def iterate(self) -> AsyncIterator[Event]:
        if self._ended:
            return
        iteration = _Iteration()
        self._iterations.add(iteration)
        try:
            # For each one, as the loop of those before may be closed.
            self._native.watch(self._arrived)
            while True:
                while iteration.queue:
                    event = iteration.queue.popleft()
                    yield event
                    if event.name == "ended":
                        return
                iteration.more.clear()
                await iteration.more.wait()
        finally:
            self._iterations.discard(iteration)
            if not self._iterations:
                self._native.watch(None)

    def call(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        key = object()

        def stop() -> None:
            with self._lock:
                self._callbacks.pop(key, None)
                is_last = not self._callbacks
            if is_last:
                self._native.interrupt()

        with self._lock:
            if not self._ended:
                self._callbacks[key] = callback
                if not self._runs:
                    threading.Thread(target=self._run, name="wg-events", daemon=True).start()
                    self._runs = True
        return stop

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._ended:
                    self._callbacks.clear()
                self._runs = bool(self._callbacks)
                if not self._runs:
                    return
                event = self._queue.popleft() if self._queue else None
                callbacks = list(self._callbacks.items())
                if event is not None and event.name == "ended":
                    self._ended = True
            if event is None:
                self._native.wait_events()
                self._take()
                continue
            for key, callback in callbacks:
                if key in self._callbacks:
                    try:
                        callback(event)
                    except Exception:
                        _LOG.exception("a callback for events failed")
