/**
 * WireGuard for Android apps: {@link com.wgembed.WgVpnService} is a whole VPN service, {@link com.wgembed.WgApplier}
 * and {@link com.wgembed.NetworkWatcher} help one that an app has already, and {@link com.wgembed.Tunnel} needs no more
 * than a descriptor.
 */
package com.wgembed;
