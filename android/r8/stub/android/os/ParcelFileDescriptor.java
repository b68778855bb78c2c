package android.os;

import java.io.Closeable;

/** What the shrunk classes use of Android's, where there is no Android. */
public class ParcelFileDescriptor implements Closeable {
    private final int fd;

    public ParcelFileDescriptor(int fd) {
        this.fd = fd;
    }

    public int getFd() {
        return fd;
    }

    @Override
    public void close() {}
}
