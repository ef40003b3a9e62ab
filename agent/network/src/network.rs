//! [`Network`]: what the agent calls.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use holdfast_model::{PodId, chain};
use tokio::sync::Notify;

use crate::{
    AddRequest, Error, InterfaceStats, NetworkConfig, NetworkStatus, PodNetwork,
    cni::{Cni, PLUGIN_LIMIT, conf::ConfList, owed, result::addresses},
    embedded::{Embedded, pod::IFNAME, pod::link_name, reaper},
    netlink::{Socket, link},
    record::{CniRecord, HostPort, Phase, PodKind, Record, Store, VERSION},
    state::{State, host_ports},
    thread,
};

/// How long a verdict on the embedded network stands before Status has it looked at again.
const PREFLIGHT_EVERY: Duration = Duration::from_secs(5);

/// The pods' networks. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Network {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    boot_id: String,
    store: Store,
    state: Mutex<State>,
    embedded: Embedded,
    pub(crate) cni: Cni,
    preflight: Mutex<Preflight>,
    reaper: Arc<Notify>,
    pub(crate) owed: Arc<Notify>,
    locks: Mutex<HashMap<PodId, Weak<tokio::sync::Mutex<()>>>>,
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
    /// A state directory that cannot be used, or an embedded network that is configured wrongly.
    pub async fn start(config: NetworkConfig) -> Result<Self, Error> {
        Self::start_with_limit(config, PLUGIN_LIMIT).await
    }

    /// As [`Self::start`], with another limit for each CNI plugin.
    pub(crate) async fn start_with_limit(config: NetworkConfig, limit: Duration) -> Result<Self, Error> {
        let NetworkConfig { cni, embedded, state_dir, netns_dir, boot_id } = config;
        let boot = boot_id.clone();
        let (store, records) = thread::blocking("network", move || {
            let store = Store::open(&state_dir)?;
            let records = store.load()?;
            for record in records.iter().filter(|record| is_over(record, &boot)) {
                store.remove(&record.pod)?;
            }
            Ok((store, records))
        })
        .await?;
        let mut state = State::default();
        records
            .into_iter()
            .filter(|record| !is_over(record, &boot_id))
            .for_each(|record| state.insert(record));
        let inner = Arc::new(Inner {
            cni: Cni::new(cni, netns_dir, limit),
            embedded: Embedded::new(&embedded, store.clone(), boot_id.clone())?,
            boot_id,
            store,
            state: Mutex::new(state),
            preflight: Mutex::default(),
            reaper: Arc::new(Notify::new()),
            owed: Arc::new(Notify::new()),
            locks: Mutex::default(),
        });
        inner.look_ahead().await;
        spawn_reaper(&inner);
        owed::spawn(&inner);
        Ok(Self { inner })
    }

    /// Whether pods can have a network now: from CNI where it is configured (a few calls of stat), else from the
    /// embedded network, whose verdict is renewed in the background.
    pub fn status(&self) -> NetworkStatus {
        if let Some(status) = self.inner.cni.status() {
            return status;
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

    /// Gives a pod its network. On failure nothing of it is left. Goes on to its end when the caller goes away.
    pub async fn add(&self, request: AddRequest) -> Result<PodNetwork, Error> {
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            let lock = inner.lock(&request.pod);
            let _guard = lock.lock().await;
            inner.add(request).await
        });
        task.await.map_err(|_| Error::Lost("ADD"))?
    }

    /// Takes a pod's network back, from what was recorded; success if there is none. The addresses are free when
    /// the link is gone, which is when the network namespace dies, or 2 s later by force.
    ///
    /// # Errors
    /// What could not be undone. The record stays, so that the call can be made again.
    pub async fn del(&self, pod: &PodId, netns: Option<OwnedFd>) -> Result<(), Error> {
        // The record says all that is needed, and an open descriptor would keep the namespace and the link alive.
        drop(netns);
        self.inner.clone().del_in_task(pod.clone(), false).await
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

    /// Takes back what is left of pods that the agent does not know, and of all pods of another boot. Called once,
    /// after a start. Goes on after a failure; what failed keeps its record for the next time.
    pub async fn recover(&self, known: &HashSet<PodId>) -> Result<(), Error> {
        self.inner.recover(known).await
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

/// Whether nothing of it can exist any more: the links of another boot are gone.
fn is_over(record: &Record, boot_id: &str) -> bool {
    record.boot_id != boot_id && matches!(record.network, PodKind::Embedded { .. })
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
        let looked = if self.embedded.forget_missing().await {
            tracing::warn!("bridge or nftables table of the embedded network went missing: made anew");
            self.host().await.map(drop)
        } else {
            self.embedded.preflight().await
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

    async fn add(&self, request: AddRequest) -> Result<PodNetwork, Error> {
        let ports = host_ports(&request.port_mappings)?;
        match self.cni.list()? {
            Some(list) => self.add_cni(request, ports, &list).await,
            None => self.add_embedded(request, ports).await,
        }
    }

    async fn add_cni(
        &self,
        request: AddRequest,
        ports: Vec<HostPort>,
        list: &ConfList,
    ) -> Result<PodNetwork, Error> {
        let mut cni = self.cni.plan(list, &request, &ports)?;
        let mut record = Record {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            pod: request.pod.clone(),
            name: request.name,
            namespace: request.namespace,
            phase: Phase::Adding,
            // Without a plugin for them they are nobody's.
            ports: if list.has_capability("portMappings") { ports } else { Vec::new() },
            network: PodKind::Cni(Box::new(cni.clone())),
        };
        {
            let mut state = self.state();
            state.check(&record.pod, &record.ports)?;
            state.insert(record.clone());
        }
        let mut made = self.save(record.clone()).await;
        if made.is_ok() {
            match self.cni.add(&record, &cni, request.netns).await {
                Ok(result) => {
                    cni.result = Some(result);
                    record.network = PodKind::Cni(Box::new(cni));
                    record.phase = Phase::Up;
                    made = self.save(record.clone()).await;
                }
                Err(error) => made = Err(error),
            }
        }
        self.state().insert(record.clone());
        match made {
            Ok(()) => Ok(describe(&record)),
            Err(error) => Err(self.undo_cni(&request.pod, error).await),
        }
    }

    /// DEL after an ADD that failed. If that fails as well the record stays, for the next DEL or recovery.
    async fn undo_cni(&self, pod: &PodId, error: Error) -> Error {
        match self.del(pod, false).await {
            Ok(()) => error,
            Err(Error::Several(more)) => Error::Several(std::iter::once(error).chain(more).collect()),
            Err(other) => Error::Several(vec![error, other]),
        }
    }

    async fn save(&self, record: Record) -> Result<(), Error> {
        let store = self.store.clone();
        thread::blocking("network", move || store.save(&record)).await
    }

    async fn add_embedded(&self, request: AddRequest, ports: Vec<HostPort>) -> Result<PodNetwork, Error> {
        let host = self.host().await?;
        let record = {
            let mut state = self.state();
            state.check(&request.pod, &ports)?;
            let record = Record {
                version: VERSION,
                boot_id: self.boot_id.clone(),
                pod: request.pod.clone(),
                name: request.name,
                namespace: request.namespace,
                phase: Phase::Adding,
                ports,
                network: PodKind::Embedded {
                    link: link_name(&request.pod),
                    addresses: state.free_addresses(&host.subnets)?,
                },
            };
            state.insert(record.clone());
            record
        };
        let netns =
            request.netns.try_clone().map_err(Error::io("duplicate the network namespace's descriptor"))?;
        let mut made = self.embedded.connect(host, record.clone(), request.netns).await;
        if made.is_err() && self.embedded.forget_missing().await {
            // Somebody removed the bridge. The other pods' links become ports of the new one.
            match self.host().await {
                Ok(host) => made = self.embedded.connect(host, record, netns).await,
                Err(error) => made = Err(error),
            }
        }
        let given = match made {
            Ok(given) => given,
            Err(error) => {
                self.state().remove(&request.pod);
                return Err(error);
            }
        };
        let record = self.state().update(&request.pod, |record| {
            record.phase = Phase::Up;
            if let PodKind::Embedded { addresses, .. } = &mut record.network {
                *addresses = given;
            }
        });
        record.as_ref().map(describe).ok_or(Error::Lost("ADD"))
    }

    /// The bridge, made if need be.
    async fn host(&self) -> Result<Arc<crate::embedded::Host>, Error> {
        let on_bridge = |record: &&Record| {
            matches!(record.network, PodKind::Embedded { .. }) && record.phase == Phase::Up
        };
        let pods: Vec<Record> = self.state().records().filter(on_bridge).cloned().collect();
        let host = self.embedded.host(pods).await;
        self.preflight().problem = host.as_ref().err().map(|error| chain(error));
        let host = host?;
        self.state().resume_after(&host.subnets);
        Ok(host)
    }

    async fn del_in_task(self: Arc<Self>, pod: PodId, remove: bool) -> Result<(), Error> {
        let task = tokio::spawn(async move {
            let lock = self.lock(&pod);
            let _guard = lock.lock().await;
            self.del(&pod, remove).await
        });
        task.await.map_err(|_| Error::Lost("DEL"))?
    }

    async fn del(&self, pod: &PodId, remove: bool) -> Result<(), Error> {
        let owed = self.state().get(pod).is_some_and(|record| record.phase == Phase::Unpinning);
        if owed {
            self.owed.notify_one();
            return Ok(());
        }
        let Some(record) = self.state().update(pod, |record| record.phase = Phase::Deleting) else {
            return Ok(());
        };
        let mut errors = Vec::new();
        errors.extend(self.save(record.clone()).await.err());
        let done = match &record.network {
            PodKind::Cni(cni) => match self.cni.del(&record, cni, record.boot_id != self.boot_id).await {
                Ok(()) => {
                    self.unpin(pod, cni).await;
                    return Error::collect(errors);
                }
                Err(error) => Err(error),
            },
            PodKind::Embedded { .. } => self.embedded.disconnect(record.clone(), remove).await,
        };
        match done {
            Ok(lingers) => {
                self.state().update(pod, |record| record.ports.clear());
                if lingers {
                    self.reaper.notify_one();
                } else {
                    errors.extend(self.release(pod).await.err());
                }
            }
            Err(error) => errors.push(error),
        }
        Error::collect(errors)
    }

    /// The end of a DEL. A pin that cannot go yet is no reason for the pod to stay: it is owed.
    async fn unpin(&self, pod: &PodId, cni: &CniRecord) {
        let done = match self.cni.unpin(cni).await {
            Ok(()) => self.release(pod).await,
            Err(error) => Err(error),
        };
        let Err(error) = done else { return };
        tracing::warn!(
            pod_sandbox_id = %pod,
            error = chain(&error),
            "a network namespace stays pinned for now: is something mounted above its directory?"
        );
        let record = self.state().update(pod, |record| {
            record.ports.clear();
            record.phase = Phase::Unpinning;
        });
        if let Some(record) = record
            && let Err(error) = self.save(record).await
        {
            // A restart makes DEL once more, which changes nothing.
            tracing::warn!(pod_sandbox_id = %pod, error = chain(&error), "record of a pin that is to go");
        }
        self.owed.notify_one();
    }

    /// Pods whose pin has yet to go.
    pub(crate) fn owed_pins(&self) -> Vec<PodId> {
        let state = self.state();
        let owed = state.records().filter(|record| record.phase == Phase::Unpinning);
        owed.map(|record| record.pod.clone()).collect()
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

    async fn recover(self: &Arc<Self>, known: &HashSet<PodId>) -> Result<(), Error> {
        let mut errors = Vec::new();
        let over = |record: &&Record| record.boot_id != self.boot_id || !known.contains(&record.pod);
        let unknown: Vec<PodId> =
            self.state().records().filter(over).map(|record| record.pod.clone()).collect();
        for pod in unknown {
            errors.extend(self.clone().del_in_task(pod, true).await.err());
        }
        errors.extend(self.recover_strays(known).await.err());
        if self.state().any_embedded() {
            // Puts right what happened to bridge and rules meanwhile.
            errors.extend(self.host().await.err());
        }
        Error::collect(errors)
    }

    /// Links without a record: that of a known pod is recorded anew from its alias, any other goes.
    async fn recover_strays(&self, known: &HashSet<PodId>) -> Result<(), Error> {
        let links = self.state().links();
        let mut errors = Vec::new();
        for (link, alias) in self.embedded.strays(links).await? {
            match alias.filter(|(pod, _)| known.contains(pod) && self.state().get(pod).is_none()) {
                Some((pod, addresses)) => errors.extend(self.adopt(pod, link, addresses).await.err()),
                None => errors.extend(self.embedded.remove_link(link).await.err()),
            }
        }
        Error::collect(errors)
    }

    async fn adopt(&self, pod: PodId, link: String, addresses: Vec<std::net::IpAddr>) -> Result<(), Error> {
        tracing::warn!(pod_sandbox_id = %pod, link, "record of the pod's network was lost: made anew without host ports");
        let record = Record {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            pod,
            name: String::new(),
            namespace: String::new(),
            phase: Phase::Up,
            ports: Vec::new(),
            network: PodKind::Embedded { link, addresses },
        };
        self.state().insert(record.clone());
        self.save(record).await
    }
}
