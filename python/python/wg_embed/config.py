"""Configurations as data, and as the text of .conf files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from . import _native
from ._errors import ConfigError


@dataclass
class Peer:
    """A peer: the contents of a `[Peer]` section of a .conf file."""

    public_key: str
    allowed_ips: Sequence[str] = ()
    endpoint: Optional[str] = None
    """`host:port`; the host may be a name."""
    preshared_key: Optional[str] = field(default=None, repr=False)
    persistent_keepalive: int = 0
    """Seconds; 0 sends none."""


@dataclass
class Config:
    """The configuration of a tunnel: the contents of a .conf file."""

    private_key: str = field(repr=False)
    peers: Sequence[Peer] = ()
    addresses: Sequence[str] = ()
    """Own addresses inside the tunnel, each with or without a prefix length."""
    dns: Sequence[str] = ()
    """DNS servers that are asked through the tunnel."""
    listen_port: int = 0
    """The UDP port; 0 lets the system choose."""
    fwmark: int = 0
    mtu: Optional[int] = None

    def to_conf(self) -> str:
        """
        Returns the text of a .conf file, checked, and in the spelling of `wg showconf`.

        Raises `ConfigError` for values that are invalid.
        """
        return _native.normalize_conf(self._text().encode())

    def _text(self) -> str:
        lines = ["[Interface]"]

        def add(key: str, value: object) -> None:
            text = str(value)
            if "\n" in text or "\r" in text or "#" in text:
                raise ConfigError(f"{key} has a line feed or '#'")
            lines.append(f"{key} = {text}")

        add("PrivateKey", self.private_key)
        if self.addresses:
            add("Address", ", ".join(self.addresses))
        if self.dns:
            add("DNS", ", ".join(self.dns))
        if self.listen_port:
            add("ListenPort", self.listen_port)
        if self.fwmark:
            add("FwMark", self.fwmark)
        if self.mtu is not None:
            add("MTU", self.mtu)
        for peer in self.peers:
            lines.append("[Peer]")
            add("PublicKey", peer.public_key)
            if peer.preshared_key is not None:
                add("PresharedKey", peer.preshared_key)
            if peer.endpoint is not None:
                add("Endpoint", peer.endpoint)
            if peer.allowed_ips:
                add("AllowedIPs", ", ".join(peer.allowed_ips))
            if peer.persistent_keepalive:
                add("PersistentKeepalive", peer.persistent_keepalive)
        return "\n".join(lines) + "\n"
