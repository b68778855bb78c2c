import Foundation
import NetworkExtension
import TestSupport
import WgEmbed

/// The system's side of a packet flow.
final class TestFlow: NEPacketTunnelFlow, @unchecked Sendable {
  typealias Reader = @Sendable ([Data], [NSNumber]) -> Void

  let written = Locked<[(Data, NSNumber)]>([])
  /// Called after each write, inside the callback of the tunnel.
  let afterWrite = Locked<@Sendable () -> Void>({})
  private let reader = Locked<Reader?>(nil)

  override func readPackets(completionHandler: @escaping Reader) { reader.withLock { $0 = completionHandler } }

  override func writePackets(_ packets: [Data], withProtocols protocols: [NSNumber]) -> Bool {
    written.withLock { $0 += zip(packets, protocols) }
    afterWrite.withLock { $0 }()
    return true
  }

  /// Whether the adapter waits for packets.
  var isRead: Bool { reader.withLock { $0 != nil } }

  /// Waits until it does, and hands it packets.
  func deliver(_ packets: [Data]) async throws {
    try await until("the flow is read") { isRead }
    let reader = reader.withLock { reader in
      defer { reader = nil }
      return reader
    }
    reader?(packets, packets.map { _ in NSNumber(value: AF_INET) })
  }
}

/// A provider whose system is the test.
final class TestProvider: NEPacketTunnelProvider, @unchecked Sendable {
  typealias Completion = @Sendable (Error?) -> Void

  enum Answer: Sendable { case done, never, failure }

  let flow = TestFlow()
  let answer = Locked(Answer.done)
  /// What settings that were never answered wait with.
  let unanswered = Locked<[Completion]>([])
  let applied = Locked<[NEPacketTunnelNetworkSettings]>([])
  let cancelled = Locked<[WgError?]>([])

  override var packetFlow: NEPacketTunnelFlow { flow }

  override func setTunnelNetworkSettings(
    _ settings: NETunnelNetworkSettings?, completionHandler: Completion? = nil
  ) {
    if let settings = settings as? NEPacketTunnelNetworkSettings { applied.withLock { $0.append(settings) } }
    switch answer.withLock({ $0 }) {
    case .done: completionHandler?(nil)
    case .never: if let completionHandler { unanswered.withLock { $0.append(completionHandler) } }
    case .failure: completionHandler?(Refused())
    }
  }

  override func cancelTunnelWithError(_ error: Error?) { cancelled.withLock { $0.append(error as? WgError) } }
}

/// The error of a system that refuses settings.
struct Refused: Error {}
