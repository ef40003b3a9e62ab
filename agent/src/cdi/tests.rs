//! Tests of the look-up of devices, from files to edits.

use std::{ffi::OsString, fs, os::unix::fs::symlink, path::Path};

use proptest::prelude::*;

use super::{schema::parse, *};

/// Two folders with these files: `"0/a.yaml"` is in the first one.
fn folders(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let base = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = ["0", "1"].map(|name| base.path().join(name)).to_vec();
    for folder in &folders {
        fs::create_dir(folder).unwrap();
    }
    for (name, text) in files {
        fs::write(base.path().join(name), text).unwrap();
    }
    (base, folders)
}

fn spec(kind: &str, device: &str, value: &str) -> String {
    format!(
        "cdiVersion: 0.5.0\nkind: {kind}\ncontainerEdits: {{env: [\"ALL={value}\"]}}\ndevices:\n- name: {device}\n  \
         containerEdits: {{env: [\"{device}={value}\"]}}\n"
    )
}

fn asked(names: &[&str]) -> Vec<Name> {
    let config = ContainerConfig {
        cdi_devices: names.iter().map(ToString::to_string).collect(),
        ..ContainerConfig::default()
    };
    super::names(&config).unwrap()
}

fn env(folders: &[PathBuf], names: &[&str]) -> Vec<String> {
    resolve(folders, &asked(names)).unwrap().env
}

fn error(folders: &[PathBuf], names: &[&str]) -> String {
    resolve(folders, &asked(names)).unwrap_err().to_string()
}

#[test]
fn a_specs_own_edits_come_once_and_first() {
    let two = "cdiVersion: v0.5.0\nkind: v.com/gpu\ncontainerEdits: {env: [ALL=1]}\ndevices:\n- name: 0\n  \
               containerEdits: {env: [ZERO=1]}\n- {name: one, containerEdits: {env: [ONE=1]}}\n";
    let (_base, folders) = folders(&[("0/gpu.yaml", two), ("0/nic.yaml", &spec("v.com/nic", "a", "x"))]);
    assert_eq!(
        env(&folders, &["v.com/gpu=one", "v.com/nic=a", "v.com/gpu=0"]),
        ["ALL=1", "ONE=1", "ALL=x", "a=x", "ZERO=1"]
    );
    assert!(env(&folders, &[]).is_empty());
}

#[test]
fn every_field_of_a_file_is_read_as_json_and_as_yaml() {
    let json = r#"{
	"cdiVersion": "0.7.0", "kind": "vendor.com/device", "annotations": {"a": "b"},
	"devices": [{"name": "dev0", "annotations": null, "containerEdits": {
		"env": ["A=1"],
		"deviceNodes": [{"path": "/dev/d", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3,
			"fileMode": 438, "permissions": "rw", "uid": 1, "gid": 2}, {"path": "/dev/e", "permissions": "none"}],
		"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind", "options": ["ro", "bind"]}],
		"hooks": [{"hookName": "createRuntime", "path": "/bin/h", "args": ["h"], "env": ["B=2"], "timeout": 3}],
		"additionalGids": [7], "intelRdt": {"closID": "c", "l3CacheSchema": "s", "memBwSchema": "m", "enableCMT": true}
	}}],
	"containerEdits": {"env": null}
}"#;
    let yaml = "---\n# comment\ncdiVersion: \"0.7.0\"\nkind: vendor.com/device\nannotations: {a: b}\ndevices:\n- name: dev0\n  \
                annotations:\n  containerEdits:\n    env: [A=1]\n    deviceNodes:\n    - {path: /dev/d, hostPath: /dev/null, \
                type: c, major: 1, minor: 3, fileMode: 0666, permissions: rw, uid: 1, gid: 2}\n    \
                - {path: /dev/e, permissions: none}\n    mounts:\n    - hostPath: /a\n      containerPath: /b\n      \
                type: bind\n      options: [ro, bind]\n    hooks:\n    - {hookName: createRuntime, path: /bin/h, args: [h], \
                env: [B=2], timeout: 3}\n    additionalGIDs: [7]\n    intelRdt: {closID: c, l3CacheSchema: s, memBwSchema: m, \
                enableCMT: true}\ncontainerEdits:\n  env:\n";
    let of_json = parse(Path::new("a.json"), json.as_bytes()).unwrap();
    let of_yaml = parse(Path::new("a.yaml"), yaml.as_bytes()).unwrap();
    assert_eq!(of_json, of_yaml);
    let edits = &of_json.devices[0].container_edits;
    assert_eq!(
        (edits.device_nodes[0].file_mode, edits.additional_gids.as_slice()),
        (Some(0o666), [7].as_slice())
    );
    assert_eq!(edits.hooks[0].timeout, Some(3));
    assert!(edits.intel_rdt.as_ref().unwrap().enable_cmt);
    let without = parse(Path::new("c.json"), json.replace("{\"env\": null}", "null").as_bytes()).unwrap();
    assert_eq!(without, of_json);
    // JSON is YAML, too.
    assert_eq!(parse(Path::new("b.yaml"), json.replace('\t', " ").as_bytes()).unwrap(), of_json);
}

#[test]
fn later_folders_win() {
    let (_base, folders) = folders(&[
        ("0/a.yaml", &spec("v.com/gpu", "a", "old")),
        ("0/b.yaml", &spec("v.com/gpu", "b", "only")),
        (
            "1/z.json",
            &format!(
                "{{\"cdiVersion\":\"1.0.0\",\"kind\":\"v.com/gpu\",\"devices\":[{}]}}",
                "{\"name\":\"a\",\"containerEdits\":{\"env\":[\"a=new\"]}}"
            ),
        ),
    ]);
    assert_eq!(env(&folders, &["v.com/gpu=a"]), ["a=new"]);
    assert_eq!(env(&folders, &["v.com/gpu=b"]), ["ALL=only", "b=only"]);
}

#[test]
fn a_conflict_names_both_files_and_concerns_nobody_else() {
    let (base, folders) = folders(&[
        ("0/a.yaml", &spec("v.com/gpu", "a", "1")),
        ("0/b.yaml", &spec("v.com/gpu", "a", "2")),
        ("0/c.yaml", &spec("v.com/gpu", "c", "3")),
    ]);
    let said = error(&folders, &["v.com/gpu=a"]);
    assert!(said.contains("0/a.yaml") && said.contains("0/b.yaml"), "{said}");
    assert_eq!(env(&folders, &["v.com/gpu=c"]), ["ALL=3", "c=3"]);
    // What is above both settles it.
    fs::write(base.path().join("1/a.yaml"), spec("v.com/gpu", "a", "4")).unwrap();
    assert_eq!(env(&folders, &["v.com/gpu=a"]), ["ALL=4", "a=4"]);
}

#[test]
fn unknown_devices_are_all_named_with_the_folders() {
    let (_base, folders) =
        folders(&[("0/a.yaml", &spec("v.com/gpu", "a", "1")), ("1/broken.yaml", "kind: [")]);
    let said = error(&folders, &["v.com/gpu=a", "v.com/gpu=b", "v.com/nic=a"]);
    for part in ["v.com/gpu=b, v.com/nic=a", "/0 or ", "/1 ", "1/broken.yaml cannot be read: line 2"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("v.com/gpu=a,"), "{said}");
    assert!(error(&[], &["v.com/gpu=a"]).contains("cdi.spec_dirs is empty"));
    assert!(error(&["/no/such/folder".into()], &["v.com/gpu=a"]).contains("/no/such/folder"));
}

#[test]
fn a_bad_file_matters_only_to_those_who_ask_for_its_devices() {
    let bad = spec("v.com/gpu", "bad", "1") + "more: 1\n";
    let (base, folders) = folders(&[("0/bad.yaml", &bad), ("0/good.yaml", &spec("v.com/gpu", "good", "1"))]);
    assert_eq!(env(&folders, &["v.com/gpu=good"]), ["ALL=1", "good=1"]);
    let said = error(&folders, &["v.com/gpu=bad"]);
    assert!(said.contains("0/bad.yaml") && said.contains("unknown field `more`"), "{said}");
    fs::write(base.path().join("1/fixed.yaml"), spec("v.com/gpu", "bad", "2")).unwrap();
    assert_eq!(env(&folders, &["v.com/gpu=bad"]), ["ALL=2", "bad=2"]);
}

#[test]
fn what_is_no_spec_file_is_passed_by() {
    let (base, folders) =
        folders(&[("0/a.yaml", &spec("v.com/gpu", "a", "1")), ("0/a.yaml.bak", "x"), ("0/b.yml", "x")]);
    let at = |name: &str| base.path().join(name);
    fs::create_dir(at("0/dir.yaml")).unwrap();
    symlink("gone", at("0/gone.yaml")).unwrap();
    symlink("../0/a.yaml", at("1/link.yaml")).unwrap();
    assert_eq!(env(&folders, &["v.com/gpu=a"]), ["ALL=1", "a=1"]);
    let fifo = at("0/fifo.json");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let huge = fs::File::create(at("0/huge.json")).unwrap();
    huge.set_len(5 << 20).unwrap();
    let said = error(&folders, &["v.com/gpu=b"]);
    assert!(said.contains("fifo.json cannot be read: it is not a regular file"), "{said}");
    assert!(said.contains("huge.json cannot be read: it is larger than"), "{said}");
}

#[test]
fn specs_that_are_refused() {
    let head = "cdiVersion: 1.1.0\nkind: v.com/gpu\ndevices:\n- name: a\n  containerEdits: ";
    let edits = |text: &str| format!("{head}{text}\n");
    let version = |version: &str, text: &str| edits(text).replace("1.1.0", version);
    for (text, part) in [
        (version("0.2.0", "{env: [A=1]}"), "cdiVersion: \"0.2.0\" is not one of 0.3.0"),
        (version("2.0.0", "{env: [A=1]}"), "cdiVersion"),
        (edits("{}"), "devices[0].containerEdits: the device changes nothing"),
        (edits("{env: [A]}"), "devices[0].containerEdits.env[0]: \"A\" is not of the form"),
        (edits("{env: [=1]}"), "env[0]"),
        (edits("{deviceNodes: [{path: dev}]}"), "deviceNodes[0].path: \"dev\" is not an absolute path"),
        (edits("{deviceNodes: [{}]}"), "deviceNodes[0].path"),
        (edits("{deviceNodes: [{path: /d, type: a}]}"), "deviceNodes[0].type"),
        (edits("{deviceNodes: [{path: /d, permissions: x}]}"), "deviceNodes[0].permissions"),
        (edits("{deviceNodes: [{path: /d, major: -1}]}"), "out of range"),
        (edits("{mounts: [{containerPath: /a}]}"), "mounts[0].hostPath"),
        (edits("{mounts: [{hostPath: /a, containerPath: b}]}"), "mounts[0].containerPath"),
        (edits("{mounts: [{hostPath: /a, containerPath: /b, mode: 1}]}"), "unknown field `mode`"),
        (edits("{hooks: [{hookName: whenever, path: /h}]}"), "hooks[0].hookName: \"whenever\""),
        (edits("{hooks: [{hookName: poststop, path: h}]}"), "hooks[0].path"),
        (edits("{hooks: [{hookName: poststop, path: /h, timeout: 0}]}"), "hooks[0].timeout"),
        (edits("{netDevices: [{name: a}]}"), "netDevices[0]"),
        (edits("{env: [A=1]}").replace("v.com/gpu", "gpu"), "kind: \"gpu\""),
        (edits("{env: [A=1]}").replace("name: a", "name: -a"), "devices[0].name"),
        ("cdiVersion: 1.0.0\nkind: v.com/gpu\ndevices: []\n".to_owned(), "devices: there is none"),
        ("cdiVersion: 1.0.0\nkind: v.com/gpu\n".to_owned(), "missing field `devices`"),
        (
            edits("{env: [A=1]}") + "- {name: a, containerEdits: {env: [A=1]}}\n",
            "devices[1].name: \"a\" is there twice",
        ),
        (
            version("1.0.0", "{netDevices: [{hostInterfaceName: a, name: a}]}"),
            "netDevices needs version 1.1.0",
        ),
        (version("0.6.0", "{additionalGids: [1]}"), "additionalGids needs version 0.7.0"),
        (version("0.6.0", "{intelRdt: {}}"), "intelRdt needs version 0.7.0"),
        (version("0.5.0", "{env: [A=1]}").replace("gpu", "g.u"), "a dot in the class needs version 0.6.0"),
        (
            version("0.4.0", "{deviceNodes: [{path: /d, hostPath: /e}]}"),
            "hostPath of a device node needs version 0.5.0",
        ),
        (
            version("0.4.0", "{env: [A=1]}").replace("name: a", "name: 0"),
            "begins with a digit needs version 0.5.0",
        ),
        (
            version("0.3.0", "{mounts: [{hostPath: /a, containerPath: /a, type: bind}]}"),
            "needs version 0.4.0",
        ),
    ] {
        let problem = parse(Path::new("a.yaml"), text.as_bytes()).unwrap_err();
        assert!(problem.contains(part), "{part} is not in {problem}");
    }
    assert!(parse(Path::new("a.json"), b"{").is_err() && parse(Path::new("a.yaml"), b"\xff").is_err());
    assert!(parse(Path::new("a.yaml"), version("0.3.0", "{env: [A=1]}").as_bytes()).is_ok());
}

proptest! {
    /// Whatever the bytes, there is an answer, and a spec that is taken passes the checks again.
    #[test]
    fn any_bytes_are_a_spec_or_a_problem(bytes in prop::collection::vec(any::<u8>(), 0..300), json in any::<bool>()) {
        let name = OsString::from(if json { "a.json" } else { "a.yaml" });
        let path = Path::new(&name);
        prop_assert_eq!(parse(path, &bytes).is_ok(), parse(path, &bytes).is_ok());
        let _ = schema::claim(path, &bytes);
    }

    /// A good file with one line or byte damaged is read or refused, and what is read has devices with good names.
    #[test]
    fn damaged_specs(at in 0usize..400, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = format!(
            "{}  annotations: {{a: b}}\n",
            spec("v.com/gpu", "a", "1").replace("0.5.0", "1.0.0")
        ).into_bytes();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(spec) = parse(Path::new("a.yaml"), &bytes) {
            prop_assert!(!spec.devices.is_empty());
            for device in spec.devices {
                prop_assert!(name::check_device(&device.name).is_ok());
                prop_assert!(!device.container_edits.is_empty());
            }
        }
    }
}
