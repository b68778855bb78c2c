// A stand-in for the part of Apple's NetworkExtension that WgEmbedTunnel uses. What Apple's classes do is left to
// subclasses in the tests.
@_exported import Foundation

open class NEProvider: NSObject {
  open func sleep(completionHandler: @escaping @Sendable () -> Void) { completionHandler() }
  open func wake() {}
}

open class NETunnelNetworkSettings: NSObject {
  public let tunnelRemoteAddress: String
  open var dnsSettings: NEDNSSettings?

  public init(tunnelRemoteAddress: String) { self.tunnelRemoteAddress = tunnelRemoteAddress }
}

open class NEPacketTunnelNetworkSettings: NETunnelNetworkSettings {
  open var ipv4Settings: NEIPv4Settings?
  open var ipv6Settings: NEIPv6Settings?
  open var mtu: NSNumber?
}

open class NEDNSSettings: NSObject {
  public let servers: [String]
  open var searchDomains: [String]?
  open var matchDomains: [String]?

  public init(servers: [String]) { self.servers = servers }
}

open class NEIPv4Settings: NSObject {
  public let addresses: [String]
  public let subnetMasks: [String]
  open var includedRoutes: [NEIPv4Route]?

  public init(addresses: [String], subnetMasks: [String]) {
    self.addresses = addresses
    self.subnetMasks = subnetMasks
  }
}

open class NEIPv6Settings: NSObject {
  public let addresses: [String]
  public let networkPrefixLengths: [NSNumber]
  open var includedRoutes: [NEIPv6Route]?

  public init(addresses: [String], networkPrefixLengths: [NSNumber]) {
    self.addresses = addresses
    self.networkPrefixLengths = networkPrefixLengths
  }
}

open class NEIPv4Route: NSObject {
  public let destinationAddress: String
  public let destinationSubnetMask: String
  open var gatewayAddress: String?

  public init(destinationAddress: String, subnetMask: String) {
    self.destinationAddress = destinationAddress
    destinationSubnetMask = subnetMask
  }
}

open class NEIPv6Route: NSObject {
  public let destinationAddress: String
  public let destinationNetworkPrefixLength: NSNumber
  open var gatewayAddress: String?

  public init(destinationAddress: String, networkPrefixLength: NSNumber) {
    self.destinationAddress = destinationAddress
    destinationNetworkPrefixLength = networkPrefixLength
  }
}

open class NEPacketTunnelFlow: NSObject {
  open func readPackets(completionHandler: @escaping @Sendable ([Data], [NSNumber]) -> Void) {}

  @discardableResult
  open func writePackets(_ packets: [Data], withProtocols protocols: [NSNumber]) -> Bool { true }
}

public class NEVPNProtocol: NSObject {
  public var serverAddress: String?
}

public class NETunnelProviderProtocol: NEVPNProtocol {
  public var providerBundleIdentifier: String?
  public var providerConfiguration: [String: Any]?
}

public class NEVPNConnection: NSObject {
  public func startVPNTunnel() throws {}
  public func stopVPNTunnel() {}
}

public class NEVPNManager: NSObject {
  public let connection = NEVPNConnection()
  public var protocolConfiguration: NEVPNProtocol?
  public var localizedDescription: String?
  public var isEnabled = false

  public func saveToPreferences() async throws {}
  public func loadFromPreferences() async throws {}
}

public class NETunnelProviderManager: NEVPNManager {
  public class func loadAllFromPreferences() async throws -> [NETunnelProviderManager] { [] }
}

public enum NEProviderStopReason: Int, Sendable { case none, userInitiated }

open class NETunnelProvider: NEProvider {
  open var reasserting = false
  open var protocolConfiguration: NEVPNProtocol { NETunnelProviderProtocol() }

  open func setTunnelNetworkSettings(
    _ settings: NETunnelNetworkSettings?, completionHandler: (@Sendable (Error?) -> Void)? = nil
  ) {
    completionHandler?(nil)
  }

  open func handleAppMessage(_ message: Data, completionHandler: ((Data?) -> Void)? = nil) {}
}

open class NEPacketTunnelProvider: NETunnelProvider {
  open var packetFlow: NEPacketTunnelFlow { NEPacketTunnelFlow() }

  open func startTunnel(options: [String: NSObject]? = nil) async throws {}
  open func stopTunnel(with reason: NEProviderStopReason) async {}
  open func cancelTunnelWithError(_ error: Error?) {}
}
