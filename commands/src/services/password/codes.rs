//! Several short secrets of one person, hashed with one salt: a guess at any of them costs one hash, not one each.

use annals_domain::PasswordHash;
use secrecy::SecretString;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::{Job, PasswordError, PasswordPool, Stored, fresh_salt, normalise};
use secrecy::ExposeSecret;

impl PasswordPool {
    /// Hashes each of `codes` with one fresh salt at the present cost; one hash each, one after the other, so that other
    /// people's passwords are not kept waiting behind all of them.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn hash_together(&self, codes: &[SecretString]) -> Result<Vec<PasswordHash>, PasswordError> {
        let salt = fresh_salt()?;
        let mut hashes = Vec::with_capacity(codes.len());
        for code in codes {
            let password = normalise(code.expose_secret())?;
            hashes.push(self.ask(|reply| Job::Hash { password, salt, reply }).await??);
        }
        Ok(hashes)
    }

    /// Which of the hashes that were made together is that of `code`, by its place among them. Costs exactly one hash,
    /// whatever the answer is, and is compared with all of them in constant time.
    ///
    /// # Errors
    /// [`PasswordError`]; nothing was hashed then.
    pub async fn find(&self, code: &SecretString, among: &[PasswordHash]) -> Result<Option<usize>, PasswordError> {
        let password = normalise(code.expose_secret())?;
        let stored = among.iter().map(|hash| Stored::parse(hash.as_str())).collect();
        self.ask(|reply| Job::Find {
            password,
            stored,
            reply,
        })
        .await
    }
}

impl super::Worker {
    /// The place of the hash that `password` has; hashes with another salt or cost than the first one match nothing.
    pub(super) fn find(&mut self, password: &Zeroizing<String>, stored: &[Option<Stored>]) -> Option<usize> {
        let first = stored.iter().flatten().next();
        let (params, salt) = first.map_or_else(
            || (self.params.clone(), vec![0; super::SALT_BYTES]),
            |first| (first.params.clone(), first.salt.clone()),
        );
        let mut output = vec![0; first.map_or(super::OUTPUT_BYTES, |first| first.output.len())];
        self.compute(&params, password, &salt, &mut output).ok()?;
        let mut found = u64::MAX;
        for (place, known) in stored.iter().enumerate() {
            let Some(known) = known else { continue };
            if known.salt == salt && same_cost(&known.params, &params) {
                found.conditional_assign(&(place as u64), known.output.ct_eq(&output));
            }
        }
        usize::try_from(found).ok().filter(|place| *place < stored.len())
    }
}

fn same_cost(one: &argon2::Params, other: &argon2::Params) -> bool {
    (one.m_cost(), one.t_cost(), one.p_cost()) == (other.m_cost(), other.t_cost(), other.p_cost())
}

#[cfg(test)]
mod tests {
    use super::super::PasswordSettings;
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    /// MF-7
    #[tokio::test]
    async fn a_set_has_one_salt_and_a_guess_costs_one_hash() {
        let pool = PasswordPool::start(&PasswordSettings::insecure_and_fast()).unwrap();
        let codes = ["0011aabb", "2233ccdd", "4455eeff"].map(secret);
        let hashes = pool.hash_together(&codes).await.unwrap();
        let salts: std::collections::BTreeSet<_> = hashes
            .iter()
            .map(|hash| hash.as_str().rsplit('$').nth(1).unwrap().to_owned())
            .collect();
        assert_eq!((salts.len(), pool.hashes()), (1, 3));
        for (place, code) in codes.iter().enumerate() {
            assert_eq!(pool.find(code, &hashes).await.unwrap(), Some(place));
        }
        assert_eq!(pool.find(&secret("66778899"), &hashes).await.unwrap(), None);
        assert_eq!(pool.hashes(), 7);
        let others = pool.hash_together(&codes).await.unwrap();
        assert_ne!(others, hashes);
    }

    #[tokio::test]
    async fn where_nothing_can_match_the_cost_is_the_same() {
        let pool = PasswordPool::start(&PasswordSettings::insecure_and_fast()).unwrap();
        let unreadable = [PasswordHash::parse("$2b$12$abcdefghijklmnopqrstuv").unwrap()];
        for among in [&[][..], &unreadable] {
            let before = pool.hashes();
            assert_eq!(pool.find(&secret("0011aabb"), among).await.unwrap(), None);
            assert_eq!(pool.hashes(), before + 1);
        }
        let [one, other] = [secret("0011aabb"), secret("2233ccdd")];
        let foreign = [pool.hash(&one).await.unwrap(), pool.hash(&other).await.unwrap()];
        assert_eq!(pool.find(&other, &foreign).await.unwrap(), None, "another salt");
    }
}
