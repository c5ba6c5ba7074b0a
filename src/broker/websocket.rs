//! MQTT in the binary messages of a WebSocket, as a byte stream (MQTT 5, 6; RFC 6455).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Error, Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode},
        protocol::{Role, WebSocketConfig},
    },
};

/// Bytes that may wait inside before a writer waits.
const BUFFER: usize = 64 * 1024;
const PROTOCOL: &str = "Sec-WebSocket-Protocol";
/// RFC 9110, section 15.5.22.
const NO_PAGE: &str = "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\
                       content-type: text/plain\r\n\r\nThis port speaks MQTT over WebSocket. The page has another port.\n";

pub struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// The rest of the last message.
    rest: Bytes,
    /// Bytes of the packet that is being written and not yet in a frame.
    left: usize,
}

/// Shakes hands: the client must offer the subprotocol `mqtt` (MQTT 5, 6.0.0.3); `mqttv3.1` of older clients is
/// taken too. Messages larger than a packet may be are refused, and who asks for a page is told what speaks here.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, limit: usize) -> Result<WebSocket<S>, Error> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(limit.saturating_mul(4)))
        .max_frame_size(Some(limit.saturating_mul(4)))
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(4 * BUFFER);
    match accept_hdr_async_with_config(&mut stream, protocol, Some(config)).await {
        // Nothing may follow the request before it is answered, so that nothing was read beyond it.
        Ok(shaken) => drop(shaken),
        Err(error) => {
            if let Error::Protocol(_) = error {
                stream.write_all(NO_PAGE.as_bytes()).await?;
                stream.flush().await?;
            }
            return Err(error);
        }
    }
    let inner = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    Ok(WebSocket { inner, rest: Bytes::new(), left: 0 })
}

#[allow(clippy::result_large_err)] // the handshake's own type
fn protocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut words = offered.flat_map(|value| value.split(',')).map(str::trim);
    match words.find(|word| *word == "mqtt" || *word == "mqttv3.1") {
        Some("mqtt") => drop(response.headers_mut().insert(PROTOCOL, HeaderValue::from_static("mqtt"))),
        Some(_) => drop(response.headers_mut().insert(PROTOCOL, HeaderValue::from_static("mqttv3.1"))),
        None => {
            let mut refusal = ErrorResponse::new(Some("offer the subprotocol \"mqtt\"".to_owned()));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            return Err(refusal);
        }
    }
    Ok(response)
}

/// Bytes of the packet that begins here. Each packet gets a frame of its own: the standard lets them share one (MQTT 5,
/// 6.0.0.2), and the Paho client for C loses the second.
fn packet_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    for index in 1..5 {
        let Some(&byte) = bytes.get(index) else { break };
        length |= usize::from(byte & 0x7F) << (7 * (index - 1));
        if byte & 0x80 == 0 {
            return index + 1 + length;
        }
    }
    bytes.len()
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.rest.is_empty() {
                let n = self.rest.len().min(buf.remaining());
                buf.put_slice(&self.rest[..n]);
                self.rest.advance(n);
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                // a text message is no MQTT (MQTT 5, 6.0.0.1)
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::other("a text message on an MQTT websocket")));
                }
                Some(Ok(_)) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while taken < buf.len().min(BUFFER) {
            match Pin::new(&mut self.inner).poll_ready(cx) {
                Poll::Ready(ready) => ready.map_err(broken)?,
                Poll::Pending if taken == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
            let rest = &buf[taken..];
            if self.left == 0 {
                self.left = packet_length(rest);
            }
            let n = self.left.min(rest.len()).min(BUFFER);
            let message = Message::Binary(Bytes::copy_from_slice(&rest[..n]));
            Pin::new(&mut self.inner).start_send(message).map_err(broken)?;
            self.left -= n;
            taken += n;
        }
        // What is inside leaves with the next ready or flush; ask now, so that it need not wait for either.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.inner).poll_flush(cx) {
            return Poll::Ready(Err(broken(error)));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(broken)
    }
}
