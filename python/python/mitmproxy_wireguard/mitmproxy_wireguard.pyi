from . import Server, TcpStream, genkey, pubkey, start_server

__all__ = ["Server", "TcpStream", "genkey", "pubkey", "start_server"]
