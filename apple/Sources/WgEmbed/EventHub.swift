/// Hands events to any number of streams. Never waits: a stream that is not read keeps its newest events only.
package final class EventHub: Sendable {
  /// The largest number of events that wait in a stream, and of those that wait for the first stream.
  package static let capacity = 256

  private struct State {
    var streams: [Int: AsyncStream<Event>.Continuation] = [:]
    var made = 0
    var early: [Event] = []
    var isFinished = false
    var dropped: UInt64 = 0
  }

  private let state = Locked(State())

  package init() {}

  /// The number of events that streams have dropped because they were not read in time.
  package var dropped: UInt64 { state.withLock { $0.dropped } }

  /// Returns a stream of all events from now on. The first stream begins with the events before it.
  package func stream() -> AsyncStream<Event> {
    AsyncStream(bufferingPolicy: .bufferingNewest(EventHub.capacity)) { continuation in
      let isFinished = state.withLock { state in
        for event in state.early { continuation.yield(event) }
        state.early = []
        let number = state.made
        state.made += 1
        if !state.isFinished { state.streams[number] = continuation }
        continuation.onTermination = { [weak self] _ in self?.remove(number) }
        return state.isFinished
      }
      if isFinished { continuation.finish() }
    }
  }

  package func send(_ event: Event) {
    state.withLock { state in
      if state.made == 0 {
        state.early.append(event)
        if state.early.count > EventHub.capacity {
          state.early.removeFirst()
          state.dropped += 1
        }
      }
      for stream in state.streams.values {
        if case .dropped = stream.yield(event) { state.dropped += 1 }
      }
    }
  }

  /// Ends all streams, and those of later calls after the events that wait for them.
  package func finish() {
    let streams = state.withLock { state in
      state.isFinished = true
      defer { state.streams = [:] }
      return state.streams.values
    }
    // Not under the lock: `onTermination` runs in here, and takes it.
    for stream in streams { stream.finish() }
  }

  private func remove(_ number: Int) { state.withLock { _ = $0.streams.removeValue(forKey: number) } }
}
