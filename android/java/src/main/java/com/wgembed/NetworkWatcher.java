package com.wgembed;

import android.content.Context;
import android.net.ConnectivityManager;
import android.net.LinkAddress;
import android.net.LinkProperties;
import android.net.Network;
import android.net.NetworkCapabilities;
import android.net.NetworkRequest;
import java.io.Closeable;
import java.io.IOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;

/**
 * Watches the networks below a VPN: those with Internet that are no VPN themselves. Much of what the system reports
 * changes nothing here, and is left out. Any thread may call any method.
 *
 * <p>The app needs the permission {@code ACCESS_NETWORK_STATE}, which the library's manifest has.
 */
public final class NetworkWatcher implements Closeable, Tunnel.Resolver {
    /** What is known of a network. */
    private static final class Known {
        String link;
        NetworkCapabilities capabilities;
    }

    private final ConnectivityManager manager;
    private final Executor executor;
    private final Runnable changed;
    private final Map<Network, Known> networks = new LinkedHashMap<>();
    private boolean scheduled;
    private boolean closed;

    private final ConnectivityManager.NetworkCallback callback = new ConnectivityManager.NetworkCallback() {
        @Override
        public void onAvailable(Network network) {
            synchronized (NetworkWatcher.this) {
                if (networks.containsKey(network)) {
                    return;
                }
                networks.put(network, new Known());
            }
            schedule();
        }

        @Override
        public void onLost(Network network) {
            synchronized (NetworkWatcher.this) {
                if (networks.remove(network) == null || networks.isEmpty()) {
                    return; // Without any there is nothing to change to.
                }
            }
            schedule();
        }

        @Override
        public void onLinkPropertiesChanged(Network network, LinkProperties properties) {
            synchronized (NetworkWatcher.this) {
                Known known = networks.get(network);
                if (known == null) {
                    return;
                }
                String link = link(properties);
                String before = known.link;
                known.link = link;
                if (before == null || before.equals(link)) {
                    return; // The first ones come with the network.
                }
            }
            schedule();
        }

        @Override
        public void onCapabilitiesChanged(Network network, NetworkCapabilities capabilities) {
            synchronized (NetworkWatcher.this) {
                Known known = networks.get(network);
                if (known != null) {
                    known.capabilities = capabilities;
                }
            }
        }
    };

    private NetworkWatcher(ConnectivityManager manager, Executor executor, Runnable changed) {
        this.manager = manager;
        this.executor = executor;
        this.changed = changed;
    }

    /**
     * Begins to watch.
     *
     * @param context any
     * @param executor runs {@code changed}; never the main thread if that calls a tunnel
     * @param changed is run when the networks have changed, once for several changes in a row; not for those that are
     *     there at the beginning
     * @return what has to be closed
     */
    public static NetworkWatcher start(Context context, Executor executor, Runnable changed) {
        ConnectivityManager manager = (ConnectivityManager) context.getSystemService(Context.CONNECTIVITY_SERVICE);
        NetworkWatcher watcher = new NetworkWatcher(manager, executor, changed);
        Network active = manager.getActiveNetwork();
        if (active != null) {
            watcher.networks.put(active, new Known());
        }
        manager.registerNetworkCallback(
                new NetworkRequest.Builder()
                        .addCapability(NetworkCapabilities.NET_CAPABILITY_INTERNET)
                        .addCapability(NetworkCapabilities.NET_CAPABILITY_NOT_VPN)
                        .build(),
                watcher.callback);
        return watcher;
    }

    /** What of a network's properties matters to sockets. Lifetimes of addresses, for example, do not. */
    private static String link(LinkProperties properties) {
        List<String> addresses = new ArrayList<>();
        for (LinkAddress address : properties.getLinkAddresses()) {
            addresses.add(String.valueOf(address.getAddress()));
        }
        return properties.getInterfaceName() + " " + addresses + " " + properties.getDnsServers();
    }

    private void schedule() {
        synchronized (this) {
            if (scheduled || closed) {
                return;
            }
            scheduled = true;
        }
        try {
            executor.execute(new Runnable() {
                @Override
                public void run() {
                    synchronized (NetworkWatcher.this) {
                        scheduled = false;
                        if (closed) {
                            return;
                        }
                    }
                    changed.run();
                }
            });
        } catch (RejectedExecutionException ended) {
            // An executor that is shut down runs nothing, and the system's thread must not suffer from it.
            synchronized (this) {
                scheduled = false;
            }
        }
    }

    /**
     * Returns the network that the VPN's own traffic most likely uses: one that was validated before others, one that
     * is not metered before others, and the latest.
     *
     * @return null if there is none
     */
    public synchronized Network underlying() {
        Network best = null;
        int bestRank = -1;
        for (Map.Entry<Network, Known> entry : networks.entrySet()) {
            NetworkCapabilities capabilities = entry.getValue().capabilities;
            int rank = 0;
            if (capabilities != null) {
                rank += capabilities.hasCapability(NetworkCapabilities.NET_CAPABILITY_VALIDATED) ? 2 : 0;
                rank += capabilities.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED) ? 1 : 0;
            }
            if (rank >= bestRank) {
                best = entry.getKey();
                bestRank = rank;
            }
        }
        return best;
    }

    /** Asks the DNS servers of the {@link #underlying()} network, as those of a VPN are inside of it. */
    @Override
    public InetAddress[] resolve(String host) throws IOException {
        Network network = underlying();
        if (network == null) {
            throw new UnknownHostException("there is no network");
        }
        return network.getAllByName(host);
    }

    /** Ends it. A second call is a no-op. */
    @Override
    public void close() {
        synchronized (this) {
            if (closed) {
                return;
            }
            closed = true;
        }
        manager.unregisterNetworkCallback(callback);
    }
}
