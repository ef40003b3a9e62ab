//! Records of networks against those that are stored (`formats/`).

use holdfast_formats::Format;
use holdfast_model::Protocol;
use holdfast_record::Durable;
use serde_json::{Value, json};

use crate::{
    record::{BridgeRecord, CniRecord, HostPort, Phase, PodKind, Record, VERSION},
    store::Store,
};

const BOOT: &str = "0b0070ff-0000-4000-8000-00000000b007";
const NETWORK: Format = Format { name: "network", version: VERSION };
const BRIDGE: Format = Format { name: "bridge", version: VERSION };

/// Ids of the stored records of pods, and one that has none.
fn id(number: u8) -> String {
    format!("{}{number:02x}", "b".repeat(62))
}

fn ports() -> Vec<HostPort> {
    let port = |protocol, address: Option<&str>, port| HostPort {
        protocol,
        address: address.map(|address| address.parse().unwrap()),
        port,
        container_port: port - 8_000,
    };
    vec![
        port(Protocol::Tcp, Some("127.0.0.1"), 8_080),
        port(Protocol::Udp, None, 8_053),
        port(Protocol::Sctp, None, 8_090),
    ]
}

fn embedded() -> PodKind {
    let addresses = ["10.213.0.77", "fd68:6f6c:6401::77"].map(|address| address.parse().unwrap());
    PodKind::Embedded { link: "hfstored0".into(), addresses: addresses.into() }
}

fn cni(has_result: bool) -> PodKind {
    let conf = json!({"cniVersion": "1.0.0", "name": "stored", "plugins": [
        {"type": "stored", "capabilities": {"portMappings": true}, "ipam": {"type": "host-local"}}]});
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/hf-stored"}],
        "ips": [{"address": "10.214.0.77/24", "interface": 0}]});
    let capability_args =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    PodKind::Cni(Box::new(CniRecord {
        conf,
        file: "/etc/cni/net.d/10-stored.conflist".into(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web".into(),
        capability_args: capability_args.as_object().unwrap().clone(),
        netns: "/run/netns/hf-stored".into(),
        result: has_result.then_some(result),
    }))
}

fn record(number: u8, phase: Phase, network: PodKind) -> Record {
    Record {
        version: VERSION,
        boot_id: BOOT.into(),
        pod: id(number).parse().unwrap(),
        name: "web".into(),
        namespace: "default".into(),
        phase,
        unpinning: false,
        deleting_since_s: None,
        ports: ports(),
        network,
    }
}

fn owed(number: u8, network: PodKind) -> Record {
    Record { deleting_since_s: Some(1_764_576_000), ..record(number, Phase::Deleting, network) }
}

#[test]
fn stored_format_of_networks() {
    let samples = [
        ("embedded_adding", record(1, Phase::Adding, embedded())),
        ("embedded_up", record(2, Phase::Up, embedded())),
        ("embedded_owed", owed(3, embedded())),
        ("cni_adding", record(4, Phase::Adding, cni(false))),
        ("cni_up", record(5, Phase::Up, cni(true))),
        ("cni_owed", owed(6, cni(true))),
        ("cni_unpinning", Record { unpinning: true, ports: vec![], ..owed(7, cni(true)) }),
    ];
    NETWORK.check(&samples);
    let subnets = ["10.213.0.0/24", "fd68:6f6c:6401::/64"].map(|subnet| subnet.parse().unwrap());
    let bridge = BridgeRecord {
        version: VERSION,
        boot_id: BOOT.into(),
        name: "holdfast0".into(),
        mac: [2, 0, 0, 0, 0, 7],
        subnets: subnets.into(),
    };
    BRIDGE.check(&[("bridge", bridge)]);
}

/// As a start reads them; and a newer program's, which stay where they are with what they hold.
#[test]
fn stored_networks_are_loaded_and_newer_ones_left() {
    for (name, stored) in NETWORK.stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
        let path = dir.path().join("pods").join(format!("{}.json", stored["pod"].as_str().unwrap()));
        std::fs::write(&path, stored.to_string()).unwrap();
        let loaded = store.load(BOOT).unwrap();
        assert_eq!((loaded.records.len(), loaded.newer.len(), loaded.torn.len()), (1, 0, 0), "{name}");
        let record = &loaded.records[0];
        let newer = |key: &str, value: Value| {
            let mut newer = stored.clone();
            newer[key] = value;
            newer
        };
        for newer in [newer("version", 99.into()), newer("network", json!({"of_a_newer_program": {}}))] {
            std::fs::write(&path, newer.to_string()).unwrap();
            let loaded = store.load(BOOT).unwrap();
            assert_eq!((loaded.records.len(), loaded.newer.len(), loaded.torn.len()), (0, 1, 0), "{name}");
            assert_eq!(
                (&loaded.newer[0].pod, &loaded.newer[0].ports),
                (&record.pod.to_string(), &record.ports)
            );
            assert!(path.exists() && !dir.path().join("aside").exists(), "{name}");
        }
    }
}
