//! Images that want out of their root, or into another user: what a runtime does with them is tested.

use anyhow::Result;
use serde_json::json;

use crate::{
    images::PATH,
    oci::{Image, Layout, Meta, Tar},
};

/// Where the links of these images lead on the host. A test puts something there and looks whether it stays as it was.
pub const CANARY: &str = "/var/tmp/holdfast-e2e-canary";

/// Adds all of them, on top of busybox.
pub fn add(layout: &mut Layout, busybox: &Tar) -> Result<()> {
    for (name, user) in [
        ("user-ghost", "ghost"),
        ("user-huge", "4294967296"),
        ("user-minus", "-1"),
        ("user-suffix", "65536x"),
        ("user-digits", "1234"),
    ] {
        let config = json!({"Cmd": ["sh"], "Env": [PATH], "User": user});
        let image = Image::new(config, [busybox.clone(), all_are_root()]);
        layout.add(&[&format!("holdfast.test/{name}:1")], &image)?;
    }
    for name in ["dev", "proc", "sys"] {
        let mut top = Tar::default();
        top.symlink(name, CANARY);
        let image = Image::new(json!({"Cmd": ["sh"], "Env": [PATH]}), [busybox.clone(), top]);
        layout.add(&[&format!("holdfast.test/escape-{name}:1")], &image)?;
    }
    let mut top = Tar::default();
    top.symlink("out", CANARY).symlink("up", &format!("../../../../../..{CANARY}"));
    let config =
        json!({"Cmd": ["sh"], "Env": [PATH], "WorkingDir": "/out/work", "Volumes": {"/up/volume": {}}});
    layout.add(&["holdfast.test/escape-paths:1"], &Image::new(config, [busybox.clone(), top]))?;
    Ok(())
}

/// A passwd in which every text that looks like a number, and is none, is the name of root.
fn all_are_root() -> Tar {
    let mut tar = Tar::default();
    let names = ["4294967296", "4294967295", "-1", "65536x", "1234", "root"];
    let lines = names.map(|name| format!("{name}:x:0:0:root:/root:/bin/sh\n")).concat();
    tar.file("etc/passwd", Meta::root(0o644), lines.as_bytes());
    tar
}
