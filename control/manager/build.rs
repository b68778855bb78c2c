//! Compiles the messages. `protox` reads them, so that there need not be a protoc on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let messages = protox::compile(["manager.proto"], ["proto"])?;
    // These have a secret in them, and print themselves without it.
    prost_build::Config::new().skip_debug(["StartRequest", "StartRequest.Header"]).compile_fds(messages)?;
    Ok(())
}
