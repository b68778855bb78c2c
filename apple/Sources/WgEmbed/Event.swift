internal import CWgEmbed

/// What has happened to a tunnel. Later versions may add cases, so a `switch` should have a `default`.
public enum Event: Sendable, Hashable {
  /// A session with the peer is established.
  case handshakeCompleted(peer: Key)
  /// The peer did not answer 20 initiations in a row, in about 100 seconds. The next packet begins a new handshake.
  case handshakeFailed(peer: Key)
  /// The last session with the peer has ended: after some minutes without traffic, which is not an error.
  case sessionExpired(peer: Key)
  /// The peer has moved: `192.0.2.1:51820`, `[2001:db8::1]:51820`.
  case endpointChanged(peer: Key, endpoint: String)
  /// The host name of the peer could not be resolved. The look-up is repeated as long as there are packets for it.
  case resolveFailed(peer: Key, reason: String)
  /// The route to the peer leads into the tunnel itself; datagrams for it are dropped.
  case routingLoop(peer: Key, endpoint: String)
  /// New sockets could not be opened, or the open ones have become unusable. Opening is retried until it succeeds.
  case socketsLost(reason: String)
  /// New sockets are open on this UDP port: after `socketsLost`, or because another port is used.
  case socketsRecovered(port: Int)
  /// The tunnel has ended by itself. Close it.
  case ended(reason: String)
  /// A `wg_event_kind_t` that this package does not have a case for.
  case other(kind: UInt32)

  init(_ event: wg_event_t) {
    let peer = withUnsafeBytes(of: event.public_key) { Key($0.baseAddress!) }
    let endpoint = String(field: event.endpoint)
    let reason = String(field: event.reason)
    switch event.kind {
    case WG_EVENT_HANDSHAKE_COMPLETED.rawValue: self = .handshakeCompleted(peer: peer)
    case WG_EVENT_HANDSHAKE_FAILED.rawValue: self = .handshakeFailed(peer: peer)
    case WG_EVENT_SESSION_EXPIRED.rawValue: self = .sessionExpired(peer: peer)
    case WG_EVENT_ENDPOINT_CHANGED.rawValue: self = .endpointChanged(peer: peer, endpoint: endpoint)
    case WG_EVENT_RESOLVE_FAILED.rawValue: self = .resolveFailed(peer: peer, reason: reason)
    case WG_EVENT_ROUTING_LOOP.rawValue: self = .routingLoop(peer: peer, endpoint: endpoint)
    case WG_EVENT_SOCKETS_LOST.rawValue: self = .socketsLost(reason: reason)
    case WG_EVENT_SOCKETS_RECOVERED.rawValue: self = .socketsRecovered(port: Int(event.listen_port))
    case WG_EVENT_ENDED.rawValue: self = .ended(reason: reason)
    default: self = .other(kind: event.kind)
    }
  }
}
