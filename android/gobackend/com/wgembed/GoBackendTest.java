package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import com.wireguard.android.backend.BackendException;
import com.wireguard.android.backend.GoBackend;
import com.wireguard.android.backend.Statistics;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.StringReader;
import java.net.InetAddress;
import java.net.StandardProtocolFamily;
import java.net.UnknownHostException;
import java.nio.channels.DatagramChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ServiceController;
import org.robolectric.annotation.Implementation;
import org.robolectric.annotation.Implements;
import org.robolectric.shadows.ShadowVpnService;

/** The classes of wireguard-android's AAR, as they are, over this project's libwg-go.so. */
@RunWith(RobolectricTestRunner.class)
@org.robolectric.annotation.Config(
        manifest = org.robolectric.annotation.Config.NONE,
        sdk = 34,
        shadows = {
            GoBackendTest.ShadowInetAddresses.class,
            Phone.ShadowBuilder.class,
            Phone.ShadowDescriptor.class,
            Phone.ShadowService.class
        })
public class GoBackendTest {
    /** Robolectric's own calls a method that only Android's InetAddress has. */
    @Implements(android.net.InetAddresses.class)
    public static class ShadowInetAddresses {
        @Implementation
        protected static InetAddress parseNumericAddress(String address) {
            try {
                return InetAddress.getByName(address);
            } catch (UnknownHostException failed) {
                throw new IllegalArgumentException(failed);
            }
        }
    }

    /** A tunnel as apps have it: a name, and what becomes of it. */
    private static final class Named implements com.wireguard.android.backend.Tunnel {
        final List<State> states = new ArrayList<>();

        @Override
        public String getName() {
            return "wg0";
        }

        @Override
        public void onStateChange(State state) {
            states.add(state);
        }
    }

    private final Named tunnel = new Named();
    private final int[] peerTun = Host.socketpair();
    private Key mine;
    private Key theirs;
    private Tunnel peer;
    private ServiceController<GoBackend.VpnService> service;
    private GoBackend backend;

    @Before
    public void begin() throws Exception {
        Phone.reset();
        Phone.tun = Host.socketpair();
        ShadowVpnService.setPrepareResult(null); // The user has agreed.
        mine = Key.generatePrivate();
        theirs = Key.generatePrivate();
        Config config = new Config.Builder(theirs).peer(mine.publicKey()).allowedIp("10.9.0.1/32").build();
        peer = Tunnel.builder(Phone.descriptor(Host.dup(peerTun[0])), config).start();
        service = Robolectric.buildService(GoBackend.VpnService.class).create();
        backend = new GoBackend(RuntimeEnvironment.getApplication());
    }

    @After
    public void end() {
        service.destroy();
        peer.close();
        for (int fd : new int[] {Phone.tun[0], Phone.tun[1], peerTun[0], peerTun[1]}) {
            Host.close(fd);
        }
    }

    private com.wireguard.config.Config config(String interfaceLines) throws Exception {
        String text = "[Interface]\nPrivateKey = " + mine.toBase64() + "\nAddress = 10.9.0.1/24\nDNS = 10.9.0.2\n"
                + interfaceLines + "[Peer]\nPublicKey = " + theirs.publicKey().toBase64()
                + "\nAllowedIPs = 0.0.0.0/0\nEndpoint = 127.0.0.1:" + peer.listenPort() + "\n";
        return com.wireguard.config.Config.parse(new BufferedReader(new StringReader(text)));
    }

    private void set(Named.State state, com.wireguard.config.Config config) throws Exception {
        assertEquals(state, backend.setState(tunnel, state, config));
        assertEquals(state, backend.getState(tunnel));
    }

    private void passes() {
        Phone.passes(Phone.tun[1], Phone.packet(1, 2), peerTun[1]);
        Phone.passes(peerTun[1], Phone.packet(2, 1), Phone.tun[1]);
    }

    /** Whether the host can open IPv6 sockets. */
    private static boolean hasIpv6() throws IOException {
        try (DatagramChannel channel = DatagramChannel.open(StandardProtocolFamily.INET6)) {
            return channel.isOpen();
        } catch (UnsupportedOperationException none) {
            return false;
        }
    }

    @Test
    public void upStatisticsDown() throws Exception {
        assertEquals(WgEmbed.version(), backend.getVersion());
        int descriptors = Host.entries(false);
        set(Named.State.UP, config(""));
        List<String> expected = Arrays.asList("address 10.9.0.1/24", "dns 10.9.0.2", "route 0.0.0.0/0", "mtu 1280");
        assertTrue(Phone.built.toString(), Phone.built.containsAll(expected));
        // GoBackend asks for both, also for one that could not be opened, which is -1.
        assertEquals(2, Phone.shown.size());
        assertTrue("the IPv4 socket is protected", Phone.shown.get(0) >= 0);
        assertTrue("the IPv6 socket is protected", Phone.shown.get(1) >= 0 || !hasIpv6());
        assertEquals(Collections.singleton("wg0"), backend.getRunningTunnelNames());
        passes();

        Statistics statistics = backend.getStatistics(tunnel);
        com.wireguard.crypto.Key key = com.wireguard.crypto.Key.fromBase64(theirs.publicKey().toBase64());
        Statistics.PeerStats numbers = statistics.peer(key);
        assertEquals(1, statistics.peers().length);
        assertTrue(numbers.rxBytes() >= 40 && numbers.txBytes() >= 40);
        assertEquals(numbers.txBytes(), statistics.totalTx());
        assertTrue(Math.abs(System.currentTimeMillis() - numbers.latestHandshakeEpochMillis()) < 600_000);

        set(Named.State.DOWN, null);
        assertEquals(Arrays.asList(Named.State.UP, Named.State.DOWN), tunnel.states);
        assertNull(backend.getStatistics(tunnel).peer(key));
        assertTrue(backend.getRunningTunnelNames().isEmpty());
        Phone.await("no descriptor more", () -> Host.entries(false) <= descriptors);
    }

    @Test
    public void anotherConfigurationIsDownAndUp() throws Exception {
        set(Named.State.UP, config(""));
        passes();
        set(Named.State.UP, config("MTU = 1300\n"));
        assertTrue(Phone.built.toString(), Phone.built.contains("mtu 1300"));
        passes();
        assertEquals(Arrays.asList(Named.State.UP, Named.State.DOWN, Named.State.UP), tunnel.states);
    }

    @Test
    public void aPortInUseIsAFailure() throws Exception {
        int descriptors = Host.entries(false);
        com.wireguard.config.Config config = config("ListenPort = " + peer.listenPort() + "\n");
        BackendException failure =
                assertThrows(BackendException.class, () -> backend.setState(tunnel, Named.State.UP, config));
        assertEquals(BackendException.Reason.GO_ACTIVATION_ERROR_CODE, failure.getReason());
        assertEquals(Named.State.DOWN, backend.getState(tunnel));
        Phone.await("no descriptor more", () -> Host.entries(false) <= descriptors);
    }

    @Test
    public void theEndOfTheServiceIsTheEndOfTheTunnel() throws Exception {
        set(Named.State.UP, config(""));
        passes();
        service.destroy();
        assertEquals(Named.State.DOWN, backend.getState(tunnel));
        service = Robolectric.buildService(GoBackend.VpnService.class).create();
        set(Named.State.UP, config(""));
        passes();
    }
}
