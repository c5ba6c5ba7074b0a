//! The peers: a bare SQLite writer, a bare rumqttc publisher, mosquitto as a broker and as a bridge.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use headgate::{config::uplink::Version, model::record::NewRecord, tasks::Tasks};
use rumqttc::v5;
use rusqlite::Connection;

use super::{body, topic};

pub fn bare(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("bare.db")).expect("open");
    connection.pragma_update(None, "journal_mode", "WAL").expect("wal");
    connection.pragma_update(None, "synchronous", "FULL").expect("full");
    let sql = "CREATE TABLE log (position INTEGER PRIMARY KEY, device TEXT NOT NULL, seq INTEGER NOT NULL, ts INTEGER NOT NULL, body BLOB NOT NULL)";
    connection.execute(sql, []).expect("table");
    connection
}

pub fn insert(connection: &mut Connection, records: &[NewRecord], first: u64) {
    let change = connection.transaction().expect("begin");
    {
        let mut statement = change.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5)").expect("sql");
        for (n, record) in records.iter().enumerate() {
            let seq = first + n as u64;
            statement.execute((seq, record.device.as_str(), seq, record.ts.0, &record.body[..])).expect("insert");
        }
    }
    change.commit().expect("commit");
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("bound").port()
}

/// mosquitto with a configuration of its own; ends with its owner.
pub struct Broker {
    pub port: u16,
    child: Option<Child>,
    pub folder: tempfile::TempDir,
}

impl Broker {
    pub fn start(more: &str) -> Broker {
        let folder = tempfile::tempdir_in(".").expect("folder");
        let port = free_port();
        let place = std::fs::canonicalize(folder.path()).expect("a path");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence_location {}/\nmax_queued_messages 0\n{more}\n",
            place.display()
        );
        std::fs::write(folder.path().join("mosquitto.conf"), text).expect("written");
        let mut broker = Broker { port, child: None, folder };
        broker.start_again();
        broker
    }

    pub fn start_again(&mut self) {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("mosquitto is installed"));
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "mosquitto did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn process(&self) -> String {
        self.child.as_ref().map_or_else(String::new, |child| child.id().to_string())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to write down what it has, and waits until it did.
    pub fn save(&self) {
        let file = self.folder.path().join("mosquitto.db");
        let before = std::fs::metadata(&file).and_then(|meta| meta.modified()).ok();
        let _ = Command::new("kill").args(["-USR1", &self.process()]).status();
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until && std::fs::metadata(&file).and_then(|meta| meta.modified()).ok() == before {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What turns a mosquitto into a bridge to `port` for all readings.
pub fn bridge_to(port: u16) -> String {
    format!(
        "connection cloud\naddress 127.0.0.1:{port}\ntopic devices/# out 1\ncleansession false\ntry_private false\n\
         notifications false\nrestart_timeout 1 2\nbridge_protocol_version mqttv311\n"
    )
}

/// Publishes per second of rumqttc alone, QoS 1, 256 in flight: one JSON message per reading.
pub async fn bare_publisher(port: u16, version: Version, count: u64) -> f64 {
    let tasks = Tasks::new();
    let begun = Instant::now();
    let mut acked = 0;
    match version {
        Version::V3 => {
            let mut options = rumqttc::MqttOptions::new("bare", "127.0.0.1", port);
            options.set_inflight(256);
            let (client, mut events) = rumqttc::AsyncClient::new(options, 512);
            tasks.spawn("publisher", async move {
                for n in 0..count {
                    client.publish(topic(n), rumqttc::QoS::AtLeastOnce, false, body(n)).await.expect("queued");
                }
                std::future::pending::<()>().await;
            });
            while acked < count {
                if let rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_)) = events.poll().await.expect("connected") {
                    acked += 1;
                }
            }
        }
        Version::V5 => {
            let mut options = v5::MqttOptions::new("bare", "127.0.0.1", port);
            options.set_outgoing_inflight_upper_limit(256);
            let (client, mut events) = v5::AsyncClient::new(options, 512);
            tasks.spawn("publisher", async move {
                for n in 0..count {
                    client.publish(topic(n), v5::mqttbytes::QoS::AtLeastOnce, false, body(n)).await.expect("queued");
                }
                std::future::pending::<()>().await;
            });
            use v5::mqttbytes::v5::Packet;
            while acked < count {
                if let v5::Event::Incoming(Packet::PubAck(_)) = events.poll().await.expect("connected") {
                    acked += 1;
                }
            }
        }
    }
    count as f64 / begun.elapsed().as_secs_f64()
}
