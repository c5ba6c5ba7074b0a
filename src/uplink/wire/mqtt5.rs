//! MQTT 5 of rumqttc: how it is dialled, and what its events, reasons and errors mean.

use rumqttc::{Outgoing, v5};

use super::{Dial, Down, MOST_INCOMING, Message, Minds, Receipt, Verdict, WireEvent, host};

/// QoS 1 publishes of the cloud that may wait for their acknowledgement.
const RECEIVE: u16 = 64;

pub(super) fn options(dial: &Dial) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(&dial.client_id, host(dial), dial.address.port);
    let qos = v5::mqttbytes::QoS::AtLeastOnce;
    let will = v5::mqttbytes::v5::LastWill::new(&dial.will.0, dial.will.1.clone(), qos, true, None);
    options
        .set_keep_alive(dial.keep_alive)
        .set_clean_start(false)
        .set_manual_acks(true)
        .set_outgoing_inflight_upper_limit(dial.in_flight)
        .set_session_expiry_interval(Some(7 * 86_400))
        .set_receive_maximum(Some(RECEIVE))
        .set_max_packet_size(Some(MOST_INCOMING as u32))
        .set_last_will(will);
    if let Some((user, password)) = &dial.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &dial.tls {
        options.set_transport(rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls.clone())));
    }
    options
}

pub(super) fn event(event: v5::Event) -> Result<WireEvent, Down> {
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    Ok(match event {
        v5::Event::Outgoing(Outgoing::Publish(id)) => WireEvent::Sent(id),
        v5::Event::Outgoing(Outgoing::PingReq) => WireEvent::Ping,
        v5::Event::Incoming(Packet::ConnAck(ack)) => WireEvent::Up {
            session_present: ack.session_present,
            max_packet: ack.properties.as_ref().and_then(|p| p.max_packet_size),
            receive_max: ack.properties.as_ref().and_then(|p| p.receive_max),
        },
        v5::Event::Incoming(Packet::PubAck(ack)) => WireEvent::Acked { id: ack.pkid, verdict: verdict(&ack) },
        v5::Event::Incoming(Packet::Publish(publish)) => {
            let properties = publish.properties.as_ref();
            let response = properties.and_then(|p| Some((p.response_topic.clone()?, p.correlation_data.clone())));
            WireEvent::Message(Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.clone(),
                response,
                receipt: Receipt::V5(publish),
            })
        }
        v5::Event::Incoming(Packet::SubAck(ack)) => WireEvent::Subscribed {
            refused: ack.return_codes.iter().filter(|code| !matches!(code, SubscribeReasonCode::Success(_))).count(),
        },
        _ => WireEvent::Other,
    })
}

/// MQTT 5, section 3.4.2.1.
fn verdict(ack: &v5::mqttbytes::v5::PubAck) -> Verdict {
    use v5::mqttbytes::v5::PubAckReason as Reason;
    let said = ack.properties.as_ref().and_then(|p| p.reason_string.clone());
    let text = |what: &str| said.clone().map_or(what.to_owned(), |said| format!("{what}: {said}"));
    match ack.reason {
        Reason::Success | Reason::NoMatchingSubscribers => Verdict::Good,
        Reason::QuotaExceeded => Verdict::Later(text("quota exceeded")),
        Reason::PacketIdentifierInUse => Verdict::Later(text("packet id in use")),
        Reason::UnspecifiedError => Verdict::Later(text("unspecified error")),
        Reason::ImplementationSpecificError => Verdict::Later(text("refused for a reason of the broker's own")),
        Reason::NotAuthorized => Verdict::NotAllowed(text("not authorized")),
        Reason::TopicNameInvalid => Verdict::Never(text("topic name invalid")),
        Reason::PayloadFormatInvalid => Verdict::Never(text("payload format invalid")),
    }
}

pub(super) fn down(error: v5::ConnectionError) -> Down {
    use v5::{
        ConnectionError as Error,
        mqttbytes::v5::{ConnectReturnCode as Code, DisconnectReasonCode as Reason},
    };
    match error {
        Error::ConnectionRefused(code) => Down {
            refused: matches!(
                code,
                Code::BadUserNamePassword
                    | Code::NotAuthorized
                    | Code::Banned
                    | Code::BadClientId
                    | Code::ClientIdentifierNotValid
                    | Code::BadAuthenticationMethod
                    | Code::UnsupportedProtocolVersion
                    | Code::RefusedProtocolVersion
            ),
            minds: matches!(code, Code::QuotaExceeded | Code::ConnectionRateExceeded).then_some(Minds::Rate),
            ..Down::new(format!("the broker refused the connection: {code:?}"))
        },
        Error::MqttState(v5::StateError::ServerDisconnect { reason_code, reason_string }) => Down {
            minds: match reason_code {
                Reason::PacketTooLarge => Some(Minds::Size),
                Reason::QuotaExceeded | Reason::MessageRateTooHigh | Reason::ConnectionRateExceeded => {
                    Some(Minds::Rate)
                }
                _ => None,
            },
            refused: matches!(reason_code, Reason::NotAuthorized | Reason::SessionTakenOver),
            ..Down::new(match reason_string {
                Some(said) => format!("the broker ended the connection ({reason_code:?}): {said}"),
                None => format!("the broker ended the connection: {reason_code:?}"),
            })
        },
        Error::Timeout(_) => Down::new("the broker did not answer in time"),
        other => Down::new(other.to_string()),
    }
}
