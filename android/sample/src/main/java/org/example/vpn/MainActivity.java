package org.example.vpn;

import android.app.Activity;
import android.content.Intent;
import android.net.VpnService;
import android.os.Bundle;
import android.widget.Button;
import android.widget.LinearLayout;
import com.wgembed.WgVpnService;

/** Two buttons. */
public final class MainActivity extends Activity {
    private static final int PREPARE = 1;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        Button on = new Button(this);
        on.setText("On");
        on.setOnClickListener(view -> prepare());
        Button off = new Button(this);
        off.setText("Off");
        off.setOnClickListener(view -> startService(WgVpnService.stopIntent(this, TunnelService.class)));
        LinearLayout layout = new LinearLayout(this);
        layout.addView(on);
        layout.addView(off);
        setContentView(layout);
    }

    /** The user is asked once whether this app may be a VPN. */
    private void prepare() {
        Intent question = VpnService.prepare(this);
        if (question == null) {
            onActivityResult(PREPARE, RESULT_OK, null);
        } else {
            startActivityForResult(question, PREPARE);
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request == PREPARE && result == RESULT_OK) {
            startService(new Intent(this, TunnelService.class));
        }
    }
}
