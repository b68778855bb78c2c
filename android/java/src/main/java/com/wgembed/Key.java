package com.wgembed;

import java.security.MessageDigest;
import java.util.Arrays;
import javax.security.auth.Destroyable;

/**
 * A key of 32 bytes: private, public or preshared. {@link #toString()} does not show it. Texts of it stay in the
 * memory of the virtual machine for as long as that likes; the key itself is wiped by {@link #destroy()}.
 *
 * <p>Any thread may use it.
 */
public final class Key implements Destroyable {
    /** The bytes of a key. */
    public static final int LENGTH = 32;

    private final byte[] bytes;
    private volatile boolean destroyed;

    /** Keeps {@code bytes}. */
    private Key(byte[] bytes) {
        this.bytes = bytes;
    }

    /**
     * Copies a key.
     *
     * @param bytes 32 bytes
     * @return the key
     * @throws IllegalArgumentException if there are more or fewer
     */
    public static Key of(byte[] bytes) {
        if (bytes.length != LENGTH) {
            throw new IllegalArgumentException("a key has 32 bytes, not " + bytes.length);
        }
        return new Key(bytes.clone());
    }

    /**
     * Makes a private key.
     *
     * @return a new one
     * @throws WgException if the system has no random numbers
     */
    public static Key generatePrivate() throws WgException {
        byte[] key = new byte[LENGTH];
        WgException.check(Native.generateKey(false, key));
        return new Key(key);
    }

    /**
     * Makes a preshared key.
     *
     * @return a new one
     * @throws WgException if the system has no random numbers
     */
    public static Key generatePreshared() throws WgException {
        byte[] key = new byte[LENGTH];
        WgException.check(Native.generateKey(true, key));
        return new Key(key);
    }

    /**
     * Reads a key as configuration files have it.
     *
     * @param text 44 characters of base64
     * @return the key
     * @throws WgException with {@link WgException.Code#INVALID} if it is none
     */
    public static Key fromBase64(String text) throws WgException {
        return fromText(text, false);
    }

    /**
     * Reads a key in hex.
     *
     * @param text 64 digits, small or large
     * @return the key
     * @throws WgException with {@link WgException.Code#INVALID} if it is none
     */
    public static Key fromHex(String text) throws WgException {
        return fromText(text, true);
    }

    private static Key fromText(String text, boolean hex) throws WgException {
        byte[] key = new byte[LENGTH];
        byte[] characters = text.getBytes(Config.UTF_8);
        try {
            WgException.check(Native.keyFromText(characters, hex, key));
        } finally {
            Arrays.fill(characters, (byte) 0);
        }
        return new Key(key);
    }

    /**
     * Returns the public key that belongs to this private one.
     *
     * @return another key
     * @throws WgException if the library fails
     */
    public Key publicKey() throws WgException {
        byte[] key = new byte[LENGTH];
        WgException.check(Native.derivePublic(bytes(), key));
        return new Key(key);
    }

    /**
     * Returns the key as configuration files have it.
     *
     * @return 44 characters
     */
    public String toBase64() {
        return text(false);
    }

    /**
     * Returns the key in hex.
     *
     * @return 64 digits
     */
    public String toHex() {
        return text(true);
    }

    private String text(boolean hex) {
        byte[] characters = Native.keyText(bytes(), hex);
        String text = new String(characters, Config.UTF_8);
        Arrays.fill(characters, (byte) 0);
        return text;
    }

    /**
     * Copies the key out.
     *
     * @return 32 bytes, to be wiped by the caller
     */
    public byte[] toBytes() {
        return bytes().clone();
    }

    /** The bytes themselves. */
    byte[] bytes() {
        if (destroyed) {
            throw new IllegalStateException("the key was destroyed");
        }
        return bytes;
    }

    /** Wipes the key. All other methods but {@link #isDestroyed()} throw {@link IllegalStateException} from then on. */
    @Override
    public void destroy() {
        destroyed = true;
        Arrays.fill(bytes, (byte) 0);
    }

    @Override
    public boolean isDestroyed() {
        return destroyed;
    }

    /** Compares in a time that does not depend on the keys. Destroyed keys equal nothing but themselves. */
    @Override
    public boolean equals(Object other) {
        if (this == other) {
            return true;
        }
        return other instanceof Key
                && !destroyed
                && !((Key) other).destroyed
                && MessageDigest.isEqual(bytes, ((Key) other).bytes);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(bytes);
    }

    /** Shows nothing of the key; {@link #toBase64()} does. */
    @Override
    public String toString() {
        return "Key(..)";
    }
}
