//! CoAP children, as servers the gateway asks and as clients that push (RFC 7252).
