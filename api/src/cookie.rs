//! The session cookie of browsers, and the check that a request made with it was not made by a foreign page.

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::config::{CookieConfig, CorsConfig};
use crate::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// `Set-Cookie` with an access token that lives for `lifetime_s`.
pub(crate) fn give(config: &CookieConfig, token: &str, lifetime_s: u64) -> HeaderValue {
    header(config, token, lifetime_s)
}

/// `Set-Cookie` that takes the cookie away, with the attributes it was given with.
pub(crate) fn take_away(config: &CookieConfig) -> HeaderValue {
    header(config, "", 0)
}

/// What tells a browser to forget the answers it has kept. Its cookie is taken away by name: the header would take the
/// cookies of every site below the same domain.
pub(crate) const CLEAR_SITE_DATA: (HeaderName, HeaderValue) = (
    HeaderName::from_static("clear-site-data"),
    HeaderValue::from_static("\"cache\""),
);

fn header(config: &CookieConfig, value: &str, lifetime_s: u64) -> HeaderValue {
    let secure = if config.secure { "; Secure" } else { "" };
    let text = format!(
        "{}={value}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Lax{secure}",
        config.name
    );
    let mut header = HeaderValue::try_from(text).expect("a configured name and a token are ASCII");
    header.set_sensitive(true);
    header
}

/// Value of our cookie, if the request has one that is not empty.
pub(crate) fn value<'a>(headers: &'a HeaderMap, config: &CookieConfig) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, value)| *name == config.name && !value.is_empty())
        .map(|(_, value)| value)
}

/// Refuses what a foreign page may have made a browser send: the cookie comes along by itself there.
///
/// Fetch Metadata decides where the browser sends it; `Origin` where it does not; a client that sends neither is no browser.
pub(crate) fn refuse_foreign_pages(method: &Method, headers: &HeaderMap, cors: &CorsConfig) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let origin = text(&ORIGIN);
    if origin.is_some_and(|origin| cors.origins.iter().any(|allowed| allowed == origin)) {
        return Ok(());
    }
    let own = match (text(&SEC_FETCH_SITE), origin) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let host = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            host.is_some() && host == text(&HOST)
        }
        (None, None) => true,
    };
    if own {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "CROSS_SITE_REQUEST",
        "A page of another site may not do this with the session cookie.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(secure: bool) -> CookieConfig {
        CookieConfig {
            name: "annals_session".to_owned(),
            secure,
        }
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("ascii")))
            .collect()
    }

    #[test]
    fn the_cookie_is_hidden_from_scripts_and_from_other_sites() {
        let given = give(&config(true), "abc.def", 60);
        assert_eq!(
            given,
            "annals_session=abc.def; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
        );
        assert_eq!(
            take_away(&config(false)),
            "annals_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let config = config(false);
        let found = |line: &str| value(&headers(&[(COOKIE, line)]), &config).map(str::to_owned);
        assert_eq!(found("a=b; annals_session=x.y.z; c=d").as_deref(), Some("x.y.z"));
        assert_eq!(found("not_annals_session=x; annals_session="), None);
    }

    #[test]
    fn foreign_pages_are_told_apart() {
        let cors = CorsConfig {
            origins: vec!["https://app.example.com".to_owned()],
        };
        let passes = |pairs: &[(HeaderName, &str)]| refuse_foreign_pages(&Method::POST, &headers(pairs), &cors).is_ok();
        assert!(passes(&[]));
        assert!(passes(&[(SEC_FETCH_SITE, "same-origin")]) && passes(&[(SEC_FETCH_SITE, "none")]));
        assert!(!passes(&[(SEC_FETCH_SITE, "cross-site")]) && !passes(&[(SEC_FETCH_SITE, "same-site")]));
        assert!(passes(&[(ORIGIN, "http://cms.example.com"), (HOST, "cms.example.com")]));
        assert!(!passes(&[(ORIGIN, "http://evil.test"), (HOST, "cms.example.com")]));
        assert!(!passes(&[(ORIGIN, "null"), (HOST, "cms.example.com")]));
        assert!(passes(&[
            (ORIGIN, "https://app.example.com"),
            (SEC_FETCH_SITE, "cross-site")
        ]));
        assert!(!passes(&[
            (ORIGIN, "https://app.example.com.evil.test"),
            (SEC_FETCH_SITE, "cross-site")
        ]));
        let evil = headers(&[(SEC_FETCH_SITE, "cross-site")]);
        assert!(refuse_foreign_pages(&Method::GET, &evil, &cors).is_ok());
    }
}
