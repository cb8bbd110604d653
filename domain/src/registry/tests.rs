//! The registry against the golden samples: what was ever written must be read for ever.

mod upcasting;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cqrs_es::persist::{EventUpcaster, SemanticVersionEventUpcaster};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    DecodeError, STATE_SCHEMA, aggregate_types, decode, event_kinds, fold_state, fold_state_from, kind_of, upcast,
};
use crate::claims::ClaimChange;
use crate::kind::EventKind;

/// Samples by event type and version, as the file names say.
fn golden() -> BTreeMap<(String, u32), Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut samples = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let stem = name.strip_suffix(".json").unwrap();
        let (event_type, version) = stem.rsplit_once('.').unwrap();
        let sample = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        samples.insert((event_type.to_owned(), version.parse().unwrap()), sample);
    }
    samples
}

fn aggregate_of(event_type: &str) -> &str {
    event_type.split_once('.').unwrap().0
}

#[test]
fn every_version_of_every_event_type_has_a_sample() {
    let samples = golden();
    for kind in event_kinds() {
        for version in 1..=kind.version.parse().unwrap() {
            let key = (kind.event_type.to_owned(), version);
            assert!(
                samples.contains_key(&key),
                "golden/{}.{version}.json is missing",
                kind.event_type
            );
        }
    }
}

#[test]
fn every_sample_belongs_to_an_event_type() {
    for (event_type, version) in golden().into_keys() {
        let kind = kind_of(aggregate_of(&event_type), &event_type).unwrap();
        let newest: u32 = kind.version.parse().unwrap();
        assert!((1..=newest).contains(&version), "golden/{event_type}.{version}.json");
    }
}

#[test]
fn every_sample_decodes_and_the_newest_reads_back_the_same() {
    for ((event_type, version), sample) in golden() {
        let event = decode(
            aggregate_of(&event_type),
            &event_type,
            &version.to_string(),
            sample.clone(),
        )
        .unwrap_or_else(|error| panic!("{event_type}.{version}: {error:?}"));
        assert_eq!(event.event_type(), event_type);
        assert_eq!(event.aggregate_type(), aggregate_of(&event_type));
        let payload = event.payload().unwrap();
        if event.event_version() == version.to_string() {
            assert_eq!(payload, sample, "{event_type}.{version}");
        }
        let again = decode(event.aggregate_type(), &event_type, event.event_version(), payload);
        assert_eq!(again.unwrap(), event, "{event_type}.{version}");
    }
}

#[test]
fn event_types_are_unique_and_named_after_their_aggregate() {
    let mut seen = std::collections::BTreeSet::new();
    for kind in event_kinds() {
        assert!(seen.insert(kind.event_type), "{} is listed twice", kind.event_type);
        assert_eq!(aggregate_of(kind.event_type), kind.aggregate_type);
        assert!(aggregate_types().contains(&kind.aggregate_type));
        assert!(kind.version.parse::<u32>().unwrap() >= 1);
    }
}

#[test]
fn every_aggregate_folds_its_own_samples_and_refuses_others() {
    let events: Vec<_> = golden()
        .into_iter()
        .map(|((event_type, version), sample)| {
            decode(aggregate_of(&event_type), &event_type, &version.to_string(), sample).unwrap()
        })
        .collect();
    for aggregate_type in aggregate_types() {
        let own = events
            .iter()
            .filter(|event| event.aggregate_type() == *aggregate_type)
            .cloned();
        assert!(fold_state(aggregate_type, own).unwrap().is_object());
        let error = fold_state(aggregate_type, events.iter().cloned()).unwrap_err();
        assert!(matches!(error, DecodeError::UnknownEvent { .. }), "{error:?}");
    }
    let error = fold_state("robot", std::iter::empty()).unwrap_err();
    assert!(matches!(error, DecodeError::UnknownAggregate(_)));
}

/// A process that remembers live sessions reads no other events than the listed ones.
#[test]
fn every_event_that_ends_liveness_is_listed_and_no_other() {
    let mut found = std::collections::BTreeSet::new();
    for ((event_type, version), sample) in golden() {
        let event = decode(aggregate_of(&event_type), &event_type, &version.to_string(), sample).unwrap();
        if event.claims(Uuid::nil()).iter().any(ClaimChange::ends_liveness) {
            found.insert(event_type);
        }
    }
    let listed = crate::claims::ENDS_OF_LIVENESS
        .iter()
        .map(|listed| (*listed).to_owned());
    assert_eq!(found, listed.collect());
}

#[test]
fn folding_follows_the_order_of_events() {
    let at = "2026-02-15T12:00:00.000000Z";
    let events = ["content.published", "content.archived"]
        .map(|name| decode("content", name, "1", json!({"type": name, "at": at})).unwrap());
    let state = fold_state("content", events.into_iter()).unwrap();
    assert_eq!(state["status"], "archived");
}

#[test]
fn a_fold_that_is_interrupted_by_a_kept_state_ends_the_same() {
    let events: Vec<_> = golden()
        .into_iter()
        .map(|((event_type, version), sample)| {
            decode(aggregate_of(&event_type), &event_type, &version.to_string(), sample).unwrap()
        })
        .collect();
    for aggregate_type in aggregate_types() {
        let own: Vec<_> = events
            .iter()
            .filter(|event| event.aggregate_type() == *aggregate_type)
            .cloned()
            .collect();
        let whole = fold_state(aggregate_type, own.iter().cloned()).unwrap();
        for cut in 0..=own.len() {
            let (first, rest) = own.split_at(cut);
            let kept = fold_state(aggregate_type, first.iter().cloned()).unwrap();
            let continued = fold_state_from(aggregate_type, Some(kept), rest.iter().cloned()).unwrap();
            assert_eq!(continued, whole, "{aggregate_type} cut at {cut}");
        }
        let error = fold_state_from(aggregate_type, Some(json!("no state")), std::iter::empty()).unwrap_err();
        assert!(matches!(error, DecodeError::State { .. }), "{error:?}");
    }
}

#[test]
fn the_schema_of_states_has_a_name() {
    assert_eq!(STATE_SCHEMA.len(), 16);
    assert!(STATE_SCHEMA.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn what_an_event_takes_it_takes_for_its_own_stream() {
    let stream = Uuid::from_u128(42);
    for ((event_type, version), sample) in golden() {
        let event = decode(aggregate_of(&event_type), &event_type, &version.to_string(), sample).unwrap();
        if event_type.ends_with(".created") {
            let ClaimChange::Take { scope, key } = &event.claims(stream)[0] else {
                panic!("{event_type} takes no claim");
            };
            assert_eq!(scope.as_str(), event.aggregate_type());
            assert_eq!(*key, crate::ClaimKey::id(stream));
        }
        if event_type.ends_with(".deleted") {
            let changes = event.claims(stream);
            assert!(!changes.is_empty());
            assert!(
                changes
                    .iter()
                    .all(|change| matches!(change, ClaimChange::ReleaseAll { .. }))
            );
        }
    }
}

#[test]
fn unknown_types_and_newer_versions_are_refused() {
    let payload = json!({"type": "user.enabled", "at": "2026-02-15T12:00:00.000000Z"});
    let refused =
        |aggregate_type, event_type, version| decode(aggregate_type, event_type, version, payload.clone()).unwrap_err();
    assert!(matches!(
        refused("robot", "robot.built", "1"),
        DecodeError::UnknownAggregate(_)
    ));
    assert!(matches!(
        refused("user", "user.moved", "1"),
        DecodeError::UnknownEvent { .. }
    ));
    assert!(matches!(
        refused("session", "user.enabled", "1"),
        DecodeError::UnknownEvent { .. }
    ));
    assert!(matches!(
        refused("user", "user.enabled", "2"),
        DecodeError::NewerVersion { .. }
    ));
    assert!(matches!(
        refused("user", "user.enabled", "0"),
        DecodeError::NoUpcaster { .. }
    ));
    assert!(matches!(
        refused("user", "user.enabled", "one"),
        DecodeError::MalformedVersion { .. }
    ));
    assert!(matches!(
        refused("user", "user.enabled", ""),
        DecodeError::MalformedVersion { .. }
    ));
    assert!(matches!(
        refused("user", "user.disabled", "1"),
        DecodeError::TypeMismatch { .. }
    ));
    assert!(decode("user", "user.enabled", "1", payload.clone()).is_ok());
}

#[test]
fn a_malformed_payload_is_refused_with_its_cause() {
    let error = decode("user", "user.enabled", "1", json!({"type": "user.enabled"})).unwrap_err();
    assert_eq!(error.to_string(), "malformed payload of user.enabled");
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.to_string().contains("missing field `at`"), "{cause}");
}

#[test]
fn older_versions_are_lifted_one_by_one() {
    const KIND: EventKind = EventKind {
        aggregate_type: "user",
        event_type: "user.enabled",
        version: "3",
    };
    fn step(name: &'static str, version: &str) -> Box<dyn EventUpcaster> {
        let lift = move |mut payload: Value| {
            payload[name] = json!(payload.as_object().map_or(0, serde_json::Map::len));
            payload
        };
        Box::new(SemanticVersionEventUpcaster::new(
            "user.enabled",
            version,
            Box::new(lift),
        ))
    }
    let steps = [step("second", "2"), step("third", "3")];
    assert_eq!(
        upcast(&KIND, "1", json!({}), &steps).unwrap(),
        json!({"second": 0, "third": 1})
    );
    assert_eq!(upcast(&KIND, "2", json!({}), &steps).unwrap(), json!({"third": 0}));
    assert_eq!(upcast(&KIND, "3", json!({}), &steps).unwrap(), json!({}));
    let error = upcast(&KIND, "1", json!({}), &steps[..1]).unwrap_err();
    assert!(matches!(error, DecodeError::NoUpcaster { version, .. } if version == "2.0.0"));
    assert!(matches!(
        upcast(&KIND, "4", json!({}), &steps),
        Err(DecodeError::NewerVersion { .. })
    ));
}
