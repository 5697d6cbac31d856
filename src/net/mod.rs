//! Other machines: the token plane, by which a router hears experts elsewhere (`remote`) and this
//! node's experts are heard (`serve`), over streams of `plane` or of libp2p.

pub mod frame;
pub mod plane;
pub mod remote;
pub mod serve;
pub mod swarm;
