//! `[coap]` and CoAP children.
