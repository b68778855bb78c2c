internal import CWgEmbed

/// The address and port of a peer, for a `Transport`.
public struct Endpoint: Sendable, Hashable, CustomStringConvertible {
  var raw: wg_endpoint_t

  /// Reads `192.0.2.1:51820`, `[2001:db8::1]:51820`; with a zone, `[fe80::1%2]:51820`. Host names are invalid.
  public init(_ text: String) throws {
    raw = wg_endpoint_t()
    try check(wg_endpoint_parse(text, &raw))
  }

  init(_ raw: wg_endpoint_t) { self.raw = raw }

  public var description: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(WG_ENDPOINT_TEXT_LEN)) { text in
      text.initialize(repeating: 0)
      // It has a family, and nothing else is refused.
      _ = withUnsafePointer(to: raw) { wg_endpoint_format($0, text.baseAddress) }
      return String(cString: text.baseAddress!)
    }
  }

  // The library sets all unused bytes to zero, and there is no padding.
  public static func == (one: Endpoint, other: Endpoint) -> Bool {
    withUnsafeBytes(of: one.raw) { one in withUnsafeBytes(of: other.raw) { other in one.elementsEqual(other) } }
  }

  public func hash(into hasher: inout Hasher) { withUnsafeBytes(of: raw) { hasher.combine(bytes: $0) } }
}
