//! The far end of the road: a plain mosquitto, and a client that counts the values that reach it.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use headgate::tasks::Tasks;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::process::Process;

pub struct Broker {
    process: Process,
    pub port: u16,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

impl Broker {
    pub async fn start(folder: &Path) -> Broker {
        let port = free_port();
        let settings = folder.join("mosquitto.conf");
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\npersistence false\n");
        std::fs::write(&settings, text).expect("written");
        let mut command = Command::new("mosquitto");
        let process = Process::start(command.arg("-c").arg(settings), &folder.join("mosquitto.log"));
        let process = process.expect("mosquitto is needed for this benchmark: apt-get install mosquitto");
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Broker { process, port }
    }

    pub fn cpu(&self) -> f64 {
        self.process.usage().cpu
    }
}

/// Counts values by their names, `r0`, `r1` …: each stands once as `"r` in any of the three dialects.
#[derive(Clone, Default)]
pub struct Counter {
    values: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Counter {
    pub async fn start(port: u16, tasks: &Tasks) -> Counter {
        let counter = Counter::default();
        let mut options = MqttOptions::new("counter", "127.0.0.1", port);
        options.set_max_packet_size(16 << 20, 16 << 20).set_keep_alive(Duration::from_secs(60));
        let (client, mut events) = AsyncClient::new(options, 1000);
        client.subscribe("#", QoS::AtMostOnce).await.expect("subscribed");
        let counts = counter.clone();
        tasks.spawn("counter", async move {
            while let Ok(event) = events.poll().await {
                let Event::Incoming(Packet::Publish(message)) = event else { continue };
                if let Some(request) = message.topic.strip_prefix("v1/devices/me/rpc/request/") {
                    // ThingsBoard's gateway sends nothing before its server has named limits; these are none.
                    let limits =
                        r#"{"rateLimits": {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""}}"#;
                    let topic = format!("v1/devices/me/rpc/response/{request}");
                    let _ = client.try_publish(topic, QoS::AtLeastOnce, false, limits);
                    continue;
                }
                counts.bytes.fetch_add(message.payload.len() as u64, Ordering::Relaxed);
                let values = message.payload.windows(2).filter(|pair| *pair == b"\"r").count();
                counts.values.fetch_add(values as u64, Ordering::Relaxed);
            }
        });
        counter
    }

    pub fn values(&self) -> u64 {
        self.values.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
