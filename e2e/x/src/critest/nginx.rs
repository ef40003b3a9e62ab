//! nginx from Debian's package, with the libraries of the packages that it depends on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt,
    oci::{Meta, Tar},
    work::Work,
};

/// Where Debian has the libraries, and what the kernel starts a dynamic program with (the psABI's PT_INTERP).
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "lib/aarch64-linux-gnu" } else { "lib/x86_64-linux-gnu" };
const LOADER: &str =
    if cfg!(target_arch = "aarch64") { "lib/ld-linux-aarch64.so.1" } else { "lib64/ld-linux-x86-64.so.2" };

/// The program, its libraries and its page, to be put on a busybox.
pub fn layer(work: &Work) -> Result<Tar> {
    let tree = work.dir("critest-nginx")?;
    apt::unpack(work, "nginx", &tree)?;
    for package in apt::libraries(work, "nginx")? {
        apt::unpack(work, &package, &tree)?;
    }
    let mut tar = Tar::default();
    for dir in ["lib", LIBRARIES, "etc/nginx", "run", "var/run", "var/log", "var/log/nginx"] {
        tar.dir(dir, Meta::root(0o755));
    }
    for dir in ["lib64", "var/lib", "var/lib/nginx", "usr/share", "usr/share/nginx", "usr/share/nginx/html"] {
        tar.dir(dir, Meta::root(0o755));
    }
    let mut put = |path: &str, from: &Path, mode| -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        tar.file(path, Meta::root(mode), &bytes);
        Ok(())
    };
    put("usr/sbin/nginx", &tree.join("usr/sbin/nginx"), 0o755)?;
    for library in libraries(&tree)? {
        // A link's content, under its name: that is what the loader looks for.
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        put(&format!("{LIBRARIES}/{name}"), &library, 0o755)?;
        if LOADER.ends_with(&format!("/{name}")) {
            put(LOADER, &library, 0o755)?;
        }
    }
    tar.file("usr/share/nginx/html/index.html", Meta::root(0o644), b"<h1>nginx, a stand-in</h1>\n");
    Ok(tar)
}

/// The configuration, for one port.
pub fn listen(port: u16) -> Tar {
    let text = format!(
        "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\n  access_log off;\n  server {{\n    listen {port};\n    root /usr/share/nginx/html;\n  }}\n}}\n"
    );
    let mut tar = Tar::default();
    tar.file("etc/nginx/nginx.conf", Meta::root(0o644), text.as_bytes());
    tar
}

/// Shared objects with a version in their name, wherever the release has them: before the merge of /usr in /lib.
fn libraries(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for top in ["", "usr"] {
        let entries = fs::read_dir(tree.join(top).join(LIBRARIES)).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| path.is_file());
        found.extend(files.filter(|path| path.to_string_lossy().contains(".so.")));
    }
    found.sort();
    ensure!(found.iter().any(|path| path.ends_with("libc.so.6")), "no libc.so.6 in {}", tree.display());
    Ok(found)
}
