//! Splits an answer into messages that any broker passes on, each numbered.

use serde_json::{Value as Json, json};

use crate::model::time::Millis;

/// Largest message, in bytes, where nothing else is set: half of what most brokers allow.
pub const LIMIT: usize = 64 * 1024;
/// Room for everything beside the payload: id (up to 128 bytes, escaped), numbers, time, status.
const ENVELOPE: usize = 1024;

/// The messages that carry `payload`, and `error` where there is one. A payload that fits is carried as it is; a larger
/// one as its JSON text, cut into pieces: the receiver joins the pieces by number and parses the whole.
pub fn chunks(request_id: Option<&str>, payload: Json, error: Option<&str>, at: Millis, limit: usize) -> Vec<Json> {
    let room = limit.max(2 * ENVELOPE) - ENVELOPE;
    let text = payload.to_string();
    let payloads: Vec<Json> =
        if text.len() <= room { vec![payload] } else { pieces(&text, room).map(|piece| json!(piece)).collect() };
    let total = payloads.len();
    let message = |(index, payload): (usize, Json)| {
        let mut message = json!({
            "requestId": request_id,
            "chunk": index + 1,
            "totalChunks": total,
            "payload": payload,
            "deviceTs": at,
            "status": if error.is_some() { "error" } else { "ok" },
        });
        if let Some(error) = error {
            message["error"] = json!(error.chars().take(400).collect::<String>());
        }
        message
    };
    payloads.into_iter().enumerate().map(message).collect()
}

/// Cuts `text` where its JSON form would exceed `room` bytes.
fn pieces(text: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut used = 2;
        let mut end = rest.len();
        for (at, c) in rest.char_indices() {
            used += match c {
                '"' | '\\' | '\n' | '\r' | '\t' => 2,
                c if (c as u32) < 0x20 => 6,
                c => c.len_utf8(),
            };
            if used > room {
                end = at;
                break;
            }
        }
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pieces_fit_and_join_to_the_whole(lines in prop::collection::vec(".{0,80}", 0..200), limit in 2048usize..8192) {
            let payload = json!({"lines": lines});
            let messages = chunks(Some("r"), payload.clone(), None, Millis(1), limit);
            for (index, message) in messages.iter().enumerate() {
                prop_assert!(message.to_string().len() <= limit);
                prop_assert_eq!(message["chunk"].as_u64(), Some(index as u64 + 1));
                prop_assert_eq!(message["totalChunks"].as_u64(), Some(messages.len() as u64));
            }
            let joined = if messages.len() == 1 {
                messages[0]["payload"].clone()
            } else {
                let text: String = messages.iter().filter_map(|m| m["payload"].as_str()).collect();
                serde_json::from_str(&text).expect("json")
            };
            prop_assert_eq!(joined, payload);
        }
    }

    #[test]
    fn an_error_is_an_answer_too() {
        let messages = chunks(None, Json::Null, Some("expired"), Millis(5), LIMIT);
        assert_eq!(messages.len(), 1);
        assert_eq!((&messages[0]["status"], &messages[0]["error"]), (&json!("error"), &json!("expired")));
        assert_eq!(messages[0]["requestId"], Json::Null);
    }
}
