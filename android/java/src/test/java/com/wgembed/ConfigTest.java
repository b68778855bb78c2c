package com.wgembed;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import android.net.VpnService;
import java.io.ByteArrayInputStream;
import java.util.Arrays;
import java.util.Collections;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;

/** Files, keys, and what of a file reaches the phone. */
@RunWith(RobolectricTestRunner.class)
@org.robolectric.annotation.Config(
        manifest = org.robolectric.annotation.Config.NONE,
        sdk = {24, 34},
        shadows = {Phone.ShadowBuilder.class})
public class ConfigTest {
    private static final String PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    private static final String PUBLIC = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
    private static final String FILE = "[Interface]\nPrivateKey = " + PRIVATE
            + "\nAddress = 10.0.0.2/24, fd00::2/64 # mine\nDNS = 10.0.0.1, example.org\nMTU = 1400\n"
            + "ListenPort = 51821\nExcludedApplications = org.one, org.two\n[Peer]\n"
            + "PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n"
            + "PresharedKey = /UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=\nEndpoint = vpn.example.org:51820\n"
            + "AllowedIPs = 10.0.0.0/24, ::/0\nPersistentKeepalive = 25\n";

    /** The Builder of a service. */
    public static class Service extends VpnService {
        VpnService.Builder builder() {
            return new Builder();
        }
    }

    @Before
    public void begin() {
        Phone.reset();
    }

    @Test
    public void aFileIsRead() throws Exception {
        Config config = Config.parse(FILE);
        assertEquals(PRIVATE, config.privateKey().toBase64());
        assertEquals("[10.0.0.2/24, fd00:0:0:0:0:0:0:2/64]", config.addresses().toString());
        assertEquals("[/10.0.0.1]", config.dns().toString());
        assertEquals(Collections.singletonList("example.org"), config.searchDomains());
        assertEquals(1400, config.mtu());
        assertEquals(51821, config.listenPort());
        assertEquals(Arrays.asList("org.one", "org.two"), config.excludedApplications());
        assertTrue(config.hasRoutes());
        Config.Peer peer = config.peers().get(0);
        assertEquals("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", peer.publicKey().toBase64());
        assertEquals("/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=", peer.presharedKey().toBase64());
        assertEquals("vpn.example.org:51820", peer.endpoint());
        assertEquals(25, peer.persistentKeepalive());
        assertEquals("[10.0.0.0/24, 0:0:0:0:0:0:0:0/0]", peer.allowedIps().toString());
        assertFalse(config.toString().contains(PRIVATE));
    }

    @Test
    public void aStreamAndUtf16AreReadAsWell() throws Exception {
        byte[] utf16 = FILE.getBytes("UTF-16");
        assertEquals(PRIVATE, Config.parse(new ByteArrayInputStream(utf16)).privateKey().toBase64());
        assertEquals(PRIVATE, Config.parse(utf16).privateKey().toBase64());
    }

    @Test
    public void whatIsWrittenIsReadAgain() throws Exception {
        String text = Config.parse(FILE).toWgQuickString();
        assertTrue(text, text.contains("ExcludedApplications"));
        assertEquals(text, Config.parse(text).toWgQuickString());
        assertEquals(PRIVATE, Config.parse(text).privateKey().toBase64());
    }

    @Test
    public void anErrorHasTheKeyAndNotTheValue() {
        WgException wrong = assertThrows(WgException.class, () -> Config.parse(FILE.replace("1400", "secret")));
        assertEquals(WgException.Code.INVALID, wrong.code());
        assertTrue(wrong.getMessage(), wrong.getMessage().contains("MTU"));
        assertFalse(wrong.getMessage(), wrong.getMessage().contains("secret"));
    }

    @Test
    public void aBuilderMakesTheSame() throws Exception {
        Key key = Key.generatePrivate();
        Config config = new Config.Builder(key)
                .address("10.0.0.2/32")
                .dns("10.0.0.1")
                .mtu(1400)
                .listenPort(51821)
                .includeApplication("org.one")
                .peer(Key.generatePrivate().publicKey())
                .presharedKey(Key.generatePreshared())
                .endpoint("192.0.2.1:51820")
                .allowedIp("0.0.0.0/0")
                .allowedIp("::/0")
                .persistentKeepalive(25)
                .build();
        assertEquals(key, config.privateKey());
        assertEquals(2, config.peers().get(0).allowedIps().size());
        assertEquals(Collections.singletonList("org.one"), config.includedApplications());
        Config.Builder builder = new Config.Builder(key);
        assertThrows(IllegalArgumentException.class, () -> builder.address("10.0.0.2/32\nPostUp = rm"));
        assertThrows(IllegalStateException.class, () -> builder.endpoint("192.0.2.1:1"));
        assertThrows(WgException.class, () -> builder.address("10.0.0.2/33").build());
    }

    @Test
    public void keysAreReadWrittenAndWiped() throws Exception {
        Key key = Key.fromBase64(PRIVATE);
        assertEquals(PUBLIC, key.publicKey().toBase64());
        assertEquals(key, Key.fromHex(key.toHex()));
        assertEquals(key, Key.of(key.toBytes()));
        assertEquals(key.hashCode(), Key.fromBase64(PRIVATE).hashCode());
        assertFalse(key.equals(key.publicKey()));
        assertFalse(Key.generatePrivate().equals(Key.generatePrivate()));
        assertEquals("Key(..)", key.toString());
        assertEquals(WgException.Code.INVALID, assertThrows(WgException.class, () -> Key.fromBase64("x")).code());
        assertThrows(WgException.class, () -> Key.fromHex("0\0"));
        assertThrows(IllegalArgumentException.class, () -> Key.of(new byte[31]));
        key.destroy();
        assertTrue(key.isDestroyed());
        assertThrows(IllegalStateException.class, key::toBase64);
        Config config = Config.parse(FILE);
        Key inside = config.privateKey();
        config.destroy();
        assertTrue(inside.isDestroyed());
        assertThrows(IllegalStateException.class, config::toWgQuickString);
    }

    @Test
    public void applicationsThatAreAbsentAreLeftOut() throws Exception {
        VpnService.Builder builder = Robolectric.buildService(Service.class).get().builder();
        Phone.absent.add("org.one");
        assertEquals(Collections.singletonList("org.one"), WgApplier.apply(Config.parse(FILE), builder));
        assertTrue(Phone.built.contains("exclude org.two"));
        assertTrue(Phone.built.contains("route 0:0:0:0:0:0:0:0/0"));
        // With none of the included, all applications would use the tunnel.
        String excluded = "ExcludedApplications = org.one, org.two";
        Config included = Config.parse(FILE.replace(excluded, "IncludedApplications = org.one"));
        WgException none = assertThrows(WgException.class, () -> WgApplier.apply(included, builder));
        assertEquals(WgException.Code.NOT_FOUND, none.code());
    }

    @Test
    public void withoutATableThereAreNoRoutes() throws Exception {
        VpnService.Builder builder = Robolectric.buildService(Service.class).get().builder();
        WgApplier.apply(Config.parse(FILE.replace("MTU = 1400", "Table = off")), builder);
        assertFalse(Phone.built.toString(), Phone.built.toString().contains("route"));
    }
}
