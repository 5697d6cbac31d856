//! The model store from outside: hostile files, a hub that misbehaves, disks that fill, processes
//! that die. Needs no llama.cpp and no network beyond 127.0.0.1.

mod adapters;
mod faults;
mod header;
mod installed;
mod library;
mod peft;
mod pulls;
mod sample;
mod server;
