import Network
import XCTest

@testable import WgEmbedTunnel

#if !swift(>=6)
#error("this package is written in Swift 6 mode")
#endif

final class PathStateTests: XCTestCase {
  private let wifi = NWInterface(name: "en0", index: 1, type: .wifi)
  private let cellular = NWInterface(name: "pdp_ip0", index: 2, type: .cellular)
  private let vpn = NWInterface(name: "utun3", index: 3, type: .other)

  func testEachDifferenceCounts() {
    let state = PathState(NWPath(.satisfied, [wifi]))
    XCTAssertEqual(state, PathState(NWPath(.satisfied, [wifi])))
    XCTAssertEqual(state, PathState(NWPath(.requiresConnection, [wifi])))
    let renumbered = NWInterface(name: "en0", index: 4, type: .wifi)
    let others = [
      NWPath(.unsatisfied, [wifi]), NWPath(.satisfied, []), NWPath(.satisfied, [cellular]),
      NWPath(.satisfied, [wifi, cellular]), NWPath(.satisfied, [renumbered]),
      NWPath(.satisfied, [wifi], supportsIPv4: false), NWPath(.satisfied, [wifi], supportsIPv6: true),
    ]
    for other in others { XCTAssertNotEqual(state, PathState(other), "\(other)") }
  }

  func testThePhysicalInterfaceIsTheFirstThatIsNoTunnel() {
    XCTAssertEqual(PathState(NWPath(.satisfied, [vpn, cellular, wifi])).physical, 2)
    XCTAssertEqual(PathState(NWPath(.satisfied, [vpn])).physical, 0)
  }
}
