//! The gateway as a client of one CoAP child: observes or polls its resources, writes desired values and reads them back.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    endpoint::Endpoint,
    exchange::Params,
    session::{Gone, Session},
};
use crate::{
    bus::{DriverSender, FromDriver, ToDriver, ToDriverReceiver},
    clock,
    config::coap::Device,
    model::command::{Refusal, RefusalCode},
};

/// The ends one CoAP child's driver holds.
pub struct Ports {
    pub readings: DriverSender,
    pub commands: ToDriverReceiver,
}

/// Why the driver gave up; it is started again after a while.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("no socket for CoAP: {0}")]
    Socket(#[from] io::Error),
    #[error("the keeper takes no readings any more")]
    Closed,
}

const RESOLVE_AGAIN: Duration = Duration::from_secs(15);

/// Serves one device until `stop`. A change of its configuration begins anew with it.
pub async fn run(
    mut config: watch::Receiver<Arc<Device>>,
    mut ports: Ports,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    loop {
        let device = config.borrow_and_update().clone();
        let ended = tokio::select! {
            ended = serve(&device, &mut ports) => ended,
            () = stop.cancelled() => return Ok(()),
            changed = config.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        ended?;
    }
}

/// Until the device has to be looked up again.
async fn serve(device: &Device, ports: &mut Ports) -> Result<(), DriverError> {
    let peer = match resolve(&device.address).await {
        Ok(peer) => peer,
        Err(why) => {
            let reason = Some(format!("{}: {why}", device.address));
            let gone =
                FromDriver::Reachable { device: device.common.id.clone(), at: clock::now(), reachable: false, reason };
            ports.readings.send(gone).await.map_err(|_| DriverError::Closed)?;
            refuse_for(ports, RESOLVE_AGAIN, &why).await;
            return Ok(());
        }
    };
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let params = Params { ack_timeout: device.timeout, retries: device.retries, ..Params::default() };
    let (endpoint, work, requests) = Endpoint::bind(any, params).await?;
    drop(requests);
    let session = Session::new(device, peer, endpoint, &ports.readings);
    tokio::select! {
        () = work.run() => Ok(()),
        gone = session.run(&mut ports.commands) => match gone {
            Gone::LookUpAgain => Ok(()),
            Gone::Closed => Err(DriverError::Closed),
        },
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host(address).await.map_err(|e| e.to_string())?;
    found.next().ok_or_else(|| "has no address".to_owned())
}

/// Answers commands while the device cannot be reached at all.
async fn refuse_for(ports: &mut Ports, wait: Duration, why: &str) {
    let refuse = async {
        while let Some(command) = ports.commands.recv().await {
            let refusal = Refusal::new(RefusalCode::DeviceFailed, why);
            match command {
                ToDriver::Write { reply, .. } => drop(reply.send(Err(refusal))),
                ToDriver::Call { reply, .. } => drop(reply.send(Err(refusal))),
                ToDriver::Tool { reply, .. } => drop(reply.send(Err(refusal))),
            }
        }
        std::future::pending::<()>().await;
    };
    let _ = tokio::time::timeout(wait, refuse).await;
}
