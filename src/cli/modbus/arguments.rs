//! Arguments of `headgate modbus …`, and what they ask of the driver.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::simulate;
use crate::{
    cli::client::Daemon,
    drivers::modbus::tools::{Place, Target},
};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) tool: Tool,
}

/// Which bus: one that the daemon has, or one opened here and now.
#[derive(Debug, Clone, Args)]
pub(super) struct Where {
    #[command(flatten)]
    pub(super) daemon: Daemon,
    /// Name of a bus of the running daemon
    #[arg(long, conflicts_with_all = ["tcp", "rtu_over_tcp", "port"])]
    pub(super) bus: Option<String>,
    /// Modbus TCP endpoint, HOST or HOST:PORT
    #[arg(long, value_name = "HOST", conflicts_with_all = ["rtu_over_tcp", "port"])]
    pub(super) tcp: Option<String>,
    /// RTU frames over a TCP connection, HOST:PORT
    #[arg(long, value_name = "HOST", conflicts_with = "port")]
    pub(super) rtu_over_tcp: Option<String>,
    /// Serial port
    #[arg(long, value_name = "PATH")]
    pub(super) port: Option<PathBuf>,
    /// Line settings of the serial port
    #[arg(long, default_value = "9600 8N1")]
    pub(super) line: String,
    /// ASCII frames on the serial port, instead of RTU
    #[arg(long, requires = "port")]
    pub(super) ascii: bool,
    /// Answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct Whom {
    /// Unit id
    #[arg(long, short)]
    pub(super) unit: Option<u8>,
    /// A device the daemon knows
    #[arg(long, conflicts_with = "unit")]
    pub(super) device: Option<String>,
    /// Milliseconds to wait for a reply
    #[arg(long, value_name = "MS")]
    pub(super) timeout: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct What {
    /// A value of the device, by name
    #[arg(long, conflicts_with = "address")]
    pub(super) name: Option<String>,
    /// coil, discrete, holding or input
    #[arg(long, default_value = "holding")]
    pub(super) table: String,
    /// Address as on the wire, from 0: 100 or 0x64 (the maker's 40101 is 100)
    #[arg(long, short, value_parser = number)]
    pub(super) address: Option<u16>,
    /// A file of this number (functions 20 and 21); the address is a record in it
    #[arg(long, conflicts_with_all = ["name", "table"])]
    pub(super) file: Option<u16>,
    /// u16, i32, f32, text:8 …
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    pub(super) kind: Option<String>,
    /// ABCD, CDAB, BADC, DCBA …
    #[arg(long, short)]
    pub(super) order: Option<String>,
    #[arg(long)]
    pub(super) scale: Option<f64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Tool {
    /// Look for units, and say what they are; only reads
    Scan {
        #[command(flatten)]
        place: Where,
        /// Unit ids, such as 1-247 or 1,5,9
        #[arg(long, default_value = "1-247")]
        units: String,
        /// Milliseconds to wait for each
        #[arg(long, default_value_t = 200)]
        timeout: u64,
        /// Line settings to try, such as "9600 8N1" (several times); polling waits meanwhile
        #[arg(long = "try", value_name = "LINE")]
        lines: Vec<String>,
        /// What to ask (several times): some devices are silent where they should refuse [default: holding:0]
        #[arg(long = "probe", value_name = "TABLE:ADDRESS")]
        probes: Vec<String>,
    },
    /// Ask a unit who it is, and which profiles fit
    Identify {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
    },
    /// Read registers or bits
    Read {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        what: What,
        /// Registers or bits
        #[arg(long, short = 'n')]
        count: Option<u16>,
    },
    /// Write a value, read it back, and take it back after a time if asked to
    Write {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        what: What,
        /// The value, in its own unit
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Fail unless the device holds the value afterwards
        #[arg(long)]
        verify: bool,
        /// Write the old value again after this time, such as 30s
        #[arg(long, value_name = "TIME")]
        revert_after: Option<String>,
    },
    /// Send any function as bytes and show the reply; what it does is up to the device
    Raw {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        /// Function and data in hexadecimal, such as 11 or "08 00 00 12 34"
        #[arg(value_name = "HEX")]
        pdu: String,
    },
    /// Find type, order, scale and address of the number on the device's display
    Solve {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        whom: Whom,
        /// coil, discrete, holding or input
        #[arg(long, default_value = "holding")]
        table: String,
        /// About where it should be
        #[arg(long, short, value_parser = number)]
        address: u16,
        /// What the display shows
        #[arg(long, allow_negative_numbers = true, value_parser = shown)]
        display: f64,
        /// Registers looked at on both sides
        #[arg(long, default_value_t = 4)]
        around: u16,
    },
    /// Say how full a bus will be (from a file), or is (from the daemon)
    Budget {
        #[command(flatten)]
        place: Where,
        /// A file for devices.d
        file: Option<PathBuf>,
    },
    /// Show the frames that pass
    Scope {
        #[command(flatten)]
        place: Where,
        /// For how long
        #[arg(long, default_value = "10s")]
        time: String,
        /// Only this unit
        #[arg(long, short)]
        unit: Option<u8>,
        /// Keep them here, for `simulate --capture`
        #[arg(long, value_name = "FILE")]
        capture: Option<PathBuf>,
    },
    /// Serve simulated devices
    Simulate(simulate::Arguments),
}

impl Whom {
    pub(super) fn target(&self) -> Result<Target, String> {
        let device =
            self.device.as_deref().map(|text| text.parse().map_err(|e| format!("--device {text}: {e}"))).transpose()?;
        if device.is_none() && self.unit.is_none() {
            return Err("say which: --unit 1, or --device NAME".into());
        }
        Ok(Target { device, unit: self.unit, timeout_ms: self.timeout })
    }
}

impl What {
    pub(super) fn place(&self) -> Place {
        let (name, kind, order) = (self.name.clone(), self.kind.clone(), self.order.clone());
        let table = Some(self.table.clone());
        Place { name, table, address: self.address, file: self.file, count: None, kind, order, scale: self.scale }
    }
}

/// `230.4`, and `230,4` as displays of half the world have it.
fn shown(text: &str) -> Result<f64, String> {
    text.replace(',', ".").parse().map_err(|_| "this is no number such as 230.4".to_owned())
}

/// `100` and `0x64`.
fn number(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = digits.map_or_else(|| text.parse::<u32>(), |hex| u32::from_str_radix(hex, 16));
    let Ok(number) = number else { return Err("an address is a number such as 100 or 0x64".into()) };
    u16::try_from(number).map_err(|_| {
        let table = match number {
            100_001..=165_536 => "--table discrete",
            300_001..=365_536 => "--table input",
            400_001..=465_536 => "--table holding",
            _ => return "addresses on the wire end at 65535".to_owned(),
        };
        format!("this is the maker's number; on the wire it is {table} -a {}", number % 100_000 - 1)
    })
}
