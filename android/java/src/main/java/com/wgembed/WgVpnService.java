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
 * A VPN service that needs no more from an app than {@link #configure}. Starting it starts the tunnel; starting it
 * again asks for a configuration again and changes the running tunnel to it, whose sessions stay. {@link
 * #stopIntent(Context, Class)} stops it, as does the system by revoking it or destroying the service.
 *
 * <p>Of the methods for an app to override, those that begin with "on" are called on the main thread, but for {@link
 * #onBuild}. That and {@link #configure} are called on a thread of the service's own, and may block. The others are
 * called on the one thread on which all tunnels of such services are started and stopped, and should not.
 */
public abstract class WgVpnService extends VpnService {
    /** The action of an intent that stops the service. */
    public static final String ACTION_STOP = "com.wgembed.action.STOP";

    /**
     * One thread for all instances: what one has begun to stop is stopped when the next one starts. It ends when there
     * is nothing to do.
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

    /** A thread of this service alone, as its app may block it. */
    private final Executor configurer = thread("wg-configure");

    /** How many times the service was stopped: a start of before is none. */
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
     * Returns the configuration to run. Called for each start, on a thread of the service's own: a stop does not wait
     * for it, and discards what it returns.
     *
     * @param intent of the start; null if the system starts the service
     * @param bySystem whether the system does, for an always-on VPN or after it has ended the process. From API 29 on
     *     {@link #isAlwaysOn()} and {@link #isLockdownEnabled()} distinguish them
     * @return never null
     * @throws Exception if there is none: {@link #onFailed} gets it, and a running tunnel goes on
     */
    protected abstract Config configure(Intent intent, boolean bySystem) throws Exception;

    /**
     * Changes the interface before it is made: its session name, for example. Called on the thread of {@link
     * #configure}, after all of the configuration was set.
     *
     * @param builder to be changed
     * @param config of {@link #configure}
     * @throws Exception as {@link #configure}
     */
    protected void onBuild(Builder builder, Config config) throws Exception {}

    /**
     * A start was asked for. This is the place for {@code startForeground}; from API 34 on with the type {@code
     * systemExempted}.
     *
     * @param intent as in {@link #configure}
     */
    protected void onStarting(Intent intent) {}

    /**
     * The tunnel runs, or was changed.
     *
     * @param tunnel the service's: it must not be closed
     */
    protected void onStarted(Tunnel tunnel) {}

    /**
     * A start has failed, or a tunnel has ended by itself. If a tunnel was running it still is, unless {@link
     * #tunnel()} is null; then the service stops, unless it was started again since.
     *
     * @param why with {@link WgException.Code#PERMISSION} if the app is not prepared, or a socket was not protected;
     *     with {@link WgException.Code#CLOSED} if a tunnel has ended
     */
    protected void onFailed(WgException why) {}

    /** The tunnel was stopped: by {@link #ACTION_STOP}, by the system, by itself, or as a change has failed. */
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
     * @param underlying asks the DNS servers of the network below the VPN
     * @return that, unless overridden
     */
    protected Tunnel.Resolver resolver(NetworkWatcher underlying) {
        return underlying;
    }

    /**
     * Returns the running tunnel.
     *
     * @return null if there is none
     */
    public final Tunnel tunnel() {
        return tunnel;
    }

    /**
     * Makes an intent that stops a service.
     *
     * @param context any
     * @param service the app's
     * @return for {@code startService}
     */
    public static Intent stopIntent(Context context, Class<? extends WgVpnService> service) {
        return new Intent(context, service).setAction(ACTION_STOP);
    }

    /**
     * Binds the tunnel's sockets to a network, also those of tunnels to come, and reports it as the one below the VPN.
     *
     * @param network null for the default network again
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
                        // The library tries again by itself, and an event reports it.
                    }
                }
            }
        });
    }

    /** A start that was asked for. */
    private final class Start {
        final int id;
        private final int generation = stops.get();

        Start(int id) {
            this.id = id;
        }

        /** Whether the service was stopped since. */
        boolean isStale() {
            return generation != stops.get();
        }
    }

    @Override
    public int onStartCommand(final Intent intent, int flags, int startId) {
        lastStart = startId;
        if (intent != null && ACTION_STOP.equals(intent.getAction())) {
            stop();
            // With the number, a start that is on its way goes on.
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

    /** All that an app may take long for, where stopping does not wait for it. */
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
                // What can fail is done while the old interface is still there, and nothing goes out in the clear.
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

    /** The tunnel goes on with another interface, or there is a new one. */
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

    /** A tunnel has ended by itself. Its interface still takes all traffic, so it is closed. */
    private void ended(Tunnel which, String reason) {
        if (which != null && which == tunnel) {
            takeDown(new WgException(WgException.Code.CLOSED, reason), handled);
        }
    }

    /** Behind establish() there is no way back: the old interface is gone. */
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
                // The library tries again by itself, and an event reports it.
            }
        }
    }

    /** On the worker. Returns whether there was one. */
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

    /** Any thread may call it. No start that was asked for before makes an interface from now on. */
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

    /** The user has given the VPN to another app, or taken it away. */
    @Override
    public void onRevoke() {
        stop();
        // In place of the system's stopSelf(), which would end a start that is on its way.
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
