//! Hooks that a node's configuration adds to containers: files as oci-hooks(5) of CRI-O and Podman describes them.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use holdfast_pod::hooks::Moment;
use oci_spec::runtime::{Hook, Hooks};
use regex::Regex;
use serde::Deserialize;

/// Largest hook file in bytes.
const MOST: u64 = 1 << 20;
/// The version of the files that are read.
const VERSION: &str = "1.0.0";

/// Why the hooks of this node cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A directory or file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not of the form of oci-hooks(5).
    #[error("hook file {}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A pattern that is none.
    #[error("hook file {}: pattern {pattern:?}", path.display())]
    Pattern {
        /// Which.
        path: PathBuf,
        /// The pattern.
        pattern: String,
        /// What is wrong.
        #[source]
        source: Box<regex::Error>,
    },
    /// Something else.
    #[error("hook file {}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to change.
        problem: String,
    },
}

/// What decides whether a container gets a hook.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Annotations of the pod and the container.
    pub annotations: &'a BTreeMap<String, String>,
    /// The command's first word.
    pub command: &'a str,
    /// The request has mounts.
    pub has_bind_mounts: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    version: String,
    hook: Hook,
    when: When,
    stages: Vec<Moment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct When {
    always: Option<bool>,
    annotations: BTreeMap<String, String>,
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// The hooks of a container, out of the `*.json` files of these directories: a file of a later directory takes the place of
/// one of the same name, and they run in the order of their names. `None`: it gets none. Reads files; blocks.
///
/// # Errors
/// A file that cannot be read or understood: a container without a hook that it should have had is worse than none.
pub fn hooks(dirs: &[PathBuf], facts: &Facts<'_>) -> Result<Option<Hooks>, HookError> {
    let mut all = Hooks::default();
    let mut any = false;
    for path in files(dirs)?.into_values() {
        let file = read(&path)?;
        if matches(&path, &file.when, facts)? {
            file.stages.iter().for_each(|stage| add(&mut all, *stage, &file.hook));
            any |= !file.stages.is_empty();
        }
    }
    Ok(any.then_some(all))
}

/// Adds hooks after those that are there.
pub fn append(into: &mut Option<Hooks>, more: Hooks) {
    let Some(into) = into else {
        *into = Some(more);
        return;
    };
    for stage in Moment::ALL {
        for hook in list(&mut more.clone(), stage).iter().flatten() {
            add(into, stage, hook);
        }
    }
}

/// Whether there is any hook at all.
pub fn is_some(hooks: Option<&Hooks>) -> bool {
    hooks.is_some_and(|hooks| *hooks != Hooks::default())
}

/// Whether any runs before the container's root is changed, with the host's files around it.
pub fn has_early(hooks: Option<&Hooks>) -> bool {
    let early = [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer];
    let mut hooks = hooks.cloned().unwrap_or_default();
    early.into_iter().any(|moment| list(&mut hooks, moment).as_ref().is_some_and(|list| !list.is_empty()))
}

/// By name. A directory that is not there has none.
fn files(dirs: &[PathBuf]) -> Result<BTreeMap<std::ffi::OsString, PathBuf>, HookError> {
    let mut files = BTreeMap::new();
    for dir in dirs {
        let failed = |source| HookError::Read { path: dir.clone(), source };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(name) = path.file_name()
            {
                files.insert(name.to_owned(), path.clone());
            }
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<File, HookError> {
    let failed = |source| HookError::Read { path: path.to_owned(), source };
    let content = |problem: String| HookError::Content { path: path.to_owned(), problem };
    if fs::metadata(path).map_err(failed)?.len() > MOST {
        return Err(content(format!("it is longer than {MOST} bytes")));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let file: File =
        serde_json::from_slice(&bytes).map_err(|source| HookError::Form { path: path.to_owned(), source })?;
    if file.version != VERSION {
        return Err(content(format!("version {:?} is not known: write it as {VERSION}", file.version)));
    }
    let When { always, annotations, commands, has_bind_mounts } = &file.when;
    if always.is_none() && has_bind_mounts.is_none() && annotations.is_empty() && commands.is_empty() {
        return Err(content(
            "when says nothing: say always, annotations, commands or hasBindMounts".to_owned(),
        ));
    }
    if file.stages.is_empty() {
        return Err(content("it names no stages".to_owned()));
    }
    if file.hook.timeout().is_some_and(|seconds| seconds <= 0) {
        return Err(content("its timeout is not greater than zero".to_owned()));
    }
    check_program(file.hook.path()).map_err(content)?;
    Ok(file)
}

fn check_program(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err(format!("{:?} is not an absolute path", path.display()));
    }
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(format!("{:?} is no program", path.display())),
        Err(error) => Err(format!("{:?}: {error}", path.display())),
    }
}

/// All that is said has to hold; of commands one, of annotations a pair for each pattern.
fn matches(path: &Path, when: &When, facts: &Facts<'_>) -> Result<bool, HookError> {
    let pattern = |text: &String| {
        Regex::new(text).map_err(|source| HookError::Pattern {
            path: path.to_owned(),
            pattern: text.clone(),
            source: Box::new(source),
        })
    };
    if when.always == Some(false)
        || when.has_bind_mounts.is_some_and(|wanted| !wanted || !facts.has_bind_mounts)
    {
        return Ok(false);
    }
    for (key, value) in &when.annotations {
        let (key, value) = (pattern(key)?, pattern(value)?);
        if !facts.annotations.iter().any(|(name, text)| key.is_match(name) && value.is_match(text)) {
            return Ok(false);
        }
    }
    let commands = when.commands.iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
    Ok(commands.is_empty() || commands.iter().any(|command| command.is_match(facts.command)))
}

#[allow(deprecated, reason = "hooks of old configurations")]
fn list(hooks: &mut Hooks, stage: Moment) -> &mut Option<Vec<Hook>> {
    match stage {
        Moment::Prestart => hooks.prestart_mut(),
        Moment::CreateRuntime => hooks.create_runtime_mut(),
        Moment::CreateContainer => hooks.create_container_mut(),
        Moment::StartContainer => hooks.start_container_mut(),
        Moment::Poststart => hooks.poststart_mut(),
        Moment::Poststop => hooks.poststop_mut(),
    }
}

fn add(hooks: &mut Hooks, stage: Moment, hook: &Hook) {
    list(hooks, stage).get_or_insert_default().push(hook.clone());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "hooks_tests.rs"]
mod tests;
