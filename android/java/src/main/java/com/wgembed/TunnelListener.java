package com.wgembed;

/**
 * Receives the events of a tunnel, on the executor that was passed with it, in order, one call at a time. Later
 * versions may add methods, with default bodies.
 */
public interface TunnelListener {
    /**
     * Called when a session with a peer is established.
     *
     * @param peer its public key
     */
    default void handshakeCompleted(Key peer) {}

    /**
     * Called when a peer did not answer 20 initiations in a row, in about 100 seconds. The next packet for it begins a
     * new handshake.
     *
     * @param peer its public key
     */
    default void handshakeFailed(Key peer) {}

    /**
     * Called when the last session with a peer has expired, after some minutes without traffic, which is not an error.
     *
     * @param peer its public key
     */
    default void sessionExpired(Key peer) {}

    /**
     * Called when the endpoint of a peer has changed.
     *
     * @param peer its public key
     * @param endpoint the new endpoint: {@code 192.0.2.1:51820}, {@code [2001:db8::1]:51820}
     */
    default void endpointChanged(Key peer, String endpoint) {}

    /**
     * Called when the host name of a peer could not be resolved. The look-up is repeated as long as there are packets
     * for it.
     *
     * @param peer its public key
     * @param reason English text for people to read
     */
    default void resolveFailed(Key peer, String reason) {}

    /**
     * Called when the route to a peer leads into the tunnel itself: the sockets are not protected.
     *
     * @param peer its public key
     * @param endpoint the endpoint of the peer
     */
    default void routingLoop(Key peer, String endpoint) {}

    /**
     * Called when new sockets could not be opened, or the open ones became unusable. Opening is retried until it
     * succeeds.
     *
     * @param reason English text for people to read
     */
    default void socketsLost(String reason) {}

    /**
     * Called when new sockets are open: after {@link #socketsLost}, or because the port has changed.
     *
     * @param port the UDP port
     */
    default void socketsRecovered(int port) {}

    /**
     * Called when the tunnel has ended by itself. Close it.
     *
     * @param reason English text for people to read
     */
    default void ended(String reason) {}

    /**
     * Called when events were dropped, because more than 256 waited for the executor: {@link Tunnel#peers()} returns
     * the present state.
     *
     * @param count the number of dropped events since the tunnel was started
     */
    default void missed(long count) {}
}
