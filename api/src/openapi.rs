//! The OpenAPI document, made from the one list of routes in `crate::router`.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
};

use crate::middleware::IDEMPOTENCY_KEY_NAME;
use crate::problem::is_django;

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
    let mut document = crate::router::routes().into_openapi();
    for (path, item) in &mut document.paths.paths {
        let in_envelope = !is_django(path);
        let writes = [&mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in writes.into_iter().flatten() {
            take_idempotency_key(operation, in_envelope);
        }
    }
    document
}

/// What `crate::middleware` does for every write, said of each.
fn take_idempotency_key(operation: &mut Operation, in_envelope: bool) {
    operation
        .parameters
        .get_or_insert_default()
        .push(RefOr::T(idempotency_key()));
    let refusals = [
        (
            "409",
            "Also `IDEMPOTENCY_ANSWER_GONE`: a request with this `Idempotency-Key` was carried out before, and its answer \
             is no longer there; `details.position` is the position of its last event. `IDEMPOTENCY_IN_PROGRESS`: it is being \
             carried out; ask again after `Retry-After`.",
        ),
        (
            "422",
            "Also `IDEMPOTENCY_KEY_REUSED`: this `Idempotency-Key` was used for another request.",
        ),
    ];
    for (status, description) in refusals {
        let mut refusal = ResponseBuilder::new().description(description);
        if in_envelope {
            let schema = Ref::from_schema_name("ProblemBody");
            refusal = refusal.content("application/json", ContentBuilder::new().schema(Some(schema)).build());
        }
        let known = operation.responses.responses.entry(status.to_owned());
        known
            .and_modify(|known| {
                if let RefOr::T(known) = known {
                    known.description = format!("{} {description}", known.description).trim().to_owned();
                }
            })
            .or_insert_with(|| RefOr::T(refusal.build()));
    }
}

fn idempotency_key() -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(255))
        .build();
    ParameterBuilder::new()
        .name(IDEMPOTENCY_KEY_NAME)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "A name of the client's for this request, best a random UUID: 1 to 255 visible ASCII characters, alone or as a \
             quoted string. The same request sent again under it is not carried out again and gets the first answer, with \
             `Idempotency-Replayed: true`.",
        ))
        .schema(Some(schema))
        .build()
}
