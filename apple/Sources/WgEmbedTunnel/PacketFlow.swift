#if canImport(NetworkExtension)
import Foundation
@preconcurrency import NetworkExtension
import WgEmbed

/// Packets between the system's packet flow and a tunnel. While the tunnel has no room, nothing more is read, so that
/// the system holds packets back.
final class PacketFlow: @unchecked Sendable {
  private let flow: NEPacketTunnelFlow
  private let queue: DispatchQueue
  // These are used on the queue only.
  private weak var tunnel: Tunnel?
  private var waiting: ArraySlice<Data> = []

  init(_ flow: NEPacketTunnelFlow, queue: DispatchQueue) {
    self.flow = flow
    self.queue = queue
  }

  /// The tunnel's side. The tunnel keeps this object alive.
  var packets: PacketIO {
    PacketIO(
      write: { [self] packets in flow.writePackets(packets, withProtocols: packets.map(PacketFlow.family)) },
      room: { [self] in queue.async { self.pass() } })
  }

  /// Begins to read. Called on the queue. It ends with the tunnel.
  func start(_ tunnel: Tunnel) {
    self.tunnel = tunnel
    read()
  }

  private func read() {
    flow.readPackets { [weak self] packets, _ in
      guard let self else { return }
      queue.async {
        self.waiting = packets[...]
        self.pass()
        // A flow that returns without packets would not be read any more.
        if packets.isEmpty { self.read() }
      }
    }
  }

  private func pass() {
    guard !waiting.isEmpty, let tunnel else { return }
    do {
      waiting = waiting.dropFirst(try tunnel.inject(Array(waiting)))
    } catch {
      waiting = []
      if PacketFlow.isEnd(error) { return }
    }
    if waiting.isEmpty { read() }
  }

  /// Whether a tunnel that fails like this accepts no packets any more. Any other failure concerns the packets of one
  /// call, which are dropped.
  private static func isEnd(_ error: Error) -> Bool {
    [.closed, .unknownHandle].contains((error as? WgError)?.code)
  }

  /// The address family of a packet, by the first four bits of its header.
  private static func family(_ packet: Data) -> NSNumber {
    NSNumber(value: (packet.first ?? 0) >> 4 == 6 ? AF_INET6 : AF_INET)
  }
}
#endif
