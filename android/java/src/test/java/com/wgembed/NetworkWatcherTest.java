package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.robolectric.Shadows.shadowOf;

import android.content.Context;
import android.net.ConnectivityManager;
import android.net.LinkProperties;
import android.net.Network;
import android.net.NetworkCapabilities;
import java.io.IOException;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.shadows.ShadowNetwork;
import org.robolectric.shadows.ShadowNetworkCapabilities;

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
        Network first = manager.getActiveNetwork();
        shadowOf(manager).setNetworkCapabilities(first, capabilities(NetworkCapabilities.NET_CAPABILITY_NOT_VPN));
        NetworkWatcher watcher = NetworkWatcher.start(context, Runnable::run, changes::incrementAndGet);
        ConnectivityManager.NetworkCallback callback = callback();
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
        callback.onCapabilitiesChanged(second, capabilities());
        assertEquals("nothing that matters", 2, changes.get());
        callback.onCapabilitiesChanged(first, capabilities(NetworkCapabilities.NET_CAPABILITY_VALIDATED));
        assertEquals("the other one is better", 3, changes.get());
        assertEquals(first, watcher.underlying());
        callback.onCapabilitiesChanged(second, capabilities(NetworkCapabilities.NET_CAPABILITY_VALIDATED));
        assertEquals("and back", 4, changes.get());
        assertEquals(second, watcher.underlying());
        callback.onLost(second);
        assertEquals("one is left", 5, changes.get());
        assertEquals(first, watcher.underlying());
        callback.onLost(first);
        callback.onLost(first);
        assertEquals("none is left", 5, changes.get());
        assertNull(watcher.underlying());
        assertThrows(IOException.class, () -> watcher.resolve("example.org"));
        watcher.close();
        watcher.close();
        callback.onAvailable(first);
        assertEquals("closed", 5, changes.get());
    }

    private static NetworkCapabilities capabilities(int... all) {
        NetworkCapabilities capabilities = ShadowNetworkCapabilities.newInstance();
        for (int one : new int[] {
            NetworkCapabilities.NET_CAPABILITY_NOT_VPN,
            NetworkCapabilities.NET_CAPABILITY_VALIDATED,
            NetworkCapabilities.NET_CAPABILITY_NOT_METERED
        }) {
            shadowOf(capabilities).removeCapability(one);
        }
        for (int one : all) {
            shadowOf(capabilities).addCapability(one);
        }
        return capabilities;
    }

    @Test
    public void aVpnIsNotBelowItself() {
        shadowOf(manager).setNetworkCapabilities(manager.getActiveNetwork(), capabilities());
        try (NetworkWatcher watcher = NetworkWatcher.start(context, Runnable::run, () -> {})) {
            assertNull(watcher.underlying());
        }
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
