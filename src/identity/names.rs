//! Under which names and addresses this machine is reached: what the server certificate must hold.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Host name, `<host>.local`, `localhost`, loopback and local addresses, and what the configuration adds.
pub(super) fn server_names(configured: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).chain(configured.iter().cloned()).collect();
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    if is_name(&host) {
        if !host.contains('.') {
            names.insert(format!("{host}.local"));
        }
        names.insert(host);
    }
    let v4 = fs::read_to_string("/proc/self/net/fib_trie").map(|text| addresses_v4(&text)).unwrap_or_default();
    let v6 = fs::read_to_string("/proc/self/net/if_inet6").map(|text| addresses_v6(&text)).unwrap_or_default();
    names.extend(v4.iter().map(ToString::to_string));
    names.extend(v6.iter().map(ToString::to_string));
    names.retain(|name| name.parse::<IpAddr>().is_ok() || is_name(name));
    names
}

fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The local addresses in the kernel's table: the line before each `/32 host LOCAL`.
fn addresses_v4(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last.filter(|address| !address.is_loopback()));
        }
    }
    found
}

/// The addresses of `/proc/net/if_inet6` that others can use: neither loopback nor of one link only.
fn addresses_v6(text: &str) -> BTreeSet<Ipv6Addr> {
    text.lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from_bits)
        .filter(|address| !address.is_loopback() && !address.is_unicast_link_local())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /8 link UNICAST\n     |-- 10.0.0.7\n        \
                    /32 host LOCAL\n     |-- 10.255.255.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        \
                    /32 host LOCAL\n";
        assert_eq!(addresses_v4(trie), BTreeSet::from([Ipv4Addr::new(10, 0, 0, 7)]));
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000000042acfffe110002 02 40 20 80     eth0\n\
                     fd000000000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(addresses_v6(inet6), BTreeSet::from(["fd00::7".parse().expect("address")]));
    }

    #[test]
    fn what_is_no_name_stays_out_of_the_certificate() {
        let names = server_names(&["gw.plant.lan".into(), "10.1.2.3".into(), "no name".into(), "*.x".into()]);
        assert!(names.contains("localhost") && names.contains("::1"), "{names:?}");
        assert!(names.contains("gw.plant.lan") && names.contains("10.1.2.3"));
        assert!(!names.iter().any(|n| n.contains(' ') || n.contains('*')));
    }
}
