internal import CWgEmbed
import Foundation

/// An encrypted datagram to or from a peer.
public struct Datagram: Sendable, Hashable {
  public var data: Data
  public var endpoint: Endpoint
  /// The TOS or traffic class byte of its IP header. Apple's systems support only its ECN bits.
  public var tos: UInt8

  public init(_ data: Data, endpoint: Endpoint, tos: UInt8 = 0) {
    self.data = data
    self.endpoint = endpoint
    self.tos = tos
  }
}

/// Custom datagrams in place of UDP sockets: for relays and obfuscation. Received ones go to `Tunnel.receive`.
///
/// Such a tunnel has no timer that counts sleep: call `Tunnel.networkChanged` when the machine has woken up.
public struct Transport: Sendable {
  /// Sends datagrams, and returns how many it accepted, from the first one on; the others are dropped. It is called on
  /// threads of the library and on threads inside a call of the tunnel, concurrently. It must not block, nor call the
  /// tunnel, except for `inject`, `receive` and `setMTU`.
  public let send: @Sendable ([Datagram]) -> Int

  public init(send: @escaping @Sendable ([Datagram]) -> Int) { self.send = send }

  /// The struct for C, whose `user` it gives up by `destroy`.
  var raw: wg_transport_t {
    var raw = wg_transport_t.sized
    raw.user = Box.retained(self)
    raw.destroy = releaseBox
    raw.send = { user, _, datagrams, count in
      guard let user, let datagrams else { return 0 }
      let accepted = pooled {
        Box<Transport>.value(user).send(
          UnsafeBufferPointer(start: datagrams, count: count).compactMap(Datagram.init))
      }
      return min(max(accepted, 0), count)
    }
    return raw
  }
}

extension Datagram {
  fileprivate init?(_ raw: wg_datagram_t) {
    guard let peer = raw.peer else { return nil }
    data = raw.data.map { Data(bytes: $0, count: raw.len) } ?? Data()
    endpoint = Endpoint(peer.pointee)
    tos = UInt8(truncatingIfNeeded: raw.tos)
  }
}
