import Foundation
import TestSupport
import XCTest

@testable import WgEmbed

/// The conversations of `tests/scenarios`, whose README.md describes the steps.
final class ScenarioTests: XCTestCase {
  func testScenarios() async throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../../tests/scenarios").standardized
    try XCTSkipUnless(FileManager.default.fileExists(atPath: folder.path), "there is no \(folder.path)")
    let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
      .filter { $0.pathExtension == "txt" }
    XCTAssertFalse(files.isEmpty)
    for file in files {
      let conversation = Conversation()
      for (words, conf) in steps(try String(contentsOf: file, encoding: .utf8)) {
        print(file.lastPathComponent, words.joined(separator: " "))
        try await conversation.take(words, conf)
      }
    }
  }

  /// The words of each step, and its configuration.
  private func steps(_ text: String) -> [([String], String)] {
    var steps: [([String], String)] = []
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      if line.hasPrefix(" ") {
        steps[steps.count - 1].1 += line + "\n"
      } else {
        steps.append((line.components(separatedBy: " "), ""))
      }
    }
    return steps
  }
}

/// A step that no driver should pass over.
private struct Unknown: Error { let what: String }

/// A name of a scenario: a key, and a tunnel while it is on.
private final class Party {
  let key: Key
  let publicKey: Key
  let events = Locked<[Event]>([])
  var handshakes: [Key: Date] = [:]
  private(set) var tunnel: Tunnel?
  private var app: Int32 = -1

  init() throws {
    key = try Key.generate()
    publicKey = try key.publicKey()
  }

  func start(_ config: Config) throws {
    let (tun, app) = try socketPair()
    defer { close(tun) }
    let tunnel = try Tunnel(config, descriptor: tun)
    Task { [events] in for await event in tunnel.events { events.withLock { $0.append(event) } } }
    (self.tunnel, self.app) = (tunnel, app)
  }

  func stop() throws {
    try tunnel?.close()
    tunnel = nil
    close(app)
  }

  func send(_ packet: Data) {
    XCTAssertEqual(packet.withUnsafeBytes { write(app, $0.baseAddress!, $0.count) }, packet.count)
  }

  /// Whether the packet is among those that have come out of the tunnel.
  func has(_ packet: Data) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 2000)
    while true {
      let count = recv(app, &buffer, buffer.count, Int32(MSG_DONTWAIT))
      if count < 0 { return false }
      if Data(buffer[..<count]) == packet { return true }
    }
  }
}

/// The parties, and what they do.
private final class Conversation {
  private static let codes: [String: WgError.Code] = [
    "invalid": .invalid, "addr_in_use": .addrInUse, "not_found": .notFound,
  ]
  private var parties: [String: Party] = [:]
  private var number: UInt16 = 0

  func take(_ words: [String], _ conf: String) async throws {
    let party = try party(words[1])
    switch words[0] {
    case "on": try party.start(Config(fill(conf)))
    case "update": try tunnel(words[1]).update(Config(fill(conf)))
    case "refused":
      let (expected, tunnel, text) = (try XCTUnwrap(Self.codes[words[2]]), try tunnel(words[1]), try fill(conf))
      XCTAssertEqual(code { try tunnel.update(Config(text)) }, expected)
    case "pass":
      let (packet, out) = (next(words[3], words[4]), try self.party(words[2]))
      // A datagram may be lost.
      for _ in 0..<60 {
        party.send(packet)
        if (try? await until("it arrives", within: 1) { out.has(packet) }) != nil { return }
      }
      throw Unknown(what: "the packet has not come: \(words)")
    case "send": party.send(next(words[2], words[3]))
    case "event": try await takeEvent(party, words[2], self.party(words[3]).publicKey)
    case "network": try tunnel(words[1]).networkChanged()
    case "off":
      let tunnel = try tunnel(words[1])
      try party.stop()
      XCTAssertEqual(code { try tunnel.networkChanged() }, .unknownHandle)
    default: try await check(words, party)
    }
  }

  private func check(_ words: [String], _ party: Party) async throws {
    let tunnel = try tunnel(words[1])
    switch words[0] {
    case "peers": XCTAssertEqual(try tunnel.peers().count, Int(words[2]))
    case "counter":
      let (counter, value) = (Counter(rawValue: words[2]), UInt64(words[3]))
      try await until("\(words)") { try tunnel.counters()[counter] == value }
    case "session":
      let peer = try tunnel.statistics(of: self.party(words[2]).publicKey)
      let handshake = try XCTUnwrap(peer.lastHandshake)
      XCTAssertTrue(peer.hasSession)
      XCTAssertEqual(party.handshakes[peer.publicKey] ?? handshake, handshake)
      party.handshakes[peer.publicKey] = handshake
    case "traffic":
      let peer = try tunnel.statistics(of: self.party(words[2]).publicKey)
      XCTAssertTrue(peer.rxBytes > 0 && peer.txBytes > 0)
    default: throw Unknown(what: words[0])
    }
  }

  private func takeEvent(_ party: Party, _ kind: String, _ peer: Key) async throws {
    try await until("\(kind)") {
      party.events.withLock { events in
        guard let index = events.firstIndex(where: { $0.kind == kind && $0.peer == peer }) else { return false }
        events.remove(at: index)
        return true
      }
    }
  }

  private func party(_ name: String) throws -> Party {
    if let party = parties[name] { return party }
    let party = try Party()
    parties[name] = party
    return party
  }

  private func tunnel(_ name: String) throws -> Tunnel { try XCTUnwrap(party(name).tunnel) }

  private func next(_ source: String, _ destination: String) -> Data {
    number += 1
    return packet(from: source, to: destination, number: number)
  }

  /// Replaces `{NAME.private}` and the like.
  private func fill(_ conf: String) throws -> String {
    let parts = conf.components(separatedBy: "{")
    return try parts[0]
      + parts.dropFirst().map { part in
        let end = try XCTUnwrap(part.firstIndex(of: "}"))
        let words = part[..<end].split(separator: ".").map(String.init)
        return try value(words[0], words[1]) + part[part.index(after: end)...]
      }.joined()
  }

  private func value(_ name: String, _ field: String) throws -> String {
    switch field {
    case "private": return try party(name).key.base64
    case "public": return try party(name).publicKey.base64
    case "port": return try String(tunnel(name).listenPort())
    default: throw Unknown(what: field)
    }
  }
}

extension Event {
  /// The name of the case as in scenarios: `handshake_completed`.
  fileprivate var kind: String {
    "\(self)".prefix { $0 != "(" }.map { $0.isUppercase ? "_" + $0.lowercased() : String($0) }.joined()
  }

  fileprivate var peer: Key? {
    switch self {
    case .handshakeCompleted(let peer), .handshakeFailed(let peer), .sessionExpired(let peer),
      .endpointChanged(let peer, _), .resolveFailed(let peer, _), .routingLoop(let peer, _):
      return peer
    default: return nil
    }
  }
}
