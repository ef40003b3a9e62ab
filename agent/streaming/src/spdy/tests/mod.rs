//! Whole connections, over a pipe in memory, against a client that writes frames by hand.

mod back_pressure;
mod client;
mod ends;
mod rules;
mod streams;
