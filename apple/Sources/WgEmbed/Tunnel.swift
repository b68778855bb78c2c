internal import CWgEmbed
import Foundation

/// A tunnel, which is on until it is closed, or the last reference to it is gone. Any thread may call any method; those
/// that change the tunnel may wait for the system. After `close()` they throw `WgError` with the code `.unknownHandle`.
public final class Tunnel: Sendable {
  /// How long `close()` waits for callbacks, in milliseconds.
  private static let closeWithin: UInt32 = 5000

  let handle: Int32
  private let hub: EventHub
  private let config: Locked<Config>

  /// Turns on a tunnel with custom packets.
  ///
  /// - Throws: `WgError`, for example with the code `.addrInUse` for the port.
  public convenience init(_ config: Config, packets: PacketIO, options: TunnelOptions = TunnelOptions()) throws {
    try self.init(config, options) { raw, uapi in
      // Given up by the library, also if it fails. Not made earlier: nothing else would give it up.
      let callbacks = packets.raw
      return withUnsafePointer(to: callbacks) { callbacks in
        raw.tun = callbacks
        return wg_turn_on_with(&raw, uapi)
      }
    }
  }

  /// Turns on a tunnel over a `utun` interface, or one end of a socketpair that keeps packet boundaries. The library
  /// uses a duplicate; the descriptor stays the caller's, but is non-blocking from then on.
  ///
  /// - Throws: `WgError`, for example with the code `.invalid` if the descriptor is not open.
  public convenience init(_ config: Config, descriptor: Int32, options: TunnelOptions = TunnelOptions()) throws {
    try self.init(config, options) { raw, uapi in
      raw.tun_fd = descriptor
      return wg_turn_on_with(&raw, uapi)
    }
  }

  private init(
    _ config: Config, _ options: TunnelOptions, _ turnOn: (inout wg_options_t, UnsafePointer<CChar>) -> Int32
  ) throws {
    let hub = EventHub()
    handle = try config.withTunnelText { uapi in
      var raw = options.raw(config)
      raw.event = { user, _, event in
        guard let user, let event else { return }
        pooled { Unmanaged<EventHub>.fromOpaque(user).takeUnretainedValue().send(Event(event.pointee)) }
      }
      raw.event_user = Unmanaged.passRetained(hub).toOpaque()
      raw.event_destroy = { user in
        guard let user else { return }
        pooled { Unmanaged<EventHub>.fromOpaque(user).takeRetainedValue().finish() }
      }
      guard let transport = options.transport else { return try check(turnOn(&raw, uapi)) }
      let datagrams = transport.raw
      return try withUnsafePointer(to: datagrams) {
        raw.transport = $0
        return try check(turnOn(&raw, uapi))
      }
    }
    self.hub = hub
    self.config = Locked(config)
  }

  deinit {
    guard Tunnel.turnOff(handle) == WG_ERR_BUSY.rawValue else { return }
    // The last reference was dropped inside a callback, where the tunnel cannot wait for itself.
    let handle = handle
    DispatchQueue.global().async { _ = Tunnel.turnOff(handle) }
  }

  /// Turns the tunnel off. When this returns, no function that was passed to it is running, unless a resolver or
  /// another one takes longer than five seconds, for which the library then waits by itself. A second call is a no-op.
  ///
  /// - Throws: `WgError` with the code `.busy` inside a callback: the tunnel keeps running.
  public func close() throws {
    let result = Tunnel.turnOff(handle)
    if result == WG_ERR_TIMED_OUT.rawValue || result == WG_ERR_UNKNOWN_HANDLE.rawValue { return }
    try check(result)
  }

  private static func turnOff(_ handle: Int32) -> Int32 {
    let result = wg_turn_off_within(handle, closeWithin)
    // Waiting for a limited time needs a thread, which the system has refused; this needs none.
    return (result == WG_ERR_RESOURCES ? wg_turn_off(handle) : result).rawValue
  }

  /// The events of the tunnel. Each call returns a stream of its own, which ends when the tunnel is closed; the first
  /// one begins with the tunnel's first event. Of events that are not read, the newest 256 are kept.
  public var events: AsyncStream<Event> { hub.stream() }

  /// The number of events that streams have dropped because they were not read in time.
  public var droppedEvents: UInt64 { hub.dropped }

  /// Changes the configuration. Only differences are applied: peers that are in both configurations keep their
  /// sessions, and the endpoints that they have moved to. Addresses, routes and DNS belong to the interface, and stay.
  ///
  /// - Throws: `WgError` if the port is in use; nothing has changed then.
  public func update(_ new: Config) throws {
    try config.withLock { config in
      try new.withChanges(since: config) { try check(wg_set_config(handle, $0)) }
      config = new
    }
  }

  /// Adapts to a change of networks: reopens the sockets, looks host names up again, and sends each peer with a session
  /// a packet.
  ///
  /// - Throws: `WgError` if the sockets cannot be opened now; the library then retries by itself.
  public func networkChanged() throws { try check(wg_network_changed(handle)) }

  /// Reopens the sockets on the same port.
  ///
  /// - Throws: as `networkChanged`.
  public func bumpSockets() throws { try check(wg_bump_sockets(handle)) }

  /// Closes the sockets and drops the sessions, until `resume()`; nothing wakes a thread of the tunnel.
  public func pause() throws { try check(wg_pause(handle)) }

  /// Resumes after `pause()`, with new sockets. A handshake begins with each peer that had a session.
  ///
  /// - Throws: as `networkChanged`.
  public func resume() throws { try check(wg_resume(handle)) }

  /// An address family of sockets.
  public enum Family: Sendable, CaseIterable { case ipv4, ipv6 }

  /// Binds the socket of a family to an interface by its index, regardless of the routes; 0 ends that. While
  /// `blackhole` is set, its outgoing datagrams are dropped.
  ///
  /// - Throws: `WgError` with the code `.notFound` without such an interface, `.unsupported` if the host lacks the
  ///   family; nothing has changed then.
  public func bind(_ family: Family, interface: UInt32, blackhole: Bool = false) throws {
    switch family {
    case .ipv4: try check(wg_bind_socket_to_interface4(handle, interface, blackhole ? 1 : 0))
    case .ipv6: try check(wg_bind_socket_to_interface6(handle, interface, blackhole ? 1 : 0))
    }
  }

  /// Begins a handshake with a peer; nil for each peer with an endpoint.
  ///
  /// - Throws: `WgError` with the code `.notFound` if there is no such peer, or it has no endpoint.
  public func forceHandshake(with peer: Key? = nil) throws {
    try withPeer(peer) { try check(wg_force_handshake(handle, $0)) }
  }

  /// Drops the sessions of a peer, and wipes their keys; nil for all peers.
  ///
  /// - Throws: `WgError` with the code `.notFound` if there is no such peer.
  public func dropSession(with peer: Key? = nil) throws {
    try withPeer(peer) { try check(wg_drop_session(handle, $0)) }
  }

  private func withPeer(_ peer: Key?, _ body: (UnsafePointer<UInt8>?) throws -> Void) throws {
    if let peer { try peer.withBytes { try body($0) } } else { try body(nil) }
  }

  /// Changes the MTU of a tunnel with custom packets: packets are padded up to it.
  public func setMTU(_ mtu: Int) throws { try check(wg_set_mtu(handle, UInt32(clamping: mtu))) }

  /// Releases memory that is not needed at present, for a warning of the system.
  public func trim() throws { try check(wg_trim(handle)) }
}
