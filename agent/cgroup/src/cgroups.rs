//! The groups of this host: what the agent calls.

use std::sync::Arc;

use holdfast_model::{ContainerId, DeviceRule, PodId, Resources};

use crate::{
    Driver, DriverSetting, Entry, Error, Location, Made, Mode, Stats, devices,
    error::Failures,
    group, in_force, kill,
    layout::Layout,
    limits::{self, Phase},
    location,
    properties::{self, Known},
    stats,
    systemd::Systemd,
};

/// What a container's group gets beyond CRI's resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Devices that may be used, all others not; empty: no restriction. See [`DeviceRule::defaults`].
    pub devices: Vec<DeviceRule>,
    /// Most processes and threads; -1 or `None`: no limit of its own.
    pub pids_limit: Option<i64>,
}

/// The hierarchies and the driver. Cheap to clone.
///
/// The async functions do their file work on tokio's blocking threads. The others block for microseconds and are meant
/// to be called from such a thread (many at once: one `spawn_blocking` for all).
#[derive(Debug, Clone)]
pub struct Cgroups {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub layout: Layout,
    driver: Driver,
    default_parent: String,
    pub systemd: Systemd,
}

impl Cgroups {
    /// Finds the hierarchies and decides on the driver. `default_parent` is for pods that name none: `/holdfast` or
    /// `holdfast.slice`.
    pub fn detect(driver: DriverSetting, default_parent: Option<String>) -> Result<Self, Error> {
        let layout = Layout::detect()?;
        let driver = match driver {
            DriverSetting::Systemd if !Systemd::is_running() => return Err(Error::NoSystemd),
            DriverSetting::Systemd => Driver::Systemd,
            DriverSetting::Auto if layout.mode == Mode::V2 && Systemd::is_running() => Driver::Systemd,
            DriverSetting::Auto | DriverSetting::Cgroupfs => Driver::Cgroupfs,
        };
        Self::new(layout, driver, default_parent, Systemd::default())
    }

    pub(crate) fn new(
        layout: Layout,
        driver: Driver,
        default_parent: Option<String>,
        systemd: Systemd,
    ) -> Result<Self, Error> {
        let default_parent = default_parent.unwrap_or_else(|| match driver {
            Driver::Cgroupfs => "/holdfast".to_owned(),
            Driver::Systemd => "holdfast.slice".to_owned(),
        });
        let default_parent = location::check_parent(driver, &default_parent)?;
        Ok(Self { inner: Arc::new(Inner { layout, driver, default_parent, systemd }) })
    }

    /// Which hierarchies there are.
    pub fn mode(&self) -> Mode {
        self.inner.layout.mode
    }

    /// Who makes the groups, as the kubelet has to know it.
    pub fn driver(&self) -> Driver {
        self.inner.driver
    }

    /// Whether systemd answers, which the systemd driver needs for every container.
    pub async fn ping(&self) -> Result<(), Error> {
        self.inner.systemd.ping().await
    }

    /// Where a container's group goes: directly below the pod's. With an empty parent: below the default parent.
    pub fn container(&self, cgroup_parent: &str, id: &ContainerId) -> Result<Location, Error> {
        location::container(self.inner.driver, cgroup_parent, &self.inner.default_parent, id.as_str())
    }

    /// Where the group of a pod is: `cgroup_parent` itself, or with an empty one a group below the default parent.
    /// Containers of the latter take [`Location::as_parent`] for their parent.
    pub fn pod(&self, cgroup_parent: &str, id: &PodId) -> Result<Location, Error> {
        location::pod(self.inner.driver, cgroup_parent, &self.inner.default_parent, id.as_str())
    }

    /// What [`Cgroups::create_pod`] may make, to be recorded before it is called.
    pub fn plan_pod(&self, pod: &Location) -> Made {
        let units = match pod.unit() {
            Some(unit) if !self.inner.exists(pod) => vec![unit.name.clone()],
            _ => Vec::new(),
        };
        if self.is_systemd_s(pod) {
            return Made { units, ..Made::default() };
        }
        Made { units, ..group::plan(&self.inner.layout, pod.path()) }
    }

    /// Whether every directory of a pod's group is systemd's: those of slices above the pod's stay, as systemd leaves them.
    fn is_systemd_s(&self, pod: &Location) -> bool {
        pod.unit().is_some() && self.inner.layout.mode == Mode::V2
    }

    /// Makes a pod's group where it is missing; `resources` are applied only then (the kubelet limits its own). The
    /// answer belongs in the pod's record. Undone on failure.
    pub async fn create_pod(&self, pod: &Location, resources: Option<&Resources>) -> Result<Made, Error> {
        let inner = &self.inner;
        if let Some(resources) = resources {
            limits::check(resources, inner.layout.mode, Phase::Create)?;
        }
        let mut made = Made::default();
        let is_new = !inner.exists(pod);
        if let Some(unit) = pod.unit()
            && is_new
        {
            let version = inner.systemd.version().await?;
            let properties = inner.unit_properties(unit, None, resources, None, version)?;
            inner.systemd.start(&unit.name, properties).await?;
            made.units.push(unit.name.clone());
        }
        let (path, resources) = (pod.path().to_owned(), resources.cloned());
        let by_systemd = self.is_systemd_s(pod);
        let result = self.blocking("create a pod's cgroup", move |inner| {
            let layout = &inner.layout;
            let dirs = if by_systemd {
                group::enable_controllers(layout, &path)?;
                Vec::new()
            } else {
                group::make_pod(layout, &path)?
            };
            match resources.filter(|_| is_new).map(|resources| limits::apply(layout, &path, &resources, None))
            {
                Some(Err(error)) => {
                    let made = Made { dirs, ..Made::default() };
                    let _ = group::remove_made(layout, &made);
                    Err(error)
                }
                _ => Ok(dirs),
            }
        });
        match result.await {
            Ok(dirs) => {
                made.dirs = dirs;
                Ok(made)
            }
            Err(error) => {
                for unit in &made.units {
                    if let Err(undo) = inner.systemd.stop(unit).await {
                        tracing::warn!(unit, error = holdfast_model::chain(&undo), "undo of a pod's slice");
                    }
                }
                Err(error)
            }
        }
    }

    /// Makes a container's group with its limits and opens what its first process enters by. Undone on failure.
    ///
    /// With the systemd driver nothing is made yet (`for_placement`): a scope needs a process.
    pub async fn create(
        &self,
        location: &Location,
        resources: &Resources,
        extra: Extra,
    ) -> Result<Entry, Error> {
        let resources = limits::with_swap(resources);
        self.inner.check(&resources, &extra, Phase::Create)?;
        if location.unit().is_some() {
            return Ok(Entry { for_placement: true, ..Entry::default() });
        }
        let path = location.path().to_owned();
        self.blocking("create a container's cgroup", move |inner| {
            let dirs = group::make(&inner.layout, &path)?;
            match inner.fill(&path, &resources, &extra) {
                Ok(entry) => Ok(Entry { made: Made { dirs, ..Made::default() }, ..entry }),
                Err(error) => {
                    group::undo(&dirs);
                    Err(error)
                }
            }
        })
        .await
    }

    /// Opens the descriptors of a container's group that exists.
    pub async fn open(&self, location: &Location) -> Result<Entry, Error> {
        let path = location.path().to_owned();
        self.blocking("open a cgroup", move |inner| group::open(&inner.layout, &path)).await
    }

    /// Changes limits; 0 and empty leave one as it is, but for the swap limit: without one of its own it goes with the
    /// memory limit, as in containerd. A memory limit below what is used is [`Error::BelowUsage`].
    pub async fn update(&self, location: &Location, resources: &Resources) -> Result<(), Error> {
        let inner = &self.inner;
        let resources = limits::with_swap(resources);
        limits::check(&resources, inner.layout.mode, Phase::Update)?;
        let version = if location.unit().is_some() { inner.systemd.version().await? } else { 0 };
        let (path, asked) = (location.path().to_owned(), resources.clone());
        let by_systemd = location.unit().is_some();
        let properties = self
            .blocking("read limits", move |inner| {
                limits::refuse_below_usage(&inner.layout, &path, &asked)?;
                if !by_systemd {
                    return Ok(Vec::new());
                }
                let now = in_force::read(&inner.layout, &path)?;
                properties::limits(&asked, &now, None, Known { mode: inner.layout.mode, version })
            })
            .await?;
        if let Some(unit) = location.unit() {
            inner.systemd.set(&unit.name, properties).await?;
        }
        let path = location.path().to_owned();
        self.blocking("update limits", move |inner| {
            group::enable_controllers(&inner.layout, group::parent(&path))?;
            limits::apply(&inner.layout, &path, &resources, None)
        })
        .await
    }

    /// Removes a container's group with all below it, from every hierarchy. Not being there is success. Waits up to 5 s for
    /// exiting processes; those of a scope are killed.
    pub async fn remove(&self, location: &Location) -> Result<(), Error> {
        // A scope's group goes with its last process, and the unit with it.
        let stopped = match location.unit() {
            Some(unit) if self.inner.exists(location) => self.stop_unit(location, &unit.name).await,
            _ => Ok(()),
        };
        let path = location.path().to_owned();
        let removed =
            self.blocking("remove a cgroup", move |inner| group::remove(&inner.layout, &path)).await;
        match (stopped, removed) {
            (Err(one), Err(other)) => Err(Error::Remove(Failures(vec![one, other]))),
            (one, other) => one.and(other),
        }
    }

    /// Stops a scope. Its processes are killed first: systemd would wait 90 s for one that does not mind SIGTERM.
    pub(crate) async fn stop_unit(&self, location: &Location, unit: &str) -> Result<(), Error> {
        self.kill(location).await?;
        self.inner.systemd.stop(unit).await
    }

    /// Removes what [`Cgroups::create_pod`] made, as far as nobody else uses it.
    pub async fn remove_made(&self, made: &Made) -> Result<(), Error> {
        let mut failures = Vec::new();
        for unit in made.units.iter().rev() {
            let empty = location::pod(Driver::Systemd, unit, "-.slice", "")
                .map(|slice| kill::pids(&self.inner.layout, slice.path()).is_ok_and(|pids| pids.is_empty()));
            match empty {
                Ok(true) => failures.extend(self.inner.systemd.stop(unit).await.err()),
                Ok(false) => tracing::warn!(unit, "slice of a pod is in use and stays"),
                Err(error) => failures.push(error),
            }
        }
        let made = made.clone();
        let removed =
            self.blocking("remove cgroups", move |inner| group::remove_made(&inner.layout, &made)).await;
        match removed {
            Ok(()) if failures.is_empty() => Ok(()),
            Ok(()) => Err(Error::Remove(Failures(failures))),
            Err(error) => {
                failures.push(error);
                Err(Error::Remove(Failures(failures)))
            }
        }
    }

    /// Kills everything in the group and below, and waits up to 10 s until nothing is left. Needs neither systemd nor
    /// the shim. Not being there is success.
    pub async fn kill(&self, location: &Location) -> Result<(), Error> {
        let location = location.clone();
        self.blocking("kill a cgroup", move |inner| kill::kill(&inner.layout, &location)).await
    }

    /// Kills and removes every group that has `id` in its name, wherever it lies: for an object whose record cannot be
    /// read. An id is 64 random digits, so it is in nobody else's name.
    pub async fn remove_named(&self, id: &str) -> Result<(), Error> {
        let mut failures = Vec::new();
        for location in self.named(id).await? {
            let path = location.path().to_owned();
            // systemd makes the group of a slice anew that was removed behind its back.
            let ended = if self.inner.driver == Driver::Systemd && is_unit(&path) {
                self.stop_unit(&location, leaf(&path)).await
            } else {
                self.kill(&location).await
            };
            failures.extend(ended.err());
            let remove = move |inner: &Inner| group::remove(&inner.layout, &path);
            failures.extend(self.blocking("remove cgroups by name", remove).await.err());
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Remove(Failures(failures))) }
    }

    /// Every group that has `id` in its own name, wherever it lies, but none below another one of them: for an object whose
    /// record cannot be read.
    pub async fn named(&self, id: &str) -> Result<Vec<Location>, Error> {
        assert!(id.len() == 64, "a shorter name may be part of somebody else's");
        let id = id.to_owned();
        let found = self.blocking("find cgroups by name", move |inner| kill::named(&inner.layout, &id));
        found.await?.iter().map(|path| Location::group(path)).collect()
    }

    /// The processes of the group and those below it.
    pub fn pids(&self, location: &Location) -> Result<Vec<i32>, Error> {
        kill::pids(&self.inner.layout, location.path())
    }

    /// What the group uses.
    pub fn stats(&self, location: &Location) -> Result<Stats, Error> {
        stats::read(&self.inner.layout, location.path())
    }

    /// The limits that the kernel has now: -1 stands for none, `cpu_shares` on v2 for the most that have its weight.
    pub fn in_force(&self, location: &Location) -> Result<Resources, Error> {
        in_force::read(&self.inner.layout, location.path())
    }

    /// [`Cgroups::in_force`] in the words of what was asked: where the kernel holds a value that is the same by its own
    /// measure (weights for shares, whole pages, `0-1` for `0,1`) the one that was asked for is told.
    pub fn in_force_as_asked(&self, location: &Location, asked: &Resources) -> Result<Resources, Error> {
        Ok(in_force::in_words_of(self.in_force(location)?, asked, self.mode()))
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|_| Error::Cut(what))?
    }
}

impl Inner {
    pub(crate) fn check(&self, resources: &Resources, extra: &Extra, phase: Phase) -> Result<(), Error> {
        limits::check(resources, self.layout.mode, phase)?;
        devices::check(&extra.devices)?;
        match extra.pids_limit {
            Some(limit) if limit < -1 || limit == 0 => {
                Err(Error::invalid("pids limit", limit, "is neither positive nor -1 (no limit)"))
            }
            _ => Ok(()),
        }
    }

    /// Whether systemd has made the group (or, with cgroupfs, anyone).
    fn exists(&self, location: &Location) -> bool {
        let controller = if self.layout.mode == Mode::V2 { "" } else { "name=systemd" };
        let hierarchy = self.layout.of(controller).or_else(|| self.layout.of("memory"));
        hierarchy.is_some_and(|hierarchy| hierarchy.dir(location.path()).exists())
    }

    /// Limits, devices, descriptors.
    pub(crate) fn fill(&self, path: &str, resources: &Resources, extra: &Extra) -> Result<Entry, Error> {
        limits::apply(&self.layout, path, resources, extra.pids_limit)?;
        if self.layout.mode == Mode::V2 {
            if let Some(dir) = self.layout.open("", path)? {
                devices::apply_v2(&dir, &extra.devices)?;
            }
        } else if let Some(dir) = self.layout.open("devices", path)? {
            devices::apply_v1(&dir, &extra.devices)?;
        }
        group::open(&self.layout, path)
    }
}

fn leaf(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The group is that of a unit of systemd.
fn is_unit(path: &str) -> bool {
    [".slice", ".scope"].iter().any(|ending| leaf(path).ends_with(ending))
}
