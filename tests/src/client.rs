//! The HTTP client of the tests.

use reqwest::ClientBuilder;

/// A client to be set up further. Makes sure that there is a TLS provider first: reqwest asks for one even where
/// nothing but plain HTTP is spoken, and the features of this workspace leave the choice open.
pub fn client() -> ClientBuilder {
    // Whoever comes second finds one installed, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
}
