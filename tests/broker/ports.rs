//! The same broker through TLS and WebSocket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use headgate::broker::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    client_async,
    tungstenite::{client::IntoClientRequest, http::HeaderValue},
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use crate::stand::*;

/// A certificate for `localhost` that signs itself, for both ends.
fn certificate() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("server");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("root");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

#[tokio::test]
async fn tls_and_websocket_carry_the_same_and_a_silent_caller_delays_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let (server, client) = certificate();
    let (swap, configs) = watch::channel(server);
    let mut config = config();
    let any = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    (config.tls, config.websocket, config.websocket_tls) = (any.clone(), any.clone(), any);
    let stand = Stand::with(folder.path(), config, open(), Some(configs), Arc::new(|_| Ok(()))).await;
    // callers that say nothing stand in every door
    let mut silent = Vec::new();
    for kind in [Kind::Tls, Kind::WebSocket, Kind::WebSocketTls] {
        silent.push(TcpStream::connect(stand.at(kind)).await.expect("tcp"));
    }
    let mut witness = Client::connect(stand.address(), &v5("witness")).await;
    witness.subscribe("t", 1).await;
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("name");

    let tcp = TcpStream::connect(stand.at(Kind::Tls)).await.expect("tcp");
    let tls = TlsConnector::from(client.clone()).connect(name.clone(), tcp).await.expect("tls");
    let (mut over_tls, _, code, _) = Client::over(tls, &v4("over-tls")).await;
    assert_eq!((code, over_tls.publish("t", "tls", 4).await), (0, 0));
    assert_eq!(witness.receive().await.payload, "tls");
    let row = stand.broker.status().into_iter().find(|row| row.client_id == "over-tls").expect("row");
    assert_eq!(row.protocol, "mqtt 3.1.1, tls");

    for kind in [Kind::WebSocket, Kind::WebSocketTls] {
        let request = |protocol: &'static str| {
            let mut request = "ws://localhost/mqtt".into_client_request().expect("request");
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
            request
        };
        let tcp = TcpStream::connect(stand.at(kind)).await.expect("tcp");
        if kind == Kind::WebSocketTls {
            let tls = TlsConnector::from(client.clone()).connect(name.clone(), tcp).await.expect("tls");
            let (socket, _) = client_async(request("mqtt"), tls).await.expect("websocket");
            talk(stream(socket), &mut witness).await;
        } else {
            let (socket, _) = client_async(request("mqtt"), tcp).await.expect("websocket");
            talk(stream(socket), &mut witness).await;
            let tcp = TcpStream::connect(stand.at(kind)).await.expect("tcp");
            assert!(client_async(request("chat"), tcp).await.is_err(), "another subprotocol");
            let mut browser = TcpStream::connect(stand.at(kind)).await.expect("tcp");
            browser.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("asked");
            let mut answer = String::new();
            browser.read_to_string(&mut answer).await.expect("answered");
            assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("MQTT over WebSocket"), "{answer}");
        }
    }
    // a new certificate counts for the next caller; those who are there stay
    let (other, _) = certificate();
    swap.send_replace(other);
    let tcp = TcpStream::connect(stand.at(Kind::Tls)).await.expect("tcp");
    assert!(TlsConnector::from(client).connect(name, tcp).await.is_err(), "the old root knows it not");
    over_tls.nothing().await;
    stand.stop().await;
}

/// What TLS and frames hold back while the socket is full must leave when it is not, without another message to push it.
#[tokio::test]
async fn a_slow_reader_gets_the_last_byte_through_every_door() {
    let folder = tempfile::tempdir().expect("folder");
    let (server, client) = certificate();
    let (_swap, configs) = watch::channel(server);
    let mut config = config();
    let any = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    (config.tls, config.websocket, config.websocket_tls) = (any.clone(), any.clone(), any);
    let stand = Stand::with(folder.path(), config, open(), Some(configs), Arc::new(|_| Ok(()))).await;
    let mut writer = Client::connect(stand.address(), &v5("writer")).await;
    let payload = "z".repeat(16 * 1024);
    for kind in [Kind::Tcp, Kind::Tls, Kind::WebSocket, Kind::WebSocketTls] {
        // the first reader, who never reads, shows what fits on the way; the second gets just that
        let mut fits = 1000;
        for id in ["measure", "reader"] {
            let mut reader = reader(&stand, kind, &client, id).await;
            assert_eq!(reader.subscribe("burst", 0).await, 0);
            for count in 0..fits {
                assert_eq!(writer.publish("burst", &payload, 2).await, 0);
                if !written(&stand, id, (count + 1) * payload.len()).await {
                    fits = count;
                    break;
                }
            }
            for _ in 0..if id == "reader" { fits } else { 0 } {
                assert_eq!(reader.take().await.payload.len(), payload.len(), "{}", kind.name());
            }
        }
    }
    stand.stop().await;
}

/// Whether so many bytes and more left for this client's socket, or soon do.
async fn written(stand: &Stand, id: &str, bytes: usize) -> bool {
    for _ in 0..100 {
        let row = stand.broker.status().into_iter().find(|row| row.client_id == id).expect("row");
        if row.bytes_out > bytes as u64 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

/// A client with a small window.
async fn reader(stand: &Stand, kind: Kind, tls: &Arc<rustls::ClientConfig>, id: &str) -> Client<Box<dyn Both>> {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let tcp = socket.connect(stand.at(kind)).await.expect("tcp");
    let mut carried: Box<dyn Both> = Box::new(tcp);
    if kind.encrypted() {
        let name = rustls_pki_types::ServerName::try_from("localhost").expect("name");
        carried = Box::new(TlsConnector::from(tls.clone()).connect(name, carried).await.expect("tls"));
    }
    if matches!(kind, Kind::WebSocket | Kind::WebSocketTls) {
        let mut request = "ws://localhost/mqtt".into_client_request().expect("request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
        carried = Box::new(Box::pin(stream(client_async(request, carried).await.expect("websocket").0)));
    }
    let (client, _, code, _) = Client::over(carried, &v4(id)).await;
    assert_eq!(code, 0);
    client
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Both for S {}

async fn talk(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, witness: &mut Client) {
    let (mut client, _, code, _) = Client::over(stream, &v5("over-websocket")).await;
    assert_eq!(code, 0);
    let large = "y".repeat(100_000);
    assert_eq!(client.publish("t", &large, 2).await, 0);
    assert_eq!(witness.receive().await.payload, large);
    client.subscribe("back", 1).await;
    witness.publish("back", &large, 2).await;
    assert_eq!(client.receive().await.payload, large);
}

/// A WebSocket of the client's as a byte stream.
fn stream<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    socket: tokio_tungstenite::WebSocketStream<S>,
) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
    use futures_util::{SinkExt, StreamExt, TryStreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let (sink, source) = socket.split();
    let source = source.map_ok(Message::into_data).map_err(std::io::Error::other);
    let sink = sink
        .sink_map_err(std::io::Error::other)
        .with(|bytes: bytes::Bytes| std::future::ready(Ok::<_, std::io::Error>(Message::Binary(bytes))));
    tokio::io::join(StreamReader::new(source), SinkWriter::new(CopyToBytes::new(sink)))
}
