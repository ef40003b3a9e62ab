//! The command line `holdfast`.
//!
//! Usage errors end with 2 (clap's), configuration and start errors with 1, `holdfast run` with what
//! [`crate::standalone`] says.

mod args;
mod output;
mod version;

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::{config::Config, imagecli, logging, quarantinecli, serve, standalone};
use args::{Arguments, Command, ImageCommand, QuarantineCommand};

pub use args::{ImageOutput, RunArguments};
pub use output::{print, table};
pub use version::CRI_LEVEL;

/// Runs what the command line says, to its end.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(error) => {
            // A closed stderr is no reason to fail in another way.
            let _ = writeln!(std::io::stderr(), "holdfast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { config, log_level, version, output, command } = arguments;
    if version {
        version::show(output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let source = serve::Source { file: config, log_level };
    let load = || Ok::<_, anyhow::Error>(source.load()?);
    match command {
        None => {
            Arguments::command().print_help()?;
            return Ok(ExitCode::from(2));
        }
        Some(Command::Serve) => {
            let config = load()?;
            let (_flush, losses) = logging::init_for_daemon(config.log_level, config.log_format);
            let activation = serve::Activation::take();
            block_on(async {
                tokio::spawn(losses.report());
                serve::serve(&config, source, activation).await
            })??;
        }
        Some(Command::Run(arguments)) => return run(load(), &arguments),
        Some(Command::Image { command }) => {
            let config = load()?;
            logging::init(config.log_level, config.log_format);
            block_on(image(&config, command))??;
        }
        Some(Command::Quarantine { command }) => {
            let config = load()?;
            logging::init(config.log_level, config.log_format);
            block_on(quarantine(&config, command))??;
        }
        Some(Command::Config { default }) => {
            let config = if default { Config::default() } else { load()? };
            print(&config.to_commented_toml())?;
        }
        Some(Command::Version { output }) => version::show(output)?,
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(
                clap_complete::Shell::from(shell),
                &mut Arguments::command(),
                "holdfast",
                &mut script,
            );
            print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a future to its end. A thread that is still in a system call then does not keep the program.
fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the async runtime")?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(result)
}

/// `holdfast run` ends with the pod's code; our own errors are 125, so that both can be told apart.
fn run(config: anyhow::Result<Config>, arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let ended = config.and_then(|config| {
        logging::init_for_client(config.log_level, config.log_format);
        Ok(block_on(standalone::run(&config, arguments))??)
    });
    match ended {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            writeln!(std::io::stderr(), "holdfast: {error:#}")?;
            Ok(ExitCode::from(standalone::OWN_ERROR))
        }
    }
}

async fn quarantine(config: &Config, command: QuarantineCommand) -> anyhow::Result<()> {
    match command {
        QuarantineCommand::List { output } => quarantinecli::list(config, output).await?,
        QuarantineCommand::Remove { force, ids } => quarantinecli::remove(config, &ids, force).await?,
    }
    Ok(())
}

async fn image(config: &Config, command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Pull { reference, creds } => imagecli::pull(config, &reference, creds).await?,
        ImageCommand::Import { source, name } => imagecli::import(config, &source, name).await?,
        ImageCommand::Tag { image, reference } => imagecli::tag(config, &image, &reference).await?,
        ImageCommand::List { output } => imagecli::list(config, output).await?,
        ImageCommand::Remove { references } => imagecli::remove(config, &references).await?,
    }
    Ok(())
}
