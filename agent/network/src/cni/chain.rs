//! The chain of a list's plugins: ADD forwards, DEL backwards, CHECK; and STATUS and GC, which are about no pod.

use std::{path::PathBuf, time::Duration};

use holdfast_model::PodId;
use serde_json::{Map, Value, json};

use super::{
    conf::{ConfList, PluginConf},
    convert,
    exec::Call,
};
use crate::{Error, embedded::pod::IFNAME};

/// What all calls for one pod have in common.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub(super) list: &'a ConfList,
    /// Nothing for STATUS and GC.
    pub(super) container_id: &'a str,
    pub(super) netns: &'a str,
    pub(super) args: &'a str,
    pub(super) capability_args: Option<&'a Map<String, Value>>,
    pub(super) bin_dirs: &'a [PathBuf],
    pub(super) limit: Duration,
}

impl Chain<'_> {
    /// Runs the plugins in order, each with the result of the one before; the last one's result. All of them are in the
    /// list's version, whatever version a plugin speaks.
    pub(super) async fn add(&self) -> Result<Value, Error> {
        let mut result = Value::Null;
        for plugin in &self.list.plugins {
            let previous = (!result.is_null()).then_some(&result);
            let printed = self.call("ADD", plugin, previous).await?;
            let fault = |message| Error::Plugin { plugin: plugin.kind.clone(), command: "ADD", message };
            let Ok(Value::Object(printed)) = serde_json::from_slice(&printed) else {
                return Err(fault(format!("printed no result but {:?}", super::result::excerpt(&printed))));
            };
            result = convert::to(self.list.version, printed).map_err(fault)?;
        }
        Ok(result)
    }

    /// Runs the plugins backwards, all of them whatever the others say.
    pub(super) async fn del(&self, result: Option<&Value>) -> Result<(), Error> {
        let mut errors = Vec::new();
        // Before 0.4.0 DEL has no previous result.
        let result = result.filter(|_| self.list.has_check());
        for plugin in self.list.plugins.iter().rev() {
            errors.extend(self.call("DEL", plugin, result).await.err());
        }
        Error::collect(errors)
    }

    /// Asks every plugin whether all is as it was; success where list or version leave CHECK out.
    pub(super) async fn check(&self, result: &Value) -> Result<(), Error> {
        if self.list.disable_check || !self.list.has_check() {
            return Ok(());
        }
        for plugin in &self.list.plugins {
            self.call("CHECK", plugin, Some(result)).await?;
        }
        Ok(())
    }

    /// Asks every plugin whether it can serve ADD; success where the version has no STATUS.
    pub(super) async fn status(&self) -> Result<(), Error> {
        if !self.list.has_status_and_gc() {
            return Ok(());
        }
        for plugin in &self.list.plugins {
            self.call("STATUS", plugin, None).await?;
        }
        Ok(())
    }

    /// Tells every plugin which attachments there are, container id and interface: what it keeps for others may go.
    pub(super) async fn gc(&self, valid: &[PodId]) -> Result<(), Error> {
        if self.list.disable_gc || !self.list.has_status_and_gc() {
            return Ok(());
        }
        let valid = valid.iter().map(|pod| json!({"containerID": pod, "ifname": IFNAME})).collect();
        let mut errors = Vec::new();
        for plugin in &self.list.plugins {
            let mut conf = self.conf(plugin);
            conf.insert("cni.dev/valid-attachments".to_owned(), Value::Array(Vec::clone(&valid)));
            errors.extend(self.run("GC", plugin, conf).await.err());
        }
        Error::collect(errors)
    }

    async fn call(
        &self,
        command: &'static str,
        plugin: &PluginConf,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, Error> {
        let mut conf = self.conf(plugin);
        if let Some(previous) = previous {
            conf.insert("prevResult".to_owned(), previous.clone());
        }
        self.run(command, plugin, conf).await
    }

    async fn run(
        &self,
        command: &'static str,
        plugin: &PluginConf,
        conf: Map<String, Value>,
    ) -> Result<Vec<u8>, Error> {
        let call = Call {
            plugin: &plugin.kind,
            command,
            container_id: self.container_id,
            netns: self.netns,
            args: self.args,
            ifname: if self.container_id.is_empty() { "" } else { IFNAME },
            input: Value::Object(conf).to_string().into_bytes(),
            bin_dirs: self.bin_dirs,
            limit: self.limit,
        };
        call.run().await
    }

    /// The plugin's configuration with what libcni adds to it.
    fn conf(&self, plugin: &PluginConf) -> Map<String, Value> {
        let mut conf = plugin.conf.clone();
        conf.insert("cniVersion".to_owned(), json!(self.list.version));
        conf.insert("name".to_owned(), json!(self.list.name));
        let runtime: Map<String, Value> = plugin
            .capabilities
            .iter()
            .filter_map(|name| Some((name.clone(), self.capability_args?.get(name)?.clone())))
            .collect();
        if !runtime.is_empty() {
            conf.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        conf
    }
}
