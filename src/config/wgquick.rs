//! Reads wg-quick `.conf` files.
