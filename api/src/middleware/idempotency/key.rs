//! The header `Idempotency-Key`, bare or as the string of a structured field (RFC 8941, section 3.3.3; the header's
//! draft, draft-ietf-httpapi-idempotency-key-header, demands the latter, most clients send the former).

use axum::http::{HeaderMap, HeaderName};

use crate::problem::Problem;

/// The header by which a client promises that requests under one key are one request.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// As documents and refusals write it.
pub const IDEMPOTENCY_KEY_NAME: &str = "Idempotency-Key";

/// Longest key, in characters.
const MAX_CHARACTERS: usize = 255;

/// The key of a request, without quotes; absent when there is no such header.
///
/// # Errors
/// 400 when the header is there twice, or holds anything but 1 to 255 visible ASCII characters.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(refused("must be given once"));
    }
    let text = line.as_bytes();
    let key = match text {
        [b'"', quoted @ .., b'"'] => unescaped(quoted),
        [b'"', ..] => None,
        bare => Some(bare.to_vec()),
    };
    key.filter(|key| (1..=MAX_CHARACTERS).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic))
        .and_then(|key| String::from_utf8(key).ok())
        .map(Some)
        .ok_or_else(|| refused("must be 1 to 255 visible ASCII characters, alone or as a quoted string"))
}

/// What stands between the quotes of a structured field's string.
fn unescaped(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => text.push(*escaped),
                _ => return None,
            },
            byte => text.push(*byte),
        }
    }
    Some(text)
}

fn refused(rule: &str) -> Problem {
    Problem::bad_field(IDEMPOTENCY_KEY_NAME, format!("{IDEMPOTENCY_KEY_NAME}: {rule}"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(lines: &[&[u8]]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(line).expect("a header value"));
        }
        of(&headers)
    }

    #[test]
    fn a_key_is_read_bare_and_quoted() {
        let longest = "k".repeat(255);
        for (line, key) in [
            ("7", "7"),
            (
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
            ),
            ("\"8e03978e\"", "8e03978e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#"a"b\c"#, r#"a"b\c"#),
            (&longest, &longest),
        ] {
            assert_eq!(read(&[line.as_bytes()]).expect(line).as_deref(), Some(key), "{line}");
        }
        assert_eq!(read(&[]).expect("no header"), None);
    }

    #[test]
    fn anything_else_is_refused_and_names_the_header() {
        let too_long = "k".repeat(256);
        let lines: [&[&[u8]]; 12] = [
            &[b""],
            &[b"\"\""],
            &[b"\""],
            &[b"two words"],
            &[b"\"two words\""],
            &[b"a\tb"],
            &["schlüssel".as_bytes()],
            &[b"\"open"],
            &[b"\"a\"b\""],
            &[b"\"a\\b\""],
            &[too_long.as_bytes()],
            &[b"once", b"once"],
        ];
        for line in lines {
            let problem = read(line).expect_err("refused");
            assert_eq!(problem.status().as_u16(), 400);
            assert_eq!(problem.field(), Some("Idempotency-Key"));
        }
    }
}
