#if canImport(NetworkExtension)
import NetworkExtension
import WgEmbed

extension PacketTunnelAdapter {
  /// Returns the settings of the interface for a configuration: addresses, the allowed IPs of all peers as routes
  /// (unless the file has `Table = off`), DNS and MTU. They can be changed, for example to exclude routes, and passed
  /// to `start` and `update`.
  public static func networkSettings(_ config: Config) -> NEPacketTunnelNetworkSettings {
    // Shown to the user only. There may be several peers, or a name.
    let settings = NEPacketTunnelNetworkSettings(tunnelRemoteAddress: "127.0.0.1")
    let addresses = (v4: config.addresses.filter { !$0.isIPv6 }, v6: config.addresses.filter(\.isIPv6))
    let routes = config.hasRoutes ? config.peers.flatMap(\.allowedIPs) : []
    if !addresses.v4.isEmpty {
      let ipv4 = NEIPv4Settings(addresses: addresses.v4.map(\.address), subnetMasks: addresses.v4.map(\.mask))
      ipv4.includedRoutes = routesV4(to: addresses.v4, routes.filter { !$0.isIPv6 })
      settings.ipv4Settings = ipv4
    }
    if !addresses.v6.isEmpty {
      let lengths = addresses.v6.map { NSNumber(value: effective($0.length)) }
      let ipv6 = NEIPv6Settings(addresses: addresses.v6.map(\.address), networkPrefixLengths: lengths)
      ipv6.includedRoutes = routesV6(to: addresses.v6, routes.filter(\.isIPv6))
      settings.ipv6Settings = ipv6
    }
    if !config.dnsServers.isEmpty {
      let dns = NEDNSSettings(servers: config.dnsServers)
      dns.searchDomains = config.searchDomains
      // All names, not only those in the search domains.
      dns.matchDomains = [""]
      settings.dnsSettings = dns
    }
    settings.mtu = NSNumber(value: config.mtu ?? defaultMTU)
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
