internal import CWgEmbed
import Foundation

/// The value of a line, in memory of the library that is wiped: keys are never made a `String`, which is not.
struct LineValue {
  fileprivate let bytes: UnsafeRawBufferPointer

  var string: String { String(decoding: bytes, as: UTF8.self) }

  /// Reads 64 hex digits; nil for zeros, which stand for no key.
  func secret() throws -> Key? { bytes.allSatisfy { $0 == UInt8(ascii: "0") } ? nil : try key() }

  /// Reads 64 hex digits.
  func key() throws -> Key {
    try withUnsafeTemporaryAllocation(byteCount: bytes.count + 1, alignment: 1) { copy in
      defer { wipe(copy) }
      copy.copyMemory(from: bytes)
      copy[bytes.count] = 0
      let text = copy.baseAddress!.assumingMemoryBound(to: CChar.self)
      return try Key { try check(wg_keys_from_hex(text, $0)) }
    }
  }
}

/// Calls `body` with the key and the value of each line `key=value`.
func forEachLine(of text: UnsafePointer<CChar>, _ body: (String, LineValue) throws -> Void) rethrows {
  let all = UnsafeRawBufferPointer(start: text, count: strlen(text))
  for line in all.split(separator: UInt8(ascii: "\n")) {
    guard let end = line.firstIndex(of: UInt8(ascii: "=")) else { continue }
    let key = String(decoding: line[..<end], as: UTF8.self)
    try body(key, LineValue(bytes: UnsafeRawBufferPointer(rebasing: line[(end + 1)...])))
  }
}

extension String {
  /// Reads an array of characters in a C struct, which ends with a zero.
  init<Array>(field: Array) {
    self = withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }
}
