//! Reading members one by one from an object, for contracts that fix the order, status and words of each refusal.

use serde_json::{Map, Value};

use crate::problem::Problem;

/// Which status a contract gives to a member that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberFault {
    /// 400, as the Aragora and ModulaCMS documents have it.
    BadRequest,
    /// 422, as the FastAPI document has it.
    Unprocessable,
}

impl MemberFault {
    /// The refusal.
    pub fn on(self, member: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
        match self {
            Self::BadRequest => Problem::bad_field(member, message),
            Self::Unprocessable => Problem::unprocessable(member, message),
        }
    }
}

/// The members of a JSON object.
#[derive(Debug, Clone, Default)]
pub struct Members(Map<String, Value>);

impl Members {
    /// From a parsed body; anything but an object is refused, `null` counts as the empty object.
    ///
    /// # Errors
    /// The fault's status with "The body must be an object."
    pub fn of(value: Value, fault: MemberFault) -> Result<Self, Problem> {
        match value {
            Value::Object(members) => Ok(Self(members)),
            Value::Null => Ok(Self::default()),
            _ => Err(fault.on("body", "The body must be an object.")),
        }
    }

    /// Whether the member is there, `null` included.
    #[must_use]
    pub fn has(&self, member: &str) -> bool {
        self.0.contains_key(member)
    }

    /// The value as sent.
    #[must_use]
    pub fn get(&self, member: &str) -> Option<&Value> {
        self.0.get(member)
    }

    /// A text that may be absent or `null`.
    ///
    /// # Errors
    /// When it is something else than text.
    pub fn optional_text(&self, member: &'static str, fault: MemberFault) -> Result<Option<&str>, Problem> {
        match self.0.get(member) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(fault.on(member, format!("{member}: must be a string"))),
        }
    }

    /// A text that must be there; it may be empty.
    ///
    /// # Errors
    /// When it is absent, `null` or something else than text.
    pub fn text(&self, member: &'static str, fault: MemberFault) -> Result<&str, Problem> {
        self.optional_text(member, fault)?
            .ok_or_else(|| fault.on(member, format!("{member}: is required")))
    }

    /// A truth value; absent or `null` is `false`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, member: &'static str, fault: MemberFault) -> Result<bool, Problem> {
        match self.0.get(member) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(fault.on(member, format!("{member}: must be true or false"))),
        }
    }
}
