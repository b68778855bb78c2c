package com.wgembed;

import java.io.IOException;

/** A failure of the library: a {@link Code}, and a message for people. It never contains a key. */
public final class WgException extends IOException {
    private static final long serialVersionUID = 1;

    /** The codes of {@code wg_result_t}, which never change. Later versions may add codes. */
    public enum Code {
        /** A required value was null. */
        NULL(-1),
        /** A value is malformed or out of range. */
        INVALID(-2),
        /** A line or message does not have the form that its protocol requires. */
        PROTOCOL(-3),
        /** Not supported on this platform, or in this version. */
        UNSUPPORTED(-4),
        /** A documented limit on size or number was exceeded. */
        TOO_LARGE(-5),
        /** The tunnel is closed. */
        UNKNOWN_HANDLE(-10),
        /** The tunnel has ended by itself. */
        CLOSED(-11),
        /** The function cannot be called inside a callback of the library. */
        BUSY(-12),
        /** The time limit of the call has passed; the operation continues. */
        TIMED_OUT(-13),
        /** The tunnel belongs to the parent of this process. */
        FORKED(-14),
        /** The system reported an error that has no code of its own. */
        IO(-20),
        /** The system or the app refused: a socket is not protected, or the user has not consented to the VPN. */
        PERMISSION(-21),
        /** The port is in use by another socket. */
        ADDR_IN_USE(-22),
        /** A descriptor, interface, application or peer does not exist. */
        NOT_FOUND(-23),
        /** An object of this name already exists. */
        EXISTS(-24),
        /** The other side refused the connection. */
        REFUSED(-25),
        /** The other side is unreachable. */
        UNREACHABLE(-26),
        /** Threads, file descriptors or memory are exhausted. */
        RESOURCES(-30),
        /** A bug in the library was caught: close the tunnel. */
        PANIC(-40),
        /** A code that is unknown to this version of the Java classes. */
        OTHER(Integer.MIN_VALUE);

        private final int number;

        Code(int number) {
            this.number = number;
        }

        /**
         * Returns the number of the code in C.
         *
         * @return a negative number
         */
        public int number() {
            return number;
        }

        static Code of(int number) {
            for (Code code : values()) {
                if (code.number == number) {
                    return code;
                }
            }
            return OTHER;
        }
    }

    /** The kind of the failure. */
    private final Code code;

    WgException(Code code, String message) {
        super(message);
        this.code = code;
    }

    WgException(Code code, String message, Throwable cause) {
        super(message, cause);
        this.code = code;
    }

    /**
     * Returns the code of the failure.
     *
     * @return never null
     */
    public Code code() {
        return code;
    }

    /** Returns a result unless it is a failure. Call it on the thread of the native call, before any other call. */
    static int check(int result) throws WgException {
        if (result < 0) {
            throw new WgException(Code.of(result), Native.lastError());
        }
        return result;
    }

    /** Converts any exception to this type. */
    static WgException of(Exception exception) {
        if (exception instanceof WgException) {
            return (WgException) exception;
        }
        Code code = exception instanceof SecurityException
                ? Code.PERMISSION
                : exception instanceof IllegalArgumentException ? Code.INVALID : Code.IO;
        return new WgException(code, String.valueOf(exception.getMessage()), exception);
    }
}
