//! The common parts of all functions.
//!
//! | module | contents |
//! |---|---|
//! | `guard` | catches panics, sets the thread's last error, refuses calls from inside a callback |
//! | `handle` | the table of handles |
//! | `result` | error kinds as `wg_result_t` |
//! | `callback`, `calls` | callbacks of the app: stored, called, released; the end of the process |
//! | `cancel` | threads that are cancelled in a call |
//! | `sized` | structs that grow |
//! | `text`, `memory` | borrowed and owned memory |
//! | `fd` | descriptors of the app |
//! | `log` | the log callbacks |

pub(crate) mod callback;
pub(crate) mod calls;
pub(crate) mod cancel;
pub(crate) mod fd;
pub(crate) mod guard;
pub(crate) mod handle;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod result;
pub(crate) mod sized;
pub(crate) mod text;
