import android.os.ParcelFileDescriptor;
import com.wgembed.Config;
import com.wgembed.Key;
import com.wgembed.Tunnel;
import com.wgembed.TunnelListener;
import com.wgembed.WgEmbed;
import com.wgembed.WgException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** An app, to be shrunk together with the library: every call that crosses between Java and Rust is made once. */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        CountDownLatch called = new CountDownLatch(3);
        Key peer = Key.generatePrivate().publicKey();
        Config config = new Config.Builder(Key.generatePrivate())
                .peer(peer)
                .endpoint("vpn.example.org:51820")
                .persistentKeepalive(1)
                .build();
        try {
            Tunnel.builder(new ParcelFileDescriptor(999), config).start();
            throw new AssertionError("descriptor 999 is a TUN");
        } catch (WgException refused) {
            System.out.println("refused: " + refused.getMessage() + ", " + refused.code().number());
        }
        CountDownLatch logged = new CountDownLatch(1);
        WgEmbed.setLogSink((level, line) -> logged.countDown(), Runnable::run, WgEmbed.LOG_INFO);
        AtomicInteger sockets = new AtomicInteger();
        TunnelListener listener = new TunnelListener() {
            @Override
            public void resolveFailed(Key of, String reason) {
                if (of.equals(peer)) {
                    called.countDown();
                }
            }
        };
        try (Tunnel tunnel = Tunnel.builder(new ParcelFileDescriptor(Integer.parseInt(arguments[0])), config)
                .protector(fd -> sockets.incrementAndGet() > 0)
                .resolver(host -> {
                    called.countDown();
                    throw new java.io.IOException("there is no such host");
                })
                .listener(listener, Runnable::run)
                .start()) {
            tunnel.networkChanged();
            if (tunnel.peers().size() == 1 && tunnel.stats().peers == 1 && !tunnel.counters().isEmpty()) {
                called.countDown();
            }
            if (!called.await(60, TimeUnit.SECONDS) || !logged.await(60, TimeUnit.SECONDS) || sockets.get() == 0) {
                throw new AssertionError(called.getCount() + " not called");
            }
        }
        System.out.println("shrunk, and it works: " + WgEmbed.version());
    }
}
