import Foundation
import TestSupport
import XCTest

@testable import WgEmbed

final class TunnelTests: XCTestCase {
  func testPacketsPassBothWaysAndAreCounted() async throws {
    let pair = try Pair()
    try await pair.pass(1)

    // A packet is counted after it has been passed on.
    try await until("the packets are counted") {
      let statistics = try pair.client.statistics()
      return [statistics.txPackets, statistics.rxPackets] == [1, 1] && statistics.txBytes > 0
    }
    XCTAssertEqual(try pair.client.statistics().peers, 1)
    let peer = try pair.client.statistics(of: pair.serverSide.publicKey)
    // A keepalive may be sent between the two.
    try await until("both are equal") {
      try pair.client.peers() == [pair.client.statistics(of: pair.serverSide.publicKey)]
    }
    XCTAssertEqual(peer.publicKey, pair.serverSide.publicKey)
    XCTAssertEqual(peer.endpoint, "127.0.0.1:\(try pair.server.listenPort())")
    XCTAssertTrue(peer.hasSession)
    let age = Date().timeIntervalSince(try XCTUnwrap(peer.lastHandshake))
    XCTAssertLessThan(abs(age), 120)
    XCTAssertGreaterThan(try pair.client.memory().total, 0)
    XCTAssertEqual(try pair.client.publicKey(), pair.clientSide.publicKey)
    let description = try pair.client.description()
    XCTAssertTrue(description.contains("public_key=\(pair.serverSide.publicKey.hex)"), description)
    XCTAssertFalse(description.contains("private_key"), description)
    try pair.close()
  }

  func testWhatIsDroppedIsCountedByItsCause() async throws {
    let pair = try Pair()
    let elsewhere = try Side("192.0.2.1")
    try pair.client.inject([pair.clientSide.packet(to: elsewhere)])
    try await until("the packet is counted") { try pair.client.counters()[.outNoPeer] == 1 }
    // More than fit into one call of the library, and more than it takes without a session.
    let many = (0..<3000).map { pair.clientSide.packet(to: elsewhere, number: UInt16($0)) }
    let taken = try pair.client.inject(many)
    XCTAssertGreaterThan(taken, 0)
    try await until("all packets are counted") { try pair.client.counters()[.outNoPeer] == 1 + UInt64(taken) }
    XCTAssertEqual(try pair.client.inject([]), 0)
    try pair.close()
  }

  func testEventsFromTheFirstOneToTheLast() async throws {
    let pair = try Pair()
    try await pair.pass(1)
    // Asked for after the handshake.
    let events = pair.client.events
    try pair.client.dropSession()
    try await until("the session is gone") { try pair.client.peers().allSatisfy { !$0.hasSession } }
    try pair.close()
    var all: [Event] = []
    for await event in events { all.append(event) }
    let peer = pair.serverSide.publicKey
    XCTAssertEqual(all, [.handshakeCompleted(peer: peer), .sessionExpired(peer: peer)])
    XCTAssertEqual(pair.client.droppedEvents, 0)
    for await event in pair.client.events { XCTFail("\(event) after the end") }
  }

  func testUpdateKeepsSessions() async throws {
    let pair = try Pair()
    try await pair.pass(1)
    let before = try pair.client.statistics(of: pair.serverSide.publicKey)
    let port = try pair.client.listenPort()

    let third = try Side("10.9.0.3")
    let added = "\n[Peer]\nPublicKey = \(third.publicKey.base64)\nAllowedIPs = 10.9.0.3/32\n"
    try pair.client.update(Config(pair.clientConf + added))
    XCTAssertEqual(try pair.client.peers().count, 2)
    try await pair.pass(2)
    let after = try pair.client.statistics(of: pair.serverSide.publicKey)
    XCTAssertEqual(after.lastHandshake, before.lastHandshake)
    XCTAssertEqual(try pair.client.listenPort(), port)

    try pair.client.update(Config(pair.clientConf))
    XCTAssertEqual(try pair.client.peers().map(\.publicKey), [pair.serverSide.publicKey])
    XCTAssertEqual(try pair.client.peers().first?.lastHandshake, before.lastHandshake)
    try pair.close()
  }

  func testARefusedUpdateChangesNothing() async throws {
    let pair = try Pair()
    let taken = try pair.server.listenPort()
    let conf = pair.clientConf.replacingOccurrences(of: "ListenPort = 0", with: "ListenPort = \(taken)")
    let port = try pair.client.listenPort()
    XCTAssertEqual(code { try pair.client.update(Config(conf)) }, .addrInUse)
    XCTAssertEqual(try pair.client.listenPort(), port)
    // The next difference is that to the old configuration.
    try pair.client.update(Config(pair.clientConf))
    XCTAssertEqual(try pair.client.listenPort(), port)
    try await pair.pass(1)
    try pair.close()
  }

  func testNetworkChangePauseAndResume() async throws {
    let pair = try Pair()
    try await pair.pass(1)
    try pair.client.networkChanged()
    try await pair.pass(2)
    try pair.client.bumpSockets()
    try await pair.pass(3)
    try pair.client.pause()
    XCTAssertEqual(try pair.client.listenPort(), 0)
    try pair.client.resume()
    XCTAssertNotEqual(try pair.client.listenPort(), 0)
    try await pair.pass(4)
    try pair.client.forceHandshake()
    try pair.client.setMTU(1400)
    try pair.client.trim()
    try await pair.pass(5)
    try pair.close()
  }

  func testNothingLeavesIntoABlackHole() async throws {
    let pair = try Pair()
    try await pair.pass(1)
    try pair.client.bind(.ipv4, interface: 0, blackhole: true)
    let before = try pair.client.counters()[.outSendFailed] ?? 0
    try pair.client.inject([pair.clientSide.packet(to: pair.serverSide, number: 2)])
    try await until("the datagram is dropped") { try pair.client.counters()[.outSendFailed] ?? 0 > before }
    try pair.client.bind(.ipv4, interface: 0)
    try await pair.pass(3)
    XCTAssertEqual(pair.serverInbox.all.count, 2)
    try pair.close()
  }

  func testADescriptor() async throws {
    let pair = try Pair()
    let (tun, app) = try socketPair()
    defer { for end in [tun, app] { close(end) } }
    try pair.client.close()
    let tunnel = try Tunnel(Config(pair.clientConf), descriptor: tun)
    let packet = pair.clientSide.packet(to: pair.serverSide, number: 7)
    XCTAssertEqual(packet.withUnsafeBytes { write(app, $0.baseAddress!, $0.count) }, packet.count)
    try await until("the packet arrives") { pair.serverInbox.all.contains(packet) }
    XCTAssertEqual(code { try tunnel.inject([packet]) }, .unsupported)
    try tunnel.close()
    try pair.close()
  }

  func testATunnelEndsByItself() async throws {
    let (tun, app) = try socketPair()
    let (one, other) = (try Side("10.9.0.1"), try Side("10.9.0.2"))
    let tunnel = try Tunnel(Config(one.conf(peer: other)), descriptor: tun)
    let events = tunnel.events
    for end in [tun, app] { close(end) }
    for await event in events {
      guard case .ended(let reason) = event else { continue }
      XCTAssertFalse(reason.isEmpty)
      XCTAssertEqual(code { try tunnel.networkChanged() }, .closed)
      try tunnel.close()
    }
    XCTAssertEqual(code { _ = try tunnel.statistics() }, .unknownHandle)
  }

  func testDatagramsOfTheApp() async throws {
    let (one, other) = (try Side("10.9.0.1"), try Side("10.9.0.2"))
    let (endpoint, back) = (try Endpoint("192.0.2.1:1"), try Endpoint("[2001:db8::1]:2"))
    let tunnels = Locked<[Tunnel]>([])
    /// Datagrams of a tunnel come to the other one, from `source`.
    func transport(to index: Int, from source: Endpoint) -> TunnelOptions {
      var options = TunnelOptions()
      options.transport = Transport { datagrams in
        let tunnel = tunnels.withLock { index < $0.count ? $0[index] : nil }
        return (try? tunnel?.receive(datagrams.map { Datagram($0.data, endpoint: source) })) ?? 0
      }
      return options
    }
    let (inbox, conf) = (Inbox(), try one.conf(peer: other, endpoint: back.description))
    let server = try Tunnel(Config(conf), packets: inbox.io, options: transport(to: 1, from: endpoint))
    let client = try Tunnel(
      Config(other.conf(peer: one, endpoint: endpoint.description)), packets: Inbox().io,
      options: transport(to: 0, from: back))
    tunnels.withLock { $0 = [server, client] }
    let packet = other.packet(to: one)
    try client.inject([packet])
    try await until("the packet arrives") { inbox.all == [packet] }
    XCTAssertEqual(try server.peers().first?.endpoint, back.description)
    XCTAssertEqual(try client.listenPort(), 0)
    tunnels.withLock { $0 = [] }
    try client.close()
    try server.close()
  }

  func testHostNamesAreLookedUpByTheApp() async throws {
    let asked = Locked<[String]>([])
    var options = TunnelOptions()
    options.resolver = { host in
      asked.withLock { $0.append(host) }
      return ["127.0.0.1"]
    }
    let pair = try Pair(endpoint: { "vpn.example.com:\($0)" }, options: options)
    try await pair.pass(1)
    XCTAssertEqual(asked.withLock { $0.first }, "vpn.example.com")
    try pair.close()

    options.resolver = { _ in throw WgError(.notFound, "there is no such host") }
    let lost = try Pair(endpoint: { "vpn.example.com:\($0)" }, options: options)
    let events = lost.client.events
    try lost.client.inject([lost.clientSide.packet(to: lost.serverSide)])
    for await event in events {
      guard case .resolveFailed(let peer, let reason) = event else { continue }
      XCTAssertEqual(peer, lost.serverSide.publicKey)
      XCTAssertFalse(reason.isEmpty)
      break
    }
    try lost.close()
  }
}
