// Two tunnels in one process, over the real library and UDP on loopback: what WgEmbed.cs promises, and the
// conversations of Scenario.cs. Prints a line for each test, and fails with the first that is wrong.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Text;
using System.Threading;
using WgEmbed;

static class Test {
  const int Patience = 300000; // Milliseconds, for what takes some.
  static readonly byte[] Packet = {
    0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2, 0, 1, 0, 2, 0, 8, 0, 0,
  };

  /// With arguments, only the tests of these names.
  static int Main(string[] names) {
    var tests = new List<Action> {
      Keys, Configurations, Errors, Logs, Packets, Events, Updates, Reentry, Forgetting, Ends, Disposal, Cycles,
      Interfaces, Scenario.WrongSteps, Scenario.Scenarios,
    };
    if (names.Length > 0) tests = tests.FindAll(test => Array.IndexOf(names, test.Method.Name) >= 0);
    foreach (var test in tests) {
      try {
        test();
      } catch (Exception error) {
        Console.WriteLine("FAIL " + test.Method.Name + ": " + error);
        return 1;
      }
      Console.WriteLine("ok " + test.Method.Name);
    }
    Console.WriteLine(tests.Count + " tests, wg-embed " + Library.Version);
    return 0;
  }

  internal static void Check(bool holds, string what) {
    if (!holds) throw new Exception(what);
  }

  internal static WgError Refused(Action action) {
    try {
      action();
    } catch (WgException error) {
      return error.Code;
    }
    throw new Exception("it was not refused");
  }

  /// The object of the action was disposed of.
  internal static void Disposed(Action action) {
    try {
      action();
    } catch (ObjectDisposedException) {
      return;
    }
    throw new Exception("it can still be used");
  }

  internal static void Wait(Func<bool> condition, string what, int patience = Patience) {
    var waited = Stopwatch.StartNew();
    while (!condition()) {
      Check(waited.ElapsedMilliseconds < patience, what + " does not come");
      Thread.Sleep(10);
    }
  }

  static void Keys() {
    using (Key one = Key.GeneratePrivate(), other = Key.GeneratePrivate(), shared = Key.GeneratePreshared()) {
      Check(Key.FromBase64(one.ToBase64()).Equals(one) && Key.FromHex(one.ToHex()).Equals(one), "texts");
      Check(!one.Equals(other) && !one.Equals(shared) && !one.Equals((Key)null), "equality");
      Check(one.PublicKey().Equals(Key.FromBytes(one.ToBytes()).PublicKey()), "public keys");
      Check(!one.ToString().Contains(one.ToBase64().Substring(0, 8)), "a key in ToString()");
    }
    Check(Refused(() => Key.FromBase64("no")) == WgError.Invalid, "an invalid key");
    var wiped = Key.GeneratePrivate();
    wiped.Dispose();
    Disposed(() => wiped.ToBytes());
  }

  static void Configurations() {
    const string key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    string text = "[Interface]\nPrivateKey = " + key + "\nAddress = 10.9.0.2/24, fd00::2/64\n"
      + "DNS = 10.9.0.1, example.com\nMTU = 1300\nTable = off\n";
    using (var config = Config.Parse(text)) {
      Check(config.Addresses.Count == 2 && config.Addresses[0].ToString() == "10.9.0.2/24", "addresses");
      Check(config.Dns.Count == 1 && config.SearchDomains[0] == "example.com", "name servers");
      Check(config.Mtu == 1300 && !config.HasRoutes, "MTU and table");
      Check(!config.ToString().Contains(key), "a key in ToString()");
    }
    using (var config = Config.Parse(Encoding.Unicode.GetBytes("\ufeff" + text))) Check(config.Mtu == 1300, "UTF-16");
    string longer = new string('#', 20000) + "\n" + text;
    using (var config = Config.Parse(new MemoryStream(Encoding.UTF8.GetBytes(longer)))) {
      Check(config.Mtu == 1300 && config.Addresses.Count == 2, "a stream");
    }
    try {
      Config.Parse("[Interface]\nPrivateKey = secret\n");
      throw new Exception("an invalid file");
    } catch (WgException error) {
      Check(error.Code == WgError.Invalid && !error.Message.Contains("secret"), error.Message);
      Check(error.Message.Contains("line 2"), error.Message);
    }
  }

  static void Errors() {
    using (var config = Config.Parse("[Interface]\n")) {
      Check(Refused(() => Tunnel.Start(config, new TunnelOptions { Mtu = 100 })) == WgError.Invalid, "an MTU");
      Check(Refused(() => Tunnel.Start(config, new TunnelOptions { MemoryLimit = 1 })) == WgError.Invalid, "memory");
      Check(Refused(() => Tunnel.Start(config, new TunnelOptions { Workers = 9 })) == WgError.Invalid, "workers");
      Tunnel.Start(config, new TunnelOptions { Workers = 8 }).Dispose();
      var tunnel = Tunnel.Start(config, new TunnelOptions { Workers = -1 });
      Check(Refused(() => tunnel.ForceHandshake(Key.GeneratePrivate())) == WgError.NotFound, "an unknown peer");
      tunnel.Dispose();
      tunnel.Dispose();
      Disposed(() => tunnel.Pause());
    }
  }

  static void Logs() {
    int lines = 0;
    Library.SetLog(LogLevel.Debug, (level, text) => { Interlocked.Increment(ref lines); throw new Exception(); });
    using (var pair = new Pair()) pair.Pass();
    Library.SetLog(LogLevel.Info, null);
    Check(lines > 0, "no log");
    int before = lines;
    using (var pair = new Pair()) pair.Pass();
    Check(lines == before, "a log after its end");
  }

  static void Packets() {
    using (var pair = new Pair()) {
      pair.Pass();
      Wait(() => pair.Client.Stats().TxPackets > 0 && pair.Server.Stats().RxPackets > 0, "a counted packet");
      var peers = pair.Server.Peers();
      Check(peers.Count == 1 && peers[0].HasSession && peers[0].PublicKey.Equals(pair.ClientKey.PublicKey()), "peers");
      Check(peers[0].Endpoint.StartsWith("127.0.0.1:"), peers[0].Endpoint);
      Check(peers[0].LastHandshake > DateTime.UtcNow.AddHours(-1), "the time of the handshake");
      var counters = pair.Server.Counters();
      Check(counters.Count > 10 && counters.ContainsKey("udp_send_full"), "counters");
      Check(pair.Client.ListenPort > 0, "the port");
      Check(!pair.Client.PublicConfig().Contains("private_key"), "a private key");
    }
  }

  static void Events() {
    using (var pair = new Pair()) {
      var kinds = new List<TunnelEventKind>();
      Key peer = null;
      pair.Client.Event += (sender, e) => {
        Check(ReferenceEquals(sender, pair.Client), "the sender");
        lock (kinds) {
          kinds.Add(e.Kind);
          peer = e.PublicKey;
        }
      };
      pair.Pass();
      Wait(() => { lock (kinds) return kinds.Contains(TunnelEventKind.HandshakeCompleted); }, "an event");
      Check(peer.Equals(pair.ServerKey.PublicKey()), "the peer of an event");
      pair.Client.DropSession(pair.ServerKey.PublicKey());
      Wait(() => { lock (kinds) return kinds.Contains(TunnelEventKind.SessionExpired); }, "the end of a session");
    }
  }

  static void Updates() {
    using (var pair = new Pair()) {
      pair.Pass();
      pair.Client.NetworkChanged();
      pair.Pass();
      pair.Client.Pause();
      pair.Client.Resume();
      pair.Pass();
      pair.Client.Trim();
      pair.Client.RemovePeer(pair.ServerKey.PublicKey());
      Check(pair.Client.Peers().Count == 0 && pair.Client.Stats().Peers == 0, "a peer that was removed");
      using (var config = pair.ClientConfig()) pair.Client.Update(config);
      pair.Pass();
      var session = pair.Client.Peers()[0].LastHandshake;
      using (var config = pair.ClientConfig()) pair.Client.Update(config);
      pair.Pass();
      Check(pair.Client.Peers()[0].LastHandshake == session, "a session that an update has ended");
      // In any order of both, an update adds the peers that the tunnel lacks.
      var removing = new Thread(() => {
        for (int i = 0; i < 200; i++) {
          try {
            pair.Client.RemovePeer(pair.ServerKey.PublicKey());
          } catch (WgException error) when (error.Code == WgError.NotFound) { }
        }
      });
      removing.Start();
      using (var config = pair.ClientConfig()) {
        for (int i = 0; i < 200; i++) pair.Client.Update(config);
        removing.Join();
        pair.Client.Update(config);
      }
      pair.Pass();
      pair.Client.Dispose();
      using (var config = pair.ClientConfig()) Disposed(() => pair.Client.Update(config));
      Disposed(() => pair.Client.RemovePeer(pair.ServerKey.PublicKey()));
    }
  }

  /// A function of a tunnel that changes the tunnel, while another thread waits for that function.
  static void Reentry() {
    using (var pair = new Pair()) {
      WgError[] codes = null;
      pair.OnPacket = () => {
        if (codes != null) return;
        codes = new[] {
          Refused(() => pair.Server.RemovePeer(pair.ClientKey.PublicKey())), Refused(() => pair.Server.Dispose()),
        };
      };
      pair.Client.Inject(Packet);
      Wait(() => Volatile.Read(ref codes) != null, "a packet");
      Check(codes[0] == WgError.Busy && codes[1] == WgError.Busy, "calls inside a function of the tunnel");
    }
  }

  static void Forgetting() {
    // On a thread of its own, whose stack is gone afterwards; what is left of one on another stack keeps it alive.
    var forgotten = new List<WeakReference>();
    var thread = new Thread(() => { for (int i = 0; i < 10; i++) forgotten.Add(Forgotten()); });
    thread.Start();
    thread.Join();
    Wait(() => {
      GC.Collect();
      GC.WaitForPendingFinalizers();
      return forgotten.Exists(one => !one.IsAlive);
    }, "the end of a forgotten tunnel");
  }

  static void Ends() {
    // An exception of the program's function is not one of the library.
    using (var pair = new Pair { Throws = true }) {
      pair.Client.Inject(Packet);
      Wait(() => pair.Server.Counters()["in_write_failed"] > 0, "a packet that was refused");
    }
  }

  /// A tunnel whose function is using it while another thread disposes of it.
  static void Disposal() {
    for (int i = 0; i < 20; i++) {
      using (var pair = new Pair { Returns = true }) {
        bool isOver = false;
        var load = new Thread(() => { while (!Volatile.Read(ref isOver)) pair.Client.Inject(Packet); });
        load.Start();
        try {
          Wait(() => Volatile.Read(ref pair.Arrived) > 100, "packets");
          pair.Server.Dispose();
          int arrived = Volatile.Read(ref pair.Arrived);
          ulong sent = pair.Client.Stats().TxPackets;
          Wait(() => pair.Client.Stats().TxPackets > sent + 1000, "packets to a tunnel that was disposed of");
          Check(Volatile.Read(ref pair.Arrived) == arrived, "a tunnel goes on after its disposal");
        } finally {
          Volatile.Write(ref isOver, true);
          load.Join();
        }
      }
    }
  }

  static WeakReference Forgotten() {
    using (var config = Config.Parse("[Interface]\n")) {
      return new WeakReference(Tunnel.Start(config, new TunnelOptions { Packets = packet => { } }));
    }
  }

  static void Cycles() {
    for (int i = 0; i < 200; i++) {
      using (var config = Config.Parse("[Interface]\n")) Tunnel.Start(config, new TunnelOptions()).Dispose();
    }
  }

  /// Needs wintun.dll on Windows, and root on Linux.
  static void Interfaces() {
    using (var config = Config.Parse("[Interface]\n")) {
      var both = new TunnelOptions { InterfaceName = "wg-cs0", Packets = packet => { } };
      try {
        Tunnel.Start(config, both);
        throw new Exception("both an interface and packets");
      } catch (ArgumentException) { }
      var unnamed = new TunnelOptions { InterfaceName = "" };
      Check(Refused(() => Tunnel.Start(config, unnamed)) == WgError.Invalid, "no name");
      try {
        using (var tunnel = Tunnel.Start(config, new TunnelOptions { InterfaceName = "wg-cs0" })) {
          Check(Refused(() => tunnel.Inject(Packet)) == WgError.Unsupported, "packets beside an interface");
        }
      } catch (WgException error) when (error.Code == WgError.Permission || error.Code == WgError.NotFound) {
        Console.WriteLine("skipped: an interface of the system: " + error.Message);
      }
    }
  }

  /// Two tunnels that have each other as peers.
  sealed class Pair : IDisposable {
    internal readonly Key ServerKey = Key.GeneratePrivate(), ClientKey = Key.GeneratePrivate();
    internal readonly Tunnel Server, Client;
    internal bool Throws, Returns;
    internal Action OnPacket;
    internal int Arrived;

    internal Pair() {
      string text = "[Interface]\nPrivateKey = " + ServerKey.ToBase64() + "\n[Peer]\nPublicKey = "
        + ClientKey.PublicKey().ToBase64() + "\nAllowedIPs = 10.9.0.1/32\n";
      using (var config = Config.Parse(text)) Server = Tunnel.Start(config, new TunnelOptions { Packets = Receive });
      using (var config = ClientConfig()) Client = Tunnel.Start(config, new TunnelOptions());
    }

    internal Config ClientConfig() {
      return Config.Parse("[Interface]\nPrivateKey = " + ClientKey.ToBase64() + "\n[Peer]\nPublicKey = "
        + ServerKey.PublicKey().ToBase64() + "\nEndpoint = localhost:" + Server.ListenPort
        + "\nAllowedIPs = 0.0.0.0/0\n");
    }

    void Receive(byte[] packet) {
      if (packet.Length != Packet.Length) return;
      for (int i = 0; i < packet.Length; i++) if (packet[i] != Packet[i]) return;
      Interlocked.Increment(ref Arrived);
      if (Throws) throw new Exception("a function of the program");
      if (Returns) Server.Inject(packet);
      if (OnPacket != null) OnPacket();
    }

    /// Sends packets from the client until one arrives: a datagram may be lost.
    internal void Pass() {
      int before = Volatile.Read(ref Arrived);
      Wait(() => { Client.Inject(Packet); return Volatile.Read(ref Arrived) > before; }, "a packet");
    }

    public void Dispose() {
      Client.Dispose();
      Server.Dispose();
    }
  }
}
