/// A Swift value behind the `user` pointer of a C callback.
final class Box<Value: Sendable>: Sendable {
  let value: Value

  private init(_ value: Value) { self.value = value }

  /// Returns the value behind a pointer that has not been given up.
  static func value(_ user: UnsafeMutableRawPointer) -> Value {
    Unmanaged<Box>.fromOpaque(user).takeUnretainedValue().value
  }

  /// Makes a pointer that C gives up by `releaseBox`, once.
  static func retained(_ value: Value) -> UnsafeMutableRawPointer { Unmanaged.passRetained(Box(value)).toOpaque() }
}

/// A `wg_destroy_fn_t`. Not a member of `Box`: no C function can be made of generic code.
func releaseBox(_ user: UnsafeMutableRawPointer?) {
  guard let user else { return }
  pooled { Unmanaged<AnyObject>.fromOpaque(user).release() }
}
