//! The laws of the message layer, on a clock of their own.

use super::*;
use crate::drivers::coap::wire::code;
use coap_lite::CoapOption;
use proptest::prelude::*;

fn peer() -> SocketAddr {
    "127.0.0.1:9".parse().expect("address")
}

fn get(token: u8) -> Message {
    let mut message = Message::request(code::GET, "x");
    message.set_token(vec![token]);
    message
}

fn sent(layer: &mut Exchanges) -> Vec<Message> {
    let effects = layer.take_effects();
    effects
        .iter()
        .filter_map(|effect| if let Effect::Send(_, bytes) = effect { Message::parse(bytes) } else { None })
        .collect()
}

fn answer_to(request: &Message, kind: MessageType, code: u8) -> Vec<u8> {
    let mut answer = Message::new(code);
    answer.set_kind(kind);
    answer.set_id(request.id());
    answer.set_token(request.token().to_vec());
    answer.to_bytes().expect("fits")
}

#[test]
fn a_request_is_repeated_with_doubling_waits_and_then_fails() {
    let start = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 7);
    layer.request(start, 1, peer(), get(1), false);
    let first = sent(&mut layer).remove(0);
    let mut times = Vec::new();
    let failed = loop {
        let now = layer.next_tick().expect("something is due");
        layer.tick(now);
        let effects = layer.take_effects();
        match &effects[..] {
            [Effect::Send(_, bytes)] => {
                assert_eq!(Message::parse(bytes).as_ref(), Some(&first), "the very same message")
            }
            [Effect::Failed(1, Failure::Timeout)] => break now,
            other => panic!("{other:?}"),
        }
        times.push((now - start).as_secs_f64());
    };
    let first_wait = times[0];
    assert!((2.0..=3.0).contains(&first_wait), "{times:?}");
    let expected: Vec<f64> = [1.0, 3.0, 7.0, 15.0].iter().map(|n| n * first_wait).collect();
    assert!(times.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.001), "{times:?}");
    assert!((failed - start).as_secs_f64() <= 93.0 + 0.001, "MAX_TRANSMIT_WAIT");
    assert_eq!(layer.next_tick(), None);
}

#[test]
fn one_peer_has_one_request_at_a_time() {
    let now = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 0);
    layer.request(now, 1, peer(), get(1), false);
    layer.request(now, 2, peer(), get(2), false);
    let first = sent(&mut layer);
    assert_eq!(first.len(), 1);
    // An empty acknowledgement does not free the line, the separate answer does.
    layer.datagram(now, peer(), &empty(MessageType::Acknowledgement, first[0].id()));
    assert!(sent(&mut layer).is_empty());
    let mut separate = Message::new(code::CONTENT);
    separate.set_token(vec![1]);
    separate.set_id(500);
    let separate = separate.to_bytes().expect("fits");
    layer.datagram(now, peer(), &separate);
    let effects = layer.take_effects();
    assert!(effects.iter().any(|e| matches!(e, Effect::Answer(1, _))), "{effects:?}");
    let out: Vec<Message> =
        effects.iter().filter_map(|e| if let Effect::Send(_, b) = e { Message::parse(b) } else { None }).collect();
    assert_eq!(out.len(), 2, "the acknowledgement and the second request");
    // Its repetition is acknowledged again and not answered twice.
    layer.datagram(now, peer(), &separate);
    assert_eq!(layer.take_effects(), [Effect::Send(peer(), empty(MessageType::Acknowledgement, 500))]);
}

#[test]
fn a_repeated_request_reaches_the_application_once() {
    let now = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 0);
    let mut request = get(9);
    request.set_id(77);
    let request = request.to_bytes().expect("fits");
    layer.datagram(now, peer(), &request);
    let effects = layer.take_effects();
    let [Effect::Request(ticket, _)] = &effects[..] else { panic!("{effects:?}") };
    layer.datagram(now, peer(), &request);
    assert!(layer.take_effects().is_empty(), "still with the application");
    layer.respond(now, ticket, Message::new(code::CHANGED));
    let answer = sent(&mut layer).remove(0);
    assert_eq!((answer.kind(), answer.id(), answer.token()), (MessageType::Acknowledgement, 77, &[9][..]));
    layer.datagram(now, peer(), &request);
    assert_eq!(sent(&mut layer), [answer], "answered from memory");
}

#[test]
fn an_answer_that_takes_long_comes_separately_and_is_repeated_until_acknowledged() {
    let start = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 0);
    let mut request = get(9);
    request.set_id(77);
    layer.datagram(start, peer(), &request.to_bytes().expect("fits"));
    let effects = layer.take_effects();
    let [Effect::Request(ticket, _)] = &effects[..] else { panic!("{effects:?}") };
    let now = layer.next_tick().expect("an acknowledgement is due");
    layer.tick(now);
    assert_eq!(layer.take_effects(), [Effect::Send(peer(), empty(MessageType::Acknowledgement, 77))]);
    layer.respond(now, ticket, Message::new(code::CONTENT));
    let separate = sent(&mut layer).remove(0);
    assert_eq!((separate.kind(), separate.token()), (MessageType::Confirmable, &[9][..]));
    let again = layer.next_tick().expect("a repetition is due");
    layer.tick(again);
    assert_eq!(sent(&mut layer), std::slice::from_ref(&separate));
    layer.datagram(again, peer(), &empty(MessageType::Acknowledgement, separate.id()));
    assert_eq!(layer.next_tick(), None);
}

#[test]
fn pings_and_unreadable_messages_are_reset_and_strangers_answers_too() {
    let now = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 0);
    layer.datagram(now, peer(), &[0x40, 0, 1, 2]);
    layer.datagram(now, peer(), &[0x41, 1, 1, 3]);
    layer.datagram(now, peer(), &[0x51, 0x45, 1, 4, 0xaa]);
    let resets: Vec<_> =
        [[1, 2], [1, 3], [1, 4]].iter().map(|id| Effect::Send(peer(), vec![0x70, 0, id[0], id[1]])).collect();
    assert_eq!(layer.take_effects(), resets);
    layer.datagram(now, peer(), b"\x00garbage");
    layer.datagram(now, peer(), &[0x60, 0, 9, 9]);
    assert!(layer.take_effects().is_empty(), "other versions and stray acknowledgements are ignored");
}

#[test]
fn an_answer_with_a_wrong_token_is_no_answer() {
    let now = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 0);
    layer.request(now, 1, peer(), get(1), false);
    let mut request = sent(&mut layer).remove(0);
    request.set_token(vec![2]);
    layer.datagram(now, peer(), &answer_to(&request, MessageType::Acknowledgement, code::CONTENT));
    assert!(layer.take_effects().is_empty());
}

#[test]
fn an_observation_keeps_its_token_until_it_is_forgotten() {
    let now = Instant::now();
    let mut layer = Exchanges::new(Params::default(), 0);
    layer.request(now, 1, peer(), get(1).with_uint(CoapOption::Observe, 0), true);
    let request = sent(&mut layer).remove(0);
    for id in 0..3u16 {
        let mut notification = Message::new(code::CONTENT).with_uint(CoapOption::Observe, u32::from(id));
        notification.set_token(vec![1]);
        notification.set_kind(if id == 0 { MessageType::Acknowledgement } else { MessageType::NonConfirmable });
        notification.set_id(if id == 0 { request.id() } else { 100 + id });
        layer.datagram(now, peer(), &notification.to_bytes().expect("fits"));
        let effects = layer.take_effects();
        assert!(matches!(&effects[..], [Effect::Answer(1, _)]), "{effects:?}");
    }
    layer.forget(now, 1);
    let mut late = Message::new(code::CONTENT).with_uint(CoapOption::Observe, 9);
    late.set_token(vec![1]);
    late.set_kind(MessageType::NonConfirmable);
    late.set_id(200);
    layer.datagram(now, peer(), &late.to_bytes().expect("fits"));
    assert_eq!(layer.take_effects(), [Effect::Send(peer(), empty(MessageType::Reset, 200))]);
}

proptest! {
    #[test]
    fn garbage_never_panics_and_is_never_answered_at_length(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..40)
    ) {
        let now = Instant::now();
        let mut layer = Exchanges::new(Params::default(), 0);
        for datagram in &datagrams {
            layer.datagram(now, peer(), datagram);
            for effect in layer.take_effects() {
                if let Effect::Send(_, bytes) = effect {
                    prop_assert!(bytes.len() <= datagram.len());
                }
            }
        }
        layer.tick(now + Duration::from_secs(300));
        prop_assert_eq!(layer.next_tick(), None);
    }
}
