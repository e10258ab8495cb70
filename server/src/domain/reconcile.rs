//! What a session should be told: desired compared with what it was told already.
//!
//! Nothing is queued for a device. A session that begins has been told nothing; it asks, is told, remembers, and asks
//! again when something changed. That a message was sent proves nothing: what a device *is* like comes from its
//! reports, and an order is told in every session until it is closed.

use super::admission::Topics;
use super::order::OrderRecord;
use muster_wire::desired::Generation;
use muster_wire::id::OrderId;

/// Something to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// The head of this generation.
    Desired(Generation),
    /// This order.
    Order(OrderId),
}

/// What is due at `now` (unix seconds) on `topics`, desired state first, then orders as they were made: a device
/// refuses one that was made before one it has seen. An order that the device has not answered yet holds back those
/// after it, since each is proven from the checkpoint that the device had after the one before.
///
/// `was_told` says what the session has been told already.
pub fn due(
    desired: Generation,
    orders: &[OrderRecord],
    topics: Topics,
    now: i64,
    was_told: impl Fn(Due) -> bool,
) -> Vec<Due> {
    let mut due = Vec::new();
    if topics.contains(Topics::DESIRED) {
        due.push(Due::Desired(desired));
    }
    if topics.contains(Topics::ORDER) {
        let mut open: Vec<&OrderRecord> = orders.iter().filter(|order| order.is_due(now)).collect();
        open.sort_unstable_by_key(|order| order.counter);
        let unanswered = open.iter().position(|order| order.receipts.is_empty());
        let next = unanswered.map_or(open.len(), |position| position + 1);
        due.extend(open.into_iter().take(next).map(|order| Due::Order(order.id)));
    }
    due.retain(|one| !was_told(*one));
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::{Ask, Phase, ReceiptNote};
    use muster_wire::digest::Sha256Digest;
    use muster_wire::id::DeviceId;
    use muster_wire::receipt::{ReceiptOutcome, ReceiptPhase};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn order(counter: u64, expires: i64, phase: Phase) -> OrderRecord {
        OrderRecord {
            v: 1,
            id: OrderId::from_bytes([u8::try_from(counter).unwrap(); 16]),
            device: DeviceId::from_bytes([1; 16]),
            ask: Ask::CollectPosture,
            warrant: None,
            counter,
            by: "server".into(),
            made_at: 0,
            expires,
            phase,
            receipts: Vec::new(),
            replaced: 0,
            excess_noted: false,
        }
    }

    const NOW: Generation = Generation { restore_epoch: 0, counter: 3 };

    #[test]
    fn a_new_session_is_told_everything_and_then_nothing() {
        let orders = [order(2, 9, Phase::Delivered), order(1, 9, Phase::Ordered), order(3, 9, Phase::Done)];
        let mut told = HashSet::new();
        let first = due(NOW, &orders, Topics::ALL, 5, |one| told.contains(&one));
        assert_eq!(first, [Due::Desired(NOW), Due::Order(orders[1].id)]);
        told.extend(first);
        assert!(due(NOW, &orders, Topics::ALL, 5, |one| told.contains(&one)).is_empty());
    }

    #[test]
    fn an_order_waits_for_the_answer_to_the_one_before() {
        let mut orders = [order(1, 9, Phase::Delivered), order(2, 9, Phase::Ordered)];
        let told = |orders: &[OrderRecord]| due(NOW, orders, Topics::ORDER, 5, |_| false);
        assert_eq!(told(&orders), [Due::Order(orders[0].id)]);
        orders[0].receipts.push(ReceiptNote {
            phase: ReceiptPhase::Accepted,
            outcome: ReceiptOutcome::Done,
            sha256: Sha256Digest([0; 32]),
            at: 1,
            reason: None,
        });
        assert_eq!(told(&orders), orders.each_ref().map(|order| Due::Order(order.id)));
    }

    #[test]
    fn a_session_is_told_only_on_the_topics_it_may_hear() {
        let orders = [order(1, 9, Phase::Ordered)];
        let told = |topics| due(NOW, &orders, topics, 5, |_| false);
        assert_eq!(told(Topics::GRACE), []);
        assert_eq!(told(Topics::FAREWELL), [Due::Order(orders[0].id)]);
        assert_eq!(told(Topics::HELD).len(), 2);
    }

    #[test]
    fn an_order_whose_time_has_passed_is_not_told() {
        assert_eq!(due(NOW, &[order(1, 4, Phase::Ordered)], Topics::ORDER, 5, |_| false), []);
    }

    proptest! {
        /// Whatever is lost and however often a session breaks: a device that takes what reaches it ends with the
        /// generation desired and every order done, and never takes an older one after a newer.
        #[test]
        fn reconciling_converges(sets in proptest::collection::vec(1u64..9, 1..8), losses: u64, orders in 1u64..5) {
            let mut orders: Vec<_> = (1..=orders).map(|n| order(n, 1_000, Phase::Ordered)).collect();
            let (mut has, mut highest, mut told) = (0, 0, HashSet::new());
            let mut counter = 1;
            for round in 0..64u32 {
                counter += sets.get(round as usize).copied().unwrap_or(0);
                let desired = Generation { restore_epoch: 0, counter };
                for one in due(desired, &orders, Topics::ALL, 0, |one| told.contains(&one)) {
                    if round < 48 && losses.rotate_right(round) & 1 == 1 {
                        told.clear();
                        break;
                    }
                    told.insert(one);
                    match one {
                        Due::Desired(generation) => {
                            prop_assert!(generation.counter >= has);
                            has = generation.counter;
                        }
                        Due::Order(id) => {
                            let order = orders.iter_mut().find(|order| order.id == id).unwrap();
                            prop_assert!(order.counter > highest);
                            highest = order.counter;
                            order.phase = Phase::Done;
                        }
                    }
                }
            }
            prop_assert_eq!(has, counter);
            prop_assert!(orders.iter().all(|order| order.phase == Phase::Done));
        }
    }
}
