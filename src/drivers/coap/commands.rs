//! What the gateway asks of a CoAP device beside its readings: desired values, commands, and looking around.

use coap_lite::CoapOption;
use serde_json::{Map, Value as Json, json};

use super::{
    session::{Closed, Session, request_for},
    transfer::{self, TransferError},
    values,
    wire::{Message, code},
};
use crate::{
    bus::ToDriver,
    model::command::{Command, CommandResponse, CommandStatus, Refusal, RefusalCode},
};

impl Session<'_> {
    pub(super) async fn command(&mut self, command: ToDriver) -> Result<(), Closed> {
        match command {
            ToDriver::Write { values, reply, .. } => {
                let mut refused = Vec::new();
                for (name, value) in values {
                    if let Err(refusal) = self.write(&name, &value).await? {
                        refused.push((name, refusal));
                    }
                }
                let _ = reply.send(Ok(refused));
            }
            ToDriver::Call { command, reply, .. } => {
                let _ = reply.send(Ok(self.call(command).await?));
            }
            ToDriver::Tool { request, reply, .. } => {
                let _ = reply.send(self.tool(&request).await);
            }
        }
        Ok(())
    }

    /// PUT, then GET: only what the device says afterwards is reported.
    async fn write(&mut self, name: &str, value: &Json) -> Result<Result<(), Refusal>, Closed> {
        let is_it =
            |resource: &crate::config::coap::Resource| resource.writable && resource.name.as_deref() == Some(name);
        let Some(index) = self.device.resources.iter().position(is_it) else {
            return Ok(Err(Refusal::new(RefusalCode::NotWritable, format!("{name} is not writable on this device"))));
        };
        let resource = &self.device.resources[index];
        if self.watched[index].format.is_none() && resource.format.is_none() {
            // The device's own format is learned from what it says.
            if let Err(why) = self.poll(index).await? {
                let why = format!("{name} was not set: its format is not known, and reading it failed: {why}");
                return Ok(Err(Refusal::new(RefusalCode::DeviceFailed, why)));
            }
        }
        let Some(format) = resource.format.or(self.watched[index].format) else {
            let why = format!("the content format of {} is not known; set format for it", resource.path);
            return Ok(Err(Refusal::new(RefusalCode::DeviceFailed, why)));
        };
        let body = match values::to_write(resource, format, value) {
            Ok(body) => body,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let request = Message::request(code::PUT, &resource.path);
        let request = request.with_uint(CoapOption::ContentFormat, u32::from(format.number()));
        if let Err(error) = transfer::send(&self.endpoint, self.peer, request, &body).await {
            return Ok(Err(failed(&error)));
        }
        let read = self.poll(index).await?.and_then(|read| {
            let it = read.into_iter().find(|(read, _)| read == name);
            it.ok_or_else(|| format!("the answer has no {name}"))
        });
        let why = match read {
            Ok((_, read)) if values::agrees(value, &read) => return Ok(Ok(())),
            Ok((_, read)) => format!("{name} was set to {} and reads back as {}", short(value), short(&read.to_json())),
            Err(why) => format!("{name} was set and could not be read back: {why}"),
        };
        Ok(Err(Refusal::new(RefusalCode::DeviceFailed, why)))
    }

    async fn call(&mut self, command: Command) -> Result<CommandResponse, Closed> {
        let (status, result) = match command.name.as_str() {
            "read-now" => {
                let mut result = Map::new();
                let mut failed = None;
                for index in 0..self.device.resources.len() {
                    match self.poll(index).await? {
                        Ok(read) => result.extend(read.into_iter().map(|(name, value)| (name, value.to_json()))),
                        Err(why) => failed = Some(format!("{}: {why}", self.device.resources[index].path)),
                    }
                }
                let status = if result.is_empty() { CommandStatus::Failed } else { CommandStatus::Succeeded };
                if let Some(why) = failed.filter(|_| result.is_empty()) {
                    result.insert("error".into(), why.into());
                }
                (status, Json::Object(result))
            }
            other => (
                CommandStatus::Rejected,
                json!({ "error": format!("{other} is not known here; CoAP devices know {}", super::COMMANDS.join(", ")) }),
            ),
        };
        Ok(CommandResponse { command_id: command.command_id, status, result: Some(result) })
    }

    /// `{"tool": "discover"}` lists the device's resources (RFC 6690), `{"tool": "get", "path": …}` shows one.
    async fn tool(&mut self, request: &Json) -> Result<Json, Refusal> {
        let path = match (request["tool"].as_str(), request["path"].as_str()) {
            (Some("discover"), _) => ".well-known/core",
            (Some("get"), Some(path)) => path,
            _ => {
                let why = "expected {\"tool\": \"discover\"} or {\"tool\": \"get\", \"path\": \"sensors/temp\"}";
                return Err(Refusal::new(RefusalCode::PayloadInvalid, why));
            }
        };
        let known = self.device.resources.iter().find(|resource| resource.path == path);
        let message = known.map_or_else(|| Message::request(code::GET, path), request_for);
        let answer = transfer::get(&self.endpoint, self.peer, message).await.map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if path != ".well-known/core" {
            return Ok(json!({ "path": path, "contentFormat": answer.format, "body": text }));
        }
        let mut resources = Vec::new();
        for (target, attributes) in coap_lite::link_format::LinkFormatParser::new(&text).flatten() {
            let attributes: Map<String, Json> =
                attributes.map(|(name, value)| (name.to_owned(), value.to_cow().into())).collect();
            resources.push(json!({ "path": target, "attributes": attributes }));
        }
        Ok(json!({ "resources": resources }))
    }
}

/// For messages to people.
fn short(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn failed(error: &TransferError) -> Refusal {
    Refusal::new(RefusalCode::DeviceFailed, error.to_string())
}
