//! Removal on file systems without a byte or an inode left: it needs neither.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_image::ErrorKind;

use crate::bed::{Bed, eventually, holders};
use crate::images::{Entry, Layer, TestImage, archive, noise, small};
use crate::needs_root;
use crate::registry::Registry;

/// A file system in a file, mounted where the store will be, with a directory of its own for what fills it.
struct Disk {
    mounted: PathBuf,
}

impl Disk {
    fn make(kind: &str, directory: &Path) -> Self {
        let (file, mounted) = (directory.join("disk"), directory.join("images"));
        std::fs::create_dir(&mounted).unwrap();
        // A pull leaves 128 MiB alone.
        let megabytes = 320;
        std::fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        let options: &[&str] = match kind {
            "ext4" => &["-q", "-m", "0", "-N", "4096"],
            "xfs" => &["-q", "-i", "maxpct=1"],
            _ => &["-q", "--mixed"],
        };
        run(Command::new(format!("mkfs.{kind}")).args(options).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).args([&file, &mounted]));
        Self { mounted }
    }

    /// Files down from this size until not one more byte of them can be written; with 0 only names.
    fn fill(&self, mut size: usize) {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let fill = self.mounted.join("fill");
        std::fs::create_dir_all(&fill).unwrap();
        let next = || fill.join(COUNTER.fetch_add(1, Ordering::Relaxed).to_string());
        let large = || {
            let file = std::fs::File::create(next())?;
            let room = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 16 << 20);
            room.map_err(std::io::Error::from)
        };
        if size > 0 {
            while large().is_ok() {}
        }
        let bytes = noise(size, 7);
        while size >= 512 {
            let path = next();
            if std::fs::write(&path, &bytes[..size]).and_then(|()| sync(&path)).is_err() {
                size /= 2;
            }
        }
        // Where there is no room for a file there may still be some for a name.
        while std::fs::File::create(next()).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_dir_all(self.mounted.join("fill")).unwrap();
        // btrfs counts it as free only then.
        run(Command::new("sync").arg("-f").arg(&self.mounted));
    }

    fn full(&self) -> (bool, bool) {
        let path = self.mounted.join("fill/probe");
        let made = std::fs::write(&path, noise(64 << 10, 1)).and_then(|()| sync(&path));
        let exists = path.exists();
        let _ = std::fs::remove_file(path);
        (made.is_err(), !exists)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn can_make(kind: &str) -> bool {
    let program = format!("/usr/sbin/mkfs.{kind}");
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let can = Path::new(&program).exists() && known.lines().any(|line| line.trim() == kind);
    if !can {
        println!("SKIP: {kind} cannot be made or mounted here");
    }
    can
}

/// Many layers, so that not all of them find room in the trash; and one whose files lie deep, with no file above them.
fn images() -> [(&'static str, TestImage); 3] {
    let layers = (0..40).map(|at| {
        let name = format!("layer-{at}");
        let content = noise(2000, at);
        Layer::gzip(archive(&[
            Entry::Directory("a/", 0o755),
            Entry::Directory("a/b/", 0o755),
            Entry::Directory("a/b/c/", 0o755),
            Entry::Directory("a/b/c/d/", 0o755),
            Entry::File(&format!("a/b/c/d/{name}"), &content),
        ]))
    });
    let many: Vec<Layer> = layers.collect();
    let shared = TestImage::new("shared", many[..5].to_vec());
    [("many", TestImage::new("many", many)), ("shared", shared), ("held", small("held"))]
}

async fn filled(kind: &str, registry: &Registry) -> (Bed, Disk) {
    let mut disk = None;
    let bed = Bed::made(3, |directory| disk = Some(Disk::make(kind, directory))).await;
    for (mark, image) in images() {
        registry.add(mark, "v1", &image);
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
    }
    registry.add(
        "late",
        "v1",
        &TestImage::new("late", vec![Layer::gzip(archive(&[Entry::File("x", &noise(300_000, 3))]))]),
    );
    (bed, disk.unwrap())
}

async fn everything_goes(kind: &str, fill: impl Fn(&Disk)) {
    let registry = Registry::start().await;
    let (bed, disk) = filled(kind, &registry).await;
    let [many, shared, held] = images().map(|(_, image)| image.id());
    bed.store.lease(&held, "c1").unwrap();
    bed.settled().await;
    fill(&disk);
    println!("{kind}: no bytes and no inodes: {:?}", disk.full());
    // A pull fails, says so, and leaves nothing.
    let before = (bed.store.list(), bed.names("layers"), bed.names("blobs/sha256"));
    let error = bed.pull(&registry.name("late", "v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{kind}: {error:?}");
    bed.settled().await;
    assert_eq!((bed.store.list(), bed.names("layers"), bed.names("blobs/sha256")), before, "{kind}");
    // All removals succeed, also of what shares all its layers, and of what is in use.
    for image in [&shared, &held, &many] {
        fill(&disk);
        bed.store.remove(image).await.unwrap();
    }
    assert!(bed.store.list().is_empty());
    eventually("the layers go", || bed.names("layers").len() == 1).await;
    bed.settled().await;
    fill(&disk);
    // Still full, and opened anew: nothing has come back, and what is held is there.
    let bed = bed.reopen_for(holders(&[("c1", &held)]), |_| ()).await;
    assert!(bed.store.list().is_empty(), "{kind}");
    assert_eq!(bed.names("layers").len(), 1, "{kind}");
    bed.store.release("c1");
    eventually("the last layer goes", || bed.names("layers").is_empty()).await;
    bed.settled().await;
    // With room it works again without a restart.
    disk.free();
    bed.pull(&registry.name("late", "v1")).await.unwrap();
    bed.pull(&registry.name("many", "v1")).await.unwrap();
    bed.assert_consistent().await;
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.list().len(), 2, "{kind}");
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_byte() {
    needs_root!();
    for kind in ["ext4", "xfs", "btrfs"].into_iter().filter(|kind| can_make(kind)) {
        everything_goes(kind, |disk| disk.fill(1 << 20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_inode() {
    needs_root!();
    // btrfs has no fixed number of them.
    for kind in ["ext4", "xfs"].into_iter().filter(|kind| can_make(kind)) {
        everything_goes(kind, |disk| disk.fill(0)).await;
    }
}
