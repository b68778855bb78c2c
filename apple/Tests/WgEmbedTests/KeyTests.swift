import Foundation
import XCTest

@testable import WgEmbed

final class KeyTests: XCTestCase {
  func testFormsOfAKey() throws {
    let key = try Key.generate()
    XCTAssertEqual(try Key(base64: key.base64), key)
    XCTAssertEqual(try Key(hex: key.hex.uppercased()), key)
    XCTAssertEqual(try Key(key.data), key)
    XCTAssertEqual(key.hashValue, try Key(key.data).hashValue)
    XCTAssertNotEqual(key, try Key.generate())
    XCTAssertNotEqual(try Key.generatePreshared(), try Key.generatePreshared())
    let known = try Key(base64: "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
    XCTAssertEqual(try known.publicKey().base64, "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=")
  }

  func testTextsThatAreNoKeys() {
    XCTAssertEqual(code { _ = try Key(base64: "x") }, .invalid)
    XCTAssertEqual(code { _ = try Key(hex: String(repeating: "0", count: 63)) }, .invalid)
    XCTAssertEqual(code { _ = try Key(Data(count: 31)) }, .invalid)
  }

  func testNothingOfAKeyIsShown() throws {
    let key = try Key.generate()
    for text in ["\(key)", String(reflecting: key), String(describing: [key])] {
      XCTAssertFalse(text.contains(key.base64) || text.contains(key.hex), text)
    }
  }

  func testBytesAreWiped() {
    let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 32, alignment: 1)
    defer { bytes.deallocate() }
    bytes.initializeMemory(as: UInt8.self, repeating: 7)
    wipe(bytes)
    XCTAssertTrue(bytes.allSatisfy { $0 == 0 })
  }

  func testEndpoints() throws {
    for text in ["192.0.2.1:51820", "[2001:db8::1]:51820"] {
      XCTAssertEqual(try Endpoint(text).description, text)
      XCTAssertEqual(Set([try Endpoint(text), try Endpoint(text)]).count, 1)
    }
    XCTAssertNotEqual(try Endpoint("192.0.2.1:1"), try Endpoint("192.0.2.1:2"))
    XCTAssertEqual(code { _ = try Endpoint("vpn.example.com:1") }, .invalid)
  }
}
