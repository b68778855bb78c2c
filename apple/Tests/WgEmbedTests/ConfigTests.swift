import Foundation
import TestSupport
import XCTest

@testable import WgEmbed

final class ConfigTests: XCTestCase {
  private let conf = """
    [Interface]
    PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
    Address = 10.0.0.2/24, fd00::2
    DNS = 1.1.1.1, corp.example
    MTU = 1400
    ListenPort = 51820
    PostUp = echo %i
    [Peer]
    PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
    PresharedKey = nJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnJw=
    Endpoint = vpn.example.com:51820
    AllowedIPs = 10.1.2.3/8, ::/0
    PersistentKeepalive = 25
    """

  func testAFile() throws {
    let config = try Config(conf)
    XCTAssertEqual(config.privateKey?.base64, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
    XCTAssertEqual(config.addresses.map(\.description), ["10.0.0.2/24", "fd00::2/128"])
    XCTAssertEqual(config.dnsServers, ["1.1.1.1"])
    XCTAssertEqual(config.searchDomains, ["corp.example"])
    XCTAssertEqual(config.mtu, 1400)
    XCTAssertEqual(config.listenPort, 51820)
    XCTAssertTrue(config.hasRoutes)
    XCTAssertEqual(config.peers.count, 1)
    let peer = try XCTUnwrap(config.peers.first)
    XCTAssertEqual(peer.publicKey.base64, "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")
    XCTAssertEqual(peer.presharedKey?.data, Data(repeating: 0x9c, count: 32))
    XCTAssertEqual(peer.endpoint, "vpn.example.com:51820")
    XCTAssertEqual(peer.persistentKeepalive, 25)
    XCTAssertEqual(peer.allowedIPs.map(\.isIPv6), [false, true])
    XCTAssertEqual(peer.allowedIPs.map(\.network), ["10.0.0.0", "::"])
  }

  func testBytesOfOtherEncodings() throws {
    let bytes = try XCTUnwrap(conf.data(using: .utf16))
    XCTAssertEqual(try Config(bytes).mtu, 1400)
    XCTAssertFalse(try Config("[Interface]\nTable = off\n").hasRoutes)
    XCTAssertNil(try Config("[Interface]\n").privateKey)
  }

  func testWhatIsRefusedIsNamedWithoutItsValue() throws {
    for (text, place) in [("[Interface]\nPrivateKey = SECRET\n", "line 2"), ("[Interface]\n\nMTU = 1\n", "line 3")] {
      XCTAssertThrowsError(try Config(text)) { error in
        XCTAssertEqual((error as? WgError)?.code, .invalid)
        XCTAssertTrue("\(error)".contains(place), "\(error)")
        XCTAssertFalse("\(error)".contains("SECRET"), "\(error)")
      }
    }
    XCTAssertEqual(code { _ = try Config("") }, .invalid)
    XCTAssertEqual(code { _ = try Config(Data()) }, .invalid)
  }

  func testPrefixes() throws {
    let cases = [
      ("192.0.2.130/25", "192.0.2.128", "255.255.255.128"), ("10.1.2.3/0", "0.0.0.0", "0.0.0.0"),
      ("10.1.2.3/32", "10.1.2.3", "255.255.255.255"), ("10.1.2.3/9", "10.0.0.0", "255.128.0.0"),
      ("2001:db8:ffff::1/33", "2001:db8:8000::", "ffff:ffff:8000::"),
    ]
    for (text, network, mask) in cases {
      let prefix = try XCTUnwrap(Prefix(text))
      XCTAssertEqual([prefix.network, prefix.mask, prefix.description], [network, mask, text])
    }
    for text in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/-1", "::1/129", "host/8", "1/2/3"] {
      XCTAssertNil(Prefix(text), text)
    }
  }
}
