//! The expert engine on the real model. What must hold is exact: the same batch shapes give the
//! same bits, so tests compare opinions for equality and never look at a clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod batching;
mod hostile;
mod load;
mod support;
mod text;
