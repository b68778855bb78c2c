mod message;
mod resolver;
pub(crate) mod response;
