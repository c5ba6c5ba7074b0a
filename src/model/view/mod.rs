//! What people and scripts are shown: the whole of a thing at one moment, as the page, the API and `headgate status`
//! read it. Built by the rooms that know, carried by `bus::Questions`; nothing here is stored.

mod device;
mod gateway;

pub use device::{
    Change, Choice, CommandView, ConfigView, Connection, DeviceRow, DeviceView, Live, Point, Register, Trend,
    UpdateView,
};
pub use gateway::{
    BudgetStatus, ConfigStatus, DeviceCounts, LaneStatus, LinkStatus, LogLine, LogStatus, Notice, Overview,
    ShadowSyncStatus,
};
