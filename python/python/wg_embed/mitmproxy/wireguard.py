"""`mitmproxy_rs.wireguard`, over wg-embed."""

from wg_embed._native import WireGuardServer, genkey, pubkey, start_wireguard_server

__all__ = ["WireGuardServer", "genkey", "pubkey", "start_wireguard_server"]
