#if canImport(ObjectiveC)
import ObjectiveC
#endif

/// Calls `body` in an autorelease pool, where Objective-C exists. The library's threads have none, so objects that a
/// callback autoreleases would stay until the thread ends.
func pooled<Result>(_ body: () throws -> Result) rethrows -> Result {
  #if canImport(ObjectiveC)
  return try autoreleasepool(invoking: body)
  #else
  return try body()
  #endif
}
