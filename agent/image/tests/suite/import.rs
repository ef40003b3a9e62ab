//! Imports: layouts, archives of them, and what docker writes.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_image::{Error, ErrorKind, ImportSource};
use holdfast_model::Image;
use serde_json::{Value, json};

use crate::bed::{Bed, seen};
use crate::images::{Entry, Layer, OCI_INDEX, TestImage, archive, config, digest, files, noise, small};
use crate::needs_root;
use crate::registry::Registry;

type Files = Vec<(String, Vec<u8>)>;
type Damage = fn(&Path);

/// The files of a layout; each image with the annotations of its entry.
fn layout(images: &[(&TestImage, Value)]) -> Files {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut entries = Vec::new();
    for (image, annotations) in images {
        let mut entry = image.descriptor();
        entry["annotations"] = annotations.clone();
        entries.push(entry);
        files.extend(blobs(image));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    files
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", &digest(bytes)[7..]), bytes.to_vec())
}

fn blobs(image: &TestImage) -> Files {
    let layers = image.layers.iter().map(|layer| blob(&layer.blob));
    [blob(&image.config), blob(&image.manifest)].into_iter().chain(layers).collect()
}

/// What `docker save` wrote before it learnt OCI; the list comes last, and a layer of two images is a link.
fn docker(images: &[(&TestImage, &[&str])]) -> Vec<u8> {
    let (mut members, mut list) = (Vec::new(), Vec::new());
    for (at, (image, tags)) in images.iter().enumerate() {
        let mut layers = Vec::new();
        for (number, layer) in image.layers.iter().enumerate() {
            let name = format!("{at}-{number}/layer.tar");
            let known = images[..at].iter().enumerate().find_map(|(at, (image, _))| {
                let number = image.layers.iter().position(|known| known.tar == layer.tar)?;
                Some(format!("../{at}-{number}/layer.tar"))
            });
            members.push(match known {
                Some(target) => (name.clone(), Err(target)),
                None => (name.clone(), Ok(layer.tar.clone())),
            });
            layers.push(name);
        }
        let config = format!("{}.json", &image.id()[7..]);
        members.push((config.clone(), Ok(image.config.clone())));
        list.push(json!({ "Config": config, "RepoTags": tags, "Layers": layers }));
    }
    members.push(("manifest.json".into(), Ok(Value::from(list).to_string().into_bytes())));
    let entries: Vec<Entry<'_>> = members
        .iter()
        .map(|(name, member)| match member {
            Ok(bytes) => Entry::File(name, bytes),
            Err(target) => Entry::Symlink(name, target),
        })
        .collect();
    archive(&entries)
}

fn tar(files: &Files) -> Vec<u8> {
    archive(&files.iter().map(|(name, bytes)| Entry::File(name, bytes)).collect::<Vec<_>>())
}

fn write(directory: &Path, files: &Files) -> PathBuf {
    for (name, bytes) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    directory.to_owned()
}

fn stream(bytes: &[u8]) -> ImportSource {
    ImportSource::Reader(Box::new(io::Cursor::new(bytes.to_vec())))
}

async fn import(bed: &Bed, source: ImportSource) -> Result<Vec<Arc<Image>>, Error> {
    bed.store.import(source, None).await
}

fn two_images() -> (TestImage, TestImage) {
    let base = Layer::gzip(files(&[("base", b"base")]));
    let one = TestImage::new("one", vec![base.clone(), Layer::zstd(files(&[("own", b"one")]))]);
    let two = TestImage::new("two", vec![base, Layer::plain(files(&[("own", b"two")]))]);
    (one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_in_every_wrapping() {
    needs_root!();
    let (one, two) = two_images();
    let files = layout(&[
        (
            &one,
            json!({ "io.containerd.image.name": "r.example/one:v1", "org.opencontainers.image.ref.name": "v1" }),
        ),
        (&two, json!({ "org.opencontainers.image.ref.name": "r.example/two" })),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let tar = tar(&files);
    let gzip = Layer::gzip(tar.clone()).blob;
    let zstd = Layer::zstd(tar.clone()).blob;
    let file = directory.path().join("archive");
    std::fs::write(&file, &gzip).unwrap();
    let layout = write(&directory.path().join("layout"), &files);
    let sources =
        [ImportSource::Path(layout), ImportSource::Path(file), stream(&tar), stream(&gzip), stream(&zstd)];
    for source in sources {
        let bed = Bed::new().await;
        let imported = import(&bed, source).await.unwrap();
        let ids: Vec<&String> = imported.iter().map(|image| &image.id).collect();
        assert_eq!(ids, [&one.id(), &two.id()]);
        assert_eq!(imported[0].repo_tags, ["r.example/one:v1"]);
        assert_eq!(imported[1].repo_tags, ["r.example/two:latest"]);
        assert_eq!(imported[0].layers[0], imported[1].layers[0]);
        assert_eq!(seen(&imported[0], "own").as_deref(), Some("one"));
        assert_eq!(seen(&imported[1], "own").as_deref(), Some("two"));
        bed.assert_consistent().await;
        let list = bed.store.list();
        let bed = bed.reopen(|_| ()).await;
        assert_eq!(bed.store.list(), list);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_saves() {
    needs_root!();
    let (one, two) = two_images();
    let tar = docker(&[(&one, &["one:v1", "r.example/one:v2"]), (&two, &["NOT A TAG", "two"])]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved.tar");
    std::fs::write(&file, &tar).unwrap();
    for source in [ImportSource::Path(file), stream(&tar), stream(&Layer::gzip(tar.clone()).blob)] {
        let bed = Bed::new().await;
        let imported = import(&bed, source).await.unwrap();
        assert_eq!(imported[0].id, one.id());
        assert_eq!(imported[0].repo_tags, ["docker.io/library/one:v1", "r.example/one:v2"]);
        assert_eq!(imported[1].repo_tags, ["docker.io/library/two:latest"]);
        assert_eq!(seen(&imported[1], "own").as_deref(), Some("two"));
        assert_eq!(seen(&imported[1], "base").as_deref(), Some("base"));
        assert_eq!(bed.names("layers").len(), 3);
        bed.assert_consistent().await;
    }
    // Both at once, as docker writes it today: the index decides, and it has the names.
    let mut both = layout(&[(&one, json!({ "io.containerd.image.name": "docker.io/library/one:v1" }))]);
    let layers: Vec<String> = one.layers.iter().map(|layer| blob(&layer.blob).0).collect();
    let list = json!([{ "Config": blob(&one.config).0, "RepoTags": ["one:v1"], "Layers": layers }]);
    both.push(("manifest.json".into(), list.to_string().into_bytes()));
    let bed = Bed::new().await;
    let imported = import(&bed, stream(&self::tar(&both))).await.unwrap();
    assert_eq!(imported[0].repo_tags, ["docker.io/library/one:v1"]);
    // Without the index the list does, and its layers are compressed.
    both.retain(|(name, _)| name != "index.json");
    let bed = Bed::new().await;
    let imported = import(&bed, stream(&self::tar(&both))).await.unwrap();
    assert_eq!((imported[0].id.clone(), imported[0].repo_tags.len()), (one.id(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn names() {
    needs_root!();
    let (one, two) = two_images();
    let single = tar(&layout(&[(&one, json!({ "io.containerd.image.name": "r.example/one:v1" }))]));
    let bed = Bed::new().await;
    let imported = bed.store.import(stream(&single), Some("mine".into())).await.unwrap();
    assert_eq!(imported[0].repo_tags, ["docker.io/library/mine:latest"]);
    // The same image again, by its own name: it has both.
    let imported = import(&bed, stream(&single)).await.unwrap();
    assert_eq!(imported[0].repo_tags, ["docker.io/library/mine:latest", "r.example/one:v1"]);
    let several = tar(&layout(&[(&one, json!({})), (&two, json!({}))]));
    let error = bed.store.import(stream(&several), Some("mine".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    for name in ["UPPER", &format!("x@{}", one.digest())] {
        let error = bed.store.import(stream(&single), Some(name.into())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidReference, "{error}");
    }
    // A mere tag is no name, nor is what cannot be one. One image under several entries is one image.
    let bed = Bed::new().await;
    let files = layout(&[
        (&one, json!({ "org.opencontainers.image.ref.name": "v1" })),
        (&one, json!({ "io.containerd.image.name": "NOT/A NAME" })),
        (&one, json!({ "io.containerd.image.name": "r.example/one:v3" })),
        (&one, Value::Null),
    ]);
    let imported = import(&bed, stream(&tar(&files))).await.unwrap();
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].repo_tags, ["r.example/one:v3"]);
    bed.assert_consistent().await;
}

/// A pull trusts names by digest: an archive must not be able to give them away.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_cannot_claim_a_digest() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let (evil, good) = (small("evil"), small("good"));
    registry.add("app", "v1", &good);
    let claimed = format!("{}/app@{}", registry.host(), good.digest());
    let files = layout(&[(&evil, json!({ "io.containerd.image.name": claimed }))]);
    let imported = import(&bed, stream(&tar(&files))).await.unwrap();
    assert!(imported[0].repo_digests.is_empty());
    assert_eq!(bed.store.get(&claimed).unwrap(), None);
    assert_eq!(bed.pull(&claimed).await.unwrap().id, good.id());
    // The right one is fine.
    let right = format!("r.example/app@{}", evil.digest());
    let files = layout(&[(&evil, json!({ "io.containerd.image.name": right }))]);
    assert_eq!(import(&bed, stream(&tar(&files))).await.unwrap()[0].repo_digests, [right]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_platforms() {
    needs_root!();
    let ours = small("ours");
    let other = TestImage::with(
        crate::images::OCI_MANIFEST,
        &json!({ "os": "linux", "architecture": "s390x", "rootfs": { "type": "layers", "diff_ids": [] } }),
        Vec::new(),
    );
    let platform = |image: &TestImage, architecture: &str| {
        let mut entry = image.descriptor();
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry
    };
    // The other one's blobs are not there, as after a pull for one platform.
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [platform(&other, "s390x"), platform(&ours, crate::images::architecture())] })
    .to_string();
    let outer = json!({ "schemaVersion": 2, "manifests": [{ "mediaType": OCI_INDEX, "digest": digest(index.as_bytes()),
        "size": index.len(), "annotations": { "io.containerd.image.name": "r.example/app:v1" } }] });
    let mut files = blobs(&ours);
    files.push(blob(index.as_bytes()));
    files.push(("index.json".into(), outer.to_string().into_bytes()));
    let bed = Bed::new().await;
    let imported = import(&bed, stream(&tar(&files))).await.unwrap();
    assert_eq!(
        (imported[0].id.clone(), imported[0].repo_tags.clone()),
        (ours.id(), vec!["r.example/app:v1".into()])
    );
    // Directly in index.json the one that does not fit is passed over; alone it is an error. One that says nothing is
    // judged by its configuration, and an artifact is none of ours.
    let mut artifact = small("signature").descriptor();
    artifact["artifactType"] = json!("application/vnd.dev.cosign.artifact.sig.v1+json");
    for (manifests, works) in [
        (json!([platform(&other, "s390x"), platform(&ours, crate::images::architecture())]), true),
        (json!([platform(&other, "s390x")]), false),
        (json!([other.descriptor(), artifact, ours.descriptor()]), true),
        (json!([other.descriptor()]), false),
        (json!([artifact]), false),
        (json!([]), false),
    ] {
        let mut files = [blobs(&ours), blobs(&other)].concat();
        files.push((
            "index.json".into(),
            json!({ "schemaVersion": 2, "manifests": manifests }).to_string().into_bytes(),
        ));
        let bed = Bed::new().await;
        let imported = import(&bed, stream(&tar(&files))).await;
        let ids =
            imported.as_ref().map(|images| images.iter().map(|image| image.id.clone()).collect::<Vec<_>>());
        assert_eq!(ids.ok(), works.then(|| vec![ours.id()]), "{imported:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_unpacked_again() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let (one, two) = two_images();
    registry.add("one", "v1", &one);
    bed.pull(&registry.name("one", "v1")).await.unwrap();
    // The shared layer is not even in the archive.
    let mut files = layout(&[(&two, json!({ "io.containerd.image.name": "r.example/two:v1" }))]);
    let shared = blob(&two.layers[0].blob).0;
    files.retain(|(name, _)| *name != shared);
    import(&bed, stream(&tar(&files))).await.unwrap();
    bed.assert_consistent().await;
    assert_eq!(bed.store.list().len(), 2);
}

/// Everything that an archive may have wrong is refused, and nothing of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn bad_archives() {
    needs_root!();
    let image = small("x");
    let good = layout(&[(&image, json!({ "io.containerd.image.name": "r.example/x:v1" }))]);
    let manifest = blob(&image.manifest).0;
    let layer = blob(&image.layers[0].blob).0;
    let with = |name: &str, bytes: &[u8]| {
        let mut files = good.clone();
        files.retain(|(known, _)| known != name);
        files.push((name.to_owned(), bytes.to_vec()));
        tar(&files)
    };
    let without = |name: &str| tar(&good.iter().filter(|(known, _)| known != name).cloned().collect());
    let mut wrong = image.layers[0].blob.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let promised = Layer::gzip(files(&[("other", b"files")]));
    let liar = TestImage::with(crate::images::OCI_MANIFEST, &config("x", &[promised]), image.layers.clone());
    let escape = TestImage::new("x", vec![Layer::gzip(archive(&[Entry::File("../../escape", b"x")]))]);
    let mut cut = tar(&good);
    cut.truncate(cut.len() / 2);
    let zip = Layer::gzip(tar(&good)).blob;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no archive", noise(10_000, 3)),
        ("another archive", files(&[("etc/passwd", b"root")])),
        ("cut", cut),
        ("cut gzip", zip[..zip.len() / 2].to_vec()),
        ("no manifest", without(&manifest)),
        ("no layer", without(&layer)),
        ("no JSON", with("index.json", b"{")),
        ("no list", with("index.json", b"[]")),
        ("huge index", with("index.json", &vec![b' '; 5 << 20])),
        ("wrong manifest", with(&manifest, &vec![b' '; image.manifest.len()])),
        ("longer manifest", with(&manifest, &[&image.manifest[..], b" "].concat())),
        ("wrong layer", with(&layer, &wrong)),
        ("longer layer", with(&layer, &[&image.layers[0].blob[..], b" "].concat())),
        ("other files than promised", tar(&layout(&[(&liar, json!({}))]))),
        ("layer that escapes", tar(&layout(&[(&escape, json!({}))]))),
        ("path upwards", [archive_without_end(&[Entry::File("../evil", b"x")]), tar(&good)].concat()),
        ("link upwards", [archive_without_end(&[Entry::Symlink("a/l", "../../evil")]), tar(&good)].concat()),
        ("absolute link", [archive_without_end(&[Entry::Symlink("l", "/etc/passwd")]), tar(&good)].concat()),
        ("device", [archive_without_end(&[Entry::Device("dev")]), tar(&good)].concat()),
        (
            "links in a circle",
            archive(&[Entry::Symlink("index.json", "a"), Entry::Symlink("a", "b"), Entry::Symlink("b", "a")]),
        ),
        ("docker list of nothing", files(&[("manifest.json", b"[]")])),
        (
            "docker without layers",
            files(&[("manifest.json", br#"[{"Config":"c","Layers":["l"]}]"#), ("c", b"{}")]),
        ),
        (
            "docker path upwards",
            files(&[("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]),
        ),
        ("docker with a wrong layer", docker_with_wrong_layer()),
    ];
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("canary"), "alive").unwrap();
    for (what, bytes) in cases {
        let bed = Bed::new().await;
        let error = import(&bed, stream(&bytes)).await.expect_err(what);
        let kinds = [ErrorKind::Corrupt, ErrorKind::DataLoss, ErrorKind::TooLarge, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
        assert!(error.to_string().len() < 2000, "{what}");
        bed.assert_empty().await;
        assert!(!bed.root().join("../evil").exists() && !bed.root().join("../../evil").exists());
    }
}

fn archive_without_end(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = archive(entries);
    bytes.truncate(bytes.len() - 1024);
    bytes
}

fn docker_with_wrong_layer() -> Vec<u8> {
    let (one, _) = two_images();
    let layers: Vec<Layer> = one.layers.iter().map(|_| Layer::plain(files(&[("evil", b"evil")]))).collect();
    let evil = TestImage { layers, ..one };
    docker(&[(&evil, &["x:v1"])])
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_with_things_that_are_no_files() {
    needs_root!();
    let image = small("x");
    let files = layout(&[(&image, json!({}))]);
    let layer = blob(&image.layers[0].blob).0;
    let damages: [(&str, Damage); 3] = [
        ("a FIFO", |path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("a directory", |path| std::fs::create_dir(path).unwrap()),
        ("a link out", |path| std::os::unix::fs::symlink("/etc/hostname", path).unwrap()),
    ];
    for (what, damage) in damages {
        let (bed, directory) = (Bed::new().await, tempfile::tempdir().unwrap());
        let path = write(directory.path(), &files);
        std::fs::remove_file(path.join(&layer)).unwrap();
        damage(&path.join(&layer));
        let imported = tokio::time::timeout(Duration::from_secs(10), import(&bed, ImportSource::Path(path)));
        let error = imported.await.expect(what).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
        bed.assert_empty().await;
    }
    // A link inside is what tools that save space write.
    let (bed, directory) = (Bed::new().await, tempfile::tempdir().unwrap());
    let path = write(directory.path(), &files);
    std::fs::rename(path.join(&layer), path.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", path.join(&layer)).unwrap();
    import(&bed, ImportSource::Path(path)).await.unwrap();
    let error = import(&bed, ImportSource::Path("/nonexistent/archive".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

/// One image of an archive is bad: none of them is imported.
#[tokio::test(flavor = "multi_thread")]
async fn all_or_none() {
    needs_root!();
    let (one, two) = two_images();
    let mut files = layout(&[(&one, json!({})), (&two, json!({}))]);
    let last = blob(&two.layers[1].blob).0;
    files.retain(|(name, _)| *name != last);
    let bed = Bed::new().await;
    import(&bed, stream(&tar(&files))).await.unwrap_err();
    bed.assert_empty().await;
}

/// Gives the first half, then fails or waits until it is told that nobody reads any more.
struct Half {
    bytes: io::Cursor<Vec<u8>>,
    fails: bool,
}

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.bytes.read(buffer)? {
            0 if self.fails => Err(io::Error::other("the client sent nothing for a minute")),
            0 => {
                // Like a reader with a limit of its own.
                std::thread::sleep(Duration::from_millis(10));
                buffer[..1].copy_from_slice(&[0]);
                Ok(1)
            }
            read => Ok(read),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_off() {
    needs_root!();
    let image = small("x");
    let mut bytes = tar(&layout(&[(&image, json!({}))]));
    bytes.truncate(bytes.len() - 3000);
    let half = |fails| ImportSource::Reader(Box::new(Half { bytes: io::Cursor::new(bytes.clone()), fails }));
    let bed = Bed::new().await;
    let error = import(&bed, half(true)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(format!("{error:?}").contains("nothing for a minute"));
    bed.assert_empty().await;
    // The caller goes away while the stream goes on.
    let dropped = tokio::time::timeout(Duration::from_millis(200), import(&bed, half(false)));
    assert!(dropped.await.is_err());
    bed.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_bomb_of_json() {
    needs_root!();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let head = archive_without_end(&[Entry::File("index.json", &[b' '; 1])]);
    encoder.write_all(&head).unwrap();
    let big = vec![b' '; 64 << 20];
    encoder.write_all(&archive(&[Entry::File("index.json", &big)])).unwrap();
    let bed = Bed::new().await;
    let error = import(&bed, stream(&encoder.finish().unwrap())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    bed.assert_empty().await;
}
