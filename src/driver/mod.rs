//! The one loop: take an input, let core decide, carry out its outputs.

mod handle;

pub use handle::{
    AcquireError, Generation, GenerationStream, Lease, ModelStatus, Node, NodeStatus, RefusedError,
    Residence,
};
