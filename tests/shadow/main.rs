//! The shadow service, state, telemetry and jobs through the channel ends of the keeper: no broker, a real store.

mod harness;
mod service;
mod takein;
