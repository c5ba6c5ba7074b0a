//! The nouns and their laws, as pure values: no I/O, no clock, no async. Everything else may import this room.

pub mod access;
pub mod alarm;
pub mod command;
pub mod configuration;
pub mod device;
pub mod drift;
pub mod event;
pub mod executions;
pub mod ids;
pub mod jobs;
pub mod reading;
pub mod record;
pub mod shadow;
pub mod time;
pub mod topic;
pub mod update;
pub mod version;
pub mod view;
