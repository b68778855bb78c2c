//! Keys as base64.

use std::borrow::Cow;

use pyo3::{exceptions::PyValueError, prelude::*};
use wg_embed::key::{PresharedKey, PrivateKey, PublicKey};

use crate::errors;

fn invalid(_: wg_embed::Error) -> PyErr {
    PyValueError::new_err("Invalid key.")
}

pub(crate) fn private_key(text: &str) -> PyResult<PrivateKey> {
    PrivateKey::from_base64(text).map_err(invalid)
}

pub(crate) fn public_key(text: &str) -> PyResult<PublicKey> {
    PublicKey::from_base64(text).map_err(invalid)
}

/// Generate a WireGuard private key, analogous to the `wg genkey` command.
#[pyfunction]
pub(crate) fn genkey(py: Python<'_>) -> PyResult<String> {
    let key = PrivateKey::generate().map_err(|error| errors::from_core(py, &error))?;
    Ok(key.to_base64().to_string())
}

/// Parses a key for mitmproxy_wireguard, which accepts a missing last `=`.
pub(crate) fn padded(text: &str) -> Cow<'_, str> {
    if text.len() == 43 { format!("{text}=").into() } else { text.into() }
}

/// Derive a WireGuard public key from a private key, analogous to the `wg pubkey` command.
#[pyfunction(name = "pubkey")]
pub(crate) fn legacy_pubkey(private_key: &str) -> PyResult<String> {
    pubkey(&padded(private_key))
}

/// Derive a WireGuard public key from a private key, analogous to the `wg pubkey` command.
#[pyfunction]
pub(crate) fn pubkey(private_key: &str) -> PyResult<String> {
    Ok(self::private_key(private_key)?.public_key().to_base64().to_string())
}

/// Generate a preshared key, analogous to the `wg genpsk` command.
#[pyfunction]
pub(crate) fn genpsk(py: Python<'_>) -> PyResult<String> {
    let key = PresharedKey::generate().map_err(|error| errors::from_core(py, &error))?;
    Ok(key.to_base64().to_string())
}
