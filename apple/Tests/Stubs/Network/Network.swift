// A stand-in for the part of Apple's Network that WgEmbedTunnel uses. Tests change paths by `NWPathMonitor.report`.
import Foundation

public struct NWInterface: Hashable, Sendable {
  public enum InterfaceType: Sendable { case other, wifi, cellular, wiredEthernet, loopback }

  public let name: String
  public let index: Int
  public let type: InterfaceType

  public init(name: String, index: Int, type: InterfaceType) {
    self.name = name
    self.index = index
    self.type = type
  }
}

public struct NWPath: Hashable, Sendable {
  public enum Status: Sendable { case satisfied, unsatisfied, requiresConnection }

  public let status: Status
  public let availableInterfaces: [NWInterface]
  public let supportsIPv4: Bool
  public let supportsIPv6: Bool

  public init(
    _ status: Status, _ interfaces: [NWInterface] = [], supportsIPv4: Bool = true, supportsIPv6: Bool = false
  ) {
    self.status = status
    availableInterfaces = interfaces
    self.supportsIPv4 = supportsIPv4
    self.supportsIPv6 = supportsIPv6
  }
}

public final class NWPathMonitor: @unchecked Sendable {
  private static let lock = NSLock()
  nonisolated(unsafe) private static var running: [ObjectIdentifier: NWPathMonitor] = [:]

  private var queue: DispatchQueue?
  public var pathUpdateHandler: (@Sendable (NWPath) -> Void)?

  public init() {}

  public func start(queue: DispatchQueue) {
    self.queue = queue
    NWPathMonitor.lock.withLock { NWPathMonitor.running[ObjectIdentifier(self)] = self }
  }

  public func cancel() {
    _ = NWPathMonitor.lock.withLock { NWPathMonitor.running.removeValue(forKey: ObjectIdentifier(self)) }
  }

  /// The number of monitors that were started and not cancelled.
  public static var count: Int { lock.withLock { running.count } }

  /// Reports a path to all monitors, and returns when they have handled it.
  public static func report(_ path: NWPath) {
    for monitor in lock.withLock({ Array(running.values) }) {
      monitor.queue?.sync { monitor.pathUpdateHandler?(path) }
    }
  }
}
