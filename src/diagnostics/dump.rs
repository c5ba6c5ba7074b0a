//! The configuration files as JSON, without a single secret.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

/// Words in a key that make its value a secret.
const SECRET: &[&str] = &["password", "passwd", "secret", "token", "psk", "private", "pin", "credential", "hash"];
const HIDDEN: &str = "(hidden)";

/// Every `.toml` of `folder` and its `devices.d`, by name relative to it. A file that cannot be read or parsed is
/// shown as its error, never as its text.
pub fn config(folder: Option<&Path>) -> Json {
    let Some(folder) = folder else {
        return json!({"folder": null, "note": "no configuration folder; the built-in defaults run"});
    };
    let mut files = Map::new();
    for inside in ["", "devices.d", "profiles", "rules.d"] {
        let Ok(entries) = std::fs::read_dir(folder.join(inside)) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|e| e == "toml") {
                let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                files.insert(name, file(&path));
            }
        }
    }
    json!({"folder": folder.display().to_string(), "files": files})
}

fn file(path: &Path) -> Json {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return json!({"error": error.to_string()}),
    };
    match toml::from_str::<toml::Table>(&text).map(serde_json::to_value) {
        Ok(Ok(mut json)) => {
            hide(&mut json);
            json
        }
        Ok(Err(error)) => json!({"error": error.to_string()}),
        // The message of a parse error quotes the line, which may hold a secret.
        Err(error) => {
            json!({"error": "not valid TOML; `headgate check` shows where", "at": error.span().map(|s| s.start)})
        }
    }
}

/// Hides values under keys that name a secret, and the user part of addresses.
pub fn hide(json: &mut Json) {
    match json {
        Json::Object(map) => {
            for (key, value) in map {
                let key = key.to_lowercase();
                // `private_key` is hidden by its first word, `key_file` is a path and shown.
                let secret = SECRET.iter().any(|word| key.contains(word)) || key == "key" || key.ends_with("_key");
                let path = key.ends_with("_file") || key.ends_with("_path");
                match value {
                    Json::Object(_) => hide(value),
                    _ if secret && !path => *value = json!(HIDDEN),
                    _ => hide(value),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(hide),
        Json::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((user, host)) = rest.split_once('@')
                && !user.contains('/')
            {
                *text = format!("{scheme}://{HIDDEN}@{host}");
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("devices.d")).expect("folder");
        std::fs::write(
            folder.path().join("headgate.toml"),
            "[uplink]\nbroker = \"mqtts://fleet:hunter2@cloud.example:8883\"\npassword = \"hunter2\"\n\
             password_file = \"/etc/headgate/pw\"\n[[users]]\nname = \"ada\"\napi_key = \"hunter2\"\n",
        )
        .expect("write");
        std::fs::write(folder.path().join("devices.d/a.toml"), "token = \"hunter2\" oops\n").expect("write");
        let dump = config(Some(folder.path()));
        let text = dump.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        let main = &dump["files"]["headgate.toml"];
        assert_eq!(main["uplink"]["password_file"], "/etc/headgate/pw");
        assert_eq!(main["users"][0]["name"], "ada");
        assert!(main["uplink"]["broker"].as_str().is_some_and(|b| b.ends_with("@cloud.example:8883")), "{text}");
        assert!(dump["files"]["devices.d/a.toml"]["error"].is_string());
    }
}
