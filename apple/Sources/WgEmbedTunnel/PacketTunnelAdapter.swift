#if canImport(NetworkExtension)
import Foundation
@preconcurrency import NetworkExtension
import WgEmbed

/// What is between an `NEPacketTunnelProvider` and its tunnel: network settings, packets, changes of networks, sleep.
///
/// A provider has one adapter, and calls `start`, `update`, `stop`, `sleep` and `wake` from the functions that the
/// system calls. They may be called on any thread; `start`, `update` and `stop` are carried out one after another.
public final class PacketTunnelAdapter: @unchecked Sendable {
  /// Where packets come from.
  public enum Source: Sendable {
    /// `packetFlow` of the provider, the documented way.
    case flow
    /// The descriptor of the interface, which is found by a search. It saves copies, and two queues.
    case utun
  }

  /// The MTU of a configuration without one: it passes everywhere.
  static let defaultMTU = 1280

  /// The limit for packets of a tunnel in an extension, in bytes. iOS ends extensions that take more than 15 to 50 MB.
  static let memoryLimit = 2 << 20

  private weak var provider: NEPacketTunnelProvider?
  private let operations = Serial()
  private let hub = EventHub()
  private let queue = DispatchQueue(label: "com.wgembed.adapter", autoreleaseFrequency: .workItem)
  // These are used on the queue only.
  private var running: Running?
  private var isAsleep = false

  /// What exists while a tunnel runs.
  private struct Running {
    let tunnel: Tunnel
    var config: Config
    /// The MTU of a configuration without one; nil over a descriptor, whose MTU is that of the interface.
    let mtu: Int?
    let watch: PathWatch

    /// Changes the tunnel only: `config` stays.
    func change(to new: Config) throws {
      try tunnel.update(new)
      // A configuration has no MTU that is refused, so this fails only if the tunnel has ended.
      if let mtu { try tunnel.setMTU(new.mtu ?? mtu) }
    }

    /// Not on the adapter's queue, so that no function of the tunnel waits for it.
    func end() {
      watch.cancel()
      // It fails in a callback of the tunnel only, and then the end of the last reference turns it off.
      try? tunnel.close()
    }
  }

  // For tests.
  var settingsLimit: TimeInterval = 5
  var findUtun: @Sendable () -> Int32? = { Utun.system.find() }
  #if os(macOS)
  var bindsToInterface = true
  #else
  var bindsToInterface = false
  #endif

  /// Keeps a weak reference to the provider.
  public init(_ provider: NEPacketTunnelProvider) { self.provider = provider }

  deinit {
    running?.end()
    hub.finish()
  }

  /// The events of the tunnels that this adapter starts. Each call returns a stream of its own; of events that are not
  /// read, the newest 256 are kept. When a tunnel ends by itself, the adapter also cancels the provider's tunnel.
  public var events: AsyncStream<Event> { hub.stream() }

  /// Applies the network settings, and starts a tunnel. `settings` are those of the interface; nil for
  /// `networkSettings(_:)` of the configuration.
  ///
  /// - Throws: the error of `setTunnelNetworkSettings`; or `WgError`: `.exists` if there is a tunnel, `.notFound`
  ///   without the interface's descriptor, and those of `Tunnel.init`.
  public func start(
    _ config: Config, source: Source = .flow, settings: NEPacketTunnelNetworkSettings? = nil,
    options: TunnelOptions = PacketTunnelAdapter.options
  ) async throws {
    let settings = Handed(settings ?? PacketTunnelAdapter.networkSettings(config))
    try await operations.run { [self] in
      guard queue.sync(execute: { running == nil }) else { throw WgError(.exists, "the tunnel has been started") }
      guard let provider else { throw WgError(.closed, "there is no provider any more") }
      try await apply(settings.value, provider)
      try queue.sync { try turnOn(config, source, options, provider) }
    }
  }

  /// The options of `start`: a limit for memory that suits an extension.
  public static var options: TunnelOptions {
    var options = TunnelOptions()
    options.mtu = defaultMTU
    options.memoryLimit = memoryLimit
    return options
  }

  /// Changes the configuration of the running tunnel, its MTU, and its network settings. Peers that are in both
  /// configurations keep their sessions. On failure nothing has changed.
  ///
  /// - Throws: as `start`; `WgError` with the code `.closed` without a tunnel.
  public func update(_ config: Config, settings: NEPacketTunnelNetworkSettings? = nil) async throws {
    let settings = Handed(settings ?? PacketTunnelAdapter.networkSettings(config))
    try await operations.run { [self] in
      guard let provider, let before = queue.sync(execute: { running }) else {
        throw WgError(.closed, "there is no tunnel")
      }
      try before.change(to: config)
      provider.reasserting = true
      defer { provider.reasserting = false }
      do {
        try await apply(settings.value, provider)
      } catch {
        // The same changes in the other direction: they were accepted before.
        try? before.change(to: before.config)
        throw error
      }
      queue.sync { running?.config = config }
    }
  }

  /// Stops the tunnel, if there is one.
  public func stop() async {
    // Nothing in there throws.
    try? await operations.run { [self] in
      let ended = queue.sync {
        defer { running = nil }
        isAsleep = false
        return running
      }
      ended?.end()
    }
  }

  /// Closes the sockets until `wake()`, so that nothing wakes the device.
  public func sleep() {
    queue.sync {
      isAsleep = true
      try? running?.tunnel.pause()
    }
  }

  /// Opens sockets again, looks names up again, and begins a handshake with each peer that had a session. It does not
  /// wait.
  public func wake() {
    queue.async { [self] in
      isAsleep = false
      // On failure the library retries by itself.
      try? running?.tunnel.resume()
      try? running?.tunnel.networkChanged()
    }
  }

  /// The running tunnel: for its statistics, peers, counters, and `description()` for messages of the app.
  public var tunnel: Tunnel? { queue.sync { running?.tunnel } }

  /// Applies network settings, and waits until the system has done so, but for five seconds at most: it sometimes never
  /// calls back, and the settings are in force nevertheless.
  private func apply(_ settings: NEPacketTunnelNetworkSettings, _ provider: NEPacketTunnelProvider) async throws {
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, Error>) in
      let waiting = Locked<CheckedContinuation<Void, Error>?>(continuation)
      let finish: @Sendable (Error?) -> Void = { error in
        let continuation = waiting.withLock { waiting in
          defer { waiting = nil }
          return waiting
        }
        if let error { continuation?.resume(throwing: error) } else { continuation?.resume() }
      }
      DispatchQueue.global().asyncAfter(deadline: .now() + settingsLimit) { finish(nil) }
      provider.setTunnelNetworkSettings(settings, completionHandler: finish)
    }
  }

  /// Called on the queue.
  private func turnOn(
    _ config: Config, _ source: Source, _ options: TunnelOptions, _ provider: NEPacketTunnelProvider
  ) throws {
    var flow: PacketFlow?
    var mtu: Int?
    let tunnel: Tunnel
    switch source {
    case .flow:
      let packets = PacketFlow(provider.packetFlow, queue: queue)
      tunnel = try Tunnel(config, packets: packets.packets, options: options)
      flow = packets
      mtu = options.mtu
    case .utun:
      guard let descriptor = findUtun() else { throw WgError(.notFound, "there is no descriptor of a utun interface") }
      tunnel = try Tunnel(config, descriptor: descriptor, options: options)
    }
    if isAsleep { try? tunnel.pause() }
    // Ends with the tunnel, and must not keep it alive: in a callback only the end of the last reference turns it off.
    let events = tunnel.events
    Task { [hub, weak self] in
      for await event in events {
        hub.send(event)
        if case .ended(let reason) = event { self?.provider?.cancelTunnelWithError(WgError(.closed, reason)) }
      }
    }
    let watch = PathWatch(tunnel, queue: queue, bindsToInterface: bindsToInterface)
    running = Running(tunnel: tunnel, config: config, mtu: mtu, watch: watch)
    flow?.start(tunnel)
  }
}

/// A value that is handed from one thread to another, and not used by the first one any more.
private struct Handed<Value>: @unchecked Sendable {
  let value: Value

  init(_ value: Value) { self.value = value }
}
#endif
