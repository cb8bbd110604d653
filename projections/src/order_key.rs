//! Sort keys of siblings: text that, compared byte by byte, puts children in order without numbering them anew.
//!
//! Every key is 17 characters, a sign and 16 hexadecimal digits of the log position that made it, then perhaps a
//! fraction of more digits that does not end in `0`. At the end the sign is `0` and positions count up; at the front it
//! is `-`, which sorts before it, and positions count down. So a key made at the end is greater, and one made at
//! the front is less, than every key made before, whatever lies between; neither needs to know its neighbours.
//! Only a place between two siblings needs both, and its key grows by a digit every four insertions at one spot;
//! past [`LONGEST`] the siblings are numbered anew.

use annals_eventstore::Position;

/// Keys that would be longer than this are a reason to number the siblings anew. PostgreSQL refuses index entries of
/// about 2,700 bytes; shorter keys are also compared faster.
pub const LONGEST: usize = 160;

/// Characters before the fraction.
const WHOLE: usize = 17;
/// Digits that number siblings anew: room for 4,294,967,295 of them.
const RENUMBERED: usize = 8;

/// The key of a last child: greater than all keys of earlier positions.
#[must_use]
pub fn last(position: Position) -> String {
    format!("0{:016x}", position.0)
}

/// The key of a first child: less than all keys of earlier positions.
#[must_use]
pub fn first(position: Position) -> String {
    format!("-{:016x}", u64::MAX - position.0)
}

/// A key strictly between two neighbours, `before < after`. Absent when it would be longer than [`LONGEST`], or when
/// the two are not in order.
#[must_use]
pub fn between(before: &str, after: &str) -> Option<String> {
    if before >= after || before.len() < WHOLE {
        return None;
    }
    let (whole, low) = before.split_at(WHOLE);
    // A different whole part is greater than any fraction of this one.
    let high = after.strip_prefix(whole);
    let key = format!("{whole}{}", middle(low, high));
    (key.len() <= LONGEST).then_some(key)
}

/// `count` keys in order, made at one position: less than every later last key, greater than every later first key.
pub fn renumbered(position: Position, count: usize) -> impl Iterator<Item = String> {
    let whole = last(position);
    // The digit at the end keeps the fraction from ending in `0`.
    (0..count).map(move |index| format!("{whole}{index:0RENUMBERED$x}8"))
}

/// A fraction strictly between two, neither of which ends in `0`; no `high` means one.
fn middle(low: &str, high: Option<&str>) -> String {
    let mut low = low.bytes().map(digit);
    let mut high = high.map(|high| high.bytes().map(digit));
    let mut fraction = String::new();
    // The bound is for fractions that end in `0` against the rule: between two of those there may be nothing.
    while fraction.len() <= LONGEST {
        let floor = low.next().unwrap_or(0);
        // Equal so far: the high fraction still bounds the next digit. It cannot end before they differ.
        let ceiling = high.as_mut().map_or(16, |digits| digits.next().unwrap_or(0));
        if floor == ceiling {
            fraction.push(letter(floor));
            continue;
        }
        let half = u8::midpoint(floor, ceiling);
        if half > floor {
            fraction.push(letter(half));
            return fraction;
        }
        // Neighbouring digits: take the lower, and from here on anything above the rest of the low fraction will do.
        fraction.push(letter(floor));
        high = None;
    }
    fraction
}

const fn digit(letter: u8) -> u8 {
    match letter {
        b'a'..=b'f' => letter - b'a' + 10,
        _ => letter.wrapping_sub(b'0') & 15,
    }
}

const fn letter(digit: u8) -> char {
    (if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }) as char
}

#[cfg(test)]
mod tests {
    use annals_eventstore::Position;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::sample::Index;
    use proptest::strategy::Just;

    use super::{LONGEST, between, first, last, renumbered};

    #[test]
    fn last_keys_count_up_and_first_keys_count_down() {
        let mut previous = last(Position(0));
        for position in [1, 9, 15, 16, 255, 256, u64::MAX] {
            let key = last(Position(position));
            assert!(key > previous, "{key} {previous}");
            assert!(first(Position(position)) < first(Position(position - 1)));
            assert!(first(Position(0)) < previous);
            previous = key;
        }
    }

    #[test]
    fn there_is_nothing_between_keys_out_of_order() {
        let (low, high) = (last(Position(1)), last(Position(2)));
        assert_eq!(between(&high, &low), None);
        assert_eq!(between(&low, &low), None);
        assert_eq!(between("", &low), None);
        assert_eq!(between(&low, &format!("{low}0")), None);
    }

    #[test]
    fn a_key_grows_by_a_digit_every_four_insertions_at_one_spot() {
        let (low, mut high) = (last(Position(1)), last(Position(2)));
        let mut insertions = 0;
        while let Some(key) = between(&low, &high) {
            assert!(low < key && key < high);
            assert!(key.len() <= LONGEST);
            high = key;
            insertions += 1;
        }
        assert_eq!(insertions, (LONGEST - super::WHOLE) * 4);
    }

    #[derive(Debug, Clone)]
    enum Step {
        First,
        Last,
        After(Index),
        Before(Index),
        Remove(Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::First),
            Just(Step::Last),
            any::<Index>().prop_map(Step::After),
            any::<Index>().prop_map(Step::Before),
            any::<Index>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_siblings_were_placed(steps in steps()) {
            // What a list of siblings should be, against the keys that are to sort into it.
            let mut siblings: Vec<String> = Vec::new();
            for (step, position) in steps.into_iter().zip(1..) {
                let position = Position(position);
                let (at, key) = match step {
                    Step::First => (0, first(position)),
                    Step::Last => (siblings.len(), last(position)),
                    _ if siblings.is_empty() => continue,
                    Step::Remove(index) => {
                        siblings.remove(index.index(siblings.len()));
                        continue;
                    }
                    Step::After(index) => match index.index(siblings.len()) + 1 {
                        at if at == siblings.len() => (at, last(position)),
                        at => (at, between(&siblings[at - 1], &siblings[at]).unwrap()),
                    },
                    Step::Before(index) => match index.index(siblings.len()) {
                        0 => (0, first(position)),
                        at => (at, between(&siblings[at - 1], &siblings[at]).unwrap()),
                    },
                };
                siblings.insert(at, key);
                prop_assert!(siblings.is_sorted_by(|a, b| a < b), "{siblings:?}");
                prop_assert!(siblings.iter().all(|key| *key < last(Position(position.0 + 1))));
                prop_assert!(siblings.iter().all(|key| *key > first(Position(position.0 + 1))));
            }
        }

        #[test]
        fn renumbered_siblings_keep_room_everywhere(position in 1_u64..u64::MAX, count in 1_usize..300) {
            let keys: Vec<String> = renumbered(Position(position), count).collect();
            prop_assert_eq!(keys.len(), count);
            prop_assert!(keys[0] > first(Position(position + 1)) && keys[count - 1] < last(Position(position + 1)));
            for pair in keys.windows(2) {
                let key = between(&pair[0], &pair[1]).unwrap();
                prop_assert!(pair[0] < key && key < pair[1]);
                prop_assert!(!key.ends_with('0'));
            }
        }
    }
}
