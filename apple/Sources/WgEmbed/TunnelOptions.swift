internal import CWgEmbed

/// Options of a tunnel.
public struct TunnelOptions: Sendable {
  /// Looks up a host name, and returns numeric addresses, the best first. It is called on a thread of the library, and
  /// may block, but closing a tunnel waits for it.
  public typealias Resolver = @Sendable (_ host: String) throws -> [String]

  /// The MTU if the configuration and the descriptor have none.
  public var mtu = 1280
  /// The limit for packets in transit and staged packets, in bytes: 1,703,936 to 8,388,608; nil for 4 MiB.
  public var memoryLimit: Int?
  /// The largest number of peers; nil for 65,536.
  public var maxPeers: Int?
  /// The largest number of threads that help with encryption while one processor is not enough: 0 to 8. nil is the
  /// default: one less than the processors, at most 3, and none on one or two processors or with a smaller
  /// `memoryLimit`. They are started under the first such load.
  public var workers: Int?
  /// The log level of this tunnel; nil for that of `WgLog`.
  public var logLevel: LogLevel?
  /// Looks up host names; nil for the resolver of the system.
  public var resolver: Resolver?
  /// Custom datagrams in place of UDP sockets.
  public var transport: Transport?

  public init() {}

  /// The options for C, without a descriptor.
  func raw(_ config: Config) -> wg_options_t {
    var raw = wg_options_t.sized
    raw.tun_fd = -1
    raw.fd_ownership = WG_FD_DUP.rawValue
    // What does not fit is out of range, and refused.
    raw.mtu = UInt32(clamping: config.mtu ?? mtu)
    raw.memory_limit = memoryLimit.map { Int(clamping: $0) } ?? 0
    raw.max_peers = maxPeers.map { UInt32(clamping: $0) } ?? 0
    raw.workers = workers.map { number in
      // A negative number is as invalid as one that is too large.
      number == 0 ? UInt32(WG_WORKERS_NONE) : UInt32(number < 0 ? .max : Int32(clamping: number))
    } ?? 0
    raw.log_level = logLevel?.rawValue ?? WG_LOG_INHERIT.rawValue
    raw.resolve = wg_resolve_system
    if let resolver {
      raw.resolve = resolve
      raw.resolve_user = Box.retained(resolver)
      raw.resolve_destroy = releaseBox
    }
    return raw
  }
}

/// A `wg_resolve_fn_t` over a `Resolver`.
private func resolve(
  _ user: UnsafeMutableRawPointer?, _ host: UnsafePointer<CChar>?, _ addresses: UnsafeMutablePointer<wg_address_t>?,
  _ capacity: Int, _ count: UnsafeMutablePointer<Int>?
) -> Int32 {
  guard let user, let host, let addresses, let count else { return WG_ERR_NULL.rawValue }
  let found = pooled {
    let resolver = Box<TunnelOptions.Resolver>.value(user)
    return try? resolver(String(cString: host))
  }
  guard let numeric = found?.compactMap(Prefix.bytes).prefix(capacity) else { return WG_ERR_NOT_FOUND.rawValue }
  for (index, bytes) in numeric.enumerated() {
    var address = wg_address_t()
    address.family = (bytes.count == 4 ? WG_IPV4 : WG_IPV6).rawValue
    withUnsafeMutableBytes(of: &address.bytes) { $0.copyBytes(from: bytes) }
    addresses[index] = address
  }
  count.pointee = numeric.count
  return WG_OK.rawValue
}
