import NetworkExtension
import WgEmbed
import WgEmbedTunnel

/// The whole of a packet tunnel extension. The app puts the text of a `.conf` file into the configuration of its
/// `NETunnelProviderManager`, under the key "conf".
final class PacketTunnelProvider: NEPacketTunnelProvider {
  private lazy var adapter = PacketTunnelAdapter(self)

  override func startTunnel(options: [String: NSObject]? = nil) async throws {
    let configuration = (protocolConfiguration as? NETunnelProviderProtocol)?.providerConfiguration
    guard let conf = configuration?["conf"] as? String else { throw WgError(.notFound, "there is no configuration") }
    try await adapter.start(Config(conf))
  }

  override func stopTunnel(with reason: NEProviderStopReason) async { await adapter.stop() }

  override func sleep(completionHandler: @escaping @Sendable () -> Void) {
    adapter.sleep()
    completionHandler()
  }

  override func wake() { adapter.wake() }

  /// Answers the app with the state of the tunnel.
  override func handleAppMessage(_ message: Data, completionHandler: ((Data?) -> Void)? = nil) {
    completionHandler?((try? adapter.tunnel?.description())?.data(using: .utf8))
  }
}
