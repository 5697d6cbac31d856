//! Where the node lives: directory, lock, key, disk, port, network, clock.

use super::Check;
use crate::app;
use crate::app::ports;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::term;
use crate::identity::Identity;
use quorate_core::plan::Size;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Room for the default model twice: the download and its installation.
const DISK_WARN_BYTES: u64 = 250_000_000;
/// The first of January 2025; this program is younger.
const BUILT_AFTER_UNIX_S: u64 = 1_735_689_600;

pub(super) fn settings(context: &Context) -> Check {
    let file = &context.home.config_file;
    match file.exists() {
        true => Check::ok("settings", file.display().to_string()),
        false => Check::ok(
            "settings",
            format!("all defaults ({} does not exist)", file.display()),
        ),
    }
}

pub(super) fn home(context: &Context) -> Check {
    let data = &context.home.data;
    if let Err(failure) = context.home.create() {
        return Check::failed("home", failure);
    }
    let probe = data.join(format!(".doctor.{}", std::process::id()));
    let written = std::fs::write(&probe, b"?").and_then(|()| std::fs::remove_file(&probe));
    if let Err(error) = written {
        return Check::failed(
            "home",
            crate::error::Failure::file("write in", data, &error),
        );
    }
    let mode = std::fs::metadata(data).map_or(0, |meta| meta.permissions().mode() & 0o777);
    if mode & 0o022 != 0 {
        let says = format!("others can write in {} (mode {mode:03o})", data.display());
        return Check::warn("home", says, format!("chmod 700 {}", data.display()));
    }
    Check::ok("home", format!("{} is writable", data.display()))
}

pub(super) fn lock(context: &Context) -> Check {
    match context.home.running_node() {
        Some(node) => {
            let pid = node
                .pid
                .map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            Check::ok(
                "lock",
                format!("held by the node that is up (process {pid})"),
            )
        }
        None => Check::ok("lock", "free: no node is up on this home"),
    }
}

pub(super) fn key(context: &Context) -> Check {
    match Identity::load(&context.home.identity_key()) {
        Ok(Some(identity)) => Check::ok("identity", identity.node_id().to_string()),
        Ok(None) => Check::ok("identity", "not made yet; the first start makes it"),
        Err(failure) => Check::failed("identity", failure),
    }
}

pub(super) fn disk(context: &Context) -> Check {
    let data = nearest_existing(&context.home.data);
    match fs4::available_space(data) {
        Ok(free) if free < DISK_WARN_BYTES => Check::warn(
            "disk",
            format!("{} free: too little for a model", Size(free)),
            "free some, `quorate rm` a model, or set QUORATE_HOME to a larger disk",
        ),
        Ok(free) => Check::ok("disk", format!("{} free", Size(free))),
        Err(error) => Check::warn(
            "disk",
            format!("cannot be measured: {error}"),
            "check it with `df -h`",
        ),
    }
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

pub(super) fn api(context: &Context) -> Vec<Check> {
    let listen = context.settings.listen;
    match Client::of_running_node(context) {
        Ok(Some(client)) => {
            let mut checks = vec![Check::ok("api", format!("ours: {}/v1", client.base()))];
            checks.push(match client.get("/readyz") {
                Ok(_) => Check::ok("node", "up and ready"),
                Err(failure) => Check::failed("node", failure),
            });
            checks
        }
        Ok(None) => vec![
            port(listen),
            bind_key(context),
            Check::ok("node", "not up; start it with `quorate up`"),
        ],
        Err(failure) => vec![Check::failed("node", failure)],
    }
}

fn port(listen: std::net::SocketAddr) -> Check {
    match TcpListener::bind(listen) {
        Ok(_) => Check::ok("api", format!("{listen} is free")),
        Err(error) => {
            let who = ports::listener_of(listen)
                .map_or_else(|| error.to_string(), |who| format!("{who} listens there"));
            Check::fail(
                "api",
                format!("{listen} cannot be used: {who}"),
                "stop it, or choose another port: quorate up --listen PORT",
            )
        }
    }
}

fn bind_key(context: &Context) -> Check {
    let key = match app::api_key(&context.settings) {
        Ok(key) => key,
        Err(failure) => return Check::failed("api key", failure),
    };
    match crate::api::check_bind(context.settings.listen, key.is_some()) {
        Ok(()) if key.is_some() => Check::ok("api key", "clients must show one"),
        Ok(()) => Check::ok("api key", "not needed on loopback"),
        Err(error) => Check::fail(
            "api key",
            error.to_string(),
            "quorate up --api-key-file FILE, or listen on 127.0.0.1",
        ),
    }
}

pub(super) fn network(context: &Context) -> Check {
    match context.settings.offline {
        true => Check::ok("network", "off: models that are not here cannot be pulled"),
        false => Check::ok(
            "network",
            "used by `pull`, and where a mesh is asked; what other models are asked stays here",
        ),
    }
}

pub(super) fn clock() -> Check {
    match term::now_unix_s() {
        now if now < BUILT_AFTER_UNIX_S => Check::warn(
            "clock",
            "it is set before this program was written; downloads over TLS will fail",
            "set the time: timedatectl set-ntp true",
        ),
        _ => Check::ok("clock", "plausible"),
    }
}
