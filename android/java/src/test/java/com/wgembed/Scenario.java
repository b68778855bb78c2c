package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A conversation of tests/scenarios, whose README.md describes the steps. */
final class Scenario {
    /** How long to wait for what has to come, in seconds. */
    private static final int PATIENCE = 60;

    /** A name of the scenario: a key, and a tunnel while it is on. */
    private static final class Party {
        final Key key;
        final Map<String, Long> handshakes = new HashMap<>();
        final List<String> events = new ArrayList<>();
        Tunnel tunnel;
        int[] tun;

        Party() throws WgException {
            key = Key.generatePrivate();
        }

        synchronized void note(String kind, Key peer) {
            events.add(kind + " " + (peer == null ? "" : peer.toBase64()));
        }

        synchronized boolean take(String event) {
            return events.remove(event);
        }
    }

    /** Names events as the scenarios do. */
    private static final class Notes implements TunnelListener {
        private final Party party;

        Notes(Party party) {
            this.party = party;
        }

        @Override
        public void handshakeCompleted(Key peer) {
            party.note("handshake_completed", peer);
        }

        @Override
        public void handshakeFailed(Key peer) {
            party.note("handshake_failed", peer);
        }

        @Override
        public void sessionExpired(Key peer) {
            party.note("session_expired", peer);
        }

        @Override
        public void endpointChanged(Key peer, String endpoint) {
            party.note("endpoint_changed", peer);
        }
    }

    private final Map<String, Party> parties = new HashMap<>();
    private int number;

    /** Runs all steps of a file. */
    static void run(String text) throws Exception {
        Scenario scenario = new Scenario();
        try {
            String step = null;
            StringBuilder conf = new StringBuilder();
            for (String line : text.split("\n")) {
                if (line.startsWith(" ")) {
                    conf.append(line).append('\n');
                } else if (!line.isEmpty() && !line.startsWith("#")) {
                    scenario.step(step, conf);
                    step = line;
                    conf.setLength(0);
                }
            }
            scenario.step(step, conf);
        } finally {
            scenario.end();
        }
    }

    private void step(String step, CharSequence conf) throws Exception {
        if (step == null) {
            return;
        }
        try {
            step(step.split(" "), fill(conf));
        } catch (Exception | AssertionError failed) {
            throw new AssertionError(step, failed);
        }
    }

    private void step(String[] words, String conf) throws Exception {
        Party party = party(words[1]);
        switch (words[0]) {
            case "on" -> on(party, conf);
            case "update" -> party.tunnel.update(Config.parse(conf));
            case "refused" -> refused(party, words[2], conf);
            case "pass" -> pass(party, party(words[2]), packet(words[3], words[4]));
            case "send" -> assertEquals(24, Host.send(party.tun[1], packet(words[2], words[3])));
            case "event" -> {
                String event = words[2] + " " + party(words[3]).key.publicKey().toBase64();
                Phone.await(event, () -> party.take(event));
            }
            case "session" -> session(party, words[2]);
            case "traffic" -> {
                Tunnel.Peer peer = peer(party, words[2]);
                assertTrue(peer.rxBytes > 0 && peer.txBytes > 0);
            }
            case "counter" ->
                Phone.await(words[2], () -> party.tunnel.counters().get(words[2]) == Long.parseLong(words[3]));
            case "peers" -> assertEquals(Integer.parseInt(words[2]), party.tunnel.peers().size());
            case "network" -> party.tunnel.networkChanged();
            case "off" -> off(party);
            default -> throw new AssertionError("there is no such step");
        }
    }

    private Party party(String name) throws WgException {
        Party party = parties.get(name);
        if (party == null) {
            party = new Party();
            parties.put(name, party);
        }
        return party;
    }

    /** Replaces <code>{NAME.private}</code> and the like. */
    private String fill(CharSequence conf) throws WgException {
        Matcher names = Pattern.compile("\\{(\\w+)\\.(\\w+)\\}").matcher(conf);
        StringBuilder filled = new StringBuilder();
        while (names.find()) {
            Party party = party(names.group(1));
            names.appendReplacement(filled, switch (names.group(2)) {
                case "private" -> party.key.toBase64();
                case "public" -> party.key.publicKey().toBase64();
                case "port" -> String.valueOf(party.tunnel.listenPort());
                default -> throw new AssertionError(names.group());
            });
        }
        return names.appendTail(filled).toString();
    }

    private static void on(Party party, String conf) throws Exception {
        party.tun = Host.socketpair();
        party.tunnel = Tunnel.builder(Phone.descriptor(Host.dup(party.tun[0])), Config.parse(conf))
                .listener(new Notes(party), Runnable::run)
                .start();
    }

    private static void refused(Party party, String code, String conf) {
        WgException failure = assertThrows(WgException.class, () -> party.tunnel.update(Config.parse(conf)));
        assertEquals(code, failure.code().name().toLowerCase(Locale.ROOT));
    }

    /** An IPv4 packet between two addresses, with a number of its own. */
    private byte[] packet(String source, String destination) throws Exception {
        ByteBuffer packet = ByteBuffer.wrap(Phone.packet(0, 0), 0, 24);
        packet.putShort(2, (short) 24);
        packet.position(12);
        packet.put(InetAddress.getByName(source).getAddress());
        packet.put(InetAddress.getByName(destination).getAddress());
        packet.putInt(++number);
        return Arrays.copyOf(packet.array(), 24);
    }

    private static void pass(Party from, Party to, byte[] packet) {
        for (int i = 0; i < PATIENCE; i++) {
            assertEquals(packet.length, Host.send(from.tun[1], packet));
            byte[] got = Host.receive(to.tun[1], 1000);
            while (got != null) {
                if (Arrays.equals(packet, got)) {
                    return;
                }
                got = Host.receive(to.tun[1], 1000);
            }
        }
        throw new AssertionError("the packet has not come");
    }

    private Tunnel.Peer peer(Party party, String name) throws WgException {
        Key key = party(name).key.publicKey();
        return party.tunnel.peers().stream().filter(peer -> peer.publicKey.equals(key)).findFirst().orElseThrow();
    }

    private void session(Party party, String name) throws WgException {
        Tunnel.Peer peer = peer(party, name);
        assertTrue(peer.hasSession && peer.lastHandshakeMillis > 0);
        Long before = party.handshakes.put(name, peer.lastHandshakeMillis);
        assertTrue("another handshake", before == null || before == peer.lastHandshakeMillis);
    }

    private static void off(Party party) {
        party.tunnel.close();
        WgException failure = assertThrows(WgException.class, () -> party.tunnel.networkChanged());
        assertEquals(WgException.Code.UNKNOWN_HANDLE, failure.code());
    }

    private void end() {
        for (Party party : parties.values()) {
            if (party.tunnel != null) {
                party.tunnel.close();
                Host.close(party.tun[0]);
                Host.close(party.tun[1]);
            }
        }
    }
}
