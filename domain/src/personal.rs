//! Personal data inside events: marked with its subject, so that the vault can seal it under that subject's key.
//!
//! Here the value is plain, as `{"$personal":{"subject":"<uuid>","value":...}}`. What is stored is sealed; once
//! the subject's key is destroyed, the value reads as null for ever.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The one member of the JSON object that marks personal data.
pub const PERSONAL_MEMBER: &str = "$personal";
/// Shown in place of a value that its reader may not see.
pub const HIDDEN: &str = "[personal]";

/// A value about a person. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Marked<T>", into = "Marked<T>")]
#[serde(bound(serialize = "T: Serialize + Clone", deserialize = "T: Deserialize<'de>"))]
pub struct Personal<T> {
    subject: Uuid,
    value: Option<T>,
}

#[derive(Serialize, Deserialize)]
struct Marked<T> {
    #[serde(rename = "$personal")]
    content: Content<T>,
}

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Content<T> {
    subject: Uuid,
    value: Option<T>,
}

impl<T> From<Marked<T>> for Personal<T> {
    fn from(Marked { content }: Marked<T>) -> Self {
        Self {
            subject: content.subject,
            value: content.value,
        }
    }
}

impl<T> From<Personal<T>> for Marked<T> {
    fn from(Personal { subject, value }: Personal<T>) -> Self {
        Self {
            content: Content { subject, value },
        }
    }
}

impl<T> Personal<T> {
    /// Marks `value` as data about `subject`.
    #[must_use]
    pub fn new(subject: impl Into<Uuid>, value: T) -> Self {
        Self {
            subject: subject.into(),
            value: Some(value),
        }
    }

    /// Data about `subject` that can no longer be read.
    #[must_use]
    pub fn erased(subject: impl Into<Uuid>) -> Self {
        Self {
            subject: subject.into(),
            value: None,
        }
    }

    /// Whose data it is.
    #[must_use]
    pub const fn subject(&self) -> Uuid {
        self.subject
    }

    /// The value; absent once erased.
    #[must_use]
    pub const fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value by itself; absent once erased.
    #[must_use]
    pub fn into_value(self) -> Option<T> {
        self.value
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.value.is_some() { "redacted" } else { "erased" };
        write!(f, "Personal({}, {state})", self.subject)
    }
}

/// Replaces every mark of personal data by its value (null when erased), or by `"[personal]"` unless `show`.
pub fn reveal(json: &mut Value, show: bool) {
    match json {
        Value::Object(members) => {
            if members.len() == 1
                && let Some(content) = members.get_mut(PERSONAL_MEMBER)
            {
                let value = content.get_mut("value").map_or(Value::Null, Value::take);
                *json = if show { value } else { Value::String(HIDDEN.to_owned()) };
            } else {
                members.values_mut().for_each(|member| reveal(member, show));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| reveal(item, show)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use serde_json::json;
    use uuid::Uuid;

    use super::{Personal, reveal};

    #[test]
    fn the_stored_form_names_the_subject() {
        let name = Personal::new(Uuid::from_u128(1), "Ada".to_owned());
        assert_eq!(
            serde_json::to_value(&name).unwrap(),
            json!({"$personal": {"subject": "00000000-0000-0000-0000-000000000001", "value": "Ada"}}),
        );
    }

    #[test]
    fn an_erased_value_is_null() {
        let gone = Personal::<String>::erased(Uuid::from_u128(1));
        let json = serde_json::to_value(&gone).unwrap();
        assert_eq!(json["$personal"]["value"], json!(null));
        assert_eq!(serde_json::from_value::<Personal<String>>(json).unwrap(), gone);
    }

    #[test]
    fn a_bare_value_is_not_personal_data() {
        assert!(serde_json::from_value::<Personal<String>>(json!("Ada")).is_err());
    }

    #[test]
    fn revealing_reaches_every_depth() {
        let mark = json!({"$personal": {"subject": Uuid::nil(), "value": {"name": "Ada"}}});
        let gone = json!({"$personal": {"subject": Uuid::nil(), "value": null}});
        let payload = json!({"a": [mark, gone], "b": {"c": mark}, "d": 1});
        let mut shown = payload.clone();
        reveal(&mut shown, true);
        let name = json!({"name": "Ada"});
        assert_eq!(shown, json!({"a": [name, null], "b": {"c": name}, "d": 1}));
        let mut hidden = payload;
        reveal(&mut hidden, false);
        let mask = json!("[personal]");
        assert_eq!(hidden, json!({"a": [mask, mask], "b": {"c": mask}, "d": 1}));
    }

    proptest! {
        #[test]
        fn personal_data_reads_back_and_does_not_print(subject in any::<u128>(), value in "[a-z]{30,40}") {
            let personal = Personal::new(Uuid::from_u128(subject), value.clone());
            let printed = format!("{personal:?}");
            prop_assert!(!printed.contains(&value));
            let mut json = serde_json::to_value(&personal).unwrap();
            prop_assert_eq!(&serde_json::from_value::<Personal<String>>(json.clone()).unwrap(), &personal);
            reveal(&mut json, true);
            prop_assert_eq!(json, value);
        }
    }
}
