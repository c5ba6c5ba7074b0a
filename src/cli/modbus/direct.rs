//! Tools on a bus that is opened here, for as long as the tool takes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot, watch};

use super::arguments::Where;
use crate::{
    bus::ToDriver,
    config::modbus::{Bus, Framing, Link, Parity, Rts, Serial, profile::Profiles},
    drivers::modbus::{
        owner::{self, Ports},
        status::Status,
    },
    tasks::Tasks,
};

/// The bus the arguments describe; `None` where they only name one of the daemon's.
pub(super) fn bus(place: &Where) -> Result<Option<Bus>, String> {
    let with_port = |address: &String| if address.contains(':') { address.clone() } else { format!("{address}:502") };
    let tcp = |address: &String| Link::Tcp { addresses: vec![with_port(address)], tls: None };
    Ok(match (&place.tcp, &place.rtu_over_tcp, &place.port) {
        (Some(address), _, _) => Some(Bus::bare(address, tcp(address), Framing::Tcp)),
        (_, Some(address), _) => Some(Bus::bare(address, tcp(address), Framing::Rtu)),
        (_, _, Some(port)) => {
            let framing = if place.ascii { Framing::Ascii } else { Framing::Rtu };
            let plain = Serial {
                port: PathBuf::from(port),
                baud: 9600,
                parity: Parity::None,
                data_bits: 8,
                stop_bits: 1,
                rts: Rts::None,
            };
            let serial = plain.with_line(&place.line);
            let serial = serial.ok_or_else(|| format!("--line {:?}: write \"9600 8N1\"", place.line))?;
            Some(Bus::bare(&port.display().to_string(), Link::Serial(serial), framing))
        }
        _ => None,
    })
}

/// Carries out `request` on a bus of its own; `overlay` holds the user's profiles.
pub(super) async fn run(
    mut bus: Bus,
    overlay: &Path,
    request: Json,
    mut each: impl FnMut(Json),
) -> Result<Json, String> {
    let (profiles, problems) = Profiles::with_overlay(overlay);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    bus.profiles = Arc::new(profiles);
    let tasks = Tasks::new();
    let (_config, watched) = watch::channel(Arc::new(bus));
    let (readings, _told) = mpsc::channel(64);
    let (inbox, work) = mpsc::channel(4);
    let (status, _) = watch::channel(Status::default());
    let mut ports = Ports { readings, inbox: work, status, learned: watch::Sender::new(HashMap::new()) };
    let stop = tasks.stopping();
    tasks.spawn("bus", async move {
        if let Err(error) = owner::run(watched, &mut ports, stop).await {
            eprintln!("{error}");
        }
    });
    let (progress, mut partial) = mpsc::channel(1024);
    let (reply, mut answer) = oneshot::channel();
    let sent = inbox.send(ToDriver::Tool { request, progress: Some(progress), reply }).await;
    sent.map_err(|_| "the bus did not start".to_owned())?;
    let outcome = loop {
        tokio::select! {
            biased;
            Some(step) = partial.recv() => each(step),
            outcome = &mut answer => break outcome,
        }
    };
    while let Ok(step) = partial.try_recv() {
        each(step);
    }
    tasks.stop_and_wait().await;
    match outcome {
        Ok(result) => result.map_err(|refusal| refusal.message),
        Err(_) => Err("the bus stopped before it was done".into()),
    }
}
