//! `holdfast quarantine`: pods and containers whose records cannot be used. It works on the directories themselves, beside an
//! agent or without one: no agent touches what is in quarantine, but to end a container with its pod.

use std::io;

use holdfast_cgroup::Cgroups;
use serde_json::json;

use crate::{
    cli::{ImageOutput, print, table},
    config::Config,
    imagecli::size,
    runtime::{Error, Programs, Quarantined, RecordError, scan_quarantine},
};

/// Why a command on the quarantine failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum QuarantineError {
    #[error(transparent)]
    Scan(#[from] RecordError),
    #[error("find the cgroups")]
    Cgroups { source: holdfast_cgroup::Error },
    #[error("program {name} is not there: set {key} in the configuration")]
    Program { name: &'static str, key: &'static str },
    #[error("look for processes of {id}")]
    Look { id: String, source: Box<Error> },
    #[error("nothing in quarantine has an id that begins with {id:?}")]
    NotFound { id: String },
    #[error("{count} ids in quarantine begin with {id:?}: give more digits")]
    Ambiguous { id: String, count: usize },
    #[error("{object} still runs, with process {pid}: stop its pod, or let --force kill it")]
    Lives { object: String, pid: i32 },
    #[error("remove {object}")]
    Remove { object: String, source: Box<Error> },
    #[error("print the result")]
    Print(#[from] io::Error),
}

/// The means to find processes.
struct Means {
    programs: Programs,
    cgroups: Cgroups,
}

impl Means {
    fn new(config: &Config) -> Result<Self, QuarantineError> {
        let missing = |name, key| QuarantineError::Program { name, key };
        let pod = config.pod_program().ok_or(missing("holdfast-pod", "pod_program"))?;
        let shim = config.shim_program().ok_or(missing("holdfast-shim", "shim_program"))?;
        let cgroups = Cgroups::detect(config.cgroup_driver, config.default_cgroup_parent.clone())
            .map_err(|source| QuarantineError::Cgroups { source })?;
        Ok(Self { programs: Programs { pod, shim }, cgroups })
    }

    async fn processes(&self, object: &Quarantined) -> Result<Vec<i32>, QuarantineError> {
        let found = object.processes(&self.programs, &self.cgroups).await;
        let found = found
            .map_err(|source| QuarantineError::Look { id: object.id.clone(), source: Box::new(source) })?;
        Ok(found.into_iter().collect())
    }
}

/// `holdfast quarantine list`.
pub async fn list(config: &Config, output: ImageOutput) -> Result<(), QuarantineError> {
    let means = Means::new(config)?;
    let mut objects = Vec::new();
    for object in scan_quarantine(&config.root)? {
        let pids = means.processes(&object).await?;
        objects.push((object, pids));
    }
    objects.sort_by(|(one, _), (other, _)| (one.kind, &one.id).cmp(&(other.kind, &other.id)));
    Ok(print(&match output {
        ImageOutput::Table => in_columns(&objects),
        ImageOutput::Json => as_json(&objects),
    })?)
}

fn in_columns(objects: &[(Quarantined, Vec<i32>)]) -> String {
    let heads = ["KIND", "ID", "SIZE", "PROCESSES", "REASON"].map(str::to_owned);
    let row = |(object, pids): &(Quarantined, Vec<i32>)| {
        [
            object.kind.to_string(),
            object.id.clone(),
            size(object.usage().bytes),
            pids.len().to_string(),
            object.reason.clone(),
        ]
    };
    let rows: Vec<_> = std::iter::once(heads).chain(objects.iter().map(row)).collect();
    table(&rows)
}

fn as_json(objects: &[(Quarantined, Vec<i32>)]) -> String {
    let objects: Vec<_> = objects
        .iter()
        .map(|(object, pids)| {
            let usage = object.usage();
            json!({
                "kind": object.kind,
                "id": object.id,
                "podSandboxId": object.pod,
                "directory": object.dir,
                "reason": object.reason,
                "bytes": usage.bytes,
                "inodes": usage.inodes,
                "pids": pids,
            })
        })
        .collect();
    format!("{:#}\n", json!(objects))
}

/// `holdfast quarantine remove`: all are looked up, and looked at, before the first one goes.
pub async fn remove(config: &Config, ids: &[String], force: bool) -> Result<(), QuarantineError> {
    let means = Means::new(config)?;
    let all = scan_quarantine(&config.root)?;
    let chosen = ids.iter().map(|id| choose(&all, id)).collect::<Result<Vec<_>, _>>()?;
    for object in &chosen {
        if let Some(pid) = means.processes(object).await?.first().filter(|_| !force) {
            return Err(QuarantineError::Lives { object: name(object), pid: *pid });
        }
    }
    for object in chosen {
        object
            .remove(&means.programs, &means.cgroups, &config.state)
            .await
            .map_err(|source| QuarantineError::Remove { object: name(object), source: Box::new(source) })?;
        print(&format!("{}\n", object.id))?;
    }
    Ok(())
}

fn name(object: &Quarantined) -> String {
    format!("{} {}", object.kind, object.id)
}

fn choose<'a>(all: &'a [Quarantined], id: &str) -> Result<&'a Quarantined, QuarantineError> {
    let matching: Vec<_> = all.iter().filter(|object| object.id.starts_with(id)).collect();
    match matching[..] {
        [one] => Ok(one),
        [] => Err(QuarantineError::NotFound { id: id.to_owned() }),
        _ => Err(QuarantineError::Ambiguous { id: id.to_owned(), count: matching.len() }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::runtime::ObjectKind;

    use super::*;

    fn object(id: &str) -> Quarantined {
        Quarantined {
            kind: ObjectKind::Container,
            id: id.to_owned(),
            dir: "/no/such/directory".into(),
            reason: "unreadable: cut short".to_owned(),
            pod: None,
        }
    }

    #[test]
    fn ids_may_be_short_but_not_ambiguous() {
        let all = [object("12ab"), object("12cd"), object("3456")];
        assert_eq!(choose(&all, "12c").unwrap().id, "12cd");
        assert_eq!(choose(&all, "3").unwrap().id, "3456");
        assert!(matches!(choose(&all, "12"), Err(QuarantineError::Ambiguous { count: 2, .. })));
        assert!(matches!(choose(&all, "9"), Err(QuarantineError::NotFound { .. })));
    }

    #[test]
    fn both_outputs_tell_the_same() {
        let objects = [(object("12ab"), vec![7, 8])];
        let text = in_columns(&objects);
        assert_eq!(
            text,
            "KIND       ID    SIZE  PROCESSES  REASON\ncontainer  12ab  0 B   2          unreadable: cut short\n"
        );
        let list: serde_json::Value = serde_json::from_str(&as_json(&objects)).unwrap();
        assert_eq!((&list[0]["kind"], &list[0]["pids"]), (&json!("container"), &json!([7, 8])));
    }
}
