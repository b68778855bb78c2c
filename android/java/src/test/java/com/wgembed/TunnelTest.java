package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.lang.ref.WeakReference;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;

/** Tunnels without a service, and how events reach an app. */
@RunWith(RobolectricTestRunner.class)
@org.robolectric.annotation.Config(
        manifest = org.robolectric.annotation.Config.NONE,
        sdk = {24, 34},
        shadows = {Phone.ShadowDescriptor.class, Phone.ShadowNetwork.class})
public class TunnelTest {
    private int[] left;
    private int[] right;
    private final Key leftKey;
    private final Key rightKey;
    private Tunnel server;

    public TunnelTest() throws WgException {
        leftKey = Key.generatePrivate();
        rightKey = Key.generatePrivate();
    }

    @Before
    public void begin() throws Exception {
        Phone.reset();
        left = Host.socketpair();
        right = Host.socketpair();
        Config config = new Config.Builder(rightKey).peer(leftKey.publicKey()).allowedIp("10.9.0.1/32").build();
        server = Tunnel.builder(Phone.descriptor(Host.dup(right[0])), config).start();
    }

    @After
    public void end() {
        server.close();
        for (int fd : new int[] {left[0], left[1], right[0], right[1]}) {
            Host.close(fd);
        }
    }

    private Config client(String host) throws WgException {
        return new Config.Builder(leftKey)
                .peer(rightKey.publicKey())
                .endpoint(host + ":" + server.listenPort())
                .allowedIp("10.9.0.2/32")
                .build();
    }

    private Tunnel.Builder builder(Config config) {
        return Tunnel.builder(Phone.descriptor(Host.dup(left[0])), config);
    }

    @Test
    public void anUpdateKeepsSessions() throws Exception {
        try (Tunnel tunnel = builder(client("127.0.0.1")).workers(8).start()) {
            Phone.passes(left[1], Phone.packet(1, 2), right[1]);
            long handshake = tunnel.peers().get(0).lastHandshakeMillis;
            int port = tunnel.listenPort();
            Key third = Key.generatePrivate().publicKey();
            tunnel.update(new Config.Builder(leftKey)
                    .peer(rightKey.publicKey())
                    .endpoint("127.0.0.1:" + server.listenPort())
                    .allowedIp("10.9.0.2/32")
                    .persistentKeepalive(25)
                    .peer(third)
                    .build());
            List<Tunnel.Peer> peers = tunnel.peers();
            assertEquals(2, peers.size());
            assertEquals(handshake, peers.get(0).lastHandshakeMillis);
            assertEquals(25, peers.get(0).persistentKeepalive);
            assertTrue(peers.get(0).hasSession);
            assertEquals(third, peers.get(1).publicKey);
            assertEquals("", peers.get(1).endpoint);
            assertEquals(port, tunnel.listenPort());
            tunnel.update(client("127.0.0.1"));
            assertEquals(1, tunnel.peers().size());
            assertEquals(handshake, tunnel.peers().get(0).lastHandshakeMillis);
            Phone.passes(left[1], Phone.packet(1, 2), right[1]);
        }
    }

    @Test
    public void numbersAreRead() throws Exception {
        try (Tunnel tunnel = builder(client("127.0.0.1")).start()) {
            Phone.passes(left[1], Phone.packet(1, 2), right[1]);
            Host.send(left[1], Phone.packet(1, 99)); // Nobody's.
            Phone.await("counted", () -> tunnel.counters().get("out_no_peer") == 1);
            Tunnel.Stats stats = tunnel.stats();
            assertEquals(1, stats.peers);
            assertTrue(stats.txPackets > 0);
            assertTrue(stats.txBytes > stats.txPackets * 40);
            assertEquals(1, stats.txDropped);
            assertTrue(server.stats().rxPackets > 0);
            assertTrue(tunnel.memory().total > 0);
            Tunnel.Peer peer = tunnel.peers().get(0);
            assertEquals(rightKey.publicKey(), peer.publicKey);
            assertTrue(Math.abs(System.currentTimeMillis() - peer.lastHandshakeMillis) < 600_000);
            assertEquals("127.0.0.1:" + server.listenPort(), peer.endpoint);
        }
    }

    @Test
    public void aClosedTunnelIsClosed() throws Exception {
        Tunnel tunnel = builder(client("127.0.0.1")).start();
        tunnel.close();
        tunnel.close();
        assertEquals(WgException.Code.UNKNOWN_HANDLE, assertThrows(WgException.class, tunnel::stats).code());
    }

    @Test
    public void aTunnelIsNotClosedOnItsOwnThread() throws Exception {
        final Tunnel[] tunnel = new Tunnel[1];
        List<String> refused = Collections.synchronizedList(new ArrayList<String>());
        TunnelListener listener = new TunnelListener() {
            @Override
            public void handshakeCompleted(Key peer) {
                try {
                    tunnel[0].close();
                } catch (IllegalStateException thrown) {
                    refused.add(thrown.getMessage());
                    throw thrown;
                }
            }
        };
        tunnel[0] = builder(client("127.0.0.1")).listener(listener, Runnable::run).start();
        Phone.passes(left[1], Phone.packet(1, 2), right[1]);
        Phone.await("refused", () -> refused.size() == 1);
        Phone.passes(left[1], Phone.packet(1, 2), right[1]);
        tunnel[0].close();
        assertThrows(WgException.class, tunnel[0]::stats);
    }

    @Test
    public void aProtectorMayTryToClose() throws Exception {
        final Tunnel[] tunnel = new Tunnel[1];
        List<String> refused = Collections.synchronizedList(new ArrayList<String>());
        Tunnel.Protector protector = fd -> {
            if (tunnel[0] != null) {
                assertThrows(IllegalStateException.class, tunnel[0]::close);
                refused.add("refused");
            }
            return true;
        };
        tunnel[0] = builder(client("127.0.0.1")).protector(protector).start();
        tunnel[0].update(new Config.Builder(leftKey)
                .listenPort(freePort())
                .peer(rightKey.publicKey())
                .endpoint("127.0.0.1:" + server.listenPort())
                .allowedIp("10.9.0.2/32")
                .build());
        assertTrue("another port needs other sockets", refused.size() > 0);
        Phone.passes(left[1], Phone.packet(1, 2), right[1]);
        tunnel[0].close();
    }

    private static int freePort() throws IOException {
        try (DatagramSocket socket = new DatagramSocket()) {
            return socket.getLocalPort();
        }
    }

    @Test
    public void onFailureTheDescriptorStays() throws Exception {
        android.os.ParcelFileDescriptor tun = Phone.descriptor(Host.dup(left[0]));
        Tunnel.Builder builder = Tunnel.builder(tun, client("127.0.0.1")).protector(fd -> false);
        WgException refused = assertThrows(WgException.class, builder::start);
        assertEquals(WgException.Code.PERMISSION, refused.code());
        assertEquals(0, Host.close(tun.getFd()));
        // A protector that throws has not allowed it either.
        Tunnel.Builder throwing = builder(client("127.0.0.1")).protector(fd -> {
            throw new IllegalStateException("the app's");
        });
        assertEquals(WgException.Code.PERMISSION, assertThrows(WgException.class, throwing::start).code());
        builder(client("127.0.0.1")).workers(-1).start().close();
        Tunnel.Builder crowded = builder(client("127.0.0.1")).workers(9);
        assertEquals(WgException.Code.INVALID, assertThrows(WgException.class, crowded::start).code());
    }

    @Test
    public void namesAreLookedUpByTheApp() throws Exception {
        List<String> asked = Collections.synchronizedList(new ArrayList<String>());
        List<String> failures = Collections.synchronizedList(new ArrayList<String>());
        Tunnel.Resolver resolver = host -> {
            asked.add(host);
            if (asked.size() == 1) {
                throw new IOException("not yet");
            }
            return new InetAddress[] {InetAddress.getByAddress(new byte[] {127, 0, 0, 1})};
        };
        TunnelListener listener = new TunnelListener() {
            @Override
            public void resolveFailed(Key peer, String reason) {
                failures.add(peer.toBase64());
            }
        };
        Tunnel.Builder builder = builder(client("peer.example.org")).resolver(resolver);
        try (Tunnel tunnel = builder.listener(listener, Runnable::run).start()) {
            Phone.passes(left[1], Phone.packet(1, 2), right[1]);
            assertEquals("peer.example.org", asked.get(0));
            assertEquals(Collections.singletonList(rightKey.publicKey().toBase64()), failures);
            assertEquals("127.0.0.1:" + server.listenPort(), tunnel.peers().get(0).endpoint);
        }
    }

    @Test
    public void aPausedTunnelGoesOn() throws Exception {
        try (Tunnel tunnel = builder(client("127.0.0.1")).start()) {
            tunnel.pause();
            assertEquals(0, tunnel.listenPort());
            tunnel.resume();
            Phone.passes(left[1], Phone.packet(1, 2), right[1]);
            tunnel.forceHandshake(rightKey.publicKey());
            tunnel.dropSession(null);
            Phone.passes(left[1], Phone.packet(1, 2), right[1]);
            WgException unknown = assertThrows(WgException.class, () -> tunnel.dropSession(leftKey.publicKey()));
            assertEquals(WgException.Code.NOT_FOUND, unknown.code());
        }
    }

    @Test
    public void aListenerThatThrowsStopsNothing() throws Exception {
        List<String> told = Collections.synchronizedList(new ArrayList<String>());
        TunnelListener listener = new TunnelListener() {
            @Override
            public void handshakeCompleted(Key peer) {
                told.add("handshake");
                throw new IllegalStateException("the app's");
            }
        };
        try (Tunnel tunnel = builder(client("127.0.0.1")).listener(listener, Runnable::run).start()) {
            for (int i = 1; i <= 3; i++) {
                Phone.passes(left[1], Phone.packet(1, 2), right[1]);
                int handshakes = i;
                Phone.await("told", () -> told.size() >= handshakes);
                tunnel.dropSession(null);
            }
            assertEquals(0, tunnel.droppedEvents());
        }
    }

    @Test
    public void aListenerIsForgotten() throws Exception {
        TunnelListener listener = new TunnelListener() {};
        WeakReference<TunnelListener> reference = new WeakReference<>(listener);
        builder(client("127.0.0.1")).listener(listener, Runnable::run).start().close();
        listener = null;
        Phone.await("no reference left", () -> {
            System.gc();
            return reference.get() == null;
        });
    }

    @Test
    public void aListenerThatBlocksStopsNothing() throws Exception {
        Queue<Runnable> held = new ArrayDeque<>();
        Executor never = task -> {
            synchronized (held) {
                held.add(task);
            }
        };
        List<Long> missed = new ArrayList<>();
        List<String> told = new ArrayList<>();
        TunnelListener listener = new TunnelListener() {
            @Override
            public void sessionExpired(Key peer) {
                told.add("expired");
            }

            @Override
            public void missed(long count) {
                missed.add(count);
            }
        };
        try (Tunnel tunnel = builder(client("127.0.0.1")).listener(listener, never).start()) {
            for (int i = 0; tunnel.droppedEvents() == 0; i++) {
                assertTrue("events are dropped at some time", i < 10 * Dispatcher.CAPACITY);
                Phone.passes(left[1], Phone.packet(1, 2), right[1]);
                tunnel.dropSession(null);
            }
            for (Runnable task = held.poll(); task != null; task = held.poll()) {
                task.run();
            }
            assertEquals(1, missed.size());
            assertTrue(told.size() > 0);
        }
    }

    @Test
    public void theLogReachesASink() throws Exception {
        List<String> lines = Collections.synchronizedList(new ArrayList<String>());
        WgEmbed.setLogSink((level, line) -> lines.add(level + " " + line), Runnable::run, WgEmbed.LOG_INFO);
        builder(client("127.0.0.1")).start().close();
        assertTrue(lines.toString(), lines.toString().contains(WgEmbed.LOG_INFO + " the interface is up"));
        assertEquals(0, WgEmbed.droppedLogLines());
        WgEmbed.setLogSink(null, null, WgEmbed.LOG_OFF);
        lines.clear();
        builder(client("127.0.0.1")).start().close();
        assertTrue(lines.isEmpty());
        WgEmbed.setLogSink((level, line) -> lines.add(line), Runnable::run, WgEmbed.LOG_INFO);
        assertThrows(WgException.class, () -> WgEmbed.setLogSink(null, null, 9));
        builder(client("127.0.0.1")).start().close();
        assertTrue("the sink of before", lines.contains("the interface is up"));
        WgEmbed.setLogSink(null, null, WgEmbed.LOG_OFF);
        assertTrue(WgEmbed.version(), WgEmbed.version().matches("\\d+\\.\\d+\\.\\d+"));
    }

    @Test
    public void tasksAreBoundedAndInOrder() {
        List<Runnable> held = new ArrayList<>();
        List<Integer> ran = new ArrayList<>();
        Dispatcher dispatcher = new Dispatcher(held::add);
        for (int i = 0; i < Dispatcher.CAPACITY + 10; i++) {
            int number = i;
            dispatcher.post(() -> ran.add(number));
        }
        dispatcher.postLast(() -> ran.add(-1));
        assertEquals(10, dispatcher.dropped());
        assertEquals("scheduled once", 1, held.size());
        while (!held.isEmpty()) {
            held.remove(0).run();
        }
        assertEquals(Dispatcher.CAPACITY + 1, ran.size());
        assertEquals(Arrays.asList(0, 1, 2), ran.subList(0, 3));
        assertEquals(Integer.valueOf(-1), ran.get(Dispatcher.CAPACITY));
    }

    @Test
    public void aTaskThatThrowsAndAnExecutorThatHasEndedLoseNoMore() {
        List<Runnable> held = new ArrayList<>();
        List<String> ran = new ArrayList<>();
        Dispatcher dispatcher = new Dispatcher(held::add);
        dispatcher.post(() -> {
            throw new IllegalStateException("the app's");
        });
        dispatcher.post(() -> ran.add("next"));
        assertThrows(IllegalStateException.class, () -> held.remove(0).run());
        held.remove(0).run();
        assertEquals(Collections.singletonList("next"), ran);
        assertTrue(held.isEmpty());

        Dispatcher ended = new Dispatcher(task -> {
            throw new RejectedExecutionException();
        });
        ended.post(() -> ran.add("never"));
        assertEquals(1, ended.dropped());
        boolean[] fails = {true};
        Dispatcher failing = new Dispatcher(task -> {
            if (fails[0]) {
                throw new IllegalStateException("the executor's");
            }
            task.run();
        });
        assertThrows(IllegalStateException.class, () -> failing.post(() -> ran.add("never")));
        assertEquals(1, failing.dropped());
        fails[0] = false;
        failing.post(() -> ran.add("again"));
        assertThrows(IllegalStateException.class, () -> failing.post(() -> {
            throw new IllegalStateException("the task's");
        }));
        failing.post(() -> ran.add("and again"));
        assertEquals(Arrays.asList("next", "again", "and again"), ran);
        assertEquals(1, failing.dropped());
    }
}
