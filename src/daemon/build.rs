//! Builds and wires the rooms from the ground up: who gets which channel end. Read it as the picture of the flow.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use super::{devices::Drivers, state::StateFolder, supervise::Supervisor};
use crate::{
    broker::{self, Broker},
    bus::{self, ChildEvents, Events, Orders, Question, Questions, WORK},
    clock,
    config::Config,
    diagnostics,
    identity::{self, Identity},
    model::{event::LinkState, ids::DeviceId, time::Millis},
    registry::{self, Registry},
    store::{Store, WriterThread},
    tasks::Tasks,
    twins::{self, Keeper},
    updates::{self, Updates},
    uplink::{self, Uplink},
    web::{self, Web},
};

/// The handles of the running rooms, for whoever answers questions. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    pub gateway: DeviceId,
    pub started: Millis,
    pub store: Store,
    pub identity: Identity,
    pub broker: Broker,
    pub keeper: Keeper,
    pub registry: Registry,
    pub updates: Updates,
    pub uplink: Uplink,
    pub orders: Orders,
    pub drivers: Drivers,
    pub supervisor: Supervisor,
}

/// One group of tasks per stage of the way down, in the order in which they stop.
pub struct Stages {
    pub drivers: Tasks,
    pub uplink: Tasks,
    pub updates: Tasks,
    pub broker: Tasks,
    pub keeper: Tasks,
    pub registry: Tasks,
    pub web: Tasks,
}

/// A gateway that stands.
pub struct Running {
    pub rooms: Rooms,
    pub stages: Stages,
    pub web: Option<Web>,
    pub questions: mpsc::Receiver<Question>,
    pub events: Events,
    pub writer: WriterThread,
    pub state: StateFolder,
}

