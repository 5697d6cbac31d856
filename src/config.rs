//! Settings of this one node, in two steps: raw as typed (TOML, flags, environment), then checked.
//! What a mesh shares is not here; it lives in the mesh config, which people vote on.
//!
//! Precedence: flag, then environment (both arrive in [`Overrides`], where clap has merged them),
//! then the file, then the default. Defaults are all in [`Settings::resolve`].

mod donor;
mod expert;
mod mesh;

pub use donor::PauseWhen;
pub use expert::{ExpertSettings, Prefix, RawExpert, Source};
pub use mesh::{MeshSettings, SWARM_PORT_DEFAULT};

use crate::error::{Failure, Kind, Outcome, nearest};
use crate::obs::LogFormat;
use quorate_core::donor::Donor;
use quorate_core::plan::CONTEXT_MIN;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub const API_PORT_DEFAULT: u16 = 7867;
/// A model unused for this long leaves memory; Ollama's habit.
const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// llama.cpp's limit on threads of one pool.
const THREADS_MAX: u32 = 512;
/// A configuration file is written by hand.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Ready to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Clients must show the key in this file.
    pub api_key_file: Option<PathBuf>,
    /// Names besides localhost under which clients may address the API.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may read answers.
    pub allowed_origins: Vec<String>,
    pub default_model: String,
    pub keep_alive: KeepAlive,
    /// None: one for each physical core.
    pub threads: Option<u32>,
    /// None: what is free, less a margin.
    pub max_memory_bytes: Option<u64>,
    /// None: what the model was trained for, at most the plan's default.
    pub context: Option<u32>,
    /// None: as many as fit.
    pub gpu_layers: Option<u32>,
    pub offline: bool,
    pub log_filter: Option<String>,
    pub log_format: LogFormat,
    /// Names that clients use for models that have another name here.
    pub aliases: BTreeMap<String, String>,
    /// What this node serves besides plain models.
    pub experts: Vec<ExpertSettings>,
    /// What it gives to its mesh.
    pub donor: Donor,
    /// How it meets the others.
    pub mesh: MeshSettings,
}

/// What flags and environment say; None leaves the file's word.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub listen: Option<Listen>,
    pub api_key_file: Option<PathBuf>,
    pub keep_alive: Option<KeepAlive>,
    pub threads: Option<u32>,
    pub max_memory: Option<MemorySize>,
    pub context: Option<u32>,
    pub gpu_layers: Option<u32>,
    pub offline: Option<bool>,
    pub pause_when: Option<PauseWhen>,
    pub log_filter: Option<String>,
    pub log_format: Option<LogFormat>,
}

/// The file, as typed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    version: Option<i64>,
    api: RawApi,
    models: RawModels,
    machine: RawMachine,
    log: RawLog,
    donor: donor::RawDonor,
    mesh: mesh::RawMesh,
    expert: Vec<expert::RawExpert>,
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawApi {
    listen: Option<String>,
    key_file: Option<PathBuf>,
    allowed_hosts: Vec<String>,
    allowed_origins: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawModels {
    default: Option<String>,
    keep_alive: Option<String>,
    offline: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawMachine {
    threads: Option<u32>,
    max_memory: Option<String>,
    ctx: Option<u32>,
    gpu_layers: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: Option<String>,
    format: Option<LogFormat>,
}

/// Every key, for near names. A test holds it against the structs above.
const KEYS: &[&str] = &[
    "version",
    "api.listen",
    "api.key_file",
    "api.allowed_hosts",
    "api.allowed_origins",
    "models.default",
    "models.keep_alive",
    "models.offline",
    "machine.threads",
    "machine.max_memory",
    "machine.ctx",
    "machine.gpu_layers",
    "log.filter",
    "log.format",
    "donor.pause_when",
    "donor.hours",
    "donor.share",
    "mesh.listen",
    "mesh.plane_listen",
    "mesh.announce",
    "mesh.plane_announce",
    "mesh.bootstrap",
    "mesh.mdns",
    "mesh.share_gate",
    "mesh.allow",
    "mesh.block",
    "mesh.model",
];
/// The table whose keys are the user's own.
const FREE_TABLE: &str = "aliases";
/// There may be several: serde refuses unknown keys in them.
const EXPERT_TABLES: &str = "expert";

impl Settings {
    /// Reads the file, if there is one. `required` says that somebody named it.
    pub fn load(path: &Path, required: Required, overrides: &Overrides) -> Outcome<Settings> {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && required == Required::No =>
            {
                return Settings::resolve(Raw::default(), overrides);
            }
            Err(error) => return Err(Failure::file("read", path, &error)),
        };
        Settings::parse(&text, overrides).map_err(|failure| Failure {
            message: format!("{}: {}", path.display(), failure.message),
            ..failure
        })
    }

    /// From the text of a file.
    pub fn parse(text: &str, overrides: &Overrides) -> Outcome<Settings> {
        refuse_unknown_keys(text)?;
        let raw: Raw = toml::from_str(text).map_err(|error| bad(error.to_string().trim_end()))?;
        match raw.version {
            Some(1) => Settings::resolve(raw, overrides),
            Some(other) => Err(bad(format!(
                "version = {other} is not known to this program, which reads version 1"
            ))
            .hint("update quorate, or write the file anew from deploy/config.example.toml")),
            None => Err(bad("it does not say its version")
                .hint("write this as the first line: version = 1")),
        }
    }

    fn resolve(raw: Raw, flags: &Overrides) -> Outcome<Settings> {
        let listen = match (flags.listen, raw.api.listen) {
            (Some(listen), _) => listen,
            (None, Some(text)) => checked("api.listen", &text)?,
            (None, None) => Listen(SocketAddr::new(
                Ipv4Addr::LOCALHOST.into(),
                API_PORT_DEFAULT,
            )),
        };
        let keep_alive = match (flags.keep_alive, raw.models.keep_alive) {
            (Some(keep_alive), _) => keep_alive,
            (None, Some(text)) => checked("models.keep_alive", &text)?,
            (None, None) => KeepAlive::For(KEEP_ALIVE_DEFAULT),
        };
        let max_memory = match (flags.max_memory, raw.machine.max_memory) {
            (Some(size), _) => Some(size),
            (None, Some(text)) => Some(checked("machine.max_memory", &text)?),
            (None, None) => None,
        };
        let threads = flags.threads.or(raw.machine.threads);
        if let Some(threads) = threads.filter(|threads| !(1..=THREADS_MAX).contains(threads)) {
            return Err(bad(format!(
                "threads must be from 1 to {THREADS_MAX}, not {threads}"
            )));
        }
        let context = flags.context.or(raw.machine.ctx);
        if let Some(context) = context
            && context < CONTEXT_MIN
        {
            return Err(bad(format!(
                "ctx must be at least {CONTEXT_MIN} tokens, not {context}"
            )));
        }
        Ok(Settings {
            listen: listen.0,
            api_key_file: flags.api_key_file.clone().or(raw.api.key_file),
            allowed_hosts: raw.api.allowed_hosts,
            allowed_origins: raw.api.allowed_origins,
            default_model: raw
                .models
                .default
                .unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            keep_alive,
            threads,
            max_memory_bytes: max_memory.map(|size| size.0),
            context,
            gpu_layers: flags.gpu_layers.or(raw.machine.gpu_layers),
            offline: flags.offline.or(raw.models.offline).unwrap_or(false),
            log_filter: flags.log_filter.clone().or(raw.log.filter),
            log_format: flags.log_format.or(raw.log.format).unwrap_or_default(),
            donor: raw.donor.resolve(flags.pause_when)?,
            mesh: raw.mesh.resolve()?,
            experts: expert::checked(raw.expert, &raw.aliases)?,
            aliases: raw.aliases,
        })
    }

    /// The model that is meant by `name`: an alias's target, or the name itself. One step only, so
    /// aliases cannot run in circles.
    pub fn real_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }
}

/// The model that can be had without a hub.
pub const DEFAULT_MODEL: &str = "smollm2:135m";

/// Must the configuration file exist?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Required {
    Yes,
    No,
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(CONFIG_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Config, message)
}

fn checked<T: FromStr<Err = String>>(key: &str, text: &str) -> Outcome<T> {
    text.parse().map_err(|why| bad(format!("{key}: {why}")))
}

/// Serde would refuse them as well, but without the line and without saying what was meant.
fn refuse_unknown_keys(text: &str) -> Outcome {
    let Ok(root) = toml::de::DeTable::parse(text) else {
        return Ok(());
    }; // serde says it better
    for (key, value) in root.get_ref() {
        let name: &str = key.get_ref();
        if name == FREE_TABLE || name == EXPERT_TABLES {
            continue;
        }
        let inside = format!("{name}.");
        let is_table = KEYS.iter().any(|known| known.starts_with(&inside));
        match value.get_ref() {
            toml::de::DeValue::Table(table) if is_table => {
                for key in table.keys() {
                    let full = format!("{inside}{}", key.get_ref());
                    refuse_unless_known(&full, text, key.span().start)?;
                }
            }
            _ if is_table => {} // a wrong type: serde's to refuse
            _ => refuse_unless_known(name, text, key.span().start)?,
        }
    }
    Ok(())
}

fn refuse_unless_known(key: &str, text: &str, at: usize) -> Outcome {
    if KEYS.contains(&key) {
        return Ok(());
    }
    let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let tables = KEYS
        .iter()
        .filter_map(|known| known.split_once('.'))
        .map(|(table, _)| table);
    // The right word in the wrong table is as common as a slip of the finger.
    let meant = nearest(key, KEYS.iter().copied())
        .or_else(|| {
            KEYS.iter()
                .copied()
                .find(|known| known.rsplit('.').next() == Some(leaf))
        })
        .or_else(|| nearest(key, tables.chain([FREE_TABLE, EXPERT_TABLES])));
    let failure = bad(format!("line {line}: there is no setting '{key}'"));
    Err(match meant {
        Some(meant) => failure.hint(format!("did you mean '{meant}'?")),
        None => failure.hint("deploy/config.example.toml shows every setting"),
    })
}

/// Where to listen: an address, a host name of this machine, or only a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (host, port) = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            Ok(port) => return Ok(Listen(SocketAddr::new(local, port))),
            Err(_) => match text.rsplit_once(':') {
                Some((host, port)) => (host, port.parse::<u16>().ok()),
                None => (text, Some(API_PORT_DEFAULT)),
            },
        };
        let ip = if host == "localhost" {
            Some(local)
        } else {
            host.parse().ok()
        };
        if let (Some(ip), Some(port)) = (ip, port) {
            return Ok(Listen(SocketAddr::new(ip, port)));
        }
        // A full IPv6 address holds colons of its own.
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Listen(address));
        }
        Err(format!(
            "'{text}' is not an address to listen on; write 127.0.0.1:7867, or a port alone"
        ))
    }
}

/// A time with an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting(pub Duration);

impl FromStr for Lasting {
    type Err = String;

    fn from_str(text: &str) -> Result<Lasting, String> {
        match text.parse::<KeepAlive>()? {
            KeepAlive::For(time) => Ok(Lasting(time)),
            KeepAlive::Forever => Err("it has to end some time; write 30m, 24h or 7d".into()),
        }
    }
}

/// How long an unused model stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}

impl KeepAlive {
    /// None: for ever.
    pub fn millis(self) -> Option<u64> {
        match self {
            KeepAlive::For(duration) => {
                Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
            KeepAlive::Forever => None,
        }
    }
}

impl FromStr for KeepAlive {
    type Err = String;

    fn from_str(text: &str) -> Result<KeepAlive, String> {
        let text = text.trim();
        if text == "forever" || text.starts_with('-') {
            return Ok(KeepAlive::Forever); // Ollama writes -1
        }
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit_s = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => 0,
        };
        match number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit_s))
        {
            Some(seconds) if unit_s > 0 => Ok(KeepAlive::For(Duration::from_secs(seconds))),
            _ => Err(format!(
                "'{text}' is not a duration; write 30s, 5m, 2h or forever"
            )),
        }
    }
}

/// An amount of memory: 8GB, 8GiB, 500MB, or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<MemorySize, String> {
        let wrong = || format!("'{text}' is not an amount of memory; write 8GB, 7.5GiB or 500MB");
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "kib" => 1 << 10,
            "m" | "mb" => 1_000_000,
            "mib" => 1 << 20,
            "g" | "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            "t" | "tb" => 1_000_000_000_000,
            "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * factor as f64;
        // Above 2^53 a float no longer counts bytes; no machine has that much.
        if bytes >= 1.0 && bytes < (1u64 << 53) as f64 {
            Ok(MemorySize(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Settings> {
        Settings::parse(text, &Overrides::default())
    }

    #[test]
    fn an_empty_file_of_the_right_version_is_the_defaults() {
        let settings = parse("version = 1").unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7867");
        assert_eq!(
            settings.keep_alive,
            KeepAlive::For(Duration::from_secs(300))
        );
        assert!(!settings.offline && settings.max_memory_bytes.is_none());
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "version = 1\n[machine]\nthreads = 3\nctx = 1024\n";
        let flags = Overrides {
            threads: Some(7),
            ..Overrides::default()
        };
        let settings = Settings::parse(text, &flags).unwrap();
        assert_eq!((settings.threads, settings.context), (Some(7), Some(1024)));
    }

    #[test]
    fn every_known_key_is_a_field() {
        let mut text = String::from("version = 1\n");
        for key in &KEYS[1..] {
            let (table, leaf) = key.split_once('.').unwrap();
            let value = match *key {
                "api.listen" => "\"[::1]:7867\"",
                "api.allowed_hosts" | "api.allowed_origins" => "[\"x\"]",
                "models.keep_alive" => "\"1h\"",
                "models.offline" => "true",
                "machine.max_memory" => "\"8GB\"",
                "log.format" => "\"json\"",
                "donor.pause_when" => "\"owner-busy\"",
                "donor.hours" => "[\"22:00-07:00\"]",
                "donor.share" => "50",
                "mesh.listen" | "mesh.plane_listen" => "\"0.0.0.0:1\"",
                "mesh.mdns" | "mesh.share_gate" => "false",
                "mesh.allow" | "mesh.block" => "[]",
                "mesh.announce" | "mesh.plane_announce" | "mesh.bootstrap" => "[\"x\"]",
                _ if table == "machine" => "4096",
                _ => "\"x\"",
            };
            let value = if *key == "machine.threads" {
                "4"
            } else {
                value
            };
            text += &format!("{table}.{leaf} = {value}\n");
        }
        parse(&text).unwrap();
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, address) in [
            ("7900", "127.0.0.1:7900"),
            (":7900", "127.0.0.1:7900"),
            ("localhost:7900", "127.0.0.1:7900"),
            ("0.0.0.0", "0.0.0.0:7867"),
            ("[::1]:7900", "[::1]:7900"),
        ] {
            assert_eq!(
                text.parse::<Listen>().unwrap().0.to_string(),
                address,
                "{text}"
            );
        }
        assert!("nowhere:port".parse::<Listen>().is_err());
    }

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        let seconds = |s| KeepAlive::For(Duration::from_secs(s));
        for (text, keep_alive) in [
            ("0", seconds(0)),
            ("5m", seconds(300)),
            ("-1", KeepAlive::Forever),
        ] {
            assert_eq!(text.parse::<KeepAlive>().unwrap(), keep_alive, "{text}");
        }
        for text in ["", "5 parsecs", "m", "99999999999999999999d"] {
            assert!(text.parse::<KeepAlive>().is_err(), "{text}");
        }
        for (text, bytes) in [
            ("1.5GB", 1_500_000_000),
            ("2 GiB", 2 << 30),
            ("512mb", 512_000_000),
        ] {
            assert_eq!(text.parse::<MemorySize>().unwrap().0, bytes, "{text}");
        }
        for text in [
            "",
            "GB",
            "-1GB",
            "0",
            "nan",
            "1e99GB",
            "8 elephants",
            "99999999TB",
        ] {
            assert!(text.parse::<MemorySize>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_alias_is_followed_once() {
        let settings = parse("version = 1\n[aliases]\na = \"b\"\nb = \"a\"\n").unwrap();
        assert_eq!(
            (settings.real_name("a"), settings.real_name("c")),
            ("b", "c")
        );
    }
}
