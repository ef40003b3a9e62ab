//! `cargo x install` and `cargo x uninstall`: the programs, the systemd unit and the samples, where README.md says.
//!
//! Programs and samples are replaced by rename, so that a running agent keeps the file that it runs. What lies in /etc
//! is the operator's: a file there that is not ours, or was changed, stays, and ours comes beside it as `*.new`.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    build::{self, Profile},
    host::{self, Need},
    place,
    work::Work,
};

/// Path of the program in the unit in `manifests`.
const UNIT_PROGRAM: &str = "/usr/local/bin/holdfast";
/// Samples below `manifests`, by where they go in the directory of samples.
const SAMPLES: [&str; 6] = [
    "cni/10-holdfast.conflist",
    "config.toml",
    "crictl.yaml",
    "holdfast.socket",
    "kubelet.yaml",
    "runtimeclass.yaml",
];
/// Symlink that `systemctl enable` makes.
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/holdfast.service";

/// Directories that a user chooses.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Options {
    /// Puts all below this directory, for a package; paths inside of files are those
    /// without it.
    #[arg(long)]
    #[arg(verbatim_doc_comment)]
    pub destdir: Option<PathBuf>,
    /// Puts programs and samples into PREFIX/bin, PREFIX/libexec/holdfast and
    /// PREFIX/share/holdfast. Without it the program is in /usr/local/bin, its
    /// helpers are in /usr/libexec/holdfast and the samples in /usr/local/share/holdfast.
    #[arg(long)]
    #[arg(verbatim_doc_comment)]
    pub prefix: Option<PathBuf>,
}

/// Directories that everything goes to, as they are named on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Stands before all of it: `/` on the node itself.
    destdir: PathBuf,
    bin: PathBuf,
    libexec: PathBuf,
    share: PathBuf,
    units: PathBuf,
}

/// One file.
#[derive(Debug)]
struct Item {
    to: PathBuf,
    content: Content,
    mode: u32,
    /// Not ours any more once it is there.
    operators: bool,
}

#[derive(Debug)]
enum Content {
    File(PathBuf),
    Text(String),
}

/// Builds and installs, and says what was put where and what comes next.
pub fn install(work: &Work, options: &Options) -> Result<()> {
    let layout = Layout::new(options)?;
    if options.destdir.is_none() {
        host::check(&[Need::Root], &[])?;
    }
    build::prepared(work, Profile::Release)?;
    for line in layout.install(work)? {
        println!("    {line}");
    }
    if options.destdir.is_none() {
        println!("{}", layout.what_next());
    }
    Ok(())
}

/// Takes away what [`install`] with the same options put there.
pub fn uninstall(work: &Work, options: &Options) -> Result<()> {
    for line in Layout::new(options)?.uninstall(work)? {
        println!("    {line}");
    }
    println!(
        "/etc/holdfast, /var/lib/holdfast, /run/holdfast and the containers' logs stay; README.md says how to end all"
    );
    Ok(())
}

impl Layout {
    /// Reads the options; an error names what is wrong with one.
    pub fn new(options: &Options) -> Result<Self> {
        let destdir = match &options.destdir {
            Some(dir) => env::current_dir().context("find the working directory")?.join(dir),
            None => PathBuf::from("/"),
        };
        let path = |default: &str, rest: &str| {
            options.prefix.as_deref().unwrap_or_else(|| Path::new(default)).join(rest)
        };
        if let Some(prefix) = &options.prefix {
            check_prefix(prefix)?;
        }
        // A distribution's units are not in /etc (systemd.unit(5)).
        let packaged = options.prefix.as_deref() == Some(Path::new("/usr"));
        Ok(Self {
            destdir,
            bin: path("/usr/local", "bin"),
            libexec: path("/usr", "libexec/holdfast"),
            share: path("/usr/local", "share/holdfast"),
            units: PathBuf::from(if packaged { "/usr/lib/systemd/system" } else { "/etc/systemd/system" }),
        })
    }

    /// The agent's program, as it is reached from here.
    pub fn program(&self) -> PathBuf {
        self.staged(&self.bin.join("holdfast"))
    }

    /// Puts the built programs and the rest in place; a line for each file.
    pub fn install(&self, work: &Work) -> Result<Vec<String>> {
        self.items(work)?.iter().map(|item| self.put(item)).collect()
    }

    /// Removes what is ours and unchanged; a line for each file that was there.
    pub fn uninstall(&self, work: &Work) -> Result<Vec<String>> {
        let enabled = self.destdir.join(ENABLED);
        ensure!(
            enabled.symlink_metadata().is_err(),
            "the service is enabled ({}): run systemctl disable --now holdfast first",
            enabled.display()
        );
        let mut lines = Vec::new();
        for item in self.items(work)? {
            lines.extend(self.take_away(&item)?);
        }
        for dir in [self.share.join("cni"), self.share.clone(), self.libexec.clone()] {
            // Not empty, or not there: not ours to remove.
            let _ = fs::remove_dir(self.staged(&dir));
        }
        Ok(lines)
    }

    fn items(&self, work: &Work) -> Result<Vec<Item>> {
        let (built, manifests) = (Profile::Release.directory(work), work.repo.join("manifests"));
        let program = |dir: &Path, name: &str| Item {
            to: dir.join(name),
            content: Content::File(built.join(name)),
            mode: 0o755,
            operators: false,
        };
        // Helpers first: an agent that starts in between finds new ones, which know its protocol or say that they do not.
        let mut items = vec![
            program(&self.libexec, "holdfast-pod"),
            program(&self.libexec, "holdfast-shim"),
            program(&self.bin, "holdfast"),
        ];
        let file = |to: PathBuf, content| {
            let operators = to.starts_with("/etc");
            Item { to, content, mode: 0o644, operators }
        };
        items.push(file(self.units.join("holdfast.service"), Content::Text(self.unit(&manifests)?)));
        items.push(file("/etc/crictl.yaml".into(), Content::File(manifests.join("crictl.yaml"))));
        let samples = SAMPLES.map(|name| file(self.share.join(name), Content::File(manifests.join(name))));
        items.extend(samples);
        Ok(items)
    }

    /// The unit with the program's path of this layout.
    fn unit(&self, manifests: &Path) -> Result<String> {
        let path = manifests.join("holdfast.service");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let start = format!("ExecStart={UNIT_PROGRAM} ");
        ensure!(text.matches(&start).count() == 1, "{} has not one {start}", path.display());
        Ok(text.replace(&start, &format!("ExecStart={} ", self.bin.join("holdfast").display())))
    }

    fn put(&self, item: &Item) -> Result<String> {
        let to = self.staged(&item.to);
        let content = item.content.read()?;
        if item.operators {
            match fs::read(&to) {
                Ok(there) if there == content => return Ok(format!("{} (unchanged)", to.display())),
                Ok(_) => {
                    let new = with_ending(&to, ".new");
                    replace(&new, &content, item.mode)?;
                    return Ok(format!(
                        "{} kept, for it is not ours; ours is {}",
                        to.display(),
                        new.display()
                    ));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("read {}", to.display())),
            }
        }
        replace(&to, &content, item.mode)?;
        Ok(to.display().to_string())
    }

    fn take_away(&self, item: &Item) -> Result<Option<String>> {
        let to = self.staged(&item.to);
        if item.operators {
            let ours = item.content.read()?;
            let is_ours = |path: &Path| fs::read(path).map(|there| there == ours);
            let new = with_ending(&to, ".new");
            if is_ours(&new).unwrap_or(false) {
                fs::remove_file(&new).with_context(|| format!("remove {}", new.display()))?;
            }
            if !is_ours(&to).unwrap_or(true) {
                return Ok(Some(format!("{} kept, for it is not ours", to.display())));
            }
        }
        match fs::remove_file(&to) {
            Ok(()) => Ok(Some(format!("{} removed", to.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("remove {}", to.display())),
        }
    }

    fn what_next(&self) -> String {
        if place::has_systemd() {
            "next: systemctl daemon-reload && systemctl enable --now holdfast\n\
             (an agent that runs goes on as it is until systemctl restart holdfast; containers go on over that)"
                .to_owned()
        } else {
            format!("no systemd here; start it with: {} serve", self.program().display())
        }
    }

    /// Present location of a path of the node.
    fn staged(&self, path: &Path) -> PathBuf {
        self.destdir.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Content {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => fs::read(path).with_context(|| format!("read {}", path.display())),
            Self::Text(text) => Ok(text.clone().into_bytes()),
        }
    }
}

/// The path stands in the unit, where systemd would read more into some letters (systemd.service(5)).
fn check_prefix(prefix: &Path) -> Result<()> {
    let text = prefix.to_str().unwrap_or_default();
    let plain = |letter: char| letter.is_alphanumeric() || "/._+-".contains(letter);
    if !prefix.is_absolute() || !text.chars().all(plain) || text.split('/').any(|part| part == "..") {
        bail!("--prefix {}: give an absolute path of letters, digits and /._+-", prefix.display());
    }
    Ok(())
}

/// Writes a file under another name and renames it.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().context("a file without a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let new = with_ending(path, &format!(".{}.tmp", process::id()));
    let written = write_new(&new, content, mode)
        .with_context(|| format!("write {}", new.display()))
        .and_then(|()| fs::rename(&new, path).with_context(|| format!("put {} in place", path.display())));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // Whatever the umask took.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(content)?;
    // Renamed without it, a crash could leave an empty program.
    file.sync_all()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(ending);
    PathBuf::from(name)
}
