//! systemd driver: a container's scope, made around a process that waits.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use holdfast_model::Resources;

use crate::{
    Cgroups, Entry, Error, Extra, Location, Mode,
    cgroups::Inner,
    files::{GroupDir, read_file},
    group, kill,
    layout::Hierarchy,
    limits::{self, Phase},
    location::Unit,
    parse,
    properties::{self, Known},
    systemd::{Property, Started},
    wait,
};

/// The process that a scope is made around: systemd may know it by a number only, which says nothing once the process
/// has ended.
#[derive(Debug)]
pub struct Process {
    /// As our pid namespace numbers it.
    pub pid: i32,
    /// The same, for certain.
    pub pidfd: OwnedFd,
}

impl Process {
    /// [`Error::Ended`] if it has certainly ended, else that error. No I/O.
    fn ended_or(&self, error: Error) -> Error {
        match wait::has_ended(&self.pidfd, Duration::ZERO) {
            Ok(true) => Error::Ended { pid: self.pid },
            Ok(false) | Err(_) => error,
        }
    }

    /// Between a number and what was done by it: it was this process's.
    fn check(&self) -> Result<(), Error> {
        // 0 and -1 are not processes, and 1 is the host's.
        if self.pid <= 1 {
            return Err(Error::invalid("pid", self.pid, "is no container's"));
        }
        if wait::has_ended(&self.pidfd, Duration::ZERO)? {
            Err(Error::Ended { pid: self.pid })
        } else {
            Ok(())
        }
    }
}

impl Cgroups {
    /// systemd driver: makes the scope with the waiting process in it, and sets the limits. Undone on failure, which
    /// kills the process.
    ///
    /// On v1 systemd knows only some hierarchies: the process has to write itself to the answer's [`Entry::tasks`].
    ///
    /// # Errors
    /// [`Error::Ended`] wherever the process ended before that.
    pub async fn place(
        &self,
        location: &Location,
        process: &Process,
        resources: &Resources,
        extra: Extra,
    ) -> Result<Entry, Error> {
        let placed = self.make_scope(location, process, limits::with_swap(resources), extra).await;
        // Looked at before it is killed: how it ended counts for more than what systemd then said of it.
        let placed = placed.map_err(|error| process.ended_or(error));
        if placed.is_err() {
            // Without a scope there is no group to kill it by, and it would wait for its placement for ever.
            if let Err(undo) = holdfast_sys::pidfd::kill(&process.pidfd) {
                tracing::warn!(%location, error = %undo, "end of a process that was not placed");
            }
            if let Err(undo) = self.remove(location).await {
                let error = holdfast_model::chain(&undo);
                tracing::warn!(%location, error, "undo of a container's scope");
            }
        }
        placed
    }

    async fn make_scope(
        &self,
        location: &Location,
        process: &Process,
        resources: Resources,
        extra: Extra,
    ) -> Result<Entry, Error> {
        self.inner.check(&resources, &extra, Phase::Create)?;
        let Some(unit) = location.unit() else {
            return Err(Error::invalid(
                "cgroup",
                location,
                "is not systemd's: it takes processes by its directories",
            ));
        };
        self.start_scope(location, unit, process, &resources, &extra).await?;
        self.fill_scope(location, process, resources, extra).await
    }

    async fn fill_scope(
        &self,
        location: &Location,
        process: &Process,
        resources: Resources,
        extra: Extra,
    ) -> Result<Entry, Error> {
        process.check()?;
        let (path, pid) = (location.path().to_owned(), process.pid);
        self.blocking("place a container", move |inner| {
            for hierarchy in inner.not_joined(&path, pid)? {
                group::make_path(hierarchy, &path, false, &mut Vec::new())?;
            }
            group::enable_controllers(&inner.layout, group::parent(&path))?;
            inner.fill(&path, &resources, &extra)
        })
        .await
    }

    async fn start_scope(
        &self,
        location: &Location,
        unit: &Unit,
        process: &Process,
        resources: &Resources,
        extra: &Extra,
    ) -> Result<(), Error> {
        process.check()?;
        let systemd = &self.inner.systemd;
        let version = systemd.version().await?;
        let properties =
            || self.inner.unit_properties(unit, Some(process), Some(resources), Some(extra), version);
        if systemd.start(&unit.name, properties()?).await? == Started::New {
            return Ok(());
        }
        // Ids are unique, so it is of an earlier try.
        self.stop_unit(location, &unit.name).await?;
        systemd.forget(&unit.name).await?;
        process.check()?;
        match systemd.start(&unit.name, properties()?).await? {
            Started::New => Ok(()),
            Started::Existed => Err(Error::Job { unit: unit.name.clone(), result: "unit exists".to_owned() }),
        }
    }

    /// systemd driver: takes over a scope that another OCI runtime has made around the process, and sets the limits anew,
    /// those of ours that it does not know as well.
    ///
    /// # Errors
    /// [`Error::Ended`] wherever the process has ended meanwhile.
    pub async fn adopt(
        &self,
        location: &Location,
        process: &Process,
        resources: &Resources,
        extra: Extra,
    ) -> Result<Entry, Error> {
        let adopted = self.adopt_scope(location, process, resources, extra).await;
        adopted.map_err(|error| process.ended_or(error))
    }

    async fn adopt_scope(
        &self,
        location: &Location,
        process: &Process,
        resources: &Resources,
        extra: Extra,
    ) -> Result<Entry, Error> {
        let resources = limits::with_swap(resources);
        self.inner.check(&resources, &extra, Phase::Create)?;
        process.check()?;
        let (path, pid) = (location.path().to_owned(), process.pid);
        self.blocking("find a container's scope", move |inner| {
            for hierarchy in inner.not_joined(&path, pid)? {
                group::make_path(hierarchy, &path, false, &mut Vec::new())?;
                // By its number: v1 knows nothing else. Whose it was is looked at before and after.
                GroupDir::open(hierarchy.dir(&path))?.write("cgroup.procs", pid.to_string())?;
            }
            Ok(())
        })
        .await?;
        process.check()?;
        self.update(location, &resources).await?;
        let path = location.path().to_owned();
        self.blocking("limit a container's scope", move |inner| inner.fill(&path, &resources, &extra)).await
    }
}

impl Inner {
    /// Properties to set on a unit. `version` is systemd's.
    pub(crate) fn unit_properties(
        &self,
        unit: &Unit,
        process: Option<&Process>,
        resources: Option<&Resources>,
        extra: Option<&Extra>,
        version: u32,
    ) -> Result<Vec<Property>, Error> {
        let known = Known { mode: self.layout.mode, version };
        let mut all = properties::unit(unit);
        if let Some(process) = process {
            all.push(properties::process(process.pid, process.pidfd.as_fd(), known)?);
        }
        // Without a word from us systemd would limit it to DefaultTasksMax.
        let pids_limit = extra.and_then(|extra| extra.pids_limit).or(Some(-1));
        let resources = resources.cloned().unwrap_or_default();
        all.extend(properties::limits(&resources, &Resources::default(), pids_limit, known)?);
        if let Some(extra) = extra {
            let proc_devices = read_file(Path::new("/proc/devices")).unwrap_or_default();
            all.extend(properties::devices(&extra.devices, known.mode, &proc_devices));
        }
        Ok(all)
    }

    /// Checks that systemd put the process where we expect it. On v1 systemd knows only some hierarchies: those in which
    /// the process is elsewhere are returned.
    fn not_joined(&self, path: &str, pid: i32) -> Result<Vec<&Hierarchy>, Error> {
        let text = read_file(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let found = parse::memberships(&text);
        let is_in = |hierarchy: &Hierarchy| {
            found
                .iter()
                .find(|membership| match membership.controllers.first() {
                    None => hierarchy.unified,
                    Some(first) => hierarchy.controllers.iter().any(|name| name == first),
                })
                .is_some_and(|membership| kill::is_within(membership.path, path))
        };
        let reference = self.layout.of(if self.layout.mode == Mode::V2 { "" } else { "name=systemd" });
        if !reference.is_some_and(is_in) {
            let found = found.first().map_or("", |membership| membership.path).to_owned();
            return Err(Error::Misplaced { pid, expected: path.to_owned(), found });
        }
        Ok(self.layout.hierarchies.iter().filter(|hierarchy| !is_in(hierarchy)).collect())
    }
}
