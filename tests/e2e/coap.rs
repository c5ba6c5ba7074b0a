//! CoAP both ways round: libcoap's server is asked, libcoap's client pushes.

use serde_json::Value as Json;

use super::{
    eventually,
    peers::{coap_server, free_udp_port},
    site::{Ground, assert_gap_free, output},
};

#[test]
fn a_coap_server_is_asked_and_observed_and_the_cloud_has_its_values() {
    let ground = Ground::new();
    let port = free_udp_port();
    let _server = coap_server(port);
    let resource = |mode: &str| {
        format!(
            "[[device]]\nid = \"clock-{mode}\"\nprotocol = \"coap\"\naddress = \"127.0.0.1:{port}\"\n[[device.resource]]\n\
             path = \"time\"\nname = \"time\"\nformat = \"text\"\nmode = \"{mode}\"\nevery = \"{}\"\n",
            if mode == "poll" { "300ms" } else { "60s" }
        )
    };
    let gateway =
        ground.gateway("").devices("observed.toml", &resource("observe")).devices("polled.toml", &resource("poll"));
    let _gateway = gateway.start();
    for device in ["clock-observe", "clock-poll"] {
        let values = || -> Vec<Json> {
            ground.telemetry(device).iter().map(|reading| reading["values"]["time"].clone()).collect()
        };
        // Observed, a second value can only have come by notification: a fallback poll is a minute away.
        eventually(&format!("three values of {device}"), || {
            let different: std::collections::BTreeSet<String> =
                values().iter().filter_map(Json::as_str).map(str::to_owned).collect();
            (different.len() >= 3).then_some(())
        });
        assert!(values().iter().filter_map(Json::as_str).all(|time| time.contains(':')), "{:?}", values());
        assert_gap_free(&ground.telemetry(device));
    }
}

#[test]
fn what_a_coap_client_pushes_reaches_the_cloud() {
    let ground = Ground::new();
    let port = free_udp_port();
    let door = format!("[coap]\nlisten = \"127.0.0.1:{port}\"\nunprotected = [\"sensor\"]");
    let gateway = ground.gateway(&door).start();
    let post = |device: &str, n: u64| {
        let uri = format!("coap://127.0.0.1:{port}/devices/{device}/telemetry");
        let payload = format!("{{\"n\": {n}, \"temp\": 21.5}}");
        output("coap-client-notls", &["-v", "6", "-B", "20", "-m", "post", "-t", "50", "-e", &payload, &uri])
    };
    for n in 1..=5 {
        let answer = post("sensor", n);
        assert!(answer.contains("2.04"), "{answer}");
    }
    eventually("five readings", || (ground.telemetry("sensor").len() >= 5).then_some(()));
    let readings = ground.telemetry("sensor");
    assert_gap_free(&readings);
    let own: Vec<_> = readings.iter().filter_map(|reading| reading["values"]["n"].as_u64()).collect();
    assert_eq!(own, [1, 2, 3, 4, 5]);

    let refused = post("stranger", 1);
    assert!(refused.contains("4.01") || refused.contains("4.04"), "{refused}");
    let uri = format!("coap://127.0.0.1:{port}/devices/sensor/telemetry");
    let broken =
        output("coap-client-notls", &["-v", "6", "-B", "20", "-m", "post", "-t", "50", "-e", "{\"n\": ", &uri]);
    assert!(broken.contains("4.00"), "{broken}");
    assert!(post("sensor", 6).contains("2.04"), "and on");
    eventually("the sixth", || ground.telemetry("sensor").iter().find(|reading| reading["values"]["n"] == 6).map(drop));
    assert!(ground.telemetry("stranger").is_empty());
    drop(gateway);
}
