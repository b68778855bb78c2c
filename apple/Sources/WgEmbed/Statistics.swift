internal import CWgEmbed
import Foundation

/// Sums over all peers since the tunnel was turned on, including removed ones.
public struct Statistics: Sendable, Hashable {
  /// The present number of peers.
  public let peers: Int
  /// Bytes of authentic UDP payload received from peers.
  public let rxBytes: UInt64
  /// Bytes of UDP payload sent to peers.
  public let txBytes: UInt64
  /// Packets from peers that left the tunnel.
  public let rxPackets: UInt64
  /// Packets that were sent to peers.
  public let txPackets: UInt64
  /// Dropped incoming datagrams and packets.
  public let rxDropped: UInt64
  /// Dropped outgoing packets and datagrams.
  public let txDropped: UInt64

  init(_ stats: wg_stats_t) {
    peers = stats.peers
    rxBytes = stats.rx_bytes
    txBytes = stats.tx_bytes
    rxPackets = stats.rx_packets
    txPackets = stats.tx_packets
    rxDropped = stats.rx_dropped
    txDropped = stats.tx_dropped
  }
}

/// Statistics of a peer.
public struct PeerStatistics: Sendable, Hashable {
  public let publicKey: Key
  /// The source of its last authentic packet, or the configured address; nil without one.
  public let endpoint: String?
  /// Bytes of authentic UDP payload received from the peer.
  public let rxBytes: UInt64
  /// Bytes of UDP payload sent to the peer.
  public let txBytes: UInt64
  /// The time of the last completed handshake; nil if there was none.
  public let lastHandshake: Date?
  /// Seconds between persistent keepalives; 0 if off.
  public let persistentKeepalive: Int
  /// Whether a packet can be sent to the peer without a handshake.
  public let hasSession: Bool
  /// Packets that wait for a session.
  public let stagedPackets: Int
  /// Seconds until its next timer fires if there is no traffic before; nil if none is set.
  public let nextTimer: TimeInterval?

  init(_ stats: wg_peer_stats_t) {
    publicKey = withUnsafeBytes(of: stats.public_key) { Key($0.baseAddress!) }
    let endpoint = String(field: stats.endpoint)
    self.endpoint = endpoint.isEmpty ? nil : endpoint
    rxBytes = stats.rx_bytes
    txBytes = stats.tx_bytes
    let seconds = TimeInterval(stats.last_handshake_sec) + TimeInterval(stats.last_handshake_nsec) / 1e9
    lastHandshake = stats.last_handshake_sec == 0 ? nil : Date(timeIntervalSince1970: seconds)
    persistentKeepalive = Int(stats.persistent_keepalive)
    hasSession = stats.has_session != 0
    stagedPackets = stats.staged_packets
    nextTimer = stats.next_timer_ms == UInt32.max ? nil : TimeInterval(stats.next_timer_ms) / 1e3
  }
}

/// Present memory use of a tunnel, in bytes; see `wg_memory_usage_t` for what is not included.
public struct MemoryUsage: Sendable, Hashable {
  /// The limit for `buffers` and `staged` together.
  public let limit: Int
  /// The sum of the others.
  public let total: Int
  /// Buffers of the threads and of packets in transit.
  public let buffers: Int
  /// Packets that wait for a session.
  public let staged: Int
  /// Peers, their sessions, and the tables that find them.
  public let peers: Int

  init(_ usage: wg_memory_usage_t) {
    limit = usage.limit
    total = usage.total
    buffers = usage.buffers
    staged = usage.staged
    peers = usage.peers
  }
}
