//! The images of the demo and the tests, made from static programs that are built here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    apt, hostile,
    oci::{Compression, Image, Layout, Meta, Platform, Tar},
    run::{command, output, quiet, step},
    work::{Work, once},
};

/// The demo's image.
pub const GREETER: &str = "holdfast.local/greeter:1";
/// The benchmark's image.
pub const BENCH: &str = "holdfast.local/busybox:1";
/// The pause image.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// Raised when what follows changes: an old layout is then built anew.
const GENERATION: &str = "9";

/// Builds the demo's image as an archive that `image import` takes, and returns its path.
pub fn demo(work: &Work) -> Result<PathBuf> {
    let archive = work.cache.join("demo-image.tar");
    step("building the sample image", || {
        let image = greeter_image(&greeter(work)?)?;
        write_archive(work, "demo-image", GREETER, &image, &archive)
    })?;
    Ok(archive)
}

/// Builds the benchmark's image as an archive.
pub fn bench(work: &Work) -> Result<PathBuf> {
    let busybox = busybox(work)?;
    let archive = bench_archive(work);
    let image = Image::new(json!({"Cmd": ["sh"], "Env": [PATH]}), [busybox_layer(&busybox)?]);
    write_archive(work, "bench-image", BENCH, &image, &archive)?;
    Ok(archive)
}

/// The archive of the benchmark's image, whether it is there or not.
pub fn bench_archive(work: &Work) -> PathBuf {
    work.cache.join("bench-image.tar")
}

/// Builds the pause image as an archive, for a runtime that needs one.
pub fn pause(work: &Work) -> Result<PathBuf> {
    let archive = work.cache.join("pause-image.tar");
    let layer = program_layer(&static_c(work, "pause")?, "pause")?;
    let image = Image::new(json!({"Entrypoint": ["/pause"], "User": "65535:65535"}), [layer]);
    write_archive(work, "pause-image", PAUSE, &image, &archive)?;
    Ok(archive)
}

/// One image as one archive.
fn write_archive(work: &Work, dir: &str, name: &str, image: &Image, archive: &Path) -> Result<()> {
    let dir = work.cache.join(dir);
    let mut layout = Layout::create(&dir)?;
    layout.add(&[name], image)?;
    layout.finish()?;
    fs::write(archive, Layout::archive(&dir)?).with_context(|| format!("write {}", archive.display()))
}

/// Builds all test images into one layout.
pub fn prepare(work: &Work) -> Result<()> {
    let busybox = busybox(work)?;
    once(&work.cache.join("images.stamp"), GENERATION, || {
        step("building the test images", || {
            let programs = Programs {
                busybox,
                greeter: greeter(work)?,
                pause: static_c(work, "pause")?,
                ia32: cfg!(target_arch = "x86_64").then(|| ia32(work)).transpose()?,
            };
            let mut layout = Layout::create(&work.images())?;
            test_images(&mut layout, &programs)?;
            layout.finish()
        })
    })
}

struct Programs {
    busybox: PathBuf,
    greeter: PathBuf,
    pause: PathBuf,
    /// Where there are such machines.
    ia32: Option<PathBuf>,
}

fn test_images(layout: &mut Layout, programs: &Programs) -> Result<()> {
    let busybox = busybox_layer(&programs.busybox)?;
    let shell = json!({"Cmd": ["sh"], "Env": [PATH]});
    let native = Image::new(shell.clone(), [busybox.clone()]);
    let mut other = Tar::default();
    other.file("foreign", Meta::root(0o644), b"this is the image of another architecture\n");
    let foreign = Image { platform: Platform::foreign(), ..Image::new(shell.clone(), [other]) };
    layout.add_index(&["registry.k8s.io/e2e-test-images/busybox:1.29-2"], &[foreign, native])?;

    let mut zstd = Image::new(shell, [busybox.clone(), marker("packed", "zstd")]);
    for layer in &mut zstd.layers {
        layer.1 = Compression::Zstd;
    }
    layout.add(&["holdfast.test/zstd:1"], &zstd)?;
    let mut plain = Image::new(json!({"Cmd": ["/greeter"]}), [program_layer(&programs.greeter, "greeter")?]);
    plain.layers[0].1 = Compression::None;
    layout.add(&["holdfast.test/greeter:1", "holdfast.test/greeter:again"], &plain)?;
    layout.add(&["holdfast.test/layers:1"], &layers_image(busybox.clone()))?;

    for (name, user) in [("user-name", "www-data"), ("user-uid", "1002"), ("user-uid-group", "1003:users")] {
        let config = json!({"Cmd": ["sh"], "Env": [PATH], "User": user});
        layout.add(&[&format!("holdfast.test/{name}:1")], &Image::new(config, [busybox.clone()]))?;
    }
    let volume = json!({"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id; pwd; env"], "Env": [PATH, "NOTHING_IS_SAID", "FROM_IMAGE=yes"],
        "WorkingDir": "/work/here", "StopSignal": "SIGUSR1", "ExposedPorts": {"80/tcp": {}}});
    layout.add(&["holdfast.test/config:1"], &Image::new(volume, [busybox.clone()]))?;
    hostile::add(layout, &busybox)?;
    if let Some(program) = &programs.ia32 {
        let image = Image::new(json!({"Cmd": ["/ia32"]}), [program_layer(program, "ia32")?]);
        layout.add(&["holdfast.test/ia32:1"], &image)?;
    }

    for tag in ["3.9", "3.10"] {
        let layers = [program_layer(&programs.pause, "pause")?, marker("version", tag)];
        let config = json!({"Entrypoint": ["/pause"], "User": "65535:65535"});
        layout.add(&[&format!("registry.k8s.io/pause:{tag}")], &Image::new(config, layers))?;
    }
    Ok(())
}

/// The PATH that images give their programs.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Three layers: the second removes a file and a whole folder of the first and hides another folder's content.
fn layers_image(busybox: Tar) -> Image {
    let mut first = Tar::default();
    first.dir("data", Meta::root(0o755)).dir("hidden", Meta::root(0o755)).dir("gone", Meta::root(0o755));
    first.file("data/removed", Meta::root(0o644), b"1").file("data/replaced", Meta::root(0o644), b"old");
    first.file("data/kept", Meta { mode: 0o640, uid: 33, gid: 33 }, b"1");
    first.file("hidden/old", Meta::root(0o644), b"1").file("gone/away", Meta::root(0o644), b"1");
    let mut second = Tar::default();
    second.dir("data", Meta::root(0o755)).whiteout("data/removed").whiteout("gone");
    second.dir("hidden", Meta::root(0o755)).opaque("hidden").file("hidden/new", Meta::root(0o644), b"2");
    let mut third = Tar::default();
    third.file("data/replaced", Meta::root(0o644), b"new").symlink("data/link", "kept");
    Image::new(json!({"Cmd": ["sh"], "Env": [PATH]}), [busybox, first, second, third])
}

/// A layer with one text file.
pub fn marker(name: &str, text: &str) -> Tar {
    let mut tar = Tar::default();
    tar.file(name, Meta::root(0o644), text.as_bytes());
    tar
}

/// A layer with one program at the top.
pub fn program_layer(program: &Path, name: &str) -> Result<Tar> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let mut tar = Tar::default();
    tar.file(name, Meta::root(0o755), &bytes);
    Ok(tar)
}

fn greeter_image(greeter: &Path) -> Result<Image> {
    Ok(Image::new(
        json!({"Entrypoint": ["/greeter"], "User": "1000:1000"}),
        [program_layer(greeter, "greeter")?],
    ))
}

/// Every applet a hard link, so that a masked path masks one of them; no /proc and /sys, which a runtime must make.
pub fn busybox_layer(busybox: &Path) -> Result<Tar> {
    let bytes = fs::read(busybox).with_context(|| format!("read {}", busybox.display()))?;
    let applets = output(&mut command(busybox, ["--list-full"]))?;
    let mut tar = Tar::default();
    for dir in ["bin", "dev", "etc", "home", "root", "sbin", "usr", "usr/bin", "usr/sbin", "var", "var/www"] {
        tar.dir(dir, Meta::root(0o755));
    }
    tar.dir("tmp", Meta::root(0o1777));
    tar.file("etc/passwd", Meta::root(0o644), PASSWD.as_bytes());
    tar.file("etc/group", Meta::root(0o644), GROUP.as_bytes());
    tar.file("bin/busybox", Meta::root(0o755), &bytes);
    for applet in applets.lines().filter(|applet| *applet != "bin/busybox") {
        let dir = applet.rsplit_once('/').map_or("", |(dir, _)| dir);
        // Some live at the top (linuxrc): not here.
        if matches!(dir, "bin" | "sbin" | "usr/bin" | "usr/sbin") {
            tar.hard_link(applet, "bin/busybox");
        }
    }
    Ok(tar)
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    default-user:x:1000:1000:default:/home:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\n\
    daemon:x:1:\n\
    wheel:x:10:root\n\
    www-data:x:33:\n\
    users:x:100:\n\
    default-user:x:1000:\n\
    group-defined-in-image:x:50000:default-user\n\
    nogroup:x:65534:\n";

/// A static busybox with upstream's defaults. Debian's busybox-static has other options: no pgrep, no ipcs.
pub fn busybox(work: &Work) -> Result<PathBuf> {
    let program = work.dir("tools")?.join("busybox");
    once(&work.tools().join("busybox.stamp"), "1", || {
        step("building busybox", || {
            let archive = apt::source(work, "busybox")?;
            let dir = work.dir("sources/busybox/tree")?;
            let log = work.dir("logs")?.join("busybox.log");
            quiet(
                command("tar", ["-xjf"]).arg(&archive).args(["--strip-components=1", "-C"]).arg(&dir),
                &log,
            )?;
            quiet(command("make", ["defconfig"]).current_dir(&dir), &log)?;
            let config = dir.join(".config");
            let text = fs::read_to_string(&config).context("read busybox's configuration")?;
            // tc needs kernel headers that newer kernels have no more.
            let text = text.replace("# CONFIG_STATIC is not set", "CONFIG_STATIC=y");
            let text = text.replace("CONFIG_TC=y", "# CONFIG_TC is not set");
            fs::write(&config, text).context("write busybox's configuration")?;
            // The change brings options of its own, which take their defaults.
            quiet(
                command("sh", ["-c", "yes '' | make oldconfig && make -j2 busybox"]).current_dir(&dir),
                &log,
            )?;
            fs::copy(dir.join("busybox"), &program).context("copy busybox")?;
            Ok(())
        })
    })?;
    Ok(program)
}

/// The demo's program: our own, static, so that an image needs nothing else.
fn greeter(work: &Work) -> Result<PathBuf> {
    let program = work.dir("programs")?.join("greeter");
    let source = work.repo.join("e2e/x/programs/greeter.rs");
    let mut rustc =
        command("rustc", ["--edition=2024", "--crate-name=greeter", "-Copt-level=z", "-Cpanic=abort"]);
    rustc.args(["-Cstrip=symbols", "-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-o"]);
    let log = work.dir("logs")?.join("greeter.log");
    quiet(rustc.arg(&program).arg(&source), &log)?;
    Ok(program)
}

/// A 32-bit program without a C library: Debian's gcc can make one without its 32-bit libraries.
fn ia32(work: &Work) -> Result<PathBuf> {
    let program = work.dir("programs")?.join("ia32");
    let log = work.dir("logs")?.join("ia32.log");
    let options =
        ["-m32", "-nostdlib", "-static", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-Os"];
    let source = work.repo.join("e2e/x/programs/ia32.c");
    quiet(command("gcc", options).args(["-s", "-o"]).arg(&program).arg(&source), &log)?;
    Ok(program)
}

/// Builds `e2e/x/programs/<name>.c`.
pub fn static_c(work: &Work, name: &str) -> Result<PathBuf> {
    let program = work.dir("programs")?.join(name);
    let source = work.repo.join(format!("e2e/x/programs/{name}.c"));
    let log = work.dir("logs")?.join(format!("{name}.log"));
    quiet(command("gcc", ["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source), &log)?;
    Ok(program)
}
