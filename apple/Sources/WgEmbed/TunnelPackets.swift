internal import CWgEmbed
import Foundation

extension Tunnel {
  /// The largest number of packets in one call of the library, which bounds the memory of a copy.
  private static let batch = 128

  /// Passes IP packets into a tunnel with custom packets, and returns how many it has taken, from the first one on.
  /// Pass the rest again when `PacketIO.room` is called, or drop it, as a network interface does. Never waits.
  ///
  /// - Throws: `WgError` with the code `.closed` if the tunnel has ended.
  @discardableResult
  public func inject(_ packets: [Data]) throws -> Int {
    try inBatches(packets) { batch in
      try withBlock(of: batch) { starts in
        let list = zip(starts, batch).map { start, packet in
          wg_packet_t(data: UnsafePointer(start.assumingMemoryBound(to: UInt8.self)), len: packet.count)
        }
        var taken = 0
        try check(wg_tun_inject(handle, list, list.count, &taken))
        return taken
      }
    }
  }

  /// Passes received datagrams into a tunnel with a `Transport`, and returns how many it has taken, from the first one
  /// on. Drop the rest, as a socket does. Never waits.
  ///
  /// - Throws: as `inject`.
  @discardableResult
  public func receive(_ datagrams: [Datagram]) throws -> Int {
    try inBatches(datagrams) { batch in
      try withBlock(of: batch.map(\.data)[...]) { starts in
        var endpoints = batch.map(\.endpoint.raw)
        return try endpoints.withUnsafeMutableBufferPointer { endpoints in
          let list = zip(starts, batch).enumerated().map { index, part in
            var raw = wg_datagram_t()
            raw.data = part.0
            raw.len = part.1.data.count
            raw.tos = UInt32(part.1.tos)
            raw.peer = endpoints.baseAddress! + index
            return raw
          }
          var taken = 0
          try check(wg_transport_receive(handle, list, list.count, &taken))
          return taken
        }
      }
    }
  }

  /// Calls `body` with one part after another until it does not take all of a part.
  private func inBatches<Item>(_ items: [Item], _ body: (ArraySlice<Item>) throws -> Int) throws -> Int {
    var taken = 0
    while taken < items.count {
      let batch = items[taken..<min(taken + Tunnel.batch, items.count)]
      let now = try body(batch)
      taken += now
      if now < batch.count { break }
    }
    return taken
  }
}
