//! Headgate is an edge gateway: field devices ("children") on one side, a cloud on the other, and a promise between
//! them: **a reading is on disk, or it was never acknowledged; what must be dropped is declared, never silent.**
//!
//! ```text
//!  child ──driver / door──▶ Reading ─▶ keeper ──one transaction──▶ store { log + shadow } ─▶ then the child's ack
//!                                                                    │ wake
//!  cloud ◀─publish── uplink::drain ◀── next records after its cursor ┘   the cursor moves only on the cloud's PUBACK
//!  cloud ──desired─▶ uplink::inbox ─▶ keeper ─ desired stored ─▶ command ─▶ driver ─▶ child
//!  child ──driver──▶ Reading (the proof, read back) ─▶ reported = desired, delta gone
//! ```
//!
//! # The rooms, from the ground up
//!
//! Imports go downward only; rooms on one floor do not know each other and meet as [`model`] values over the channel
//! ends of [`bus`], which [`daemon`] puts into their hands. `tests/layers.rs` holds the house to this table.
//!
//! | floor | rooms |
//! |---|---|
//! | 0 | [`model`]: the nouns and their laws, pure values, no clock and no I/O |
//! | 1 | [`config`]: text to checked values, or *all* problems; [`bus`]: every channel end; [`clock`]: the time of day; [`tasks`]: who may run |
//! | 2 | [`store`]: the only room that speaks SQL; [`systemd`] and [`logging`]: the ears of the init system |
//! | 3 | [`identity`]: who children are: tokens, passwords, certificates, the gateway's own authority |
//! | 4 | [`broker`]: the local MQTT broker; [`drivers`]: one folder per field protocol; [`twins`]: the keeper of shadows; [`registry`]: lifecycle and presence; [`uplink`]: the road to the cloud; [`updates`]: firmware; [`jobs`], [`rules`], [`diagnostics`]; [`web`]: local API and page |
//! | 5 | [`daemon`]: builds, wires, supervises, reloads and stops all of the above |
//! | 6 | [`cli`] and `main`: arguments to one call to an exit code |
//!
//! # Where would a new thing go?
//!
//! * a field protocol: a folder in [`drivers`], a section in [`config`], one arm in `daemon::build`
//! * a cloud: one file in `uplink::dialect`
//! * a page: a file in `web::page`, its data in `web::api`
//! * a device: no code, a profile file in `config/profiles`
//!
//! # What of rumqttd is used
//!
//! Its packet types and codec for MQTT 3.1.1 and 5 (`rumqttd::protocol`), and only through `broker::wire`. Its listener
//! and router are not: a single child's packet can stop them for everyone, and they acknowledge before anything is
//! stored. Door, sessions, routing and retained messages are ours, so that a PUBACK can mean "on disk".

pub mod broker;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod diagnostics;
pub mod drivers;
pub mod identity;
pub mod jobs;
pub mod logging;
pub mod model;
pub mod registry;
pub mod rules;
pub mod store;
pub mod systemd;
pub mod tasks;
pub mod twins;
pub mod updates;
pub mod uplink;
pub mod web;
