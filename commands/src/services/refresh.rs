//! Refresh tokens that continue a session: session, generation and a keyed hash of both, 64 bytes in all.
//!
//! Nothing about them is stored but digests, and yet the successor of a token can be made again, by any process that has
//! the master key: whoever lost the answer to a refresh, and twenty tabs that refresh at once, all get the same one.

use annals_domain::SessionId;
use annals_eventstore::Vault;
use annals_eventstore::vault::REFRESH_HASH_BYTES;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::services::token::{OPAQUE_BYTES, OpaqueToken};

const SESSION_BYTES: usize = 16;
const GENERATION_BYTES: usize = 4;

const _: () = assert!(SESSION_BYTES + GENERATION_BYTES + REFRESH_HASH_BYTES == OPAQUE_BYTES);

/// The token of a session after `generation` refreshes.
#[must_use]
pub fn token_of(vault: &Vault, session_id: SessionId, generation: u32) -> OpaqueToken {
    let mut bytes = Zeroizing::new([0; OPAQUE_BYTES]);
    let (session, rest) = bytes.split_at_mut(SESSION_BYTES);
    let (number, hash) = rest.split_at_mut(GENERATION_BYTES);
    session.copy_from_slice(session_id.as_uuid().as_bytes());
    number.copy_from_slice(&generation.to_be_bytes());
    hash.copy_from_slice(&*vault.refresh_hash(session_id.as_uuid(), generation));
    OpaqueToken::from_bytes(&bytes)
}

/// Which session a token is of, and of which generation; absent when it was not made by [`token_of`].
#[must_use]
pub fn read(vault: &Vault, text: &str) -> Option<(SessionId, u32)> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    let (session, rest) = bytes.split_first_chunk::<SESSION_BYTES>()?;
    let (number, hash) = rest.split_first_chunk::<GENERATION_BYTES>()?;
    let session_id = SessionId::new(Uuid::from_bytes(*session));
    let generation = u32::from_be_bytes(*number);
    let expected = vault.refresh_hash(session_id.as_uuid(), generation);
    bool::from(hash.ct_eq(expected.as_slice())).then_some((session_id, generation))
}
