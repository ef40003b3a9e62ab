//! DEL that is owed: after failures, hangs, reboots and dead agents.

use super::*;

/// A pin below somebody's mount cannot go if that lets no unmount through, and its pod goes all the same.
#[test]
fn a_busy_pin_is_owed_and_goes_when_it_can() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        let wanted = request("web", &netns());
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        let dir = fake.path("netns");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        let cover = || {
            rustix::mount::mount_bind_recursive(&dir, &dir).unwrap();
            rustix::mount::mount_change(&dir, private).unwrap();
        };
        let uncover = || rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
        on_host(cover);
        network.del(&pod, None).await.unwrap();
        network.del(&pod, None).await.unwrap();
        assert_eq!(fake.calls(), ["ADD one", "ADD two", "DEL two", "DEL one"]);
        assert_eq!((network.get(&pod), record_count(fake.dir.path())), (None, 1));
        assert!(fake.pin(&pod).exists());
        drop(network);
        // A restart knows of it, and makes no DEL for it.
        let network = fake.start().await;
        network.recover(&HashSet::new(), &[]).await;
        let owed = network.owed();
        assert!(owed.is_empty() || owed[0].pod == pod, "{owed:?}");
        assert_eq!((fake.calls(), record_count(fake.dir.path())), (Vec::new(), 1));
        on_host(uncover);
        eventually("the end of the pin", || record_count(fake.dir.path()) == 0).await;
        fake.assert_nothing_left(&pod);
    });
}

#[test]
fn a_failed_del_is_made_again() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        let a = netns();
        let mut wanted = request("web", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        fake.does("one", "echo no >&2; exit 1");
        fake.does("two", "echo neither >&2; exit 1");
        fake.calls();
        network.del(&pod, None).await.unwrap();
        assert_eq!(fake.calls(), ["DEL two", "DEL one"], "the second is asked though the first failed");
        let owed = network.owed();
        assert_eq!((owed.len(), &owed[0].pod, owed[0].tries), (1, &pod, 1));
        assert!(owed[0].error.contains("one DEL") && owed[0].error.contains("two DEL"), "{owed:?}");
        assert_eq!(
            (owed[0].name.as_str(), owed[0].host_ports.as_slice()),
            ("web", ["tcp *:8080".to_owned()].as_slice())
        );
        assert_eq!(record_count(fake.dir.path()), 1);
        assert!(pin::is_pinned(&fake.pin(&pod)));
        assert_eq!(network.get(&pod), None);
        let mut next = request("next", &a);
        next.port_mappings = vec![mapping("", 8080, 80)];
        let text = network.add(next).await.unwrap_err().to_string();
        assert!(text.contains("default/web") && text.contains("neither"), "the port is not free yet: {text}");
        drop(network);

        fake.does("one", "");
        fake.does("two", "");
        let network = fake.start().await;
        // By itself, without anybody who asks.
        eventually("the end of DEL", || record_count(fake.dir.path()) == 0 && network.owed().is_empty())
            .await;
        fake.assert_nothing_left(&pod);
    });
}

/// The rest of the pod goes meanwhile; what DEL needs, and what it has not given back, stays.
#[test]
fn a_del_that_hangs_keeps_nobody() {
    on_own_host(|| async {
        let fake = Fake::new();
        let limits = Limits { del: Duration::from_millis(300), ..Limits::default() };
        let network = Network::start_with(fake.config(), limits).await.unwrap();
        let a = netns();
        let mut wanted = request("web", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        fake.calls();
        fake.does("one", "until [ -e $dir/now ]; do sleep 0.01; done");
        let begin = Instant::now();
        network.del(&pod, None).await.unwrap();
        let (first, again) = (begin.elapsed(), Instant::now());
        assert!(first >= limits.del && first < limits.del * 10, "{first:?}");
        network.del(&pod, None).await.unwrap();
        assert!(again.elapsed() < limits.del, "who asks again has waited already");
        let owed = network.owed();
        assert_eq!((owed.len(), &owed[0].pod, owed[0].tries, owed[0].error.as_str()), (1, &pod, 0, ""));
        assert!(pin::is_pinned(&fake.pin(&pod)));
        let mut next = request("next", &a);
        next.port_mappings = vec![mapping("", 8080, 80)];
        let text = network.add(next).await.unwrap_err().to_string();
        assert!(text.contains("default/web") && text.contains("DEL is under way"), "{text}");
        fs::write(fake.path("bin/now"), "").unwrap();
        eventually("the end of DEL", || network.owed().is_empty()).await;
        assert_eq!(fake.calls(), ["DEL two", "DEL one"], "once, though two have asked");
        fake.assert_nothing_left(&pod);
    });
}

/// As after a reboot of a node whose network needs pods that are yet to come.
#[test]
fn dels_of_another_boot_are_queued_and_joined() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        let mut pods = Vec::new();
        for n in 0..10 {
            let wanted = request(&format!("p{n}"), &netns());
            pods.push(wanted.pod.clone());
            network.add(wanted).await.unwrap();
        }
        drop(network);
        fake.calls();
        // Each notes how many are at it with it.
        fake.does("two", "mkdir $dir/at.$$; ls -d $dir/at.* | wc -l >>$dir/most; until [ -e $dir/now ]; do sleep 0.01; done; rmdir $dir/at.$$");
        let rebooted = || NetworkConfig { boot_id: "boot-2".into(), ..fake.config() };
        let limits = Limits { del: Duration::from_millis(200), ..Limits::default() };
        let begin = Instant::now();
        let network = Network::start_with(rebooted(), limits).await.unwrap();
        network.recover(&pods.iter().cloned().collect(), &[]).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        eventually("four at work", || fake.lines("most") == 4).await;
        // Clients do not wait for a place among the four, and each pod is tried once.
        for pod in &pods {
            network.del(pod, None).await.unwrap();
        }
        eventually("all at work", || fake.lines("most") == 10).await;
        assert_eq!(network.owed().len(), 10);
        let order: Vec<String> =
            fake.read("most").lines().take(4).map(|line| line.trim().to_owned()).collect();
        assert!(order.iter().all(|count| count.parse::<u32>().unwrap() <= 4), "{order:?}");
        fs::write(fake.path("bin/now"), "").unwrap();
        eventually("the end of all", || record_count(fake.dir.path()) == 0 && network.owed().is_empty())
            .await;
        let calls = fake.calls();
        assert_eq!(calls.iter().filter(|call| *call == "DEL one").count(), 10, "{calls:?}");
        assert_eq!(calls.len(), 20, "{calls:?}");
        assert!(pods.iter().all(|pod| !fake.pin(pod).exists()));
    });
}

/// A disk without room keeps no pod; one that cannot be written to at all keeps the record alone.
#[test]
fn del_needs_no_room() {
    on_own_host(|| async {
        let fake = Fake::new();
        let state = fake.path("network");
        fs::create_dir(&state).unwrap();
        let mount = |options: &str| {
            let flags = if options.contains("remount") {
                nix::mount::MsFlags::MS_REMOUNT
            } else {
                nix::mount::MsFlags::empty()
            };
            let read_only = if options.ends_with("ro") {
                nix::mount::MsFlags::MS_RDONLY
            } else {
                nix::mount::MsFlags::empty()
            };
            on_host(|| {
                nix::mount::mount(Some("tmpfs"), &state, Some("tmpfs"), flags | read_only, Some("size=128k"))
                    .unwrap();
            });
        };
        mount("new");
        let network = fake.start().await;
        let mut pods = Vec::new();
        for name in ["full", "unwritable"] {
            let wanted = request(name, &netns());
            pods.push(wanted.pod.clone());
            network.add(wanted).await.unwrap();
        }
        fs::write(state.join("ballast"), vec![0; 1 << 20]).unwrap_err();
        let refused = network.add(request("more", &netns())).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Io { source, .. } if source.raw_os_error() == Some(28)),
            "{refused:?}"
        );
        network.del(&pods[0], None).await.unwrap();
        assert_eq!((network.owed(), record_count(fake.dir.path())), (vec![], 1));
        mount("remount,ro");
        network.del(&pods[1], None).await.unwrap();
        let owed = network.owed();
        assert!(owed.len() == 1 && owed[0].error.contains("Read-only"), "{owed:?}");
        assert_eq!(fake.calls().iter().filter(|call| *call == "DEL one").count(), 2);
        assert!(!fake.pin(&pods[1]).exists());
        mount("remount");
        eventually("the end of the record", || record_count(fake.dir.path()) == 0).await;
        assert_eq!((fake.calls(), network.owed()), (Vec::<String>::new(), vec![]), "no second DEL");
        drop(network);
        on_host(|| rustix::mount::unmount(&state, rustix::mount::UnmountFlags::DETACH).unwrap());
    });
}

#[test]
fn after_a_reboot_del_has_no_namespace() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        let a = netns();
        let wanted = request("web", &a);
        let pod = wanted.pod.clone();
        let made = network.add(wanted).await.unwrap();
        drop(network);
        fake.calls();
        // What a reboot leaves where /run is on a disk: the file, but no mount.
        nix::mount::umount(&fake.pin(&pod)).unwrap();
        let rebooted = NetworkConfig { boot_id: "boot-2".into(), ..fake.config() };
        let network = Network::start(rebooted).await.unwrap();
        assert_eq!(network.get(&pod), None);
        fs::remove_file(fake.path("net.d/10-net.conflist")).unwrap();
        network.recover(&HashSet::from([pod.clone()]), &[]).await;
        eventually("the end of DEL", || record_count(fake.dir.path()) == 0).await;
        let log = fs::read_to_string(fake.path("bin/log")).unwrap();
        assert!(log.contains(&format!("DEL one {pod} eth0 - IgnoreUnknown=1;")), "{log}");
        assert_eq!(fake.calls(), ["DEL two", "DEL one"]);
        assert_eq!(fake.input("two", "DEL")["prevResult"], made.cni_result.unwrap());
        fake.assert_nothing_left(&pod);
    });
}

/// The plugins' leases are on disk, and what they were asked for is lost: the id is enough to give them back.
#[test]
fn of_a_torn_record_the_id_is_taken_back() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        let (living, gone) = (request("living", &netns()), request("gone", &netns()));
        let pods = [living.pod.clone(), gone.pod.clone()];
        for wanted in [living, gone] {
            network.add(wanted).await.unwrap();
        }
        drop(network);
        fake.calls();
        for pod in &pods {
            fs::write(fake.path(&format!("network/pods/{pod}.json")), "").unwrap();
        }
        on_host(|| nix::mount::umount(&fake.pin(&pods[1])).unwrap());
        let network = fake.start().await;
        network.recover(&HashSet::from(pods.clone()), &[]).await;
        // After a reboot there is no pin: as with any pod of another boot.
        eventually("the end of one", || !fake.pin(&pods[1]).exists() && network.owed().is_empty()).await;
        let log = fake.read("log");
        assert!(log.contains(&format!("DEL one {} eth0 - IgnoreUnknown=1;", pods[1])), "{log}");
        assert_eq!(fake.calls(), ["DEL two", "DEL one"], "one that may live is left alone");
        network.del(&pods[0], None).await.unwrap();
        assert_eq!(fake.calls(), ["DEL two", "DEL one"]);
        for pod in &pods {
            fake.assert_nothing_left(pod);
        }
    });
}

#[test]
fn an_add_that_was_cut_off_is_taken_back() {
    on_own_host(|| async {
        let fake = Fake::new();
        // The agent dies while the plugin runs: its record stays as it was then.
        fake.does(
            "one",
            "cp -r $dir/../network $dir/../snapshot; echo '{\"ips\":[{\"address\":\"10.1.2.3/24\"}]}'",
        );
        let network = fake.start().await;
        let a = netns();
        let wanted = request("web", &a);
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        drop(network);
        fs::remove_dir_all(fake.path("network")).unwrap();
        fs::rename(fake.path("snapshot"), fake.path("network")).unwrap();
        fake.calls();
        let network = fake.start().await;
        assert_eq!(network.get(&pod), None);
        network.recover(&HashSet::new(), &[]).await;
        eventually("the end of DEL", || record_count(fake.dir.path()) == 0).await;
        assert_eq!(fake.calls(), ["DEL two", "DEL one"]);
        assert!(fake.input("one", "DEL").get("prevResult").is_none());
        fake.assert_nothing_left(&pod);
    });
}
