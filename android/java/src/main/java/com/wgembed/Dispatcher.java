package com.wgembed;

import java.util.ArrayDeque;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * Tasks on their way from the library's threads to an app's executor: in order, one at a time, and never so many that
 * a slow executor costs memory. Nothing here waits.
 */
final class Dispatcher {
    /** The most tasks that wait. */
    static final int CAPACITY = 256;

    /** The most that run in one go, so that an executor with other tasks gets to them. */
    private static final int RUN = 32;

    private final Executor executor;
    private final ArrayDeque<Runnable> waiting = new ArrayDeque<>();
    private boolean scheduled;
    private long dropped;

    Dispatcher(Executor executor) {
        if (executor == null) {
            throw new NullPointerException("executor");
        }
        this.executor = executor;
    }

    /** Runs a task, unless too many wait. */
    void post(Runnable task) {
        add(task, CAPACITY);
    }

    /** Runs a task that comes once in a tunnel's life, however many wait. */
    void postLast(Runnable task) {
        add(task, CAPACITY + 1);
    }

    /** How many tasks were dropped. */
    synchronized long dropped() {
        return dropped;
    }

    private void add(Runnable task, int capacity) {
        synchronized (this) {
            if (waiting.size() >= capacity) {
                dropped++;
                return;
            }
            waiting.add(task);
            if (scheduled) {
                return;
            }
            scheduled = true;
        }
        schedule();
    }

    private void schedule() {
        final AtomicBoolean begun = new AtomicBoolean();
        try {
            executor.execute(new Runnable() {
                @Override
                public void run() {
                    if (begun.compareAndSet(false, true)) {
                        drain();
                    }
                }
            });
        } catch (RuntimeException thrown) {
            if (!begun.compareAndSet(false, true)) {
                throw thrown; // By a task, on this thread.
            }
            synchronized (this) {
                dropped += waiting.size();
                waiting.clear();
                scheduled = false;
            }
            if (!(thrown instanceof RejectedExecutionException)) {
                throw thrown;
            }
        }
    }

    private void drain() {
        try {
            for (int i = 0; i < RUN; i++) {
                Runnable task;
                synchronized (this) {
                    task = waiting.poll();
                }
                if (task == null) {
                    break;
                }
                task.run();
            }
        } finally {
            // Also behind an exception of the app, which its executor gets.
            boolean more;
            synchronized (this) {
                more = !waiting.isEmpty();
                scheduled = more;
            }
            if (more) {
                schedule();
            }
        }
    }
}
