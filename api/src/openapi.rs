//! The OpenAPI document, made from the one list of routes in `crate::router`.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

/// Title, licence and security schemes; paths are added by the routes themselves.
pub(crate) fn frame() -> OpenApi {
    let cookie = crate::config::Config::defaults().cookie.name;
    let license = LicenseBuilder::new()
        .name("MIT OR Apache-2.0")
        .identifier(Some("MIT OR Apache-2.0"))
        .build();
    let info = InfoBuilder::new()
        .title("Annals")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Event-sourced identity and content. Every path under /api/v1/auth is served under /api/auth too, without a \
             trailing slash; /api/auth/<x>/ with one is the Django contract.",
        ))
        .license(Some(license))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme(
            "bearer",
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .bearer_format("JWT")
                    .build(),
            ),
        )
        .security_scheme(
            "cookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(cookie))),
        )
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// The whole document.
#[must_use]
pub fn document() -> OpenApi {
    crate::router::routes().into_openapi()
}
