internal import CWgEmbed
import Foundation

/// A configuration: a `.conf` file of wg-quick(8) or of the WireGuard apps, parsed by the library. Its keys, and its
/// copy of the file, are wiped when the last copy is gone.
public struct Config: Sendable {
  /// A peer of the file.
  public struct Peer: Sendable, Hashable {
    public let publicKey: Key
    public internal(set) var presharedKey: Key?
    /// An address or a host name, with a port.
    public internal(set) var endpoint: String?
    /// Seconds between keepalives; 0 if off.
    public internal(set) var persistentKeepalive = 0
    public internal(set) var allowedIPs: [Prefix] = []
  }

  public internal(set) var privateKey: Key?
  /// The UDP port; 0 for one that the system chooses.
  public internal(set) var listenPort = 0
  /// The addresses of the interface.
  public internal(set) var addresses: [Prefix] = []
  public internal(set) var dnsServers: [String] = []
  public internal(set) var searchDomains: [String] = []
  /// 576 to 65535; nil if the file has none.
  public internal(set) var mtu: Int?
  /// Whether the allowed IPs of the peers become routes: false with `Table = off`.
  public internal(set) var hasRoutes = true
  public internal(set) var peers: [Peer] = []

  private let file: Secret

  /// Parses a file.
  ///
  /// - Throws: `WgError` with the code `.invalid`, and a text that names the line and the key, but no value.
  public init(_ text: String) throws {
    var text = text
    try self.init(file: text.withUTF8 { Secret(UnsafeRawBufferPointer($0)) })
  }

  /// Parses the bytes of a file: UTF-8 or UTF-16, with or without a byte order mark.
  ///
  /// - Throws: as `init(_:)` for text.
  public init(_ data: Data) throws { try self.init(file: data.withUnsafeBytes { Secret($0) }) }

  private init(file: Secret) throws {
    self.file = file
    var uapi: UnsafeMutablePointer<CChar>?
    var settings: UnsafeMutablePointer<CChar>?
    try withFile { try check(wg_conf_parse($0, $1, &uapi, &settings)) }
    defer {
      wg_free(uapi)
      wg_free(settings)
    }
    if let uapi { try forEachLine(of: uapi) { try readTunnel($0, $1) } }
    if let settings { forEachLine(of: settings) { readSetting($0, $1.string) } }
  }

  private mutating func readTunnel(_ key: String, _ value: LineValue) throws {
    switch key {
    case "private_key": privateKey = try value.secret()
    case "listen_port": listenPort = Int(value.string) ?? 0
    case "public_key": peers.append(Peer(publicKey: try value.key()))
    default:
      guard !peers.isEmpty else { return }
      try peers[peers.count - 1].read(key, value)
    }
  }

  private mutating func readSetting(_ key: String, _ value: String) {
    switch key {
    case "address": addresses += [Prefix(value)].compactMap { $0 }
    case "dns": dnsServers.append(value)
    case "search": searchDomains.append(value)
    case "mtu": mtu = Int(value)
    case "table": hasRoutes = value != "off"
    default: break  // Commands, which the library does not run, and Android's applications.
    }
  }

  /// Returns the configuration for a tunnel that is turned on: text for `wg_turn_on_with`.
  func withTunnelText<Result>(_ body: (UnsafePointer<CChar>) throws -> Result) throws -> Result {
    try withText(body) { text in try withFile { try check(wg_conf_parse($0, $1, &text, nil)) } }
  }

  /// Returns the changes since another configuration: text for `wg_set_config`.
  func withChanges<Result>(since old: Config, _ body: (UnsafePointer<CChar>) throws -> Result) throws -> Result {
    try withText(body) { text in
      try old.withFile { before, length in
        try withFile { try check(wg_conf_changes(before, length, $0, $1, &text)) }
      }
    }
  }

  private func withText<Result>(
    _ body: (UnsafePointer<CChar>) throws -> Result,
    from write: (inout UnsafeMutablePointer<CChar>?) throws -> Void
  ) throws -> Result {
    var text: UnsafeMutablePointer<CChar>?
    try write(&text)
    defer { wg_free(text) }
    return try body(text!)  // Written, as the call has succeeded.
  }

  private func withFile<Result>(_ body: (UnsafePointer<CChar>?, Int) throws -> Result) rethrows -> Result {
    try file.withBytes { bytes in
      try body(UnsafeRawPointer(bytes.baseAddress)?.assumingMemoryBound(to: CChar.self), bytes.count)
    }
  }
}

extension Config.Peer {
  fileprivate mutating func read(_ key: String, _ value: LineValue) throws {
    switch key {
    case "preshared_key": presharedKey = try value.secret()
    case "endpoint": endpoint = value.string
    case "persistent_keepalive_interval": persistentKeepalive = Int(value.string) ?? 0
    case "allowed_ip": allowedIPs += [Prefix(value.string)].compactMap { $0 }
    default: break  // What only the library needs.
    }
  }
}
