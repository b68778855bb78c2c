from collections.abc import Awaitable, Callable
from typing import Any, final

from . import Stream

def genkey() -> str: ...
def pubkey(private_key: str) -> str: ...
async def start_wireguard_server(
    host: str,
    port: int,
    private_key: str,
    peer_public_keys: list[str],
    handle_tcp_stream: Callable[[Stream], Awaitable[Any]],
    handle_udp_stream: Callable[[Stream], Awaitable[Any]],
) -> WireGuardServer: ...

@final
class WireGuardServer:
    def getsockname(self) -> tuple[str, int]: ...
    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...
    def __repr__(self) -> str: ...

__all__ = ["WireGuardServer", "genkey", "pubkey", "start_wireguard_server"]
