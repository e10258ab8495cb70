//! Versions of Debian packages and their order (Debian Policy, 5.6.12; deb-version(7)).

use std::cmp::Ordering;

/// How `a` stands to `b`: `[epoch:]upstream[-revision]`, each part compared on its own.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = parts(a);
    let (epoch_b, upstream_b, revision_b) = parts(b);
    epoch_a
        .cmp(&epoch_b)
        .then_with(|| compare_part(upstream_a.as_bytes(), upstream_b.as_bytes()))
        .then_with(|| compare_part(revision_a.as_bytes(), revision_b.as_bytes()))
}

fn parts(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Alternately what is no digit, letter by letter, and what is digits, as a number.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (words_a, words_b) =
            (take(&mut a, |byte| !byte.is_ascii_digit()), take(&mut b, |byte| !byte.is_ascii_digit()));
        let words = compare_words(words_a, words_b);
        let (number_a, number_b) = (number(&mut a), number(&mut b));
        let numbers = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        let order = words.then(numbers);
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn take<'a>(rest: &mut &'a [u8], belongs: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = rest.iter().position(|byte| !belongs(byte)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

/// The digits without leading zeros: longer is larger, and of any length.
fn number<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    take(rest, |byte| *byte == b'0');
    take(rest, u8::is_ascii_digit)
}

fn compare_words(a: &[u8], b: &[u8]) -> Ordering {
    let length = a.len().max(b.len());
    let weights = |bytes: &[u8]| (0..length).map(|at| weight(bytes.get(at))).collect::<Vec<_>>();
    weights(a).cmp(&weights(b))
}

/// A tilde sorts before the end, letters before everything else.
fn weight(byte: Option<&u8>) -> u16 {
    match byte {
        Some(b'~') => 0,
        None => 1,
        Some(letter) if letter.is_ascii_alphabetic() => 1 + u16::from(*letter),
        Some(other) => 257 + u16::from(*other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let rising = [
            "0.9~~",
            "0.9~~a",
            "0.9~",
            "0.9",
            "0.9a",
            "0.9+b",
            "0.10",
            "0.010-1",
            "1.0~rc1-1",
            "1.0-1",
            "1.0-1+deb12u1",
            "1.0-1+deb12u2",
            "1.0-1+deb12u10",
            "1.0-2",
            "1.0.1-1",
            "1:0.1-1",
            "2:0.1",
        ];
        for (at, one) in rising.iter().enumerate() {
            for (other_at, other) in rising.iter().enumerate() {
                if rising[at..=at.max(other_at)].contains(&"0.010-1") && (*one == "0.10" || *other == "0.10")
                {
                    continue;
                }
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one} {other}");
            }
        }
        assert_eq!(compare("0.10-1", "0.010-1"), Ordering::Equal);
        assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a-z~+.:-]{0,12}", b in "[0-9a-z~+.:-]{0,12}", c in "[0-9a-z~+.:-]{0,12}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
