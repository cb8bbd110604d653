//! Query and path parameters.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::json::explain;
use crate::app::AppState;
use crate::problem::Problem;

/// Query parameters. A wrong shape is 400 and names the parameter.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

/// Path parameters. A wrong shape is 400.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        refuse_nul(parts.uri.query().unwrap_or_default())?;
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                // "Failed to deserialize query string: limit: invalid digit found in string"
                let text = rejection.body_text();
                let text = text.split_once(": ").map_or(text.as_str(), |(_, rest)| rest);
                let (path, fault) = match text.split_once(": ") {
                    Some((path, rest)) if !path.contains(' ') => (Some(path.to_owned()), rest),
                    _ => (None, text),
                };
                let (member, rule) = explain(fault);
                let message = |name: &str| format!("{name}: {rule}");
                Err(match path.or_else(|| member.map(std::borrow::Cow::into_owned)) {
                    Some(name) => {
                        let text = message(&name);
                        Problem::bad_field(name, text)
                    }
                    None => Problem::bad_request(message("query")),
                })
            }
        }
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        use axum::extract::path::ErrorKind;
        use axum::extract::rejection::PathRejection;

        refuse_nul(parts.uri.path())?;
        match axum::extract::Path::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(match error.into_kind() {
                ErrorKind::DeserializeError { key, message, .. } => {
                    let text = format!("{key}: {}", explain(&message).1);
                    Problem::bad_field(key, text)
                }
                ErrorKind::ParseErrorAtKey { key, expected_type, .. } => {
                    let text = format!("{key}: must be {expected_type}");
                    Problem::bad_field(key, text)
                }
                ErrorKind::InvalidUtf8InPathParam { key } => {
                    let text = format!("{key}: must be UTF-8");
                    Problem::bad_field(key, text)
                }
                ErrorKind::Message(message) => Problem::bad_request(explain(&message).1.into_owned()),
                _ => Problem::bad_request("The path is malformed."),
            }),
            Err(_) => Err(Problem::bad_request("The path is malformed.")),
        }
    }
}

/// PostgreSQL cannot hold it, and would fail late.
fn refuse_nul(text: &str) -> Result<(), Problem> {
    if text.contains("%00") {
        return Err(Problem::bad_request("The URI must not contain the character NUL."));
    }
    Ok(())
}
