//! What the gateway can tell about itself and its children.
