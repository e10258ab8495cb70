//! The session packet by packet; what is random is in `model_tests.rs`.

use super::*;
use crate::mqtt::budget::Rate;
use muster_wire::desired::Generation;
use muster_wire::digest::Sha256Digest;

const T0: Duration = Duration::from_secs(1_000);
const NEVER: Duration = Duration::ZERO;

fn device() -> DeviceId {
    DeviceId::from_parts(1, [1; 10])
}

fn terms() -> Terms {
    let plenty = Rate::new(1_000_000, Duration::from_secs(1), 1_000_000);
    Terms {
        device: device(),
        topics: Topics::ALL,
        keep_alive: Duration::from_secs(60),
        puback: Duration::from_secs(30),
        rates: Rates { packets: plenty, bytes: plenty },
        spent: Spent::default(),
    }
}

fn session() -> Session {
    Session::begin(terms(), T0)
}

fn after(session: &mut Session, packet: Packet) -> Step {
    let (step, pause) = session.receive(packet, 10, T0);
    assert_eq!(pause, NEVER);
    step
}

fn subscribe(session: &mut Session, filters: &[(&str, QoS)]) -> Vec<SubscribeReasonCode> {
    let filters = filters
        .iter()
        .map(|(path, qos)| rumqttc::mqttbytes::v4::SubscribeFilter::new((*path).to_owned(), *qos))
        .collect();
    let step = after(session, Packet::Subscribe(Subscribe { pkid: 5, filters }));
    let Step::Subscribed(SubAck { pkid: 5, return_codes }) = step else { panic!("{step:?}") };
    return_codes
}

fn hears_all(session: &mut Session, qos: QoS) {
    for channel in [Channel::Order, Channel::Ack, Channel::Desired, Channel::Credential] {
        let granted = subscribe(session, &[(&channel.topic(device()), qos)]);
        assert!(matches!(granted[..], [SubscribeReasonCode::Success(_)]));
    }
}

fn ack(n: u16) -> Outgoing {
    let [a, b] = n.to_be_bytes();
    let mut digest = [0; 32];
    digest[..2].copy_from_slice(&[a, b]);
    Outgoing { channel: Channel::Ack, payload: vec![a, b], mark: Mark::Ack(Sha256Digest(digest)) }
}

fn publish(channel: Channel, qos: QoS) -> Publish {
    let mut publish = Publish::new(channel.topic(device()), qos, "body");
    publish.pkid = if qos == QoS::AtMostOnce { 0 } else { 77 };
    publish
}

#[test]
fn a_report_is_handed_on_and_owed_a_puback_at_qos_1_only() {
    for (qos, owed) in [(QoS::AtMostOnce, None), (QoS::AtLeastOnce, Some(77))] {
        let step = after(&mut session(), Packet::Publish(publish(Channel::ReportState, qos)));
        let message = Message { channel: Channel::ReportState, payload: Bytes::from("body"), owed };
        assert_eq!(step, Step::Take(message));
    }
}

#[test]
fn a_publish_that_is_not_served_ends_the_session() {
    let cases = [
        (publish(Channel::ReportState, QoS::ExactlyOnce), End::ExactlyOnce),
        (Publish { retain: true, ..publish(Channel::ReportState, QoS::AtLeastOnce) }, End::Retain),
        (publish(Channel::Order, QoS::AtLeastOnce), End::Forbidden(Forbidden::Direction)),
        (Publish::new("#", QoS::AtMostOnce, ""), End::Forbidden(Forbidden::Foreign)),
    ];
    for (publish, end) in cases {
        assert!(end.misconduct().is_some());
        assert_eq!(after(&mut session(), Packet::Publish(publish)), Step::End(end));
    }
}

#[test]
fn own_topics_are_granted_at_most_at_qos_1_and_others_fail() {
    let own = Channel::Order.topic(device());
    let foreign = Channel::Order.topic(DeviceId::from_parts(2, [2; 10]));
    let speaks = Channel::Receipt.topic(device());
    let granted = subscribe(
        &mut session(),
        &[
            (&own, QoS::ExactlyOnce),
            (&own, QoS::AtLeastOnce),
            (&own, QoS::AtMostOnce),
            (&foreign, QoS::AtLeastOnce),
            (&speaks, QoS::AtLeastOnce),
            ("muster/v1/+/order", QoS::AtLeastOnce),
            ("#", QoS::AtMostOnce),
            ("$share/g/#", QoS::AtMostOnce),
        ],
    );
    let mut expected = vec![
        SubscribeReasonCode::Success(QoS::AtLeastOnce),
        SubscribeReasonCode::Success(QoS::AtLeastOnce),
        SubscribeReasonCode::Success(QoS::AtMostOnce),
    ];
    expected.resize(8, SubscribeReasonCode::Failure);
    assert_eq!(granted, expected);
}

#[test]
fn nothing_is_asked_for_who_hears_nothing() {
    let mut session = session();
    assert_eq!(session.wants(), None);
    subscribe(&mut session, &[(&Channel::Ack.topic(device()), QoS::AtLeastOnce)]);
    assert_eq!(session.wants(), Some(Topics::ACK));
    after(
        &mut session,
        Packet::Unsubscribe(Unsubscribe { pkid: 1, ..Unsubscribe::new(Channel::Ack.topic(device())) }),
    );
    assert_eq!(session.wants(), None);
    assert_eq!(session.send_due(ack(1), T0), None);
}

#[test]
fn what_was_sent_is_not_sent_again_until_the_next_session() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    let first = session.send_due(ack(1), T0).unwrap();
    assert_eq!((first.qos, first.dup, first.retain), (QoS::AtLeastOnce, false, false));
    assert_eq!(session.send_due(ack(1), T0), None);
    assert_eq!(after(&mut session, Packet::PubAck(PubAck::new(first.pkid))), Step::Delivered(ack(1).mark));
    assert_eq!(after(&mut session, Packet::PubAck(PubAck::new(first.pkid))), Step::Nothing);
    assert_eq!(session.send_due(ack(1), T0), None);
    assert!(session.send_answer(ack(1), T0).unwrap().is_some(), "who asks again is answered again");
}

#[test]
fn a_newer_desired_state_takes_the_place_of_the_older() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    for counter in 1..=3_u64 {
        let says = Sha256Digest::of(&counter.to_be_bytes());
        let mark = Mark::Desired { generation: Generation { restore_epoch: 0, counter: 1 }, turn: 0, says };
        let outgoing = Outgoing { channel: Channel::Desired, payload: vec![], mark };
        assert!(session.send_due(outgoing, T0).is_some());
        assert_eq!(session.sent().len(), 1);
    }
}

#[test]
fn so_many_are_in_flight_and_a_puback_makes_room() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    let sent: Vec<_> = (0..100).map_while(|n| session.send_due(ack(n), T0)).collect();
    assert_eq!(sent.len(), WINDOW);
    assert!(!session.has_room_again());
    assert_eq!(session.wants(), None);
    after(&mut session, Packet::PubAck(PubAck::new(sent[3].pkid)));
    assert!(session.has_room_again());
    assert!(session.wants().is_some());
}

#[test]
fn who_never_acknowledges_answers_is_cut() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    for n in 0..IN_FLIGHT {
        assert!(session.send_answer(ack(n.try_into().unwrap()), T0).unwrap().is_some());
    }
    assert_eq!(session.send_answer(ack(999), T0), Err(End::Unacknowledged));
}

#[test]
fn qos_0_is_never_in_flight() {
    let mut session = session();
    hears_all(&mut session, QoS::AtMostOnce);
    for n in 0..100 {
        let publish = session.send_due(ack(n), T0).unwrap();
        assert_eq!((publish.qos, publish.pkid), (QoS::AtMostOnce, 0));
    }
}

#[test]
fn packet_ids_go_round_without_meeting_one_in_flight() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    let stuck = session.send_due(ack(u16::MAX), T0).unwrap().pkid;
    for n in 0..70_000_u32 {
        let id = session.send_answer(ack((n % 60_000) as u16), T0).unwrap().unwrap().pkid;
        assert!(id != 0 && id != stuck, "{n}");
        after(&mut session, Packet::PubAck(PubAck::new(id)));
    }
}

#[test]
fn marks_do_not_fill_the_memory() {
    let mut session = session();
    hears_all(&mut session, QoS::AtMostOnce);
    for n in 0..5_000 {
        session.send_due(ack(n), T0);
        assert!(session.sent().len() <= REMEMBERED);
    }
}

#[test]
fn a_row_that_changed_takes_topics_from_a_live_session() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    session.allow(Topics::FAREWELL);
    assert_eq!(session.wants(), Some(Topics::ORDER.or(Topics::ACK)));
    let step = after(&mut session, Packet::Publish(publish(Channel::ReportState, QoS::AtLeastOnce)));
    assert_eq!(step, Step::End(End::Forbidden(Forbidden::Standing)));
}

#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_session() {
    let mut session = session();
    assert_eq!(session.deadline(), T0 + Duration::from_secs(90));
    assert_eq!(session.overdue(T0 + Duration::from_millis(89_999)), None);
    session.receive(Packet::PingReq, 2, T0 + Duration::from_secs(50));
    assert_eq!(session.overdue(T0 + Duration::from_secs(90)), None);
    assert_eq!(session.overdue(T0 + Duration::from_secs(140)), Some(End::Silent));
}

#[test]
fn a_puback_that_does_not_come_ends_the_session_however_lively_the_device_is() {
    let mut session = session();
    hears_all(&mut session, QoS::AtLeastOnce);
    let sent = session.send_due(ack(1), T0).unwrap();
    session.receive(Packet::PingReq, 2, T0 + Duration::from_secs(29));
    assert_eq!(session.deadline(), T0 + Duration::from_secs(30));
    assert_eq!(session.overdue(T0 + Duration::from_secs(30)), Some(End::Unacknowledged));
    session.receive(Packet::PubAck(PubAck::new(sent.pkid)), 4, T0 + Duration::from_secs(29));
    assert_eq!(session.overdue(T0 + Duration::from_secs(30)), None);
}

#[test]
fn a_keep_alive_of_0_or_above_the_cap_counts_as_the_cap() {
    let seconds = |asked| keep_alive(asked, 1_200).as_secs();
    assert_eq!([0, 1, 1_200, 1_201, u16::MAX].map(seconds), [1_200, 1, 1_200, 1_200, 1_200]);
}

#[test]
fn who_sends_too_much_is_made_to_wait() {
    let slow = Rate::new(10, Duration::from_secs(1), 2);
    let mut session =
        Session::begin(Terms { rates: Rates { packets: slow, ..terms().rates }, ..terms() }, T0);
    let pauses: Vec<_> = (0..4).map(|_| session.receive(Packet::PingReq, 2, T0).1.as_millis()).collect();
    assert_eq!(pauses, [0, 0, 100, 200]);
}

#[test]
fn what_only_a_server_sends_and_a_second_connect_end_the_session() {
    use rumqttc::mqttbytes::v4::{Connect, PubRel};
    for (packet, end) in [
        (Packet::PubRel(PubRel::new(1)), End::OutOfPlace),
        (Packet::PingResp, End::OutOfPlace),
        (Packet::Connect(Connect::new(device().to_string())), End::SecondConnect),
        (Packet::Disconnect, End::Goodbye),
    ] {
        assert_eq!(after(&mut session(), packet), Step::End(end));
    }
}
