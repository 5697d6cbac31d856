//! The expert engine on the real model. What must hold is exact: the same batch shapes give the
//! same bits, so tests compare opinions for equality and never look at a clock. Their names begin
//! with `real_`, by which nextest knows that each wants the machine for itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../store/peft.rs"]
mod peft;
mod real_adapters;
mod real_batching;
mod real_branches;
mod real_hostile;
mod real_load;
mod real_requantise;
mod real_router;
mod real_text;
mod support;
