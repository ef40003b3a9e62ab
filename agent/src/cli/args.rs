//! What can be written on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::LogLevel;

/// A Kubernetes node agent: it serves CRI to the kubelet, or runs a single pod.
#[derive(Debug, Parser)]
#[command(name = "holdfast", bin_name = "holdfast", disable_version_flag = true)]
pub(super) struct Arguments {
    /// Reads the configuration from this file, and from conf.d beside it, instead of /etc/holdfast/config.toml.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Logs this and what is worse, whatever the configuration says.
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Prints the version, the commit and the level of CRI.
    #[arg(short = 'V', long)]
    pub version: bool,
    /// Says how --version prints.
    #[arg(short, long, value_enum, default_value_t, requires = "version", hide_possible_values = true)]
    pub output: VersionOutput,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serves CRI on the configured socket until SIGTERM or SIGINT. Containers go on when it ends.
    Serve,
    /// Runs the pod of a manifest, follows its logs and removes it at its end.
    #[command(after_long_help = RUN_HELP)]
    Run(RunArguments),
    /// Pulls, imports, lists and removes images.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Lists and removes pods and containers whose records cannot be read by this version.
    #[command(after_long_help = QUARANTINE_HELP)]
    Quarantine {
        #[command(subcommand)]
        command: QuarantineCommand,
    },
    /// Prints the configuration in force as commented TOML.
    Config {
        /// Prints the defaults instead.
        #[arg(long)]
        default: bool,
    },
    /// Prints the version, the commit and the level of CRI.
    Version {
        /// Says how to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: VersionOutput,
    },
    /// Prints a completion script for a shell.
    Completion {
        /// The shell that will read it.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// What a manifest leaves open, and how a run ends.
const RUN_HELP: &str = "\
The agent that listens does the work; without one the same service runs in this process. A field that is not acted upon
is refused by its path, and nothing is started.

Where the manifest leaves a choice: containers run under the default seccomp profile unless they are privileged or say
otherwise; images are pulled before the pod is made, those with imagePullPolicy Always once for each run; dnsPolicy
ClusterFirst means Default.

Exit codes: 0 if all containers succeeded, else the code of the one that failed first; 128 for a command that cannot be
started; 125 for everything that is not a container's fault; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.";

/// The way into the quarantine and out of it.
const QUARANTINE_HELP: &str = "\
A record that makes no sense, after a power cut perhaps, is set aside at the start of the agent: its directory is renamed to
<id>.unreadable. One that a newer version has written stays where it is, and that version reads it again. What such
records name is left alone: its processes, its network and its images. A container among them ends with its pod.

Both commands work beside an agent as well as without one. The network and the images of what was removed are given back at the
next start of the agent.";

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// Lists what is in quarantine, why, its size on disk, and which of its processes live.
    #[command(visible_alias = "ls")]
    List {
        /// Says how to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: ImageOutput,
    },
    /// Removes pods and containers from the quarantine with all their files. One that still runs is refused.
    #[command(visible_alias = "rm")]
    Remove {
        /// Kills what still runs.
        #[arg(short, long)]
        force: bool,
        /// Ids, or their first digits.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// `holdfast run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// A file with exactly one v1 Pod; `-` reads it from stdin.
    #[arg(value_name = "FILE.yaml")]
    pub manifest: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Pulls an image from its registry.
    Pull {
        /// The image, by tag or digest: docker.io and library/ are completed.
        reference: String,
        /// Logs in to the registry with this user and password.
        #[arg(long, value_name = "USER:PASSWORD", value_parser = credentials)]
        creds: Option<Credentials>,
    },
    /// Imports the images of an OCI layout or of a docker archive.
    Import {
        /// The archive (plain, gzip or zstd), the directory of a layout, or `-` for an archive on stdin.
        #[arg(value_name = "FILE")]
        source: PathBuf,
        /// Names the image if the archive does not.
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// Gives an image a further name. Another image that has it loses it.
    Tag {
        /// The image, by name, digest or id.
        image: String,
        /// The further name, a repository and a tag: docker.io and library/ are completed.
        reference: String,
    },
    /// Lists the images that are here.
    #[command(visible_alias = "ls")]
    List {
        /// Says how to print them.
        #[arg(short, long, value_enum, default_value_t)]
        output: ImageOutput,
    },
    /// Removes images with all their names.
    #[command(visible_alias = "rm")]
    Remove {
        /// Names, digests or ids.
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
    },
}

/// How images are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ImageOutput {
    /// A table.
    #[default]
    Table,
    /// JSON.
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum VersionOutput {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

/// What `--creds` says; its `Debug` shows no password.
pub(super) type Credentials = holdfast_model::Credentials;

fn credentials(text: &str) -> Result<Credentials, &'static str> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => {
            Ok(Credentials { username: user.into(), password: password.into(), ..Credentials::default() })
        }
        _ => Err("it is not of the form USER:PASSWORD"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in
            ["holdfast --config /c serve --log-level debug", "holdfast serve --config /c --log-level debug"]
        {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.config.unwrap().to_str(), Some("/c"));
            assert_eq!(arguments.log_level, Some(LogLevel::Debug));
            assert!(matches!(arguments.command, Some(Command::Serve)));
        }
    }

    #[test]
    fn versions() {
        let arguments = parse("holdfast --version -o json").unwrap();
        assert!(arguments.version && arguments.output == VersionOutput::Json);
        let arguments = parse("holdfast version -o json").unwrap();
        assert!(matches!(arguments.command, Some(Command::Version { output: VersionOutput::Json })));
    }

    #[test]
    fn credentials_are_split_at_the_first_colon() {
        let arguments = parse("holdfast image pull a:1 --creds u:p:w").unwrap();
        let Some(Command::Image { command: ImageCommand::Pull { creds: Some(creds), .. } }) =
            arguments.command
        else {
            panic!("{arguments:?}")
        };
        assert_eq!((creds.username.as_str(), creds.password.as_str()), ("u", "p:w"));
        assert!(!format!("{creds:?}").contains("p:w"));
    }

    #[test]
    fn usage_errors_end_with_2() {
        for line in [
            "holdfast serve extra",
            "holdfast run",
            "holdfast image pull",
            "holdfast image remove",
            "holdfast quarantine remove",
            "holdfast image pull a --creds user",
            "holdfast image list -o yaml",
            "holdfast completion tcsh",
            "holdfast --log-level loud serve",
            "holdfast bogus",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn everything_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().filter(|command| command.get_name() != "help").for_each(check);
        }
        check(&Arguments::command());
    }
}
