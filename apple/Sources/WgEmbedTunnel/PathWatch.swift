#if canImport(Network)
import Foundation
import Network
import WgEmbed

/// Follows the network path of a tunnel. While there is no network, all datagrams are dropped, as the routes that
/// remain may lead into the tunnel itself. Paths are handled on the queue; `cancel` may be called on any thread.
final class PathWatch: @unchecked Sendable {
  private let tunnel: Tunnel
  private let bindsToInterface: Bool
  private let monitor = NWPathMonitor()
  // Used on the queue only.
  private var last: PathState?

  /// With `bindsToInterface`, sockets are bound to the first physical interface: on macOS the routes of other tunnels
  /// would take their datagrams otherwise. On iOS the system keeps the sockets of an extension out of its tunnel.
  init(_ tunnel: Tunnel, queue: DispatchQueue, bindsToInterface: Bool) {
    self.tunnel = tunnel
    self.bindsToInterface = bindsToInterface
    monitor.pathUpdateHandler = { [weak self] path in self?.changed(to: PathState(path)) }
    monitor.start(queue: queue)
  }

  func cancel() { monitor.cancel() }

  private func changed(to now: PathState) {
    let before = last
    guard now != before else { return }
    last = now
    guard now.isUsable else { return bind(interface: 0, blackhole: true) }
    let interface = bindsToInterface ? now.physical : 0
    if before?.isUsable == false || bindsToInterface { bind(interface: interface, blackhole: false) }
    // The sockets are as new as the first path.
    guard before != nil else { return }
    // It retries by itself, logs the reason, and reports an event.
    try? tunnel.networkChanged()
  }

  private func bind(interface: UInt32, blackhole: Bool) {
    for family in Tunnel.Family.allCases {
      do {
        try tunnel.bind(family, interface: interface, blackhole: blackhole)
      } catch {
        // The host lacks the family, or the interface has just gone: then routes decide until the next path.
        try? tunnel.bind(family, interface: 0, blackhole: blackhole)
      }
    }
  }
}
#endif
