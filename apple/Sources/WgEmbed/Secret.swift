import Foundation

/// Bytes that are wiped when they are no longer used.
final class Secret: @unchecked Sendable {
  // Never changed between `init` and `deinit`, so any thread may read them.
  private let bytes: UnsafeMutableRawBufferPointer

  /// Copies `source`.
  init(_ source: UnsafeRawBufferPointer) {
    // An allocation of no bytes has no address, which the library would refuse.
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: max(source.count, 1), alignment: 1)
    bytes = UnsafeMutableRawBufferPointer(rebasing: block[..<source.count])
    bytes.copyMemory(from: source)
  }

  /// Fills `count` bytes, more than zero, by `body`.
  init(count: Int, _ body: (UnsafeMutablePointer<UInt8>) throws -> Void) rethrows {
    bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
    bytes.initializeMemory(as: UInt8.self, repeating: 0)
    try body(bytes.baseAddress!.assumingMemoryBound(to: UInt8.self))
  }

  deinit {
    wipe(bytes)
    bytes.deallocate()
  }

  func withBytes<Result>(_ body: (UnsafeBufferPointer<UInt8>) throws -> Result) rethrows -> Result {
    try body(UnsafeBufferPointer(bytes.assumingMemoryBound(to: UInt8.self)))
  }
}

/// Overwrites memory in a way that no compiler leaves out.
func wipe(_ bytes: UnsafeMutableRawBufferPointer) {
  guard let start = bytes.baseAddress else { return }
  #if canImport(Darwin)
  memset_s(start, bytes.count, 0, bytes.count)
  #else
  explicit_bzero(start, bytes.count)
  #endif
}
