//! Real swarms on loopback: who meets whom, who is let in, who is told what.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod carrying;
mod hostile;
mod joining;
mod large;
mod meeting;
mod nodes;
mod voices;
