//! Claims as the log keeps them: what a commit changes about them, who owns them, and what they must be by the log.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::{PgPool, Row};
use uuid::Uuid;

use annals_domain::ids::{SessionId, UserId};
use annals_domain::{ClaimChange, ClaimKey, ClaimScope, claims};

use crate::append::StreamId;
use crate::error::StoreError;
use crate::position::Position;
use crate::vault::Vault;

/// The longest key, in bytes, that fits the index well.
pub(crate) const MAX_KEY_BYTES: usize = 1024;

/// The most claims that [`with_prefix`] returns.
const MAX_LISTED: i64 = 10_000;

const OWNERS_OF: &str = "
    select c.owner_id
    from unnest($1::text[], $2::bytea[]) with ordinality as k(scope, key, number)
    left join log.claims c on c.scope = k.scope and c.key = k.key
    order by k.number
";

const WITH_PREFIX: &str = "
    select key, owner_id
    from log.claims
    where scope = $1 and key >= $2 and ($3::bytea is null or key < $3)
    order by key
    limit $4
";

const BOTH_HELD: &str = "
    select exists (select from log.claims where scope = $1 and key = $2)
        and exists (select from log.claims where scope = $3 and key = $4)
";

/// A [`ClaimChange`] with its key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum StoredChange {
    Take(ClaimScope, Vec<u8>),
    Release(ClaimScope, Vec<u8>),
    ReleaseAll(ClaimScope),
}

impl StoredChange {
    pub(crate) fn new(change: &ClaimChange, vault: &Vault) -> Self {
        match change {
            ClaimChange::Take { scope, key } => Self::Take(*scope, vault.claim_key(*scope, key)),
            ClaimChange::Release { scope, key } => Self::Release(*scope, vault.claim_key(*scope, key)),
            ClaimChange::ReleaseAll { scope } => Self::ReleaseAll(*scope),
        }
    }
}

/// What the append function is told to do with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Taken, and kept to the end of the command.
    Take,
    /// Taken and given up again by the same command: must have been free, but leaves no row.
    Check,
    Release,
    ReleaseAll,
}

impl Step {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Check => "check",
            Self::Release => "release",
            Self::ReleaseAll => "release_all",
        }
    }
}

/// One step of a command, in the order of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimStep {
    pub(crate) step: Step,
    pub(crate) scope: ClaimScope,
    /// Empty for [`Step::ReleaseAll`].
    pub(crate) key: Vec<u8>,
    pub(crate) owner: StreamId,
    /// Number of the event within the command, from 0.
    pub(crate) event: usize,
}

/// Reduces the changes of one command, in order, to steps that may be carried out set by set: all takes are judged by
/// the log as it was, then everything released goes, then everything taken comes. A claim that two streams of the
/// command want at once is refused here, by its scope.
pub(crate) fn steps(
    changes: impl IntoIterator<Item = (StreamId, usize, StoredChange)>,
) -> Result<Vec<ClaimStep>, Vec<ClaimScope>> {
    let mut steps: Vec<ClaimStep> = Vec::new();
    let mut held: HashMap<(ClaimScope, Vec<u8>), (StreamId, usize)> = HashMap::new();
    let mut taken = BTreeSet::new();
    for (owner, event, change) in changes {
        match change {
            StoredChange::Take(scope, key) => {
                let number = steps.len();
                match held.get(&(scope, key.clone())) {
                    Some((holder, _)) if *holder == owner => {}
                    Some(_) => drop(taken.insert(scope)),
                    None => {
                        held.insert((scope, key.clone()), (owner, number));
                        steps.push(ClaimStep {
                            step: Step::Take,
                            scope,
                            key,
                            owner,
                            event,
                        });
                    }
                }
            }
            StoredChange::Release(scope, key) => {
                let place = (scope, key);
                if let Some((holder, number)) = held.get(&place)
                    && *holder == owner
                {
                    steps[*number].step = Step::Check;
                    held.remove(&place);
                }
                // Besides, the stream may have held it before the command.
                steps.push(ClaimStep {
                    step: Step::Release,
                    scope,
                    key: place.1,
                    owner,
                    event,
                });
            }
            StoredChange::ReleaseAll(scope) => {
                held.retain(|(held_scope, _), (holder, number)| {
                    let released = *held_scope == scope && *holder == owner;
                    if released {
                        steps[*number].step = Step::Check;
                    }
                    !released
                });
                steps.push(ClaimStep {
                    step: Step::ReleaseAll,
                    scope,
                    key: Vec::new(),
                    owner,
                    event,
                });
            }
        }
    }
    if taken.is_empty() {
        Ok(steps)
    } else {
        Err(taken.into_iter().collect())
    }
}

/// All claims, as the events in order make them: what the table must say.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owners: HashMap<(ClaimScope, Vec<u8>), (StreamId, Position)>,
    of_owner: HashMap<(StreamId, ClaimScope), HashSet<Vec<u8>>>,
}

impl Ledger {
    /// Carries out one change; the present owner when the claim is another stream's.
    pub(crate) fn apply(
        &mut self,
        stream: StreamId,
        position: Position,
        change: StoredChange,
    ) -> Result<(), (ClaimScope, Vec<u8>, StreamId)> {
        match change {
            StoredChange::Take(scope, key) => match self.owners.get(&(scope, key.clone())) {
                Some((owner, _)) if *owner == stream => {}
                Some((owner, _)) => return Err((scope, key, *owner)),
                None => {
                    self.of_owner.entry((stream, scope)).or_default().insert(key.clone());
                    self.owners.insert((scope, key), (stream, position));
                }
            },
            StoredChange::Release(scope, key) => {
                if self
                    .owners
                    .get(&(scope, key.clone()))
                    .is_some_and(|(owner, _)| *owner == stream)
                {
                    self.remove(scope, &key);
                }
            }
            StoredChange::ReleaseAll(scope) => {
                for key in self.of_owner.remove(&(stream, scope)).unwrap_or_default() {
                    self.owners.remove(&(scope, key));
                }
            }
        }
        Ok(())
    }

    /// Takes a claim out of the ledger.
    pub(crate) fn remove(&mut self, scope: ClaimScope, key: &[u8]) -> Option<(StreamId, Position)> {
        let (owner, position) = self.owners.remove(&(scope, key.to_vec()))?;
        if let Some(keys) = self.of_owner.get_mut(&(owner, scope)) {
            keys.remove(key);
            if keys.is_empty() {
                self.of_owner.remove(&(owner, scope));
            }
        }
        Some((owner, position))
    }

    /// The claim that sorts first among those left.
    pub(crate) fn first(&self) -> Option<(ClaimScope, &[u8], StreamId)> {
        self.owners
            .iter()
            .map(|((scope, key), (owner, _))| (*scope, key.as_slice(), *owner))
            .min_by_key(|(scope, key, _)| (*scope, *key))
    }
}

pub(crate) async fn owners_of(
    pool: &PgPool,
    vault: &Vault,
    keys: &[(ClaimScope, ClaimKey)],
) -> Result<Vec<Option<Uuid>>, StoreError> {
    let scopes: Vec<&str> = keys.iter().map(|(scope, _)| scope.as_str()).collect();
    let keys: Vec<Vec<u8>> = keys.iter().map(|(scope, key)| vault.claim_key(*scope, key)).collect();
    Ok(sqlx::query_scalar(OWNERS_OF)
        .bind(scopes)
        .bind(keys)
        .fetch_all(pool)
        .await?)
}

pub(crate) async fn with_prefix(
    pool: &PgPool,
    scope: ClaimScope,
    prefix: &[u8],
) -> Result<Vec<(Vec<u8>, Uuid)>, StoreError> {
    let rows = sqlx::query(WITH_PREFIX)
        .bind(scope.as_str())
        .bind(prefix)
        .bind(end_of(prefix))
        .bind(MAX_LISTED)
        .fetch_all(pool)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("key")?, row.try_get("owner_id")?)))
        .collect()
}

/// The first key that no longer starts with `prefix`; absent when there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

pub(crate) async fn session_is_live(
    pool: &PgPool,
    vault: &Vault,
    user: UserId,
    session: SessionId,
) -> Result<bool, StoreError> {
    let session = vault.claim_key(ClaimScope::Session, &claims::session_key(user, session));
    let user = vault.claim_key(ClaimScope::User, &ClaimKey::id(user));
    Ok(sqlx::query_scalar(BOTH_HELD)
        .bind(ClaimScope::Session.as_str())
        .bind(session)
        .bind(ClaimScope::User.as_str())
        .bind(user)
        .fetch_one(pool)
        .await?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    type Claims = HashMap<(ClaimScope, Vec<u8>), (StreamId, Position)>;

    fn stream(number: u8) -> StreamId {
        StreamId::new("content", Uuid::from_u128(u128::from(number)))
    }

    fn change() -> impl Strategy<Value = StoredChange> {
        let scope = prop_oneof![
            proptest::strategy::Just(ClaimScope::Slug),
            proptest::strategy::Just(ClaimScope::ContentField)
        ];
        let key = (0_u8..4).prop_map(|key| vec![key]);
        prop_oneof![
            4 => (scope.clone(), key.clone()).prop_map(|(scope, key)| StoredChange::Take(scope, key)),
            2 => (scope.clone(), key).prop_map(|(scope, key)| StoredChange::Release(scope, key)),
            1 => scope.prop_map(StoredChange::ReleaseAll),
        ]
    }

    fn command() -> impl Strategy<Value = Vec<(StreamId, StoredChange)>> {
        prop::collection::vec(((0_u8..3).prop_map(stream), change()), 1..7)
    }

    /// What `log.append` does with the steps of one command, in its words.
    fn carry_out(claims: &mut Claims, first: u64, steps: &[ClaimStep]) -> bool {
        for (number, step) in steps.iter().enumerate() {
            if !matches!(step.step, Step::Take | Step::Check) {
                continue;
            }
            if let Some((owner, _)) = claims.get(&(step.scope, step.key.clone()))
                && *owner != step.owner
                && !steps[..number].iter().any(|earlier| {
                    earlier.scope == step.scope
                        && earlier.owner == *owner
                        && (earlier.step == Step::ReleaseAll
                            || earlier.step == Step::Release && earlier.key == step.key)
                })
            {
                return false;
            }
        }
        for step in steps {
            claims.retain(|(scope, key), (owner, _)| {
                !(step.scope == *scope
                    && step.owner == *owner
                    && (step.step == Step::ReleaseAll || step.step == Step::Release && step.key == *key))
            });
        }
        for step in steps.iter().filter(|step| step.step == Step::Take) {
            let position = Position(first + step.event as u64);
            let place = (step.scope, step.key.clone());
            if claims.get(&place).is_none_or(|(owner, _)| *owner != step.owner) {
                assert!(
                    claims.insert(place, (step.owner, position)).is_none(),
                    "the unique key would refuse this"
                );
            }
        }
        true
    }

    proptest! {
        #[test]
        fn set_by_set_and_one_by_one_come_to_the_same(history in prop::collection::vec(command(), 1..12)) {
            let mut table = Claims::new();
            let mut ledger = Ledger::default();
            let mut next = 1;
            for command in history {
                let changes = command.iter().cloned().enumerate().map(|(event, (owner, change))| (owner, event, change));
                let done = steps(changes).is_ok_and(|steps| carry_out(&mut table, next, &steps));
                let mut trial = Ledger { owners: ledger.owners.clone(), of_owner: ledger.of_owner.clone() };
                let mut allowed = true;
                for (number, (owner, change)) in command.iter().enumerate() {
                    allowed &= trial.apply(*owner, Position(next + number as u64), change.clone()).is_ok();
                }
                prop_assert_eq!(done, allowed);
                if allowed {
                    ledger = trial;
                    next += command.len() as u64;
                }
                prop_assert_eq!(&table, &ledger.owners);
            }
            let indexed: usize = ledger.of_owner.values().map(HashSet::len).sum();
            prop_assert_eq!(indexed, ledger.owners.len());
        }

        #[test]
        fn the_end_of_a_prefix_is_right_after_its_last_key(prefix in prop::collection::vec(0_u8..=255, 0..5), rest in prop::collection::vec(0_u8..=255, 0..5)) {
            let inside = [prefix.as_slice(), &rest].concat();
            if let Some(end) = end_of(&prefix) {
                prop_assert!(inside < end);
                prop_assert!(!end.starts_with(&prefix));
            } else {
                prop_assert!(prefix.iter().all(|byte| *byte == u8::MAX));
            }
        }
    }

    #[test]
    fn a_claim_passes_from_one_stream_to_another_in_one_command() {
        let key = vec![1];
        let (a, b) = (stream(1), stream(2));
        let steps = steps([
            (a, 0, StoredChange::ReleaseAll(ClaimScope::Slug)),
            (b, 1, StoredChange::Take(ClaimScope::Slug, key.clone())),
        ])
        .unwrap();
        let mut claims = Claims::from([((ClaimScope::Slug, key.clone()), (a, Position(1)))]);
        assert!(carry_out(&mut claims, 2, &steps));
        assert_eq!(claims, Claims::from([((ClaimScope::Slug, key), (b, Position(3)))]));
    }
}
