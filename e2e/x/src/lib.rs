//! Commands of `cargo x`: prepares a machine, builds and installs the programs, builds the test images, runs
//! the demo, the tests, upgrades, critest, the virtual machine, the fuzz targets and the benchmark. It knows the
//! programs only as files and names none of their crates.

pub mod apt;
pub mod bench;
pub mod build;
pub mod chaos;
pub mod check;
pub mod containerd;
pub mod critest;
pub mod debian;
pub mod demo;
pub mod fuzz;
pub mod host;
pub mod hostile;
pub mod images;
pub mod install;
pub mod kind;
pub mod kubernetes;
pub mod oci;
pub mod peer;
pub mod place;
pub mod powercut;
pub mod run;
pub mod summary;
pub mod test;
pub mod tools;
pub mod upgrade;
pub mod vm;
pub mod work;
