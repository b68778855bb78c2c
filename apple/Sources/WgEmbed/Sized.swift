internal import CWgEmbed

/// A struct of the header that begins with its size, by which the library tells older callers from newer ones.
protocol Sized {
  init()
  var struct_size: Int { get set }
}

extension Sized {
  /// All zeros but for the size.
  static var sized: Self {
    var value = Self()
    value.struct_size = MemoryLayout<Self>.stride
    return value
  }
}

extension wg_memory_usage_t: Sized {}
extension wg_options_t: Sized {}
extension wg_peer_stats_t: Sized {}
extension wg_stats_t: Sized {}
extension wg_transport_t: Sized {}
extension wg_tun_callbacks_t: Sized {}
