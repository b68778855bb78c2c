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

    private static final String ADDRESS = "Address = 10.9.0.1/24\n";

    private static volatile String conf;
    /** What configure() waits for; null for nothing. */
    private static volatile CountDownLatch configured;

    private final List<Integer> ours = new ArrayList<>();
    private final List<ServiceController<Service>> running = new ArrayList<>();
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
    public void end() throws Exception {
        for (ServiceController<Service> controller : new ArrayList<>(running)) {
            destroy(controller);
        }
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

    /** A service that is there, and was not started. */
    private ServiceController<Service> create(Intent intent) {
        ServiceController<Service> controller = Robolectric.buildService(Service.class, intent).create();
        running.add(controller);
        return controller;
    }

    /** Starts a service with what configure() finds, and waits until that has succeeded or failed. */
    private ServiceController<Service> start(Intent intent) throws Exception {
        ServiceController<Service> controller = create(intent);
        startAgain(controller);
        return controller;
    }

    /** Starts a service with this configuration, which succeeds. */
    private ServiceController<Service> startWith(String text) throws Exception {
        conf = text;
        ServiceController<Service> controller = start(new Intent());
        assertStarted(controller.get());
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
        running.remove(controller);
        controller.destroy();
        Phone.await("closed", () -> controller.get().tunnel() == null);
    }

    private static void assertStarted(Service service) {
        assertNull(String.valueOf(service.failure), service.failure);
    }

    private static void assertFailed(Service service, WgException.Code code, String text) {
        assertEquals(code, service.failure.code());
        assertTrue(service.failure.getMessage(), service.failure.getMessage().contains(text));
    }

    /** Waits for the end of the service's tunnel, at its last start. */
    private static void awaitStopped(Service service, int startId) throws Exception {
        Phone.await("stopped", () -> service.stopped == 1);
        assertNull(service.tunnel());
        assertEquals("a later start would go on", startId, shadowOf(service).getStopSelfId());
    }

    /** A packet of the phone comes out at the peer. */
    private void reaches() {
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
    }

    /** The system reports a network that can be used. */
    private static void available(Service service, Network network) {
        for (ConnectivityManager.NetworkCallback callback : callbacks(service)) {
            callback.onAvailable(network);
        }
    }

    @Test
    public void aWholeTunnel() throws Exception {
        ServiceController<Service> controller = startWith(
                toPeer(ADDRESS + "DNS = 10.9.0.2, example.org\nIncludedApplications = org.example\n"));
        Service service = controller.get();
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
        reaches();
        Phone.passes(peerTun[1], Phone.packet(2, 1), Phone.tun[1]);
        String handshake = "handshake " + theirs.publicKey().toBase64();
        Phone.await("told of the handshake", () -> service.events.contains(handshake));

        // Another network: fresh sockets, protected before their first byte.
        available(service, ShadowNetwork.newInstance(7));
        Phone.await("fresh sockets", () -> Phone.shown.size() == 2 * families);
        reaches();

        destroy(controller);
        assertTrue(callbacks(service).isEmpty());
    }

    private static java.util.Set<ConnectivityManager.NetworkCallback> callbacks(Service service) {
        return shadowOf((ConnectivityManager) service.getSystemService(Context.CONNECTIVITY_SERVICE))
                .getNetworkCallbacks();
    }

    @Test
    public void aSecondStartChangesTheTunnelWithoutAHandshake() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        Service service = controller.get();
        Tunnel tunnel = service.tunnel();
        reaches();
        long handshake = tunnel.peers().get(0).lastHandshakeMillis;
        assertTrue(handshake > 0);

        Phone.tun = pair();
        Phone.built.clear();
        conf = toPeer(ADDRESS + "MTU = 1300\n");
        startAgain(controller);
        assertStarted(service);
        assertSame(tunnel, service.tunnel());
        assertTrue(Phone.built.contains("mtu 1300"));
        reaches();
        assertEquals(handshake, tunnel.peers().get(0).lastHandshakeMillis);
        assertEquals(0, service.stopped);
    }

    @Test
    public void aConfigurationThatFailsLeavesTheTunnel() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        Service service = controller.get();
        conf = "[Interface]\nAddress = nowhere\n";
        startAgain(controller);
        assertFailed(service, WgException.Code.INVALID, "Address");
        assertFalse(shadowOf(service).isStoppedBySelf());
        reaches();
    }

    @Test
    public void aTunnelThatHasEndedIsReplaced() throws Exception {
        int[] gone = Host.socketpair();
        Phone.tun = gone;
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        Service service = controller.get();
        Tunnel tunnel = service.tunnel();
        Host.close(gone[0]);
        Host.close(gone[1]);
        Phone.await("told of the end", () -> service.events.contains("ended"));
        awaitStopped(service, 1);
        assertEquals(WgException.Code.CLOSED, service.failure.code());
        assertTrue(callbacks(service).isEmpty());
        Phone.tun = pair();
        startAgain(controller);
        assertStarted(service);
        assertFalse(tunnel == service.tunnel());
        reaches();
    }

    @Test
    public void aRefusedSocketIsAFailureWithAName() throws Exception {
        Phone.refuses = true;
        // With keepalives, a tunnel that went on would send at once.
        conf = toPeer("") + "PersistentKeepalive = 1\n";
        Service service = start(new Intent()).get();
        assertFailed(service, WgException.Code.PERMISSION, "refused");
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
        assertFailed(service, WgException.Code.PERMISSION, "prepare");
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
        ServiceController<Service> again = create(null);
        again.get().onStartCommand(null, 0, 1);
        Phone.await("started", () -> again.get().started == 1);
        assertTrue(again.get().bySystem);
    }

    @Test
    public void revokingStopsIt() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        Service service = controller.get();
        assertNotNull(service.tunnel());
        service.onRevoke();
        awaitStopped(service, 1);
    }

    @Test
    public void anIntentStopsIt() throws Exception {
        Service service = startWith(toPeer("")).get();
        Intent stop = WgVpnService.stopIntent(RuntimeEnvironment.getApplication(), Service.class);
        assertEquals(android.app.Service.START_NOT_STICKY, service.onStartCommand(stop, 0, 2));
        awaitStopped(service, 2);
    }

    @Test
    public void aFailedStartDoesNotEndALaterOne() throws Exception {
        configured = new CountDownLatch(1);
        ServiceController<Service> controller = create(new Intent());
        Service service = controller.get();
        controller.startCommand(0, 1);
        controller.startCommand(0, 2);
        configured.countDown(); // There is no configuration yet.
        Phone.await("the first has failed", () -> service.failure != null);
        Phone.await("stopped", () -> shadowOf(service).isStoppedBySelf());
        Phone.await("the second has failed", () -> shadowOf(service).getStopSelfId() == 2);
        configured = null;
        conf = toPeer(ADDRESS);
        controller.startCommand(0, 3);
        Phone.await("started", () -> service.started == 1);
        reaches();
        assertEquals(2, shadowOf(service).getStopSelfId());
    }

    @Test
    public void stoppingDoesNotWaitForAName() throws Exception {
        Phone.lookups = new CountDownLatch(1);
        int[] tun = Host.socketpair();
        Phone.tun = tun;
        ours.add(tun[1]);
        ServiceController<Service> controller = startWith(toPeer(ADDRESS).replace("127.0.0.1", "vpn.example.org"));
        available(controller.get(), ShadowNetwork.newInstance(7));
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
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
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
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        Service service = controller.get();
        Tunnel tunnel = service.tunnel();
        reaches();
        Phone.built.clear();
        conf = toPeer(ADDRESS + "ListenPort = " + peer.listenPort() + "\n");
        startAgain(controller);
        assertEquals(WgException.Code.ADDR_IN_USE, service.failure.code());
        assertFalse(Phone.built.toString(), Phone.built.contains("establish"));
        assertSame(tunnel, service.tunnel());
        reaches();

        // Nor does it if there is no new interface: the peers are those of before.
        int[] tun = Phone.tun;
        Phone.tun = null;
        Key other = Key.generatePrivate().publicKey();
        conf = toPeer(ADDRESS).replace(theirs.publicKey().toBase64(), other.toBase64());
        startAgain(controller);
        assertEquals(WgException.Code.PERMISSION, service.failure.code());
        assertSame(tunnel, service.tunnel());
        assertEquals(theirs.publicKey(), tunnel.peers().get(0).publicKey);
        Phone.passes(tun[1], Phone.packet(1, 2), peerTun[1]);
    }

    @Test
    public void mappedAddressesAreNoRoutes() throws Exception {
        startWith(toPeer(ADDRESS).replace("0.0.0.0/0", "0.0.0.0/0, ::ffff:0.0.0.0/96, ::/0"));
        List<String> routes = new ArrayList<>(Phone.built);
        routes.removeIf(what -> !what.startsWith("route"));
        assertEquals(routes.toString(), 2, routes.size());
        com.wgembed.Config.Prefix mapped = com.wgembed.Config.parse(conf).peers().get(0).allowedIps().get(1);
        assertEquals(96, mapped.length());
        assertEquals(16, mapped.address().getAddress().length);
    }

    @Test
    public void trimmingGivesMemoryBack() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        Service service = controller.get();
        reaches();
        long before = service.tunnel().memory().buffers;
        service.onTrimMemory(android.content.ComponentCallbacks2.TRIM_MEMORY_COMPLETE);
        Phone.await("less memory", () -> service.tunnel().memory().buffers < before);
        reaches();
    }

    @Test
    public void namesAreLookedUpInTheNetworkBelow() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(ADDRESS).replace("127.0.0.1", "vpn.example.org"));
        available(controller.get(), ShadowNetwork.newInstance(7));
        reaches();
        assertTrue(Phone.asked.toString(), Phone.asked.toString().contains("vpn.example.org of 7"));
    }

    @Test
    public void socketsAreBoundToANetwork() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(ADDRESS));
        int families = Phone.shown.size();
        assertTrue(Phone.asked.isEmpty());
        Network network = ShadowNetwork.newInstance(7);
        controller.get().bindTo(network);
        Phone.await("bound", () -> Phone.asked.size() == families);
        assertEquals("socket of 7", Phone.asked.get(0));
        reaches();
    }

    @Test
    public void aNetworkThatIsKnownAlreadyIsNoChange() throws Exception {
        ServiceController<Service> controller = startWith(toPeer(""));
        int families = Phone.shown.size();
        Network other = ShadowNetwork.newInstance(7);
        available(controller.get(), other);
        Phone.await("fresh sockets", () -> Phone.shown.size() == 2 * families);
        available(controller.get(), other);
        // What comes behind it on the same thread shows that nothing came of it.
        startAgain(controller);
        assertEquals(2 * families, Phone.shown.size());
    }

    @Test
    public void twoHundredCyclesLeaveNothing() throws Exception {
        int[] before = null;
        for (int i = 0; i < 210; i++) {
            destroy(startWith(toPeer(ADDRESS)));
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
        startWith(toPeer(ADDRESS).replace("0.0.0.0/0", "10.9.0.77/24"));
        assertTrue(Phone.built.toString(), Phone.built.contains("family " + OsConstants.AF_INET6));
        assertTrue(Phone.built.toString(), Phone.built.contains("route 10.9.0.0/24"));
    }
}
