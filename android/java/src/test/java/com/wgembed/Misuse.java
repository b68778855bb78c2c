package com.wgembed;

import org.junit.Test;

/** No test: what check.sh has to find in the output of the virtual machine. Run by its name alone. */
public class Misuse {
    @Test
    public void ofJni() {
        Host.misuse();
    }
}
