/// The name of a counter of a tunnel. Later versions may add counters.
///
/// "out" is the direction to the network, "in" the opposite one. Counters that begin with "udp" exist if the tunnel has
/// sockets of its own.
public struct Counter: RawRepresentable, Hashable, Sendable {
  public let rawValue: String

  public init(rawValue: String) { self.rawValue = rawValue }

  /// Packets from the TUN that are not IP, or truncated.
  public static let outMalformed = Counter(rawValue: "out_malformed")
  /// Packets from the TUN to a destination that no peer has.
  public static let outNoPeer = Counter(rawValue: "out_no_peer")
  /// Packets for a peer that has no endpoint.
  public static let outNoEndpoint = Counter(rawValue: "out_no_endpoint")
  /// The tunnel's own datagrams that came back through the TUN, because the route to a peer's endpoint leads there.
  public static let outRoutingLoop = Counter(rawValue: "out_routing_loop")
  /// The oldest staged packets of a peer at its limit.
  public static let outStageFull = Counter(rawValue: "out_stage_full")
  /// Packets that could not be staged, because the staged packets of all peers are at their memory limit, or memory
  /// is exhausted.
  public static let outMemoryFull = Counter(rawValue: "out_memory_full")
  /// Staged packets that were dropped when a handshake was given up, or a peer or the interface was removed.
  public static let outUnstaged = Counter(rawValue: "out_unstaged")
  /// Datagrams that the operating system refused.
  public static let outSendFailed = Counter(rawValue: "out_send_failed")
  /// Packets of the TUN that could not be read completely.
  public static let outUnreadable = Counter(rawValue: "out_unreadable")
  /// Datagrams that are not a WireGuard message.
  public static let inMalformed = Counter(rawValue: "in_malformed")
  /// Messages for a session or handshake that does not exist.
  public static let inUnknownIndex = Counter(rawValue: "in_unknown_index")
  /// Data messages on a session that is too old.
  public static let inExpired = Counter(rawValue: "in_expired")
  /// Data messages that are not authentic.
  public static let inNotAuthentic = Counter(rawValue: "in_not_authentic")
  /// Authentic data messages that were received before, or are too old for the replay window.
  public static let inReplayed = Counter(rawValue: "in_replayed")
  /// Data messages for which there was no memory.
  public static let inMemoryFull = Counter(rawValue: "in_memory_full")
  /// Decrypted packets that are not IP, or shorter than their length field.
  public static let inMalformedInner = Counter(rawValue: "in_malformed_inner")
  /// Decrypted packets with a source address outside the peer's allowed IPs.
  public static let inWrongSource = Counter(rawValue: "in_wrong_source")
  /// Decrypted packets that the TUN refused.
  public static let inWriteFailed = Counter(rawValue: "in_write_failed")
  /// Handshake messages that arrived while the queue was full.
  public static let handshakeQueueFull = Counter(rawValue: "handshake_queue_full")
  /// Handshake messages whose mac1 is wrong.
  public static let handshakeBadMac = Counter(rawValue: "handshake_bad_mac")
  /// Handshake messages above the rate limit of their address, or above that for cookie replies, under load.
  public static let handshakeRateLimited = Counter(rawValue: "handshake_rate_limited")
  /// Handshake messages that were answered with a cookie, under load.
  public static let handshakeCookieSent = Counter(rawValue: "handshake_cookie_sent")
  /// Initiations from unknown peers, not authentic, or replayed; responses without an initiation.
  public static let handshakeRefused = Counter(rawValue: "handshake_refused")
  /// Cookie replies without a handshake message, or not authentic.
  public static let cookieRefused = Counter(rawValue: "cookie_refused")
  /// Packets that no peer accepts, or whose peer has no endpoint, and that were answered with an ICMP error.
  public static let unreachableSent = Counter(rawValue: "unreachable_sent")
  /// Segmented sends that the system refused, repeated as single datagrams.
  public static let udpGsoRefused = Counter(rawValue: "udp_gso_refused")
  /// Sockets on which segmented sends were disabled.
  public static let udpGsoDisabled = Counter(rawValue: "udp_gso_disabled")
  /// Datagrams that were dropped because the socket's buffer was full; among `outSendFailed` as well.
  public static let udpSendFull = Counter(rawValue: "udp_send_full")
  /// Datagrams that were larger than their buffer, and lost.
  public static let udpTruncated = Counter(rawValue: "udp_truncated")
  /// Socket errors that were ignored when receiving.
  public static let udpRecvErrors = Counter(rawValue: "udp_recv_errors")
}
