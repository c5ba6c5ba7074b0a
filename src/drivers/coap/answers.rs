//! What the CoAP door answers: a store's verdict on what was pushed, or what waits for a child, cut into blocks.

use bytes::Bytes;
use coap_lite::CoapOption;
use serde_json::{Map, Value as Json, json};
use tokio::sync::oneshot;

use super::{
    blocks::{self, refuse},
    formats::{to_cbor, to_contract},
    server::ServerPorts,
    wire::{Block, Message, code},
};
use crate::{
    bus::{Fetch, FetchKind, Inbound, UpdateAsk},
    config::coap::Format,
    model::{
        command::{Door, Refusal, RefusalCode},
        device::Lifecycle,
        ids::DeviceId,
        time::Millis,
        topic::ChildTopic,
    },
};

type Verdict = oneshot::Receiver<Result<(), Refusal>>;

/// A request that passed the door.
pub enum Asked {
    Links,
    Get {
        device: DeviceId,
        what: String,
    },
    /// With the keeper; answered when it is on disk.
    Stored {
        device: DeviceId,
        reply: Verdict,
        block: Option<Block>,
        /// Whether what is desired of the device travels back in the answer.
        delta: bool,
    },
    /// From a device that may not talk.
    Barred {
        device: DeviceId,
        lifecycle: Lifecycle,
    },
    /// Decided already.
    Nothing(Message),
}

const LINKS: [(&str, &str); 2] = [
    (
        "/devices",
        "rt=\"headgate.devices\";title=\"POST {id}/telemetry, {id}/state, {id}/heartbeat, {id}/update/status\"",
    ),
    (
        "/devices",
        "rt=\"headgate.inbox\";title=\"GET {id}/delta, {id}/config, {id}/commands, {id}/update, {id}/firmware\"",
    ),
];

/// Topics that may be POSTed here.
pub fn takes(topic: &ChildTopic) -> bool {
    use ChildTopic::{CommandResponse, ConfigAck, DiagnosticsResponse, Heartbeat, State, Telemetry, UpdateStatus};
    matches!(topic, Telemetry | State | Heartbeat | UpdateStatus | ConfigAck | CommandResponse(_) | DiagnosticsResponse)
}

/// A body in its content format as the JSON of the contract. Without a Content-Format it is taken as JSON.
pub fn inbound(
    device: &DeviceId,
    topic: ChildTopic,
    request: &Message,
    body: Vec<u8>,
    now: Millis,
) -> Result<(Inbound, Verdict, bool), Message> {
    let unsupported = || refuse(code::UNSUPPORTED_FORMAT, "send JSON (50), CBOR (60) or SenML (110, 112)");
    let format = match request.uint(CoapOption::ContentFormat).map(u16::try_from) {
        None => Format::Json,
        Some(number) => number.ok().and_then(Format::from_number).ok_or_else(unsupported)?,
    };
    let senml = matches!(format, Format::SenmlJson | Format::SenmlCbor);
    let payload = match (&topic, format) {
        (_, Format::Json) => body,
        (_, Format::Text) => return Err(unsupported()),
        (ChildTopic::Telemetry | ChildTopic::State, _) | (_, Format::Cbor) => {
            let json = to_contract(format, &body, now).map_err(|why| refuse(code::BAD_REQUEST, why))?;
            let json = if senml && topic == ChildTopic::State { reported(&json) } else { json };
            serde_json::to_vec(&json).unwrap_or_default()
        }
        _ => return Err(refuse(code::UNSUPPORTED_FORMAT, "SenML carries telemetry and state only")),
    };
    let delta = matches!(topic, ChildTopic::Telemetry | ChildTopic::State | ChildTopic::Heartbeat);
    let (reply, verdict) = oneshot::channel();
    let payload = Bytes::from(payload);
    Ok((
        Inbound { device: device.clone(), topic, payload, at: now, door: Door::Device, reply, mark: None },
        verdict,
        delta,
    ))
}

/// A SenML pack is a device's state: the latest value of each name.
fn reported(sets: &Json) -> Json {
    let mut reported = Map::new();
    for set in sets.as_array().into_iter().flatten() {
        reported.extend(set["values"].as_object().cloned().unwrap_or_default());
    }
    json!({ "reported": reported })
}

/// The answer to a request; `most` bounds its datagram.
pub async fn answer(asked: Asked, request: &Message, most: usize, ports: &ServerPorts) -> Message {
    match asked {
        Asked::Nothing(answer) => answer,
        Asked::Barred { lifecycle, .. } => refuse(code::FORBIDDEN, barred(lifecycle)),
        Asked::Links => blocks::content(request, 40, links(request).as_bytes(), most),
        Asked::Stored { device, reply, block, delta } => {
            let answer = match reply.await {
                Ok(Ok(())) => changed(device, request, delta, most, ports).await,
                Ok(Err(refusal)) => refused(&refusal),
                Err(_) => refuse(code::UNAVAILABLE, "the gateway is stopping"),
            };
            match block {
                Some(block) => answer.with_block(CoapOption::Block1, block),
                None => answer,
            }
        }
        Asked::Get { device, what } => match get(device, &what, request, most, ports).await {
            Ok(answer) => answer,
            Err(refusal) => refused(&refusal),
        },
    }
}

/// Short, so that it fits into the answer to a short request.
fn barred(lifecycle: Lifecycle) -> String {
    match lifecycle {
        Lifecycle::Pending => "this device is pending: it waits for approval".into(),
        lifecycle => format!("this device is {lifecycle:?}").to_lowercase(),
    }
}

fn links(request: &Message) -> String {
    let queries = request.queries();
    let fits = |target: &str, attributes: &str| {
        queries.iter().all(|query| match query.split_once('=') {
            Some(("href", wanted)) => match wanted.strip_suffix('*') {
                Some(start) => target.starts_with(start),
                None => target == wanted,
            },
            Some(("rt", wanted)) => match wanted.strip_suffix('*') {
                Some(start) => attributes.contains(&format!("rt=\"{start}")),
                None => attributes.contains(&format!("rt=\"{wanted}\"")),
            },
            _ => true,
        })
    };
    let fitting = LINKS.iter().filter(|(target, attributes)| fits(target, attributes));
    fitting.map(|(target, attributes)| format!("<{target}>;{attributes}")).collect::<Vec<_>>().join(",")
}

/// 2.04, with the delta in it where there is one and it may travel: a sleeping child need not ask.
async fn changed(device: DeviceId, request: &Message, delta: bool, most: usize, ports: &ServerPorts) -> Message {
    let answer = Message::new(code::CHANGED);
    if !delta {
        return answer;
    }
    let waiting = fetch(device, FetchKind::Delta, ports).await.unwrap_or(Json::Null);
    if waiting.as_object().is_none_or(Map::is_empty) {
        return answer;
    }
    let Ok((format, body)) = encode(request, &waiting) else { return answer };
    let with = answer.clone().with_uint(CoapOption::ContentFormat, u32::from(format)).with_payload(body);
    let fits = with.to_bytes().is_some_and(|bytes| bytes.len() + 8 <= most);
    if fits { with } else { answer }
}

async fn get(
    device: DeviceId,
    what: &str,
    request: &Message,
    most: usize,
    ports: &ServerPorts,
) -> Result<Message, Refusal> {
    let document = match what {
        "delta" => fetch(device, FetchKind::Delta, ports).await?,
        "config" | "config/desired" => fetch(device, FetchKind::Config, ports).await?,
        "commands" => fetch(device, FetchKind::Commands, ports).await?,
        "update" | "update/command" => {
            let (reply, offer) = oneshot::channel();
            let path = format!("/devices/{device}/firmware");
            ports.updates.send(UpdateAsk::Offer { device, reply }).await.map_err(|_| stopping())?;
            let mut offer = offer.await.map_err(|_| stopping())??;
            if let Some(url) = offer.get_mut("url") {
                *url = path.into();
            }
            offer
        }
        "firmware" => return firmware(device, request, most, ports).await,
        _ => return Ok(refuse(code::NOT_FOUND, "GET delta, config, commands, update or firmware")),
    };
    if document.is_null() {
        return Ok(refuse(code::NOT_FOUND, "nothing waits here"));
    }
    match encode(request, &document) {
        Ok((format, body)) => Ok(blocks::content(request, format, &body, most)),
        Err(answer) => Ok(answer),
    }
}

async fn fetch(device: DeviceId, what: FetchKind, ports: &ServerPorts) -> Result<Json, Refusal> {
    let (reply, answer) = oneshot::channel();
    ports.fetch.send(Fetch { device, what, reply }).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

/// One block of the offered image, read by its offset: nothing is kept between two blocks.
async fn firmware(device: DeviceId, request: &Message, most: usize, ports: &ServerPorts) -> Result<Message, Refusal> {
    let block = match blocks::wanted(request, most, u64::MAX) {
        Ok(Some(block)) => block,
        Ok(None) => return Ok(refuse(code::BAD_OPTION, "ask for a block")),
        Err(refusal) => return Ok(refusal),
    };
    let (reply, piece) = oneshot::channel();
    let ask = UpdateAsk::Piece { device, offset: block.offset(), length: block.size() as u32, reply };
    ports.updates.send(ask).await.map_err(|_| stopping())?;
    let piece = piece.await.map_err(|_| stopping())??;
    if piece.bytes.is_empty() {
        return Ok(refuse(code::BAD_OPTION, "there is no such block"));
    }
    let etag = hex::decode(&piece.sha256[..16.min(piece.sha256.len())]).unwrap_or_default();
    Ok(blocks::piece(42, &etag, block, piece.total, &piece.bytes))
}

/// In the format that is accepted, or JSON.
fn encode(request: &Message, document: &Json) -> Result<(u16, Vec<u8>), Message> {
    match request.uint(CoapOption::Accept) {
        None | Some(50) => Ok((50, document.to_string().into_bytes())),
        Some(60) => to_cbor(document).map(|body| (60, body)).map_err(|why| refuse(code::INTERNAL, why)),
        Some(_) => Err(refuse(code::NOT_ACCEPTABLE, "JSON (50) or CBOR (60)")),
    }
}

fn stopping() -> Refusal {
    Refusal::new(RefusalCode::Busy, "the gateway is stopping")
}

fn refused(refusal: &Refusal) -> Message {
    let code = match refusal.code {
        RefusalCode::PayloadInvalid | RefusalCode::Expired => code::BAD_REQUEST,
        RefusalCode::TopicInvalid | RefusalCode::UnknownDevice => code::NOT_FOUND,
        RefusalCode::NotAuthorized => code::FORBIDDEN,
        RefusalCode::TooLarge => code::TOO_LARGE,
        RefusalCode::OutOfRange => code::UNPROCESSABLE,
        RefusalCode::NotWritable => code::METHOD_NOT_ALLOWED,
        RefusalCode::VersionConflict => code::CONFLICT,
        RefusalCode::DeviceFailed => code::BAD_GATEWAY,
        RefusalCode::StoreUnavailable | RefusalCode::Busy => code::UNAVAILABLE,
        RefusalCode::Internal => code::INTERNAL,
    };
    refuse(code, refusal.message.chars().take(400).collect::<String>())
}
