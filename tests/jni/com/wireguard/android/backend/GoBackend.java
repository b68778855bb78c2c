package com.wireguard.android.backend;

/** The native methods that the app's class of this name declares. Only their names and types matter. */
final class GoBackend {
    static {
        System.loadLibrary("wg-go");
    }

    private GoBackend() {}

    static native String wgGetConfig(int handle);

    static native int wgGetSocketV4(int handle);

    static native int wgGetSocketV6(int handle);

    static native void wgTurnOff(int handle);

    static native int wgTurnOn(String ifName, int tunFd, String settings);

    static native String wgVersion();
}
