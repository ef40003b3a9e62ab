//! Whole connections through the filter, beside an independent implementation of HPACK.

mod any;
mod known;
mod wire;
