//! How the library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let argument = |text: &str| println!("cargo:rustc-cdylib-link-arg=-Wl,{text}");
    // As capi/build.rs: a library that has begun threads cannot be unloaded.
    if ["linux", "android"].contains(&os.as_str()) {
        argument("-z,nodelete");
    }
    // Android wants a name, and devices with pages of 16 KiB load nothing that is aligned to less.
    if os == "android" {
        argument("-soname,libwg_embed_jni.so");
        argument("-z,max-page-size=16384");
    }
}
