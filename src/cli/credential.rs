//! `headgate credential`: credentials of children, enrolment, and the way back in for a person who lost theirs.

mod print;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use hyper::Method;
use serde_json::{Value as Json, json};

use super::client::{Client, ClientError, Daemon};
use print::{list, refused, text, time};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List credentials, those of one device or all
    List {
        device: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a credential for a device; a secret is shown once and kept nowhere
    Issue {
        device: String,
        #[command(flatten)]
        kind: Kind,
        #[command(flatten)]
        out: Out,
    },
    /// Make a successor; the old one counts until the new one was used
    Rotate {
        /// Id of the credential, from the list
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        kind: Kind,
        #[command(flatten)]
        out: Out,
    },
    /// End a credential now; its connection is closed within seconds
    Revoke {
        /// Id of the credential, from the list
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Make a one-time code with which a device fetches its own credential
    Code { device: String },
    /// Make a one-time code with which a person sets a password for the page
    LoginCode {
        /// Account; whoever uses the code chooses one where it is missing
        name: Option<String>,
        #[arg(long, default_value = "admin", value_parser = ["viewer", "technician", "admin"])]
        role: String,
    },
    /// List who was refused at the doors (MQTT, CoAP), and why
    Refused {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the gateway's certificate authority (PEM) and its fingerprint, or change to a new one
    Authority {
        /// Begin a change: a new authority signs, both are trusted, children renew
        #[arg(long, conflicts_with = "retire")]
        rotate: bool,
        /// End a change: the old authority is trusted no longer
        #[arg(long)]
        retire: bool,
        /// Revoke what the old authority signed and nobody renewed
        #[arg(long, requires = "retire")]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Kind {
    /// A user name and a long random secret (the default for a new credential)
    #[arg(long)]
    token: bool,
    /// A certificate with a key made here
    #[arg(long)]
    certificate: bool,
    /// A certificate for the key in this request (PKCS #10, PEM)
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// A password of your own, read from standard input
    #[arg(long)]
    password: bool,
}

#[derive(Debug, clap::Args)]
struct Out {
    /// Write key, certificate and authority as files into this folder instead of showing them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print as JSON
    #[arg(long, conflicts_with = "out")]
    json: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match arguments.daemon.run(async |client| act(&client, &arguments.what).await) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(code) => code,
    }
}

/// What the daemon refused is the outer error; what went wrong here, with files, the inner one.
async fn act(client: &Client, what: &What) -> Result<Result<(), Trouble>, ClientError> {
    match what {
        What::List { device, json } => {
            let query = device.as_deref().map(|device| format!("?device={}", escaped(device))).unwrap_or_default();
            let found: Json = client.get(&format!("/v1/credentials{query}")).await?;
            if *json { println!("{found:#}") } else { list(found.as_array().map_or(&[], Vec::as_slice)) }
        }
        What::Issue { device, kind, out } => {
            let body = kind.body().and_then(|body| {
                out.free(device, &body)?;
                Ok(body)
            });
            let mut body = match body {
                Ok(body) => body.unwrap_or_else(|| json!({ "kind": "token" })),
                Err(trouble) => return Ok(Err(trouble)),
            };
            body["device"] = json!(device);
            let made = client.send(Method::POST, "/v1/credentials", Some(&body)).await?;
            return Ok(hand_out(&made, out, false));
        }
        What::Rotate { id, kind, out } => {
            let body = kind.body().and_then(|body| {
                out.there()?;
                Ok(body)
            });
            let body = match body {
                Ok(body) => body.unwrap_or_else(|| json!({})),
                Err(trouble) => return Ok(Err(trouble)),
            };
            let path = format!("/v1/credentials/{}/rotate", escaped(id));
            let made = client.send(Method::POST, &path, Some(&body)).await?;
            return Ok(hand_out(&made, out, true));
        }
        What::Revoke { id, reason } => {
            let query = reason.as_deref().map(|reason| format!("?reason={}", escaped(reason))).unwrap_or_default();
            client.send(Method::DELETE, &format!("/v1/credentials/{}{query}", escaped(id)), None).await?;
            println!("revoked {id}");
        }
        What::Code { device } => {
            let made = client.send(Method::POST, "/v1/credentials/codes", Some(&json!({ "device": device }))).await?;
            println!("{}", text(&made, "code"));
            eprintln!("The device {device} may use this code once, until {}.", time(&made["expires"]));
        }
        What::LoginCode { name, role } => {
            let body = json!({ "account": name.as_deref().unwrap_or_default(), "role": role });
            let made = client.send(Method::POST, "/v1/accounts/codes", Some(&body)).await?;
            println!("{}", text(&made, "code"));
            eprintln!("Good for one login as {role} on the gateway's page, until {}.", time(&made["expires"]));
        }
        What::Refused { json } => {
            let found: Json = client.get("/v1/credentials/refused").await?;
            if *json { println!("{found:#}") } else { refused(found.as_array().map_or(&[], Vec::as_slice)) }
        }
        What::Authority { rotate: true, .. } => {
            let authority = client.send(Method::POST, "/v1/authority/rotate", Some(&json!({}))).await?;
            print!("{}", text(&authority, "certificate"));
            eprintln!(
                "A new authority signs from now on, SHA-256 {}.\nGive children both certificates above and renew theirs \
                 (they are due now, spread over weeks);\n`headgate credential authority --retire` ends the change.",
                text(&authority, "fingerprint")
            );
        }
        What::Authority { retire: true, force, .. } => {
            let body = json!({ "force": force });
            let done = client.send(Method::POST, "/v1/authority/retire", Some(&body)).await?;
            println!("the old authority is trusted no longer; {} certificates were revoked", done["revoked"]);
        }
        What::Authority { .. } => {
            let authority: Json = client.get("/v1/authority").await?;
            print!("{}", text(&authority, "certificate"));
            eprintln!("SHA-256 {}", text(&authority, "fingerprint"));
            if let Some(old) = authority["retiring"].as_str() {
                eprintln!("SHA-256 {old} (retiring)");
            }
        }
    }
    Ok(Ok(()))
}

/// What went wrong with a file of the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
struct Trouble {
    what: String,
    error: io::Error,
}

impl Trouble {
    fn with(what: impl Into<String>) -> impl FnOnce(io::Error) -> Trouble {
        let what = what.into();
        move |error| Trouble { what, error }
    }
}

impl Out {
    /// Asked before anything is issued: a key that cannot be written would be lost.
    fn free(&self, device: &str, body: &Option<Json>) -> Result<(), Trouble> {
        let Some(folder) = &self.out else { return Ok(()) };
        let kind = body.as_ref().map_or("token", |body| body["kind"].as_str().unwrap_or_default());
        let endings: &[&str] = match (kind, body.as_ref().is_some_and(|body| body["request"].is_string())) {
            ("certificate", false) => &["key.pem", "crt.pem"],
            ("certificate", true) => &["crt.pem"],
            ("token", _) => &["token"],
            _ => &[],
        };
        let mut paths = endings.iter().map(|ending| folder.join(format!("{device}.{ending}")));
        if let Some(path) = paths.find(|path| path.exists()) {
            let error = io::Error::other("is there already; move it away, or give another --out");
            return Err(Trouble::with(path.display().to_string())(error));
        }
        self.there()
    }

    fn there(&self) -> Result<(), Trouble> {
        let missing = |folder: &Path| {
            Trouble::with(folder.display().to_string())(io::Error::other("is no folder; make it first"))
        };
        self.out.as_deref().filter(|folder| !folder.is_dir()).map_or(Ok(()), |folder| Err(missing(folder)))
    }
}

impl Kind {
    /// What is asked for; `None` where nothing was said.
    fn body(&self) -> Result<Option<Json>, Trouble> {
        Ok(Some(if let Some(file) = &self.request {
            let trouble = || Trouble::with(file.display().to_string());
            let request = String::from_utf8(fs::read(file).map_err(trouble())?).map_err(|_| {
                let text =
                    "is no text; expected PKCS #10 in PEM (of DER it is made by openssl req -inform DER -in FILE)";
                trouble()(io::Error::other(text))
            })?;
            json!({ "kind": "certificate", "request": request })
        } else if self.certificate {
            json!({ "kind": "certificate" })
        } else if self.password {
            let mut password = String::new();
            io::stdin().read_to_string(&mut password).map_err(Trouble::with("standard input"))?;
            json!({ "kind": "password", "password": password.trim_end_matches(['\r', '\n']) })
        } else if self.token {
            json!({ "kind": "token" })
        } else {
            return Ok(None);
        }))
    }
}

/// `replace`: over the files of the one before.
fn hand_out(made: &Json, out: &Out, replace: bool) -> Result<(), Trouble> {
    if out.json {
        println!("{made:#}");
        return Ok(());
    }
    let device = text(made, "device");
    let parts = [("token", "token"), ("key", "key.pem"), ("certificate", "crt.pem")];
    for (name, ending) in parts {
        let Some(part) = made[name].as_str() else { continue };
        match &out.out {
            Some(folder) => {
                let path = folder.join(format!("{device}.{ending}"));
                write_private(&path, part, replace).map_err(Trouble::with(path.display().to_string()))?;
                println!("{}", path.display());
            }
            None if name == "token" => println!("{part}"),
            None => print!("{part}"),
        }
    }
    if let Some(folder) = &out.out {
        let path = folder.join("ca.pem");
        fs::write(&path, text(made, "authority")).map_err(Trouble::with(path.display().to_string()))?;
        println!("{}", path.display());
    }
    let until = made["expires"].as_i64().map(|_| format!(", until {}", time(&made["expires"]))).unwrap_or_default();
    eprintln!(
        "Credential {} of {device}{until}. The user name is {device}; the secret is not shown again.",
        text(made, "id")
    );
    Ok(())
}

/// For the owner only; over something that is there only where it is to be replaced, and then in one step.
fn write_private(path: &Path, text: &str, replace: bool) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let target = if replace { beside.as_path() } else { path };
    if replace && target.exists() {
        fs::remove_file(target)?;
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(target)?;
    file.write_all(text.as_bytes())?;
    if replace { fs::rename(target, path) } else { Ok(()) }
}

/// A text as part of a path or query (RFC 3986, 2.1).
pub fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
