//! What is known about a request before any handler sees it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName};
use uuid::Uuid;

use super::{X_CORRELATION_ID, X_REQUEST_ID};
use crate::config::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// More hops than any real chain of proxies has; the rest of a longer list is not read.
const MAX_HOPS: usize = 32;

/// The other end of the connection; put into the request by [`crate::server`].
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Names of a request, and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct RequestContext {
    /// `X-Request-Id`: the client's own if it is a UUID, else a new one.
    pub request_id: Uuid,
    /// `X-Correlation-Id` if it is a UUID, else the request id.
    pub correlation_id: Uuid,
    /// The client behind trusted proxies; absent when the router runs without a server.
    pub address: Option<IpAddr>,
}

impl RequestContext {
    pub(super) fn of(request: &Request, trusted: &[Network]) -> Self {
        let headers = request.headers();
        let request_id = uuid_of(headers, &X_REQUEST_ID).unwrap_or_else(Uuid::now_v7);
        let correlation_id = uuid_of(headers, &X_CORRELATION_ID).unwrap_or(request_id);
        let address = request
            .extensions()
            .get::<Peer>()
            .map(|peer| client_address(peer.0.ip(), headers, trusted));
        Self {
            request_id,
            correlation_id,
            address,
        }
    }
}

fn uuid_of(headers: &HeaderMap, name: &HeaderName) -> Option<Uuid> {
    let text = headers.get(name)?.to_str().ok()?;
    // Only the hyphenated form, so that what is echoed is what was sent.
    (text.len() == 36).then(|| Uuid::try_parse(text).ok())?
}

/// The rightmost hop that is not a trusted proxy. Whatever stands left of it was written by the client and proves nothing.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let lines: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(|line| line.to_str().unwrap_or("?"))
        .collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MAX_HOPS);
    for hop in hops {
        // A hop that is no address ends the chain: nothing left of it can be believed.
        let Some(address) = parse_hop(hop.trim()) else {
            return client;
        };
        client = address.to_canonical();
        if !is_trusted(client) {
            return client;
        }
    }
    client
}

/// An address, with or without port, IPv6 with or without brackets.
fn parse_hop(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(with_port.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted = [
            "127.0.0.0/8".parse().expect("network"),
            "10.0.0.0/8".parse().expect("network"),
        ];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).expect("ascii"));
        }
        client_address(peer.parse().expect("address"), &headers, &trusted).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        assert_eq!(client("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            client("127.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.7"]),
            "198.51.100.1"
        );
        assert_eq!(client("127.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:127.0.0.1", &["::ffff:198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn ports_and_brackets_are_understood_and_garbage_is_not() {
        assert_eq!(client("127.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("127.0.0.1", &["198.51.100.1, nonsense"]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.1, nonsense, 10.0.0.1"]), "10.0.0.1");
        assert_eq!(client("127.0.0.1", &[""]), "127.0.0.1");
    }

    #[test]
    fn a_hundred_hops_do_no_harm() {
        let line = vec!["10.0.0.1"; 100].join(",");
        assert_eq!(client("127.0.0.1", &[&line]), "10.0.0.1");
    }
}
