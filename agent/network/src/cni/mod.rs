//! CNI: the configuration in force, ADD, DEL and CHECK for a pod, and STATUS and GC.
//!
//! The first configuration of the directory counts, as in libcni; a broken one makes the node not ready, since the
//! next one would be another network. Whether it changed is looked at when it is needed, by names, times and sizes.
//! Each pod's record keeps the list that ADD used and its result, so that DEL undoes what was done.

mod args;
mod cache;
mod chain;
pub(crate) mod conf;
mod convert;
mod exec;
mod leftovers;
mod pin;
pub(crate) mod result;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use holdfast_model::PodId;
use serde_json::Value;
use tokio::time::timeout;

use self::{cache::Cache, chain::Chain, conf::ConfList, verdict::Verdict};
use crate::{
    AddRequest, CniConfig, Error, NetworkStatus,
    embedded::pod::IFNAME,
    netlink::{Socket, link},
    record::{CniRecord, HostPort, PodKind, Record},
    thread,
};

/// How long one plugin may take: cloud networks need tens of seconds, and the kubelet gives up after 4 minutes.
pub(crate) const PLUGIN_LIMIT: Duration = Duration::from_secs(90);
/// Limit of a look at the configuration's directories.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// The CNI side of the network.
#[derive(Debug)]
pub(crate) struct Cni {
    config: CniConfig,
    netns_dir: PathBuf,
    limit: Duration,
    cache: Mutex<Cache>,
    verdict: Verdict,
}

impl Cni {
    pub(crate) fn new(config: CniConfig, netns_dir: PathBuf, limit: Duration) -> Self {
        Self { config, netns_dir, limit, cache: Mutex::default(), verdict: Verdict::default() }
    }

    /// The list in force; `None` if there is no configuration.
    ///
    /// # Errors
    /// A mistake in it, and a directory that cannot be read within 5 s.
    pub(crate) async fn list(self: &Arc<Self>) -> Result<Option<Arc<ConfList>>, Error> {
        let cni = self.clone();
        let look = thread::blocking("network", move || cni.look());
        let stage = || format!("reading {}", self.config.conf_dir.display());
        timeout(LOOK_LIMIT, look)
            .await
            .map_err(|_| Error::Timeout { stage: stage(), seconds: LOOK_LIMIT.as_secs() })?
    }

    /// As [`Self::list`]. Blocking.
    fn look(&self) -> Result<Option<Arc<ConfList>>, Error> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).list(&self.config.conf_dir)
    }

    /// Directory of the configurations.
    pub(crate) fn conf_dir(&self) -> &Path {
        &self.config.conf_dir
    }

    /// Whether the plugins of the list can serve pods.
    pub(crate) async fn status(self: &Arc<Self>, list: &Arc<ConfList>) -> NetworkStatus {
        let (cni, looked_for) = (self.clone(), list.clone());
        let look = thread::blocking("network", move || {
            let mut plugins = looked_for.plugins.iter();
            Ok(plugins.find(|plugin| exec::find(&plugin.kind, &cni.config.bin_dirs).is_none()).cloned())
        });
        match timeout(LOOK_LIMIT, look).await {
            Ok(Ok(None)) if list.has_status_and_gc() => self.verdict(list).await,
            Ok(Ok(None)) => NetworkStatus::ready(),
            Ok(Ok(Some(plugin))) => {
                let message = exec::not_found(&plugin.kind, &self.config.bin_dirs);
                NetworkStatus::not_ready("CNIPluginMissing", format!("{}: {message}", list.file.display()))
            }
            Ok(Err(error)) => NetworkStatus::not_ready("CNIPluginMissing", holdfast_model::chain(&error)),
            Err(_) => NetworkStatus::not_ready(
                "CNIPluginMissing",
                format!(
                    "no answer from the directories of network.cni.bin_dirs within {} s",
                    LOOK_LIMIT.as_secs()
                ),
            ),
        }
    }

    /// Tells the plugins of the list which pods there are on its network; what they keep for others may go.
    pub(crate) async fn gc(&self, list: &ConfList, valid: &[PodId], limit: Duration) -> Result<(), Error> {
        self.chain_of_no_pod(list, limit).gc(valid).await
    }

    /// What ADD is going to do, for the record.
    pub(crate) fn plan(
        &self,
        list: &ConfList,
        request: &AddRequest,
        ports: &[HostPort],
    ) -> Result<CniRecord, Error> {
        Ok(CniRecord {
            conf: list.raw.clone(),
            file: list.file.clone(),
            args: args::cni_args(request)?,
            capability_args: args::capability_args(request, ports)?,
            netns: pin::path(&self.netns_dir, &request.pod),
            result: None,
        })
    }

    /// A record in the place of one that was torn, for DEL alone: with the configuration of now, and of this boot if the
    /// namespace is still pinned.
    pub(crate) fn stand_in(&self, list: &ConfList, pod: PodId, boot_id: &str) -> Record {
        let cni = CniRecord {
            conf: list.raw.clone(),
            file: list.file.clone(),
            args: args::of_lost(&pod),
            capability_args: serde_json::Map::new(),
            netns: pin::path(&self.netns_dir, &pod),
            result: None,
        };
        let boot_id = if pin::is_pinned(&cni.netns) { boot_id } else { "" };
        Record::new(boot_id, pod, Vec::new(), PodKind::Cni(Box::new(cni)))
    }

    /// Pins the namespace, sets loopback up and runs the chain; the result, which has an address of the pod. Undoes
    /// nothing.
    pub(crate) async fn add(&self, record: &Record, cni: &CniRecord, netns: OwnedFd) -> Result<Value, Error> {
        let path = cni.netns.clone();
        thread::one_shot("pod-network", move || {
            pin::pin(&path, &netns)?;
            thread::enter(&netns)?;
            let mut socket = Socket::route().map_err(Error::netlink("open a netlink socket in the pod"))?;
            link::set_up(&mut socket, LOOPBACK).map_err(Error::netlink("set lo up in the pod"))
        })
        .await?;
        let list = conf::parse_list(&cni.file, cni.conf.clone())?;
        let netns = cni.netns.to_string_lossy();
        let result = self.chain(&list, record, cni, &netns).add().await?;
        if result::addresses(&result, IFNAME).is_empty() {
            let reason = format!(
                "the result has no address of {IFNAME}: {}",
                result::excerpt(result.to_string().as_bytes())
            );
            return Err(Error::CniConfig { file: cni.file.clone(), reason });
        }
        Ok(result)
    }

    /// Runs the chain backwards with the cached configuration and result. A namespace that is gone (`is_over`: of another
    /// boot) has an empty path, as the specification wants it.
    pub(crate) async fn del(&self, record: &Record, cni: &CniRecord, is_over: bool) -> Result<(), Error> {
        let path = cni.netns.clone();
        let pinned = thread::blocking("pod-network", move || Ok(!is_over && pin::is_pinned(&path))).await?;
        let netns = if pinned { cni.netns.to_string_lossy() } else { "".into() };
        let list = conf::parse_list(&cni.file, cni.conf.clone())?;
        self.chain(&list, record, cni, &netns).del(cni.result.as_ref()).await
    }

    /// Waits for what an earlier call for the pod has left at work, and ends it after a grace period.
    pub(crate) async fn end_plugins(&self, pod: &PodId) -> Result<(), Error> {
        let pod = pod.clone();
        thread::blocking("pod-network", move || leftovers::end(&pod, leftovers::GRACE)).await
    }

    /// Takes the pin of the namespace away. Once DEL is done: one that has to be made again finds the namespace.
    pub(crate) async fn unpin(&self, cni: &CniRecord) -> Result<(), Error> {
        let path = cni.netns.clone();
        thread::blocking("pod-network", move || pin::unpin(&path)).await
    }

    /// Runs CHECK along the chain.
    pub(crate) async fn check(&self, record: &Record, cni: &CniRecord) -> Result<(), Error> {
        let path = cni.netns.clone();
        if !thread::blocking("pod-network", move || Ok(pin::is_pinned(&path))).await? {
            let reason = format!("no network namespace is pinned at {}", cni.netns.display());
            return Err(Error::Check { pod: record.pod.short().to_owned(), reason });
        }
        let list = conf::parse_list(&cni.file, cni.conf.clone())?;
        let netns = cni.netns.to_string_lossy();
        let result = cni.result.clone().unwrap_or_default();
        self.chain(&list, record, cni, &netns).check(&result).await
    }

    fn chain<'a>(
        &'a self,
        list: &'a ConfList,
        record: &'a Record,
        cni: &'a CniRecord,
        netns: &'a str,
    ) -> Chain<'a> {
        Chain {
            list,
            container_id: record.pod.as_str(),
            netns,
            args: &cni.args,
            capability_args: Some(&cni.capability_args),
            bin_dirs: &self.config.bin_dirs,
            limit: self.limit,
        }
    }

    fn chain_of_no_pod<'a>(&'a self, list: &'a ConfList, limit: Duration) -> Chain<'a> {
        Chain {
            list,
            container_id: "",
            netns: "",
            args: "",
            capability_args: None,
            bin_dirs: &self.config.bin_dirs,
            limit,
        }
    }
}
