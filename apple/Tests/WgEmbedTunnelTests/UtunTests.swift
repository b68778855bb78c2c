import Foundation
import XCTest

@testable import WgEmbedTunnel

final class UtunTests: XCTestCase {
  /// An address of AF_SYSTEM, connected to the control with this id.
  private func address(_ id: UInt32) -> [UInt8] {
    [32, 32, 2, 0] + withUnsafeBytes(of: id) { Array($0) } + [UInt8](repeating: 0, count: 24)
  }

  /// Descriptors with the addresses of their other ends, in a system whose utun control has the id 7.
  private func find(_ peers: [Int32: [UInt8]], asked: @escaping (String) -> Void = { _ in }) -> Int32? {
    let utun = Utun(
      peer: { peers[$0] },
      info: { _, bytes in
        asked(String(decoding: bytes[4...].prefix { $0 != 0 }, as: UTF8.self))
        bytes.replaceSubrange(0..<4, with: withUnsafeBytes(of: UInt32(7)) { Array($0) })
        return true
      })
    return utun.find()
  }

  func testTheDescriptorAmongOthers() {
    let socket: [UInt8] = [16, 2, 0, 80, 127, 0, 0, 1]
    var names: [String] = []
    XCTAssertEqual(find([3: socket, 5: address(6), 8: address(7), 9: address(7)]) { names.append($0) }, 8)
    XCTAssertEqual(names, ["com.apple.net.utun_control"])
    XCTAssertNil(find([3: socket, 5: address(6), 2000: address(7)]))
    XCTAssertNil(find([3: [16, 32]]))
    XCTAssertNil(find([:]))
  }

  func testNoDescriptorOfThisProcess() {
    XCTAssertEqual(Utun.getInfo, 0xc064_4e03)
    XCTAssertNil(Utun.system.find())
    XCTAssertNil(Utun(peer: { _ in self.address(7) }, info: { _, _ in false }).find())
  }
}
