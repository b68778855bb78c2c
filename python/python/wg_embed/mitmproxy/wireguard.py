"""`mitmproxy_rs.wireguard`, over wg-embed."""

from wg_embed._native import WireGuardServer, start_wireguard_server
from wg_embed._native import modern_genkey as genkey
from wg_embed._native import modern_pubkey as pubkey

__all__ = ["WireGuardServer", "genkey", "pubkey", "start_wireguard_server"]
