//! The local API and the technician's page.
