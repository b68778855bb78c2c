import Foundation

/// An IP address and the length of a prefix: `10.0.0.2/24`.
public struct Prefix: Sendable, Hashable, CustomStringConvertible {
  /// The address as it was written, including the bits behind the length.
  public let address: String
  /// 0 to 32, or 0 to 128.
  public let length: Int

  /// Reads the form that the library writes; nil for any other text.
  init?(_ text: String) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 2, let length = Int(parts[1]) else { return nil }
    let address = String(parts[0])
    guard let bytes = Prefix.bytes(address), (0...8 * bytes.count).contains(length) else { return nil }
    self.address = address
    self.length = length
  }

  public var isIPv6: Bool { address.contains(":") }

  /// The first address: all bits behind the length are zero.
  public var network: String {
    // `init` has read it before.
    let bytes = Prefix.bytes(address) ?? []
    return Prefix.text(zip(bytes, Prefix.mask(length, bytes.count)).map { $0 & $1 })
  }

  /// The length as a mask: `255.255.255.0`.
  public var mask: String { Prefix.text(Prefix.mask(length, isIPv6 ? 16 : 4)) }

  public var description: String { "\(address)/\(length)" }

  /// `count` bytes of which the first `length` bits are 1.
  private static func mask(_ length: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { byte in UInt8(truncatingIfNeeded: 0xff00 >> min(max(length - 8 * byte, 0), 8)) }
  }

  private static func text(_ bytes: [UInt8]) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) { text in
      text.initialize(repeating: 0)
      inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, text.baseAddress!, socklen_t(text.count))
      return String(cString: text.baseAddress!)
    }
  }

  /// The bytes of an address in network byte order: 4 or 16 of them. Never asks DNS.
  static func bytes(_ address: String) -> [UInt8]? {
    for (family, count) in [(AF_INET, 4), (AF_INET6, 16)] {
      var bytes = [UInt8](repeating: 0, count: count)
      if inet_pton(family, address, &bytes) == 1 { return bytes }
    }
    return nil
  }
}
