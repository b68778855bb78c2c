package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.robolectric.Shadows.shadowOf;

import android.content.Context;
import android.net.ConnectivityManager;
import android.net.LinkProperties;
import android.net.Network;
import java.io.IOException;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.shadows.ShadowNetwork;

/** Which reports of the system count as a change of networks. */
@RunWith(RobolectricTestRunner.class)
@org.robolectric.annotation.Config(manifest = org.robolectric.annotation.Config.NONE, sdk = {24, 34})
public class NetworkWatcherTest {
    private final Context context = RuntimeEnvironment.getApplication();
    private final ConnectivityManager manager =
            (ConnectivityManager) context.getSystemService(Context.CONNECTIVITY_SERVICE);

    private ConnectivityManager.NetworkCallback callback() {
        return shadowOf(manager).getNetworkCallbacks().iterator().next();
    }

    private static LinkProperties link(String name) {
        LinkProperties properties = new LinkProperties();
        properties.setInterfaceName(name);
        return properties;
    }

    @Test
    public void onlyWhatMattersIsAChange() {
        AtomicInteger changes = new AtomicInteger();
        NetworkWatcher watcher = NetworkWatcher.start(context, Runnable::run, changes::incrementAndGet);
        ConnectivityManager.NetworkCallback callback = callback();
        Network first = manager.getActiveNetwork();
        callback.onAvailable(first);
        callback.onLinkPropertiesChanged(first, link("wlan0"));
        assertEquals("there at the beginning", 0, changes.get());
        callback.onLinkPropertiesChanged(first, link("wlan0"));
        assertEquals("the same", 0, changes.get());
        callback.onLinkPropertiesChanged(first, link("wlan1"));
        assertEquals("another interface", 1, changes.get());
        Network second = ShadowNetwork.newInstance(77);
        callback.onAvailable(second);
        assertEquals("another network", 2, changes.get());
        assertEquals("the latest of equals", second, watcher.underlying());
        callback.onLost(second);
        assertEquals("one is left", 3, changes.get());
        assertEquals(first, watcher.underlying());
        callback.onLost(first);
        callback.onLost(first);
        assertEquals("none is left", 3, changes.get());
        assertNull(watcher.underlying());
        assertThrows(IOException.class, () -> watcher.resolve("example.org"));
        watcher.close();
        watcher.close();
        callback.onAvailable(first);
        assertEquals("closed", 3, changes.get());
    }

    @Test
    public void anExecutorThatHasEndedHarmsNothing() {
        NetworkWatcher watcher = NetworkWatcher.start(
                context,
                task -> {
                    throw new RejectedExecutionException();
                },
                () -> {});
        callback().onAvailable(ShadowNetwork.newInstance(77));
        callback().onAvailable(ShadowNetwork.newInstance(78));
        watcher.close();
    }
}
