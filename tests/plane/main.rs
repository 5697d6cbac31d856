//! The token plane between two nodes of one process, over loopback and over memory.
