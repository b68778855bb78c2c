"""
The WireGuard part of `mitmproxy_rs`, with its interface: `Stream` here, servers in `wg_embed.mitmproxy.wireguard`.

`python -m wg_embed.mitmproxy mitmdump --mode wireguard` runs mitmproxy with it; `install()` does the same for a program
that starts mitmproxy by itself.
"""

from __future__ import annotations

from wg_embed._native import Stream

from . import wireguard


def install() -> None:
    """
    Has mitmproxy use this package for its WireGuard mode. To be called before mitmproxy starts its first server; an
    addon is too late for that. Idempotent. Raises `ImportError` where `mitmproxy_rs` is not installed.
    """
    import importlib
    import sys
    from typing import Any

    mitmproxy_rs: Any = importlib.import_module("mitmproxy_rs")
    if mitmproxy_rs.wireguard is wireguard:
        return
    mitmproxy_rs.wireguard = wireguard
    sys.modules["mitmproxy_rs.wireguard"] = wireguard
    # One type for `isinstance` and annotations: UDP and local modes go on using the original.
    mitmproxy_rs.Stream = mitmproxy_rs.Stream | Stream


__all__ = ["Stream", "install", "wireguard"]
