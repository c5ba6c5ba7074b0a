//! From the first byte to CONNACK: is it MQTT, who is it, may it leave that will, which session is its own.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::BytesMut;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use super::{
    connection::{Connection, Terms},
    hub::Hub,
    life::Wanted,
    look_again,
    session::Live,
    wire::{self, Connect, Fault, Version, encode, reason},
};
use crate::{
    bus::ChildEvent,
    clock,
    config::broker::Anonymous,
    identity::{Login, LoginRefused, Principal, shown},
    model::{
        access::Who,
        device::{Lifecycle, Protocol},
        ids::DeviceId,
    },
};

/// How long a login may take once it was asked for.
const LOGIN: Duration = Duration::from_secs(15);
/// How long the last words of the broker may take to be taken.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// Name and group of those who come without credentials where that is allowed.
const NOBODY: &str = "anonymous";
const NOT_CONNECT: &str = "the first packet is not CONNECT";
/// The first byte of a TLS handshake; a CONNECT has no such flags.
const HANDSHAKE: u8 = 0x16;
const TLS: &str =
    "what came is a TLS handshake, and this port speaks plain MQTT; TLS has ports of its own ([broker] tls)";

/// A CONNECT that is refused.
struct Refused {
    fault: Fault,
    device: Option<DeviceId>,
    /// A word for counting; `None` where the login has been counted.
    word: Option<&'static str>,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        let word = match fault.code {
            reason::VERSION => "protocol-version",
            reason::CLIENT_ID => "client-id",
            reason::AUTH_METHOD => "auth-method",
            reason::BUSY | reason::UNAVAILABLE => "busy",
            _ => "bad-connect",
        };
        Self { fault, device: None, word: Some(word) }
    }
}

impl Refused {
    fn newcomer(device: &DeviceId, fault: Fault) -> Self {
        let word = if fault.code == reason::QUOTA { "anonymous-devices" } else { "busy" };
        Self { fault, device: Some(device.clone()), word: Some(word) }
    }

    fn will(device: &DeviceId, fault: Fault) -> Self {
        Self { fault, device: Some(device.clone()), word: Some("will-refused") }
    }
}

/// The other end of an accepted connection.
pub struct Peer {
    pub address: SocketAddr,
    /// `tcp`, `tls`, `websocket`, `websocket, tls`.
    pub transport: &'static str,
    /// What the TLS verifier accepted, leaf first.
    pub certificates: Option<Vec<CertificateDer<'static>>>,
    /// By when CONNECT must be here.
    pub deadline: Instant,
}

/// Serves one connection from its first byte to its end.
pub async fn serve(hub: Arc<Hub>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut input = BytesMut::with_capacity(4096);
    let stop = hub.tasks.stopping();
    let first = async {
        loop {
            if let [HANDSHAKE, ..] = input[..] {
                return Err(Fault::new(reason::PROTOCOL_ERROR, TLS));
            }
            if let Some(frame) = wire::frame(&mut input, None, hub.limits.packet)? {
                return Ok(Some(frame));
            }
            if let Some(first) = input.first()
                && first >> 4 != 1
            {
                return Err(Fault::new(reason::PROTOCOL_ERROR, NOT_CONNECT));
            }
            match reader.read_buf(&mut input).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    };
    let frame = tokio::select! {
        first = timeout_at(peer.deadline, first) => match first {
            Ok(Ok(Some(frame))) if frame.is_connect() => frame,
            // a port that was looked at
            Ok(Ok(None)) => return,
            Ok(Ok(Some(_))) => return hub.turn_away(peer.address, None, "not-mqtt", NOT_CONNECT.into()).await,
            Ok(Err(fault)) => return hub.turn_away(peer.address, None, "not-mqtt", fault.to_string()).await,
            Err(_) => return hub.turn_away(peer.address, None, "too-slow", "no CONNECT in time".into()).await,
        },
        () = stop.cancelled() => return,
    };
    let mut output = BytesMut::new();
    // whoever speaks 6 or later reads the newer answer, whoever speaks 3 the older
    let (mut version, mut most) = (Version::V4, usize::MAX);
    let outcome = async {
        version = wire::version(&frame)?;
        let connect = wire::connect(version, frame)?;
        most = packet_maximum(&connect);
        greet(&hub, version, connect, &peer).await
    };
    let outcome = outcome.await;
    let (connect, wanted) = match outcome {
        Ok(greeted) => greeted,
        Err(Refused { fault, device, word }) => {
            match word {
                Some(word) => hub.turn_away(peer.address, device.as_ref(), word, fault.to_string()).await,
                None => {
                    hub.totals.refused_connects.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(peer = %peer.address, transport = peer.transport, %fault, "a connection is refused");
                }
            }
            encode::refuse(&mut output, version, fault.code, &fault.text, most);
            let last = async {
                writer.write_all_buf(&mut output).await?;
                writer.shutdown().await
            };
            drop(timeout(LAST_WORDS, last).await);
            return;
        }
    };
    let (device, asked) = (wanted.device.clone(), wanted.expiry);
    let attached = match hub.attach(wanted).await {
        Ok(attached) => attached,
        Err(fault) => {
            let refused = Refused::from(fault.clone());
            hub.turn_away(peer.address, Some(&device), refused.word.unwrap_or_default(), fault.to_string()).await;
            encode::refuse(&mut output, version, fault.code, &fault.text, most);
            drop(timeout(LAST_WORDS, writer.write_all_buf(&mut output)).await);
            return;
        }
    };
    // It may have been suspended since its login was judged: an older connection had to let go first.
    look_again(&hub, &attached.session).await;
    let keep_alive = server_keep_alive(&hub, &connect);
    let welcome = welcome(&hub, &connect, asked, &attached.session.client, attached.present);
    encode::connack(&mut output, version, &welcome);
    hub.arrived(&device);
    tracing::info!(device = %device, client = &*attached.session.client, peer = %peer.address, transport = peer.transport, protocol = version.name(), present = attached.present, "a child connected");
    let protocol = version.name();
    let event = ChildEvent::Connected { device, address: Some(peer.address), protocol, at: clock::now() };
    hub.children.send(event).await;
    let terms = Terms {
        version,
        keep_alive: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500)),
        packet_maximum: most,
        alias_maximum: connect.alias_maximum,
        problem_information: connect.problem_information,
        may_extend: connect.expiry.unwrap_or(0) > 0,
    };
    Connection::new(hub.clone(), attached, terms, input, output).run(reader, writer).await;
}

/// Bytes of the largest packet that the client takes.
fn packet_maximum(connect: &Connect) -> usize {
    connect.packet_maximum.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// What `connect` is told when it is let in as `client` for `expiry` seconds.
fn welcome<'a>(hub: &Hub, connect: &Connect, expiry: u32, client: &'a str, present: bool) -> encode::Welcome<'a> {
    let keep_alive = server_keep_alive(hub, connect);
    encode::Welcome {
        session_present: present,
        assigned_id: connect.client_id.is_empty().then_some(client),
        keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
        expiry: (connect.expiry.unwrap_or(0) != expiry).then_some(expiry),
        receive_maximum: hub.limits.receive,
        packet_maximum: u32::try_from(hub.limits.packet).unwrap_or(u32::MAX),
        alias_maximum: hub.limits.aliases,
    }
}

/// The keep-alive that counts: what the client said, shortened for those who can be told.
fn server_keep_alive(hub: &Hub, connect: &Connect) -> u16 {
    let most = u16::try_from(hub.limits.keep_alive.as_secs()).unwrap_or(u16::MAX);
    if connect.version == Version::V5 && connect.keep_alive > most { most } else { connect.keep_alive }
}

/// Judges a CONNECT; what is wanted of a session, or why not.
async fn greet(hub: &Hub, version: Version, connect: Connect, peer: &Peer) -> Result<(Connect, Wanted), Refused> {
    if connect.has_auth_method {
        return Err(Fault::new(reason::AUTH_METHOD, "extended authentication is not spoken here").into());
    }
    if version == Version::V4 && connect.client_id.is_empty() && !connect.clean {
        return Err(Fault::new(reason::CLIENT_ID, "an empty client id needs a clean session").into()); // 3.1.1, 3.1.3.1
    }
    if connect.client_id.len() > 256 {
        return Err(Fault::new(reason::CLIENT_ID, "a client id longer than 256 bytes").into());
    }
    let (device, groups, principal) = who(hub, &connect, peer).await?;
    if let Some(will) = &connect.will {
        if will.topic.len() > hub.limits.topic || will.topic.split('/').count() > hub.limits.levels {
            let fault = Fault::new(reason::TOPIC_INVALID, "the will's topic is too long or too deep");
            return Err(Refused::will(&device, fault));
        }
        let access = hub.access.borrow().clone();
        let who = Who { device: &device, groups: &groups };
        access.may_publish(who, &will.topic).map_err(|denied| {
            let fault = Fault::new(reason::NOT_AUTHORIZED, format!("the will on {:?}: {denied}", will.topic));
            Refused::will(&device, fault)
        })?;
    }
    let most = u32::try_from(hub.limits.session.as_secs()).unwrap_or(u32::MAX - 1);
    let expiry = match (version, connect.clean) {
        (Version::V5, _) => connect.expiry.unwrap_or(0).min(most),
        (Version::V4, true) => 0,
        (Version::V4, false) => most,
    };
    let assigned = connect.client_id.is_empty();
    let client: Arc<str> =
        if assigned { format!("{device}/{}", random_name()).into() } else { connect.client_id.as_str().into() };
    let mut answer = BytesMut::new();
    encode::connack(&mut answer, version, &welcome(hub, &connect, expiry, &client, false));
    let most = packet_maximum(&connect);
    if answer.len() > most {
        let text = format!("the CONNACK has {} bytes, and the client takes packets of {most} at most", answer.len());
        return Err(Fault::new(reason::TOO_LARGE, text).into());
    }
    // Last: whoever is refused for something else takes no place.
    if principal.is_none() {
        take_place(hub, &device).await?;
    }
    let wanted = Wanted {
        client,
        assigned,
        device,
        groups,
        clean: connect.clean,
        expiry,
        window: connect.receive_maximum.min(hub.limits.inflight),
        will: connect.will.clone(),
        live: Live {
            address: Some(peer.address),
            protocol: match peer.transport {
                "tcp" => version.name().to_owned(),
                other => format!("{}, {other}", version.name()),
            },
            since: clock::now(),
            principal,
        },
    };
    Ok((connect, wanted))
}

/// A place for `device`, which shows no credential, among those that are registered for that.
async fn take_place(hub: &Hub, device: &DeviceId) -> Result<(), Refused> {
    if hub.anonymous != Anonymous::ByClientId || device.as_str() == NOBODY {
        return Ok(());
    }
    hub.newcomers.admit(device).await.map_err(|fault| Refused::newcomer(device, fault))
}

async fn who(hub: &Hub, connect: &Connect, peer: &Peer) -> Result<(DeviceId, Vec<String>, Option<Principal>), Refused> {
    let login = Login {
        client_id: &connect.client_id,
        username: connect.username.as_deref(),
        password: connect.password.as_deref(),
        certificates: peer.certificates.as_deref(),
        address: Some(peer.address),
    };
    let nothing = login.username.is_none() && login.password.is_none() && login.certificates.is_none();
    let judged = async {
        if nothing && hub.anonymous != Anonymous::Refuse {
            let named = match hub.anonymous {
                Anonymous::ByClientId => DeviceId::new(&connect.client_id).ok(),
                _ => None,
            };
            let device = named.unwrap_or_else(|| DeviceId::new(NOBODY).expect("a valid id"));
            hub.identity.admit_unproved(login, &device).await?;
            return Ok((device, vec![NOBODY.to_owned()], None));
        }
        let principal = hub.identity.authenticate(login).await?;
        Ok((principal.device.clone(), principal.groups.clone(), Some(principal)))
    };
    match timeout(LOGIN, judged).await {
        Ok(Ok(who)) => Ok(who),
        Ok(Err(refused)) => {
            let code = match &refused {
                LoginRefused::NoCredentials
                | LoginRefused::Unproved { .. }
                | LoginRefused::NotActive { .. }
                | LoginRefused::Expired { .. } => reason::NOT_AUTHORIZED,
                LoginRefused::BadCredentials
                | LoginRefused::UnknownCertificate { .. }
                | LoginRefused::Revoked { .. } => reason::BAD_LOGIN,
                // Another client id would do (MQTT 5, 3.2.2.2: "a valid string but is not allowed").
                LoginRefused::ClientId { .. } | LoginRefused::NoClient { .. } => reason::CLIENT_ID,
                LoginRefused::Locked { .. } => reason::BUSY,
                LoginRefused::Unavailable(_) => reason::UNAVAILABLE,
            };
            // People put tokens where names belong.
            let (client, username) = (shown(&connect.client_id), connect.username.as_deref().map(shown));
            tracing::info!(client, username, %refused, "a login is refused");
            if let LoginRefused::NotActive { device, lifecycle: Lifecycle::Pending } = &refused {
                if nothing {
                    take_place(hub, device).await?;
                }
                let waiting = ChildEvent::Waiting { device: device.clone(), protocol: Protocol::Mqtt };
                hub.children.send(waiting).await;
            }
            Err(Refused { fault: Fault::new(code, refused.outside()), device: None, word: None })
        }
        Err(_) => Err(Fault::new(reason::UNAVAILABLE, "the login could not be checked in time").into()),
    }
}

/// Sixteen random hex digits.
fn random_name() -> String {
    let mut bytes = [0_u8; 8];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        tracing::error!("the system has no random numbers");
    }
    hex::encode(bytes)
}
