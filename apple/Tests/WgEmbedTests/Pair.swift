import Foundation
import TestSupport
import WgEmbed
import XCTest

/// Two tunnels over loopback. The server has no endpoint for the client.
final class Pair: Sendable {
  let serverSide: Side
  let clientSide: Side
  let serverInbox = Inbox()
  let clientInbox = Inbox()
  let server: Tunnel
  let client: Tunnel
  let clientConf: String

  init(endpoint: (Int) -> String = { "127.0.0.1:\($0)" }, options: TunnelOptions = TunnelOptions()) throws {
    let (one, other) = (try Side("10.9.0.1"), try Side("10.9.0.2"))
    let (out, back) = (serverInbox, clientInbox)
    server = try Tunnel(Config(one.conf(peer: other)), packets: out.io)
    clientConf = try other.conf(peer: one, endpoint: endpoint(server.listenPort()))
    client = try Tunnel(Config(clientConf), packets: back.io, options: options)
    (serverSide, clientSide) = (one, other)
  }

  /// Passes a packet in each direction.
  func pass(_ number: UInt16) async throws {
    let there = clientSide.packet(to: serverSide, number: number)
    XCTAssertEqual(try client.inject([there]), 1)
    try await until("packet \(number) arrives") { serverInbox.all.contains(there) }
    let back = serverSide.packet(to: clientSide, number: number)
    XCTAssertEqual(try server.inject([back]), 1)
    try await until("packet \(number) comes back") { clientInbox.all.contains(back) }
  }

  func close() throws {
    try client.close()
    try server.close()
  }
}

/// The code that a call fails with; nil if it succeeds.
func code(_ body: () throws -> Void) -> WgError.Code? {
  do {
    try body()
    return nil
  } catch { return (error as? WgError)?.code }
}
