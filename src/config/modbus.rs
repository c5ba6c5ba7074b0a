//! Modbus buses, units and profiles.
