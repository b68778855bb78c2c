package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.content.Context;
import android.content.Intent;
import android.net.ConnectivityManager;
import android.net.Network;
import android.net.VpnService;
import android.os.Build;
import android.system.OsConstants;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ServiceController;
import org.robolectric.annotation.Config;
import org.robolectric.shadows.ShadowNetwork;

/** The service with the real library: what it asks of the phone, and whether packets pass. */
@RunWith(RobolectricTestRunner.class)
@Config(
        manifest = Config.NONE,
        sdk = {24, 34},
        shadows = {
            Phone.ShadowBuilder.class,
            Phone.ShadowDescriptor.class,
            Phone.ShadowService.class,
            Phone.ShadowNetwork.class
        })
public class WgVpnServiceTest {
    /** As an app writes it. */
    public static class Service extends WgVpnService {
        final List<String> events = Collections.synchronizedList(new ArrayList<String>());
        volatile boolean bySystem;
        volatile WgException failure;
        volatile int configuring;
        volatile int started;
        volatile int stopped;

        @Override
        protected com.wgembed.Config configure(Intent intent, boolean bySystem) throws Exception {
            this.bySystem = bySystem;
            configuring++;
            CountDownLatch latch = configured;
            if (latch != null) {
                latch.await();
            }
            if (conf == null) {
                throw new IllegalStateException("there is no configuration");
            }
            return com.wgembed.Config.parse(conf);
        }

        @Override
        protected TunnelListener listener() {
            return new TunnelListener() {
                @Override
                public void handshakeCompleted(Key peer) {
                    events.add("handshake " + peer.toBase64());
                }

                @Override
                public void ended(String reason) {
                    events.add("ended");
                }
            };
        }

        @Override
        protected void onStarted(Tunnel tunnel) {
            started++;
        }

        @Override
        protected void onFailed(WgException why) {
            failure = why;
        }

        @Override
        protected void onStopped() {
            stopped++;
        }
    }

    private static volatile String conf;
    /** What configure() waits for; null for nothing. */
    private static volatile CountDownLatch configured;

    private final List<Integer> ours = new ArrayList<>();
    private Key mine;
    private Key theirs;
    private Tunnel peer;
    private int[] peerTun;

    @Before
    public void begin() throws Exception {
        Phone.reset();
        conf = null;
        configured = null;
        Phone.tun = pair();
        peerTun = pair();
        mine = Key.generatePrivate();
        theirs = Key.generatePrivate();
        peer = Tunnel.builder(
                        Phone.descriptor(Host.dup(peerTun[0])),
                        new com.wgembed.Config.Builder(theirs).peer(mine.publicKey()).allowedIp("10.9.0.1/32").build())
                .start();
    }

    @After
    public void end() {
        peer.close();
        for (int fd : ours) {
            Host.close(fd);
        }
    }

    private int[] pair() {
        int[] pair = Host.socketpair();
        ours.add(pair[0]);
        ours.add(pair[1]);
        return pair;
    }

    private String toPeer(String interfaceLines) throws WgException {
        return "[Interface]\nPrivateKey = " + mine.toBase64() + "\n" + interfaceLines + "[Peer]\nPublicKey = "
                + theirs.publicKey().toBase64() + "\nAllowedIPs = 0.0.0.0/0\nEndpoint = 127.0.0.1:" + peer.listenPort()
                + "\n";
    }

    private ServiceController<Service> start(Intent intent) throws Exception {
        ServiceController<Service> controller = Robolectric.buildService(Service.class, intent).create();
        startAgain(controller);
        return controller;
    }

    private void startAgain(ServiceController<Service> controller) throws Exception {
        Service service = controller.get();
        int started = service.started;
        service.failure = null;
        controller.startCommand(0, 1);
        Phone.await("started or failed", () -> service.started > started || service.failure != null);
    }

    private void destroy(ServiceController<Service> controller) throws Exception {
        controller.destroy();
        Phone.await("closed", () -> controller.get().tunnel() == null);
    }

    @Test
    public void aWholeTunnel() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\nDNS = 10.9.0.2, example.org\nIncludedApplications = org.example\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        assertNull(String.valueOf(service.failure), service.failure);
        assertFalse(service.bySystem);
        List<String> expected = new ArrayList<>(Arrays.asList(
                "address 10.9.0.1/24", "dns 10.9.0.2", "search example.org", "mtu 1280", "route 0.0.0.0/0",
                "underlying default"));
        if (Build.VERSION.SDK_INT >= 29) {
            expected.add("metered false");
        }
        expected.addAll(Arrays.asList("include org.example", "establish"));
        assertEquals(expected, Phone.built);
        int families = Phone.shown.size();
        assertTrue("a socket was protected", families > 0);
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        Phone.passes(peerTun[1], Phone.packet(2, 1), Phone.tun[1]);
        String handshake = "handshake " + theirs.publicKey().toBase64();
        Phone.await("told of the handshake", () -> service.events.contains(handshake));

        // Another network: fresh sockets, protected before their first byte.
        for (ConnectivityManager.NetworkCallback callback : callbacks(service)) {
            callback.onAvailable(ShadowNetwork.newInstance(7));
        }
        Phone.await("fresh sockets", () -> Phone.shown.size() == 2 * families);
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);

        destroy(controller);
        assertTrue(callbacks(service).isEmpty());
    }

    private static java.util.Set<ConnectivityManager.NetworkCallback> callbacks(Service service) {
        return shadowOf((ConnectivityManager) service.getSystemService(Context.CONNECTIVITY_SERVICE))
                .getNetworkCallbacks();
    }

    @Test
    public void aSecondStartChangesTheTunnelWithoutAHandshake() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        Tunnel tunnel = service.tunnel();
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        long handshake = tunnel.peers().get(0).lastHandshakeMillis;
        assertTrue(handshake > 0);

        Phone.tun = pair();
        Phone.built.clear();
        conf = toPeer("Address = 10.9.0.1/24\nMTU = 1300\n");
        startAgain(controller);
        assertNull(String.valueOf(service.failure), service.failure);
        assertSame(tunnel, service.tunnel());
        assertTrue(Phone.built.contains("mtu 1300"));
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        assertEquals(handshake, tunnel.peers().get(0).lastHandshakeMillis);
        assertEquals(0, service.stopped);
        destroy(controller);
    }

    @Test
    public void aConfigurationThatFailsLeavesTheTunnel() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        conf = "[Interface]\nAddress = nowhere\n";
        startAgain(controller);
        assertEquals(WgException.Code.INVALID, service.failure.code());
        assertTrue(service.failure.getMessage(), service.failure.getMessage().contains("Address"));
        assertFalse(shadowOf(service).isStoppedBySelf());
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        destroy(controller);
    }

    @Test
    public void aTunnelThatHasEndedIsReplaced() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        int[] gone = Host.socketpair();
        Phone.tun = gone;
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        Tunnel tunnel = service.tunnel();
        Host.close(gone[0]);
        Host.close(gone[1]);
        Phone.await("told of the end", () -> service.events.contains("ended"));
        Phone.await("stopped", () -> service.stopped == 1);
        assertEquals(WgException.Code.CLOSED, service.failure.code());
        assertNull(service.tunnel());
        assertEquals("a later start would go on", 1, shadowOf(service).getStopSelfId());
        assertTrue(callbacks(service).isEmpty());
        Phone.tun = pair();
        startAgain(controller);
        assertNull(String.valueOf(service.failure), service.failure);
        assertFalse(tunnel == service.tunnel());
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        destroy(controller);
    }

    @Test
    public void aRefusedSocketIsAFailureWithAName() throws Exception {
        Phone.refuses = true;
        // With keepalives, a tunnel that went on would send at once.
        conf = toPeer("") + "PersistentKeepalive = 1\n";
        Service service = start(new Intent()).get();
        assertEquals(WgException.Code.PERMISSION, service.failure.code());
        assertTrue(service.failure.getMessage(), service.failure.getMessage().contains("refused"));
        assertTrue(shadowOf(service).isStoppedBySelf());
        assertNull(service.tunnel());
        assertEquals(0, peer.peers().get(0).lastHandshakeMillis);
        assertEquals(0, peer.peers().get(0).rxBytes);
        assertEquals(0, peer.stats().rxBytes);
    }

    @Test
    public void anAppThatIsNotPreparedIsToldSo() throws Exception {
        Phone.tun = null;
        conf = toPeer("");
        Service service = start(new Intent()).get();
        assertEquals(WgException.Code.PERMISSION, service.failure.code());
        assertTrue(service.failure.getMessage(), service.failure.getMessage().contains("prepare"));
        assertTrue(shadowOf(service).isStoppedBySelf());
        assertTrue("no socket was opened", Phone.shown.isEmpty());
    }

    @Test
    public void theSystemStartsIt() throws Exception {
        conf = toPeer("");
        ServiceController<Service> alwaysOn = start(new Intent(VpnService.SERVICE_INTERFACE));
        assertTrue(alwaysOn.get().bySystem);
        destroy(alwaysOn);
        // As after the end of the process.
        ServiceController<Service> again = Robolectric.buildService(Service.class).create();
        again.get().onStartCommand(null, 0, 1);
        Phone.await("started", () -> again.get().started == 1);
        assertTrue(again.get().bySystem);
        destroy(again);
    }

    @Test
    public void revokingStopsIt() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        assertNotNull(service.tunnel());
        service.onRevoke();
        Phone.await("stopped", () -> service.stopped == 1);
        assertNull(service.tunnel());
        assertEquals("a later start would go on", 1, shadowOf(service).getStopSelfId());
    }

    @Test
    public void anIntentStopsIt() throws Exception {
        conf = toPeer("");
        Service service = start(new Intent()).get();
        Intent stop = WgVpnService.stopIntent(RuntimeEnvironment.getApplication(), Service.class);
        assertEquals(android.app.Service.START_NOT_STICKY, service.onStartCommand(stop, 0, 2));
        Phone.await("stopped", () -> service.stopped == 1);
        assertEquals("a later start would go on", 2, shadowOf(service).getStopSelfId());
    }

    @Test
    public void aFailedStartDoesNotEndALaterOne() throws Exception {
        configured = new CountDownLatch(1);
        ServiceController<Service> controller = Robolectric.buildService(Service.class, new Intent()).create();
        Service service = controller.get();
        controller.startCommand(0, 1);
        controller.startCommand(0, 2);
        configured.countDown(); // There is no configuration yet.
        Phone.await("the first has failed", () -> service.failure != null);
        Phone.await("stopped", () -> shadowOf(service).isStoppedBySelf());
        Phone.await("the second has failed", () -> shadowOf(service).getStopSelfId() == 2);
        configured = null;
        conf = toPeer("Address = 10.9.0.1/24\n");
        controller.startCommand(0, 3);
        Phone.await("started", () -> service.started == 1);
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        assertEquals(2, shadowOf(service).getStopSelfId());
        destroy(controller);
    }

    @Test
    public void stoppingDoesNotWaitForAName() throws Exception {
        Phone.lookups = new CountDownLatch(1);
        int[] tun = Host.socketpair();
        Phone.tun = tun;
        ours.add(tun[1]);
        conf = toPeer("Address = 10.9.0.1/24\n").replace("127.0.0.1", "vpn.example.org");
        ServiceController<Service> controller = start(new Intent());
        for (ConnectivityManager.NetworkCallback callback : callbacks(controller.get())) {
            callback.onAvailable(ShadowNetwork.newInstance(7));
        }
        Host.close(tun[0]);
        try {
            Phone.await("asked", () -> !Phone.asked.isEmpty());
            destroy(controller);
            Phone.await("the TUN is closed", () -> {
                byte[] end = Host.receive(tun[1], 0);
                return end != null && end.length == 0;
            });
        } finally {
            Phone.lookups.countDown();
        }
    }

    @Test
    public void stoppingDoesNotWaitForAConfiguration() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        Phone.built.clear();
        CountDownLatch latch = new CountDownLatch(1);
        configured = latch;
        try {
            controller.startCommand(0, 2);
            Phone.await("in configure()", () -> service.configuring == 2);
            Intent stop = WgVpnService.stopIntent(RuntimeEnvironment.getApplication(), Service.class);
            service.onStartCommand(stop, 0, 3);
            Phone.await("stopped", () -> service.stopped == 1);
            assertNull(service.tunnel());
        } finally {
            latch.countDown();
        }
        // What comes behind it on the same thread shows that nothing came of it.
        configured = null;
        conf = null;
        startAgain(controller);
        assertNotNull(service.failure);
        assertFalse(Phone.built.toString(), Phone.built.contains("establish"));
        assertEquals(1, service.started);
    }

    @Test
    public void aChangeThatFailsLeavesTheInterface() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        Tunnel tunnel = service.tunnel();
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        Phone.built.clear();
        conf = toPeer("Address = 10.9.0.1/24\nListenPort = " + peer.listenPort() + "\n");
        startAgain(controller);
        assertEquals(WgException.Code.ADDR_IN_USE, service.failure.code());
        assertFalse(Phone.built.toString(), Phone.built.contains("establish"));
        assertSame(tunnel, service.tunnel());
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);

        // Nor does it if there is no new interface: the peers are those of before.
        int[] tun = Phone.tun;
        Phone.tun = null;
        Key other = Key.generatePrivate().publicKey();
        conf = toPeer("Address = 10.9.0.1/24\n").replace(theirs.publicKey().toBase64(), other.toBase64());
        startAgain(controller);
        assertEquals(WgException.Code.PERMISSION, service.failure.code());
        assertSame(tunnel, service.tunnel());
        assertEquals(theirs.publicKey(), tunnel.peers().get(0).publicKey);
        Phone.passes(tun[1], Phone.packet(1, 2), peerTun[1]);
        destroy(controller);
    }

    @Test
    public void mappedAddressesAreNoRoutes() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n").replace("0.0.0.0/0", "0.0.0.0/0, ::ffff:0.0.0.0/96, ::/0");
        ServiceController<Service> controller = start(new Intent());
        assertNull(String.valueOf(controller.get().failure), controller.get().failure);
        List<String> routes = new ArrayList<>(Phone.built);
        routes.removeIf(what -> !what.startsWith("route"));
        assertEquals(routes.toString(), 2, routes.size());
        com.wgembed.Config.Prefix mapped = com.wgembed.Config.parse(conf).peers().get(0).allowedIps().get(1);
        assertEquals(96, mapped.length());
        assertEquals(16, mapped.address().getAddress().length);
        destroy(controller);
    }

    @Test
    public void trimmingGivesMemoryBack() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        Service service = controller.get();
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        long before = service.tunnel().memory().buffers;
        service.onTrimMemory(android.content.ComponentCallbacks2.TRIM_MEMORY_COMPLETE);
        Phone.await("less memory", () -> service.tunnel().memory().buffers < before);
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        destroy(controller);
    }

    @Test
    public void namesAreLookedUpInTheNetworkBelow() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n").replace("127.0.0.1", "vpn.example.org");
        ServiceController<Service> controller = Robolectric.buildService(Service.class, new Intent()).create();
        startAgain(controller);
        for (ConnectivityManager.NetworkCallback callback : callbacks(controller.get())) {
            callback.onAvailable(ShadowNetwork.newInstance(7));
        }
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        assertTrue(Phone.asked.toString(), Phone.asked.toString().contains("vpn.example.org of 7"));
        destroy(controller);
    }

    @Test
    public void socketsAreBoundToANetwork() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        ServiceController<Service> controller = start(new Intent());
        int families = Phone.shown.size();
        assertTrue(Phone.asked.isEmpty());
        Network network = ShadowNetwork.newInstance(7);
        controller.get().bindTo(network);
        Phone.await("bound", () -> Phone.asked.size() == families);
        assertEquals("socket of 7", Phone.asked.get(0));
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        destroy(controller);
    }

    @Test
    public void aNetworkThatIsKnownAlreadyIsNoChange() throws Exception {
        conf = toPeer("");
        ServiceController<Service> controller = start(new Intent());
        int families = Phone.shown.size();
        Network other = ShadowNetwork.newInstance(7);
        for (ConnectivityManager.NetworkCallback callback : callbacks(controller.get())) {
            callback.onAvailable(other);
        }
        Phone.await("fresh sockets", () -> Phone.shown.size() == 2 * families);
        for (ConnectivityManager.NetworkCallback callback : callbacks(controller.get())) {
            callback.onAvailable(other);
        }
        // What comes behind it on the same thread shows that nothing came of it.
        startAgain(controller);
        assertEquals(2 * families, Phone.shown.size());
        destroy(controller);
    }

    @Test
    public void twoHundredCyclesLeaveNothing() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n");
        int[] before = null;
        for (int i = 0; i < 210; i++) {
            ServiceController<Service> controller = start(new Intent());
            assertNull(String.valueOf(controller.get().failure), controller.get().failure);
            destroy(controller);
            if (i == 9) {
                before = new int[] {Host.entries(false), Host.entries(true)};
            }
        }
        final int[] limit = before;
        // The virtual machine's own come and go.
        Phone.await("no descriptor more", () -> Host.entries(false) <= limit[0] + 5);
        Phone.await("no thread more", () -> Host.entries(true) <= limit[1] + 5);
    }

    @Test
    public void aFamilyWithoutAnAddressPassesUnlessAllTrafficIsThePeers() throws Exception {
        conf = toPeer("Address = 10.9.0.1/24\n").replace("0.0.0.0/0", "10.9.0.77/24");
        ServiceController<Service> controller = start(new Intent());
        assertTrue(Phone.built.toString(), Phone.built.contains("family " + OsConstants.AF_INET6));
        assertTrue(Phone.built.toString(), Phone.built.contains("route 10.9.0.0/24"));
        destroy(controller);
    }
}
