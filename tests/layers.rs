//! The house rules of `src/lib.rs` as a test: imports go downward, files say what lives in them and stay small.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rooms floor by floor, as in the map. A room may import its own floor only where `SAME_FLOOR` says so.
const FLOORS: &[&[&str]] = &[
    &["model"],
    &["config", "bus", "clock", "tasks"],
    &["store", "systemd", "logging"],
    &["identity"],
    &["broker", "drivers", "twins", "registry", "uplink", "updates", "jobs", "rules", "diagnostics", "web"],
    &["daemon"],
    &["cli"],
    &["main"],
];

/// What the floors alone would allow, and the house does not: (room, what it never meets).
const NEVER: &[(&str, &str)] =
    &[("drivers", "store"), ("drivers", "identity"), ("config", "bus"), ("config", "clock"), ("config", "tasks")];

const MOST_LINES: usize = 500;

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let read = |path: PathBuf| {
        let inside = path.strip_prefix(&root).expect("inside src");
        let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("utf-8");
        (first.trim_end_matches(".rs").to_owned(), path, text)
    };
    paths.into_iter().map(read).collect()
}

/// Every room named after `crate::` (or `headgate::` in main), braces included.
fn imports(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let mut depth = 0;
        let mut word = String::new();
        let mut expect = true;
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expect = true,
                c if c.is_alphanumeric() || c == '_' => {
                    if expect {
                        word.push(c);
                    }
                    continue;
                }
                _ => {}
            }
            if !word.is_empty() {
                rooms.push(std::mem::take(&mut word));
                expect = false;
            }
            if depth <= 0 {
                break;
            }
        }
    }
    rooms
}

#[test]
fn imports_go_downward_only() {
    let mut wrong = Vec::new();
    for (room, path, text) in all() {
        if room == "lib" {
            continue;
        }
        let Some(here) = floor(&room) else {
            wrong.push(format!("{}: room {room} is not on the map", path.display()));
            continue;
        };
        for other in imports(&text) {
            let Some(there) = floor(&other) else { continue };
            let never = NEVER.contains(&(room.as_str(), other.as_str()));
            let sideways = here == there && other != room && !(here == 1 && room != "config");
            if there > here || sideways || never {
                wrong.push(format!("{}: {room} (floor {here}) imports {other} (floor {there})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_store_speaks_sql() {
    for (room, path, text) in all() {
        if room != "store" && room != "lib" {
            assert!(!text.contains("rusqlite"), "{} names rusqlite", path.display());
        }
    }
}

#[test]
fn every_file_says_what_lives_in_it_and_stays_small() {
    let mut wrong = Vec::new();
    for (_, path, text) in all() {
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not begin with a //! line", path.display()));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines; split it (at most {MOST_LINES})", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
