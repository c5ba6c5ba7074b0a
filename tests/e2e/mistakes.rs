//! What is wrong, broken or hostile: it is named where its sender sees it, and everything else goes on.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use headgate::cli::demo::cloud::{Cloud, Settings};

use super::{
    eventually,
    peers::{ModbusSlave, free_udp_port},
    site::{Ground, assert_gap_free},
    wishes::hvac,
};

#[test]
fn what_a_child_says_wrongly_is_named_on_errors_and_the_rest_goes_on() {
    let ground = Ground::new();
    let gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    let other = ground.child(&gateway, "hall");
    let errors = child.listens("errors");
    let wrong = [
        ("telemetry", "{\"temp\": "),
        ("telemetry", "{}"),
        ("state", "[1, 2]"),
        ("state", "not json"),
        ("heartbeat", "\"alive\""),
        ("config/ack", "{\"version\": \"x\"}"),
        ("commands/blink/response", "{"),
        ("update/status", "{\"status\": \"wonderful\"}"),
        ("diagnostics/response", "}{"),
    ];
    for (topic, payload) in wrong {
        let named = |heard: usize| {
            let found = errors.on("devices/room/errors");
            let mut fresh = found.into_iter().skip(heard);
            fresh.find(|error| error["topic"].as_str().is_some_and(|named| named.ends_with(topic)))
        };
        let before = errors.all().len();
        // At most ten of them a second are told, so it is said until it is heard.
        let error = eventually(&format!("an error about {payload} on {topic}"), || {
            child.says(topic, payload);
            named(before)
        });
        assert_eq!(error["code"], "payload-invalid", "{error}");
        assert!(error["message"].as_str().is_some_and(|why| why.len() > 8), "it says why: {error}");
        assert!(error["ts"].is_i64(), "{error}");
    }
    assert!(child.measures(1..=10));
    assert!(other.measures(1..=10));
    for device in ["room", "hall"] {
        eventually("ten readings", || (ground.telemetry(device).len() >= 10).then_some(()));
        assert_gap_free(&ground.telemetry(device));
        assert_eq!(ground.telemetry(device).len(), 10, "nothing that was refused was taken in");
    }
}

#[test]
fn garbage_on_every_door_disturbs_nobody() {
    let ground = Ground::new();
    let slave = ModbusSlave::start();
    let coap = free_udp_port();
    let door = format!("[coap]\nlisten = \"127.0.0.1:{coap}\"\nunprotected = [\"sensor\"]");
    // The slave has 200 registers: 5000 is answered with exception 2.
    let refusing = "[[device.register]]\nname = \"nothing\"\naddress = 5000\n";
    let bus = format!("{}{refusing}", hvac(slave.port));
    let gateway = ground.gateway(&door).devices("hall.toml", &bus).start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=10));
    let pid = gateway.pid();

    let mut seed = 0x9e37_79b9_u32;
    let mut noise = |length: usize| -> Vec<u8> {
        let next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    let connect: &[u8] = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04room";
    for round in 0..100 {
        let mut bytes = if round % 3 == 0 { connect.to_vec() } else { Vec::new() };
        bytes.extend(noise(1 + round * 7));
        let mut stream = TcpStream::connect(("127.0.0.1", ground.mqtt)).expect("the door is open");
        let _ = stream.write_all(&bytes);
        if round % 10 == 0 {
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
            let _ = stream.read(&mut [0; 64]);
        }
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    for round in 0..200 {
        let mut bytes = noise(round % 64);
        if round % 2 == 0 && !bytes.is_empty() {
            bytes[0] = 0x40 | (bytes[0] & 0x3f); // version 1, so that it is read further
        }
        socket.send_to(&bytes, ("127.0.0.1", coap)).expect("sent");
    }

    let before = ground.telemetry("hvac").len();
    assert!(child.measures(11..=20), "the child is taken in as before");
    let post = |n: u64| {
        let (uri, payload) = (format!("coap://127.0.0.1:{coap}/devices/sensor/telemetry"), format!("{{\"n\": {n}}}"));
        super::site::output(
            "coap-client-notls",
            &["-v", "6", "-B", "20", "-m", "post", "-t", "50", "-e", &payload, &uri],
        )
    };
    let answer = post(1);
    assert!(answer.contains("2.04"), "{answer}");
    eventually("all devices at the cloud", || {
        let flowing = ground.telemetry("room").len() >= 20 && !ground.telemetry("sensor").is_empty();
        let polled = ground.telemetry("hvac");
        let good = polled.iter().skip(before).filter(|reading| reading["values"]["level"] == 20).count();
        (flowing && good >= 3).then_some(())
    });
    assert_gap_free(&ground.telemetry("room"));
    let named = ground.telemetry("hvac").iter().any(|reading| reading["q"].to_string().contains("exception 2"));
    assert!(named, "the register that is not there is named with its reason");
    assert_eq!(gateway.pid(), pid);
    assert!(gateway.get("/v1/status")["gateway"] == "gw", "and the daemon still answers");
}

#[test]
fn what_the_cloud_says_wrongly_is_answered() {
    let ground = Ground::new();
    let gateway = ground.gateway("").start();
    let child = ground.child(&gateway, "room");
    assert!(child.measures(1..=3));
    eventually("the child's readings", || (ground.telemetry("room").len() >= 3).then_some(()));
    ground.reaches_the_gateway();
    let wrong = [
        ("room", "delta", "{"),
        ("room", "desired", "[]"),
        ("room", "config/desired", "{\"config\": 7}"),
        ("room", "commands/blink", "no json"),
        ("room", "update/command", "{\"jobId\": \"j\"}"),
        ("room", "diagnostics/request", "{\"type\":"),
        ("gw", "diagnostics/request", "{\"type\":"),
        ("gw", "jobs/notify", "{\"jobId\": 7"),
        ("gw", "jobs/j1/control", "dance"),
    ];
    for (device, topic, payload) in wrong {
        // A child the cloud hears for the first time is asked for a moment later: said until it is answered.
        let answer = eventually(&format!("an answer to {payload} on {device}/{topic}"), || {
            ground.says(device, topic, payload);
            let errors = ground.cloud.on(&format!("devices/{device}/errors"));
            errors.into_iter().find(|error| error["topic"].as_str().is_some_and(|named| named.ends_with(topic)))
        });
        assert_eq!(answer["code"], "payload-invalid", "{answer}");
        assert!(answer["message"].as_str().is_some_and(|why| why.len() > 8), "it says why: {answer}");
    }
    assert!(child.measures(4..=6));
    eventually("it goes on", || (ground.telemetry("room").len() >= 6).then_some(()));
    assert_gap_free(&ground.telemetry("room"));
}

#[test]
fn altered_firmware_is_refused_and_the_cloud_is_told_why() {
    let ground = Ground::new();
    let cloud = Cloud::start(Settings::new("127.0.0.1", ground.mosquitto.port), &ground.tasks);
    let cloud = ground.runtime.block_on(cloud).expect("a cloud with a file server");
    ground.runtime.block_on(cloud.connected());
    let keys = format!("[updates]\nkeys = [\"{}\"]", cloud.public_key());
    let gateway = ground.gateway(&keys).start();
    let child = ground.child(&gateway, "room");
    let offers = child.listens("update/command");
    assert!(child.measures(1..=1));
    eventually("the child's reading", || ground.telemetry("room").first().map(drop));

    let order = |job: &str, version: &str| cloud.release(job, version, vec![7_u8; 20_000]);
    // One byte is not what was signed; the signature is another's; and for comparison all is well.
    let altered = order("altered", "2.0.0");
    let mut image = vec![7_u8; 20_000];
    image[9_999] ^= 1;
    cloud.files().put("firmware-2.0.0.bin", image);
    let mut unsigned = order("unsigned", "2.1.0");
    unsigned.signature = altered.signature.as_ref().map(|_| format!("{}A==", "A".repeat(85)));
    for (order, why) in [(&altered, "SHA-256"), (&unsigned, "signature")] {
        let status = eventually(&format!("the refusal of {}", order.job_id), || {
            ground.runtime.block_on(cloud.update("room", order));
            let told = ground.cloud.on("devices/room/update/status");
            told.into_iter().find(|status| status["jobId"] == order.job_id.as_str() && status["status"] == "failed")
        });
        assert!(status["error"].as_str().is_some_and(|error| error.contains(why)), "{status}");
    }
    let good = order("good", "2.2.0");
    ground.runtime.block_on(cloud.update("room", &good));
    let offer = offers.expect("devices/room/update/command", |offer| offer["jobId"] == "good");
    assert_eq!(offer["sha256"], good.sha256.as_str());
    let offered: Vec<_> = offers.on("devices/room/update/command").iter().map(|offer| offer["jobId"].clone()).collect();
    assert!(offered.iter().all(|job| job == "good"), "{offered:?}");
}

#[test]
fn a_pipe_that_nobody_reads_to_its_end_is_no_crash() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_headgate"))
        .arg("version")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("headgate starts");
    drop(child.stdout.take());
    let done = child.wait_with_output().expect("waited");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(141) && said.is_empty(), "{:?}: {said}", done.status);
}
