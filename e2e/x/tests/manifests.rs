//! What we ship for operators says what they rely on, in every file the same.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

const SOCKET: &str = "unix:///run/holdfast/holdfast.sock";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines that are neither empty nor comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.trim_start().starts_with('#'))
}

/// A unit file as `section: key=value`, in its order (systemd.syntax(7)).
fn unit(text: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in lines(text) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name,
            None => found.push(format!("{section}: {line}")),
        }
    }
    found
}

/// The subset of YAML that these files keep to: one `key: value` a line, plain scalars, nothing nested.
fn flat_yaml(text: &str) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    for line in lines(text) {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("not key: value: {line:?}"));
        let plain = |word: &str| {
            !word.is_empty() && !word.starts_with([' ', '-', '"', '\'', '[', '{', '&', '*', '|'])
        };
        assert!(plain(key) && plain(value) && !value.contains(" #"), "not a plain scalar: {line:?}");
        assert!(found.insert(key, value).is_none(), "twice: {key}");
    }
    found
}

/// Each of these keeps containers alive or the node usable; none may be lost, and none that is not here may come in
/// without a thought.
#[test]
fn the_service_has_the_settings_that_containers_need() {
    let expected = [
        "Unit: Description=Holdfast container runtime",
        "Unit: After=network.target local-fs.target dbus.service",
        "Unit: Before=kubelet.service",
        "Unit: StartLimitIntervalSec=0",
        "Service: Type=notify",
        "Service: ExecStart=/usr/local/bin/holdfast serve",
        "Service: ExecReload=/bin/kill -HUP $MAINPID",
        "Service: Restart=always",
        "Service: RestartSec=1",
        "Service: TimeoutStartSec=90",
        "Service: WatchdogSec=60",
        "Service: KillMode=process",
        "Service: Delegate=yes",
        "Service: OOMPolicy=continue",
        "Service: OOMScoreAdjust=-999",
        "Service: TasksMax=infinity",
        "Service: LimitNOFILE=infinity",
        "Install: WantedBy=multi-user.target",
    ];
    assert_eq!(unit(&read("holdfast.service")), expected);
}

#[test]
fn the_socket_unit_listens_where_the_agent_would() {
    let expected = [
        "Unit: Description=Socket of the Holdfast container runtime".to_owned(),
        format!("Socket: ListenStream={}", SOCKET.trim_start_matches("unix://")),
        "Socket: SocketMode=0600".to_owned(),
        "Socket: DirectoryMode=0700".to_owned(),
        "Install: WantedBy=sockets.target".to_owned(),
    ];
    assert_eq!(unit(&read("holdfast.socket")), expected);
}

#[test]
fn clients_look_where_the_agent_listens() {
    let config: toml::Table = read("config.toml").parse().unwrap();
    assert_eq!(config["listen"].as_str(), Some(SOCKET));
    let text = read("crictl.yaml");
    let crictl = flat_yaml(&text);
    assert_eq!((crictl["runtime-endpoint"], crictl["image-endpoint"]), (SOCKET, SOCKET));
    assert!(
        crictl["timeout"].parse::<u32>().unwrap() > 2,
        "crictl's default of 2 s is too short for a pod's start"
    );
}

#[test]
fn the_kubelet_s_configuration_leaves_the_cgroup_driver_to_us() {
    let text = read("kubelet.yaml");
    let kubelet = flat_yaml(&text);
    assert_eq!(kubelet["apiVersion"], "kubelet.config.k8s.io/v1beta1");
    assert_eq!(kubelet["kind"], "KubeletConfiguration");
    assert_eq!(kubelet["containerRuntimeEndpoint"], SOCKET);
    assert!(!kubelet.contains_key("cgroupDriver") && !kubelet.contains_key("imageServiceEndpoint"));
}

/// A RuntimeClass names a handler, and the configuration has a sample of the one that ours names.
#[test]
fn the_runtime_class_names_a_handler_that_the_configuration_shows() {
    let text = read("runtimeclass.yaml");
    let handler = lines(&text).find_map(|line| line.strip_prefix("handler: ")).unwrap();
    assert!(read("config.toml").contains(&format!("\n#[runtime.handlers.{handler}]\n")), "{handler}");
    assert!(text.contains(&format!("[runtime.handlers.{handler}]")), "{text}");
}

/// The sample gives way to the embedded network, whose bridge may still be there when it is put in place.
#[test]
fn the_sample_cni_network_stands_beside_the_embedded_one() {
    let config: toml::Table = read("config.toml").parse().unwrap();
    let embedded = &config["network"]["embedded"];
    let list: Value = serde_json::from_str(&read("cni/10-holdfast.conflist")).unwrap();
    assert_eq!((&list["cniVersion"], &list["name"]), (&"1.0.0".into(), &"holdfast".into()));
    let types: Vec<&str> =
        list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["bridge", "portmap"]);
    let (bridge, portmap) = (&list["plugins"][0], &list["plugins"][1]);
    assert_eq!(portmap["capabilities"]["portMappings"], true);
    let name = bridge["bridge"].as_str().unwrap();
    assert!(name.len() < 16 && Some(name) != embedded["bridge"].as_str(), "{name}");
    for range in bridge["ipam"]["ranges"].as_array().unwrap() {
        let subnet = range[0]["subnet"].as_str().unwrap();
        let taken = embedded["subnets"].as_array().unwrap();
        assert!(taken.iter().all(|other| other.as_str() != Some(subnet)), "{subnet}");
    }
}
