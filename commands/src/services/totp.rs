//! Time-based one-time passwords (RFC 6238) in the form that every authenticator knows: SHA-1, 6 digits, 30 seconds.

use annals_domain::{Timestamp, TotpSecret};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use totp_rs::{Algorithm, Builder, Secret, Totp};
use zeroize::Zeroizing;

/// Length of a time step, in seconds.
pub const STEP_SECONDS: u64 = 30;
/// Digits of a code.
pub const DIGITS: u8 = 6;
/// Time steps that a code may be early or late.
pub const WINDOW_STEPS: u16 = 1;

const SECRET_BYTES: usize = 20;

/// What stands for itself in a URI's component (RFC 3986, section 2.3).
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A fresh secret of 160 random bits.
///
/// # Errors
/// When the system gives no random numbers.
///
/// # Panics
/// Never: 160 bits are 32 characters of base32.
pub(crate) fn new_secret() -> Result<TotpSecret, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    getrandom::fill(&mut *bytes)?;
    let text = Zeroizing::new(Secret::new_stack(*bytes).to_base32());
    Ok(TotpSecret::parse(&text).expect("160 bits are 32 characters of base32"))
}

/// The time step whose code this is, of the present one and its neighbours. Compared in constant time; what is not six
/// ASCII digits is no code.
pub(crate) fn matching_step(secret: &TotpSecret, code: &str, now: Timestamp) -> Option<u64> {
    let seconds = u64::try_from(now.unix_seconds()).ok()?;
    totp(secret)?.check(code, seconds)
}

fn totp(secret: &TotpSecret) -> Option<Totp> {
    let secret = Secret::try_from_base32(secret.as_str()).ok()?;
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_step_duration(STEP_SECONDS)
        .with_skew(WINDOW_STEPS)
        .with_secret(secret)
        .build()
        .ok()
}

/// What an authenticator reads, usually as a picture: secret, issuer and account (the `otpauth` format that Google
/// Authenticator has set).
pub(crate) fn provisioning_uri(secret: &TotpSecret, issuer: &str, account: &str) -> String {
    let issuer = utf8_percent_encode(issuer, COMPONENT);
    let account = utf8_percent_encode(account, COMPONENT);
    let secret = secret.as_str();
    format!(
        "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238, appendix B: the ASCII text 12345678901234567890.
    const RFC_SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn rfc() -> TotpSecret {
        TotpSecret::parse(RFC_SECRET).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000)
    }

    /// RFC 6238, appendix B, the rows for SHA-1; its codes have eight digits, of which the last six are ours.
    #[test]
    fn the_codes_of_the_standard_match_their_steps() {
        for (seconds, code) in [
            (59_i64, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let step = seconds.unsigned_abs() / STEP_SECONDS;
            assert_eq!(matching_step(&rfc(), &code[2..], at(seconds)), Some(step), "{seconds}");
        }
    }

    /// MF-4
    #[test]
    fn a_code_may_be_one_step_early_or_late_and_no_more() {
        let code = "050471"; // of step 37037037, which begins at 1111111110
        let begins = 1_111_111_110;
        for seconds in [begins - 30, begins - 1, begins, begins + 29, begins + 30, begins + 59] {
            assert_eq!(matching_step(&rfc(), code, at(seconds)), Some(37_037_037), "{seconds}");
        }
        for seconds in [begins - 31, begins + 60] {
            assert_eq!(matching_step(&rfc(), code, at(seconds)), None, "{seconds}");
        }
    }

    /// MF-5
    #[test]
    fn only_six_ascii_digits_are_a_code() {
        let now = at(1_111_111_110);
        for code in [
            "",
            "50471",
            "0050471",
            " 050471",
            "050471 ",
            "050 471",
            "+50471",
            "000000",
            "０５０４７１",
            "05047a",
            "0x0504",
        ] {
            assert_eq!(matching_step(&rfc(), code, now), None, "{code:?}");
        }
    }

    #[test]
    fn secrets_are_fresh() {
        assert_ne!(new_secret().unwrap(), new_secret().unwrap());
    }

    #[test]
    fn whatever_is_in_the_names_the_uri_keeps_its_parts() {
        assert_eq!(
            provisioning_uri(&rfc(), "Annals", "ada@example.org"),
            format!(
                "otpauth://totp/Annals:ada%40example.org?secret={RFC_SECRET}&issuer=Annals&algorithm=SHA1&digits=6&period=30"
            )
        );
        let uri = provisioning_uri(&rfc(), "A:B & C?", "\"a:b\"@example.org");
        assert!(
            uri.starts_with("otpauth://totp/A%3AB%20%26%20C%3F:%22a%3Ab%22%40example.org?secret="),
            "{uri}"
        );
    }
}
