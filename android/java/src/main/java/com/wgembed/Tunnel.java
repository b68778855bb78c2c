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
 * A tunnel, which is on until it is closed. Any thread may call any method; those that change the tunnel may block for
 * a moment, so do not call them on the main thread. After {@link #close()} they throw {@link WgException} with {@link
 * WgException.Code#UNKNOWN_HANDLE}.
 */
public final class Tunnel implements Closeable {
    /** The time limit of {@link #close()}, in milliseconds. */
    private static final int CLOSE_WITHIN = 5000;

    /** Keeps sockets out of the VPN: {@code vpnService::protect}. */
    public interface Protector {
        /**
         * Called with each socket before anything is sent on it: when the tunnel starts, and whenever its sockets are
         * reopened. It is called on threads of the library, and must not call the tunnel.
         *
         * @param fd the socket, which the library owns
         * @return false to refuse the socket: then {@link Builder#start()} fails, or the old sockets stay in use
         */
        boolean protect(int fd);
    }

    /** Looks up host names. */
    public interface Resolver {
        /**
         * Returns the addresses of a host, the best first. It is called on a thread of the library, may block, and must
         * not call the tunnel.
         *
         * @param host the configured name, or {@code ipv4only.arpa}
         * @return at least one address
         * @throws IOException without an address
         */
        InetAddress[] resolve(String host) throws IOException;
    }

    /** Sums over all peers since the tunnel was started, including removed ones. */
    public static final class Stats {
        /** The present number of peers. */
        public final long peers;
        /** Bytes of authentic UDP payload received from peers. */
        public final long rxBytes;
        /** Bytes of UDP payload sent to peers. */
        public final long txBytes;
        /** Packets from peers that were written to the TUN. */
        public final long rxPackets;
        /** Packets from the TUN that were sent to peers. */
        public final long txPackets;
        /** Dropped incoming packets and datagrams. */
        public final long rxDropped;
        /** Dropped outgoing packets and datagrams. */
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
        /** The limit for {@link #buffers} and {@link #staged} together. */
        public final long limit;
        /** The sum of the other numbers. */
        public final long total;
        /** Buffers of the threads and the TUN. */
        public final long buffers;
        /** Packets that wait for a session. */
        public final long staged;
        /** Peers and their sessions. */
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
        /** The public key. */
        public final Key publicKey;
        /** Bytes of authentic UDP payload received from the peer. */
        public final long rxBytes;
        /** Bytes of UDP payload sent to the peer. */
        public final long txBytes;
        /** The time of the last completed handshake, in milliseconds since 1970-01-01 UTC; 0 without one. */
        public final long lastHandshakeMillis;
        /** Packets that wait for a session. */
        public final long stagedPackets;
        /** Seconds between persistent keepalives; 0 if off. */
        public final int persistentKeepalive;
        /** Milliseconds until the next timer of the peer fires if there is no traffic before; -1 without a timer. */
        public final long nextTimerMillis;
        /** Whether a packet can be sent without a handshake. */
        public final boolean hasSession;
        /** The present endpoint: the source of the last authentic packet, or the configured one; empty without one. */
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

    /** Builds a tunnel with options. */
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
        private int workers;
        private int logLevel = -1;

        private Builder(ParcelFileDescriptor tun, Config config) {
            if (tun == null || config == null) {
                throw new NullPointerException(tun == null ? "tun" : "config");
            }
            this.tun = tun;
            this.config = config;
        }

        /**
         * Sets the protector, which keeps sockets out of the VPN. Without one, the tunnel's own packets may be routed
         * into the tunnel.
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
         * @param listener receives the events until the tunnel is closed
         * @param executor runs the listener; at most 256 events are queued
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
         * Sets the resolver for host names. While a VPN is up, the system's resolver uses the DNS servers of the VPN.
         *
         * @param resolver null for the resolver of the system
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

        /** Sets the function that is called when the tunnel has ended by itself, with or without a listener. */
        Builder ended(Hooks.Ended ended) {
            this.ended = ended;
            return this;
        }

        /**
         * Sets the memory limit for packets in transit and packets that wait for a session, in bytes.
         *
         * @param bytes 1,572,864 to 8,388,608, or 0 for 4 MiB
         * @return this
         */
        public Builder memoryLimit(long bytes) {
            memoryLimit = bytes;
            return this;
        }

        /**
         * Sets the largest number of threads that help with encryption while one processor is not enough. They are
         * started under the first such load. The default is one less than the processors, at most 3, and none on one
         * or two processors or with a smaller memory limit.
         *
         * @param threads 1 to 8, -1 for none, or 0 for the default
         * @return this
         */
        public Builder workers(int threads) {
            workers = threads;
            return this;
        }

        /**
         * Sets the log level of this tunnel. {@link WgEmbed#setLogSink} sets the sink.
         *
         * @param level {@link WgEmbed#LOG_OFF} to {@link WgEmbed#LOG_TRACE}, or -1 for the level of the sink
         * @return this
         */
        public Builder logLevel(int level) {
            logLevel = level;
            return this;
        }

        /**
         * Starts the tunnel. On success the library uses a duplicate of the descriptor, and the descriptor itself is
         * closed; on failure the caller keeps it.
         *
         * @return the tunnel, which must be closed
         * @throws WgException with {@link WgException.Code#PERMISSION} if the protector refuses a socket
         */
        public Tunnel start() throws WgException {
            Dispatcher dispatcher = listener == null ? null : new Dispatcher(executor);
            Hooks hooks = new Hooks(protector, resolver, listener, dispatcher, ended);
            hooks.network = network;
            int handle = WgException.check(Native.turnOn(
                    tun.getFd(), config.bytes(), hooks, hooks.resolves(), memoryLimit, config.mtu(), workers,
                    logLevel));
            closed(tun);
            return new Tunnel(handle, hooks, config);
        }
    }

    private final Hooks hooks;
    private final int handle;
    /**
     * Locked while the configuration is changed; never in {@link #close()}, which a protector may call during a change.
     */
    private final Object change = new Object();
    private Config config;

    private Tunnel(int handle, Hooks hooks, Config config) {
        this.handle = handle;
        this.hooks = hooks;
        this.config = config;
    }

    /**
     * Creates a builder.
     *
     * @param tun the result of {@code VpnService.Builder.establish()}
     * @param config the configuration
     * @return the builder
     */
    public static Builder builder(ParcelFileDescriptor tun, Config config) {
        return new Builder(tun, config);
    }

    /**
     * Applies another configuration. Only the differences are applied: peers that are in both configurations keep their
     * sessions, and endpoints that have roamed.
     *
     * <p>Addresses, routes and applications belong to the interface; to change them, use {@link #update(Config,
     * ParcelFileDescriptor)}.
     *
     * @param config the complete configuration
     * @throws WgException if a value is invalid or the port is in use; nothing changes then
     */
    public void update(Config config) throws WgException {
        synchronized (change) {
            WgException.check(Native.update(handle, this.config.bytes(), config.bytes()));
            this.config = config;
        }
    }

    /**
     * Applies another configuration, and continues with another interface, without a handshake. Android sets the old
     * interface down when {@code establish()} returns another one.
     *
     * @param config the complete configuration
     * @param tun the result of {@code establish()}; closed on success, kept by the caller on failure
     * @throws WgException with {@link WgException.Code#CLOSED} if the tunnel has ended by itself: start another one
     * then
     */
    public void update(Config config, ParcelFileDescriptor tun) throws WgException {
        synchronized (change) {
            update(config);
            setTun(config, tun);
        }
    }

    /** Continues with another interface, which is closed on success. */
    void setTun(Config config, ParcelFileDescriptor tun) throws WgException {
        WgException.check(Native.setTun(handle, tun.getFd(), config.mtu()));
        closed(tun);
    }

    /** Returns the current configuration. */
    Config config() {
        synchronized (change) {
            return config;
        }
    }

    /**
     * Reports a change of networks: sockets are reopened and passed to the protector, names are looked up again, and
     * each peer with a session is sent a packet at once. An unnecessary call costs a datagram for each peer.
     *
     * @throws WgException if the sockets cannot be reopened now; the library then retries by itself
     */
    public void networkChanged() throws WgException {
        WgException.check(Native.networkChanged(handle));
    }

    /**
     * Binds the sockets to a network, which need not be the default one, and reopens them.
     *
     * @param network null for the default network
     * @throws WgException if the sockets cannot be reopened now; the library then retries by itself
     */
    public void bind(Network network) throws WgException {
        hooks.network = network;
        WgException.check(Native.bumpSockets(handle));
    }

    /**
     * Closes the sockets and drops the sessions, until {@link #resume()}. During the pause nothing wakes a thread.
     *
     * @throws WgException if the tunnel is closed
     */
    public void pause() throws WgException {
        WgException.check(Native.pause(handle));
    }

    /**
     * Resumes after {@link #pause()}, with new sockets.
     *
     * @throws WgException if the sockets cannot be opened now; the library then retries by itself
     */
    public void resume() throws WgException {
        WgException.check(Native.resume(handle));
    }

    /**
     * Frees unused memory.
     *
     * @throws WgException if the tunnel is closed
     */
    public void trim() throws WgException {
        WgException.check(Native.trim(handle));
    }

    /**
     * Begins a handshake at once.
     *
     * @param peer its public key; null for each peer with an endpoint
     * @throws WgException with {@link WgException.Code#NOT_FOUND} if there is no such peer, or it has no endpoint
     */
    public void forceHandshake(Key peer) throws WgException {
        WgException.check(Native.forceHandshake(handle, peer == null ? null : peer.bytes()));
    }

    /**
     * Drops the sessions of a peer, and wipes their keys.
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
     * @return 0 while there are no sockets
     * @throws WgException if the tunnel is closed
     */
    public int listenPort() throws WgException {
        return WgException.check(Native.listenPort(handle));
    }

    /**
     * Returns the statistics.
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
     * Returns the memory usage.
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
     * Returns the peers.
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
     * Returns the counters by their names in {@code wg_counters()}: reasons for drops, and others.
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
     * Returns the number of events that the listener did not get, because too many waited for its executor.
     *
     * @return 0 without a listener
     */
    public long droppedEvents() {
        return hooks.dropped();
    }

    /**
     * Turns the tunnel off. When this returns, neither protector nor resolver is running, and no further event is
     * queued, unless a resolver takes longer than five seconds, for which the library then waits by itself. A second
     * call is a no-op, unless the first one is still waiting: then it waits as well.
     *
     * @throws IllegalStateException on a thread of the library, inside a protector, a resolver, or a listener whose
     * executor runs it there: the tunnel cannot wait for itself, and keeps running
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

    /** Closes a descriptor of which the library has a duplicate. */
    private static void closed(ParcelFileDescriptor tun) {
        try {
            tun.close();
        } catch (IOException useless) {
            // It is closed in any case.
        }
    }
}
