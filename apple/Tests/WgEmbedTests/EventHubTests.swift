import TestSupport
import XCTest

@testable import WgEmbed

final class EventHubTests: XCTestCase {
  private func events(_ range: Range<Int>) -> [Event] { range.map { .socketsRecovered(port: $0) } }

  private func all(_ stream: AsyncStream<Event>) async -> [Event] {
    var all: [Event] = []
    for await event in stream { all.append(event) }
    return all
  }

  func testTheFirstStreamHasWhatWasBeforeIt() async {
    let hub = EventHub()
    for event in events(0..<2) { hub.send(event) }
    let (first, second) = (hub.stream(), hub.stream())
    for event in events(2..<3) { hub.send(event) }
    hub.finish()
    hub.finish()
    let (one, other) = (await all(first), await all(second))
    XCTAssertEqual(one, events(0..<3))
    XCTAssertEqual(other, events(2..<3))
    let late = await all(hub.stream())
    XCTAssertEqual(late, [])
    XCTAssertEqual(hub.dropped, 0)
  }

  func testWhatIsNotReadIsDroppedAndCounted() async {
    for isEarly in [true, false] {
      let hub = EventHub()
      var stream = isEarly ? nil : hub.stream()
      for event in events(0..<EventHub.capacity + 3) { hub.send(event) }
      stream = stream ?? hub.stream()
      hub.finish()
      let kept = await all(stream!)
      XCTAssertEqual(kept, events(3..<EventHub.capacity + 3))
      XCTAssertEqual(hub.dropped, 3)
    }
  }

  func testAStreamThatIsLeftIsForgotten() async throws {
    let hub = EventHub()
    let reader = Task { [stream = hub.stream()] in for await _ in stream { return } }
    hub.send(.socketsRecovered(port: 1))
    await reader.value
    // Nobody reads, so nothing is dropped.
    try await until("the stream has ended") {
      let before = hub.dropped
      for event in events(0..<EventHub.capacity + 1) { hub.send(event) }
      return hub.dropped == before
    }
  }

  func testLinesOfTheLog() throws {
    let lines = Locked<[(LogLevel, String)]>([])
    try WgLog.setSink { level, text in lines.withLock { $0.append((level, text)) } }
    WgLog.setLevel(.info)
    try Pair().close()
    try WgLog.setSink(nil)
    let logged = lines.withLock { $0 }
    XCTAssertTrue(logged.contains { $0 == .info && $1.contains("up") }, "\(logged)")
    XCTAssertFalse(logged.contains { $0.0.rawValue > LogLevel.info.rawValue })
    try Pair().close()
    XCTAssertEqual(lines.withLock { $0.count }, logged.count)
    XCTAssertFalse(WgLibrary.version.isEmpty)
  }
}
