package com.wgembed;

/**
 * Receives the events of a tunnel on the executor that was passed with it: in order, one call at a time. A later
 * version may add methods, which have default bodies.
 */
public interface TunnelListener {
    /**
     * A session with a peer is ready to use.
     *
     * @param peer its public key
     */
    default void handshakeCompleted(Key peer) {}

    /**
     * A peer did not answer 20 initiations in a row, in about 100 seconds. It is tried again when there is something to
     * send.
     *
     * @param peer its public key
     */
    default void handshakeFailed(Key peer) {}

    /**
     * The last session with a peer is over: when nothing was sent for some minutes, which is no fault.
     *
     * @param peer its public key
     */
    default void sessionExpired(Key peer) {}

    /**
     * A peer has moved.
     *
     * @param peer its public key
     * @param endpoint where it is now: {@code 192.0.2.1:51820}, {@code [2001:db8::1]:51820}
     */
    default void endpointChanged(Key peer, String endpoint) {}

    /**
     * The host name of a peer has no address. It is looked up again as long as there is something to send.
     *
     * @param peer its public key
     * @param reason English text for people to read
     */
    default void resolveFailed(Key peer, String reason) {}

    /**
     * The route to a peer leads into the tunnel itself: its sockets are not protected.
     *
     * @param peer its public key
     * @param endpoint where that peer is
     */
    default void routingLoop(Key peer, String endpoint) {}

    /**
     * New sockets could not be opened, or the open ones can no longer be used. It is tried again until it succeeds.
     *
     * @param reason English text for people to read
     */
    default void socketsLost(String reason) {}

    /**
     * New sockets are open: after {@link #socketsLost}, or because another port is used.
     *
     * @param port the UDP port
     */
    default void socketsRecovered(int port) {}

    /**
     * The tunnel has ended by itself. Close it.
     *
     * @param reason English text for people to read
     */
    default void ended(String reason) {}

    /**
     * Events were dropped, as more than 256 waited for the executor: {@link Tunnel#peers()} shows how things are.
     *
     * @param count how many since the tunnel started
     */
    default void missed(long count) {}
}
