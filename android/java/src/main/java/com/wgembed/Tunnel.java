package com.wgembed;

import android.net.Network;
import android.os.ParcelFileDescriptor;
import java.io.ByteArrayInputStream;
import java.io.Closeable;
import java.io.DataInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executor;

/**
 * A tunnel, which is on until it is closed. Any thread may call any method; those that change the tunnel may take some
 * time, so the main thread better does not. After {@link #close()} they throw {@link WgException} with
 * {@link WgException.Code#UNKNOWN_HANDLE}.
 */
public final class Tunnel implements Closeable {
    /** How long {@link #close()} waits, in milliseconds. */
    private static final int CLOSE_WITHIN = 5000;

    /** Keeps sockets out of the VPN: {@code vpnService::protect}. */
    public interface Protector {
        /**
         * Is passed each socket before its first byte: when the tunnel starts, and whenever its sockets are renewed. It
         * is called on threads of the library, and must not call the tunnel.
         *
         * @param fd the socket, which stays the library's
         * @return false if nothing may be sent on it: then {@link Builder#start()} fails, or the old sockets stay
         */
        boolean protect(int fd);
    }

    /** Looks host names up. */
    public interface Resolver {
        /**
         * Returns the addresses of a host, the best first. It is called on a thread of the library's own, may block,
         * and must not call the tunnel.
         *
         * @param host as it was configured, or {@code ipv4only.arpa}
         * @return one address at least
         * @throws IOException if there is none
         */
        InetAddress[] resolve(String host) throws IOException;
    }

    /** Sums over all peers since the tunnel started, also those that are gone. */
    public static final class Stats {
        /** Peers now. */
        public final long peers;
        /** Bytes of UDP payload that came from peers and was authentic. */
        public final long rxBytes;
        /** Bytes of UDP payload that was sent to peers. */
        public final long txBytes;
        /** Packets from peers that the TUN took. */
        public final long rxPackets;
        /** Packets from the TUN that were sent to peers. */
        public final long txPackets;
        /** Packets and datagrams that were dropped on their way in. */
        public final long rxDropped;
        /** Packets and datagrams that were dropped on their way out. */
        public final long txDropped;

        Stats(long[] fields) {
            peers = fields[0];
            rxBytes = fields[1];
            txBytes = fields[2];
            rxPackets = fields[3];
            txPackets = fields[4];
            rxDropped = fields[5];
            txDropped = fields[6];
        }
    }

    /** The memory usage of a tunnel, in bytes. */
    public static final class Memory {
        /** The most that {@link #buffers} and {@link #staged} come to. */
        public final long limit;
        /** All of it. */
        public final long total;
        /** What the threads and the TUN work in. */
        public final long buffers;
        /** Packets that wait for a session. */
        public final long staged;
        /** Peers with their sessions. */
        public final long peers;

        Memory(long[] fields) {
            limit = fields[0];
            total = fields[1];
            buffers = fields[2];
            staged = fields[3];
            peers = fields[4];
        }
    }

    /** A peer of a running tunnel. */
    public static final class Peer {
        /** Who it is. */
        public final Key publicKey;
        /** Bytes of UDP payload that came from it and was authentic. */
        public final long rxBytes;
        /** Bytes of UDP payload that was sent to it. */
        public final long txBytes;
        /** When the last handshake was completed, in milliseconds since 1970-01-01 UTC; 0 if none was. */
        public final long lastHandshakeMillis;
        /** Packets that wait for a session. */
        public final long stagedPackets;
        /** Seconds between persistent keepalives; 0 if off. */
        public final int persistentKeepalive;
        /** In how many milliseconds the library does something for it if nothing happens before; -1 if it does not. */
        public final long nextTimerMillis;
        /** Whether a packet could be sent at once. */
        public final boolean hasSession;
        /** Where it was heard last, or is configured to be; empty if that is not known. */
        public final String endpoint;

        Peer(DataInputStream in) throws IOException {
            byte[] key = new byte[Key.LENGTH];
            in.readFully(key);
            publicKey = Key.of(key);
            rxBytes = in.readLong();
            txBytes = in.readLong();
            lastHandshakeMillis = in.readLong();
            stagedPackets = in.readLong();
            persistentKeepalive = in.readInt();
            int timer = in.readInt();
            nextTimerMillis = timer == -1 ? -1 : timer & 0xffffffffL;
            hasSession = in.readBoolean();
            endpoint = in.readUTF();
        }
    }

    /** Options and start of a tunnel. */
    public static final class Builder {
        private final ParcelFileDescriptor tun;
        private final Config config;
        private Protector protector;
        private Resolver resolver;
        private TunnelListener listener;
        private Executor executor;
        private Network network;
        private Hooks.Ended ended;
        private long memoryLimit;
        private int logLevel = -1;

        private Builder(ParcelFileDescriptor tun, Config config) {
            if (tun == null || config == null) {
                throw new NullPointerException(tun == null ? "tun" : "config");
            }
            this.tun = tun;
            this.config = config;
        }

        /**
         * Sets the protector, which keeps sockets out of the VPN. Without one, the tunnel's own
         * packets may be routed into the tunnel.
         *
         * @param protector {@code vpnService::protect}
         * @return this
         */
        public Builder protector(Protector protector) {
            this.protector = protector;
            return this;
        }

        /**
         * Sets the listener for events.
         *
         * @param listener for the tunnel's life
         * @param executor runs it; at most 256 events wait there
         * @return this
         */
        public Builder listener(TunnelListener listener, Executor executor) {
            if (listener != null && executor == null) {
                throw new NullPointerException("executor");
            }
            this.listener = listener;
            this.executor = executor;
            return this;
        }

        /**
         * Sets the resolver for host names. The system's asks the DNS servers of the VPN while a VPN is up.
         *
         * @param resolver null for the system's
         * @return this
         */
        public Builder resolver(Resolver resolver) {
            this.resolver = resolver;
            return this;
        }

        /**
         * Binds the sockets to a network, as {@link Tunnel#bind(Network)} does.
         *
         * @param network null for the default network
         * @return this
         */
        public Builder network(Network network) {
            this.network = network;
            return this;
        }

        /** Sets what is called when the tunnel ends by itself; no listener is needed. */
        Builder ended(Hooks.Ended ended) {
            this.ended = ended;
            return this;
        }

        /**
         * Sets how many bytes packets may take while they pass through or wait for a session.
         *
         * @param bytes 1,572,864 to 8,388,608, or 0 for 4 MiB
         * @return this
         */
        public Builder memoryLimit(long bytes) {
            memoryLimit = bytes;
            return this;
        }

        /**
         * Sets how much of this tunnel is logged, to the sink of {@link WgEmbed#setLogSink}.
         *
         * @param level {@link WgEmbed#LOG_OFF} to {@link WgEmbed#LOG_TRACE}, or -1 for the level of the sink
         * @return this
         */
        public Builder logLevel(int level) {
            logLevel = level;
            return this;
        }

        /**
         * Starts the tunnel. On success the library has a duplicate of the descriptor, and the one that was given is
         * closed; on failure it stays the caller's.
         *
         * @return the tunnel, to be closed
         * @throws WgException with {@link WgException.Code#PERMISSION} if the protector refuses
         */
        public Tunnel start() throws WgException {
            Dispatcher dispatcher = listener == null ? null : new Dispatcher(executor);
            Hooks hooks = new Hooks(protector, resolver, listener, dispatcher, ended);
            hooks.network = network;
            int handle = WgException.check(Native.turnOn(
                    tun.getFd(), config.bytes(), hooks, hooks.resolves(), memoryLimit, config.mtu(), logLevel));
            closed(tun);
            return new Tunnel(handle, hooks, config);
        }
    }

    private final Hooks hooks;
    private final int handle;
    /** Held while the configuration is changed; never for closing, which a protector may try during that. */
    private final Object change = new Object();
    private Config config;

    private Tunnel(int handle, Hooks hooks, Config config) {
        this.handle = handle;
        this.hooks = hooks;
        this.config = config;
    }

    /**
     * Begins a tunnel.
     *
     * @param tun of {@code VpnService.Builder.establish()}
     * @param config keys and peers
     * @return a builder
     */
    public static Builder builder(ParcelFileDescriptor tun, Config config) {
        return new Builder(tun, config);
    }

    /**
     * Applies another configuration. Only the differences are applied: peers that are in both keep their
     * sessions and the endpoints that they have moved to.
     *
     * <p>Addresses, routes and applications belong to the interface: to change those, see {@link #update(Config,
     * ParcelFileDescriptor)}.
     *
     * @param config the whole configuration
     * @throws WgException if a value is invalid or the port is taken; nothing has changed then
     */
    public void update(Config config) throws WgException {
        synchronized (change) {
            WgException.check(Native.update(handle, this.config.bytes(), config.bytes()));
            this.config = config;
        }
    }

    /**
     * Applies another configuration, and then another interface, without a handshake. Android takes the old
     * interface down when {@code establish()} returns another.
     *
     * @param config the whole configuration
     * @param tun of {@code establish()}; closed on success, and the caller's on failure
     * @throws WgException with {@link WgException.Code#CLOSED} if the tunnel has ended by itself: start another then
     */
    public void update(Config config, ParcelFileDescriptor tun) throws WgException {
        synchronized (change) {
            update(config);
            setTun(config, tun);
        }
    }

    /** Goes on with another interface, which is closed on success. */
    void setTun(Config config, ParcelFileDescriptor tun) throws WgException {
        WgException.check(Native.setTun(handle, tun.getFd(), config.mtu()));
        closed(tun);
    }

    /** The configuration that applies now. */
    Config config() {
        synchronized (change) {
            return config;
        }
    }

    /**
     * Reports a change of networks: sockets are renewed and passed to the protector, names are
     * looked up again, and each peer with a session hears from us at once. One call too many costs a datagram a peer.
     *
     * @throws WgException if there are no new sockets now; the library then tries again by itself
     */
    public void networkChanged() throws WgException {
        WgException.check(Native.networkChanged(handle));
    }

    /**
     * Binds the sockets to a network, which need not be the default one, and renews them.
     *
     * @param network null for the default network again
     * @throws WgException if there are no new sockets now; the library then tries again by itself
     */
    public void bind(Network network) throws WgException {
        hooks.network = network;
        WgException.check(Native.bumpSockets(handle));
    }

    /**
     * Closes the sockets and forgets the sessions, until {@link #resume()}. Nothing wakes a thread meanwhile.
     *
     * @throws WgException if the tunnel is closed
     */
    public void pause() throws WgException {
        WgException.check(Native.pause(handle));
    }

    /**
     * Goes on after {@link #pause()}, with new sockets.
     *
     * @throws WgException if there are no new sockets now; the library then tries again by itself
     */
    public void resume() throws WgException {
        WgException.check(Native.resume(handle));
    }

    /**
     * Frees memory that is not needed now.
     *
     * @throws WgException if the tunnel is closed
     */
    public void trim() throws WgException {
        WgException.check(Native.trim(handle));
    }

    /**
     * Begins a handshake now.
     *
     * @param peer its public key; null for each peer that has an endpoint
     * @throws WgException with {@link WgException.Code#NOT_FOUND} if there is no such peer, or it has no endpoint
     */
    public void forceHandshake(Key peer) throws WgException {
        WgException.check(Native.forceHandshake(handle, peer == null ? null : peer.bytes()));
    }

    /**
     * Forgets the sessions with a peer, and wipes their keys.
     *
     * @param peer its public key; null for all peers
     * @throws WgException with {@link WgException.Code#NOT_FOUND} if there is no such peer
     */
    public void dropSession(Key peer) throws WgException {
        WgException.check(Native.dropSession(handle, peer == null ? null : peer.bytes()));
    }

    /**
     * Returns the UDP port of the sockets.
     *
     * @return 0 while there are none
     * @throws WgException if the tunnel is closed
     */
    public int listenPort() throws WgException {
        return WgException.check(Native.listenPort(handle));
    }

    /**
     * Reads the statistics.
     *
     * @return a copy
     * @throws WgException if the tunnel is closed
     */
    public Stats stats() throws WgException {
        long[] fields = new long[7];
        WgException.check(Native.stats(handle, fields));
        return new Stats(fields);
    }

    /**
     * Reads the memory usage.
     *
     * @return a copy
     * @throws WgException if the tunnel is closed
     */
    public Memory memory() throws WgException {
        long[] fields = new long[5];
        WgException.check(Native.memory(handle, fields));
        return new Memory(fields);
    }

    /**
     * Reads the peers.
     *
     * @return a copy
     * @throws WgException if the tunnel is closed
     */
    public List<Peer> peers() throws WgException {
        byte[][] packed = new byte[1][];
        WgException.check(Native.peers(handle, packed));
        List<Peer> peers = new ArrayList<>();
        try {
            for (DataInputStream in = stream(packed[0]); in.available() > 0; ) {
                peers.add(new Peer(in));
            }
        } catch (IOException tooShort) {
            throw new IllegalStateException(tooShort);
        }
        return Collections.unmodifiableList(peers);
    }

    /**
     * Reads the counters, by their names in {@code wg_counters()}: why something was dropped, and more.
     *
     * @return a copy, in the library's order
     * @throws WgException if the tunnel is closed
     */
    public Map<String, Long> counters() throws WgException {
        byte[][] packed = new byte[1][];
        WgException.check(Native.counters(handle, packed));
        Map<String, Long> counters = new LinkedHashMap<>();
        try {
            for (DataInputStream in = stream(packed[0]); in.available() > 0; ) {
                String name = in.readUTF();
                counters.put(name, in.readLong());
            }
        } catch (IOException tooShort) {
            throw new IllegalStateException(tooShort);
        }
        return Collections.unmodifiableMap(counters);
    }

    private static DataInputStream stream(byte[] packed) {
        return new DataInputStream(new ByteArrayInputStream(packed));
    }

    /**
     * Returns how many events the listener has not been given, because too many waited for its executor.
     *
     * @return 0 without a listener
     */
    public long droppedEvents() {
        return hooks.dropped();
    }

    /**
     * Turns the tunnel off. When this returns, neither protector nor resolver is running, and no event is added to
     * those that wait; unless a resolver takes longer than five seconds, for which the library then waits by itself.
     * A second call is a no-op, unless the first one is still waiting: then it waits as well.
     *
     * @throws IllegalStateException on a thread of the library, inside a protector or resolver, or a listener whose
     *     executor runs it there: the tunnel cannot wait for itself, and goes on
     */
    @Override
    public void close() {
        int result = Native.turnOff(handle, CLOSE_WITHIN);
        if (result == WgException.Code.RESOURCES.number()) {
            // Waiting for a limited time needs a thread, which the system has refused; this needs none.
            result = Native.turnOff(handle, -1);
        }
        if (result < 0
                && result != WgException.Code.TIMED_OUT.number()
                && result != WgException.Code.UNKNOWN_HANDLE.number()) {
            throw new IllegalStateException(
                    result == WgException.Code.BUSY.number()
                            ? "a tunnel cannot be closed on its own thread"
                            : Native.lastError());
        }
    }

    /** Closes a descriptor that the library has a duplicate of. */
    private static void closed(ParcelFileDescriptor tun) {
        try {
            tun.close();
        } catch (IOException useless) {
            // It is closed in any case.
        }
    }
}
