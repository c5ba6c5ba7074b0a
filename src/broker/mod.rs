//! The local MQTT broker: the door, sessions and routing over rumqttd's protocol module.
