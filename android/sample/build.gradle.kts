// For those who have the Android SDK. Nothing here was run: it was written on a machine without one.
plugins { id("com.android.application") version "8.7.3" }

android {
    namespace = "org.example.vpn"
    compileSdk = 34
    defaultConfig {
        applicationId = "org.example.vpn"
        minSdk = 24
        targetSdk = 34
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    buildTypes { release { isMinifyEnabled = true } }
}

dependencies { implementation("com.wgembed:wgembed:0.1.0@aar") }
