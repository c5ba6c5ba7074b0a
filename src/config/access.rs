//! `access.toml`: extra grants on the local broker, beside a child's own subtree.
