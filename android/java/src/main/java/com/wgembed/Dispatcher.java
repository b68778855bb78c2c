package com.wgembed;

import java.util.ArrayDeque;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * Passes tasks from the library's threads to an app's executor: in order, one at a time, and limited in number, so that
 * a slow executor does not use up memory. Nothing here waits.
 */
final class Dispatcher {
    /** The maximum number of waiting tasks. */
    static final int CAPACITY = 256;

    /** The maximum number of tasks in one run, so that other tasks of the executor get their turn. */
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

    /** Runs a task, unless too many are waiting. */
    void post(Runnable task) {
        add(task, CAPACITY);
    }

    /** Runs a task that occurs once in a tunnel's life, regardless of the number of waiting ones. */
    void postLast(Runnable task) {
        add(task, CAPACITY + 1);
    }

    /** Returns the number of dropped tasks. */
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
            // Also after an exception of the app, which its executor gets.
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
