//! [`Network`]: what the agent calls.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use holdfast_model::{PodId, chain};
use holdfast_record::Durable;
use tokio::{
    sync::{Notify, OwnedMutexGuard, RwLock},
    time::timeout_at,
};

use crate::{
    AddRequest, Error, InterfaceStats, Mode, NetworkConfig, NetworkStatus, OwedDel, PodNetwork,
    choice::{Choice, Chooser},
    cni::{Cni, PLUGIN_LIMIT, conf::ConfList, result::addresses},
    embedded::{Embedded, Host, pod::IFNAME, pod::link_name, reaper},
    gc,
    netlink::{Socket, link},
    owed,
    record::{CniRecord, HostPort, Phase, PodKind, Record},
    state::{State, host_ports},
    store::{Loaded, Store},
    thread,
};

/// How long a client waits for DEL: the kubelet's own limit for a stop is 2 minutes, and the rest of the pod is still to go.
pub(crate) const DEL_LIMIT: Duration = Duration::from_secs(20);
/// How long a verdict on the embedded network stands before Status has it looked at again.
const PREFLIGHT_EVERY: Duration = Duration::from_secs(5);

/// The pods' networks. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Network {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) boot_id: String,
    pub(crate) store: Store,
    state: Mutex<State>,
    pub(crate) chooser: Chooser,
    pub(crate) embedded: Embedded,
    pub(crate) cni: Arc<Cni>,
    /// Held for reading while plugins work for a pod, for writing by GC.
    pub(crate) plugins: RwLock<()>,
    pub(crate) limits: Limits,
    preflight: Mutex<Preflight>,
    pub(crate) reaper: Arc<Notify>,
    pub(crate) owed: Arc<Notify>,
    /// A try of DEL is over.
    pub(crate) freed: Notify,
    locks: Mutex<HashMap<PodId, Weak<tokio::sync::Mutex<()>>>>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// One call of one CNI plugin.
    pub(crate) plugin: Duration,
    /// DEL, for whoever waits for it. It goes on after that.
    pub(crate) del: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { plugin: PLUGIN_LIMIT, del: DEL_LIMIT }
    }
}

#[derive(Debug, Default)]
struct Preflight {
    at: Option<Instant>,
    running: bool,
    problem: Option<String>,
}

impl Network {
    /// Reads the records and begins to watch links. Makes nothing in the kernel; the bridge comes with the first pod.
    ///
    /// # Errors
    /// A state directory that cannot be read, or an embedded network that is configured wrongly.
    pub async fn start(config: NetworkConfig) -> Result<Self, Error> {
        Self::start_with(config, Limits::default()).await
    }

    /// As [`Self::start`], with other limits.
    pub(crate) async fn start_with(config: NetworkConfig, limits: Limits) -> Result<Self, Error> {
        let NetworkConfig { mode, cni, embedded, state_dir, netns_dir, durable, boot_id } = config;
        let boot = boot_id.clone();
        let (store, loaded, is_noted) =
            thread::blocking("network", move || load(&state_dir, durable, &boot)).await?;
        let embedded = Embedded::new(&embedded, store.clone(), boot_id.clone())?;
        let cni = Arc::new(Cni::new(cni, netns_dir, limits.plugin));
        let torn = loaded.torn.clone();
        let mut state = State::default();
        state.load(loaded);
        let strays = embedded.strays(state.links()).await?;
        // A link says whose it was; of others the plugins know.
        let is_lost = |pod: &PodId| strays.iter().all(|stray| stray.pod.as_ref() != Some(pod));
        let lost: Vec<PodId> = torn.into_iter().filter(is_lost).collect();
        if mode != Mode::Embedded
            && !lost.is_empty()
            && let Ok(Some(list)) = cni.list().await
        {
            let stand_ins = lost.into_iter().map(|pod| cni.stand_in(&list, pod, &boot_id)).collect();
            state.load(Loaded { records: stand_ins, ..Loaded::default() });
        }
        let cni_was_there = is_noted || state.records().any(|record| !record.is_embedded());
        state.set_strays(strays);
        let inner = Arc::new(Inner {
            chooser: Chooser::new(mode, cni_was_there),
            cni,
            plugins: RwLock::default(),
            embedded,
            boot_id,
            store,
            state: Mutex::new(state),
            limits,
            preflight: Mutex::default(),
            reaper: Arc::new(Notify::new()),
            owed: Arc::new(Notify::new()),
            freed: Notify::new(),
            locks: Mutex::default(),
        });
        inner.look_ahead().await;
        spawn_reaper(&inner);
        owed::spawn(&inner);
        Ok(Self { inner })
    }

    /// Whether pods can have a network now: by the plugins' own word (STATUS), where CNI serves; else that of the embedded
    /// network, which is renewed in the background. Answers within seconds whatever hangs.
    pub async fn status(&self) -> NetworkStatus {
        match self.inner.choose().await {
            Ok(Choice::Cni(list)) => return self.inner.cni.status(&list).await,
            Ok(Choice::Embedded) => {}
            Err(error @ Error::NoCni { .. }) => {
                return NetworkStatus::not_ready("NetworkPluginNotReady", chain(&error));
            }
            Err(error) => return NetworkStatus::not_ready("CNIConfigInvalid", chain(&error)),
        }
        self.inner.clone().look_ahead_later();
        match &self.inner.preflight().problem {
            Some(problem) => NetworkStatus::not_ready("EmbeddedNetworkNotReady", problem.clone()),
            None => NetworkStatus::ready(),
        }
    }

    /// Takes the pods' subnets from UpdateRuntimeConfig, one or two in CIDR notation with a comma between them. The
    /// embedded network uses them as long as no pod is on its bridge; CNI ignores them.
    pub fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error> {
        self.inner.embedded.set_pod_cidr(cidr)
    }

    /// Gives a pod its network. On failure nothing of it is left, or owed as by [`Self::del`]. Goes on to its end when the
    /// caller goes away.
    pub async fn add(&self, request: AddRequest) -> Result<PodNetwork, Error> {
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            let guard = inner.lock(&request.pod).lock_owned().await;
            inner.add(request, guard).await
        });
        task.await.map_err(|_| Error::Lost("ADD"))?
    }

    /// Takes a pod's network back, from what was recorded; success if there is none. The addresses are free when
    /// the link is gone, which is when the network namespace dies, or 2 s later by force.
    ///
    /// A DEL that fails or takes longer than 20 s is no failure of this call: it is owed ([`Self::owed`]), and tried in the
    /// background until it is done, also over restarts. Until then the network namespace stays pinned, and no other pod gets
    /// the host ports.
    ///
    /// # Errors
    /// A task of ours that ended without an answer. DEL is owed even so.
    pub async fn del(&self, pod: &PodId, netns: Option<OwnedFd>) -> Result<(), Error> {
        // The record says all that is needed, and an open descriptor would keep the namespace and the link alive.
        drop(netns);
        self.inner.del(pod).await
    }

    /// Every DEL that has failed or takes long, the oldest first.
    pub fn owed(&self) -> Vec<OwedDel> {
        self.inner.state().owed()
    }

    /// Compares a pod's network with what was recorded.
    pub async fn check(&self, pod: &PodId, netns: OwnedFd) -> Result<(), Error> {
        let lock = self.inner.lock(pod);
        let _guard = lock.lock().await;
        self.inner.check(pod, netns).await
    }

    /// What a pod has; `None` before ADD has succeeded and from DEL on.
    pub fn get(&self, pod: &PodId) -> Option<PodNetwork> {
        let state = self.inner.state();
        let up =
            state.get(pod).filter(|record| record.phase == Phase::Up && record.boot_id == self.inner.boot_id);
        up.map(describe)
    }

    /// Takes back what is left of pods that the agent does not know, and of all pods of another boot. Called once, after a
    /// start. Only queues it: [`Self::owed`] is worked off in the background, a few at a time. Host ports of the `leaving`, for
    /// which the agent is going to ask for DEL, are waited for by other pods.
    pub async fn recover(&self, known: &HashSet<PodId>, leaving: &[PodId]) {
        for pod in leaving {
            self.inner.state().is_leaving(pod);
        }
        self.inner.recover(known).await;
        gc::spawn(&self.inner);
    }

    /// The configured mode.
    pub fn mode(&self) -> Mode {
        self.inner.chooser.mode()
    }

    /// Removes the bridge, its nftables table and their record, if no pod is on it: for an agent that goes for good.
    /// Whether that was so.
    pub async fn remove_unused(&self) -> Result<bool, Error> {
        if self.inner.state().any_embedded() {
            return Ok(false);
        }
        self.inner.embedded.remove().await.map(|()| true)
    }

    /// Counters of a pod's interfaces, loopback left out.
    pub async fn interface_stats(&self, netns: OwnedFd) -> Result<Vec<InterfaceStats>, Error> {
        thread::one_shot("pod-stats", move || {
            thread::enter(&netns)?;
            let mut socket = Socket::route().map_err(Error::netlink("open a netlink socket"))?;
            let links = link::list(&mut socket).map_err(Error::netlink("list links in the pod"))?;
            Ok(links.into_iter().filter(|link| link.name != "lo").map(stats).collect())
        })
        .await
    }
}

/// Reads the records, and whether CNI has served here. Those of the embedded network of another boot are over: its links are gone.
fn load(dir: &Path, durable: Durable, boot_id: &str) -> Result<(Store, Loaded, bool), Error> {
    let store = Store::open(dir, durable)?;
    let mut loaded = store.load(boot_id)?;
    loaded.records.retain(|record| {
        let is_over = record.boot_id != boot_id && record.is_embedded();
        if is_over && let Err(error) = store.remove(&record.pod) {
            tracing::warn!(pod_sandbox_id = %record.pod, error = chain(&error), "record of a network of another boot");
        }
        !is_over
    });
    let cni_is_noted = store.cni_is_noted()?;
    Ok((store, loaded, cni_is_noted))
}

fn stats(link: link::Link) -> InterfaceStats {
    InterfaceStats {
        name: link.name,
        rx_bytes: link.stats.rx_bytes,
        rx_errors: link.stats.rx_errors,
        tx_bytes: link.stats.tx_bytes,
        tx_errors: link.stats.tx_errors,
    }
}

fn describe(record: &Record) -> PodNetwork {
    match &record.network {
        PodKind::Embedded { addresses, .. } => {
            PodNetwork { ips: addresses.clone(), ifname: IFNAME.to_owned(), ..PodNetwork::default() }
        }
        PodKind::Cni(cni) => PodNetwork {
            ips: cni.result.as_ref().map(|result| addresses(result, IFNAME)).unwrap_or_default(),
            cni_result: cni.result.clone(),
            ifname: IFNAME.to_owned(),
            netns_path: Some(cni.netns.clone()),
        },
    }
}

/// The task ends when the last [`Network`] is gone: it holds the state weakly, and is woken by [`Inner`]'s drop.
fn spawn_reaper(inner: &Arc<Inner>) {
    let (weak, wake) = (Arc::downgrade(inner), inner.reaper.clone());
    tokio::spawn(async move {
        while let Some(inner) = weak.upgrade() {
            reaper::run(&inner).await;
            drop(inner);
            wake.notified().await;
        }
    });
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reaper.notify_one();
        self.owed.notify_one();
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod's link is gone: its addresses are free, and its record has done its duty.
    pub(crate) async fn release(&self, pod: &PodId) -> Result<(), Error> {
        let (store, name) = (self.store.clone(), pod.clone());
        thread::blocking("network", move || store.remove(&name)).await?;
        self.state().remove(pod);
        Ok(())
    }

    fn preflight(&self) -> MutexGuard<'_, Preflight> {
        self.preflight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation at a time for each pod.
    pub(crate) fn lock(&self, pod: &PodId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(pod).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(pod.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Whether the embedded network can serve; a bridge or table that went missing is made anew for the pods on it.
    pub(crate) async fn look_ahead(&self) {
        let is_missing = self.embedded.forget_missing().await;
        if is_missing {
            tracing::warn!("bridge or nftables table of the embedded network went missing: made anew");
        }
        let has_pods = self.state().on_bridge().next().is_some();
        let looked = if is_missing || (has_pods && !self.embedded.is_up().await) {
            self.host().await.map(drop)
        } else {
            self.embedded.preflight().await
        };
        let looked = match looked {
            Ok(()) => self.embedded.pass_other_firewalls().await,
            Err(error) => Err(error),
        };
        let problem = looked.err().map(|error| chain(&error));
        *self.preflight() = Preflight { at: Some(Instant::now()), running: false, problem };
    }

    fn look_ahead_later(self: Arc<Self>) {
        {
            let mut preflight = self.preflight();
            let fresh = preflight.at.is_some_and(|at| at.elapsed() < PREFLIGHT_EVERY);
            if fresh || preflight.running {
                return;
            }
            preflight.running = true;
        }
        // Without a runtime around it the caller gets what was known last.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { self.look_ahead().await });
        } else {
            self.preflight().running = false;
        }
    }

    async fn add(
        self: &Arc<Self>,
        request: AddRequest,
        guard: OwnedMutexGuard<()>,
    ) -> Result<PodNetwork, Error> {
        let ports = host_ports(&request.port_mappings)?;
        let pod = request.pod.clone();
        let made = if let Choice::Cni(list) = self.choose().await? {
            // Without a plugin for them they are nobody's.
            let ports = if list.has_capability("portMappings") { ports } else { Vec::new() };
            self.await_ports(&pod, &ports).await;
            let (record, cni, netns) = self.plan_cni(request, ports, &list)?;
            self.add_cni(record, cni, netns).await
        } else {
            self.await_ports(&pod, &ports).await;
            let host = self.host().await?;
            let (record, netns) = self.plan_embedded(request, ports, &host)?;
            self.add_embedded(record, netns).await
        };
        if made.is_err() {
            self.undo(&pod, guard).await?;
        }
        made
    }

    /// Waits for host ports that only pods have which are being removed, as long as a client waits for DEL. A request that a
    /// dead agent had half done is made again while the first one is undone.
    async fn await_ports(&self, pod: &PodId, ports: &[HostPort]) {
        let deadline = tokio::time::Instant::now() + self.limits.del;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.state().are_soon_free(pod, ports) || timeout_at(deadline, freed).await.is_err() {
                return;
            }
        }
    }

    fn plan_cni(
        &self,
        request: AddRequest,
        ports: Vec<HostPort>,
        list: &ConfList,
    ) -> Result<(Record, CniRecord, OwnedFd), Error> {
        let cni = self.cni.plan(list, &request, &ports)?;
        let record = Record {
            name: request.name,
            namespace: request.namespace,
            ..Record::new(&self.boot_id, request.pod, ports, PodKind::Cni(Box::new(cni.clone())))
        };
        let mut state = self.state();
        state.check(&record.pod, &record.ports)?;
        state.insert(record.clone());
        Ok((record, cni, request.netns))
    }

    async fn add_cni(&self, record: Record, mut cni: CniRecord, netns: OwnedFd) -> Result<PodNetwork, Error> {
        if let Err(error) = self.save(record.clone()).await {
            // Nothing was made.
            self.state().remove(&record.pod);
            return Err(error);
        }
        cni.result = Some({
            let _at_work = self.plugins.read().await;
            self.cni.add(&record, &cni, netns).await?
        });
        let up = |record: &mut Record| {
            record.network = PodKind::Cni(Box::new(cni));
            record.phase = Phase::Up;
        };
        let record = self.state().update(&record.pod, up).ok_or(Error::Lost("ADD"))?;
        self.save(record.clone()).await?;
        Ok(describe(&record))
    }

    fn plan_embedded(
        &self,
        request: AddRequest,
        ports: Vec<HostPort>,
        host: &Host,
    ) -> Result<(Record, OwnedFd), Error> {
        let mut state = self.state();
        state.check(&request.pod, &ports)?;
        let link = link_name(&request.pod);
        let network = PodKind::Embedded { link, addresses: state.free_addresses(&host.subnets)? };
        let record = Record {
            name: request.name,
            namespace: request.namespace,
            ..Record::new(&self.boot_id, request.pod, ports, network)
        };
        state.insert(record.clone());
        Ok((record, request.netns))
    }

    async fn add_embedded(&self, record: Record, netns: OwnedFd) -> Result<PodNetwork, Error> {
        let pod = record.pod.clone();
        let again = netns.try_clone().map_err(Error::io("duplicate the network namespace's descriptor"))?;
        let mut made = self.embedded.connect(record.clone(), netns).await;
        if made.is_err() && (self.embedded.forget_missing().await || !self.embedded.is_up().await) {
            // Somebody removed the bridge. The other pods' links become ports of the new one.
            self.embedded.disconnect(record.clone(), true).await?;
            self.host().await?;
            made = self.embedded.connect(record, again).await;
        }
        let given = made?;
        let record = self.state().update(&pod, |record| {
            record.phase = Phase::Up;
            if let PodKind::Embedded { addresses, .. } = &mut record.network {
                *addresses = given;
            }
        });
        record.as_ref().map(describe).ok_or(Error::Lost("ADD"))
    }

    pub(crate) async fn save(&self, record: Record) -> Result<(), Error> {
        let store = self.store.clone();
        thread::blocking("network", move || store.save(&record)).await
    }

    /// The bridge, made if need be.
    async fn host(&self) -> Result<Arc<Host>, Error> {
        let any = || self.state().on_bridge().next().is_some();
        let pods = || self.state().on_bridge().cloned().collect();
        let host = self.embedded.host(any, pods).await;
        self.preflight().problem = host.as_ref().err().map(|error| chain(error));
        let host = host?;
        self.state().resume_after(&host.subnets);
        Ok(host)
    }

    async fn check(&self, pod: &PodId, netns: OwnedFd) -> Result<(), Error> {
        let record = self.state().get(pod).filter(|record| record.phase == Phase::Up).cloned();
        let record = record.ok_or_else(|| Error::NotFound { pod: pod.short().to_owned() })?;
        if let PodKind::Cni(cni) = &record.network {
            return self.cni.check(&record, cni).await;
        }
        let host = self.host().await?;
        self.embedded.check(host, record, netns).await
    }
}
