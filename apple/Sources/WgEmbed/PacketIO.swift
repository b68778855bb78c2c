internal import CWgEmbed
import Foundation

/// Custom packets in place of a descriptor: those that come out of the tunnel. The others go to `Tunnel.inject`.
///
/// The functions are called on threads of the library, perhaps before the tunnel's `init` has returned. The tunnel
/// waits for them: they must return soon, and must not call the tunnel, except for `inject`, `receive` and `setMTU`.
public struct PacketIO: Sendable {
  /// Receives decrypted IP packets, in order.
  public let write: @Sendable ([Data]) -> Void
  /// Called when there is room again after `inject` could not take all packets.
  public let room: @Sendable () -> Void

  public init(write: @escaping @Sendable ([Data]) -> Void, room: @escaping @Sendable () -> Void = {}) {
    self.write = write
    self.room = room
  }

  /// The struct for C, whose `user` it gives up by `destroy`.
  var raw: wg_tun_callbacks_t {
    var raw = wg_tun_callbacks_t.sized
    raw.user = Box.retained(self)
    raw.destroy = releaseBox
    raw.write = { user, _, packets, count in
      guard let user, let packets else { return 0 }
      pooled {
        Box<PacketIO>.value(user).write(
          UnsafeBufferPointer(start: packets, count: count).map { packet in
            packet.data.map { Data(bytes: $0, count: packet.len) } ?? Data()
          })
      }
      return count
    }
    raw.room = { user, _ in
      guard let user else { return }
      pooled { Box<PacketIO>.value(user).room() }
    }
    return raw
  }
}

/// Copies parts of a batch to one block of memory, and passes `body` where each begins.
func withBlock<Result>(
  of parts: ArraySlice<Data>, _ body: ([UnsafeMutableRawPointer]) throws -> Result
) rethrows -> Result {
  let size = parts.reduce(0) { $0 + $1.count }
  return try withUnsafeTemporaryAllocation(byteCount: max(size, 1), alignment: 1) { block in
    var next = block.baseAddress!
    return try body(
      parts.map { part in
        defer { next += part.count }
        part.copyBytes(to: UnsafeMutableRawBufferPointer(start: next, count: part.count))
        return next
      })
  }
}
