//! The broker from outside: bytes on a socket, nothing else.

mod features;
mod hostile;
mod ingest;
mod ports;
mod probes;
mod sessions;
mod stand;
mod survives;
