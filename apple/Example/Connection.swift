import NetworkExtension

/// The app's side: saves the text of a `.conf` file for the extension, and turns the tunnel on. The system asks the
/// user for permission when the first configuration is saved.
func connect(_ conf: String) async throws {
  let manager = try await NETunnelProviderManager.loadAllFromPreferences().first ?? NETunnelProviderManager()
  let tunnel = NETunnelProviderProtocol()
  tunnel.providerBundleIdentifier = "com.example.vpn.tunnel"  // That of the extension.
  tunnel.serverAddress = "vpn.example.com"  // Any text: the system's settings show it.
  tunnel.providerConfiguration = ["conf": conf]
  manager.protocolConfiguration = tunnel
  manager.localizedDescription = "Example"
  manager.isEnabled = true
  try await manager.saveToPreferences()
  try await manager.loadFromPreferences()  // Without it, a configuration that is new cannot be started.
  try manager.connection.startVPNTunnel()
}

/// Turns the tunnel off.
func disconnect() async throws {
  for manager in try await NETunnelProviderManager.loadAllFromPreferences() { manager.connection.stopVPNTunnel() }
}
