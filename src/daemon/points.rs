//! What profiles and device files say of a device's values, as the page shows it: units, ranges, choices, registers.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use crate::{
    config::{
        Config, coap,
        modbus::{Device, point::Point},
    },
    drivers,
    model::{
        ids::DeviceId,
        view::{self, Choice, Register},
    },
};

/// A device whose values the configuration describes.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    Modbus(&'a Device),
    Coap(&'a coap::Device),
}

impl<'a> Shape<'a> {
    fn id(&self) -> &'a DeviceId {
        match self {
            Shape::Modbus(device) => &device.id,
            Shape::Coap(device) => &device.common.id,
        }
    }

    /// Names of the values in the order of the profile.
    pub fn names(&self) -> Vec<&'a str> {
        match self {
            Shape::Modbus(device) => device.newest().map(|point| &*point.name).collect(),
            Shape::Coap(device) => device.resources.iter().filter_map(|resource| resource.name.as_deref()).collect(),
        }
    }

    /// Units of those values that have one.
    pub fn units(&self) -> BTreeMap<String, String> {
        match self {
            Shape::Modbus(device) => {
                let unit = |point: &Point| Some((point.name.to_string(), point.unit.as_ref()?.to_string()));
                device.newest().filter_map(|point| unit(point)).collect()
            }
            Shape::Coap(_) => BTreeMap::new(),
        }
    }
}

fn shapes(config: &Config) -> impl Iterator<Item = Shape<'_>> {
    let modbus = config.buses.iter().flat_map(|bus| &bus.devices).map(|device| Shape::Modbus(device));
    modbus.chain(config.coap_devices.iter().map(|device| Shape::Coap(device)))
}

/// All described devices by their ids.
pub fn index(config: &Config) -> HashMap<&DeviceId, Shape<'_>> {
    shapes(config).map(|shape| (shape.id(), shape)).collect()
}

/// One of them.
pub fn find<'a>(config: &'a Config, id: &DeviceId) -> Option<Shape<'a>> {
    shapes(config).find(|shape| shape.id() == id)
}

/// Points of a device and the names of the commands it can be called with: what its driver does for every device, then
/// what its profile adds.
pub fn described(shape: &Shape<'_>) -> (Vec<view::Point>, Vec<String>) {
    match shape {
        Shape::Modbus(device) => {
            let own = device.commands.iter().map(|command| command.name.to_string());
            let usual = drivers::modbus::COMMANDS;
            (modbus(device), named(&usual).chain(own.filter(|name| !usual.contains(&&**name))).collect())
        }
        Shape::Coap(device) => {
            (device.resources.iter().filter_map(resource).collect(), named(&drivers::coap::COMMANDS).collect())
        }
    }
}

fn named<'a>(commands: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    commands.iter().map(|&name| name.to_owned())
}

fn modbus(device: &Device) -> Vec<view::Point> {
    device.newest().map(|point| one(point)).collect()
}

fn one(point: &Point) -> view::Point {
    let choice = |(raw, title): &(i64, std::sync::Arc<str>)| Choice { value: json!(raw), title: title.to_string() };
    view::Point {
        name: point.name.to_string(),
        title: None,
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
        title: None,
        writable: resource.writable,
        min: resource.min,
        max: resource.max,
        ..view::Point::default()
    })
}
