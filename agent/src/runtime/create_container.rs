//! CreateContainer: record, image lease, cgroup, shim, stages up to the gate.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use holdfast_cgroup::{Entry, Extra, Process};
use holdfast_model::{ContainerConfig, ContainerId, Image, NamespaceMode, PodSandboxConfig, SecurityProfile};
use holdfast_pod::{
    holder::Holder,
    launch::Rootfs,
    protocol::{Answer, Create, Created, FdRole, Phase, Request},
};
use holdfast_spec::{Built, HostFacts, Inputs, seccomp::Program};
use tokio::sync::mpsc;

use crate::cdi;

use super::{
    Error, Runtime,
    blocking::{blocking, make_dir, now_ns, remove_tree},
    kept, levels, log_files,
    monitor::{end_process, log_warnings},
    names::{Reservation, Reserved},
    object::{Container, ContainerName, Link, Pod},
    owed::Owed,
    pod_files,
    record::{self, ContainerRecord, PodRecord, ProcessName},
    run_pod_sandbox::pod_hostname,
    shim::{Answers, Notice, Shim, ShimError},
    stop_container::ORDER_LIMIT,
    stop_pod_sandbox::teardown,
};

/// Longest time from the call to the gate.
const CREATE_LIMIT: Duration = Duration::from_secs(100);
/// How long output is read after the exit while somebody else still holds the pipes.
const DRAIN: Duration = Duration::from_secs(2);

/// Everything that is known before something is made.
struct Plan {
    pod: Arc<Pod>,
    holder: Arc<Holder>,
    built: Built,
    seccomp: Option<Arc<Program>>,
    record: ContainerRecord,
    pid_target: Option<Arc<Container>>,
}

impl Runtime {
    /// Makes a container that waits for StartContainer. Asked again with the same configuration while it still
    /// waits, it answers with the container that is there.
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
        pod_config: Option<PodSandboxConfig>,
    ) -> Result<ContainerId, Error> {
        // The sandbox's own configuration is the one that counts; the kubelet repeats it here.
        drop(pod_config);
        let pod = self.pod(pod)?;
        let runtime = self.clone();
        self.detached(async move { Box::pin(runtime.create_container_in(pod, config)).await }).await
    }

    async fn create_container_in(
        &self,
        pod: Arc<Pod>,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        let _life = pod.life.read().await;
        let Some(holder) = pod.holder().filter(|_| pod.is_ready()) else {
            return Err(Error::PodNotReady { id: pod.id.to_string() });
        };
        let wanted = ContainerName::new(pod.id.clone(), config.metadata.clone());
        let name = loop {
            match self.container_names.reserve(&wanted).await {
                Reserved::New(name) => break name,
                // It has been removed since, and its name is free.
                Reserved::Taken(by) if self.container(&by).is_err() => {}
                Reserved::Taken(by) => return self.same_container(&by, &config, &wanted),
            }
        };
        let plan = self.plan(pod.clone(), holder, config).await?;
        let container = Box::pin(self.make_container(plan, name)).await?;
        self.list(&container);
        // Not before: whoever waits for the name looks its owner up.
        container.name.iter().for_each(|name| name.settle(container.id.as_str()));
        Ok(container.id.clone())
    }

    fn list(&self, container: &Arc<Container>) {
        let mut containers = self.containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.insert(container.id.clone(), container.clone());
    }

    fn same_container(
        &self,
        by: &str,
        config: &ContainerConfig,
        name: &ContainerName,
    ) -> Result<ContainerId, Error> {
        match self.container(by) {
            Ok(container)
                if container.phase() == Phase::Created && container.record.get().config == *config =>
            {
                Ok(container.id.clone())
            }
            _ => Err(Error::NameTaken { what: "container", name: name.to_string(), by: by.to_owned() }),
        }
    }

    /// Checks everything that can be checked without making anything.
    async fn plan(&self, pod: Arc<Pod>, holder: Arc<Holder>, config: ContainerConfig) -> Result<Plan, Error> {
        let id = ContainerId::random().map_err(|source| Error::Io {
            operation: "read",
            path: "/dev/urandom".into(),
            source,
        })?;
        let image = self.find_image(&config.image.image)?;
        let volume_images = self.volume_images(&config)?;
        let pid_target = self.pid_target(&pod, &config)?;
        let pod_record = pod.record.get();
        let cgroup = self
            .cgroups
            .container(pod_record.cgroup.as_parent(), &id)
            .map_err(|source| Error::Cgroup { operation: "name container", source })?;
        let images = (&image, volume_images.clone());
        let (runtime, host) = match self.runtime_of(&pod_record.runtime_handler).await? {
            None => (None, self.host.clone()),
            Some((runtime, features)) => (Some(runtime), HostFacts { features, ..self.host.clone() }),
        };
        let mut built =
            self.build_spec(&id, &pod, &pod_record, &config, images, &cgroup.to_string(), host).await?;
        self.add_hooks(&mut built, &pod_record.config, &config, runtime.is_some()).await?;
        if let Some(runtime) = &runtime {
            self.refuse_hooks_in_sight(&pod, &id, &config, &built, runtime)?;
        }
        self.open_way_to_bundle(&built, runtime.is_some()).await?;
        let mut seccomp = None;
        if runtime.is_some() {
            self.complete_for_runtime(&mut built, &pod, &id).await?;
        } else {
            seccomp = self.seccomp_program(&built).await?;
        }
        built.launch.seccomp_flags = seccomp.as_ref().map_or(0, |program| program.flags());
        let asked = [config.image.user_specified_image.as_str(), &config.image.image];
        let names = holdfast_image::names(&image, &asked);
        let record = ContainerRecord {
            version: record::VERSION,
            boot_id: self.boot_id.clone(),
            pod_id: pod.id.clone(),
            image_id: image.id.clone(),
            image_tag: names.tag.unwrap_or_default(),
            image_digest: names.digest.unwrap_or_default(),
            volume_images: volume_images.iter().flatten().map(|image| image.id.clone()).collect(),
            created_at_ns: now_ns(),
            phase: Phase::Creating,
            removing: false,
            shim: None,
            init: Created::default(),
            cgroup,
            stop_signal: built.stop_signal,
            log_path: log_files::path(&pod_record.config, &config)?,
            resources: holdfast_cgroup::with_swap(&config.resources),
            started_at_ns: 0,
            exit: None,
            runtime,
            id,
            config,
        };
        Ok(Plan { pod, holder, built, seccomp, record, pid_target })
    }

    /// Pid mode TARGET: the container whose pid namespace is joined, which must run in the same pod.
    fn pid_target(&self, pod: &Pod, config: &ContainerConfig) -> Result<Option<Arc<Container>>, Error> {
        let options = &config.security.namespaces;
        if options.pid != NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.container(&options.target_id)?;
        if target.pod_id != pod.id {
            return Err(Error::BadRequest {
                field: "config.linux.security_context.namespace_options.target_id",
                problem: format!("container {} is in another pod", target.id),
            });
        }
        if target.phase() != Phase::Running {
            return Err(Error::WrongState {
                id: target.id.to_string(),
                state: super::error::phase_name(target.phase()),
                operation: "joining its pid namespace",
                wanted: "running",
            });
        }
        Ok(Some(target))
    }

    #[expect(clippy::too_many_arguments, reason = "what a spec is made of, from as many places")]
    async fn build_spec(
        &self,
        id: &ContainerId,
        pod: &Pod,
        pod_record: &PodRecord,
        config: &ContainerConfig,
        (image, volume_images): (&Arc<Image>, Vec<Option<Arc<Image>>>),
        cgroups_path: &str,
        host: HostFacts,
    ) -> Result<Built, Error> {
        let live = self.live.get();
        let dir = self.container_dir(id);
        let (id, level, pod_dir) = (id.clone(), levels::of_pod(pod_record), pod.dir.clone());
        let (pod_config, config, image) = (pod_record.config.clone(), config.clone(), image.clone());
        let cgroups_path = cgroups_path.to_owned();
        let devices = cdi::names(&config).map_err(cdi_failed)?;
        // It looks at devices and at the files that describe them, which may lie on a disk that is slow.
        blocking(move || {
            let edits = cdi::resolve(&live.cdi.spec_dirs, &devices).map_err(cdi_failed)?;
            let built = holdfast_spec::build(&Inputs {
                id: &id,
                pod: &pod_config,
                container: &config,
                image: &image,
                volume_images: &volume_images,
                cdi: &edits,
                rootfs: Rootfs {
                    layers: image.layers.clone(),
                    upper: dir.join("upper"),
                    work: dir.join("work"),
                },
                files: pod_files::paths(&pod_dir),
                hostname: &pod_hostname(&pod_config),
                cgroups_path: &cgroups_path,
                host: &host,
                rlimits: &live.runtime.default_rlimits(),
                device_ownership: live.runtime.device_ownership_from_security_context,
                selinux_level: &level,
            });
            built.map_err(|source| Error::Spec { operation: "create container", source })
        })
        .await
    }

    async fn make_container(
        &self,
        plan: Plan,
        name: Reservation<ContainerName>,
    ) -> Result<Arc<Container>, Error> {
        let record = &plan.record;
        let dir = self.container_dir(&record.id);
        let container = Arc::new(Container::new(dir, record.clone(), Some(name), &self.durable));
        match self.fill_container(&container, &plan).await {
            Ok(()) => Ok(container),
            Err(error) => {
                if let Err(leftover) = self.unmake_container(&container, Vec::new()).await {
                    tracing::warn!(container_id = %container.id, error = %leftover.chain(), "undo of a failed CreateContainer");
                    // Nobody is told of it. It goes with its pod, or before, and whoever asks again gets another one.
                    container.release_name();
                    self.list(&container);
                    self.owe(Owed::Container(container));
                }
                Err(error)
            }
        }
    }

    async fn fill_container(&self, container: &Arc<Container>, plan: &Plan) -> Result<(), Error> {
        let id = &container.id;
        let (dir, run_dir) = (container.dir.clone(), self.run_dir(id));
        let log_path = plan.record.log_path.clone();
        let owner = root_owner(&plan.pod.record.get());
        let record = container.record.get();
        let launch = kept::encode(&plan.built, &dir)?;
        let program = plan.seccomp.clone().filter(|_| kept::is_of_file(&plan.built.seccomp));
        let durable = self.durable.clone();
        blocking(move || -> Result<(), Error> {
            make_dir(&dir, 0o711)?;
            durable.later(record::write(&dir, &*record)?);
            make_dir(&run_dir, 0o700)?;
            log_files::make_directory(log_path.parent(), "config.log_path")?;
            make_root_dirs(&dir, owner)?;
            kept::write(&dir, &launch, program.as_deref())
        })
        .await?;
        let images = std::iter::once(&plan.record.image_id).chain(&plan.record.volume_images);
        self.lease_images(id, images.map(String::as_str))?;
        let systemd = self.cgroups.driver() == holdfast_cgroup::Driver::Systemd;
        let entry = if systemd {
            Entry::default()
        } else {
            self.cgroups
                .create(
                    &plan.record.cgroup,
                    &plan.record.resources,
                    plan.extra(self.live.get().runtime.pids_limit),
                )
                .await
                .map_err(|source| Error::Cgroup { operation: "make container", source })?
        };
        let (shim, mut notices) = self.spawn_shim(container).await?;
        let created = self.bring_to_gate(container, plan, &shim, entry, systemd).await;
        let created = created.inspect_err(|_| log_warnings(container, &mut notices))?;
        shim.order(Request::Commit).await.map_err(|source| Error::Shim {
            operation: "commit",
            id: id.to_string(),
            source,
        })?;
        container.link.send_replace(Link::Connected(shim));
        container
            .record
            .update(|record| {
                record.phase = Phase::Created;
                record.init = created;
            })
            .await?;
        self.follow_shim(container, Some(notices));
        Ok(())
    }

    async fn seccomp_program(&self, built: &Built) -> Result<Option<Arc<Program>>, Error> {
        let (compiler, profile, caps) = (self.seccomp.clone(), built.seccomp.clone(), built.capabilities);
        if profile == SecurityProfile::Unconfined {
            return Ok(None);
        }
        blocking(move || compiler.program(&profile, caps))
            .await
            .map_err(|source| Error::Seccomp { operation: "create container", source })
    }

    /// What a runtime has to find in the spec itself: the filter, and what containerd's users look for in it.
    async fn complete_for_runtime(
        &self,
        built: &mut Built,
        pod: &Pod,
        id: &ContainerId,
    ) -> Result<(), Error> {
        let (compiler, profile, caps) = (self.seccomp.clone(), built.seccomp.clone(), built.capabilities);
        let seccomp = blocking(move || compiler.oci(&profile, caps))
            .await
            .map_err(|source| Error::Seccomp { operation: "create container", source })?;
        if let Some(linux) = built.launch.spec.linux_mut() {
            linux.set_seccomp(seccomp);
        }
        let annotations = [
            ("io.kubernetes.cri.container-type", "container".to_owned()),
            ("io.kubernetes.cri.sandbox-id", pod.id.to_string()),
            ("io.kubernetes.cri.container-id", id.to_string()),
        ];
        let annotations = annotations.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        built.launch.spec.set_annotations(Some(annotations));
        Ok(())
    }

    async fn spawn_shim(
        &self,
        container: &Container,
    ) -> Result<(Arc<Shim>, mpsc::UnboundedReceiver<Notice>), Error> {
        let failed = |source| Error::Shim { operation: "create", id: container.id.to_string(), source };
        let program = self.shim_program.clone();
        let (run_dir, id) = (self.run_dir(&container.id), container.id.to_string());
        let (socket, process) =
            blocking(move || super::start::spawn_shim(&program, &run_dir, &id)).await.map_err(failed)?;
        let name = ProcessName { pid: process.pid, start_time: process.start_time };
        self.reap(process.pidfd);
        container.record.update(|record| record.shim = Some(name)).await?;
        let (sender, notices) = mpsc::unbounded_channel();
        let shim = Shim::new(socket, sender).map_err(failed)?;
        Ok((shim, notices))
    }

    async fn bring_to_gate(
        &self,
        container: &Container,
        plan: &Plan,
        shim: &Shim,
        entry: Entry,
        systemd: bool,
    ) -> Result<Created, Error> {
        let failed = |source| Error::Shim { operation: "create", id: container.id.to_string(), source };
        let launch = serde_json::to_vec(&plan.built.launch).map_err(|error| Error::Io {
            operation: "encode the launch of",
            path: container.dir.clone(),
            source: error.into(),
        })?;
        let target = self.target_pidfd(plan).await?;
        let (dir, seccomp) = (container.dir.clone(), plan.seccomp.clone());
        let opened = blocking(move || -> Result<_, Error> {
            let launch = sealed("holdfast-launch", &launch, &dir)?;
            let program =
                seccomp.map(|program| sealed("holdfast-seccomp", program.bytes(), &dir)).transpose()?;
            let state = std::fs::File::open(&dir).map_err(|source| Error::Io {
                operation: "open",
                path: dir,
                source,
            })?;
            Ok((launch, program, OwnedFd::from(state)))
        })
        .await?;
        let (launch, program, state) = &opened;
        let mut fds: Vec<(FdRole, BorrowedFd<'_>)> = vec![
            (FdRole::Launch, launch.as_fd()),
            (FdRole::StateDir, state.as_fd()),
            (FdRole::Holder, plan.holder.pidfd()),
        ];
        fds.extend(program.as_ref().map(|fd| (FdRole::Seccomp, fd.as_fd())));
        fds.extend(target.as_ref().map(|fd| (FdRole::PidTarget, fd.as_fd())));
        fds.extend(cgroup_fds(&entry));
        let request = Request::Create(plan.create(systemd, self.run_dir(&container.id)));
        let mut answers = shim.begin(request, &fds).await.map_err(failed)?;
        let answer = answers.next("Create", CREATE_LIMIT).await.map_err(failed)?;
        match answer {
            Answer::Created(created) => Ok(created),
            Answer::Placing { pid } if systemd => {
                let Some(process) = child_of_shim(container, pid).await? else {
                    // It has ended: the shim says of what.
                    answers.next("Create", CREATE_LIMIT).await.map_err(failed)?;
                    return Err(failed(ShimError::Unexpected { request: "Create" }));
                };
                self.place(plan, shim, &mut answers, &process, failed).await
            }
            _ => Err(failed(ShimError::Unexpected { request: "Create" })),
        }
    }

    /// systemd driver: a scope needs a process, so it is made when stage 1 is there.
    async fn place(
        &self,
        plan: &Plan,
        shim: &Shim,
        answers: &mut Answers<'_>,
        process: &Process,
        failed: impl Fn(ShimError) -> Error,
    ) -> Result<Created, Error> {
        let (cgroup, resources) = (&plan.record.cgroup, &plan.record.resources);
        let extra = plan.extra(self.live.get().runtime.pids_limit);
        // Another runtime has asked systemd itself.
        let placed = if plan.record.runtime.is_some() {
            self.cgroups.adopt(cgroup, process, resources, extra).await
        } else {
            self.cgroups.place(cgroup, process, resources, extra).await
        };
        let entry = match placed {
            Ok(entry) => entry,
            Err(source) => {
                // Of what it has ended, the shim says.
                if matches!(source, holdfast_cgroup::Error::Ended { .. }) {
                    answers.next("Create", CREATE_LIMIT).await.map_err(&failed)?;
                }
                return Err(Error::Cgroup { operation: "make scope of container", source });
            }
        };
        let fds: Vec<_> = cgroup_fds(&entry).collect();
        if let Err(error) = shim.call(Request::Placed, &fds, super::shim::ANSWER_LIMIT).await {
            answers.next("Create", CREATE_LIMIT).await.map_err(&failed)?;
            return Err(failed(error));
        }
        match answers.next("Create", CREATE_LIMIT).await.map_err(&failed)? {
            Answer::Created(created) => Ok(created),
            _ => Err(failed(ShimError::Unexpected { request: "Create" })),
        }
    }

    async fn target_pidfd(&self, plan: &Plan) -> Result<Option<OwnedFd>, Error> {
        let Some(target) = &plan.pid_target else { return Ok(None) };
        let init = target.record.get().init.clone();
        let id = target.id.to_string();
        let found = blocking(move || holdfast_sys::proc::open_identified(init.pid, init.start_time)).await;
        found.ok().flatten().map(Some).ok_or(Error::WrongState {
            id,
            state: "exited",
            operation: "joining its pid namespace",
            wanted: "running",
        })
    }

    /// Takes back whatever there is of a container, after these errors. Goes on after a failure; the directory with the record
    /// goes last, and only if all else went.
    pub(super) async fn unmake_container(
        &self,
        container: &Container,
        mut errors: Vec<Error>,
    ) -> Result<(), Error> {
        let record = container.record.get();
        if let Some(shim) = container.shim() {
            // One that does not answer is killed below.
            let _ = shim.order_within(ORDER_LIMIT, Request::Shutdown).await;
        }
        if let Some(name) = record.shim
            && record.boot_id == self.boot_id
        {
            end_process(name).await;
        }
        container.link.send_replace(Link::Ended);
        if let Err(source) = self.cgroups.kill(&record.cgroup).await {
            errors.push(Error::Cgroup { operation: "empty container", source });
        }
        if let Some(runtime) = &record.runtime
            && let Err(error) = self.delete_from_runtime(runtime, container.id.as_str()).await
        {
            errors.push(error);
        }
        if let Err(source) = self.cgroups.remove(&record.cgroup).await {
            errors.push(Error::Cgroup { operation: "remove container", source });
        }
        let run_dir = self.run_dir(&container.id);
        if let Err(error) = blocking(move || remove_tree(&run_dir)).await {
            errors.push(error);
        }
        teardown(format!("container {}", container.id), errors)?;
        let dir = container.dir.clone();
        blocking(move || remove_tree(&dir)).await?;
        // As long as there is a record, a restart takes the images for used.
        self.images.release(container.id.as_str());
        Ok(())
    }
}

/// The process of which a shim has told by its number: a child of the shim. `None`: that one has ended.
async fn child_of_shim(container: &Container, pid: i32) -> Result<Option<Process>, Error> {
    let shim = container.record.get().shim.as_ref().map_or(0, |shim| shim.pid);
    let opened = blocking(move || holdfast_sys::proc::open_child(pid, shim)).await;
    let pidfd = opened.map_err(|source| Error::Io {
        operation: "open a pidfd of the first process of",
        path: container.dir.clone(),
        source: source.into(),
    })?;
    Ok(pidfd.map(|pidfd| Process { pid, pidfd }))
}

impl Plan {
    fn extra(&self, pids_limit: Option<u32>) -> Extra {
        Extra { devices: self.built.devices.clone(), pids_limit: pids_limit.map(i64::from) }
    }

    fn create(&self, systemd: bool, bundle: PathBuf) -> Create {
        let config = &self.record.config;
        Create {
            id: self.record.id.to_string(),
            log_path: Some(self.record.log_path.clone()).filter(|path| !path.as_os_str().is_empty()),
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            own_pid_namespace: self.built.launch.own & (libc::CLONE_NEWPID as u64) != 0,
            await_placement: systemd,
            timeout_ms: CREATE_LIMIT.as_millis() as u64,
            drain_ms: DRAIN.as_millis() as u64,
            bundle,
            hooks: holdfast_spec::hooks::is_some(self.built.launch.spec.hooks().as_ref()),
            runtime: self.record.runtime.clone(),
        }
    }
}

fn cgroup_fds(entry: &Entry) -> impl Iterator<Item = (FdRole, BorrowedFd<'_>)> {
    let dir = entry.dir.as_ref().map(|fd| (FdRole::CgroupDir, fd.as_fd()));
    let tasks = entry.tasks.iter().map(|fd| (FdRole::CgroupTasks, fd.as_fd()));
    let oom = entry.oom_count.as_ref().map(|fd| (FdRole::OomCount, fd.as_fd()));
    dir.into_iter().chain(tasks).chain(oom)
}

fn cdi_failed(source: cdi::CdiError) -> Error {
    Error::Cdi { operation: "create container", source }
}

/// A sealed memfd; `dir` names the container if that fails. Blocking.
pub(super) fn sealed(name: &str, bytes: &[u8], dir: &Path) -> Result<OwnedFd, Error> {
    holdfast_sys::memfd::sealed(name, bytes).map_err(|error| Error::Io {
        operation: "write a memfd for",
        path: dir.to_owned(),
        source: error.into(),
    })
}

/// The container's root as the host numbers it.
fn root_owner(pod: &PodRecord) -> (u32, u32) {
    let first = |maps: &[holdfast_model::IdMapping]| {
        maps.iter().find(|map| map.container_id == 0).map_or(0, |map| map.host_id)
    };
    pod.config
        .security
        .namespaces
        .pod_user_namespace()
        .map_or((0, 0), |user| (first(&user.uids), first(&user.gids)))
}

fn make_root_dirs(dir: &Path, (uid, gid): (u32, u32)) -> Result<(), Error> {
    for name in ["upper", "work"] {
        let path = dir.join(name);
        make_dir(&path, 0o755)?;
        let io = |operation| {
            let path = path.clone();
            move |source| Error::Io { operation, path, source }
        };
        // The umask must not narrow the mode of the container's /.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(io("set mode of"))?;
        chown(&path, Some(uid), Some(gid)).map_err(io("set owner of"))?;
    }
    Ok(())
}
