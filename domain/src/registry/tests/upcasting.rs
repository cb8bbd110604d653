//! The chain of upcasters: every version ever written ends as the present one, whatever else its payload holds.
//!
//! No event of ours has a second version yet. What the chain must do is shown by one that exists here alone, with
//! three versions and a sample of each; what holds for all events is tried on the golden samples as well.

#![allow(unreachable_pub, reason = "the macro writes what is public of the other aggregates")]

use cqrs_es::persist::{EventUpcaster, SemanticVersionEventUpcaster};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{DecodeError, aggregate_of, decode, event_kinds, golden, kind_of, upcast};
use crate::kind::EventKind;

/// Version 2 splits the name into two, version 3 counts its weight in grams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum ParcelEvent {
    #[serde(rename = "parcel.sent")]
    Sent {
        given: String,
        family: String,
        weight_g: u64,
    },
    #[serde(rename = "parcel.lost")]
    Lost { reason: String },
}

event_kinds!(ParcelEvent of "parcel" {
    Sent: "parcel.sent", "3";
    Lost: "parcel.lost", "1";
});

const SENT: &EventKind = &ParcelEvent::KINDS[0];
const LOST: &EventKind = &ParcelEvent::KINDS[1];

fn split_name(mut payload: Value) -> Value {
    if let Some(members) = payload.as_object_mut()
        && let Some(name) = members.remove("name")
    {
        let name = name.as_str().unwrap_or_default();
        let (given, family) = name.split_once(' ').unwrap_or((name, ""));
        members.insert("given".to_owned(), json!(given));
        members.insert("family".to_owned(), json!(family));
    }
    payload
}

fn count_grams(mut payload: Value) -> Value {
    if let Some(members) = payload.as_object_mut()
        && let Some(weight) = members.remove("weight_kg")
    {
        members.insert("weight_g".to_owned(), json!(weight.as_u64().unwrap_or_default() * 1000));
    }
    payload
}

fn step(version: &str, lift: fn(Value) -> Value) -> Box<dyn EventUpcaster> {
    Box::new(SemanticVersionEventUpcaster::new(
        "parcel.sent",
        version,
        Box::new(lift),
    ))
}

fn steps() -> Vec<Box<dyn EventUpcaster>> {
    vec![step("2", split_name), step("3", count_grams)]
}

/// A sample of each version, all of the same fact.
fn samples() -> [(u32, Value); 3] {
    [
        (
            1,
            json!({"type": "parcel.sent", "name": "Ada Lovelace", "weight_kg": 2}),
        ),
        (
            2,
            json!({"type": "parcel.sent", "given": "Ada", "family": "Lovelace", "weight_kg": 2}),
        ),
        (
            3,
            json!({"type": "parcel.sent", "given": "Ada", "family": "Lovelace", "weight_g": 2000}),
        ),
    ]
}

fn sent() -> ParcelEvent {
    ParcelEvent::Sent {
        given: "Ada".to_owned(),
        family: "Lovelace".to_owned(),
        weight_g: 2000,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z $]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Members that no event has: no name of ours begins with a capital.
fn additions() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[A-Z][a-z_]{0,8}", any_json(), 0..5).prop_map(|members| members.into_iter().collect())
}

fn with(sample: &Value, additions: &Map<String, Value>) -> Value {
    let mut members = sample.as_object().unwrap().clone();
    members.extend(additions.clone());
    Value::Object(members)
}

#[test]
fn every_version_of_a_fact_becomes_the_same_event() {
    for (version, sample) in samples() {
        let lifted = upcast(SENT, &version.to_string(), sample, &steps()).unwrap();
        assert_eq!(lifted, samples()[2].1, "version {version}");
        assert_eq!(serde_json::from_value::<ParcelEvent>(lifted).unwrap(), sent());
    }
}

#[test]
fn the_upcasters_of_one_type_leave_the_others_alone() {
    let lost = json!({"type": "parcel.lost", "name": "Ada Lovelace", "reason": "rain"});
    assert_eq!(upcast(LOST, "1", lost.clone(), &steps()).unwrap(), lost);
    let error = upcast(LOST, "0", lost, &steps()).unwrap_err();
    assert!(matches!(error, DecodeError::NoUpcaster { .. }), "{error:?}");
}

#[test]
fn upcasters_in_the_wrong_order_lift_nothing() {
    let swapped: Vec<_> = steps().into_iter().rev().collect();
    let error = upcast(SENT, "1", samples()[0].1.clone(), &swapped).unwrap_err();
    assert!(
        matches!(&error, DecodeError::NoUpcaster { version, .. } if version == "1"),
        "{error:?}"
    );
    // The last step by itself is the same in either order.
    assert_eq!(
        upcast(SENT, "2", samples()[1].1.clone(), &swapped).unwrap(),
        samples()[2].1
    );
}

#[test]
fn a_step_that_skips_a_version_or_goes_beyond_the_present_one_lifts_nothing() {
    for step in [step("3", count_grams), step("4", count_grams)] {
        let error = upcast(SENT, "1", samples()[0].1.clone(), &[step]).unwrap_err();
        assert!(matches!(error, DecodeError::NoUpcaster { .. }), "{error:?}");
    }
    let error = upcast(SENT, "2", samples()[1].1.clone(), &[step("4", count_grams)]).unwrap_err();
    assert!(matches!(error, DecodeError::NoUpcaster { .. }), "{error:?}");
}

proptest! {
    #[test]
    fn members_that_nobody_knows_do_no_harm_on_the_way_up(
        (version, sample) in select(samples().to_vec()), additions in additions(),
    ) {
        let lifted = upcast(SENT, &version.to_string(), with(&sample, &additions), &steps()).unwrap();
        prop_assert_eq!(&lifted, &with(&samples()[2].1, &additions));
        prop_assert_eq!(serde_json::from_value::<ParcelEvent>(lifted).unwrap(), sent());
    }

    #[test]
    fn every_golden_sample_decodes_the_same_with_members_that_nobody_knows(additions in additions()) {
        for ((event_type, version), sample) in golden() {
            let version = version.to_string();
            let read = |payload| decode(aggregate_of(&event_type), &event_type, &version, payload);
            let plain = read(sample.clone()).unwrap();
            prop_assert_eq!(read(with(&sample, &additions)).unwrap(), plain, "{}.{}", event_type, version);
        }
    }

    #[test]
    fn lifting_what_is_at_the_newest_version_changes_nothing(payload in any_json()) {
        prop_assert_eq!(upcast(SENT, SENT.version, payload.clone(), &steps()).unwrap(), payload.clone());
        for kind in event_kinds() {
            let upcasters = crate::registry::upcasters(kind.aggregate_type);
            prop_assert_eq!(upcast(kind, kind.version, payload.clone(), &upcasters).unwrap(), payload.clone());
        }
    }

    #[test]
    fn lifting_twice_is_lifting_once((version, sample) in select(samples().to_vec())) {
        let once = upcast(SENT, &version.to_string(), sample, &steps()).unwrap();
        prop_assert_eq!(upcast(SENT, SENT.version, once.clone(), &steps()).unwrap(), once);
    }

    #[test]
    fn a_version_that_is_not_known_yet_is_never_read(ahead in 1_u32..1000, payload in any_json()) {
        let kinds = event_kinds().iter().chain([SENT, LOST]);
        for kind in kinds {
            let newer = (kind.version.parse::<u32>().unwrap() + ahead).to_string();
            let error = upcast(kind, &newer, payload.clone(), &steps()).unwrap_err();
            prop_assert!(matches!(error, DecodeError::NewerVersion { .. }), "{:?}", error);
        }
        for ((event_type, _), sample) in golden() {
            let kind = kind_of(aggregate_of(&event_type), &event_type).unwrap();
            let newer = (kind.version.parse::<u32>().unwrap() + ahead).to_string();
            let error = decode(kind.aggregate_type, &event_type, &newer, sample).unwrap_err();
            prop_assert!(matches!(error, DecodeError::NewerVersion { .. }), "{:?}", error);
        }
    }

    #[test]
    fn nothing_that_is_stored_makes_reading_panic(
        kind in select(event_kinds().to_vec()), version in "[0-9.a]{0,6}", payload in any_json(),
    ) {
        drop(decode(kind.aggregate_type, kind.event_type, &version, payload));
    }
}
