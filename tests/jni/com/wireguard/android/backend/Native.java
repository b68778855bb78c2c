package com.wireguard.android.backend;

/** What a test needs of the system and Java does not have; in tests/jni/native.c. */
final class Native {
    static {
        System.loadLibrary("native");
    }

    private Native() {}

    /** Opens a TUN device, which is made if there is none of this name, as VpnService does. Returns a descriptor. */
    static native int openTun(String name);

    /** Opens something harmless. It gets the lowest number that is free. */
    static native int open();

    static native void close(int fd);

    /** Bytes that are allocated from malloc() in this process. */
    static native long heap();
}
