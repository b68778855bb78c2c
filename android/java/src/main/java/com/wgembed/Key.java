package com.wgembed;

import java.security.MessageDigest;
import java.util.Arrays;
import javax.security.auth.Destroyable;

/**
 * A key of 32 bytes: private, public or preshared. {@link #toString()} does not contain it. {@link #destroy()} wipes
 * the key itself; texts of it stay in the memory of the virtual machine until the garbage collector overwrites them.
 *
 * <p>It may be used on any thread.
 */
public final class Key implements Destroyable {
    /** The length of a key in bytes. */
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
     * @throws IllegalArgumentException if the length is different
     */
    public static Key of(byte[] bytes) {
        if (bytes.length != LENGTH) {
            throw new IllegalArgumentException("a key has 32 bytes, not " + bytes.length);
        }
        return new Key(bytes.clone());
    }

    /**
     * Generates a private key.
     *
     * @return the key
     * @throws WgException if the system's random generator fails
     */
    public static Key generatePrivate() throws WgException {
        byte[] key = new byte[LENGTH];
        WgException.check(Native.generateKey(false, key));
        return new Key(key);
    }

    /**
     * Generates a preshared key.
     *
     * @return the key
     * @throws WgException if the system's random generator fails
     */
    public static Key generatePreshared() throws WgException {
        byte[] key = new byte[LENGTH];
        WgException.check(Native.generateKey(true, key));
        return new Key(key);
    }

    /**
     * Parses a key in base64, the form of configuration files.
     *
     * @param text 44 characters of base64
     * @return the key
     * @throws WgException with {@link WgException.Code#INVALID} if it is not a key
     */
    public static Key fromBase64(String text) throws WgException {
        return fromText(text, false);
    }

    /**
     * Parses a key in hex.
     *
     * @param text 64 digits, upper or lower case
     * @return the key
     * @throws WgException with {@link WgException.Code#INVALID} if it is not a key
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
     * Derives the public key of this private key.
     *
     * @return the public key
     * @throws WgException if the library fails
     */
    public Key publicKey() throws WgException {
        byte[] key = new byte[LENGTH];
        WgException.check(Native.derivePublic(bytes(), key));
        return new Key(key);
    }

    /**
     * Returns the key in base64, the form of configuration files.
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
     * Returns a copy of the key.
     *
     * @return 32 bytes, to be wiped by the caller
     */
    public byte[] toBytes() {
        return bytes().clone();
    }

    /** Returns the bytes themselves, without a copy. */
    byte[] bytes() {
        if (destroyed) {
            throw new IllegalStateException("the key was destroyed");
        }
        return bytes;
    }

    /** Wipes the key. After that all methods except {@link #isDestroyed()} throw {@link IllegalStateException}. */
    @Override
    public void destroy() {
        destroyed = true;
        Arrays.fill(bytes, (byte) 0);
    }

    @Override
    public boolean isDestroyed() {
        return destroyed;
    }

    /** Compares keys in a time that does not depend on them. A destroyed key equals only itself. */
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

    /** Returns a text without the key; {@link #toBase64()} returns the key. */
    @Override
    public String toString() {
        return "Key(..)";
    }
}
