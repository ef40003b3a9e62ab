//! Control groups of pods and containers: v1, hybrid and v2, cgroupfs and systemd.
//!
//! A [`Location`] is decided first and recorded, then the group is made, entered, limited, read, killed and removed
//! through [`Cgroups`]. cgroups-rs finds the hierarchies and knows systemd's names and properties; what it lacks (the
//! list of what was made, `unified`, device filters on v2, `cgroup.kill`, PSI, the current conversion of shares) is
//! written here.

mod cgroups;
mod devices;
mod error;
mod files;
mod group;
mod in_force;
mod kill;
mod layout;
mod limits;
mod limits_v1;
mod limits_v2;
mod location;
mod parse;
mod properties;
mod scope;
mod stats;
mod systemd;
mod wait;

pub use cgroups::{Cgroups, Extra};
pub use error::{Error, Failures, Kind};
pub use group::{Entry, Made};
pub use layout::Mode;
pub use limits::{shares_to_weight, with_swap};
pub use location::{Driver, DriverSetting, Location, SCOPE_PREFIX};
pub use parse::{Psi, PsiData};
pub use scope::Process;
pub use stats::{MemoryStats, Stats, SwapStats};
