//! `[web]`: the local page and API.
