//! What of the evidence stands in a receipt: everything while it fits, otherwise how many of each fate, and by name what
//! was kept or failed. The evidence itself stays on the device until the end, and the receipt carries its digest.

use muster_wire::receipt::{ItemFate, ReceiptItem};

/// A receipt has 64 KiB at most, its other fields and its signature included.
const ROOM: usize = 40 * 1024;
/// What an item takes besides its text.
const AROUND: usize = 32;
/// No text in a receipt is longer, in bytes.
const LONGEST: usize = 1024;

/// `items` as they fit into a receipt.
pub(super) fn fitted(items: Vec<ReceiptItem>) -> Vec<ReceiptItem> {
    let items: Vec<ReceiptItem> =
        items.into_iter().map(|item| ReceiptItem { what: shortened(item.what), ..item }).collect();
    if size(&items) <= ROOM {
        return items;
    }
    let mut told = Vec::new();
    for fate in ItemFate::ALL {
        let of = || items.iter().filter(|item| item.fate == *fate);
        let count = of().count();
        if count > 0 {
            let size_bytes = of().map(|item| item.size_bytes).fold(0, u64::saturating_add);
            told.push(ReceiptItem { what: format!("{count} things in all"), fate: *fate, size_bytes });
        }
    }
    let named = |item: &&ReceiptItem| matches!(item.fate, ItemFate::Failed | ItemFate::Kept);
    let mut names: Vec<&ReceiptItem> = items.iter().filter(named).collect();
    // What failed comes first: it must be among those that fit.
    names.sort_by_key(|item| item.fate != ItemFate::Failed);
    let mut room = ROOM.saturating_sub(size(&told));
    for item in names {
        let takes = item.what.len() + AROUND;
        if takes > room {
            break;
        }
        room -= takes;
        told.push(item.clone());
    }
    told
}

fn size(items: &[ReceiptItem]) -> usize {
    items.iter().map(|item| item.what.len() + AROUND).sum()
}

fn shortened(mut what: String) -> String {
    if what.len() > LONGEST {
        let keep = (0..=LONGEST / 2).rev().find(|at| what.is_char_boundary(*at)).unwrap_or(0);
        let from = (what.len() - LONGEST / 2..what.len()).find(|at| what.is_char_boundary(*at));
        let tail = what.split_off(from.unwrap_or(what.len()));
        what.truncate(keep);
        what = format!("{what}…{tail}");
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: usize, fate: ItemFate) -> ReceiptItem {
        ReceiptItem { what: format!("/srv/data/{n:0100}"), fate, size_bytes: 10 }
    }

    #[test]
    fn what_fits_is_told_as_it_is() {
        let items: Vec<_> = (0..50).map(|n| item(n, ItemFate::Deleted)).collect();
        assert_eq!(fitted(items.clone()), items);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_failed_is_named() {
        let mut items: Vec<_> = (0..10_000).map(|n| item(n, ItemFate::Deleted)).collect();
        items.extend((0..1_000).map(|n| item(n, ItemFate::Kept)));
        items.push(item(7, ItemFate::Failed));
        let told = fitted(items);
        assert!(size(&told) <= ROOM);
        let total = |fate| told.iter().find(|item| item.fate == fate).unwrap();
        assert_eq!(total(ItemFate::Deleted).what, "10000 things in all");
        assert_eq!(total(ItemFate::Deleted).size_bytes, 100_000);
        assert_eq!(total(ItemFate::Failed).what, "1 things in all");
        assert!(told.contains(&item(7, ItemFate::Failed)));
    }

    #[test]
    fn a_path_of_any_length_is_told_by_its_ends() {
        let long = ReceiptItem { what: format!("/{}/end", "ü".repeat(4000)), ..item(1, ItemFate::Failed) };
        let told = fitted(vec![long]);
        assert!(told[0].what.len() <= LONGEST + 8 && told[0].what.ends_with("ü/end"));
    }
}
