package com.wgembed;

import android.content.pm.PackageManager;
import android.net.VpnService;
import android.os.Build;
import android.system.OsConstants;
import java.net.InetAddress;
import java.util.ArrayList;
import java.util.List;

/** Applies a configuration to a {@link VpnService.Builder}, for apps with their own {@link VpnService}. */
public final class WgApplier {
    private WgApplier() {}

    /**
     * Sets addresses, routes, DNS, search domains, MTU and applications. Routes are the allowed IPs of the peers,
     * unless the configuration has {@code Table = off}; IPv4-mapped IPv6 addresses ({@code ::ffff:0.0.0.0/96}), which
     * Android refuses, are left out. The VPN follows the default network, and from API 29 on it counts as metered only
     * if that network does.
     *
     * <p>Traffic of an address family that the VPN has no address of bypasses it, as in wireguard-android. It is
     * blocked if the configuration has a single peer with a default route: then all traffic uses the tunnel.
     *
     * @param config the configuration to apply
     * @param builder a new builder; the app sets its session name and its configure intent
     * @return the packages of applications that are not installed, which were ignored
     * @throws WgException with {@link WgException.Code#NOT_FOUND} if none of the included applications is installed,
     * because then all applications would use the tunnel; or {@link WgException.Code#INVALID} if Android refuses a
     * value
     */
    public static List<String> apply(Config config, VpnService.Builder builder) throws WgException {
        try {
            for (Config.Prefix address : config.addresses()) {
                builder.addAddress(address.address(), address.length());
            }
            for (InetAddress server : config.dns()) {
                builder.addDnsServer(server);
            }
            for (String domain : config.searchDomains()) {
                builder.addSearchDomain(domain);
            }
            builder.setMtu(config.mtu());
            boolean everything = false;
            for (Config.Peer peer : config.peers()) {
                for (Config.Prefix allowed : peer.allowedIps()) {
                    everything |= allowed.length() == 0;
                    if (config.hasRoutes() && !allowed.isMapped()) {
                        builder.addRoute(allowed.first(), allowed.length());
                    }
                }
            }
            if (!everything || config.peers().size() != 1 || !config.hasRoutes()) {
                builder.allowFamily(OsConstants.AF_INET);
                builder.allowFamily(OsConstants.AF_INET6);
            }
            builder.setUnderlyingNetworks(null);
            if (Build.VERSION.SDK_INT >= 29) {
                notMetered(builder);
            }
            return applications(config, builder);
        } catch (IllegalArgumentException | UnsupportedOperationException refused) {
            throw WgException.of(refused);
        }
    }

    @GuardedApi
    private static void notMetered(VpnService.Builder builder) {
        builder.setMetered(false);
    }

    private static List<String> applications(Config config, VpnService.Builder builder) throws WgException {
        List<String> missing = new ArrayList<>();
        for (String name : config.includedApplications()) {
            try {
                builder.addAllowedApplication(name);
            } catch (PackageManager.NameNotFoundException absent) {
                missing.add(name);
            }
        }
        if (!missing.isEmpty() && missing.size() == config.includedApplications().size()) {
            throw new WgException(WgException.Code.NOT_FOUND, "none of the included applications is installed");
        }
        for (String name : config.excludedApplications()) {
            try {
                builder.addDisallowedApplication(name);
            } catch (PackageManager.NameNotFoundException absent) {
                missing.add(name);
            }
        }
        return missing;
    }
}
