#if canImport(Network)
import Network

/// What of a network path matters to a tunnel. Paths that are equal in it need no action: the system reports some of
/// them many times.
struct PathState: Equatable {
  let isUsable: Bool
  let interfaces: [String]
  let supportsIPv4: Bool
  let supportsIPv6: Bool
  /// The index of the first interface that is not a tunnel; 0 if there is none.
  let physical: UInt32

  init(_ path: NWPath) {
    // A connection that has to be made first is made by the first datagram.
    isUsable = path.status != .unsatisfied
    interfaces = path.availableInterfaces.map(\.name)
    supportsIPv4 = path.supportsIPv4
    supportsIPv6 = path.supportsIPv6
    let first = path.availableInterfaces.first { $0.type != .other && $0.type != .loopback }
    physical = first.map { UInt32(clamping: $0.index) } ?? 0
  }
}
#endif
