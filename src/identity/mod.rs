//! Who children are: tokens, passwords, certificates, and the gateway as their certificate authority.
