package com.wgembed;

import android.content.Context;
import android.content.Intent;
import android.net.Network;
import android.net.VpnService;
import android.os.Handler;
import android.os.Looper;
import android.os.ParcelFileDescriptor;
import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * A VPN service that needs no more from an app than {@link #configure}. Starting it starts the tunnel; starting it
 * again asks for a configuration again and changes the running tunnel to it, whose sessions stay. {@link
 * #stopIntent(Context, Class)} stops it, as does the system by revoking it or destroying the service.
 *
 * <p>Of the methods for an app to override, those that begin with "on" are called on the main thread, but for {@link
 * #onBuild}. That and the others are called on the one thread on which all tunnels of such services are started and
 * stopped, and may block.
 */
public abstract class WgVpnService extends VpnService {
    /** The action of an intent that stops the service. */
    public static final String ACTION_STOP = "com.wgembed.action.STOP";

    /**
     * One thread for all instances: what one has begun to stop is stopped when the next one starts. It ends when there
     * is nothing to do.
     */
    private static final ThreadPoolExecutor WORKER = new ThreadPoolExecutor(
            1, 1, 10, TimeUnit.SECONDS, new LinkedBlockingQueue<Runnable>(), new ThreadFactory() {
                @Override
                public Thread newThread(Runnable run) {
                    return new Thread(run, "wg-service");
                }
            });

    static {
        WORKER.allowCoreThreadTimeOut(true);
    }

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
    private boolean destroyed;

    /**
     * Returns the configuration to run. Called for each start, on the worker thread.
     *
     * @param intent of the start; null if the system starts the service
     * @param bySystem whether the system does, for an always-on VPN or after it has ended the process. From API 29 on
     *     {@link #isAlwaysOn()} and {@link #isLockdownEnabled()} distinguish them
     * @return never null
     * @throws Exception if there is none: {@link #onFailed} gets it, and a running tunnel goes on
     */
    protected abstract Config configure(Intent intent, boolean bySystem) throws Exception;

    /**
     * Changes the interface before it is made: its session name, for example. Called on the worker thread, after all of
     * the configuration was set.
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
     * A start has failed. If a tunnel was running it still is, unless {@link #tunnel()} is null; then the service
     * stops.
     *
     * @param why with {@link WgException.Code#PERMISSION} if the app is not prepared, or a socket was not protected
     */
    protected void onFailed(WgException why) {}

    /** The tunnel was stopped: by {@link #ACTION_STOP}, by the system, or because changing it has failed. */
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

    @Override
    public int onStartCommand(final Intent intent, int flags, int startId) {
        if (intent != null && ACTION_STOP.equals(intent.getAction())) {
            stop();
            stopSelf();
            return START_NOT_STICKY;
        }
        final boolean bySystem = intent == null || SERVICE_INTERFACE.equals(intent.getAction());
        onStarting(intent);
        WORKER.execute(new Runnable() {
            @Override
            public void run() {
                start(intent, bySystem);
            }
        });
        return START_STICKY;
    }

    private void start(Intent intent, boolean bySystem) {
        if (destroyed) {
            return;
        }
        ParcelFileDescriptor tun = null;
        try {
            Config config = configure(intent, bySystem);
            if (config == null) {
                throw new WgException(WgException.Code.NULL, "configure() has returned null");
            }
            Builder builder = new Builder();
            WgApplier.apply(config, builder);
            if (bound != null) {
                builder.setUnderlyingNetworks(new Network[] {bound});
            }
            onBuild(builder, config);
            if (watcher == null) {
                watcher = NetworkWatcher.start(this, WORKER, new Runnable() {
                    @Override
                    public void run() {
                        networkChanged();
                    }
                });
            }
            tun = builder.establish();
            if (tun == null) {
                throw new WgException(
                        WgException.Code.PERMISSION, "the app is not allowed to be a VPN: see VpnService.prepare()");
            }
            final Tunnel running = run(config, tun);
            tunnel = running;
            main.execute(new Runnable() {
                @Override
                public void run() {
                    onStarted(running);
                }
            });
        } catch (Exception exception) {
            failed(WgException.of(exception), tun);
        }
    }

    /** Makes before it breaks: the old interface passes nothing since there is the new one, but the tunnel goes on. */
    private Tunnel run(Config config, ParcelFileDescriptor tun) throws WgException {
        Tunnel running = tunnel;
        if (running != null) {
            try {
                running.update(config, tun);
                return running;
            } catch (WgException exception) {
                if (exception.code() != WgException.Code.CLOSED) {
                    throw exception;
                }
            }
        }
        Tunnel next = Tunnel.builder(tun, config)
                .protector(new Tunnel.Protector() {
                    @Override
                    public boolean protect(int fd) {
                        return WgVpnService.this.protect(fd);
                    }
                })
                .resolver(resolver(watcher))
                .listener(listener(), listenerExecutor())
                .network(bound)
                .start();
        if (running != null) {
            running.close();
        }
        return next;
    }

    /** Behind establish() there is no way back: the old interface is gone. */
    private void failed(final WgException why, ParcelFileDescriptor tun) {
        final boolean stop = tun != null || tunnel == null;
        if (stop) {
            closeTunnel();
        }
        if (tun != null) {
            try {
                tun.close();
            } catch (java.io.IOException useless) {
                // It is closed in any case.
            }
        }
        main.execute(new Runnable() {
            @Override
            public void run() {
                onFailed(why);
                if (stop) {
                    stopSelf();
                }
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
        if (running != null) {
            running.close();
        }
        return running != null;
    }

    private void stop() {
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
        super.onRevoke();
    }

    @Override
    public void onDestroy() {
        stop();
        WORKER.execute(new Runnable() {
            @Override
            public void run() {
                destroyed = true;
            }
        });
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
