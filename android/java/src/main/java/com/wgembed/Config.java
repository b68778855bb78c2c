package com.wgembed;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.charset.Charset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/**
 * A configuration: the contents of a {@code .conf} file of wg-quick(8) or of the WireGuard apps, parsed and checked by
 * the library. Lists are never null. It contains keys, which {@link #destroy()} wipes.
 */
public final class Config {
    static final Charset UTF_8 = Charset.forName("UTF-8");

    /** The maximum length of a file for {@link #parse(InputStream)}, in bytes: that of the library. */
    private static final int MAX_LENGTH = 64 * 1024 * 1024;

    /** The prefix of IPv4-mapped IPv6 addresses. */
    private static final byte[] MAPPED = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1};

    /** Addresses with a prefix length: {@code 10.0.0.2/24}. */
    public static final class Prefix {
        private final InetAddress address;
        private final int length;

        private Prefix(InetAddress address, int length) {
            this.address = address;
            this.length = length;
        }

        /** Parses a text of the library. Never queries DNS. */
        static Prefix parse(String text) throws WgException {
            int slash = text.indexOf('/');
            if (slash < 0) {
                throw new WgException(WgException.Code.PROTOCOL, "a prefix without a length");
            }
            return new Prefix(numeric(text.substring(0, slash)), Integer.parseInt(text.substring(slash + 1)));
        }

        /**
         * Returns the address, including the bits behind the prefix length.
         *
         * @return IPv4 or IPv6
         */
        public InetAddress address() {
            return address;
        }

        /**
         * Returns the prefix length.
         *
         * @return 0 to 32 for IPv4, 0 to 128 for IPv6
         */
        public int length() {
            return length;
        }

        /** Returns the first address: all bits behind the prefix length are zero. */
        InetAddress first() throws WgException {
            byte[] bytes = address.getAddress();
            for (int bit = length; bit < 8 * bytes.length; bit++) {
                bytes[bit / 8] &= (byte) ~(0x80 >> bit % 8);
            }
            return Config.address(bytes);
        }

        /** Returns whether all addresses are IPv4-mapped IPv6 addresses, which no IPv6 packet should have. */
        boolean isMapped() {
            byte[] bytes = address.getAddress();
            return length >= 96 && bytes.length == 16 && Arrays.equals(Arrays.copyOf(bytes, MAPPED.length), MAPPED);
        }

        @Override
        public String toString() {
            return address.getHostAddress() + "/" + length;
        }
    }

    /** A peer. */
    public static final class Peer {
        private Key publicKey;
        private Key presharedKey;
        private String endpoint;
        private int persistentKeepalive;
        private final List<Prefix> allowedIps = new ArrayList<>();

        private Peer() {}

        /**
         * Returns the public key.
         *
         * @return never null
         */
        public Key publicKey() {
            return publicKey;
        }

        /**
         * Returns the preshared key.
         *
         * @return null without one
         */
        public Key presharedKey() {
            return presharedKey;
        }

        /**
         * Returns the endpoint.
         *
         * @return an address or a host name, with a port; null without one
         */
        public String endpoint() {
            return endpoint;
        }

        /**
         * Returns the seconds between persistent keepalives.
         *
         * @return 0 if off
         */
        public int persistentKeepalive() {
            return persistentKeepalive;
        }

        /**
         * Returns the prefixes that the peer may send from, and that packets to it are selected by.
         *
         * @return unmodifiable
         */
        public List<Prefix> allowedIps() {
            return Collections.unmodifiableList(allowedIps);
        }
    }

    private final byte[] conf;
    private final List<Prefix> addresses = new ArrayList<>();
    private final List<InetAddress> dns = new ArrayList<>();
    private final List<String> searchDomains = new ArrayList<>();
    private final List<String> includedApplications = new ArrayList<>();
    private final List<String> excludedApplications = new ArrayList<>();
    private final List<Peer> peers = new ArrayList<>();
    private Key privateKey;
    private int listenPort;
    private int mtu;
    private boolean routes = true;
    private boolean destroyed;

    private Config(byte[] conf) throws WgException {
        byte[][] lines = new byte[2][];
        this.conf = conf;
        boolean whole = false;
        try {
            WgException.check(Native.parse(conf, lines));
            for (Lines uapi = new Lines(lines[0]); uapi.next(); ) {
                readTunnel(uapi);
            }
            for (Lines settings = new Lines(lines[1]); settings.next(); ) {
                readSetting(settings.key(), settings.value());
            }
            whole = true;
        } finally {
            for (byte[] text : lines) {
                if (text != null) {
                    Arrays.fill(text, (byte) 0);
                }
            }
            if (!whole) {
                destroy();
            }
        }
    }

    /**
     * Parses a file.
     *
     * @param conf the text of the file
     * @return the configuration
     * @throws WgException with {@link WgException.Code#INVALID}, and the line and key of the error
     */
    public static Config parse(String conf) throws WgException {
        return new Config(conf.getBytes(UTF_8));
    }

    /**
     * Parses a file.
     *
     * @param conf the bytes of the file: UTF-8 or UTF-16, with or without a byte order mark; copied
     * @return the configuration
     * @throws WgException with {@link WgException.Code#INVALID}, and the line and key of the error
     */
    public static Config parse(byte[] conf) throws WgException {
        return new Config(conf.clone());
    }

    /**
     * Reads a stream to its end, and parses it.
     *
     * @param conf the stream, which stays open
     * @return the configuration
     * @throws IOException if reading fails
     * @throws WgException with {@link WgException.Code#INVALID}, and the line and key of the error, or {@link
     * WgException.Code#TOO_LARGE} beyond 64 MiB
     */
    public static Config parse(InputStream conf) throws IOException {
        SecretBuffer all = new SecretBuffer();
        byte[] part = new byte[8192];
        try {
            for (int n = conf.read(part); n >= 0; n = conf.read(part)) {
                all.write(part, 0, n);
                if (all.size() > MAX_LENGTH) {
                    throw new WgException(WgException.Code.TOO_LARGE, "a configuration of more than 64 MiB");
                }
            }
            return new Config(all.toByteArray());
        } finally {
            Arrays.fill(part, (byte) 0);
            all.wipe();
        }
    }

    private void readTunnel(Lines line) throws WgException {
        Peer peer = peers.isEmpty() ? null : peers.get(peers.size() - 1);
        switch (line.key()) {
            case "private_key":
                privateKey = line.secret();
                break;
            case "listen_port":
                listenPort = Integer.parseInt(line.value());
                break;
            case "public_key":
                Peer next = new Peer();
                next.publicKey = line.secret();
                peers.add(next);
                break;
            case "preshared_key":
                if (peer != null) {
                    peer.presharedKey = line.secret();
                }
                break;
            case "endpoint":
                if (peer != null) {
                    peer.endpoint = line.value();
                }
                break;
            case "persistent_keepalive_interval":
                if (peer != null) {
                    peer.persistentKeepalive = Integer.parseInt(line.value());
                }
                break;
            case "allowed_ip":
                if (peer != null) {
                    peer.allowedIps.add(Prefix.parse(line.value()));
                }
                break;
            default: // What only the library needs.
        }
    }

    private void readSetting(String key, String value) throws WgException {
        switch (key) {
            case "address":
                addresses.add(Prefix.parse(value));
                break;
            case "dns":
                dns.add(numeric(value));
                break;
            case "search":
                searchDomains.add(value);
                break;
            case "mtu":
                mtu = Integer.parseInt(value);
                break;
            case "table":
                routes = !value.equals("off");
                break;
            case "included_application":
                includedApplications.add(value);
                break;
            case "excluded_application":
                excludedApplications.add(value);
                break;
            default: // Commands, which Android has not.
        }
    }

    /** Parses an address in a text of the library. It is never a name, so DNS is not queried. */
    private static InetAddress numeric(String text) throws WgException {
        try {
            InetAddress address = InetAddress.getByName(text);
            byte[] bytes = address.getAddress();
            if (bytes.length == 16 || text.indexOf(':') < 0) {
                return address;
            }
            // Java converts IPv4-mapped addresses to IPv4, which does not match the length.
            byte[] mapped = Arrays.copyOf(MAPPED, 16);
            System.arraycopy(bytes, 0, mapped, MAPPED.length, bytes.length);
            return address(mapped);
        } catch (IOException wrong) {
            throw WgException.of(wrong);
        }
    }

    /** Returns an address of the family with this number of bytes. */
    private static InetAddress address(byte[] bytes) throws WgException {
        try {
            return bytes.length == 16 ? Inet6Address.getByAddress(null, bytes, -1) : InetAddress.getByAddress(bytes);
        } catch (IOException impossible) {
            throw WgException.of(impossible);
        }
    }

    /**
     * Returns the private key.
     *
     * @return null without one
     */
    public Key privateKey() {
        return privateKey;
    }

    /**
     * Returns the UDP port.
     *
     * @return 0 for one that the system chooses
     */
    public int listenPort() {
        return listenPort;
    }

    /**
     * Returns the addresses of the interface.
     *
     * @return unmodifiable
     */
    public List<Prefix> addresses() {
        return Collections.unmodifiableList(addresses);
    }

    /**
     * Returns the DNS servers.
     *
     * @return unmodifiable
     */
    public List<InetAddress> dns() {
        return Collections.unmodifiableList(dns);
    }

    /**
     * Returns the DNS search domains.
     *
     * @return unmodifiable
     */
    public List<String> searchDomains() {
        return Collections.unmodifiableList(searchDomains);
    }

    /**
     * Returns the MTU.
     *
     * @return that of the file, otherwise 1280, which every path supports
     */
    public int mtu() {
        return mtu == 0 ? 1280 : mtu;
    }

    /**
     * Returns whether peers' allowed IPs become routes.
     *
     * @return false with {@code Table = off}
     */
    public boolean hasRoutes() {
        return routes;
    }

    /**
     * Returns the packages of the applications that use the tunnel.
     *
     * @return unmodifiable; empty if all may use it
     */
    public List<String> includedApplications() {
        return Collections.unmodifiableList(includedApplications);
    }

    /**
     * Returns the packages of the applications that do not use the tunnel.
     *
     * @return unmodifiable
     */
    public List<String> excludedApplications() {
        return Collections.unmodifiableList(excludedApplications);
    }

    /**
     * Returns the peers.
     *
     * @return unmodifiable
     */
    public List<Peer> peers() {
        return Collections.unmodifiableList(peers);
    }

    /**
     * Formats the configuration as a file for wg-quick(8) and the WireGuard apps, including keys.
     *
     * @return text without comments
     * @throws WgException if there is not enough memory
     */
    public String toWgQuickString() throws WgException {
        byte[][] text = new byte[1][];
        WgException.check(Native.text(bytes(), text));
        String string = new String(text[0], UTF_8);
        Arrays.fill(text[0], (byte) 0);
        return string;
    }

    /** Returns the file. */
    synchronized byte[] bytes() {
        if (destroyed) {
            throw new IllegalStateException("the configuration was destroyed");
        }
        return conf;
    }

    /** Wipes the keys. A running tunnel continues, but cannot be updated from this configuration any more. */
    public synchronized void destroy() {
        destroyed = true;
        Arrays.fill(conf, (byte) 0);
        if (privateKey != null) {
            privateKey.destroy();
        }
        for (Peer peer : peers) {
            if (peer.presharedKey != null) {
                peer.presharedKey.destroy();
            }
        }
    }

    /** Returns a text without any of the contents. */
    @Override
    public String toString() {
        return "Config(" + peers.size() + " peers)";
    }

    /** Lines of the form {@code key=value}. */
    private static final class Lines {
        private final byte[] text;
        private int begin;
        private int equals;
        private int end = -1;

        Lines(byte[] text) {
            this.text = text;
        }

        boolean next() {
            begin = end + 1;
            if (begin >= text.length) {
                return false;
            }
            end = begin;
            equals = -1;
            for (; end < text.length && text[end] != '\n'; end++) {
                if (equals < 0 && text[end] == '=') {
                    equals = end;
                }
            }
            if (equals < 0) {
                equals = end;
            }
            return true;
        }

        String key() {
            return new String(text, begin, equals - begin, UTF_8);
        }

        String value() {
            int from = Math.min(equals + 1, end);
            return new String(text, from, end - from, UTF_8);
        }

        /** Appends a key in hex, without a String that would stay in memory. */
        Key secret() throws WgException {
            byte[] key = new byte[Key.LENGTH];
            if (end - equals - 1 != 2 * key.length) {
                throw new WgException(WgException.Code.PROTOCOL, "a key of another length");
            }
            for (int i = 0; i < key.length; i++) {
                int digit = equals + 1 + 2 * i;
                key[i] = (byte) (Character.digit(text[digit], 16) << 4 | Character.digit(text[digit + 1], 16));
            }
            Key secret = Key.of(key);
            Arrays.fill(key, (byte) 0);
            return secret;
        }
    }

    /** Bytes that are wiped when the buffer grows, and at the end. */
    private static final class SecretBuffer extends ByteArrayOutputStream {
        @Override
        public synchronized void write(byte[] bytes, int from, int length) {
            if (count + length > buf.length) {
                byte[] larger = Arrays.copyOf(buf, Math.max(2 * buf.length, count + length));
                wipe();
                buf = larger;
            }
            System.arraycopy(bytes, from, buf, count, length);
            count += length;
        }

        synchronized void wipe() {
            Arrays.fill(buf, (byte) 0);
        }
    }

    /** Builds a configuration without a file. {@link #build()} checks all values. */
    public static final class Builder {
        private final StringBuilder head = new StringBuilder("[Interface]\n");
        private final StringBuilder tail = new StringBuilder();

        /**
         * Creates a builder for an interface.
         *
         * @param privateKey the private key
         */
        public Builder(Key privateKey) {
            line(head, "PrivateKey", privateKey.toBase64());
        }

        /**
         * Adds an address of the interface.
         *
         * @param prefix {@code 10.0.0.2/32}
         * @return this
         */
        public Builder address(String prefix) {
            return line(head, "Address", prefix);
        }

        /**
         * Adds a DNS server, or a search domain.
         *
         * @param server an address, or a name for a search domain
         * @return this
         */
        public Builder dns(String server) {
            return line(head, "DNS", server);
        }

        /**
         * Sets the MTU.
         *
         * @param mtu the MTU; 1280 by default
         * @return this
         */
        public Builder mtu(int mtu) {
            return line(head, "MTU", Integer.toString(mtu));
        }

        /**
         * Sets the UDP port.
         *
         * @param port the port; the system chooses one by default
         * @return this
         */
        public Builder listenPort(int port) {
            return line(head, "ListenPort", Integer.toString(port));
        }

        /**
         * Adds an application to those that use the tunnel; without any, all do.
         *
         * @param name the name of its package
         * @return this
         */
        public Builder includeApplication(String name) {
            return line(head, "IncludedApplications", name);
        }

        /**
         * Adds an application to those that do not use the tunnel.
         *
         * @param name the name of its package
         * @return this
         */
        public Builder excludeApplication(String name) {
            return line(head, "ExcludedApplications", name);
        }

        /**
         * Adds a peer. The following calls of methods "of the last peer" apply to it.
         *
         * @param publicKey its public key
         * @return this
         */
        public Builder peer(Key publicKey) {
            tail.append("[Peer]\n");
            return line(tail, "PublicKey", publicKey.toBase64());
        }

        /**
         * Sets the endpoint of the last peer.
         *
         * @param endpoint {@code vpn.example.com:51820}
         * @return this
         */
        public Builder endpoint(String endpoint) {
            return ofPeer("Endpoint", endpoint);
        }

        /**
         * Adds allowed IPs of the last peer.
         *
         * @param prefix {@code 0.0.0.0/0}
         * @return this
         */
        public Builder allowedIp(String prefix) {
            return ofPeer("AllowedIPs", prefix);
        }

        /**
         * Sets the preshared key of the last peer.
         *
         * @param key the key
         * @return this
         */
        public Builder presharedKey(Key key) {
            return ofPeer("PresharedKey", key.toBase64());
        }

        /**
         * Sets the interval of persistent keepalives of the last peer.
         *
         * @param seconds the interval; off by default
         * @return this
         */
        public Builder persistentKeepalive(int seconds) {
            return ofPeer("PersistentKeepalive", Integer.toString(seconds));
        }

        private Builder ofPeer(String key, String value) {
            if (tail.length() == 0) {
                throw new IllegalStateException("there is no peer yet");
            }
            return line(tail, key, value);
        }

        /** Checks that a value is one line without a comment, as it could otherwise be more than one setting. */
        private Builder line(StringBuilder text, String key, String value) {
            for (int i = 0; i < value.length(); i++) {
                if (value.charAt(i) < ' ' || value.charAt(i) == '#' || value.charAt(i) == 0x7f) {
                    throw new IllegalArgumentException(key + " has a character that no such value has");
                }
            }
            text.append(key).append(" = ").append(value).append('\n');
            return this;
        }

        /**
         * Builds the configuration.
         *
         * @return the configuration, checked by the library
         * @throws WgException with {@link WgException.Code#INVALID} if a value is invalid
         */
        public Config build() throws WgException {
            return parse(head.toString() + tail);
        }
    }
}
