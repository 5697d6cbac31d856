//! A client of the Hugging Face hub, as much as a model store needs: which file, which commit, which
//! hash, and a range of its bytes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body, Proxy};

use super::choose;
use super::manifest::{is_plain_file_name, is_sha256};
use super::name::HubName;
use super::pull::{OnEvent, PullEvent};

/// The only address in the program; `HF_ENDPOINT` replaces it.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Consecutive failures before a pull gives up; progress starts the count again.
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// A listing of ten thousand files is about a tenth of this.
const MAX_LISTING_BYTES: u64 = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence after which a connection is given up; applies to each read, not to the whole download.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// No pause between attempts is longer, whatever a server asks for.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Whom to ask and as whom.
#[derive(Clone)]
pub struct HubConfig {
    /// Scheme and host, without a slash at the end.
    pub endpoint: String,
    pub token: Option<String>,
    /// Root of the hub cache shared with other programs.
    pub cache: Option<PathBuf>,
    /// Pause after the first failure; doubles with each further one.
    pub first_backoff: Duration,
}

/// A derived `Debug` would put the token into logs.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { "set" } else { "none" };
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .finish_non_exhaustive()
    }
}

impl HubConfig {
    /// What the hub's own tools would use, given how to look up an environment variable: `HF_ENDPOINT`,
    /// `HF_TOKEN` or the token file, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> HubConfig {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let home = path("HF_HOME").or_else(|| {
            let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
            Some(cache?.join("huggingface"))
        });
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        HubConfig {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: var("HF_TOKEN")
                .or_else(|| read_token(&token_file?))
                .map(|token| token.trim().to_owned()),
            cache: path("HF_HUB_CACHE").or_else(|| Some(home?.join("hub"))),
            first_backoff: Duration::from_secs(1),
        }
    }
}

/// A token file, if there is one that can be a token.
fn read_token(path: &Path) -> Option<String> {
    const MAX_TOKEN_BYTES: u64 = 4096;
    let small =
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_TOKEN_BYTES);
    let text = small.then(|| fs::read_to_string(path).ok())??;
    let token = text.trim();
    (!token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())).then(|| token.to_owned())
}

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "the hub refused `{repo}` ({status}): it does not exist, is private, or wants its licence accepted; \
         check the name, accept the licence on the model's page, and set HF_TOKEN"
    )]
    Refused { repo: String, status: u16 },
    #[error("the hub has no `{repo}` at revision `{rev}`; check the spelling of both")]
    NotFound { repo: String, rev: String },
    #[error(
        "`{repo}` has no GGUF file that ends in `{quant}`; it has: {}",
        list(files)
    )]
    NoSuchQuant {
        repo: String,
        quant: String,
        files: Vec<String>,
    },
    #[error(
        "`{quant}` fits several files of `{repo}`: {}; use more of the file's name instead of `{quant}`",
        list(files)
    )]
    Ambiguous {
        repo: String,
        quant: String,
        files: Vec<String>,
    },
    #[error(
        "`{repo}` has `{quant}` only as a split model ({file}); choose a smaller quantisation or another repository, or merge the parts with `llama-gguf-split --merge` and give the path"
    )]
    Split {
        repo: String,
        quant: String,
        file: String,
    },
    #[error(
        "the hub's answer for `{repo}` cannot be used: {why}; pull again, or choose another repository"
    )]
    BadAnswer { repo: String, why: String },
    #[error(
        "cannot reach {endpoint} ({attempts} attempts): {why}; check the network or HF_ENDPOINT and pull again: it resumes"
    )]
    Network {
        endpoint: String,
        attempts: u32,
        why: String,
    },
}

/// At most a dozen names: some repositories hold hundreds.
fn list(files: &[String]) -> String {
    const SHOWN: usize = 12;
    match files.len() {
        0 => "none".into(),
        n if n > SHOWN => format!("{} and {} more", files[..SHOWN].join(", "), n - SHOWN),
        _ => files.join(", "),
    }
}

/// A file on the hub, pinned: these bytes and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) commit: String,
    /// Path inside the repository; its last component is a plain file name.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// One failed exchange: worth another attempt, or final.
pub(super) enum Failure {
    Retry {
        why: String,
        after: Option<Duration>,
    },
    Final(HubError),
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

pub(super) struct Hub<'a> {
    config: &'a HubConfig,
    agent: Agent,
}

impl<'a> Hub<'a> {
    pub(super) fn new(config: &'a HubConfig) -> Hub<'a> {
        // Proxies come from the usual variables, except for a hub on this machine, which no proxy can
        // reach. A redirect never carries the token on.
        let proxy = if is_loopback(&config.endpoint) {
            None
        } else {
            Proxy::try_from_env()
        };
        crate::tls::install_provider(); // ureq brings none
        let agent = Agent::config_builder()
            .proxy(proxy)
            .http_status_as_error(false)
            .https_only(config.endpoint.starts_with("https://"))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .user_agent(concat!("quorate/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Hub { config, agent }
    }

    /// Asks which file a name means, at which commit, with which hash.
    pub(super) fn resolve(
        &self,
        name: &HubName,
        on_event: &mut OnEvent<'_>,
    ) -> Result<RemoteFile, HubError> {
        let rev = name.rev.as_deref().unwrap_or("main");
        let url = format!(
            "{}/api/models/{}/revision/{}?blobs=true",
            self.config.endpoint,
            name.repository(),
            encode(rev, false)
        );
        let mut attempt = 1;
        let text = loop {
            match self
                .get(&url, name, None)
                .and_then(|mut answer| read_listing(&mut answer))
            {
                Ok(text) => break text,
                Err(failure) => self.pause(failure, &mut attempt, on_event)?,
            }
        };
        let bad = |why: String| HubError::BadAnswer {
            repo: name.repository(),
            why,
        };
        let listing: Listing =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        pick(listing, name)
    }

    /// Opens the file from byte `from` on. The answer is 200 (whole file) or 206 (from there).
    pub(super) fn open(
        &self,
        name: &HubName,
        file: &RemoteFile,
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.config.endpoint,
            name.repository(),
            file.commit,
            encode(&file.path, true)
        );
        self.get(&url, name, (from > 0).then_some(from))
    }

    fn get(&self, url: &str, name: &HubName, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(token) = self
            .config
            .token
            .as_deref()
            .filter(|_| may_carry_token(&self.config.endpoint))
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = request.call().map_err(|error| Failure::Retry {
            why: error.to_string(),
            after: None,
        })?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            // The caller starts over from zero.
            StatusCode::RANGE_NOT_SATISFIABLE if from.is_some() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Final(HubError::Refused {
                    repo: name.repository(),
                    status: answer.status().as_u16(),
                }))
            }
            StatusCode::NOT_FOUND => Err(Failure::Final(HubError::NotFound {
                repo: name.repository(),
                rev: name.rev.clone().unwrap_or_else(|| "main".into()),
            })),
            status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                Err(Failure::Retry {
                    why: format!("it answered {status}"),
                    after: retry_after(&answer),
                })
            }
            status => {
                let why = format!("it answered {status}");
                Err(Failure::Final(HubError::BadAnswer {
                    repo: name.repository(),
                    why,
                }))
            }
        }
    }

    /// After a failure: sleeps before attempt number `attempt + 1`, or gives up.
    pub(super) fn pause(
        &self,
        failure: Failure,
        attempt: &mut u32,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), HubError> {
        let (why, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Retry { why, after } => (why, after),
        };
        if *attempt >= MAX_ATTEMPTS {
            let endpoint = self.config.endpoint.clone();
            return Err(HubError::Network {
                endpoint,
                attempts: *attempt,
                why,
            });
        }
        let doubled = self
            .config
            .first_backoff
            .saturating_mul(1 << (*attempt - 1).min(16));
        let wait = after.unwrap_or(doubled).min(MAX_BACKOFF);
        *attempt += 1;
        // MAX_BACKOFF bounds the milliseconds.
        on_event(PullEvent::Retrying {
            attempt: *attempt,
            of: MAX_ATTEMPTS,
            wait_ms: wait.as_millis() as u64,
            why,
        });
        thread::sleep(wait);
        Ok(())
    }
}

fn read_listing(answer: &mut Response<Body>) -> Result<Vec<u8>, Failure> {
    let body = answer
        .body_mut()
        .with_config()
        .limit(MAX_LISTING_BYTES)
        .read_to_vec();
    body.map_err(|error| Failure::Retry {
        why: error.to_string(),
        after: None,
    })
}

fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// Over plain HTTP a token goes to this machine only.
fn may_carry_token(endpoint: &str) -> bool {
    endpoint.starts_with("https://") || is_loopback(endpoint)
}

fn is_loopback(endpoint: &str) -> bool {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_scheme, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    matches!(host, "127.0.0.1" | "localhost" | "::1") && !authority.contains('@')
}

/// Percent-encodes what is not plain; keeps `/` where it separates folders.
fn encode(text: &str, keep_slash: bool) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// A full commit id, which never means anything else later.
pub(super) fn is_commit(rev: &str) -> bool {
    rev.len() == 40 && rev.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The file that `name` means among those the hub listed, with everything about it checked.
fn pick(listing: Listing, name: &HubName) -> Result<RemoteFile, HubError> {
    let bad = |why: String| HubError::BadAnswer {
        repo: name.repository(),
        why,
    };
    if !is_commit(&listing.sha) {
        return Err(bad("it names no commit".into()));
    }
    let names: Vec<&str> = listing
        .siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .collect();
    let chosen = &listing.siblings[choose::choose(&names, name)?];
    let path = &chosen.rfilename;
    if !path.split('/').all(is_plain_file_name) {
        return Err(bad(format!("the file name {path:?} is not plain")));
    }
    let lfs = chosen
        .lfs
        .as_ref()
        .ok_or_else(|| bad(format!("it gives no SHA-256 for {path}")))?;
    let sha256 = lfs.sha256.to_ascii_lowercase();
    if !is_sha256(&sha256) || lfs.size == 0 {
        return Err(bad(format!("size or SHA-256 of {path} make no sense")));
    }
    Ok(RemoteFile {
        commit: listing.sha,
        path: path.clone(),
        bytes: lfs.size,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_the_hubs_own_tools() {
        let config = |vars: &'static [(&str, &str)]| {
            HubConfig::from_env(|name| {
                vars.iter()
                    .find(|row| row.0 == name)
                    .map(|row| row.1.to_owned())
            })
        };
        let plain = config(&[("HOME", "/h")]);
        assert_eq!(plain.endpoint, DEFAULT_ENDPOINT);
        assert_eq!(
            plain.cache.as_deref(),
            Some(Path::new("/h/.cache/huggingface/hub"))
        );
        let set = config(&[
            ("HF_HOME", "/x"),
            ("HF_ENDPOINT", "http://127.0.0.1:1/ "),
            ("HF_TOKEN", "secret"),
            ("HF_HUB_CACHE", "/c"),
        ]);
        assert_eq!(
            (set.endpoint.as_str(), set.token.as_deref()),
            ("http://127.0.0.1:1", Some("secret"))
        );
        assert_eq!(set.cache.as_deref(), Some(Path::new("/c")));
        assert!(!format!("{set:?}").contains("secret"));
        assert_eq!(
            config(&[("HF_HOME", "/x")]).cache.as_deref(),
            Some(Path::new("/x/hub"))
        );
        assert_eq!(config(&[]).cache, None);
    }

    #[test]
    fn tokens_travel_encrypted_or_not_at_all() {
        for (endpoint, carried) in [
            ("https://hub.example", true),
            ("http://127.0.0.1:8080", true),
            ("http://localhost", true),
            ("http://[::1]:80/hub", true),
            ("http://localhost:x@hub.example", false),
            ("http://hub.example", false),
            ("http://127.0.0.1.example:80", false),
        ] {
            assert_eq!(may_carry_token(endpoint), carried, "{endpoint}");
        }
    }

    #[test]
    fn urls_are_encoded() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/c+d.gguf", true), "a%20b/c%2Bd.gguf");
    }
}
