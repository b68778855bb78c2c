#if canImport(NetworkExtension)
import NetworkExtension
import WgEmbed

extension PacketTunnelAdapter {
  /// Returns the settings of the interface for a configuration: addresses, the allowed IPs of all peers as routes
  /// (unless the file has `Table = off`), DNS and MTU. Routes of a family without an address are set as well, so that
  /// its packets do not leave outside the tunnel. The settings can be changed, for example to exclude routes, and
  /// passed to `start` and `update`.
  public static func networkSettings(_ config: Config) -> NEPacketTunnelNetworkSettings {
    // Shown to the user only. There may be several peers, or a name.
    let settings = NEPacketTunnelNetworkSettings(tunnelRemoteAddress: "127.0.0.1")
    let allowed = config.hasRoutes ? config.peers.flatMap(\.allowedIPs) : []
    settings.ipv4Settings = ipv4(config.addresses.filter { !$0.isIPv6 }, allowed.filter { !$0.isIPv6 })
    settings.ipv6Settings = ipv6(config.addresses.filter(\.isIPv6), allowed.filter(\.isIPv6))
    settings.dnsSettings = dns(config)
    settings.mtu = NSNumber(value: config.mtu ?? defaultMTU)
    return settings
  }

  /// nil if the family is not used.
  private static func ipv4(_ addresses: [Prefix], _ allowed: [Prefix]) -> NEIPv4Settings? {
    if addresses.isEmpty && allowed.isEmpty { return nil }
    let settings = NEIPv4Settings(addresses: addresses.map(\.address), subnetMasks: addresses.map(\.mask))
    settings.includedRoutes = routesV4(to: addresses, allowed)
    return settings
  }

  private static func ipv6(_ addresses: [Prefix], _ allowed: [Prefix]) -> NEIPv6Settings? {
    if addresses.isEmpty && allowed.isEmpty { return nil }
    let lengths = addresses.map { NSNumber(value: effective($0.length)) }
    let settings = NEIPv6Settings(addresses: addresses.map(\.address), networkPrefixLengths: lengths)
    settings.includedRoutes = routesV6(to: addresses, allowed)
    return settings
  }

  private static func dns(_ config: Config) -> NEDNSSettings? {
    if config.dnsServers.isEmpty && config.searchDomains.isEmpty { return nil }
    let settings = NEDNSSettings(servers: config.dnsServers)
    settings.searchDomains = config.searchDomains
    // All names, not only those in the search domains. Without a server, names are left to the system's servers.
    if !config.dnsServers.isEmpty { settings.matchDomains = [""] }
    return settings
  }

  /// The networks of the interface itself, then those behind it.
  private static func routesV4(to addresses: [Prefix], _ allowed: [Prefix]) -> [NEIPv4Route] {
    let own = addresses.map { address in
      let route = NEIPv4Route(destinationAddress: address.network, subnetMask: address.mask)
      route.gatewayAddress = address.address
      return route
    }
    return own + allowed.map { NEIPv4Route(destinationAddress: $0.network, subnetMask: $0.mask) }
  }

  private static func routesV6(to addresses: [Prefix], _ allowed: [Prefix]) -> [NEIPv6Route] {
    let own = addresses.map { address in
      let length = NSNumber(value: effective(address.length))
      let route = NEIPv6Route(destinationAddress: address.network, networkPrefixLength: length)
      route.gatewayAddress = address.address
      return route
    }
    return own
      + allowed.map {
        NEIPv6Route(destinationAddress: $0.network, networkPrefixLength: NSNumber(value: $0.length))
      }
  }

  /// iOS ignores an interface's IPv6 address with a longer prefix than this.
  private static func effective(_ length: Int) -> Int { min(length, 120) }
}
#endif
