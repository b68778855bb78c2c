import WgEmbed

/// Runs asynchronous operations one at a time, in the order of the calls.
final class Serial: Sendable {
  private let last = Locked<Task<Void, Never>?>(nil)

  func run(_ operation: @escaping @Sendable () async throws -> Void) async throws {
    let task = last.withLock { last in
      let before = last
      let task = Task {
        await before?.value
        try await operation()
      }
      last = Task { _ = await task.result }
      return task
    }
    try await task.value
  }
}
