package com.wgembed;

import java.util.concurrent.Executor;

/** The library as a whole: loading, version, log. */
public final class WgEmbed {
    /** Nothing is logged. */
    public static final int LOG_OFF = 0;
    /** A failure that lasts until its cause is removed. */
    public static final int LOG_ERROR = 1;
    /** A failure that the library works around. */
    public static final int LOG_WARN = 2;
    /** Information for the app's user. */
    public static final int LOG_INFO = 3;
    /** Handshakes, timers, sockets: a few lines a minute for each peer. */
    public static final int LOG_DEBUG = 4;
    /** Single packets, for debugging. */
    public static final int LOG_TRACE = 5;

    /** Loads the library in another way than {@link System#loadLibrary(String)}, for example with ReLinker. */
    public interface LibraryLoader {
        /**
         * Loads a library.
         *
         * @param name {@code wg_embed_jni}
         */
        void load(String name);
    }

    /** Receives lines of the log. */
    public interface LogSink {
        /**
         * Receives a line. It never contains a private or preshared key; it may contain public keys and addresses.
         *
         * @param level {@link #LOG_ERROR} to {@link #LOG_TRACE}
         * @param line without a line feed
         */
        void log(int level, String line);
    }

    private static volatile LibraryLoader loader;
    private static volatile Dispatcher logged;

    private WgEmbed() {}

    /**
     * Sets how the library is loaded. No-op once it is loaded, which its first use does.
     *
     * @param loader null for {@link System#loadLibrary(String)}
     */
    public static void setLibraryLoader(LibraryLoader loader) {
        WgEmbed.loader = loader;
    }

    static void load() {
        LibraryLoader loader = WgEmbed.loader;
        if (loader == null) {
            System.loadLibrary("wg_embed_jni");
        } else {
            loader.load("wg_embed_jni");
        }
    }

    /**
     * Returns the library's version.
     *
     * @return like {@code 0.1.0}
     */
    public static String version() {
        return Native.version();
    }

    /**
     * Sends the log of all tunnels to {@code sink}, replacing the previous one. Lines arrive in order, and never on a
     * thread of the library: at most 256 wait, and further ones are dropped and counted.
     *
     * @param sink null for none
     * @param executor runs {@code sink}
     * @param level the most detailed level that is logged: {@link #LOG_OFF} to {@link #LOG_TRACE}
     * @throws WgException if {@code level} is invalid
     */
    public static void setLogSink(final LogSink sink, Executor executor, int level) throws WgException {
        final Dispatcher dispatcher = sink == null ? null : new Dispatcher(executor);
        WgException.check(Native.setLog(sink == null ? null : new LogOnly(dispatcher, sink), level));
        logged = dispatcher;
    }

    /**
     * Returns the number of lines that the present sink did not get, because too many waited.
     *
     * @return 0 without a sink
     */
    public static long droppedLogLines() {
        Dispatcher dispatcher = logged;
        return dispatcher == null ? 0 : dispatcher.dropped();
    }

    /** The callbacks of the log. */
    private static final class LogOnly implements Native.Callbacks {
        private final Dispatcher dispatcher;
        private final LogSink sink;

        LogOnly(Dispatcher dispatcher, LogSink sink) {
            this.dispatcher = dispatcher;
            this.sink = sink;
        }

        @Override
        public boolean protect(int fd) {
            return false;
        }

        @Override
        public byte[] resolve(String host) {
            return null;
        }

        @Override
        public void event(int kind, int port, byte[] key, String endpoint, String reason) {}

        @Override
        public void log(final int level, final String line) {
            dispatcher.post(new Runnable() {
                @Override
                public void run() {
                    sink.log(level, line);
                }
            });
        }
    }
}
