internal import CWgEmbed

#if canImport(os)
import os
#endif

/// The level of a line, or the most detailed one that is logged.
public enum LogLevel: Int32, Sendable, CaseIterable {
  /// Nothing.
  case off = 0
  /// A failure that lasts until its cause is removed.
  case error = 1
  /// A failure that the library works around.
  case warn = 2
  /// Information for the app's user.
  case info = 3
  /// Handshakes, timers, sockets: a few lines a minute for each peer.
  case debug = 4
  /// Single packets.
  case trace = 5
}

/// The log of all tunnels of this process.
public enum WgLog {
  /// Receives a line, on any thread and concurrently. Lines never contain a private or preshared key; they may contain
  /// public keys and addresses. It must return soon, and must not call a tunnel.
  public typealias Sink = @Sendable (LogLevel, String) -> Void

  /// Replaces the sink of log lines; nil removes it. When this returns, the previous sink does not run on any thread.
  ///
  /// - Throws: `WgError` with the code `.busy` inside a callback.
  public static func setSink(_ sink: Sink?) throws {
    guard let sink else { return try check(wg_set_log_callback(nil, nil, nil)) }
    try check(
      wg_set_log_callback(
        { user, _, level, text in
          guard let user, let text else { return }
          let level = LogLevel(rawValue: level) ?? .error
          pooled { Box<Sink>.value(user)(level, String(cString: text)) }
        }, Box.retained(sink), releaseBox))
  }

  /// Sets the level of all tunnels that have none of their own. It is initially `.info`.
  public static func setLevel(_ level: LogLevel) {
    // Each case is a level, so it cannot fail.
    _ = wg_set_log_level(level.rawValue)
  }

  #if canImport(os)
  /// Sends all lines to the log of the system, where Console and `log stream` show them.
  ///
  /// - Throws: as `setSink`.
  public static func useSystemLog(subsystem: String, category: String = "wg-embed") throws {
    let log = Logger(subsystem: subsystem, category: category)
    try setSink { level, text in log.log(level: level.system, "\(text, privacy: .public)") }
  }
  #endif
}

#if canImport(os)
extension LogLevel {
  fileprivate var system: OSLogType {
    switch self {
    case .off, .error: return .error
    case .warn: return .default
    case .info: return .info
    case .debug, .trace: return .debug
    }
  }
}
#endif
