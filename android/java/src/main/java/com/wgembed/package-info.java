/**
 * WireGuard for Android apps: {@link com.wgembed.WgVpnService} is a complete VPN service, {@link com.wgembed.WgApplier}
 * and {@link com.wgembed.NetworkWatcher} are for existing services, and {@link com.wgembed.Tunnel} only needs a
 * descriptor.
 */
package com.wgembed;
