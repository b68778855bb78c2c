// For those who have the Android SDK. Nothing here was run: it was written on a machine without one.
pluginManagement {
    repositories {
        google()
        mavenCentral()
    }
}
dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
        flatDir { dirs("libs") } // wgembed-0.1.0.aar
    }
}
