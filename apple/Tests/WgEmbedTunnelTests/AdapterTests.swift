import Foundation
import Network
import NetworkExtension
import TestSupport
import XCTest

@testable import WgEmbedTunnel
import WgEmbed

final class AdapterTests: XCTestCase {
  private let wifi = NWInterface(name: "en0", index: 1, type: .wifi)
  private let cellular = NWInterface(name: "pdp_ip0", index: 2, type: .cellular)

  private var provider: TestProvider!
  private var adapter: PacketTunnelAdapter!
  private var server: Tunnel!
  private var inbox: Inbox!
  private var far: Side!
  private var near: Side!
  private var conf: String!

  override func setUp() async throws {
    provider = TestProvider()
    adapter = PacketTunnelAdapter(provider)
    inbox = Inbox()
    far = try Side("10.9.0.1")
    near = try Side("10.9.0.2")
    server = try Tunnel(Config(far.conf(peer: near)), packets: inbox.io)
    conf = try near.conf(peer: far, endpoint: "127.0.0.1:\(server.listenPort())")
  }

  override func tearDown() async throws {
    await adapter.stop()
    try server.close()
    XCTAssertEqual(NWPathMonitor.count, 0)
  }

  private func tunnel() throws -> Tunnel { try XCTUnwrap(adapter.tunnel) }

  /// Passes a packet from the system to the server, and back.
  private func pass(_ number: UInt16) async throws {
    let there = near.packet(to: far, number: number)
    try await provider.flow.deliver([there])
    try await until("packet \(number) arrives") { inbox.all.contains(there) }
    let back = far.packet(to: near, number: number)
    try server.inject([back])
    try await until("packet \(number) comes back") {
      provider.flow.written.withLock { $0.contains { $0 == (back, NSNumber(value: AF_INET)) } }
    }
  }

  func testStartPassesPacketsAndStopEnds() async throws {
    let events = adapter.events
    try await adapter.start(Config(conf))
    XCTAssertEqual(provider.applied.withLock { $0.count }, 1)
    XCTAssertEqual(try tunnel().memory().limit, PacketTunnelAdapter.memoryLimit)
    try await pass(1)
    for await event in events {
      XCTAssertEqual(event, .handshakeCompleted(peer: far.publicKey))
      break
    }
    XCTAssertEqual(NWPathMonitor.count, 1)
    await fails(.exists) { try await self.adapter.start(Config(self.conf)) }
    await adapter.stop()
    XCTAssertNil(adapter.tunnel)
    await fails(.closed) { try await self.adapter.update(Config(self.conf)) }
    await adapter.stop()

    try await adapter.start(Config(conf))
    try await pass(2)
  }

  func testSettingsThatNeverCallBack() async throws {
    XCTAssertEqual(adapter.settingsLimit, 5)
    provider.answer.withLock { $0 = .never }
    adapter.settingsLimit = 0.01
    try await adapter.start(Config(conf))
    try await pass(1)
    try await adapter.update(Config(conf))
    let late = provider.unanswered.withLock { $0 }
    XCTAssertEqual(late.count, 2)
    for answer in late { answer(Refused()) }
    try await pass(2)
  }

  func testSettingsThatAreRefused() async throws {
    provider.answer.withLock { $0 = .failure }
    do {
      try await adapter.start(Config(conf))
      XCTFail("it has started")
    } catch { XCTAssertTrue(error is Refused, "\(error)") }
    XCTAssertNil(adapter.tunnel)
    XCTAssertEqual(NWPathMonitor.count, 0)
    provider.answer.withLock { $0 = .done }
    try await adapter.start(Config(conf))
    try await pass(1)
  }

  func testStopDuringAStartWaitsForIt() async throws {
    provider.answer.withLock { $0 = .never }
    adapter.settingsLimit = 0.2
    let (adapter, config) = (try XCTUnwrap(adapter), try Config(conf))
    async let start: Void = adapter.start(config)
    try await until("the settings are set") { provider.applied.withLock { !$0.isEmpty } }
    await adapter.stop()
    try await start
    XCTAssertNil(adapter.tunnel)
  }

  func testUpdateKeepsSessions() async throws {
    try await adapter.start(Config(conf))
    try await pass(1)
    let before = try tunnel().statistics(of: far.publicKey).lastHandshake
    let third = try Side("10.9.0.3")
    let more = conf + "\n[Peer]\nPublicKey = \(third.publicKey.base64)\nAllowedIPs = 10.9.3.0/24\n"
    try await adapter.update(Config(more))
    XCTAssertEqual(try tunnel().peers().count, 2)
    let routes = provider.applied.withLock { $0.last?.ipv4Settings?.includedRoutes?.map(\.destinationAddress) }
    XCTAssertEqual(routes, ["10.9.0.0", "10.9.0.1", "10.9.3.0"])
    XCTAssertFalse(provider.reasserting)
    try await pass(2)

    provider.answer.withLock { $0 = .failure }
    do {
      try await adapter.update(Config(conf))
      XCTFail("it was changed")
    } catch { XCTAssertTrue(error is Refused, "\(error)") }
    XCTAssertEqual(try tunnel().peers().count, 2)
    try await pass(3)
    XCTAssertEqual(try tunnel().statistics(of: far.publicKey).lastHandshake, before)
  }

  func testUpdateChangesTheMTU() async throws {
    // Packets are padded up to the MTU, as the sizes of datagrams show.
    let sizes = Locked<[Int]>([])
    let other = try await startOverTransports(mtu: 1281, sizes)
    /// Sends a packet of 1,281 bytes, and returns the size of its datagram.
    func size(_ number: UInt16) async throws -> Int? {
      let small = near.packet(to: far, number: number)
      let packet = small.prefix(2) + Data([0x05, 0x01]) + small.dropFirst(4) + Data(count: 1261)
      sizes.withLock { $0 = [] }
      try await provider.flow.deliver([packet])
      try await until("the packet arrives") { inbox.all.contains(packet) }
      return sizes.withLock { $0.max() }
    }
    let wide = conf.replacingOccurrences(of: "[Interface]", with: "[Interface]\nMTU = 1400")
    var found = [try await size(1)]
    try await adapter.update(Config(wide))
    found.append(try await size(2))

    provider.answer.withLock { $0 = .failure }
    do {
      try await adapter.update(Config(conf))
      XCTFail("it was changed")
    } catch { XCTAssertTrue(error is Refused, "\(error)") }
    found.append(try await size(3))
    provider.answer.withLock { $0 = .done }
    try await adapter.update(Config(conf))
    found.append(try await size(4))
    XCTAssertEqual(found, [1281, 1296, 1296, 1281].map { $0 + 32 })
    try other.close()
  }

  /// Starts the adapter, and returns a server. Their datagrams come to each other without sockets; `sizes` receives
  /// those of the adapter's.
  private func startOverTransports(mtu: Int, _ sizes: Locked<[Int]>) async throws -> Tunnel {
    let tunnels = Locked<[Tunnel]>([])
    let endpoint = try Endpoint("192.0.2.1:1")
    func transport(to index: Int) -> Transport {
      Transport { datagrams in
        if index == 0 { sizes.withLock { $0 += datagrams.map(\.data.count) } }
        let tunnel = tunnels.withLock { index < $0.count ? $0[index] : nil }
        return (try? tunnel?.receive(datagrams.map { Datagram($0.data, endpoint: endpoint) })) ?? 0
      }
    }
    var options = TunnelOptions()
    options.transport = transport(to: 1)
    let other = try Tunnel(Config(far.conf(peer: near)), packets: inbox.io, options: options)
    options.transport = transport(to: 0)
    options.mtu = mtu
    conf = try near.conf(peer: far, endpoint: endpoint.description)
    try await adapter.start(Config(conf), options: options)
    let near = try tunnel()
    tunnels.withLock { $0 = [other, near] }
    return other
  }

  func testAPacketThatIsRefusedDoesNotEndTheFlow() async throws {
    try await adapter.start(Config(conf))
    try await provider.flow.deliver([Data(count: 70_000)])
    try await pass(1)
  }

  func testChangesOfTheNetwork() async throws {
    try await adapter.start(Config(conf))
    try await pass(1)
    let client = try tunnel()
    let sent = { try client.statistics().txBytes }

    let (first, before) = (try sockets(), try sent())
    NWPathMonitor.report(NWPath(.satisfied, [wifi]))
    NWPathMonitor.report(NWPath(.satisfied, [wifi]))
    XCTAssertTrue(try sockets().isSubset(of: first))  // They are as new as the first path.
    NWPathMonitor.report(NWPath(.satisfied, [cellular, wifi]))
    XCTAssertFalse(try sockets().isSubset(of: first))
    try await until("the peer is sent a packet") { try sent() > before }
    let second = try sockets()
    NWPathMonitor.report(NWPath(.satisfied, [cellular, wifi]))
    XCTAssertTrue(try sockets().isSubset(of: second))
    try await pass(2)

    NWPathMonitor.report(NWPath(.unsatisfied, supportsIPv4: false))
    let dropped = { try client.counters()[.outSendFailed] ?? 0 }
    let old = try dropped()
    try await provider.flow.deliver([near.packet(to: far, number: 3)])
    try await until("the datagram is dropped") { try dropped() > old }
    NWPathMonitor.report(NWPath(.satisfied, [wifi]))
    try await pass(4)
    XCTAssertFalse(inbox.all.contains(near.packet(to: far, number: 3)))
  }

  func testTheFirstPathIsNoNetwork() async throws {
    try await adapter.start(Config(conf))
    NWPathMonitor.report(NWPath(.unsatisfied))
    try await provider.flow.deliver([near.packet(to: far, number: 1)])
    try await until("the datagram is dropped") { try tunnel().counters()[.outSendFailed] ?? 0 > 0 }
    NWPathMonitor.report(NWPath(.requiresConnection, [wifi]))
    try tunnel().dropSession()  // Or else the next attempt is five seconds away.
    try await pass(2)
  }

  func testSocketsAreBoundToThePhysicalInterface() async throws {
    adapter.bindsToInterface = true
    try await adapter.start(Config(conf))
    let loopback = NWInterface(name: "lo", index: Int(if_nametoindex("lo")), type: .wiredEthernet)
    let utun = NWInterface(name: "utun3", index: 9999, type: .other)
    NWPathMonitor.report(NWPath(.satisfied, [utun, loopback]))
    try await pass(1)
    // An interface that has gone: the routes decide.
    NWPathMonitor.report(NWPath(.satisfied, [NWInterface(name: "en7", index: 9998, type: .wifi)]))
    try await pass(2)
  }

  func testSleepAndWake() async throws {
    try await adapter.start(Config(conf))
    try await pass(1)
    adapter.sleep()
    XCTAssertEqual(try tunnel().listenPort(), 0)
    NWPathMonitor.report(NWPath(.satisfied, [wifi]))
    NWPathMonitor.report(NWPath(.satisfied, [cellular]))
    XCTAssertEqual(try tunnel().listenPort(), 0)
    adapter.wake()
    try await until("there are sockets") { try tunnel().listenPort() != 0 }
    try await pass(2)
    adapter.sleep()
    await adapter.stop()
    adapter.wake()
    try await adapter.start(Config(conf))
    try await pass(3)
  }

  func testTheSystemHoldsPacketsBackWhileThereIsNoRoom() async throws {
    try await adapter.start(Config(conf))
    try await pass(1)
    adapter.sleep()
    let many = (0..<5000).map { near.packet(to: far, number: UInt16($0)) }
    let big = many.map { $0.prefix(2) + Data([0x05, 0x78]) + $0.dropFirst(4) + Data(count: 1380) }
    try await provider.flow.deliver(big)
    _ = adapter.tunnel  // The queue has taken them.
    XCTAssertFalse(provider.flow.isRead)
    adapter.wake()
    try await until("the flow is read again") { provider.flow.isRead }
    try await pass(2)
  }

  func testATunnelThatEndsByItselfCancelsTheProvider() async throws {
    let (utun, app) = try socketPair()
    adapter.findUtun = { @Sendable in utun }
    try await adapter.start(Config(conf), source: .utun)
    let packet = near.packet(to: far)
    XCTAssertEqual(packet.withUnsafeBytes { write(app, $0.baseAddress!, $0.count) }, packet.count)
    try await until("the packet arrives") { inbox.all.contains(packet) }
    for end in [utun, app] { close(end) }
    try await until("the provider is cancelled") { provider.cancelled.withLock { !$0.isEmpty } }
    XCTAssertEqual(provider.cancelled.withLock { $0.map { $0?.code } }, [.closed])
    adapter.findUtun = { @Sendable in nil }
    await adapter.stop()
    await fails(.notFound) { try await self.adapter.start(Config(self.conf), source: .utun) }
  }

  func testAnAdapterThatIsLetGo() async throws {
    try await adapter.start(Config(conf))
    let events = adapter.events
    adapter = PacketTunnelAdapter(provider)
    for await _ in events {}
    try await until("the monitor is cancelled") { NWPathMonitor.count == 0 }
  }

  func testAnAdapterThatIsLetGoInsideACallback() async throws {
    let before = try sockets()
    try await adapter.start(Config(conf))
    try await pass(1)
    let held = Locked(adapter)
    adapter = PacketTunnelAdapter(provider)
    provider.flow.afterWrite.withLock { $0 = { held.withLock { $0 = nil } } }
    try server.inject([far.packet(to: near, number: 2)])
    // The tunnel cannot be closed there. It is turned off with its last reference.
    try await until("the tunnel is off") { try sockets().isSubset(of: before) }
  }

  func testTwoHundredCyclesLeaveNothing() async throws {
    func cycle(_ number: UInt16) async throws {
      // The peer accepts 50 initiations a second of one key; after one too many it takes 5 s.
      try await Task.sleep(nanoseconds: 50_000_000)
      try await adapter.start(Config(conf))
      try await pass(number)
      NWPathMonitor.report(NWPath(.satisfied, [wifi]))
      await adapter.stop()
      provider.flow.written.withLock { $0 = [] }
    }
    for number in 0..<10 { try await cycle(UInt16(number)) }
    let before = try resources()
    for number in 10..<210 { try await cycle(UInt16(number)) }
    // Threads of the system's queues, and their descriptors, come and go.
    try await until("no descriptor is left") { try resources().descriptors <= before.descriptors + 5 }
    try await until("no thread is left") { try resources().threads <= before.threads + 5 }
    XCTAssertEqual(NWPathMonitor.count, 0)
  }

  private func fails(_ code: WgError.Code, _ body: () async throws -> Void) async {
    do {
      try await body()
      XCTFail("it succeeds")
    } catch { XCTAssertEqual((error as? WgError)?.code, code) }
  }
}
