package com.wireguard.android.backend;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;

/**
 * An app, as far as the library is concerned: turns tunnels on and off through {@link GoBackend}, in the network that
 * check.sh has made.
 *
 * <p>Arguments: "behaviour" or "cycles"; the TUN device, which has its address already; the address of the peer inside
 * the tunnel; a file with the settings; the library's version.
 */
final class Driver {
    private static String device;
    private static String peer;
    private static String settings;

    public static void main(String[] arguments) throws Exception {
        device = arguments[1];
        peer = arguments[2];
        settings = Files.readString(Path.of(arguments[3]));
        check(GoBackend.wgVersion().equals(arguments[4]), "the version is " + arguments[4]);
        if (arguments[0].equals("cycles")) {
            cycles();
        } else {
            unknownHandles();
            traffic();
            handles();
            failures();
            nulls();
            unknownHandles();
        }
        System.out.println(arguments[0] + ": " + checks + " checks");
    }

    /** Turns the device's tunnel on, sends packets to the peer, and looks at everything that can be asked. */
    private static void traffic() throws Exception {
        int fd = Native.openTun(device);
        int handle = GoBackend.wgTurnOn(device, fd, settings);
        check(handle == 0, "the first handle is 0");
        Process ping = new ProcessBuilder("ping", "-q", "-c", "5", "-i", "0.2", "-W", "5", peer).inheritIO().start();
        check(ping.waitFor() == 0, "the peer answers through the tunnel");

        String config = GoBackend.wgGetConfig(handle);
        // What is not there from the beginning comes behind what was set: only the order of keys and peers differs.
        for (String line : settings.split("\n")) {
            check(line.equals("replace_peers=true") || (config + "\n").contains(line + "\n"), "the configuration has " + key(line));
        }
        check(config.endsWith("\n") && !config.contains("errno="), "the configuration is lines, and nothing but");
        check(number(config, "rx_bytes") > 5 * 84 && number(config, "tx_bytes") > 5 * 84, "bytes are counted");
        check(number(config, "last_handshake_time_sec") > System.currentTimeMillis() / 1000 - 60, "the handshake has its time");

        int port = (int) number(config, "listen_port");
        checkSocket(GoBackend.wgGetSocketV4(handle), "/proc/net/udp", port);
        checkSocket(GoBackend.wgGetSocketV6(handle), "/proc/net/udp6", port);

        GoBackend.wgTurnOff(handle);
        check(GoBackend.wgGetConfig(handle) == null, "a tunnel that is off has no configuration");
        check(GoBackend.wgGetSocketV4(handle) == -1, "a tunnel that is off has no sockets");
        check(wgThreads() == 0, "a tunnel that is off has no threads");
        GoBackend.wgTurnOff(handle);
    }

    private static void handles() throws Exception {
        int[] handles = new int[3];
        for (int i = 0; i < 3; i++) {
            handles[i] = GoBackend.wgTurnOn(name(i), Native.openTun(name(i)), "");
            check(handles[i] == i, "handle " + i + " is the lowest that is free");
        }
        GoBackend.wgTurnOff(1);
        check(!exists(name(1)), "an interface goes with its tunnel");
        check(exists(name(0)) && exists(name(2)), "other interfaces stay");
        check(GoBackend.wgTurnOn(name(1), Native.openTun(name(1)), "") == 1, "a handle is given again");
        for (int handle : handles) {
            GoBackend.wgTurnOff(handle);
        }
    }

    /** Whatever is wrong, the descriptor is closed, and so is nothing else. */
    private static void failures() throws Exception {
        String[] bad = {"foo=1\n", "no line", "private_key=00\n", "listen_port=70000\n", settings + "foo=1\n",
                "fwmark=0\n\0fwmark=1\n", "fwmark=\ud83d\ude00\n", "fwmark=\ud83d\n"};
        int fds = fds();
        for (String text : bad) {
            int fd = Native.openTun(name(0));
            check(GoBackend.wgTurnOn(name(0), fd, text) == -1, "bad settings are refused: " + text);
            check(!exists(name(0)), "the descriptor was closed");
            checkClosedOnce(fd);
            check(fds() == fds && wgThreads() == 0, "nothing is left");
        }
        check(GoBackend.wgTurnOn(name(0), -1, "") == -1, "-1 is no descriptor");
        check(GoBackend.wgTurnOn(name(0), 1 << 20, "") == -1, "what is not open is no descriptor");
        int file = Native.open();
        check(GoBackend.wgTurnOn(name(0), file, "") == -1, "/dev/null is no TUN");
        checkClosedOnce(file);
        check(fds() == fds && wgThreads() == 0, "nothing is left");
    }

    private static void nulls() throws Exception {
        String[][] texts = {{null, ""}, {name(0), null}, {null, null}};
        for (String[] text : texts) {
            int fd = Native.openTun(name(0));
            check(GoBackend.wgTurnOn(text[0], fd, text[1]) == -1, "null is refused");
            check(!exists(name(0)), "the descriptor was closed");
            checkClosedOnce(fd);
        }
    }

    private static void unknownHandles() {
        for (int handle : new int[] {0, 1, -1, 4711, Integer.MIN_VALUE, Integer.MAX_VALUE}) {
            check(GoBackend.wgGetConfig(handle) == null, "an unknown handle has no configuration");
            check(GoBackend.wgGetSocketV4(handle) == -1, "an unknown handle has no IPv4 socket");
            check(GoBackend.wgGetSocketV6(handle) == -1, "an unknown handle has no IPv6 socket");
            GoBackend.wgTurnOff(handle);
        }
    }

    /** A thousand times on and off; with the peer's answer each tenth time. */
    private static void cycles() throws Exception {
        final int all = 1000, warm = 300, part = 50;
        int fds = 0, tasks = 0;
        long rss = 0, began = System.nanoTime();
        List<Long> heap = new ArrayList<>();
        String silent = settings.replaceAll("persistent_keepalive_interval=\\d+\n", "");
        for (int i = 0; i < all; i++) {
            if (i == warm) {
                System.gc();
                fds = fds();
                tasks = tasks();
                rss = rss();
            }
            if (i >= warm && i % part == 0) {
                System.gc();
                heap.add(Native.heap());
            }
            boolean shake = i % 10 == 0;
            if (shake) {
                // A peer takes one initiation in 20 ms.
                Thread.sleep(50);
            }
            int handle = GoBackend.wgTurnOn(device, Native.openTun(device), shake ? settings : silent);
            check(handle == 0, null);
            check(GoBackend.wgGetSocketV4(handle) >= 0, null);
            long asked = System.nanoTime();
            while (shake && number(GoBackend.wgGetConfig(handle), "last_handshake_time_sec") == 0) {
                // One that is lost after all is repeated after 5 s.
                check(System.nanoTime() - asked < 300_000_000_000L, "a handshake in cycle " + i);
                Thread.sleep(2);
            }
            check(GoBackend.wgTurnOn(name(1), Native.openTun(name(1)), "no line") == -1, null);
            GoBackend.wgTurnOff(handle);
            check(wgThreads() == 0, null);
        }
        System.gc();
        heap.add(Native.heap());
        // The virtual machine takes and frees some at times, in a few of the parts. What is forgotten in each cycle is
        // in each part, and so in the middle of them.
        long[] grown = IntStream.range(1, heap.size()).mapToLong(i -> heap.get(i) - heap.get(i - 1)).sorted().toArray();
        long usual = grown[grown.length / 2];
        rss = rss() - rss;
        fds = fds() - fds;
        tasks = tasks() - tasks;
        System.out.printf("%d cycles, %d with a handshake, in %d ms; what the last %d have left: %d descriptors,"
                + " %d threads, %d KiB resident; each %d of them %s allocated bytes%n", all, all / 10,
                (System.nanoTime() - began) / 1000000, all - warm, fds, tasks, rss, part, Arrays.toString(grown));
        check(fds == 0, "no descriptor is left");
        check(tasks == 0, "no thread is left");
        // The smallest block of glibc takes 32 bytes.
        check(usual < 24 * part, "no memory is left");
        check(rss < 1024, "the process has not grown");
    }

    /** The number of a descriptor that the library has closed is another's soon. A second close would hit that one. */
    private static void checkClosedOnce(int fd) throws Exception {
        int next = Native.open();
        check(next == fd, "the number is free");
        Thread.sleep(20);
        check(Files.readSymbolicLink(Path.of("/proc/self/fd/" + fd)).toString().equals("/dev/null"), "it was closed only once");
        Native.close(next);
    }

    /** The descriptor is a socket, and the system lists it under this port. */
    private static void checkSocket(int fd, String table, int port) throws IOException {
        String target = Files.readSymbolicLink(Path.of("/proc/self/fd/" + fd)).toString();
        Matcher inode = Pattern.compile("socket:\\[(\\d+)]").matcher(target);
        check(inode.matches(), "the descriptor is a socket");
        String address = String.format(":%04X ", port);
        boolean listed = Files.readAllLines(Path.of(table)).stream()
                .anyMatch(line -> line.contains(address) && line.contains(" " + inode.group(1) + " "));
        check(listed, "the socket is in " + table + " with the port of the configuration");
    }

    private static String name(int i) {
        return device + "-" + i;
    }

    private static boolean exists(String name) throws IOException {
        return Files.readString(Path.of("/proc/net/dev")).contains(name + ":");
    }

    private static String key(String line) {
        return line.split("=")[0];
    }

    private static long number(String config, String key) {
        Matcher value = Pattern.compile("^" + key + "=(\\d+)$", Pattern.MULTILINE).matcher(config);
        check(value.find(), null);
        return Long.parseLong(value.group(1));
    }

    private static int fds() {
        return new File("/proc/self/fd").list().length;
    }

    private static int tasks() {
        return new File("/proc/self/task").list().length;
    }

    /** Threads of the library: one that was joined may be listed for a moment longer. */
    private static int wgThreads() throws Exception {
        int count = -1;
        for (int tries = 0; count != 0 && tries < 10_000; tries++) {
            count = 0;
            for (File task : new File("/proc/self/task").listFiles()) {
                try {
                    count += Files.readString(task.toPath().resolve("comm")).startsWith("wg-") ? 1 : 0;
                } catch (IOException gone) {
                    // It ended just now.
                }
            }
            Thread.sleep(count == 0 ? 0 : 1);
        }
        return count;
    }

    /** KiB of memory that the process has. */
    private static long rss() throws IOException {
        List<String> lines = Files.readAllLines(Path.of("/proc/self/status"));
        String line = lines.stream().filter(l -> l.startsWith("VmRSS:")).findFirst().orElseThrow();
        return Long.parseLong(line.replaceAll("\\D", ""));
    }

    private static int checks;

    /** Something that must be so. */
    private static void check(boolean so, String what) {
        checks++;
        if (!so) {
            new Exception("not so: " + what).printStackTrace();
            System.exit(1);
        }
    }
}
