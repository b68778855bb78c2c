//! A library that has begun threads cannot be unloaded: look-ups by the system's resolver may outlive every tunnel.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS");
    if os.is_ok_and(|os| ["linux", "android"].contains(&os.as_str())) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
