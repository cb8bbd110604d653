//! Extractors whose every refusal is a [`crate::problem::Problem`].

mod body;
mod caller;
mod headers;
mod json;
mod members;
mod parameters;

pub use body::read_body;
pub use caller::{Caller, MaybeCaller, Stranger, UnverifiedCaller};
pub(crate) use caller::{anonymous, bearer_token, must_be_verified, not_authenticated, verify_token};
pub use headers::{ETag, IfMatch, MinPosition, Prefer};
pub(crate) use json::check_text as check_json_text;
#[cfg(test)]
pub(crate) use json::parse as parse_json;
pub use json::{AnyJson, Json, OptionalJson};
pub use members::{MemberFault, Members};
pub use parameters::{Path, Query};
