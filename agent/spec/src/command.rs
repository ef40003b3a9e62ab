//! What is run, where, and how it is stopped.

use holdfast_model::{ContainerConfig, ImageConfig};

use crate::{
    error::{SpecError, invalid},
    signal, text,
};

const SIGTERM: i32 = 15;

/// The argument list, from the container's command and args and the image's entrypoint and cmd: a command replaces both
/// of the image's, args alone replace cmd (CRI's ContainerConfig, as Docker's).
pub fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    check("command", &config.command)?;
    check("args", &config.args)?;
    let (first, rest) = if config.command.is_empty() {
        check("image.config.Entrypoint", &image.entrypoint)?;
        check("image.config.Cmd", &image.cmd)?;
        // An entrypoint of one empty string is how an image takes back that of its base.
        let entrypoint: &[String] = if image.entrypoint == [""] { &[] } else { &image.entrypoint };
        (entrypoint, if config.args.is_empty() { &image.cmd } else { &config.args })
    } else {
        (config.command.as_slice(), &config.args)
    };
    let all = [first, rest.as_slice()].concat();
    match all.first() {
        None => Err(invalid("command", "no command: the image has none, so name one")),
        Some(program) if program.is_empty() => {
            Err(invalid("command", "the command is empty: name a program"))
        }
        Some(_) => Ok(all),
    }
}

fn check(field: &str, list: &[String]) -> Result<(), SpecError> {
    list.iter()
        .enumerate()
        .try_for_each(|(index, part)| text::no_zero(&format!("{field}[{index}]"), part.as_bytes()))
}

/// The working directory: the container's, else the image's, else the root.
pub fn working_dir(config: &ContainerConfig, image: &ImageConfig) -> Result<String, SpecError> {
    let (field, path) = match (config.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => return Ok("/".to_owned()),
        ("", path) => ("image.config.WorkingDir", path),
        (path, _) => ("working_dir", path),
    };
    text::absolute(field, path)?;
    Ok(path.to_owned())
}

/// The number of the signal that asks the container to end: the container's, else the image's, else SIGTERM.
pub fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> Result<i32, SpecError> {
    match (config.stop_signal, image.stop_signal.as_str()) {
        (Some(number), _) if (1..=signal::LAST).contains(&number) => Ok(number),
        (Some(number), _) => {
            Err(invalid("stop_signal", format!("{number} is not a signal from 1 to {}", signal::LAST)))
        }
        (None, "") => Ok(SIGTERM),
        (None, name) => signal::parse(name).ok_or_else(|| {
            let problem =
                format!("{name:?} is no signal: set the container's stop_signal, or rebuild the image");
            invalid("image.config.StopSignal", problem)
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn command_and_args_against_entrypoint_and_cmd() {
        // command, args, entrypoint, cmd, expected
        let table: &[[&[&str]; 5]] = &[
            [&[], &[], &["e"], &["c"], &["e", "c"]],
            [&[], &["a"], &["e"], &["c"], &["e", "a"]],
            [&["k"], &[], &["e"], &["c"], &["k"]],
            [&["k"], &["a"], &["e"], &["c"], &["k", "a"]],
            [&[], &[], &[], &["c"], &["c"]],
            [&[], &["a"], &[], &["c"], &["a"]],
            [&[], &[], &[""], &["c"], &["c"]],
            [&["sh", "-c", "a\nb"], &[], &[], &[], &["sh", "-c", "a\nb"]],
        ];
        for [command, args, entrypoint, cmd, expected] in table {
            let config = ContainerConfig {
                command: strings(command),
                args: strings(args),
                ..ContainerConfig::default()
            };
            let image =
                ImageConfig { entrypoint: strings(entrypoint), cmd: strings(cmd), ..ImageConfig::default() };
            assert_eq!(arguments(&config, &image).unwrap(), strings(expected));
        }
    }

    #[test]
    fn no_command_and_bad_ones() {
        let config =
            |command: &[&str]| ContainerConfig { command: strings(command), ..ContainerConfig::default() };
        let image = ImageConfig::default();
        assert!(arguments(&config(&[]), &image).unwrap_err().to_string().contains("no command"));
        assert!(arguments(&config(&["", "x"]), &image).unwrap_err().to_string().contains("empty"));
        assert!(arguments(&config(&["a", "b\0"]), &image).unwrap_err().to_string().contains("command[1]"));
        let hostile = ImageConfig { cmd: strings(&["a\0"]), ..ImageConfig::default() };
        assert!(arguments(&config(&[]), &hostile).unwrap_err().to_string().contains("image.config.Cmd[0]"));
        assert!(arguments(&config(&["fine"]), &hostile).is_ok(), "it is not used");
    }

    #[test]
    fn working_directories() {
        let find = |own: &str, image: &str| {
            let config = ContainerConfig { working_dir: own.into(), ..ContainerConfig::default() };
            working_dir(&config, &ImageConfig { working_dir: image.into(), ..ImageConfig::default() })
        };
        assert_eq!(find("", "").unwrap(), "/");
        assert_eq!(find("", "/app").unwrap(), "/app");
        assert_eq!(find("/w", "app").unwrap(), "/w");
        assert!(find("w", "/app").unwrap_err().to_string().starts_with("working_dir: \"w\""));
        assert!(find("", "app").unwrap_err().to_string().starts_with("image.config.WorkingDir"));
        assert!(find("/a\nb", "").is_err());
    }

    #[test]
    fn stop_signals() {
        let find = |own: Option<i32>, image: &str| {
            let config = ContainerConfig { stop_signal: own, ..ContainerConfig::default() };
            stop_signal(&config, &ImageConfig { stop_signal: image.into(), ..ImageConfig::default() })
        };
        assert_eq!(find(None, "").unwrap(), 15);
        assert_eq!(find(None, "SIGQUIT").unwrap(), 3);
        assert_eq!(find(Some(10), "nonsense").unwrap(), 10);
        assert!(find(Some(0), "").is_err() && find(Some(65), "").is_err() && find(Some(-1), "").is_err());
        assert!(find(None, "nonsense").unwrap_err().to_string().contains("nonsense"));
    }
}
