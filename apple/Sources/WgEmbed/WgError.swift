internal import CWgEmbed

/// A failure of the library: a code, and a text in English that never contains a key.
public struct WgError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The kind of a failure, by the numbers of `wg_embed.h`. Later versions may add codes.
  public struct Code: RawRepresentable, Hashable, Sendable {
    public let rawValue: Int32

    public init(rawValue: Int32) { self.rawValue = rawValue }

    /// A required pointer was NULL.
    public static let null = Code(rawValue: -1)
    /// A value is malformed or out of range.
    public static let invalid = Code(rawValue: -2)
    /// A line or message does not have the form that its protocol requires.
    public static let `protocol` = Code(rawValue: -3)
    /// Not supported on this platform, or in this version.
    public static let unsupported = Code(rawValue: -4)
    /// A documented limit on size or number was exceeded.
    public static let tooLarge = Code(rawValue: -5)
    /// The tunnel was closed.
    public static let unknownHandle = Code(rawValue: -10)
    /// The tunnel has ended by itself.
    public static let closed = Code(rawValue: -11)
    /// The function cannot be called inside a callback.
    public static let busy = Code(rawValue: -12)
    /// The time limit of the call has passed.
    public static let timedOut = Code(rawValue: -13)
    /// The tunnel belongs to the parent of this process.
    public static let forked = Code(rawValue: -14)
    /// The operating system reported an error that has no code of its own.
    public static let io = Code(rawValue: -20)
    /// The operating system refused for lack of permission.
    public static let permission = Code(rawValue: -21)
    /// The port is in use by another socket.
    public static let addrInUse = Code(rawValue: -22)
    /// A file, interface or peer does not exist.
    public static let notFound = Code(rawValue: -23)
    /// An object of this name already exists.
    public static let exists = Code(rawValue: -24)
    /// The other side refused the connection.
    public static let refused = Code(rawValue: -25)
    /// The other side is unreachable.
    public static let unreachable = Code(rawValue: -26)
    /// Threads, file descriptors or memory are exhausted.
    public static let resources = Code(rawValue: -30)
    /// A bug in the library was caught.
    public static let panic = Code(rawValue: -40)
  }

  public let code: Code
  public let description: String

  public init(_ code: Code, _ description: String) {
    self.code = code
    self.description = description
  }
}

/// Throws the failure of the call that has just returned `result` on this thread.
@discardableResult
func check(_ result: Int32) throws(WgError) -> Int32 {
  guard result < 0 else { return result }
  throw WgError(WgError.Code(rawValue: result), String(cString: wg_last_error()))
}

func check(_ result: wg_result_t) throws(WgError) { try check(result.rawValue) }
