//! Which hooks a container gets.

use super::*;
use serde_json::{Value, json};

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, when: &Value, stages: &Value) -> &Self {
        let hook = json!({"path": "/bin/sh", "args": ["sh", name], "timeout": 3});
        let text = json!({"version": "1.0.0", "hook": hook, "when": when, "stages": stages}).to_string();
        fs::write(self.0.path().join(name), text).unwrap();
        self
    }

    fn hooks(&self, facts: &Facts<'_>) -> Result<Option<Hooks>, HookError> {
        hooks(&[self.0.path().to_owned()], facts)
    }
}

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn names(hooks: Option<&Vec<Hook>>) -> Vec<String> {
    hooks.into_iter().flatten().map(|hook| hook.args().clone().unwrap()[1].clone()).collect()
}

#[test]
fn conditions_all_have_to_hold() {
    let pairs = annotations(&[("com.example.key", "yes-please")]);
    let facts = Facts { annotations: &pairs, command: "/bin/busybox", has_bind_mounts: false };
    for (when, expected) in [
        (json!({"always": true}), true),
        (json!({"always": false}), false),
        (json!({"hasBindMounts": true}), false),
        (json!({"hasBindMounts": false}), false),
        (json!({"commands": ["^/usr", "busybox$"]}), true),
        (json!({"commands": ["^busybox"]}), false),
        (json!({"annotations": {"^com\\.example\\.key$": "^yes"}}), true),
        (json!({"annotations": {"^com\\.example\\.key$": "^yes", "other": ".*"}}), false),
        (json!({"annotations": {"example": "no"}}), false),
        (json!({"always": true, "commands": ["nothing"]}), false),
    ] {
        let dir = Dir::new();
        let found = dir.file("a.json", &when, &json!(["poststop"])).hooks(&facts).unwrap();
        assert_eq!(found.is_some(), expected, "{when}");
    }
    let mounted = Facts { has_bind_mounts: true, ..facts };
    let dir = Dir::new();
    dir.file("a.json", &json!({"hasBindMounts": true}), &json!(["prestart"]));
    assert!(dir.hooks(&mounted).unwrap().is_some());
}

#[test]
fn files_go_by_their_names_and_a_later_directory_wins() {
    let (first, second) = (Dir::new(), Dir::new());
    let always = json!({"always": true});
    first.file("20-b.json", &always, &json!(["createRuntime", "poststop"]));
    first.file("10-a.json", &always, &json!(["createRuntime"]));
    first.file("30-c.json", &always, &json!(["createRuntime"]));
    second.file("30-c.json", &json!({"always": false}), &json!(["createRuntime"]));
    fs::write(first.0.path().join("README"), "not a hook").unwrap();
    let pairs = annotations(&[]);
    let facts = Facts { annotations: &pairs, command: "x", has_bind_mounts: false };
    let dirs = [first.0.path().to_owned(), "/no/such/directory".into(), second.0.path().to_owned()];
    let mut found = hooks(&dirs, &facts).unwrap();
    assert_eq!(names(found.as_ref().unwrap().create_runtime().as_ref()), ["10-a.json", "20-b.json"]);
    assert_eq!(names(found.as_ref().unwrap().poststop().as_ref()), ["20-b.json"]);

    append(&mut found, hooks(&dirs[..1], &facts).unwrap().unwrap());
    let all = names(found.as_ref().unwrap().create_runtime().as_ref());
    assert_eq!(all, ["10-a.json", "20-b.json", "10-a.json", "20-b.json", "30-c.json"]);
    assert!(is_some(found.as_ref()) && !is_some(None) && !is_some(Some(&Hooks::default())));
}

#[test]
fn early_ones_are_those_with_the_hosts_files() {
    for (stage, early) in [
        (Moment::Prestart, true),
        (Moment::CreateRuntime, true),
        (Moment::CreateContainer, true),
        (Moment::StartContainer, false),
        (Moment::Poststart, false),
        (Moment::Poststop, false),
    ] {
        let mut hooks = Hooks::default();
        add(&mut hooks, stage, &Hook::default());
        assert_eq!(has_early(Some(&hooks)), early, "{stage:?}");
    }
    assert!(!has_early(None));
}

#[test]
fn what_is_no_hook_is_named() {
    let pairs = annotations(&[]);
    let facts = Facts { annotations: &pairs, command: "x", has_bind_mounts: false };
    let hook = json!({"path": "/bin/sh"});
    let always = json!({"always": true});
    for (text, word) in [
        (json!({"version": "0.1.0", "hook": hook, "when": always, "stages": ["prestart"]}), "0.1.0"),
        (json!({"version": "1.0.0", "hook": hook, "when": {}, "stages": ["prestart"]}), "when"),
        (json!({"version": "1.0.0", "hook": hook, "when": always, "stages": []}), "stages"),
        (json!({"version": "1.0.0", "hook": hook, "when": always, "stages": ["precreate"]}), "hook file"),
        (
            json!({"version": "1.0.0", "hook": {"path": "sh"}, "when": always, "stages": ["prestart"]}),
            "absolute",
        ),
        (
            json!({"version": "1.0.0", "hook": {"path": "/no/x"}, "when": always, "stages": ["prestart"]}),
            "/no/x",
        ),
        (
            json!({"version": "1.0.0", "hook": {"path": "/bin/sh", "timeout": 0}, "when": always, "stages": ["prestart"]}),
            "timeout",
        ),
        (
            json!({"version": "1.0.0", "hook": hook, "when": {"commands": ["("]}, "stages": ["prestart"]}),
            "pattern",
        ),
        (json!("no hook"), "hook file"),
    ] {
        let dir = Dir::new();
        fs::write(dir.0.path().join("bad.json"), text.to_string()).unwrap();
        let error = dir.hooks(&facts).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("bad.json"), "{error}");
    }
}
