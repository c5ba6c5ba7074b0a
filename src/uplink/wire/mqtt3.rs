//! MQTT 3.1.1 of rumqttc: how it is dialled, and what its events and errors mean.

use rumqttc::Outgoing;

use super::{Dial, Down, MOST_INCOMING, Message, Receipt, Verdict, WireEvent, host};

pub(super) fn options(dial: &Dial) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(&dial.client_id, host(dial), dial.address.port);
    options
        .set_keep_alive(dial.keep_alive)
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_inflight(dial.in_flight)
        .set_max_packet_size(MOST_INCOMING, 256 << 20)
        .set_last_will(rumqttc::LastWill::new(&dial.will.0, dial.will.1.clone(), rumqttc::QoS::AtLeastOnce, true));
    if let Some((user, password)) = &dial.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &dial.tls {
        options.set_transport(rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls.clone())));
    }
    options
}

pub(super) fn event(event: rumqttc::Event) -> Result<WireEvent, Down> {
    use rumqttc::{Event, Packet, SubscribeReasonCode};
    Ok(match event {
        Event::Outgoing(Outgoing::Publish(id)) => WireEvent::Sent(id),
        Event::Outgoing(Outgoing::PingReq) => WireEvent::Ping,
        Event::Incoming(Packet::ConnAck(ack)) => {
            WireEvent::Up { session_present: ack.session_present, max_packet: None, receive_max: None }
        }
        Event::Incoming(Packet::PubAck(ack)) => WireEvent::Acked { id: ack.pkid, verdict: Verdict::Good },
        Event::Incoming(Packet::Publish(publish)) => WireEvent::Message(Message {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            response: None,
            receipt: Receipt::V3(publish),
        }),
        Event::Incoming(Packet::SubAck(ack)) => WireEvent::Subscribed {
            refused: ack.return_codes.iter().filter(|code| **code == SubscribeReasonCode::Failure).count(),
        },
        _ => WireEvent::Other,
    })
}

pub(super) fn down(error: rumqttc::ConnectionError) -> Down {
    use rumqttc::{ConnectReturnCode as Code, ConnectionError as Error};
    match error {
        Error::ConnectionRefused(code) => Down {
            refused: code != Code::ServiceUnavailable,
            ..Down::new(format!("the broker refused the connection: {code:?}"))
        },
        Error::NetworkTimeout => Down::new("the broker did not answer in time"),
        other => Down::new(other.to_string()),
    }
}
