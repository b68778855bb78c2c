import Foundation
import NetworkExtension
import WgEmbed
import XCTest

@testable import WgEmbedTunnel

final class NetworkSettingsTests: XCTestCase {
  private let interface = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n"
  private let peer = "[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n"

  private func settings(_ own: String, _ peers: String...) throws -> NEPacketTunnelNetworkSettings {
    let text = interface + own + peers.map { peer + $0 }.joined(separator: "\n")
    return PacketTunnelAdapter.networkSettings(try Config(text))
  }

  func testEverythingOfAFile() throws {
    let settings = try settings(
      "Address = 10.0.0.2/24, fd00::2\nDNS = 1.1.1.1, corp.example\nMTU = 1400\n",
      "AllowedIPs = 0.0.0.0/0, fd01::1/64\n")
    XCTAssertEqual(settings.ipv4Settings?.addresses, ["10.0.0.2"])
    XCTAssertEqual(settings.ipv4Settings?.subnetMasks, ["255.255.255.0"])
    let routes = settings.ipv4Settings?.includedRoutes ?? []
    XCTAssertEqual(
      routes.map { [$0.destinationAddress, $0.destinationSubnetMask, $0.gatewayAddress ?? ""] },
      [["10.0.0.0", "255.255.255.0", "10.0.0.2"], ["0.0.0.0", "0.0.0.0", ""]])
    XCTAssertEqual(settings.ipv6Settings?.addresses, ["fd00::2"])
    XCTAssertEqual(settings.ipv6Settings?.networkPrefixLengths, [120])
    let routes6 = settings.ipv6Settings?.includedRoutes ?? []
    XCTAssertEqual(routes6.map(\.destinationAddress), ["fd00::2", "fd01::"])
    XCTAssertEqual(routes6.map(\.destinationNetworkPrefixLength), [120, 64])
    XCTAssertEqual(settings.dnsSettings?.servers, ["1.1.1.1"])
    XCTAssertEqual(settings.dnsSettings?.searchDomains, ["corp.example"])
    XCTAssertEqual(settings.dnsSettings?.matchDomains, [""])
    XCTAssertEqual(settings.mtu, 1400)
  }

  func testWhatIsNotInTheFileIsNotSet() throws {
    let settings = try settings("Address = 10.0.0.2/32\nTable = off\n", "AllowedIPs = 0.0.0.0/0, ::/0\n")
    XCTAssertEqual(settings.ipv4Settings?.includedRoutes?.map(\.destinationAddress), ["10.0.0.2"])
    XCTAssertNil(settings.ipv6Settings)
    XCTAssertNil(settings.dnsSettings)
    XCTAssertEqual(settings.mtu, 1280)
  }

  func testRoutesWithoutAnAddress() throws {
    let settings = try settings("Address = 10.0.0.2/32\n", "AllowedIPs = 0.0.0.0/0, ::/0\n")
    let routes = settings.ipv6Settings?.includedRoutes ?? []
    XCTAssertEqual(routes.map { "\($0.destinationAddress)/\($0.destinationNetworkPrefixLength)" }, ["::/0"])
    XCTAssertEqual(settings.ipv6Settings?.addresses, [])
    XCTAssertEqual(settings.ipv6Settings?.networkPrefixLengths, [])

    let other = try self.settings("Address = fd00::2\n", "AllowedIPs = 0.0.0.0/0\n")
    XCTAssertEqual(other.ipv4Settings?.includedRoutes?.map(\.destinationAddress), ["0.0.0.0"])
    XCTAssertEqual(other.ipv4Settings?.addresses, [])
    XCTAssertEqual(other.ipv6Settings?.addresses, ["fd00::2"])
  }

  func testSearchDomainsWithoutAServer() throws {
    let settings = try settings("Address = 10.0.0.2/32\nDNS = corp.example\n", "AllowedIPs = 10.0.0.0/8\n")
    XCTAssertEqual(settings.dnsSettings?.servers, [])
    XCTAssertEqual(settings.dnsSettings?.searchDomains, ["corp.example"])
    XCTAssertNil(settings.dnsSettings?.matchDomains)
  }
}
