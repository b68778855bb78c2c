//! `rust-api JSON` prints the public items of a package, one on a line, from what rustdoc has written about it.

use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    let json = env::args_os().nth(1).ok_or("usage: rust-api JSON")?;
    let api =
        public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).omit_auto_trait_impls(true).build()?;
    for item in api.items() {
        println!("{item}");
    }
    Ok(())
}
