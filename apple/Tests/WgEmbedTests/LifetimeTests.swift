import Foundation
import TestSupport
import XCTest

@testable import WgEmbed

/// Tunnels that end, and what stays of them.
final class LifetimeTests: XCTestCase {
  func testClosedTunnelsRefuse() throws {
    let pair = try Pair()
    try pair.close()
    try pair.close()
    XCTAssertEqual(code { try pair.client.networkChanged() }, .unknownHandle)
    XCTAssertEqual(code { try pair.client.inject([pair.clientSide.packet(to: pair.serverSide)]) }, .unknownHandle)
    XCTAssertEqual(code { try pair.client.update(Config(pair.clientConf)) }, .unknownHandle)
  }

  func testThePortIsTaken() throws {
    let pair = try Pair()
    let conf = try pair.clientSide.conf(peer: pair.serverSide, port: pair.server.listenPort())
    XCTAssertEqual(code { _ = try Tunnel(Config(conf), packets: Inbox().io) }, .addrInUse)
    XCTAssertEqual(code { _ = try Tunnel(Config(conf), descriptor: 9999) }, .invalid)
    var options = TunnelOptions()
    options.memoryLimit = 1
    XCTAssertEqual(code { _ = try Tunnel(Config(pair.clientConf), packets: Inbox().io, options: options) }, .invalid)
    let cases: [(Int, WgError.Code?)] = [(0, nil), (8, nil), (9, .invalid), (-1, .invalid), (1 << 32 - 1, .invalid)]
    for (workers, expected) in cases {
      options = TunnelOptions()
      options.workers = workers
      XCTAssertEqual(code { _ = try Tunnel(Config(pair.clientConf), packets: Inbox().io, options: options) }, expected)
    }
    try pair.close()
  }

  func testATunnelIsTurnedOffWithItsLastReference() async throws {
    let (one, other) = (try Side("10.9.0.1"), try Side("10.9.0.2"))
    var tunnel: Tunnel?
    // The system does not choose a port below 32768 for another socket.
    for port in 10_000..<30_000 where tunnel == nil {
      do {
        tunnel = try Tunnel(Config(one.conf(peer: other, port: port)), packets: Inbox().io)
      } catch let error as WgError where error.code == .addrInUse {}
    }
    let port = try XCTUnwrap(tunnel).listenPort()
    let events = try XCTUnwrap(tunnel).events
    tunnel = nil
    for await event in events { XCTFail("\(event)") }
    // Its port is free.
    try Tunnel(Config(one.conf(peer: other, port: port)), packets: Inbox().io).close()
  }

  func testInsideACallbackATunnelCanBeLetGoButNotClosed() async throws {
    let pair = try Pair()
    let held = Locked<Tunnel?>(nil)
    let codes = Locked<[WgError.Code?]>([])
    try pair.client.close()
    let io = PacketIO(write: { _ in
      let tunnel = held.withLock { tunnel in
        defer { tunnel = nil }
        return tunnel
      }
      let inside = [code { try tunnel?.close() }, code { _ = try tunnel?.statistics() }]
      codes.withLock { $0 += inside }
      // The last reference ends here.
    })
    var client: Tunnel? = try Tunnel(Config(pair.clientConf), packets: io)
    let events = try XCTUnwrap(client).events
    try client?.inject([pair.clientSide.packet(to: pair.serverSide)])
    try await until("the packet arrives") { !pair.serverInbox.all.isEmpty }
    held.withLock { $0 = client }
    client = nil
    try pair.server.inject([pair.serverSide.packet(to: pair.clientSide)])
    for await _ in events {}  // Ends when the tunnel is off.
    XCTAssertEqual(codes.withLock { Array($0.prefix(2)) }, [.busy, .busy])
    try pair.server.close()
  }

  func testAThousandCyclesLeaveNothing() async throws {
    final class Witness: Sendable {
      static let count = Locked(0)
      init() { Witness.count.withLock { $0 += 1 } }
      deinit { Witness.count.withLock { $0 -= 1 } }
      func take() {}
    }
    let (one, other) = (try Side("10.9.0.1"), try Side("10.9.0.2"))
    let config = try Config(one.conf(peer: other))
    func cycle(_ number: Int) async throws {
      let witness = Witness()
      var options = TunnelOptions()
      options.resolver = { _ in
        witness.take()
        return []
      }
      options.transport = number % 2 == 0 ? Transport { _ in witness.take(); return 0 } : nil
      let tunnel = try Tunnel(config, packets: PacketIO(write: { _ in witness.take() }), options: options)
      let events = tunnel.events
      try tunnel.inject([one.packet(to: other)])
      try tunnel.close()
      for await event in events { XCTFail("\(event)") }
      XCTAssertThrowsError(try Tunnel(config, descriptor: -1, options: options))
    }
    for number in 0..<100 { try await cycle(number) }
    let (before, memory) = (try resources(), try residentMemory())
    for number in 0..<1000 { try await cycle(number) }
    XCTAssertEqual(Witness.count.withLock { $0 }, 0)
    let after = try resources()
    XCTAssertLessThanOrEqual(after.descriptors, before.descriptors)
    XCTAssertLessThanOrEqual(after.threads, before.threads + 2)  // Swift's own come and go.
    XCTAssertLessThan(try residentMemory() - memory, 8 << 20)
  }
}
