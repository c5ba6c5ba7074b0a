//! Listeners and connections: loopback HTTP, HTTPS, the control socket. Each connection is a task of its own with
//! limits on number and on time, so that no caller can hold up another.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{WebError, access::Via};
use crate::tasks::Tasks;

/// Connections at a time per listener; more wait in the system's queue.
const CONNECTIONS: usize = 128;
/// For a request's head, and for a TLS handshake.
const HEAD: Duration = Duration::from_secs(10);
/// For answers in progress when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// First byte of a TLS record that carries a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

type Tls = watch::Receiver<Arc<rustls::ServerConfig>>;

/// Listens on `address`. `firmware` is served beside `router` without its rules, also over plain HTTP where everything
/// else is redirected: images are signed, and small devices have no TLS.
pub(super) async fn net(
    address: SocketAddr,
    router: Router,
    firmware: Router,
    tls: Option<Tls>,
    tasks: &Tasks,
) -> Result<SocketAddr, WebError> {
    let wrong = |error| WebError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    let redirect = firmware.clone().fallback(to_https);
    let router = firmware.merge(router);
    let (group, stopping) = (tasks.clone(), tasks.stopping());
    tasks.spawn(format!("web {bound}"), async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => { pause(error).await; continue }
                },
                () = stopping.cancelled() => return,
            };
            let (router, redirect, tls, stopping) = (router.clone(), redirect.clone(), tls.clone(), stopping.clone());
            group.spawn("web connection", async move {
                let _slot = slot;
                let _ = stream.set_nodelay(true);
                let local = stream.local_addr().unwrap_or(bound);
                let local = SocketAddr::new(local.ip().to_canonical(), local.port());
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let via = |tls| Via::Net { tls, local, peer };
                let Some(tls) = tls else { return talk(stream, router, via(false), stopping).await };
                match timeout(HEAD, speaks_tls(&stream)).await {
                    Ok(Ok(true)) => {
                        let config = tls.borrow().clone();
                        // A failed handshake is the caller's business: browsers try several.
                        if let Ok(Ok(stream)) = timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await {
                            talk(stream, router, via(true), stopping).await;
                        }
                    }
                    Ok(Ok(false)) => talk(stream, redirect, via(false), stopping).await,
                    _ => {}
                }
            });
        }
    });
    Ok(bound)
}

/// Serves `router` on a Unix socket that only the daemon's own user and group may open.
pub(super) async fn socket(path: PathBuf, router: Router, tasks: &Tasks) -> Result<(), WebError> {
    let wrong = |error| WebError::Control { path: path.clone(), error };
    match UnixStream::connect(&path).await {
        Ok(_) => return Err(WebError::Twice { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(&path).map_err(wrong)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(wrong)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).map_err(wrong)?;
    let (group, stopping) = (tasks.clone(), tasks.stopping());
    tasks.spawn("control socket", async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => { pause(error).await; continue }
                },
                () = stopping.cancelled() => break,
            };
            let user = stream.peer_cred().map_or_else(|_| "?".to_owned(), |peer| peer.uid().to_string());
            let via = Via::Socket { account: format!("local uid {user}").into() };
            group.spawn("control connection", talk(stream, router.clone(), via, stopping.clone()));
        }
        let _ = std::fs::remove_file(&path);
    });
    Ok(())
}

/// One connection to its end.
async fn talk<S>(stream: S, router: Router, via: Via, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(via.clone());
        router.call(request)
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // Broken connections are the caller's business.
        _ = &mut connection => return,
        () = stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, connection).await;
}

async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE)
}

/// Out of file descriptors and the like: tell, and let some be closed.
async fn pause(error: io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn to_https(request: Request) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let clean = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    if host.is_empty() || !clean {
        return (StatusCode::BAD_REQUEST, "this port speaks HTTPS\n").into_response();
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    Redirect::permanent(&format!("https://{host}{path}")).into_response()
}
