package org.example.vpn;

import android.app.Notification;
import android.app.NotificationChannel;
import android.app.NotificationManager;
import android.content.Intent;
import android.content.pm.ServiceInfo;
import android.os.Build;
import android.util.Log;
import com.wgembed.Config;
import com.wgembed.Key;
import com.wgembed.TunnelListener;
import com.wgembed.WgException;
import com.wgembed.WgVpnService;
import java.io.FileInputStream;
import java.io.InputStream;

/** The whole VPN: the file tunnel.conf of the app's own folder. */
public final class TunnelService extends WgVpnService {
    private static final String TAG = "Sample";
    private static final String CHANNEL = "tunnel";

    @Override
    protected Config configure(Intent intent, boolean bySystem) throws Exception {
        try (InputStream file = new FileInputStream(new java.io.File(getFilesDir(), "tunnel.conf"))) {
            return Config.parse(file);
        }
    }

    @Override
    protected void onStarting(Intent intent) {
        Notification.Builder builder;
        if (Build.VERSION.SDK_INT >= 26) {
            NotificationManager manager = getSystemService(NotificationManager.class);
            manager.createNotificationChannel(
                    new NotificationChannel(CHANNEL, "Tunnel", NotificationManager.IMPORTANCE_LOW));
            builder = new Notification.Builder(this, CHANNEL);
        } else {
            builder = new Notification.Builder(this);
        }
        Notification notification = builder.setSmallIcon(android.R.drawable.ic_lock_lock).build();
        if (Build.VERSION.SDK_INT >= 34) {
            startForeground(1, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_SYSTEM_EXEMPTED);
        } else {
            startForeground(1, notification);
        }
    }

    @Override
    protected TunnelListener listener() {
        return new TunnelListener() {
            @Override
            public void handshakeCompleted(Key peer) {
                Log.i(TAG, "connected to " + peer.toBase64());
            }

            @Override
            public void handshakeFailed(Key peer) {
                Log.w(TAG, "no answer from " + peer.toBase64());
            }
        };
    }

    @Override
    protected void onFailed(WgException why) {
        Log.e(TAG, why.code() + ": " + why.getMessage());
    }
}
