//! `[identity]`: certificates and credentials of children.
