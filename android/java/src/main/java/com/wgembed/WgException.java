package com.wgembed;

import java.io.IOException;

/** A failure of the library: a {@link Code}, and a text for people to read. It never quotes a key. */
public final class WgException extends IOException {
    private static final long serialVersionUID = 1;

    /** The codes of {@code wg_result_t}, which never change. A later version may add some. */
    public enum Code {
        /** A required value was null. */
        NULL(-1),
        /** A value is malformed or out of its range. */
        INVALID(-2),
        /** A line or message does not have the shape its protocol asks for. */
        PROTOCOL(-3),
        /** Not available on this platform, or in this version. */
        UNSUPPORTED(-4),
        /** A documented limit on size or number was passed. */
        TOO_LARGE(-5),
        /** The tunnel is closed. */
        UNKNOWN_HANDLE(-10),
        /** The tunnel has ended by itself. */
        CLOSED(-11),
        /** The call cannot be made now, as it was made inside a callback of the library. */
        BUSY(-12),
        /** The time limit of the call has passed; what it has begun goes on. */
        TIMED_OUT(-13),
        /** The tunnel belongs to the process that this one was forked from. */
        FORKED(-14),
        /** The system reported a failure that has no code of its own. */
        IO(-20),
        /** The system or the app refused: a socket that is not protected, an app that may not be a VPN. */
        PERMISSION(-21),
        /** The port is taken by another socket. */
        ADDR_IN_USE(-22),
        /** A descriptor, interface, application or peer does not exist. */
        NOT_FOUND(-23),
        /** Something of this name exists already. */
        EXISTS(-24),
        /** The other side has refused the connection. */
        REFUSED(-25),
        /** There is no way to the other side. */
        UNREACHABLE(-26),
        /** Threads, file descriptors or memory have run out. */
        RESOURCES(-30),
        /** A bug in the library was caught: close the tunnel. */
        PANIC(-40),
        /** A code that this version of the Java half does not have. */
        OTHER(Integer.MIN_VALUE);

        private final int number;

        Code(int number) {
            this.number = number;
        }

        /**
         * Returns the number that it has in C.
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
     * Returns the kind of the failure.
     *
     * @return never null
     */
    public Code code() {
        return code;
    }

    /** Passes a result on, if it is not a failure. To be called on the thread of the call, before any other call. */
    static int check(int result) throws WgException {
        if (result < 0) {
            throw new WgException(Code.of(result), Native.lastError());
        }
        return result;
    }

    /** Any exception as one of these. */
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
