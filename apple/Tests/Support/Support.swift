import Foundation
import WgEmbed

/// One side of a tunnel: its keys, and the address that it has inside.
public struct Side: Sendable {
  public let privateKey: Key
  public let publicKey: Key
  public let address: String

  public init(_ address: String) throws {
    privateKey = try Key.generate()
    publicKey = try privateKey.publicKey()
    self.address = address
  }

  /// A `.conf` file of this side with one peer. `more` are lines of the peer.
  public func conf(
    peer: Side, endpoint: String? = nil, port: Int = 0, interface: String = "", more: String = ""
  ) throws -> String {
    """
    [Interface]
    PrivateKey = \(privateKey.base64)
    Address = \(address)/24
    ListenPort = \(port)
    \(interface)
    [Peer]
    PublicKey = \(peer.publicKey.base64)
    AllowedIPs = \(peer.address)/32
    \(endpoint.map { "Endpoint = \($0)" } ?? "")
    \(more)
    """
  }

  /// A packet to another side, which `number` tells from others.
  public func packet(to peer: Side, number: UInt16 = 0) -> Data {
    TestSupport.packet(from: address, to: peer.address, number: number)
  }
}

/// An IPv4 packet without contents.
public func packet(from source: String, to destination: String, number: UInt16) -> Data {
  let addresses = [source, destination].flatMap { $0.split(separator: ".").map { UInt8($0)! } }
  return Data([0x45, 0, 0, 20, UInt8(number >> 8), UInt8(number & 0xff), 0, 0, 64, 59, 0, 0] + addresses)
}

/// Two connected sockets that keep packet boundaries.
public func socketPair() throws -> (Int32, Int32) {
  var ends: [Int32] = [0, 0]
  guard socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0 else { throw POSIXError(.EMFILE) }
  return (ends[0], ends[1])
}

/// What has come out of a tunnel.
public final class Inbox: Sendable {
  private let packets = Locked<[Data]>([])

  public init() {}

  public var all: [Data] { packets.withLock { $0 } }

  public func add(_ more: [Data]) { packets.withLock { $0 += more } }

  /// A tunnel's side of it.
  public var io: PacketIO { PacketIO(write: { [self] in add($0) }) }
}

/// What should have happened has not.
public struct Late: Error { let what: String }

/// Waits for something that happens soon, on a machine of any speed.
public func until(_ what: String, within seconds: TimeInterval = 60, _ condition: () throws -> Bool) async throws {
  let limit = Date() + seconds
  while try !condition() {
    guard Date() < limit else { throw Late(what: what) }
    try await Task.sleep(nanoseconds: 2_000_000)
  }
}

/// The number of descriptors that this process has open, and of its threads.
public func resources() throws -> (descriptors: Int, threads: Int) {
  let files = FileManager.default
  return (
    try files.contentsOfDirectory(atPath: "/proc/self/fd").count,
    try files.contentsOfDirectory(atPath: "/proc/self/task").count
  )
}

/// The sockets that this process has open, each by a number that is not used again.
public func sockets() throws -> Set<String> {
  let files = FileManager.default
  // A descriptor that is listed may be closed by now.
  let targets = try files.contentsOfDirectory(atPath: "/proc/self/fd").compactMap {
    try? files.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")
  }
  return Set(targets.filter { $0.hasPrefix("socket:") })
}

/// The memory of this process that is not swapped out, in bytes.
public func residentMemory() throws -> Int {
  let fields = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ")
  return Int(fields[1])! * 4096
}
