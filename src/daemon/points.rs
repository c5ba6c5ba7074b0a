//! What profiles and device files say of a device's values, as the page shows it: units, ranges, choices, registers.

use serde_json::json;

use crate::{
    config::{
        Config, coap,
        modbus::{Device, point::Point},
    },
    model::{
        ids::DeviceId,
        view::{self, Choice, Register},
    },
};

/// Points and command names of a device; empty for devices that describe nothing.
pub fn described(config: &Config, id: &DeviceId) -> (Vec<view::Point>, Vec<String>) {
    if let Some(device) = config.buses.iter().flat_map(|bus| &bus.devices).find(|device| device.id == *id) {
        let commands = device.commands.iter().map(|command| command.name.to_string()).collect();
        return (modbus(device), commands);
    }
    let coap = config.coap_devices.iter().find(|device| device.common.id == *id);
    (coap.map(|device| device.resources.iter().filter_map(resource).collect()).unwrap_or_default(), Vec::new())
}

fn modbus(device: &Device) -> Vec<view::Point> {
    device.points.iter().map(|point| one(point)).collect()
}

fn one(point: &Point) -> view::Point {
    let choice = |(raw, title): &(i64, std::sync::Arc<str>)| Choice { value: json!(raw), title: title.to_string() };
    view::Point {
        name: point.name.to_string(),
        title: point.about.as_deref().map(str::to_owned),
        unit: point.unit.as_deref().map(str::to_owned),
        writable: point.writable(),
        min: point.write.min,
        max: point.write.max,
        choices: point.titles.iter().map(choice).collect(),
        register: Some(Register {
            table: point.table.word().to_owned(),
            address: point.address,
            kind: point.kind.to_string(),
            order: (point.len() > 1).then(|| point.order.name().to_owned()),
            scale: (point.scale != 1.0).then_some(point.scale),
            interval: u64::try_from(point.interval.as_millis()).ok(),
        }),
    }
}

fn resource(resource: &coap::Resource) -> Option<view::Point> {
    let name = resource.name.clone()?;
    Some(view::Point {
        name,
        title: Some(resource.path.clone()),
        writable: resource.writable,
        min: resource.min,
        max: resource.max,
        ..view::Point::default()
    })
}
