internal import CWgEmbed

/// What a tunnel reports. A tunnel that has ended by itself can still be asked.
extension Tunnel {
  public func statistics() throws -> Statistics {
    var stats = wg_stats_t.sized
    try check(wg_stats(handle, &stats))
    return Statistics(stats)
  }

  /// Returns the statistics of one peer.
  ///
  /// - Throws: `WgError` with the code `.notFound` if there is no such peer.
  public func statistics(of peer: Key) throws -> PeerStatistics {
    var stats = wg_peer_stats_t.sized
    try peer.withBytes { try check(wg_peer_stats(handle, $0, &stats)) }
    return PeerStatistics(stats)
  }

  /// Returns the statistics of all peers.
  public func peers() throws -> [PeerStatistics] {
    try all(wg_peer_stats_t.sized) { try check(wg_peers(handle, $0, $1, $2)) }.map(PeerStatistics.init)
  }

  /// Returns the counters: one for each cause of a dropped packet, of a refused handshake message, and more.
  public func counters() throws -> [Counter: UInt64] {
    let counters = try all(wg_counter_t()) { try check(wg_counters(handle, $0, $1, $2)) }
    return Dictionary(uniqueKeysWithValues: counters.map { (Counter(rawValue: String(field: $0.name)), $0.value) })
  }

  public func memory() throws -> MemoryUsage {
    var usage = wg_memory_usage_t.sized
    try check(wg_memory_usage(handle, &usage))
    return MemoryUsage(usage)
  }

  /// Returns the public key of the tunnel, which its peers are configured with.
  ///
  /// - Throws: `WgError` with the code `.notFound` if it has no private key.
  public func publicKey() throws -> Key { try Key { try check(wg_public_key(handle, $0)) } }

  /// Returns the UDP port of the sockets; 0 while there are none.
  public func listenPort() throws -> Int { Int(try check(wg_listen_port(handle))) }

  /// Returns configuration and state as the lines of a UAPI `get`, without private and preshared keys: for support logs
  /// and user interfaces.
  public func description() throws -> String {
    var text: UnsafeMutablePointer<CChar>?
    try check(wg_get_config_public(handle, &text))
    defer { wg_free(text) }
    return text.map { String(cString: $0) } ?? ""
  }

  /// Asks for all items of a list, whose length may change between two calls. Each begins as `first`.
  private func all<Item>(
    _ first: Item, _ ask: (UnsafeMutablePointer<Item>?, Int, UnsafeMutablePointer<Int>) throws -> Void
  ) throws -> [Item] {
    var count = 0
    try ask(nil, 0, &count)
    while count > 0 {
      let capacity = count
      var items = [Item](repeating: first, count: capacity)
      try items.withUnsafeMutableBufferPointer { try ask($0.baseAddress, capacity, &count) }
      if count <= capacity { return Array(items.prefix(count)) }
    }
    return []
  }
}

/// The library.
public enum WgLibrary {
  /// Its version, like "0.1.0".
  public static var version: String { String(cString: wg_version_string()) }
}
