"""The extension module of mitmproxy_wireguard, by its name there."""

from wg_embed._native import Server, TcpStream, start_server
from wg_embed._native import legacy_genkey as genkey
from wg_embed._native import legacy_pubkey as pubkey

__name__ = "mitmproxy_wireguard.mitmproxy_wireguard"
__all__ = ["Server", "TcpStream", "genkey", "pubkey", "start_server"]
