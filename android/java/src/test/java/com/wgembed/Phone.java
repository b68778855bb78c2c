package com.wgembed;

import static org.robolectric.Shadows.shadowOf;

import android.net.Network;
import android.net.VpnService;
import android.os.Looper;
import android.os.ParcelFileDescriptor;
import android.content.pm.PackageManager;
import java.io.FileDescriptor;
import java.io.IOException;
import java.net.InetAddress;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import org.robolectric.annotation.Implementation;
import org.robolectric.annotation.Implements;
import org.robolectric.annotation.RealObject;
import org.robolectric.shadows.ShadowVpnService;

/** The parts of a phone that Robolectric lacks, and what was asked of them. */
final class Phone {
    /** How long to wait for what has to come. */
    private static final int PATIENCE = 60_000;

    /** What the last VpnService.Builder was told. */
    static final List<String> built = Collections.synchronizedList(new ArrayList<String>());
    /** The sockets that VpnService.protect() was asked for. */
    static final List<Integer> shown = Collections.synchronizedList(new ArrayList<Integer>());
    /** What networks were asked. */
    static final List<String> asked = Collections.synchronizedList(new ArrayList<String>());
    /** Applications that are not installed. */
    static final List<String> absent = Collections.synchronizedList(new ArrayList<String>());

    static volatile boolean refuses;
    /** What look-ups of names wait for; null for nothing. */
    static volatile CountDownLatch lookups;
    /** What establish() gives the service a duplicate of; null if the app is not prepared. */
    static volatile int[] tun;

    private Phone() {}

    static void reset() {
        built.clear();
        shown.clear();
        asked.clear();
        absent.clear();
        refuses = false;
        lookups = null;
        tun = null;
    }

    @Implements(VpnService.Builder.class)
    public static class ShadowBuilder {
        @RealObject private VpnService.Builder real;

        @Implementation
        protected VpnService.Builder addAddress(InetAddress address, int length) {
            return add("address " + address.getHostAddress() + "/" + length);
        }

        @Implementation
        protected VpnService.Builder addRoute(InetAddress address, int length) {
            return add("route " + address.getHostAddress() + "/" + length);
        }

        @Implementation
        protected VpnService.Builder addDnsServer(InetAddress address) {
            return add("dns " + address.getHostAddress());
        }

        @Implementation
        protected VpnService.Builder addDnsServer(String address) {
            return add("dns " + address);
        }

        @Implementation
        protected VpnService.Builder addSearchDomain(String domain) {
            return add("search " + domain);
        }

        @Implementation
        protected VpnService.Builder setMtu(int mtu) {
            return add("mtu " + mtu);
        }

        @Implementation
        protected VpnService.Builder allowFamily(int family) {
            return add("family " + family);
        }

        @Implementation
        protected VpnService.Builder setUnderlyingNetworks(Network[] networks) {
            return add("underlying " + (networks == null ? "default" : networks.length));
        }

        @Implementation(minSdk = 29)
        protected VpnService.Builder setMetered(boolean metered) {
            return add("metered " + metered);
        }

        @Implementation
        protected VpnService.Builder addAllowedApplication(String name) throws PackageManager.NameNotFoundException {
            if (absent.contains(name)) {
                throw new PackageManager.NameNotFoundException(name);
            }
            return add("include " + name);
        }

        @Implementation
        protected VpnService.Builder addDisallowedApplication(String name) throws PackageManager.NameNotFoundException {
            if (absent.contains(name)) {
                throw new PackageManager.NameNotFoundException(name);
            }
            return add("exclude " + name);
        }

        @Implementation
        protected ParcelFileDescriptor establish() {
            add("establish");
            return tun == null ? null : descriptor(Host.dup(tun[0]));
        }

        private VpnService.Builder add(String what) {
            built.add(what);
            return real;
        }
    }

    /** Robolectric's own is a file; this one is a number, as on a phone. */
    @Implements(ParcelFileDescriptor.class)
    public static class ShadowDescriptor {
        private static int next;
        private int fd;

        @Implementation
        protected void __constructor__(FileDescriptor unused) {
            fd = next;
        }

        @Implementation
        protected static ParcelFileDescriptor fromFd(int fd) {
            return descriptor(Host.dup(fd));
        }

        @Implementation
        protected FileDescriptor getFileDescriptor() {
            return new FileDescriptor();
        }

        @Implementation
        protected int getFd() {
            return fd;
        }

        @Implementation
        protected int detachFd() {
            int detached = fd;
            fd = -1;
            return detached;
        }

        @Implementation
        protected void close() {
            if (fd >= 0) {
                Host.close(fd);
            }
            fd = -1;
        }
    }

    @Implements(VpnService.class)
    public static class ShadowService extends ShadowVpnService {
        @Implementation
        protected boolean protect(int fd) {
            shown.add(fd);
            return !refuses;
        }

        @Implementation
        protected boolean setUnderlyingNetworks(Network[] networks) {
            return true;
        }
    }

    @Implements(Network.class)
    public static class ShadowNetwork {
        @RealObject private Network real;

        @Implementation
        protected InetAddress[] getAllByName(String host) throws IOException {
            asked.add(host + " of " + real);
            CountDownLatch latch = lookups;
            if (latch != null) {
                boolean interrupted = false;
                while (latch.getCount() > 0) {
                    try {
                        latch.await();
                    } catch (InterruptedException goesOn) {
                        interrupted = true; // As the system's, which cannot be interrupted.
                    }
                }
                if (interrupted) {
                    Thread.currentThread().interrupt();
                }
            }
            if (host.equals("ipv4only.arpa")) {
                throw new IOException("there is no NAT64");
            }
            return new InetAddress[] {InetAddress.getByAddress(new byte[] {127, 0, 0, 1})};
        }

        @Implementation
        protected void bindSocket(FileDescriptor socket) {
            asked.add("socket of " + real);
        }
    }

    /** Takes the number over. */
    static synchronized ParcelFileDescriptor descriptor(int fd) {
        ShadowDescriptor.next = fd;
        return new ParcelFileDescriptor(new FileDescriptor());
    }

    /** Waits, while the main thread goes on. */
    static void await(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + PATIENCE * 1_000_000L;
        while (!condition.call()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("still not: " + what);
            }
            shadowOf(Looper.getMainLooper()).idle();
            Thread.sleep(5);
        }
        shadowOf(Looper.getMainLooper()).idle();
    }

    /** Of IPv4 and UDP. */
    static byte[] packet(int fromHost, int toHost) {
        byte[] packet = new byte[40];
        packet[0] = 0x45;
        packet[3] = 40;
        packet[8] = 64;
        packet[9] = 17;
        System.arraycopy(new byte[] {10, 9, 0, (byte) fromHost}, 0, packet, 12, 4);
        System.arraycopy(new byte[] {10, 9, 0, (byte) toHost}, 0, packet, 16, 4);
        return packet;
    }

    /** Sends a packet into one TUN until it comes out of the other: the way there may drop some. */
    static void passes(int from, byte[] packet, int to) {
        for (int i = 0; i < PATIENCE / 1000; i++) {
            if (Host.send(from, packet) != packet.length) {
                throw new AssertionError("the TUN is full");
            }
            if (Arrays.equals(packet, Host.receive(to, 1000))) {
                while (Host.receive(to, 50) != null) {
                    // Those that came late.
                }
                return;
            }
        }
        throw new AssertionError("no packet has come");
    }
}
