//! The environment: defaults, then the image's variables, then the container's; a later one replaces an earlier one.

use holdfast_model::{ContainerConfig, ImageConfig};

use crate::error::{SpecError, invalid};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An environment under construction, in the order in which names first came.
#[derive(Default)]
struct Environment {
    variables: Vec<(String, Vec<u8>)>,
    index: std::collections::HashMap<String, usize>,
}

impl Environment {
    /// The name comes no more.
    fn unset(&mut self, key: &str) {
        if let Some(index) = self.index.remove(key) {
            self.variables.remove(index);
            self.index.values_mut().filter(|place| **place > index).for_each(|place| *place -= 1);
        }
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        if let Some(index) = self.index.get(key) {
            self.variables[*index].1 = value.to_vec();
        } else {
            self.index.insert(key.to_owned(), self.variables.len());
            self.variables.push((key.to_owned(), value.to_vec()));
        }
    }
}

/// The environment in two parts: what is UTF-8, for the OCI spec, and what is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// `KEY=VALUE`.
    pub text: Vec<String>,
    /// `KEY=VALUE` with values that are not UTF-8.
    pub raw: Vec<Vec<u8>>,
}

/// The environment of a container. HOSTNAME comes before the image's variables: an image may well say
/// `HOSTNAME=0.0.0.0` for its server to listen on. Last come those of CDI devices.
pub fn environment(
    config: &ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
    of_devices: &[String],
) -> Result<Split, SpecError> {
    let mut all = Environment::default();
    all.set("PATH", DEFAULT_PATH.as_bytes());
    if config.tty {
        all.set("TERM", b"xterm");
    }
    all.set("HOSTNAME", hostname.as_bytes());
    for (index, pair) in image.env.iter().enumerate() {
        // A name alone sets nothing. It takes away what was set, as in containerd and Docker.
        let Some((key, value)) = pair.split_once('=') else {
            all.unset(pair);
            continue;
        };
        check(&format!("image.config.Env[{index}]"), key, value.as_bytes())?;
        all.set(key, value.as_bytes());
    }
    for (index, variable) in config.envs.iter().enumerate() {
        check(&format!("envs[{index}]"), &variable.key, &variable.value)?;
        all.set(&variable.key, &variable.value);
    }
    for pair in of_devices {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        check(&format!("CDI env {key}"), key, value.as_bytes())?;
        all.set(key, value.as_bytes());
    }
    Ok(split(all))
}

fn check(field: &str, key: &str, value: &[u8]) -> Result<(), SpecError> {
    if key.is_empty() || key.contains('=') || key.chars().any(char::is_control) {
        return Err(invalid(field, format!("{key:?} is no name of a variable: no =, no control characters")));
    }
    if value.contains(&0) {
        return Err(invalid(
            field,
            format!("the value of {key} holds a zero byte, which ends a string: take it out"),
        ));
    }
    Ok(())
}

fn split(all: Environment) -> Split {
    let mut split = Split::default();
    for (key, value) in all.variables {
        match String::from_utf8(value) {
            Ok(value) => split.text.push(format!("{key}={value}")),
            Err(error) => split.raw.push([key.as_bytes(), b"=", error.as_bytes()].concat()),
        }
    }
    split
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_model::EnvVar;

    fn config(envs: &[(&str, &[u8])]) -> ContainerConfig {
        let envs =
            envs.iter().map(|(key, value)| EnvVar { key: (*key).into(), value: value.to_vec() }).collect();
        ContainerConfig { envs, ..ContainerConfig::default() }
    }

    fn image(env: &[&str]) -> ImageConfig {
        ImageConfig { env: env.iter().map(ToString::to_string).collect(), ..ImageConfig::default() }
    }

    #[test]
    fn later_ones_replace_earlier_ones_in_place() {
        let mut asked = config(&[("A", b"2"), ("C", b"x=y\nz"), ("B", b"")]);
        asked.tty = true;
        let found = environment(&asked, &image(&["PATH=/bin", "A=1", "B=1"]), "web-0", &[]).unwrap();
        assert_eq!(found.text, ["PATH=/bin", "TERM=xterm", "HOSTNAME=web-0", "A=2", "B=", "C=x=y\nz"]);
        assert!(found.raw.is_empty());
    }

    #[test]
    fn defaults_and_an_image_that_listens_on_hostname() {
        let found = environment(&config(&[]), &image(&["HOSTNAME=0.0.0.0"]), "web-0", &[]).unwrap();
        assert_eq!(found.text, [format!("PATH={DEFAULT_PATH}").as_str(), "HOSTNAME=0.0.0.0"]);
    }

    #[test]
    fn a_name_alone_is_not_set() {
        let of = |env: &[&str]| environment(&config(&[("B", b"2")]), &image(env), "h", &[]).unwrap().text;
        assert_eq!(of(&["PATH=/bin", "FOO", "", "A=1"]), ["PATH=/bin", "HOSTNAME=h", "A=1", "B=2"]);
        // What came before goes, and what comes after stands in the place where it came.
        assert_eq!(of(&["A=1", "C=3", "PATH", "A", "B", "A=4"]), ["HOSTNAME=h", "C=3", "A=4", "B=2"]);
    }

    #[test]
    fn those_of_devices_come_last() {
        let devices = ["A=3", "GPU=0=1"].map(str::to_owned);
        let found = environment(&config(&[("A", b"2")]), &image(&["PATH=/bin"]), "h", &devices).unwrap();
        assert_eq!(found.text, ["PATH=/bin", "HOSTNAME=h", "A=3", "GPU=0=1"]);
    }

    #[test]
    fn bytes_that_are_no_text_go_beside_it_and_share_no_key() {
        let found = environment(
            &config(&[("A", b"\xff\x01"), ("B", b"\xfe"), ("B", b"b")]),
            &image(&["A=1"]),
            "h",
            &[],
        );
        let found = found.unwrap();
        assert_eq!(found.raw, [b"A=\xff\x01"]);
        assert!(
            found.text.contains(&"B=b".to_owned()) && !found.text.iter().any(|pair| pair.starts_with("A="))
        );
    }

    #[test]
    fn what_is_refused_is_named() {
        for (envs, env, part) in [
            (vec![("A=B", b"".as_slice())], vec![], "envs[0]"),
            (vec![("OK", b"".as_slice()), ("", b"")], vec![], "envs[1]"),
            (vec![("A\nB", b"".as_slice())], vec![], "envs[0]"),
            (vec![("KEY", b"a\0b".as_slice())], vec![], "KEY"),
            (vec![], vec!["A=1", "=x"], "image.config.Env[1]"),
            (vec![], vec!["A=\0"], "image.config.Env[0]"),
        ] {
            let error = environment(&config(&envs), &image(&env), "h", &[]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
