import Foundation

/// Finds the descriptor of the `utun` interface that the system has opened for this process. It has no public name:
/// descriptors are asked in turn for the control that they are connected to.
///
/// Structs and constants of `<sys/kern_control.h>`, which is not in the SDK of iOS, are written out here.
struct Utun {
  /// `AF_SYSTEM`.
  static let family: UInt8 = 32
  /// `struct sockaddr_ctl`: length, family, two bytes, the id of the control, the unit, five reserved numbers.
  static let addressSize = 32
  /// `struct ctl_info`: the id of a control, and its name.
  static let infoSize = 4 + 96
  /// `CTLIOCGINFO`: `_IOWR('N', 3, struct ctl_info)`.
  static let getInfo: UInt = 0xc000_0000 | UInt(infoSize) << 16 | UInt(UInt8(ascii: "N")) << 8 | 3
  static let control = "com.apple.net.utun_control"

  /// Returns the address of the other end of a descriptor, `addressSize` bytes at most; nil for one that has none.
  let peer: (Int32) -> [UInt8]?
  /// Fills a `struct ctl_info` that has a name; false on failure.
  let info: (Int32, inout [UInt8]) -> Bool

  /// Returns the first such descriptor among `descriptors`, which stays the system's.
  func find(in descriptors: ClosedRange<Int32> = 0...1023) -> Int32? {
    var id: UInt32?
    return descriptors.first { descriptor in
      guard let address = peer(descriptor), address.count >= 8, address[1] == Utun.family else { return false }
      if id == nil { id = identify(descriptor) }
      return id == Utun.number(address, at: 4)
    }
  }

  /// The id that the system has given to the control.
  private func identify(_ descriptor: Int32) -> UInt32? {
    var bytes = [UInt8](repeating: 0, count: Utun.infoSize)
    bytes.replaceSubrange(4..<4 + Utun.control.utf8.count, with: Utun.control.utf8)
    return info(descriptor, &bytes) ? Utun.number(bytes, at: 0) : nil
  }

  private static func number(_ bytes: [UInt8], at offset: Int) -> UInt32 {
    bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
  }
}

extension Utun {
  /// The descriptors of this process.
  static var system: Utun {
    Utun(
      peer: { descriptor in
        var address = [UInt8](repeating: 0, count: addressSize)
        var length = socklen_t(addressSize)
        let result = address.withUnsafeMutableBytes { bytes in
          getpeername(descriptor, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
        }
        return result == 0 ? address : nil
      },
      info: { descriptor, bytes in bytes.withUnsafeMutableBytes { ioctl(descriptor, getInfo, $0.baseAddress!) } == 0 })
  }
}
