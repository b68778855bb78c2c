//! The same files and clients with wireproxy, if it is on PATH.
