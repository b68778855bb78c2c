internal import CWgEmbed
import Foundation

/// A private, public or preshared key. Its bytes are wiped when the last copy is gone; texts of it are not.
public struct Key: Sendable, Hashable, CustomStringConvertible {
  /// The length of a key in bytes.
  public static let length = Int(WG_KEY_LEN)

  private let secret: Secret

  /// Generates a private key.
  public static func generate() throws -> Key { try Key { try check(wg_keys_generate_private($0)) } }

  /// Generates a preshared key.
  public static func generatePreshared() throws -> Key { try Key { try check(wg_keys_generate_preshared($0)) } }

  /// Reads 44 characters of base64, as in `.conf` files.
  public init(base64: String) throws { try self.init { try check(wg_keys_from_base64(base64, $0)) } }

  /// Reads 64 hex digits of either case.
  public init(hex: String) throws { try self.init { try check(wg_keys_from_hex(hex, $0)) } }

  /// Copies 32 bytes.
  public init(_ data: Data) throws {
    guard data.count == Key.length else { throw WgError(.invalid, "a key has \(Key.length) bytes, not \(data.count)") }
    secret = data.withUnsafeBytes { Secret($0) }
  }

  /// Copies the 32 bytes at `bytes`.
  init(_ bytes: UnsafeRawPointer) { secret = Secret(UnsafeRawBufferPointer(start: bytes, count: Key.length)) }

  init(_ fill: (UnsafeMutablePointer<UInt8>) throws -> Void) throws {
    secret = try Secret(count: Key.length, fill)
  }

  /// Derives the public key of a private key.
  public func publicKey() throws -> Key {
    try withBytes { bytes in try Key { try check(wg_keys_derive_public(bytes, $0)) } }
  }

  /// Returns the key in base64.
  public var base64: String { text(Int(WG_KEY_BASE64_LEN), wg_keys_to_base64) }

  /// Returns the key in hex, in lower case.
  public var hex: String { text(Int(WG_KEY_HEX_LEN), wg_keys_to_hex) }

  /// Returns a copy of the bytes, which is not wiped.
  public var data: Data { secret.withBytes { Data($0) } }

  /// Contains nothing of the key: any key may be a secret.
  public var description: String { "Key(..)" }

  /// Compares in a time that does not depend on the keys.
  public static func == (one: Key, other: Key) -> Bool {
    one.secret.withBytes { one in
      other.secret.withBytes { other in zip(one, other).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0 }
    }
  }

  public func hash(into hasher: inout Hasher) { secret.withBytes { hasher.combine(bytes: UnsafeRawBufferPointer($0)) } }

  func withBytes<Result>(_ body: (UnsafePointer<UInt8>) throws -> Result) rethrows -> Result {
    try secret.withBytes { try body($0.baseAddress!) }
  }

  private func text(
    _ size: Int, _ format: (UnsafePointer<UInt8>?, UnsafeMutablePointer<CChar>?) -> wg_result_t
  ) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: size) { text in
      defer { wipe(UnsafeMutableRawBufferPointer(text)) }
      text.initialize(repeating: 0)
      // It fails for NULL only.
      _ = withBytes { format($0, text.baseAddress) }
      return String(cString: text.baseAddress!)
    }
  }
}
