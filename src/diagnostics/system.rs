//! What the machine says about itself, read from `/proc` and `/sys`. What cannot be read is left out, never guessed.

use std::{fs, path::Path};

use serde_json::{Map, Value as Json, json};

/// Host, kernel, load, memory, the disk that holds `folder`, temperature, and this process.
pub fn info(folder: &Path) -> Json {
    let mut info = Map::new();
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            info.insert(name.to_owned(), value);
        }
    };
    put("version", Some(json!(env!("CARGO_PKG_VERSION"))));
    put("architecture", Some(json!(std::env::consts::ARCH)));
    put("hostname", line("/proc/sys/kernel/hostname").map(Json::from));
    put("kernel", line("/proc/sys/kernel/osrelease").map(Json::from));
    put("bootId", line("/proc/sys/kernel/random/boot_id").map(Json::from));
    put("os", fs::read_to_string("/etc/os-release").ok().and_then(|text| os_name(&text)).map(Json::from));
    put("model", line("/proc/device-tree/model").map(|m| json!(m.trim_end_matches('\0'))));
    put("uptime", line("/proc/uptime").and_then(|l| first_number(&l)).map(Json::from));
    put("load", line("/proc/loadavg").map(|l| load(&l)));
    put("cpus", std::thread::available_parallelism().ok().map(|n| json!(n.get())));
    put("cpuTemperature", temperature());
    put("memory", fs::read_to_string("/proc/meminfo").ok().map(|text| memory(&text)));
    put("disk", disk(folder));
    put("process", fs::read_to_string("/proc/self/status").ok().map(|text| process(&text)));
    Json::Object(info)
}

/// What the machine says of itself in a heartbeat, under the names a child uses.
pub fn vital() -> Map<String, Json> {
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemAvailable"));
    let all = [
        ("uptime", line("/proc/uptime").and_then(|l| first_number(&l)).map(|seconds| json!(seconds as u64))),
        ("freeMemory", memory.map(Json::from)),
        ("cpuTemperature", temperature()),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Interfaces with their counters, addresses, the default route and the name servers.
pub fn network() -> Json {
    let mut interfaces = fs::read_to_string("/proc/net/dev").map(|text| interfaces(&text)).unwrap_or_default();
    for (name, interface) in &mut interfaces {
        let sys = format!("/sys/class/net/{name}");
        for (key, file) in [("state", "operstate"), ("mac", "address"), ("mtu", "mtu"), ("speed", "speed")] {
            if let Some(value) = line(&format!("{sys}/{file}")) {
                interface[key] = json!(value);
            }
        }
    }
    let ipv4 = fs::read_to_string("/proc/net/fib_trie").map(|text| ipv4(&text)).unwrap_or_default();
    let ipv6 = fs::read_to_string("/proc/net/if_inet6").map(|text| ipv6(&text)).unwrap_or_default();
    let servers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<&str> = servers.lines().filter_map(|l| l.strip_prefix("nameserver ")).map(str::trim).collect();
    json!({
        "interfaces": interfaces,
        "ipv4": ipv4,
        "ipv6": ipv6,
        "defaultRoute": fs::read_to_string("/proc/net/route").ok().and_then(|text| default_route(&text)),
        "nameServers": servers,
    })
}

fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn os_name(text: &str) -> Option<String> {
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

fn load(text: &str) -> Json {
    text.split_whitespace().take(3).filter_map(|n| n.parse::<f64>().ok()).collect()
}

fn temperature() -> Option<Json> {
    line("/sys/class/thermal/thermal_zone0/temp").and_then(|l| celsius(&l)).map(Json::from)
}

fn celsius(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().map(|t| if t.abs() > 1000.0 { t / 1000.0 } else { t })
}

/// Bytes under a name of `/proc/meminfo` or `/proc/self/status`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
    rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok().map(|k| k * 1024)
}

fn memory(text: &str) -> Json {
    json!({
        "total": kilobytes(text, "MemTotal"),
        "available": kilobytes(text, "MemAvailable"),
        "swapFree": kilobytes(text, "SwapFree"),
    })
}

fn process(text: &str) -> Json {
    json!({
        "pid": std::process::id(),
        "resident": kilobytes(text, "VmRSS"),
        "residentPeak": kilobytes(text, "VmHWM"),
        "threads": text.lines().find_map(|l| l.strip_prefix("Threads:")).and_then(first_number),
        "openFiles": fs::read_dir("/proc/self/fd").map(Iterator::count).ok(),
    })
}

/// Resident bytes of this process.
pub fn resident() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
}

fn disk(folder: &Path) -> Option<Json> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    Some(json!({
        "path": folder.display().to_string(),
        "total": bytes(stat.f_blocks),
        "free": bytes(stat.f_bavail),
        "inodesFree": stat.f_favail,
        "readOnly": read_only,
    }))
}

fn interfaces(text: &str) -> Map<String, Json> {
    let mut interfaces = Map::new();
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        if let [rx, rx_packets, rx_errors, rx_dropped, .., _, _, _, _] = n[..]
            && n.len() >= 16
        {
            let received = json!({"bytes": rx, "packets": rx_packets, "errors": rx_errors, "dropped": rx_dropped});
            let sent = json!({"bytes": n[8], "packets": n[9], "errors": n[10], "dropped": n[11]});
            interfaces.insert(name.trim().to_owned(), json!({"received": received, "sent": sent}));
        }
    }
    interfaces
}

/// The addresses of this host, from the kernel's routing tree: each leaf followed by `host LOCAL`.
fn ipv4(text: &str) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    let mut leaf = "";
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address;
        } else if line.ends_with("host LOCAL") && !addresses.iter().any(|a| a == leaf) {
            addresses.push(leaf.to_owned());
        }
    }
    addresses
}

fn ipv6(text: &str) -> Vec<String> {
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
        Some(format!("{} ({})", std::net::Ipv6Addr::from(bits), fields.nth(4)?))
    };
    text.lines().filter_map(address).collect()
}

fn default_route(text: &str) -> Option<Json> {
    let line = text.lines().skip(1).find(|l| l.split_whitespace().nth(1) == Some("00000000"))?;
    let mut fields = line.split_whitespace();
    let interface = fields.next()?;
    let gateway = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
    // The kernel prints the address as a host-order word.
    Some(json!({"interface": interface, "gateway": std::net::Ipv4Addr::from(gateway.to_ne_bytes()).to_string()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_described() {
        let info = info(Path::new("/"));
        assert!(info["memory"]["total"].as_u64() > Some(0), "{info}");
        assert!(info["disk"]["total"].as_u64() > Some(0), "{info}");
        assert!(info["process"]["resident"].as_u64() > Some(0), "{info}");
        assert!(network()["interfaces"].get("lo").is_some());
    }

    #[test]
    fn the_kernel_s_tables_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.5\n        /32 host LOCAL\n";
        assert_eq!(ipv4(trie), vec!["10.0.0.5"]);
        let route = "Iface\tDestination\tGateway\nlo\t0000007F\t00000000\neth0\t00000000\t0100000A\t0003\n";
        assert_eq!(default_route(route).expect("route")["interface"], "eth0");
        let dev = "Inter-|\n face |bytes\n  eth0: 1 2 3 4 0 0 0 0 9 10 11 12 0 0 0 0\n";
        assert_eq!(interfaces(dev)["eth0"]["sent"]["bytes"], 9);
        assert_eq!(celsius("48312"), Some(48.312));
    }
}
