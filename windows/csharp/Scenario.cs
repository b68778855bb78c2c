// The conversations of tests/scenarios, whose README.md describes the steps.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net;
using System.Text.RegularExpressions;
using WgEmbed;

sealed class Scenario : IDisposable {
  const int Patience = 60000; // Milliseconds.
  readonly Dictionary<string, Party> parties = new Dictionary<string, Party>();
  int number; // Of the last packet.

  /// All files, in the folder of the repository.
  internal static void Scenarios() {
    string[] files = Directory.GetFiles("tests/scenarios", "*.txt");
    Test.Check(files.Length > 0, "there are no scenarios");
    Array.Sort(files, StringComparer.Ordinal);
    foreach (string file in files) Run(file, File.ReadAllLines(file));
  }

  /// Steps that cannot be taken, and checks of what is not so: each of them has to fail.
  internal static void WrongSteps() {
    string[] begin = {
      "on a", " [Interface]", " PrivateKey = {a.private}", " [Peer]", " PublicKey = {b.public}",
      " AllowedIPs = 10.9.0.2/32", "on b", " [Interface]", " PrivateKey = {b.private}",
    };
    Run("right", begin.Concat(new[] { "peers a 1", "network a", "off a" }));
    string[] wrong = {
      "jump a", "off", "peers a", "peers a 2", "session a b", "session a c", "traffic a b", "counter a no_such 0",
      "send c 10.9.0.1 10.9.0.2", "event a no_such b", "off c", "on c\n [Interface]\noff c\noff c",
      "update a\n [Peers]", "update a\n {a.name}", "refused b invalid\n [Interface]", "refused b addr_in_use\n [Peers]",
      "refused b no_such\n [Peers]",
    };
    foreach (string step in wrong) {
      bool failed = false;
      try {
        Run("wrong", begin.Concat(step.Split('\n')));
      } catch (Exception) {
        failed = true;
      }
      Test.Check(failed, "this has not failed: " + step);
    }
  }

  static void Run(string name, IEnumerable<string> lines) {
    using (var scenario = new Scenario()) {
      string step = null, conf = "";
      foreach (string line in lines) {
        if (line.StartsWith(" ")) {
          conf += line + "\n";
        } else if (line != "" && line[0] != '#') {
          scenario.Take(name, step, conf);
          step = line;
          conf = "";
        }
      }
      scenario.Take(name, step, conf);
    }
  }

  void Take(string name, string step, string conf) {
    if (step == null) return;
    try {
      Take(step.Split(' '), Filled(conf));
    } catch (Exception error) {
      throw new Exception(name + ": " + step, error);
    }
  }

  void Take(string[] words, string conf) {
    switch (words[0] + " " + (words.Length - 1)) {
      case "on 1": Named(words[1]).Start(conf); break;
      case "update 1": Update(words[1], conf); break;
      case "refused 2":
        Test.Check(Test.Refused(() => Update(words[1], conf)) == Value<WgError>(words[2]), "another code");
        break;
      case "pass 4": Pass(Named(words[1]).Tunnel, Named(words[2]), Packet(words[3], words[4])); break;
      case "send 3":
        Test.Check(Named(words[1]).Tunnel.Inject(Packet(words[2], words[3])), "there is no room for a packet");
        break;
      case "event 3": TakeEvent(Named(words[1]), Value<TunnelEventKind>(words[2]), Named(words[3])); break;
      case "session 2": CheckSession(words[1], words[2]); break;
      case "traffic 2":
        PeerStats peer = Stats(words[1], words[2]);
        Test.Check(peer.RxBytes > 0 && peer.TxBytes > 0, "there is no traffic");
        break;
      case "counter 3":
        Test.Wait(() => Named(words[1]).Tunnel.Counters()[words[2]] == ulong.Parse(words[3]), words[2], Patience);
        break;
      case "peers 2":
        Test.Check(Named(words[1]).Tunnel.Peers().Count == int.Parse(words[2]), "another number of peers");
        break;
      case "network 1": Named(words[1]).Tunnel.NetworkChanged(); break;
      case "off 1": Named(words[1]).Stop(); break;
      default: throw new Exception("there is no such step");
    }
  }

  Party Named(string name) {
    Party party;
    if (!parties.TryGetValue(name, out party)) parties[name] = party = new Party();
    return party;
  }

  /// Replaces {NAME.private} and the like.
  string Filled(string conf) {
    return Regex.Replace(conf, @"\{(\w+)\.(\w+)\}", found => {
      Party party = Named(found.Groups[1].Value);
      switch (found.Groups[2].Value) {
        case "private": return party.Private.ToBase64();
        case "public": return party.Public.ToBase64();
        case "port": return party.Tunnel.ListenPort.ToString();
        default: throw new Exception("there is no " + found.Value);
      }
    });
  }

  /// The value of an enum with a name as handshake_completed.
  static T Value<T>(string name) { return (T)Enum.Parse(typeof(T), name.Replace("_", ""), true); }

  /// An IPv4 packet between two addresses, with a number of its own.
  byte[] Packet(string source, string destination) {
    var header = new byte[] { 0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0 };
    return header.Concat(IPAddress.Parse(source).GetAddressBytes())
      .Concat(IPAddress.Parse(destination).GetAddressBytes()).Concat(BitConverter.GetBytes(++number)).ToArray();
  }

  void Update(string name, string conf) {
    using (var config = Config.Parse(conf)) Named(name).Tunnel.Update(config);
  }

  static void Pass(Tunnel from, Party to, byte[] packet) {
    // A datagram may be lost.
    Test.Wait(() => { from.Inject(packet); return to.Has(packet); }, "the packet", Patience);
  }

  static void TakeEvent(Party party, TunnelEventKind kind, Party peer) {
    Test.Wait(() => party.Take(kind, peer.Public), "the event", Patience);
  }

  PeerStats Stats(string name, string peer) {
    return Named(name).Tunnel.Peers().First(one => one.PublicKey.Equals(Named(peer).Public));
  }

  void CheckSession(string name, string peer) {
    var handshakes = Named(name).Handshakes;
    PeerStats now = Stats(name, peer);
    Test.Check(now.HasSession && now.LastHandshake != null, "there is no session");
    DateTime before;
    bool known = handshakes.TryGetValue(peer, out before);
    Test.Check(!known || before == now.LastHandshake, "there was another handshake");
    handshakes[peer] = now.LastHandshake.Value;
  }

  public void Dispose() {
    foreach (var party in parties.Values) party.Dispose();
  }

  /// A name of the scenario: a key, and a tunnel while it is on.
  sealed class Party : IDisposable {
    internal readonly Key Private = Key.GeneratePrivate(), Public;
    internal readonly Dictionary<string, DateTime> Handshakes = new Dictionary<string, DateTime>();
    readonly List<byte[]> packets = new List<byte[]>(); // Its own lock, as the next one.
    readonly List<TunnelEventArgs> events = new List<TunnelEventArgs>();
    Tunnel tunnel;

    internal Party() { Public = Private.PublicKey(); }

    internal Tunnel Tunnel {
      get {
        Test.Check(tunnel != null, "the tunnel is off");
        return tunnel;
      }
    }

    internal void Start(string conf) {
      using (var config = Config.Parse(conf)) {
        var options = new TunnelOptions { Packets = packet => { lock (packets) packets.Add(packet); } };
        tunnel = Tunnel.Start(config, options);
      }
      tunnel.Event += (sender, e) => { lock (events) events.Add(e); };
    }

    internal void Stop() {
      Tunnel stopped = Tunnel;
      tunnel = null;
      stopped.Dispose();
      Test.Disposed(stopped.NetworkChanged);
    }

    /// Whether the packet has come out of the tunnel.
    internal bool Has(byte[] packet) {
      lock (packets) return packets.Exists(one => one.SequenceEqual(packet));
    }

    /// Takes an event, if it has happened.
    internal bool Take(TunnelEventKind kind, Key peer) {
      lock (events) {
        int index = events.FindIndex(e => e.Kind == kind && peer.Equals(e.PublicKey));
        if (index >= 0) events.RemoveAt(index);
        return index >= 0;
      }
    }

    public void Dispose() {
      if (tunnel != null) tunnel.Dispose();
    }
  }
}
