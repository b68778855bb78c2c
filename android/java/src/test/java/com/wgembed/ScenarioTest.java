package com.wgembed;

import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.file.Files;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;

/** The conversations that all language bindings have. */
@RunWith(RobolectricTestRunner.class)
@org.robolectric.annotation.Config(
        manifest = org.robolectric.annotation.Config.NONE,
        sdk = {24, 34},
        shadows = {Phone.ShadowDescriptor.class})
public class ScenarioTest {
    @Test
    public void allScenarios() throws Exception {
        File[] files = new File(System.getProperty("scenarios")).listFiles((folder, name) -> name.endsWith(".txt"));
        assertTrue("there are scenarios", files != null && files.length > 0);
        for (File file : files) {
            try {
                Scenario.run(Files.readString(file.toPath()));
            } catch (AssertionError failed) {
                throw new AssertionError(file.getName(), failed);
            }
        }
    }
}
