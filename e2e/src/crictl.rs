//! The real crictl, with its default configuration but for the endpoint.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{place, process};

/// A client of one endpoint.
#[derive(Debug, Clone)]
pub struct Crictl {
    endpoint: String,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The name of the gRPC code: `NotFound`.
    pub code: String,
    /// All that crictl said.
    pub text: String,
}

impl Crictl {
    /// For `unix:///path`.
    pub fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned() }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A call that is not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(place::crictl());
        // A file of the machine's own would change the defaults.
        command.args(["--config", "/dev/null", "-r", &self.endpoint, "-i", &self.endpoint]);
        if place::slowness() > 1 {
            command.arg("--timeout").arg(format!("{}s", 2 * place::slowness()));
        }
        command.args(args);
        command
    }

    /// Runs crictl and returns all that came of it.
    pub fn call(&self, args: &[&str]) -> Result<Output> {
        process::run(&mut self.command(args))
    }

    /// Runs crictl, which must succeed, and returns its standard output.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.call(args)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("crictl {}: {}: {}", args.join(" "), output.status, text.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The same for JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(args)?;
        serde_json::from_str(&text)
            .with_context(|| format!("parse the output of crictl {}: {text}", args.join(" ")))
    }

    /// Runs crictl, which must fail with a gRPC code.
    pub fn refused(&self, args: &[&str]) -> Result<Refusal> {
        let output = self.call(args)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            bail!("crictl {} succeeded: {}", args.join(" "), String::from_utf8_lossy(&output.stdout));
        }
        let code =
            text.split("code = ").nth(1).map(|rest| rest.split_whitespace().next().unwrap_or_default());
        let code = code.with_context(|| format!("crictl {}: no gRPC code in {text:?}", args.join(" ")))?;
        Ok(Refusal { code: code.to_owned(), text })
    }

    /// State of a container, as CRI has it: `CONTAINER_RUNNING`.
    pub fn container_state(&self, id: &str) -> Result<String> {
        let status = self.json(&["inspect", id])?;
        Ok(status["status"]["state"].as_str().unwrap_or_default().to_owned())
    }
}
