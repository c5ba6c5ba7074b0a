//! The shadow service, state, telemetry and jobs through the channel ends of the keeper: no broker, a real store.

mod config;
mod drivers;
mod harness;
mod jobs;
mod service;
mod takein;
