use annals_domain::{OrganizationId, Role, SessionId, Timestamp, UserId};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Identity, MAX_TOKEN_BYTES, OpaqueToken, TokenFault, TokenKey, TokenSettings, Tokens};

const NOW: &str = "2026-02-15T12:00:00Z";
const NOW_SECONDS: u64 = 1_771_156_800;
const SECRET: [u8; 32] = [7; 32];

fn now() -> Timestamp {
    Timestamp::parse_rfc3339(NOW).unwrap()
}

fn tokens() -> Tokens {
    Tokens::new(TokenKey::new(&SECRET), Vec::new(), TokenSettings::default())
}

fn identity() -> Identity {
    Identity {
        user_id: UserId::new(Uuid::from_u128(1)),
        session_id: SessionId::new(Uuid::from_u128(2)),
        email: Some("ada@example.org".to_owned()),
        organization_id: Some(OrganizationId::new(Uuid::from_u128(3))),
        role: Role::Editor,
    }
}

fn access() -> String {
    tokens()
        .sign_access(&identity(), now(), now().plus_seconds(600))
        .unwrap()
}

fn refresh() -> String {
    let Identity {
        user_id, session_id, ..
    } = identity();
    tokens()
        .sign_refresh(user_id, session_id, now(), now().plus_seconds(600))
        .unwrap()
}

fn part(token: &str, index: usize) -> Value {
    let text = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

/// Signs anything with our own key, as nobody else can; what is refused then is refused for its content.
fn forge(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(&SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn with_header(change: impl FnOnce(&mut Value)) -> String {
    let token = access();
    let mut header = part(&token, 0);
    change(&mut header);
    forge(&header.to_string(), &part(&token, 1).to_string())
}

fn with_claims(change: impl FnOnce(&mut Value)) -> String {
    let token = access();
    let mut claims = part(&token, 1);
    change(&mut claims);
    forge(&part(&token, 0).to_string(), &claims.to_string())
}

fn refused(token: &str) -> TokenFault {
    tokens().verify_access(token, now()).unwrap_err()
}

#[test]
fn a_token_of_ours_is_accepted_until_its_time_is_over() {
    let accepted = tokens().verify_access(&access(), now()).unwrap();
    assert_eq!(accepted.identity, identity());
    assert_eq!(accepted.expires_at, now().plus_seconds(600));
    assert!(tokens().verify_access(&access(), now().plus_seconds(599)).is_ok());
    assert_eq!(
        tokens().verify_access(&access(), now().plus_seconds(600)),
        Err(TokenFault::Expired)
    );
    let refresh_token = tokens().verify_refresh(&refresh(), now()).unwrap();
    assert_eq!(refresh_token.session_id, identity().session_id);
    assert_eq!(
        tokens().verify_refresh(&refresh(), now().plus_seconds(600)),
        Err(TokenFault::Expired)
    );
}

#[test]
fn an_access_token_has_the_claims_of_every_contract() {
    let token = access();
    assert_eq!(
        part(&token, 0),
        json!({"alg": "HS256", "typ": "at+jwt", "kid": TokenKey::new(&SECRET).id()})
    );
    let claims = part(&token, 1);
    for (name, value) in [
        ("sub", json!("00000000-0000-0000-0000-000000000001")),
        ("user_id", json!("00000000-0000-0000-0000-000000000001")),
        ("session_id", json!("00000000-0000-0000-0000-000000000002")),
        ("email", json!("ada@example.org")),
        ("org_id", json!("00000000-0000-0000-0000-000000000003")),
        ("role", json!("editor")),
        ("type", json!("access")),
        ("token_type", json!("access")),
        ("iat", json!(NOW_SECONDS)),
        ("exp", json!(NOW_SECONDS + 600)),
        ("iss", json!("annals")),
        ("aud", json!("annals")),
        ("tv", json!(1)),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    assert_ne!(access(), access(), "two tokens of one second differ by jti");
}

#[test]
fn jw_1_only_our_algorithm_is_accepted() {
    for alg in [
        "none", "None", "nOnE", "NONE", "", "hs256", "HS384", "HS512", "RS256", "ES256", "EdDSA",
    ] {
        assert_eq!(
            refused(&with_header(|header| header["alg"] = json!(alg))),
            TokenFault::Invalid,
            "{alg}"
        );
    }
    for alg in [json!(null), json!(1), json!(["HS256"])] {
        assert_eq!(refused(&with_header(|header| header["alg"] = alg)), TokenFault::Invalid);
    }
    let missing = with_header(|header| drop(header.as_object_mut().unwrap().remove("alg")));
    assert_eq!(refused(&missing), TokenFault::Invalid);
    let (message, _) = access()
        .rsplit_once('.')
        .map(|(m, s)| (m.to_owned(), s.to_owned()))
        .unwrap();
    assert_eq!(refused(&format!("{message}.")), TokenFault::Malformed);
    assert_eq!(refused(&message), TokenFault::Malformed);
}

#[test]
fn jw_3_a_key_name_is_compared_and_nothing_else() {
    let long = "a".repeat(2000);
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "' or 1=1 --",
        "",
        "unknown",
        long.as_str(),
        "\u{0}",
    ] {
        assert_eq!(
            refused(&with_header(|header| header["kid"] = json!(kid))),
            TokenFault::Invalid,
            "{kid}"
        );
    }
    for kid in [json!(null), json!(1), json!([TokenKey::new(&SECRET).id()]), json!({})] {
        assert_eq!(refused(&with_header(|header| header["kid"] = kid)), TokenFault::Invalid);
    }
    let missing = with_header(|header| drop(header.as_object_mut().unwrap().remove("kid")));
    assert_eq!(refused(&missing), TokenFault::Invalid);
}

#[test]
fn jw_4_a_token_does_not_bring_its_own_key() {
    for name in ["jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256"] {
        let token = with_header(|header| header[name] = json!("http://attacker.example/key"));
        assert_eq!(refused(&token), TokenFault::Invalid, "{name}");
    }
}

#[test]
fn jw_5_what_the_header_demands_beyond_our_form_is_refused() {
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!(["unknown"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("enc", json!("A128GCM")),
        ("nonce", json!("x")),
    ] {
        assert_eq!(
            refused(&with_header(|header| header[name] = value)),
            TokenFault::Invalid,
            "{name}"
        );
    }
}

#[test]
fn jw_6_each_kind_of_token_serves_its_own_purpose() {
    assert_eq!(refused(&refresh()), TokenFault::WrongType);
    assert_eq!(tokens().verify_refresh(&access(), now()), Err(TokenFault::WrongType));
    for typ in ["JWT", "at+JWT", "application/at+jwt", "refresh+jwt", "", "id+jwt"] {
        assert_eq!(
            refused(&with_header(|header| header["typ"] = json!(typ))),
            TokenFault::WrongType,
            "{typ}"
        );
    }
    let missing = with_header(|header| drop(header.as_object_mut().unwrap().remove("typ")));
    assert_eq!(refused(&missing), TokenFault::Invalid);
    for name in ["type", "token_type"] {
        for other in ["refresh", "mfa_pending"] {
            assert_eq!(
                refused(&with_claims(|claims| claims[name] = json!(other))),
                TokenFault::WrongType,
                "{other}"
            );
        }
        assert_eq!(
            refused(&with_claims(|claims| claims[name] = json!("id"))),
            TokenFault::Invalid
        );
    }
    let later = now().plus_seconds(600);
    assert_eq!(tokens().verify_access(&refresh(), later), Err(TokenFault::Expired));
}

#[test]
fn jw_7_every_claim_is_needed_and_strict() {
    for name in [
        "iss",
        "aud",
        "sub",
        "user_id",
        "session_id",
        "exp",
        "iat",
        "jti",
        "type",
        "token_type",
        "role",
        "tv",
    ] {
        let token = with_claims(|claims| drop(claims.as_object_mut().unwrap().remove(name)));
        assert_eq!(refused(&token), TokenFault::Invalid, "without {name}");
        let token = with_claims(|claims| claims[name] = json!(null));
        assert_eq!(refused(&token), TokenFault::Invalid, "{name} null");
        let token = with_claims(|claims| claims[name] = json!({}));
        assert_eq!(refused(&token), TokenFault::Invalid, "{name} object");
    }
    for (name, value) in [
        ("iss", json!("somebody")),
        ("iss", json!(["annals"])),
        ("aud", json!("somebody")),
        ("aud", json!(["somebody"])),
        ("aud", json!([])),
        ("sub", json!("00000000-0000-0000-0000-000000000009")),
        ("sub", json!("")),
        ("session_id", json!("2")),
        ("role", json!("root")),
        ("exp", json!((NOW_SECONDS + 600).to_string())),
        ("exp", json!(1e30)),
        ("exp", json!(-1)),
        ("exp", json!(NOW_SECONDS as f64 + 600.5)),
        ("exp", json!((NOW_SECONDS + 600) as f64)),
        ("iat", json!(NOW_SECONDS + 31)),
        ("iat", json!(-1)),
        ("iat", json!(u64::MAX)),
        ("nbf", json!(NOW_SECONDS + 31)),
        ("nbf", json!("0")),
        ("nbf", json!(1.5)),
    ] {
        let shown = format!("{name} {value}");
        assert_eq!(
            refused(&with_claims(|claims| claims[name] = value)),
            TokenFault::Invalid,
            "{shown}"
        );
    }
    // An expiry beyond what time can count is far away, not past; signing it takes our key.
    let far = with_claims(|claims| claims["exp"] = json!(u64::MAX));
    assert_eq!(tokens().verify_access(&far, now()).unwrap().expires_at, Timestamp::MAX);
    // A clock a little ahead of ours is not an attack.
    assert!(
        tokens()
            .verify_access(&with_claims(|claims| claims["iat"] = json!(NOW_SECONDS + 30)), now())
            .is_ok()
    );
}

#[test]
fn jw_7_a_member_said_twice_is_refused() {
    let token = access();
    let (header, claims) = (part(&token, 0).to_string(), part(&token, 1).to_string());
    for name in ["exp", "sub", "session_id", "role", "aud"] {
        let value = &part(&token, 1)[name];
        let twice = claims.replacen('{', &format!("{{{}:{value},", json!(name)), 1);
        assert_eq!(refused(&forge(&header, &twice)), TokenFault::Invalid, "{name}");
    }
    let twice = header.replacen('{', "{\"alg\":\"HS256\",", 1);
    assert_eq!(refused(&forge(&twice, &claims)), TokenFault::Invalid);
}

#[test]
fn jw_7_arrays_and_scalars_are_no_objects() {
    let token = access();
    let (header, claims) = (part(&token, 0), part(&token, 1).to_string());
    let array = json!([header["alg"], header["typ"], header["kid"]]).to_string();
    assert_eq!(refused(&forge(&array, &claims)), TokenFault::Invalid);
    for claims in ["[]", "1", "\"x\"", "null", "true", "", "{", "{}{}", " {}"] {
        let fault = refused(&forge(&header.to_string(), claims));
        assert!(matches!(fault, TokenFault::Invalid | TokenFault::Malformed), "{claims}");
    }
}

#[test]
fn jw_8_every_byte_of_a_token_counts() {
    let token = access();
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(tokens().verify_access(&changed, now()).is_err(), "byte {index}");
        assert!(
            tokens().verify_access(&token[..index], now()).is_err(),
            "cut at {index}"
        );
    }
    let (message, signature) = token.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for other in [
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{token}A"),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}\n"),
        format!(".{token}"),
        format!("{message}.{}", URL_SAFE.encode(&raw)),
        format!("{message}.{}", STANDARD.encode([0xff; 32])),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 32])),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(&raw[..31])),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode([raw.as_slice(), &[0]].concat())),
    ] {
        assert!(tokens().verify_access(&other, now()).is_err(), "{other:?}");
    }
}

#[test]
fn jw_9_size_is_looked_at_first() {
    assert_eq!(refused(&"a".repeat(65_536)), TokenFault::Malformed);
    assert_eq!(
        refused(&format!("{}.{}.x", "a".repeat(MAX_TOKEN_BYTES), "b")),
        TokenFault::Malformed
    );
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
    let header = part(&access(), 0).to_string();
    assert_eq!(refused(&forge(&header, &deep)), TokenFault::Invalid);
    for text in ["", ".", "..", "...", "a.b", "a.b.c", "é.é.é", "\0.\0.\0", "Bearer"] {
        assert_eq!(refused(text), TokenFault::Malformed, "{text:?}");
    }
}

#[test]
fn a_token_of_another_key_is_refused_until_the_key_is_known() {
    let old = TokenKey::new(&[8; 32]);
    let before = Tokens::new(old.clone(), Vec::new(), TokenSettings::default());
    let token = before.sign_access(&identity(), now(), now().plus_seconds(600)).unwrap();
    assert_eq!(refused(&token), TokenFault::Invalid);
    let rotated = Tokens::new(TokenKey::new(&SECRET), vec![old], TokenSettings::default());
    assert!(rotated.verify_access(&token, now()).is_ok());
    assert!(rotated.verify_access(&access(), now()).is_ok());
    // The name of one key does not make it another's signature.
    let mut header = part(&token, 0);
    header["kid"] = part(&access(), 0)["kid"].clone();
    let (_, rest) = token.split_once('.').unwrap();
    let swapped = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()));
    assert_eq!(rotated.verify_access(&swapped, now()), Err(TokenFault::Invalid));
}

#[test]
fn a_key_does_not_print() {
    let shown = format!("{:?}", tokens());
    assert!(
        !shown.contains(&hex::encode(SECRET)) && !shown.contains("7, 7"),
        "{shown}"
    );
}

#[test]
fn an_opaque_token_is_64_random_bytes_and_only_its_digest_is_kept() {
    let token = OpaqueToken::generate().unwrap();
    assert_eq!(token.as_str().len(), 86);
    assert_eq!(URL_SAFE_NO_PAD.decode(token.as_str()).unwrap().len(), 64);
    assert_eq!(OpaqueToken::digest_of(token.as_str()), Some(token.digest()));
    assert_ne!(OpaqueToken::generate().unwrap().digest(), token.digest());
    assert!(!format!("{token:?}").contains(token.as_str()));
    let cut = &token.as_str()[..85];
    for text in [
        "",
        cut,
        &format!("{cut}="),
        &format!("{cut}é"),
        &format!("{}A", token.as_str()),
        &"!".repeat(86),
    ] {
        assert_eq!(OpaqueToken::digest_of(text), None, "{text:?}");
    }
}

#[test]
fn a_key_file_is_made_once_and_for_its_owner_alone() {
    let folder = std::env::temp_dir().join(format!("annals-token-key-{}", Uuid::now_v7()));
    let path = folder.join("keys").join("token.key");
    let made: Vec<String> = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| TokenKey::load_or_create(&path).unwrap().id().to_owned()))
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    std::fs::write(&path, "not a key").unwrap();
    let error = TokenKey::load_or_create(&path).unwrap_err();
    assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}
