package com.wgembed;

/**
 * The native library. Its functions are bound when it is loaded (RegisterNatives in android/jni), so a shrinker may
 * rename them only on both sides: the consumer rules keep them.
 *
 * <p>Functions that return an int return the result of the C function, a negative code of {@link WgException.Code} on
 * failure.
 */
final class Native {
    static {
        WgEmbed.load();
    }

    private Native() {}

    /** The functions that the library calls, on its own threads. They must not throw: an exception would be dropped. */
    interface Callbacks {
        /** Returns whether the socket may be used; called before anything is sent on it. */
        boolean protect(int fd);

        /** Returns the addresses of a name, each preceded by its length; null without any. It may block. */
        byte[] resolve(String host);

        /** Receives an event of a tunnel. Values that its kind does not have are zero or empty. */
        void event(int kind, int port, byte[] key, String endpoint, String reason);

        /** Receives a line of the log. */
        void log(int level, String line);
    }

    static native int turnOn(
            int fd, byte[] conf, Object callbacks, boolean resolve, long memory, int mtu, int workers, int level);

    /** Waits without a limit if {@code milliseconds} is negative. */
    static native int turnOff(int handle, int milliseconds);

    static native int setTun(int handle, int fd, int mtu);

    static native int update(int handle, byte[] before, byte[] now);

    static native int networkChanged(int handle);

    static native int bumpSockets(int handle);

    static native int pause(int handle);

    static native int resume(int handle);

    static native int trim(int handle);

    static native int listenPort(int handle);

    static native int forceHandshake(int handle, byte[] key);

    static native int dropSession(int handle, byte[] key);

    static native int stats(int handle, long[] out);

    static native int memory(int handle, long[] out);

    static native int peers(int handle, byte[][] out);

    static native int counters(int handle, byte[][] out);

    static native int parse(byte[] conf, byte[][] out);

    static native int text(byte[] conf, byte[][] out);

    static native int generateKey(boolean preshared, byte[] out);

    static native int derivePublic(byte[] key, byte[] out);

    static native byte[] keyText(byte[] key, boolean hex);

    static native int keyFromText(byte[] text, boolean hex, byte[] out);

    static native int setLog(Object callbacks, int level);

    static native String lastError();

    static native String version();
}
