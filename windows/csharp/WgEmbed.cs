// WireGuard tunnels inside a program: the API of wg-embed for .NET Framework 4.6.1, .NET 8 and mono, in one file.
//
// The native library is wg_embed.dll beside the program (libwg_embed.so on Linux). Everything may be called on any
// thread. Failures are WgException; text of the library never contains keys.
//
// With mono on Linux, start the program with MONO_THREADS_SUSPEND=coop in its environment. Otherwise mono stops threads
// for a garbage collection by signals, which the library's threads block, and waits without limit.
//
//     var key = Key.GeneratePrivate();
//     using (var config = Config.Parse(File.ReadAllBytes("office.conf")))
//     using (var tunnel = Tunnel.Start(config, new TunnelOptions { Packets = packet => adapter.Write(packet) })) {
//       tunnel.Event += (sender, e) => Console.WriteLine(e.Kind);
//       tunnel.Inject(packet);
//     }
//
// A tunnel that has an interface of Windows is a service: see TunnelService.
//
// SPDX-License-Identifier: MIT OR Apache-2.0

using System;
using System.Collections.Generic;
using System.IO;
using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;

namespace WgEmbed {
  /// <summary>Why a call has failed. Later versions may add codes.</summary>
  public enum WgError {
    /// <summary>A required argument was null.</summary>
    Null = -1,
    /// <summary>A value is malformed or out of its range.</summary>
    Invalid = -2,
    /// <summary>A line of the configuration is not of the form key=value.</summary>
    Protocol = -3,
    /// <summary>The feature does not exist on this system, or in this library.</summary>
    Unsupported = -4,
    /// <summary>A limit on size or number was exceeded.</summary>
    TooLarge = -5,
    /// <summary>The tunnel was disposed of.</summary>
    UnknownHandle = -10,
    /// <summary>The tunnel has ended.</summary>
    Closed = -11,
    /// <summary>The call cannot be made inside a callback.</summary>
    Busy = -12,
    /// <summary>The time limit has passed.</summary>
    TimedOut = -13,
    /// <summary>The tunnel belongs to the process that this one was forked from.</summary>
    Forked = -14,
    /// <summary>Another error of the system.</summary>
    Io = -20,
    /// <summary>The system, or the program's own function, refuses it.</summary>
    Permission = -21,
    /// <summary>The port is in use.</summary>
    AddrInUse = -22,
    /// <summary>A file, an interface or a peer does not exist.</summary>
    NotFound = -23,
    /// <summary>It exists already.</summary>
    Exists = -24,
    /// <summary>The other side refuses a connection.</summary>
    Refused = -25,
    /// <summary>The other side cannot be reached.</summary>
    Unreachable = -26,
    /// <summary>Threads, handles or memory have run out.</summary>
    Resources = -30,
    /// <summary>A bug of the library was caught.</summary>
    Panic = -40,
  }

  /// <summary>What has happened to a tunnel. Later versions may add kinds: ignore unknown ones.</summary>
  public enum TunnelEventKind {
    /// <summary>A session with the peer is established.</summary>
    HandshakeCompleted = 1,
    /// <summary>The peer did not answer 20 initiations, in about 100 seconds.</summary>
    HandshakeFailed = 2,
    /// <summary>The last session with the peer has ended, which is not an error.</summary>
    SessionExpired = 3,
    /// <summary>The peer is at another endpoint.</summary>
    EndpointChanged = 4,
    /// <summary>The host name of the peer could not be resolved, for the reason.</summary>
    ResolveFailed = 5,
    /// <summary>The route to the peer's endpoint leads into the tunnel itself.</summary>
    RoutingLoop = 6,
    /// <summary>Sockets could not be opened, for the reason; this is retried.</summary>
    SocketsLost = 10,
    /// <summary>Sockets are open, on the listen port.</summary>
    SocketsRecovered = 11,
    /// <summary>The tunnel has ended by itself, for the reason. Dispose of it.</summary>
    Ended = 20,
    /// <summary>Events were dropped, as the program did not take them in time.</summary>
    Missed = 30,
  }

  /// <summary>How detailed a log is.</summary>
  public enum LogLevel {
    /// <summary>Of a tunnel: that of the library.</summary>
    Inherit = -1,
    /// <summary>Nothing is logged.</summary>
    Off = 0,
    /// <summary>Failures.</summary>
    Error = 1,
    /// <summary>What may need attention.</summary>
    Warn = 2,
    /// <summary>A handful of lines for each tunnel.</summary>
    Info = 3,
    /// <summary>What helps to find a problem.</summary>
    Debug = 4,
    /// <summary>Each packet.</summary>
    Trace = 5,
  }

  /// <summary>A failure of the library.</summary>
  public sealed class WgException : Exception {
    /// <summary>Why it has failed.</summary>
    public WgError Code { get; }

    internal WgException(int code, string text) : base(text + " (" + code + ")") { Code = (WgError)code; }

    internal static int Check(int code) {
      if (code >= 0) return code;
      throw new WgException(code, Native.Text(Native.wg_last_error()));
    }
  }

  /// <summary>The library itself.</summary>
  public static class Library {
    static readonly Native.LogFn Line = OnLine; // Static: the library may call it until the process ends.
    static Action<LogLevel, string> sink;

    /// <summary>The version of the native library, such as "0.1.0".</summary>
    public static string Version { get { return Native.Text(Native.wg_version_string()); } }

    /// <summary>Sets the function that receives the log, in place of the previous one; null removes it. It is called on
    /// any thread, also concurrently, and must return soon; as <see cref="TunnelOptions.Packets"/>, it must not start
    /// threads. Exceptions of it are ignored.</summary>
    public static void SetLog(LogLevel level, Action<LogLevel, string> function) {
      WgException.Check(Native.wg_set_log_level((int)level));
      Volatile.Write(ref sink, function);
      var callback = function == null ? null : Line;
      WgException.Check(Native.wg_set_log_callback(callback, IntPtr.Zero, IntPtr.Zero));
    }

    static void OnLine(IntPtr user, int handle, int level, IntPtr text) {
      try {
        var function = Volatile.Read(ref sink);
        if (function != null) function((LogLevel)level, Native.Text(text));
      } catch (Exception) {
        // It must not reach native code.
      }
    }
  }

  /// <summary>A private, public or preshared key: 32 bytes.</summary>
  public sealed class Key : IDisposable, IEquatable<Key> {
    /// <summary>The length of a key in bytes.</summary>
    public const int Length = 32;
    readonly byte[] bytes;
    bool disposed;

    Key(byte[] bytes) { this.bytes = bytes; }

    /// <summary>Generates a private key.</summary>
    public static Key GeneratePrivate() { return Make(bytes => Native.wg_keys_generate_private(bytes)); }

    /// <summary>Generates a preshared key.</summary>
    public static Key GeneratePreshared() { return Make(bytes => Native.wg_keys_generate_preshared(bytes)); }

    /// <summary>Copies a key.</summary>
    public static Key FromBytes(byte[] bytes) {
      if (bytes == null) throw new ArgumentNullException(nameof(bytes));
      if (bytes.Length != Length) throw new ArgumentException("a key has 32 bytes", nameof(bytes));
      return new Key((byte[])bytes.Clone());
    }

    /// <summary>Parses 44 characters of base64, the form of wg(8).</summary>
    public static Key FromBase64(string text) {
      return WithText(text, c => Make(bytes => Native.wg_keys_from_base64(c, bytes)));
    }

    /// <summary>Parses 64 hex digits of either case.</summary>
    public static Key FromHex(string text) {
      return WithText(text, c => Make(bytes => Native.wg_keys_from_hex(c, bytes)));
    }

    /// <summary>Returns the public key of this private key.</summary>
    public Key PublicKey() { return Make(bytes => Native.wg_keys_derive_public(Bytes(), bytes)); }

    /// <summary>Returns the key as base64. The text cannot be wiped.</summary>
    public string ToBase64() { return Format(45, Native.wg_keys_to_base64); }

    /// <summary>Returns the key as lower-case hex digits. The text cannot be wiped.</summary>
    public string ToHex() { return Format(65, Native.wg_keys_to_hex); }

    /// <summary>Returns a copy, which the caller wipes.</summary>
    public byte[] ToBytes() { return (byte[])Bytes().Clone(); }

    /// <summary>Compares in constant time.</summary>
    public bool Equals(Key other) {
      if (other == null) return false;
      int difference = 0;
      byte[] one = Bytes(), two = other.Bytes();
      for (int i = 0; i < Length; i++) difference |= one[i] ^ two[i];
      return difference == 0;
    }

    /// <summary>As <see cref="Equals(Key)"/>.</summary>
    public override bool Equals(object other) { return Equals(other as Key); }

    /// <summary>The same for equal keys; it reveals 32 bits of the key.</summary>
    public override int GetHashCode() { return BitConverter.ToInt32(Bytes(), 0); }

    /// <summary>Without the key, so that it is not logged by mistake.</summary>
    public override string ToString() { return "Key(..)"; }

    /// <summary>Wipes it.</summary>
    public void Dispose() {
      disposed = true;
      Array.Clear(bytes, 0, bytes.Length);
    }

    internal byte[] Bytes() {
      if (disposed) throw new ObjectDisposedException(nameof(Key));
      return bytes;
    }

    static Key Make(Func<byte[], int> fill) {
      var bytes = new byte[Length];
      WgException.Check(fill(bytes));
      return new Key(bytes);
    }

    static Key WithText(string text, Func<byte[], Key> parse) {
      if (text == null) throw new ArgumentNullException(nameof(text));
      byte[] c = Native.CText(text);
      try {
        return parse(c);
      } finally {
        Array.Clear(c, 0, c.Length);
      }
    }

    string Format(int room, Func<byte[], byte[], int> format) {
      var text = new byte[room];
      WgException.Check(format(Bytes(), text));
      string result = Encoding.ASCII.GetString(text, 0, room - 1);
      Array.Clear(text, 0, room);
      return result;
    }
  }

  /// <summary>An address with the length of its prefix.</summary>
  public sealed class Prefix {
    /// <summary>The address, with the bits of the host.</summary>
    public IPAddress Address { get; }
    /// <summary>The length in bits.</summary>
    public int Length { get; }

    internal Prefix(string text) {
      int slash = text.IndexOf('/');
      Address = IPAddress.Parse(text.Substring(0, slash));
      Length = int.Parse(text.Substring(slash + 1));
    }

    /// <summary>In the form 10.0.0.2/24.</summary>
    public override string ToString() { return Address + "/" + Length; }
  }

  /// <summary>A configuration: a .conf file as wg-quick(8) and the WireGuard apps have it.</summary>
  public sealed class Config : IDisposable {
    readonly byte[] file;
    bool disposed;
    readonly List<Prefix> addresses = new List<Prefix>();
    readonly List<IPAddress> dns = new List<IPAddress>();
    readonly List<string> searchDomains = new List<string>();

    /// <summary>The addresses of the interface.</summary>
    public IReadOnlyList<Prefix> Addresses { get { return addresses; } }
    /// <summary>The name servers.</summary>
    public IReadOnlyList<IPAddress> Dns { get { return dns; } }
    /// <summary>Domains that are appended to names without dots.</summary>
    public IReadOnlyList<string> SearchDomains { get { return searchDomains; } }
    /// <summary>The MTU in bytes, or 0 if the file has none.</summary>
    public int Mtu { get; private set; }
    /// <summary>False if the file says "Table = off".</summary>
    public bool HasRoutes { get; private set; } = true;

    Config(byte[] file, byte[] settings) {
      this.file = file;
      int begin = 0;
      while (begin < settings.Length - 1) {
        int end = Array.IndexOf(settings, (byte)'\n', begin);
        if (end < 0) end = settings.Length - 1;
        int equals = Array.IndexOf(settings, (byte)'=', begin, end - begin);
        if (equals >= 0) Set(settings, begin, equals, end);
        begin = end + 1;
      }
    }

    /// Takes one setting. No text is made of others: commands may contain keys, and text cannot be wiped.
    void Set(byte[] settings, int begin, int equals, int end) {
      Func<string> value = () => Encoding.UTF8.GetString(settings, equals + 1, end - equals - 1);
      switch (Encoding.UTF8.GetString(settings, begin, equals - begin)) {
        case "address": addresses.Add(new Prefix(value())); break;
        case "dns": dns.Add(IPAddress.Parse(value())); break;
        case "search": searchDomains.Add(value()); break;
        case "mtu": Mtu = int.Parse(value()); break;
        case "table": HasRoutes = value() != "off"; break;
      }
    }

    /// <summary>Parses the text of a file. The text itself cannot be wiped: prefer bytes.</summary>
    public static Config Parse(string text) {
      if (text == null) throw new ArgumentNullException(nameof(text));
      byte[] bytes = Encoding.UTF8.GetBytes(text);
      try {
        return Parse(bytes);
      } finally {
        Array.Clear(bytes, 0, bytes.Length);
      }
    }

    /// <summary>Parses the bytes of a file, in UTF-8 or UTF-16.</summary>
    public static Config Parse(byte[] bytes) {
      if (bytes == null) throw new ArgumentNullException(nameof(bytes));
      return Parse(bytes, bytes.Length);
    }

    static Config Parse(byte[] bytes, int length) {
      IntPtr uapi, settings;
      WgException.Check(Native.wg_conf_parse(bytes, (UIntPtr)length, out uapi, out settings));
      Native.wg_free(uapi);
      byte[] lines = Native.Take(settings);
      try {
        var file = new byte[length];
        Array.Copy(bytes, file, length);
        return new Config(file, lines);
      } finally {
        Array.Clear(lines, 0, lines.Length); // Commands may contain keys.
      }
    }

    /// <summary>Parses a file that is read to its end.</summary>
    public static Config Parse(Stream stream) {
      if (stream == null) throw new ArgumentNullException(nameof(stream));
      var bytes = new byte[4096];
      try {
        int length = 0, read;
        while ((read = stream.Read(bytes, length, bytes.Length - length)) > 0) {
          length += read;
          if (length < bytes.Length) continue;
          var larger = new byte[2 * length]; // A MemoryStream would leave its earlier arrays unwiped.
          Array.Copy(bytes, larger, length);
          Array.Clear(bytes, 0, length);
          bytes = larger;
        }
        return Parse(bytes, length);
      } finally {
        Array.Clear(bytes, 0, bytes.Length);
      }
    }

    /// <summary>Wipes the keys.</summary>
    public void Dispose() {
      disposed = true;
      Array.Clear(file, 0, file.Length);
    }

    /// <summary>Without keys, so that they are not logged by mistake.</summary>
    public override string ToString() { return "Config(..)"; }

    internal Config Copy() { return Parse(Bytes()); }

    /// Calls a function with the lines that give this configuration to a tunnel which has the configuration `before`:
    /// the changes only. Without `before` the lines replace any configuration. They are wiped afterwards.
    internal T WithLines<T>(Config before, Func<byte[], T> function) {
      byte[] lines = before == null ? All() : ChangesSince(before);
      try {
        return function(lines);
      } finally {
        Array.Clear(lines, 0, lines.Length);
      }
    }

    byte[] All() {
      IntPtr uapi, settings;
      byte[] bytes = Bytes();
      WgException.Check(Native.wg_conf_parse(bytes, (UIntPtr)bytes.Length, out uapi, out settings));
      Native.wg_free(settings);
      return Native.Take(uapi);
    }

    byte[] ChangesSince(Config before) {
      IntPtr uapi;
      byte[] old = before.Bytes(), now = Bytes();
      WgException.Check(Native.wg_conf_changes(old, (UIntPtr)old.Length, now, (UIntPtr)now.Length, out uapi));
      return Native.Take(uapi);
    }

    byte[] Bytes() {
      if (disposed) throw new ObjectDisposedException(nameof(Config));
      return file;
    }
  }

  /// <summary>What a tunnel is started with.</summary>
  public sealed class TunnelOptions {
    /// <summary>Receives each IP packet that comes out of the tunnel; the array is the program's own. It is called on
    /// one thread at a time, a thread of the library, and must return soon. On Unix it must not start threads or tasks:
    /// they would inherit that all signals are blocked. Exceptions of it are ignored, and the packet is dropped.
    /// </summary>
    public Action<byte[]> Packets { get; set; }
    /// <summary>The name of a network interface that the tunnel creates, in place of <see cref="Packets"/>: on Windows
    /// an adapter of Wintun, for which wintun.dll is looked for as for <see cref="TunnelService"/>. It is removed with
    /// the tunnel. Addresses, routes and name servers are left to the program.</summary>
    public string InterfaceName { get; set; }
    /// <summary>The MTU in bytes, 576 to 65535; 0 is that of the configuration, or 1420.</summary>
    public int Mtu { get; set; }
    /// <summary>The limit for packets in transit, in bytes: 1,572,864 to 8,388,608, or 131,072 more at least without
    /// <see cref="InterfaceName"/>; 0 is 4 MiB.</summary>
    public long MemoryLimit { get; set; }
    /// <summary>The largest number of threads that help with encryption while one processor is not enough: 1 to 8, or
    /// -1 for none. 0 is the default: one less than the processors, at most 3, and none on one or two processors or
    /// with a smaller <see cref="MemoryLimit"/>. They are started under the first such load.</summary>
    public int Workers { get; set; }
    /// <summary>Whether endpoints may be host names, which the system resolves.</summary>
    public bool ResolveNames { get; set; } = true;
    /// <summary>The level of the tunnel's log.</summary>
    public LogLevel LogLevel { get; set; } = LogLevel.Inherit;
  }

  /// <summary>An event of a tunnel.</summary>
  public sealed class TunnelEventArgs : EventArgs {
    /// <summary>What has happened.</summary>
    public TunnelEventKind Kind { get; }
    /// <summary>The peer that it concerns, or null.</summary>
    public Key PublicKey { get; }
    /// <summary>An address and port, or an empty text.</summary>
    public string Endpoint { get; }
    /// <summary>The cause in English, or an empty text.</summary>
    public string Reason { get; }
    /// <summary>The UDP port, or 0.</summary>
    public int ListenPort { get; }

    internal TunnelEventArgs(Native.Event e) {
      Kind = (TunnelEventKind)e.Kind;
      PublicKey = Array.TrueForAll(e.PublicKey, one => one == 0) ? null : Key.FromBytes(e.PublicKey);
      Endpoint = Native.Text(e.Endpoint);
      Reason = Native.Text(e.Reason);
      ListenPort = (int)e.ListenPort;
    }
  }

  /// <summary>Numbers of a tunnel, since it was started.</summary>
  public sealed class TunnelStats {
    /// <summary>The number of peers.</summary>
    public long Peers { get; internal set; }
    /// <summary>Bytes received from peers.</summary>
    public ulong RxBytes { get; internal set; }
    /// <summary>Bytes sent to peers.</summary>
    public ulong TxBytes { get; internal set; }
    /// <summary>Packets received from peers.</summary>
    public ulong RxPackets { get; internal set; }
    /// <summary>Packets sent to peers.</summary>
    public ulong TxPackets { get; internal set; }
    /// <summary>Received packets that were dropped.</summary>
    public ulong RxDropped { get; internal set; }
    /// <summary>Packets to send that were dropped.</summary>
    public ulong TxDropped { get; internal set; }
  }

  /// <summary>Numbers of a peer.</summary>
  public sealed class PeerStats {
    /// <summary>The peer.</summary>
    public Key PublicKey { get; internal set; }
    /// <summary>Its address and port, or an empty text.</summary>
    public string Endpoint { get; internal set; }
    /// <summary>Bytes received from it.</summary>
    public ulong RxBytes { get; internal set; }
    /// <summary>Bytes sent to it.</summary>
    public ulong TxBytes { get; internal set; }
    /// <summary>The time of its last handshake (UTC), or null.</summary>
    public DateTime? LastHandshake { get; internal set; }
    /// <summary>Whether there is a session.</summary>
    public bool HasSession { get; internal set; }
    /// <summary>Packets that wait for a session.</summary>
    public long StagedPackets { get; internal set; }
    /// <summary>The interval of keepalives in seconds, or 0.</summary>
    public int PersistentKeepalive { get; internal set; }
  }

  /// <summary>A running tunnel. Dispose of it. A tunnel that is forgotten ends when it is collected, unless <see
  /// cref="TunnelOptions.Packets"/> refers to it: the library keeps that function, and so the tunnel. It has a
  /// copy of its configuration, which <see cref="Dispose"/> wipes.</summary>
  public sealed class Tunnel : IDisposable {
    readonly TunnelHandle handle;
    readonly Inbox inbox;
    readonly object updating = new object(); // The lock of what follows.
    Config current; // What the tunnel has; null after RemovePeer() and Dispose().

    Tunnel(TunnelHandle handle, Inbox inbox, Config current) {
      this.handle = handle;
      this.inbox = inbox;
      this.current = current;
      inbox.Attach(this);
    }

    /// <summary>Events, one by one and in order, on the SynchronizationContext on which the tunnel was started, or else
    /// on the thread pool. At most 256 wait; then <see cref="TunnelEventKind.Missed"/> stands for what was dropped.
    /// Those from before the first handler are delivered to it.</summary>
    public event EventHandler<TunnelEventArgs> Event {
      add { inbox.Add(value); }
      remove { inbox.Remove(value); }
    }

    /// <summary>Starts a tunnel whose packets are the program's own, or those of an interface.</summary>
    public static Tunnel Start(Config config, TunnelOptions options) {
      if (config == null) throw new ArgumentNullException(nameof(config));
      if (options == null) throw new ArgumentNullException(nameof(options));
      if (options.InterfaceName != null && options.Packets != null) {
        throw new ArgumentException("both InterfaceName and Packets are set", nameof(options));
      }
      Handover.Prepare();
      var inbox = new Inbox(options.Packets, SynchronizationContext.Current);
      int mtu = options.Mtu != 0 ? options.Mtu : config.Mtu;
      Config own = config.Copy();
      try {
        return new Tunnel(own.WithLines(null, uapi => TunnelHandle.Open(uapi, options, mtu, inbox)), inbox, own);
      } catch (Exception) {
        own.Dispose();
        throw;
      }
    }

    /// <summary>Passes an IP packet into the tunnel. Returns false if there is no room for it: drop it, as an interface
    /// does. Never waits. With an interface it fails with <see cref="WgError.Unsupported"/>.</summary>
    public bool Inject(byte[] packet) {
      if (packet == null) throw new ArgumentNullException(nameof(packet));
      var pin = GCHandle.Alloc(packet, GCHandleType.Pinned);
      try {
        var one = new Native.Packet { Data = pin.AddrOfPinnedObject(), Len = (UIntPtr)packet.Length };
        UIntPtr taken = UIntPtr.Zero;
        handle.Call(h => Native.wg_tun_inject(h, ref one, (UIntPtr)1, out taken));
        return taken != UIntPtr.Zero;
      } finally {
        pin.Free();
      }
    }

    /// <summary>Changes the configuration. Only differences are applied: peers that are in both configurations keep
    /// their sessions, and the endpoints that they have moved to. If it fails, nothing has changed.</summary>
    public void Update(Config config) {
      if (config == null) throw new ArgumentNullException(nameof(config));
      // This fails inside a callback, which must not wait for the lock: its owner may wait for the callback.
      Config next = config.Copy();
      lock (updating) {
        Config unused = next;
        try {
          handle.Call(h => next.WithLines(current, uapi => Native.wg_set_config(h, uapi)));
          unused = current;
          current = next;
        } finally {
          if (unused != null) unused.Dispose();
        }
      }
    }

    /// <summary>Removes a peer. The next <see cref="Update"/> replaces the whole configuration: every session ends.
    /// </summary>
    public void RemovePeer(Key publicKey) {
      byte[] key = Of(publicKey);
      // As in Update(): this call fails inside a callback.
      handle.Call(h => Native.wg_listen_port(h));
      lock (updating) {
        handle.Call(h => Native.wg_remove_peer(h, key));
        Forget();
      }
    }

    /// <summary>Begins a handshake with a peer.</summary>
    public void ForceHandshake(Key publicKey) { handle.Call(h => Native.wg_force_handshake(h, Of(publicKey))); }

    /// <summary>Ends the sessions with a peer.</summary>
    public void DropSession(Key publicKey) { handle.Call(h => Native.wg_drop_session(h, Of(publicKey))); }

    /// <summary>Adapts the tunnel to a change of networks: sockets are reopened, names resolved again.</summary>
    public void NetworkChanged() { handle.Call(h => Native.wg_network_changed(h)); }

    /// <summary>Binds the sockets to the interface with this index, so that the tunnel's own packets do not enter it; 0
    /// leaves the choice to the routes. The host may lack a family.</summary>
    public void BindToInterface(int index) {
      try {
        handle.Call(h => Native.wg_bind_socket_to_interface4(h, (uint)index, 0));
      } catch (WgException e) when (e.Code == WgError.Unsupported) {
        // A host without IPv4 has IPv6. If nothing can be bound, this fails as well.
        handle.Call(h => Native.wg_bind_socket_to_interface6(h, (uint)index, 0));
        return;
      }
      try {
        handle.Call(h => Native.wg_bind_socket_to_interface6(h, (uint)index, 0));
      } catch (WgException e) when (e.Code == WgError.Unsupported) {
        // Only IPv4 is bound, as there is no IPv6.
      }
    }

    /// <summary>Stops all traffic until <see cref="Resume"/>. Idempotent.</summary>
    public void Pause() { handle.Call(h => Native.wg_pause(h)); }

    /// <summary>Continues after <see cref="Pause"/>.</summary>
    public void Resume() { handle.Call(h => Native.wg_resume(h)); }

    /// <summary>Releases unused memory.</summary>
    public void Trim() { handle.Call(h => Native.wg_trim(h)); }

    /// <summary>The UDP port.</summary>
    public int ListenPort { get { return handle.Call(h => Native.wg_listen_port(h)); } }

    /// <summary>The configuration and state without keys, the lines of a UAPI "get".</summary>
    public string PublicConfig() {
      IntPtr text = IntPtr.Zero;
      handle.Call(h => Native.wg_get_config_public(h, out text));
      byte[] bytes = Native.Take(text);
      return Encoding.UTF8.GetString(bytes, 0, bytes.Length - 1);
    }

    /// <summary>Numbers of the tunnel.</summary>
    public TunnelStats Stats() {
      var stats = new Native.Stats { StructSize = Native.SizeOf<Native.Stats>() };
      handle.Call(h => Native.wg_stats(h, ref stats));
      return new TunnelStats {
        Peers = (long)stats.Peers, RxBytes = stats.RxBytes, TxBytes = stats.TxBytes, RxPackets = stats.RxPackets,
        TxPackets = stats.TxPackets, RxDropped = stats.RxDropped, TxDropped = stats.TxDropped,
      };
    }

    /// <summary>Numbers of all peers, in the order of the configuration.</summary>
    public IReadOnlyList<PeerStats> Peers() {
      return Elements<Native.Peer>((h, memory, room) => {
        UIntPtr count;
        if (memory != IntPtr.Zero) Marshal.WriteIntPtr(memory, (IntPtr)(long)Native.SizeOf<Native.Peer>());
        return new Counted(Native.wg_peers(h, memory, room, out count), count);
      }).ConvertAll(peer => new PeerStats {
        PublicKey = Key.FromBytes(peer.PublicKey), Endpoint = Native.Text(peer.Endpoint), RxBytes = peer.RxBytes,
        TxBytes = peer.TxBytes, HasSession = peer.HasSession != 0, StagedPackets = (long)peer.StagedPackets,
        PersistentKeepalive = (int)peer.PersistentKeepalive, LastHandshake = Time(peer),
      });
    }

    /// <summary>Counters of what was dropped or refused, and why, by their names.</summary>
    public IReadOnlyDictionary<string, ulong> Counters() {
      var counters = new Dictionary<string, ulong>();
      var all = Elements<Native.Counter>((h, memory, room) => {
        UIntPtr count;
        return new Counted(Native.wg_counters(h, memory, room, out count), count);
      });
      foreach (var counter in all) counters[Native.Text(counter.Name)] = counter.Value;
      return counters;
    }

    /// <summary>Stops the tunnel: when this returns, none of its functions runs. Idempotent. Inside <see
    /// cref="TunnelOptions.Packets"/> and the function of the log it fails with <see cref="WgError.Busy"/>, and the
    /// tunnel goes on: dispose of it on another thread. Handlers of <see cref="Event"/> may call it.</summary>
    public void Dispose() {
      handle.TurnOff();
      Forget();
    }

    void Forget() {
      lock (updating) {
        if (current != null) current.Dispose();
        current = null;
      }
    }

    internal void Deliver(EventHandler<TunnelEventArgs> handlers, TunnelEventArgs e) { handlers(this, e); }

    static byte[] Of(Key key) {
      if (key == null) throw new ArgumentNullException(nameof(key));
      return key.Bytes();
    }

    static DateTime? Time(Native.Peer peer) {
      if (peer.LastHandshakeSec == 0 && peer.LastHandshakeNsec == 0) return null;
      var begin = new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc);
      return begin.AddSeconds(peer.LastHandshakeSec).AddTicks(peer.LastHandshakeNsec / 100);
    }

    struct Counted {
      internal readonly int Code;
      internal readonly UIntPtr Count;
      internal Counted(int code, UIntPtr count) { Code = code; Count = count; }
    }

    /// Reads an array whose size the library knows: first without room, then with some to spare.
    List<T> Elements<T>(Func<int, IntPtr, UIntPtr, Counted> read) where T : struct {
      int size = Marshal.SizeOf(typeof(T));
      var count = UIntPtr.Zero;
      handle.Call(h => { var all = read(h, IntPtr.Zero, UIntPtr.Zero); count = all.Count; return all.Code; });
      while (true) {
        int room = (int)count + 4;
        IntPtr memory = Marshal.AllocHGlobal(room * size);
        try {
          handle.Call(h => { var one = read(h, memory, (UIntPtr)room); count = one.Count; return one.Code; });
          if ((int)count > room) continue;
          var all = new List<T>((int)count);
          for (int i = 0; i < (int)count; i++) {
            all.Add((T)Marshal.PtrToStructure(IntPtr.Add(memory, i * size), typeof(T)));
          }
          return all;
        } finally {
          Marshal.FreeHGlobal(memory);
        }
      }
    }
  }

  /// <summary>A tunnel with an interface of its own, as a service of Windows. wintun.dll is looked for in
  /// the folder of wg_embed.dll, of the program and of the system.</summary>
  public static class TunnelService {
    /// <summary>The name of the service of a tunnel.</summary>
    public static string NameOf(string tunnel) { return "WireGuardTunnel$" + tunnel; }

    /// <summary>Runs the tunnel of a .conf or .conf.dpapi file, until the service is stopped. The process was started
    /// by the service manager for the service with the name of the tunnel.</summary>
    public static void Run(string confFile) {
      if (confFile == null) throw new ArgumentNullException(nameof(confFile));
      if (Native.WireGuardTunnelService(confFile) != 0) return;
      throw new WgException((int)WgError.Io, Native.Text(Native.wg_last_error()));
    }
  }

  /// Where callbacks leave what is for the program. The library has a handle to it, and so it lives as long as the
  /// tunnel; it does not keep the Tunnel alive.
  sealed class Inbox {
    const int MaxEvents = 256;
    readonly Action<byte[]> packets;
    readonly SynchronizationContext context;
    readonly Queue<TunnelEventArgs> waiting = new Queue<TunnelEventArgs>(); // The lock of all that follows.
    EventHandler<TunnelEventArgs> handlers;
    WeakReference<Tunnel> tunnel;
    bool delivering;

    internal Inbox(Action<byte[]> packets, SynchronizationContext context) {
      this.packets = packets;
      this.context = context;
    }

    internal void Attach(Tunnel owner) {
      lock (waiting) {
        tunnel = new WeakReference<Tunnel>(owner);
        Schedule();
      }
    }

    internal void Add(EventHandler<TunnelEventArgs> handler) {
      lock (waiting) {
        handlers += handler;
        Schedule();
      }
    }

    internal void Remove(EventHandler<TunnelEventArgs> handler) {
      lock (waiting) handlers -= handler;
    }

    internal void Put(Native.Event e) {
      lock (waiting) {
        // The last place is for the report of what was dropped.
        if (waiting.Count == MaxEvents) return;
        if (waiting.Count == MaxEvents - 1) e = Native.Event.Missed();
        waiting.Enqueue(new TunnelEventArgs(e));
        Schedule();
      }
    }

    internal void Packet(byte[] packet) {
      if (packets != null) packets(packet);
    }

    /// With the lock.
    void Schedule() {
      if (delivering || waiting.Count == 0 || handlers == null || tunnel == null) return;
      delivering = true;
      Handover.Post(context, Deliver);
    }

    void Deliver() {
      while (true) {
        EventHandler<TunnelEventArgs> now;
        TunnelEventArgs e;
        Tunnel owner;
        lock (waiting) {
          now = handlers;
          if (waiting.Count == 0 || now == null || !tunnel.TryGetTarget(out owner)) {
            delivering = false;
            return;
          }
          e = waiting.Dequeue();
        }
        try {
          owner.Deliver(now, e);
        } catch (Exception) {
          // The next event is delivered on another work item, and this one ends as the program's exceptions do.
          lock (waiting) {
            delivering = false;
            Schedule();
          }
          throw;
        }
      }
    }
  }

  /// Passes work from the library's threads to a SynchronizationContext or the thread pool. On Unix these threads
  /// block all signals, and threads that the pool would create on them as well; mono could not stop these for a garbage
  /// collection, and would wait for them without limit. A thread of its own has no such effect.
  static class Handover {
    static readonly Queue<KeyValuePair<SynchronizationContext, Action>> waiting =
      new Queue<KeyValuePair<SynchronizationContext, Action>>();
    static Thread thread;

    /// On a thread of the program, before there are threads of the library.
    internal static void Prepare() {
      lock (waiting) {
        if (thread != null) return;
        var begun = new Thread(Run) { IsBackground = true, Name = "WgEmbed events" };
        begun.Start();
        thread = begun;
      }
    }

    internal static void Post(SynchronizationContext context, Action action) {
      lock (waiting) {
        waiting.Enqueue(new KeyValuePair<SynchronizationContext, Action>(context, action));
        Monitor.Pulse(waiting);
      }
    }

    static void Run() {
      while (true) {
        KeyValuePair<SynchronizationContext, Action> next;
        lock (waiting) {
          while (waiting.Count == 0) Monitor.Wait(waiting);
          next = waiting.Dequeue();
        }
        Action action = next.Value;
        try {
          if (next.Key != null) next.Key.Post(state => action(), null);
          else ThreadPool.QueueUserWorkItem(state => action());
        } catch (Exception) {
          // A context that has ended takes nothing more.
        }
      }
    }
  }

  /// The number of a tunnel in the library, which is turned off once.
  sealed class TunnelHandle : SafeHandle {
    static readonly Native.TunWrite Write = OnPackets; // Static: they are never collected.
    static readonly Native.EventFn Happened = OnEvent;
    static readonly Native.Destroy Forget = OnForget;
    static readonly Native.Resolve Resolve = Native.wg_resolve_system;

    TunnelHandle() : base(IntPtr.Zero, true) { }

    public override bool IsInvalid { get { return (long)handle <= 0; } }

    protected override bool ReleaseHandle() { return Native.wg_turn_off((int)handle) >= 0; }

    internal static TunnelHandle Open(byte[] uapi, TunnelOptions options, int mtu, Inbox inbox) {
      var opened = new TunnelHandle(); // First: without memory for it, no tunnel would be left behind.
      byte[] name = options.InterfaceName == null ? null : Native.CText(options.InterfaceName);
      GCHandle pin = GCHandle.Alloc(name, GCHandleType.Pinned);
      IntPtr memory = IntPtr.Zero;
      int number;
      try {
        if (name == null) {
          memory = Marshal.AllocHGlobal(Marshal.SizeOf(typeof(Native.TunCallbacks)));
          Marshal.StructureToPtr(new Native.TunCallbacks {
            StructSize = Native.SizeOf<Native.TunCallbacks>(), Write = Write, User = Give(inbox), Destroy = Forget,
          }, memory, false);
        }
        var native = new Native.Options {
          StructSize = Native.SizeOf<Native.Options>(), TunFd = -1, FdOwnership = 1, Mtu = (uint)mtu,
          MemoryLimit = (UIntPtr)(ulong)options.MemoryLimit, Resolve = options.ResolveNames ? Resolve : null,
          Tun = memory, Event = Happened, EventUser = Give(inbox), EventDestroy = Forget,
          LogLevel = (int)options.LogLevel, InterfaceName = pin.AddrOfPinnedObject(),
          Workers = (uint)options.Workers,
        };
        // From here on the library calls the destroy functions, also on failure.
        number = Native.wg_turn_on_with(ref native, uapi);
      } finally {
        Marshal.FreeHGlobal(memory);
        pin.Free();
      }
      opened.SetHandle((IntPtr)WgException.Check(number));
      return opened;
    }

    /// Turns the tunnel off now. Dispose() would leave it to the last call that ends, which may be one inside a
    /// function of the tunnel, where it is refused. Calls in progress are harmless: a number is never used again.
    internal void TurnOff() {
      if (IsClosed) return;
      int code = Native.wg_turn_off((int)handle);
      if (code != (int)WgError.UnknownHandle) WgException.Check(code);
      SetHandleAsInvalid();
    }

    /// Calls a function with the number, which stays valid during the call.
    internal int Call(Func<int, int> function) {
      bool held = false;
      try {
        DangerousAddRef(ref held);
        return WgException.Check(function((int)handle));
      } finally {
        if (held) DangerousRelease();
      }
    }

    static IntPtr Give(Inbox inbox) { return GCHandle.ToIntPtr(GCHandle.Alloc(inbox)); }

    static Inbox Of(IntPtr user) { return (Inbox)GCHandle.FromIntPtr(user).Target; }

    static void OnForget(IntPtr user) { GCHandle.FromIntPtr(user).Free(); }

    static void OnEvent(IntPtr user, int handle, IntPtr e) {
      try {
        Of(user).Put((Native.Event)Marshal.PtrToStructure(e, typeof(Native.Event)));
      } catch (Exception) {
        // It must not reach native code.
      }
    }

    static UIntPtr OnPackets(IntPtr user, int handle, IntPtr packets, UIntPtr count) {
      ulong accepted = 0;
      try {
        var inbox = Of(user);
        int size = Marshal.SizeOf(typeof(Native.Packet));
        for (; accepted < (ulong)count; accepted++) {
          IntPtr at = IntPtr.Add(packets, (int)accepted * size);
          var packet = (Native.Packet)Marshal.PtrToStructure(at, typeof(Native.Packet));
          var bytes = new byte[(int)packet.Len];
          Marshal.Copy(packet.Data, bytes, 0, bytes.Length);
          inbox.Packet(bytes);
        }
      } catch (Exception) {
        // It must not reach native code: what was not accepted is dropped and counted.
      }
      return (UIntPtr)accepted;
    }
  }

  /// The functions and structs of wg_embed.h.
  static class Native {
    const string Lib = "wg_embed";
    const CallingConvention C = CallingConvention.Cdecl;

    [UnmanagedFunctionPointer(C)]
    internal delegate UIntPtr TunWrite(IntPtr user, int handle, IntPtr packets, UIntPtr count);
    [UnmanagedFunctionPointer(C)]
    internal delegate void EventFn(IntPtr user, int handle, IntPtr e);
    [UnmanagedFunctionPointer(C)]
    internal delegate void LogFn(IntPtr user, int handle, int level, IntPtr text);
    [UnmanagedFunctionPointer(C)]
    internal delegate void Destroy(IntPtr user);
    [UnmanagedFunctionPointer(C)]
    internal delegate int Resolve(IntPtr user, IntPtr host, IntPtr addresses, UIntPtr capacity, IntPtr count);

    [StructLayout(LayoutKind.Sequential)]
    internal struct Packet { internal IntPtr Data; internal UIntPtr Len; }

    [StructLayout(LayoutKind.Sequential)]
    internal struct TunCallbacks {
      internal UIntPtr StructSize;
      internal TunWrite Write;
      internal IntPtr Room;
      internal IntPtr User;
      internal Destroy Destroy;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Options {
      internal UIntPtr StructSize;
      internal int TunFd;
      internal uint FdOwnership;
      internal uint Mtu;
      internal uint MaxPeers;
      internal UIntPtr MemoryLimit;
      internal IntPtr Protect, ProtectUser, ProtectDestroy;
      internal Resolve Resolve;
      internal IntPtr ResolveUser, ResolveDestroy;
      internal IntPtr Tun, Transport;
      internal EventFn Event;
      internal IntPtr EventUser;
      internal Destroy EventDestroy;
      internal IntPtr Log, LogUser, LogDestroy;
      internal int LogLevel;
      internal uint Flags;
      internal IntPtr Net, InterfaceName;
      internal uint Workers, Queues;
      internal IntPtr QueueFds;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Event {
      internal UIntPtr StructSize;
      internal uint Kind;
      internal uint ListenPort;
      [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] internal byte[] PublicKey;
      [MarshalAs(UnmanagedType.ByValArray, SizeConst = 64)] internal byte[] Endpoint;
      [MarshalAs(UnmanagedType.ByValArray, SizeConst = 192)] internal byte[] Reason;

      internal static Event Missed() {
        return new Event {
          Kind = (uint)TunnelEventKind.Missed, PublicKey = new byte[32], Endpoint = new byte[1], Reason = new byte[1],
        };
      }
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Stats {
      internal UIntPtr StructSize, Peers;
      internal ulong RxBytes, TxBytes, RxPackets, TxPackets, RxDropped, TxDropped;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Counter {
      [MarshalAs(UnmanagedType.ByValArray, SizeConst = 40)] internal byte[] Name;
      internal ulong Value;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Peer {
      internal UIntPtr StructSize, StagedPackets;
      internal ulong RxBytes, TxBytes;
      internal long LastHandshakeSec;
      internal uint LastHandshakeNsec, PersistentKeepalive, HasSession, NextTimerMs;
      [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] internal byte[] PublicKey;
      [MarshalAs(UnmanagedType.ByValArray, SizeConst = 64)] internal byte[] Endpoint;
    }

    [DllImport(Lib, CallingConvention = C)] internal static extern IntPtr wg_version_string();
    [DllImport(Lib, CallingConvention = C)] internal static extern IntPtr wg_last_error();
    [DllImport(Lib, CallingConvention = C)] internal static extern void wg_free(IntPtr memory);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_set_log_level(int level);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_set_log_callback(LogFn log, IntPtr user, IntPtr destroy);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_generate_private(byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_generate_preshared(byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_derive_public(byte[] key, byte[] result);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_from_base64(byte[] text, byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_from_hex(byte[] text, byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_to_base64(byte[] key, byte[] text);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_keys_to_hex(byte[] key, byte[] text);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_conf_parse(byte[] conf, UIntPtr len, out IntPtr uapi, out IntPtr settings);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_conf_changes(
      byte[] before, UIntPtr beforeLen, byte[] now, UIntPtr nowLen, out IntPtr uapi);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_turn_on_with(ref Options options, byte[] uapi);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_turn_off(int handle);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_tun_inject(int handle, ref Packet packets, UIntPtr count, out UIntPtr taken);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_set_config(int handle, byte[] uapi);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_get_config_public(int handle, out IntPtr text);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_remove_peer(int handle, byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_force_handshake(int handle, byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_drop_session(int handle, byte[] key);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_network_changed(int handle);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_bind_socket_to_interface4(int handle, uint index, int blackhole);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_bind_socket_to_interface6(int handle, uint index, int blackhole);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_pause(int handle);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_resume(int handle);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_trim(int handle);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_listen_port(int handle);
    [DllImport(Lib, CallingConvention = C)] internal static extern int wg_stats(int handle, ref Stats stats);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_peers(int handle, IntPtr peers, UIntPtr capacity, out UIntPtr count);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_counters(int handle, IntPtr counters, UIntPtr capacity, out UIntPtr count);
    [DllImport(Lib, CallingConvention = C)]
    internal static extern int wg_resolve_system(
      IntPtr user, IntPtr host, IntPtr addresses, UIntPtr capacity, IntPtr count);
    [DllImport(Lib, CallingConvention = C, CharSet = CharSet.Unicode)]
    internal static extern int WireGuardTunnelService(string confFile);

    internal static UIntPtr SizeOf<T>() { return (UIntPtr)Marshal.SizeOf(typeof(T)); }

    /// Returns text in UTF-8 that ends with a zero.
    internal static string Text(IntPtr text) {
      if (text == IntPtr.Zero) return "";
      int length = 0;
      while (Marshal.ReadByte(text, length) != 0) length++;
      var bytes = new byte[length];
      Marshal.Copy(text, bytes, 0, length);
      return Encoding.UTF8.GetString(bytes);
    }

    /// Returns the text in a field, which ends with a zero.
    internal static string Text(byte[] field) {
      int length = Array.IndexOf(field, (byte)0);
      return Encoding.UTF8.GetString(field, 0, length < 0 ? field.Length : length);
    }

    /// Returns text as C has it.
    internal static byte[] CText(string text) {
      if (text.IndexOf('\0') >= 0) throw new ArgumentException("the text contains a zero", nameof(text));
      var bytes = new byte[Encoding.UTF8.GetByteCount(text) + 1];
      Encoding.UTF8.GetBytes(text, 0, text.Length, bytes, 0);
      return bytes;
    }

    /// Copies text of the library with its zero, and gives the text back, which wipes it.
    internal static byte[] Take(IntPtr text) {
      try {
        int length = 0;
        while (Marshal.ReadByte(text, length) != 0) length++;
        var bytes = new byte[length + 1];
        Marshal.Copy(text, bytes, 0, length);
        return bytes;
      } finally {
        wg_free(text);
      }
    }
  }
}
