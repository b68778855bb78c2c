package com.wgembed;

import android.net.Network;
import android.os.ParcelFileDescriptor;
import android.util.Log;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.InetAddress;

/** The callbacks of one tunnel, which the library calls on its own threads. */
final class Hooks implements Native.Callbacks {
    private static final String TAG = "WgEmbed";

    // The numbers of wg_event_kind_t.
    private static final int EVENT_HANDSHAKE_COMPLETED = 1;
    private static final int EVENT_HANDSHAKE_FAILED = 2;
    private static final int EVENT_SESSION_EXPIRED = 3;
    private static final int EVENT_ENDPOINT_CHANGED = 4;
    private static final int EVENT_RESOLVE_FAILED = 5;
    private static final int EVENT_ROUTING_LOOP = 6;
    private static final int EVENT_SOCKETS_LOST = 10;
    private static final int EVENT_SOCKETS_RECOVERED = 11;
    private static final int EVENT_ENDED = 20;

    /** Called when a tunnel has ended by itself. */
    interface Ended {
        /** Called on a thread of the library. It must neither block nor call the tunnel. */
        void ended(String reason);
    }

    private final Tunnel.Protector protector;
    private final Tunnel.Resolver resolver;
    private final TunnelListener listener;
    private final Dispatcher dispatcher;
    private final Ended ended;
    private long reported;

    /** The network that the sockets are bound to, or null. */
    volatile Network network;

    Hooks(
            Tunnel.Protector protector,
            Tunnel.Resolver resolver,
            TunnelListener listener,
            Dispatcher dispatcher,
            Ended ended) {
        this.protector = protector;
        this.resolver = resolver;
        this.listener = listener;
        this.dispatcher = dispatcher;
        this.ended = ended;
    }

    boolean resolves() {
        return resolver != null;
    }

    long dropped() {
        return dispatcher == null ? 0 : dispatcher.dropped();
    }

    @Override
    public boolean protect(int fd) {
        try {
            if (protector != null && !protector.protect(fd)) {
                return false;
            }
            Network network = this.network;
            if (network != null) {
                try (ParcelFileDescriptor socket = ParcelFileDescriptor.fromFd(fd)) {
                    network.bindSocket(socket.getFileDescriptor());
                }
            }
            return true;
        } catch (IOException | RuntimeException refused) {
            Log.w(TAG, "a socket is not used", refused);
            return false;
        }
    }

    @Override
    public byte[] resolve(String host) {
        try {
            ByteArrayOutputStream packed = new ByteArrayOutputStream();
            for (InetAddress address : resolver.resolve(host)) {
                byte[] bytes = address.getAddress();
                packed.write(bytes.length);
                packed.write(bytes, 0, bytes.length);
            }
            return packed.toByteArray();
        } catch (IOException failed) {
            return null; // An event reports it.
        } catch (RuntimeException failed) {
            Log.w(TAG, "a name is not looked up", failed);
            return null;
        }
    }

    @Override
    public void log(int level, String line) {}

    @Override
    public void event(final int kind, final int port, final byte[] key, final String endpoint, final String reason) {
        if (kind == EVENT_ENDED && ended != null) {
            ended.ended(reason);
        }
        if (listener == null) {
            return;
        }
        Runnable task = new Runnable() {
            @Override
            public void run() {
                reportMissed();
                deliver(kind, port, key, endpoint, reason);
            }
        };
        try {
            if (kind == EVENT_ENDED) {
                dispatcher.postLast(task);
            } else {
                dispatcher.post(task);
            }
        } catch (RuntimeException thrown) {
            // The executor runs it on this thread, which is inside the library.
            Log.w(TAG, "a listener has failed", thrown);
        }
    }

    private void reportMissed() {
        long dropped = dispatcher.dropped();
        if (dropped > reported) {
            reported = dropped;
            listener.missed(dropped);
        }
    }

    private void deliver(int kind, int port, byte[] key, String endpoint, String reason) {
        switch (kind) {
            case EVENT_HANDSHAKE_COMPLETED:
                listener.handshakeCompleted(Key.of(key));
                break;
            case EVENT_HANDSHAKE_FAILED:
                listener.handshakeFailed(Key.of(key));
                break;
            case EVENT_SESSION_EXPIRED:
                listener.sessionExpired(Key.of(key));
                break;
            case EVENT_ENDPOINT_CHANGED:
                listener.endpointChanged(Key.of(key), endpoint);
                break;
            case EVENT_RESOLVE_FAILED:
                listener.resolveFailed(Key.of(key), reason);
                break;
            case EVENT_ROUTING_LOOP:
                listener.routingLoop(Key.of(key), endpoint);
                break;
            case EVENT_SOCKETS_LOST:
                listener.socketsLost(reason);
                break;
            case EVENT_SOCKETS_RECOVERED:
                listener.socketsRecovered(port);
                break;
            case EVENT_ENDED:
                listener.ended(reason);
                break;
            default: // Of a later version.
        }
    }
}
