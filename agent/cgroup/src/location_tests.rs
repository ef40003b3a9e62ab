//! Tests of locations.

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn cgroupfs_places() {
    let place = |parent| container(Driver::Cgroupfs, parent, "/holdfast", ID).unwrap().to_string();
    assert_eq!(place("/kubepods/burstable/pod1"), format!("/kubepods/burstable/pod1/{ID}"));
    assert_eq!(place("relative//pod/"), format!("/relative/pod/{ID}"));
    assert_eq!(place("/"), format!("/{ID}"));
    assert_eq!(place(""), format!("/holdfast/{ID}"));
    let own = pod(Driver::Cgroupfs, "", "/holdfast", ID).unwrap();
    assert_eq!(own.path(), format!("/holdfast/{ID}"));
    assert_eq!(
        pod(Driver::Cgroupfs, "/kubepods/pod1", "/holdfast", ID).unwrap().as_parent(),
        "/kubepods/pod1"
    );
}

#[test]
fn systemd_places() {
    let location =
        container(Driver::Systemd, "kubepods-besteffort-pod1.slice", "holdfast.slice", ID).unwrap();
    let path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
    assert_eq!(location.path(), format!("{path}/cri-holdfast-{ID}.scope"));
    assert_eq!(location.to_string(), format!("kubepods-besteffort-pod1.slice:cri-holdfast:{ID}"));
    let chain = container(Driver::Systemd, &format!("{path}/"), "holdfast.slice", ID).unwrap();
    assert_eq!(chain, location);

    let own = pod(Driver::Systemd, "", "holdfast.slice", ID).unwrap();
    assert_eq!(own.path(), format!("/holdfast.slice/holdfast-pod{ID}.slice"));
    assert_eq!(own.unit().unwrap().slice, "holdfast.slice");
    assert_eq!(own.as_parent(), own.to_string());
    let below = container(Driver::Systemd, own.as_parent(), "", ID).unwrap();
    assert!(below.path().starts_with(own.path()));
    assert_eq!(slice_above("a.slice"), "-.slice");
    assert_eq!(slice_above("a-b-c.slice"), "a-b.slice");
}

#[test]
fn the_wrong_kind_names_both_drivers() {
    for (driver, parent) in [
        (Driver::Cgroupfs, "kubepods.slice"),
        (Driver::Cgroupfs, "/kubepods.slice/kubepods-pod1.slice"),
        (Driver::Systemd, "/kubepods/pod1"),
        (Driver::Systemd, "/"),
    ] {
        let text = container(driver, parent, "x", ID).unwrap_err().to_string();
        assert!(text.contains("cgroupfs") && text.contains("systemd") && text.contains(parent), "{text}");
    }
}

#[test]
fn bad_parents_are_refused() {
    for (driver, parent) in [
        (Driver::Cgroupfs, "/a/../b"),
        (Driver::Cgroupfs, ".."),
        (Driver::Cgroupfs, "/a/./b"),
        (Driver::Cgroupfs, "/a\nb"),
        (Driver::Systemd, ".slice"),
        (Driver::Systemd, "a--b.slice"),
        (Driver::Systemd, "-a.slice"),
        (Driver::Systemd, "a b.slice"),
        (Driver::Systemd, "/elsewhere.slice/kubepods-pod1.slice"),
    ] {
        let error = pod(driver, parent, "x", ID).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid, "{parent:?}: {error}");
    }
    assert!(container(Driver::Cgroupfs, &"a/".repeat(2000), "x", ID).is_err());
}

#[test]
fn records_keep_it_and_a_damaged_one_is_refused() {
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        let parent = if driver == Driver::Systemd { "a-b.slice" } else { "/a/b" };
        for location in [pod(driver, parent, "x", ID).unwrap(), container(driver, parent, "x", ID).unwrap()] {
            let text = serde_json::to_string(&location).unwrap();
            assert_eq!(serde_json::from_str::<Location>(&text).unwrap(), location);
        }
    }
    for bad in [r#"{"path":"/"}"#, r#"{"path":"/a/../.."}"#, r#"{"path":""}"#, r"{}"] {
        assert!(serde_json::from_str::<Location>(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_setting_is_parsed() {
    assert_eq!("auto".parse::<DriverSetting>().unwrap(), DriverSetting::Auto);
    assert!("cgroup".parse::<DriverSetting>().unwrap_err().to_string().contains("systemd"));
}
