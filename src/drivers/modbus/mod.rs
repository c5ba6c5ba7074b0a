//! Modbus children on serial lines and TCP endpoints.
