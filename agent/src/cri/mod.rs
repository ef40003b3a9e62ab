//! CRI v1: the only module of the agent that names a tonic or generated type.

pub mod client;
pub mod convert;
mod image;
mod images;
mod limit;
mod runtime;
mod serve;
mod status;
mod transport;

use image::ImageServer;
use runtime::RuntimeServer;
pub use serve::{serve, serve_one};
