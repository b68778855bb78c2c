package com.wgembed;

/** What a JVM cannot do by itself: both ends of a TUN's stand-in. */
final class Host {
    static {
        System.loadLibrary("host");
    }

    private Host() {}

    static native int[] socketpair();

    static native int send(int fd, byte[] packet);

    /** Returns null if nothing comes. */
    static native byte[] receive(int fd, int milliseconds);

    static native int dup(int fd);

    static native int close(int fd);

    /** How many threads the process has, or how many open descriptors. */
    static native int entries(boolean threads);

    /** Uses JNI as is not allowed: while an exception is pending, and with more references than announced. */
    static native void misuse();
}
