//! The road to the cloud: log to publish to acknowledgement to cursor, and orders back.
