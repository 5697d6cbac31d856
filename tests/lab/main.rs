//! Programs on machines that do not exist: network namespaces joined by made-up links.
//!
//! `lab::run` starts the test once more in namespaces of its own (network, processes, mounts; users
//! too where we are not root), so that the kernel clears up whatever happens. There, each host is
//! another network namespace with a TUN device, and one thread (`switch`) moves packets between the
//! devices as `quorate_core::link` says. Where the kernel has no such things, a test says SKIPPED
//! and why; with QUORATE_LAB=required that is a failure.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod homes;
mod host;
mod lab;
mod lan;
mod links;
mod nat;
mod nodes;
mod ocean;
mod programs;
mod relaunch;
mod switch;
mod tun;
