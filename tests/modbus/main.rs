//! The Modbus driver against its own simulator and against peers that nobody here wrote.

mod faults;
mod firmware;
mod load;
mod peers;
mod polling;
mod pool;
mod pymodbus;
mod roads;
mod support;
mod tools;
