package com.wgembed;

import android.content.Context;
import android.content.Intent;
import android.net.Network;
import android.net.VpnService;
import android.os.Handler;
import android.os.Looper;
import android.os.ParcelFileDescriptor;
import android.util.Log;
import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A VPN service for which an app only has to implement {@link #configure}. Starting it starts the tunnel; starting it
 * again requests the configuration again and applies it to the running tunnel, whose sessions stay. {@link
 * #stopIntent(Context, Class)} stops it, and so does the system when it revokes the VPN or destroys the service.
 *
 * <p>Overridden methods whose names begin with "on" are called on the main thread, except {@link #onBuild}. That one
 * and {@link #configure} are called on a thread of the service, and may block. All others are called on the thread on
 * which all tunnels of such services are started and stopped, and should not block.
 */
public abstract class WgVpnService extends VpnService {
    /** The action of an intent that stops the service. */
    public static final String ACTION_STOP = "com.wgembed.action.STOP";

    /**
     * One thread for all instances, so that a tunnel that one of them is stopping has stopped before the next one
     * starts. It ends when it is idle.
     */
    private static final Executor WORKER = thread("wg-service");

    private static final String TAG = "WgEmbed";

    private static Executor thread(final String name) {
        ThreadPoolExecutor thread = new ThreadPoolExecutor(
                1, 1, 5, TimeUnit.SECONDS, new LinkedBlockingQueue<Runnable>(), new ThreadFactory() {
                    @Override
                    public Thread newThread(Runnable run) {
                        return new Thread(run, name);
                    }
                });
        thread.allowCoreThreadTimeOut(true);
        return thread;
    }

    /** The thread of this service, which its app may block. */
    private final Executor configurer = thread("wg-configure");

    /** The number of stops of the service: earlier starts are void. */
    private final AtomicInteger stops = new AtomicInteger();

    /** The number of the latest start, or -1. */
    private volatile int lastStart = -1;

    private final Executor main = new Executor() {
        private final Handler handler = new Handler(Looper.getMainLooper());

        @Override
        public void execute(Runnable run) {
            handler.post(run);
        }
    };

    private volatile Tunnel tunnel;
    private NetworkWatcher watcher; // Of the worker, as all that follow.
    private Network bound;
    private int handled; // The number of the latest start that has come here.

    /**
     * Returns the configuration to run. Called for each start, on a thread of the service: a stop does not wait for it,
     * and discards its result.
     *
     * @param intent the intent of the start; null if the system starts the service
     * @param bySystem whether the system starts it, for an always-on VPN or after the end of the process. From API 29
     * on, {@link #isAlwaysOn()} and {@link #isLockdownEnabled()} distinguish them
     * @return never null
     * @throws Exception without a configuration: it is passed to {@link #onFailed}, and a running tunnel continues
     */
    protected abstract Config configure(Intent intent, boolean bySystem) throws Exception;

    /**
     * Changes the builder before the interface is established: its session name, for example. Called on the thread of
     * {@link #configure}, after the configuration was applied to the builder.
     *
     * @param builder the builder
     * @param config the result of {@link #configure}
     * @throws Exception as {@link #configure}
     */
    protected void onBuild(Builder builder, Config config) throws Exception {}

    /**
     * Called when a start was requested. Call {@code startForeground} here, from API 34 on with the type {@code
     * systemExempted}.
     *
     * @param intent as in {@link #configure}
     */
    protected void onStarting(Intent intent) {}

    /**
     * Called when the tunnel is running, or was changed.
     *
     * @param tunnel the tunnel, which the service closes
     */
    protected void onStarted(Tunnel tunnel) {}

    /**
     * Called when a start has failed, or a tunnel has ended by itself. If a tunnel was running it still is, unless
     * {@link #tunnel()} is null; then the service stops, unless it was started again in the meantime.
     *
     * @param why with {@link WgException.Code#PERMISSION} if the user has not consented, or a socket was not protected;
     * with {@link WgException.Code#CLOSED} if a tunnel has ended
     */
    protected void onFailed(WgException why) {}

    /**
     * Called when the tunnel was stopped: by {@link #ACTION_STOP}, by the system, by itself, or because a change has
     * failed.
     */
    protected void onStopped() {}

    /**
     * Returns the listener for events, which runs on {@link #listenerExecutor()}.
     *
     * @return null for none
     */
    protected TunnelListener listener() {
        return null;
    }

    /**
     * Returns the executor of the listener.
     *
     * @return the main thread, unless overridden
     */
    protected Executor listenerExecutor() {
        return main;
    }

    /**
     * Returns the resolver for host names.
     *
     * @param underlying the resolver that uses the DNS servers of the network below the VPN
     * @return the resolver to use; by default {@code underlying}
     */
    protected Tunnel.Resolver resolver(NetworkWatcher underlying) {
        return underlying;
    }

    /**
     * Returns the running tunnel.
     *
     * @return null without one
     */
    public final Tunnel tunnel() {
        return tunnel;
    }

    /**
     * Returns an intent that stops a service.
     *
     * @param context any context
     * @param service the class of the app's service
     * @return for {@code startService}
     */
    public static Intent stopIntent(Context context, Class<? extends WgVpnService> service) {
        return new Intent(context, service).setAction(ACTION_STOP);
    }

    /**
     * Binds the tunnel's sockets to a network, including those of later tunnels, and reports it as the underlying
     * network.
     *
     * @param network null for the default network
     */
    public final void bindTo(final Network network) {
        WORKER.execute(new Runnable() {
            @Override
            public void run() {
                bound = network;
                Tunnel running = tunnel;
                if (running != null) {
                    setUnderlyingNetworks(network == null ? null : new Network[] {network});
                    try {
                        running.bind(network);
                    } catch (WgException retried) {
                        // The library retries by itself, and an event reports it.
                    }
                }
            }
        });
    }

    /** A requested start. */
    private final class Start {
        final int id;
        private final int generation = stops.get();

        Start(int id) {
            this.id = id;
        }

        /** Returns whether the service was stopped after the request. */
        boolean isStale() {
            return generation != stops.get();
        }
    }

    @Override
    public int onStartCommand(final Intent intent, int flags, int startId) {
        lastStart = startId;
        if (intent != null && ACTION_STOP.equals(intent.getAction())) {
            stop();
            // With the number, a start in progress continues.
            stopSelf(startId);
            return START_NOT_STICKY;
        }
        final boolean bySystem = intent == null || SERVICE_INTERFACE.equals(intent.getAction());
        onStarting(intent);
        final Start start = new Start(startId);
        configurer.execute(new Runnable() {
            @Override
            public void run() {
                prepare(intent, bySystem, start);
            }
        });
        return START_STICKY;
    }

    /** The work of the app's methods that may block; a stop does not wait for it. */
    private void prepare(Intent intent, boolean bySystem, final Start start) {
        if (start.isStale()) {
            return;
        }
        Runnable next;
        try {
            final Config config = configure(intent, bySystem);
            if (config == null) {
                throw new WgException(WgException.Code.NULL, "configure() has returned null");
            }
            final Builder builder = new Builder();
            WgApplier.apply(config, builder);
            onBuild(builder, config);
            next = new Runnable() {
                @Override
                public void run() {
                    start(config, builder, start);
                }
            };
        } catch (final Exception exception) {
            next = new Runnable() {
                @Override
                public void run() {
                    failed(WgException.of(exception), null, start);
                }
            };
        }
        WORKER.execute(next);
    }

    private void start(Config config, Builder builder, Start start) {
        if (start.isStale()) {
            return;
        }
        handled = start.id;
        Tunnel running = tunnel;
        Config before = null;
        ParcelFileDescriptor tun = null;
        try {
            if (bound != null) {
                builder.setUnderlyingNetworks(new Network[] {bound});
            }
            if (watcher == null) {
                watcher = NetworkWatcher.start(this, WORKER, new Runnable() {
                    @Override
                    public void run() {
                        networkChanged();
                    }
                });
            }
            if (running != null) {
                // Steps that can fail are done while the old interface still exists, and nothing is sent in the clear.
                before = running.config();
                try {
                    running.update(config);
                } catch (WgException exception) {
                    before = null;
                    if (exception.code() != WgException.Code.CLOSED) {
                        throw exception;
                    }
                    running = null;
                }
            }
            if (start.isStale()) {
                return;
            }
            tun = builder.establish();
            if (tun == null) {
                throw new WgException(
                        WgException.Code.PERMISSION, "the app is not allowed to be a VPN: see VpnService.prepare()");
            }
            final Tunnel now = run(running, config, tun);
            main.execute(new Runnable() {
                @Override
                public void run() {
                    onStarted(now);
                }
            });
        } catch (Exception exception) {
            if (before != null && tun == null) {
                undo(running, before);
            }
            failed(WgException.of(exception), tun, start);
        }
    }

    private static void undo(Tunnel running, Config before) {
        try {
            running.update(before);
        } catch (WgException | IllegalStateException exception) {
            Log.w(TAG, "the tunnel keeps the new peers", exception);
        }
    }

    /** Continues the tunnel with another interface, or starts a new one. */
    private Tunnel run(Tunnel running, Config config, ParcelFileDescriptor tun) throws WgException {
        if (running != null) {
            try {
                running.setTun(config, tun);
                return running;
            } catch (WgException exception) {
                if (exception.code() != WgException.Code.CLOSED) {
                    throw exception;
                }
            }
        }
        final Tunnel[] self = new Tunnel[1]; // Of the worker.
        Tunnel next = Tunnel.builder(tun, config)
                .protector(new Tunnel.Protector() {
                    @Override
                    public boolean protect(int fd) {
                        return WgVpnService.this.protect(fd);
                    }
                })
                .resolver(resolver(watcher))
                .listener(listener(), listenerExecutor())
                .ended(new Hooks.Ended() {
                    @Override
                    public void ended(final String reason) {
                        WORKER.execute(new Runnable() {
                            @Override
                            public void run() {
                                WgVpnService.this.ended(self[0], reason);
                            }
                        });
                    }
                })
                .network(bound)
                .start();
        self[0] = next;
        Tunnel old = tunnel;
        tunnel = next;
        close(old);
        return next;
    }

    /** Handles that a tunnel has ended by itself. Its interface still takes all traffic, so it is closed. */
    private void ended(Tunnel which, String reason) {
        if (which != null && which == tunnel) {
            takeDown(new WgException(WgException.Code.CLOSED, reason), handled);
        }
    }

    /** After establish() the old interface cannot be used any more. */
    private void failed(final WgException why, ParcelFileDescriptor tun, Start start) {
        if (tun != null) {
            try {
                tun.close();
            } catch (java.io.IOException useless) {
                // It is closed in any case.
            }
        }
        if (start.isStale()) {
            return; // What has stopped the service has closed the tunnel, or is about to.
        }
        handled = start.id;
        if (tun != null || tunnel == null) {
            takeDown(why, start.id);
            return;
        }
        main.execute(new Runnable() {
            @Override
            public void run() {
                onFailed(why);
            }
        });
    }

    private void takeDown(final WgException why, final int startId) {
        final boolean ran = closeTunnel();
        main.execute(new Runnable() {
            @Override
            public void run() {
                onFailed(why);
                if (ran) {
                    onStopped();
                }
                stopSelf(startId);
            }
        });
    }

    private void networkChanged() {
        Tunnel running = tunnel;
        if (running != null) {
            try {
                running.networkChanged();
            } catch (WgException retried) {
                // The library retries by itself, and an event reports it.
            }
        }
    }

    /** Runs on the worker. Returns whether there was a tunnel. */
    private boolean closeTunnel() {
        if (watcher != null) {
            watcher.close();
            watcher = null;
        }
        Tunnel running = tunnel;
        tunnel = null;
        close(running);
        return running != null;
    }

    private static void close(Tunnel running) {
        if (running != null) {
            try {
                running.close();
            } catch (IllegalStateException exception) {
                Log.e(TAG, "a tunnel is not closed", exception);
            }
        }
    }

    /** May be called on any thread. Earlier requests establish no interface from now on. */
    private void stop() {
        stops.incrementAndGet();
        WORKER.execute(new Runnable() {
            @Override
            public void run() {
                if (closeTunnel()) {
                    main.execute(new Runnable() {
                        @Override
                        public void run() {
                            onStopped();
                        }
                    });
                }
            }
        });
    }

    /** Called when the user has given the VPN to another app, or revoked it. */
    @Override
    public void onRevoke() {
        stop();
        // In place of the system's stopSelf(), which would end a start in progress.
        stopSelf(lastStart);
    }

    @Override
    public void onDestroy() {
        stop();
        super.onDestroy();
    }

    @Override
    public void onTrimMemory(int level) {
        super.onTrimMemory(level);
        WORKER.execute(new Runnable() {
            @Override
            public void run() {
                Tunnel running = tunnel;
                if (running != null) {
                    try {
                        running.trim();
                    } catch (WgException closed) {
                        // A closed tunnel has nothing to free.
                    }
                }
            }
        });
    }
}
