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
import java.io.InterruptedIOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.FutureTask;
import java.util.concurrent.RejectedExecutionException;

/**
 * Watches the networks below a VPN: those with Internet access that are not VPNs. Reports of the system that change
 * nothing relevant are ignored. Any thread may call any method.
 *
 * <p>The app needs the permission {@code ACCESS_NETWORK_STATE}, which the library's manifest declares.
 */
public final class NetworkWatcher implements Closeable, Tunnel.Resolver {
    /** The known properties of a network. */
    private static final class Known {
        String link;
        NetworkCapabilities capabilities;
    }

    private final ConnectivityManager manager;
    private final Executor executor;
    private final Runnable changed;
    private final Map<Network, Known> networks = new LinkedHashMap<>();
    private final List<FutureTask<InetAddress[]>> lookups = new ArrayList<>();
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
                if (known == null) {
                    return;
                }
                Network before = underlying();
                known.capabilities = capabilities;
                if (before.equals(underlying())) {
                    return;
                }
            }
            schedule(); // Both are up, and the default changes between them.
        }
    };

    private NetworkWatcher(ConnectivityManager manager, Executor executor, Runnable changed) {
        this.manager = manager;
        this.executor = executor;
        this.changed = changed;
    }

    /**
     * Begins watching.
     *
     * @param context any
     * @param executor runs {@code changed}; never the main thread if that calls a tunnel
     * @param changed called when the networks have changed, once for several changes in a row; also soon after the
     * beginning, if there are more networks than the active one
     * @return the watcher, to be closed
     */
    public static NetworkWatcher start(Context context, Executor executor, Runnable changed) {
        ConnectivityManager manager = (ConnectivityManager) context.getSystemService(Context.CONNECTIVITY_SERVICE);
        NetworkWatcher watcher = new NetworkWatcher(manager, executor, changed);
        Network active = manager.getActiveNetwork();
        NetworkCapabilities capabilities = active == null ? null : manager.getNetworkCapabilities(active);
        // While a VPN is up, including that of the app, the active network is the VPN.
        if (capabilities != null && capabilities.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_VPN)) {
            Known known = new Known();
            known.capabilities = capabilities;
            watcher.networks.put(active, known);
        }
        manager.registerNetworkCallback(
                new NetworkRequest.Builder()
                        .addCapability(NetworkCapabilities.NET_CAPABILITY_INTERNET)
                        .addCapability(NetworkCapabilities.NET_CAPABILITY_NOT_VPN)
                        .build(),
                watcher.callback);
        return watcher;
    }

    /** The properties of a network that affect sockets. Lifetimes of addresses, for example, do not. */
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
            // An executor that was shut down rejects tasks, which must not affect the system's thread.
            synchronized (this) {
                scheduled = false;
            }
        }
    }

    /**
     * Returns the network that the VPN's own traffic most likely uses: validated networks are preferred, then those
     * that are not metered, then the latest.
     *
     * @return null without one
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

    /**
     * Queries the DNS servers of the {@link #underlying()} network, because those of a VPN are inside it. {@link
     * #close()} ends waiting calls.
     */
    @Override
    public InetAddress[] resolve(final String host) throws IOException {
        final Network network = underlying();
        if (network == null) {
            throw new UnknownHostException("there is no network");
        }
        // The system's look-up cannot be interrupted, so another thread makes it.
        FutureTask<InetAddress[]> lookup = new FutureTask<>(new Callable<InetAddress[]>() {
            @Override
            public InetAddress[] call() throws IOException {
                return network.getAllByName(host);
            }
        });
        synchronized (this) {
            if (closed) {
                throw new UnknownHostException("networks are no longer watched");
            }
            lookups.add(lookup);
        }
        try {
            Thread thread = new Thread(lookup, "wg-lookup");
            thread.setDaemon(true);
            thread.start();
            return lookup.get();
        } catch (CancellationException ended) {
            throw new UnknownHostException("networks are no longer watched");
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw new InterruptedIOException("interrupted while a name was looked up");
        } catch (ExecutionException failed) {
            if (failed.getCause() instanceof IOException) {
                throw (IOException) failed.getCause();
            }
            throw new IOException(failed.getCause());
        } finally {
            synchronized (this) {
                lookups.remove(lookup);
            }
        }
    }

    /** Ends the watching: look-ups in progress fail at once. A second call is a no-op. */
    @Override
    public void close() {
        List<FutureTask<InetAddress[]>> open;
        synchronized (this) {
            if (closed) {
                return;
            }
            closed = true;
            open = new ArrayList<>(lookups);
        }
        for (FutureTask<InetAddress[]> lookup : open) {
            lookup.cancel(false);
        }
        manager.unregisterNetworkCallback(callback);
    }
}
