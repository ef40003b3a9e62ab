//! An OCI layout directory: blobs, and an index whose entries carry whole image names.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Meta, Tar, digest};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// By gzip(1).
    Gzip,
    /// By zstd(1).
    Zstd,
}

/// Architecture of an image; its OS is linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform(pub &'static str);

impl Platform {
    /// The machine that builds, in Go's words, as OCI has them.
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self("arm64") } else { Self("amd64") }
    }

    /// One that this machine is not.
    pub const fn foreign() -> Self {
        if cfg!(target_arch = "aarch64") { Self("amd64") } else { Self("arm64") }
    }
}

/// One image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its platform.
    pub platform: Platform,
    /// Its layers, lowest first.
    pub layers: Vec<(Tar, Compression)>,
    /// The `config` object of the image configuration: Cmd, Env, User and the others.
    pub config: Value,
}

impl Image {
    /// For this machine, layers packed with gzip.
    pub fn new(config: Value, layers: impl IntoIterator<Item = Tar>) -> Self {
        let layers = layers.into_iter().map(|layer| (layer, Compression::Gzip)).collect();
        Self { platform: Platform::native(), layers, config }
    }
}

/// A layout that is being written.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    /// Begins an empty layout in `dir`, replacing what is there.
    pub fn create(dir: &Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("make {}", blobs.display()))?;
        Ok(Self { dir: dir.to_owned(), entries: Vec::new() })
    }

    /// Adds an image under whole names (`registry/repository:tag`) and returns its manifest's digest.
    pub fn add(&mut self, names: &[&str], image: &Image) -> Result<String> {
        let manifest = self.manifest(image)?;
        self.name(names, &manifest);
        Ok(text(&manifest["digest"]))
    }

    /// Adds a multi-platform index under whole names and returns its digest.
    pub fn add_index(&mut self, names: &[&str], images: &[Image]) -> Result<String> {
        let manifests = images.iter().map(|image| {
            let mut entry = self.manifest(image)?;
            entry["platform"] = json!({"architecture": image.platform.0, "os": "linux"});
            Ok(entry)
        });
        let manifests = manifests.collect::<Result<Vec<_>>>()?;
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let entry = self.document(INDEX, &index)?;
        self.name(names, &entry);
        Ok(text(&entry["digest"]))
    }

    /// Writes the index and the layout's marker; without them it is no layout.
    pub fn finish(self) -> Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries});
        write(&self.dir.join("index.json"), index.to_string().as_bytes())?;
        write(&self.dir.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())
    }

    /// A finished layout as one archive, the form that `image import` takes from a file.
    pub fn archive(dir: &Path) -> Result<Vec<u8>> {
        let mut tar = Tar::default();
        let mut put = |name: &str| -> Result<()> {
            let path = dir.join(name);
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            tar.file(name, Meta::root(0o644), &bytes);
            Ok(())
        };
        put("oci-layout")?;
        put("index.json")?;
        let blobs = dir.join("blobs/sha256");
        let mut names = fs::read_dir(&blobs)
            .with_context(|| format!("list {}", blobs.display()))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            put(&format!("blobs/sha256/{name}"))?;
        }
        Ok(tar.finish())
    }

    fn name(&mut self, names: &[&str], entry: &Value) {
        for name in names {
            let mut entry = entry.clone();
            // The first is OCI's, the second is what containerd writes and reads beside it.
            entry["annotations"] =
                json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name});
            self.entries.push(entry);
        }
    }

    fn manifest(&self, image: &Image) -> Result<Value> {
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for (tar, compression) in &image.layers {
            let bytes = tar.finish();
            diff_ids.push(digest(&bytes));
            layers.push(match compression {
                Compression::None => self.blob(LAYER, &bytes)?,
                Compression::Gzip => {
                    self.blob(&format!("{LAYER}+gzip"), &pack("gzip", &["-n", "-6"], bytes)?)?
                }
                Compression::Zstd => {
                    self.blob(&format!("{LAYER}+zstd"), &pack("zstd", &["-q", "-3"], bytes)?)?
                }
            });
        }
        let config = json!({
            "created": "2024-01-01T00:00:00Z",
            "architecture": image.platform.0,
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.document(CONFIG, &config)?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.document(MANIFEST, &manifest)
    }

    fn document(&self, media_type: &str, value: &Value) -> Result<Value> {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Stores a blob and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        write(&self.dir.join("blobs").join(digest.replace(':', "/")), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Pipes bytes through a compressor.
fn pack(program: &str, args: &[&str], bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(args)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let stdin = child.stdin.take();
    let feeder = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&bytes)));
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    // A compressor that closed its input early has failed, and says so by its status.
    let _ = feeder.join();
    ensure!(output.status.success(), "{program}: {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dir: &Path) -> String {
        let mut layer = Tar::default();
        layer.file("a", Meta::root(0o644), b"x");
        let mut layout = Layout::create(dir).expect("create");
        let image = Image::new(json!({"Cmd": ["/a"]}), [layer]);
        let digest = layout.add(&["r.test/a:1", "r.test/a:2"], &image).expect("add");
        layout.finish().expect("finish");
        digest
    }

    #[test]
    fn the_same_input_gives_the_same_digest_and_every_blob_is_its_name() {
        let base = std::env::temp_dir().join(format!("holdfast-layout-{}", std::process::id()));
        let (first, second) = (sample(&base.join("1")), sample(&base.join("2")));
        assert_eq!(first, second);
        let mut blobs = 0;
        for entry in fs::read_dir(base.join("1/blobs/sha256")).expect("blobs") {
            let path = entry.expect("entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert_eq!(digest(&fs::read(&path).expect("blob")), format!("sha256:{name}"));
            blobs += 1;
        }
        assert_eq!(blobs, 3);
        let index: Value =
            serde_json::from_slice(&fs::read(base.join("1/index.json")).expect("index")).expect("JSON");
        assert_eq!(index["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"], "r.test/a:2");
        fs::remove_dir_all(&base).expect("clean up");
    }
}
