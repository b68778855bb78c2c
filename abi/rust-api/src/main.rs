//! `rust-api JSON` prints the public items of a package, one on a line, from what rustdoc has written about it. The
//! status is 2 if that is in a format that this program does not read, and 1 if it fails otherwise.

use std::{env, error::Error, process::ExitCode};

fn items(json: std::ffi::OsString) -> public_api::Result<()> {
    let api =
        public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).omit_auto_trait_impls(true).build()?;
    for item in api.items() {
        println!("{item}");
    }
    Ok(())
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match items(env::args_os().nth(1).ok_or("usage: rust-api JSON")?) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(public_api::Error::SerdeJsonError(error)) => {
            eprintln!("{error}");
            Ok(ExitCode::from(2))
        }
        Err(error) => Err(error.into()),
    }
}
