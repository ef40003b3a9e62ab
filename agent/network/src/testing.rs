//! What the tests share: a host of their own, pods, an outside world, and connections between them.
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    future::Future,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use holdfast_model::{Map, PodId, PortMapping};
use nix::sched::{CloneFlags, unshare};

use crate::{
    AddRequest, CniConfig, EmbeddedConfig, Mode, NetworkConfig,
    netlink::{
        Socket, addr,
        link::{self, Link, Veth},
        route,
    },
    subnet::Subnet,
    thread::enter,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Runs a test on a host of its own: a network and mount namespace that end with it.
pub(crate) fn on_own_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
                println!("SKIP: no network namespace of the test's own: {errno}");
                return;
            }
            // What is mounted here is nobody else's.
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            link::set_up(&mut Socket::route().unwrap(), 1).unwrap();
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A new network namespace.
pub(crate) fn netns() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    });
    thread.join().unwrap()
}

/// Runs `work` in a network namespace.
pub(crate) fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Runs `work` on a thread of the test's own host.
pub(crate) fn on_host<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) const BOOT: &str = "boot-1";

pub(crate) fn config(dir: &Path) -> NetworkConfig {
    std::fs::create_dir_all(dir.join("net.d")).unwrap();
    NetworkConfig {
        mode: Mode::Auto,
        cni: CniConfig {
            conf_dir: dir.join("net.d"),
            bin_dirs: vec![dir.join("bin"), "/usr/lib/cni".into()],
        },
        embedded: EmbeddedConfig { bridge: "hftest0".into(), ..EmbeddedConfig::default() },
        state_dir: dir.join("network"),
        netns_dir: dir.join("netns"),
        durable: holdfast_record::Durable::start().unwrap(),
        boot_id: BOOT.into(),
    }
}

pub(crate) fn request(name: &str, netns: &OwnedFd) -> AddRequest {
    AddRequest {
        pod: PodId::random().unwrap(),
        name: name.into(),
        namespace: "default".into(),
        uid: format!("{name}-uid"),
        netns: netns.try_clone().unwrap(),
        hostname: name.into(),
        port_mappings: Vec::new(),
        annotations: Map::new(),
        dns: holdfast_model::DnsConfig::default(),
        cgroup_path: None,
    }
}

pub(crate) fn mapping(host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host_ip: host_ip.into(), host_port, container_port, ..PortMapping::default() }
}

/// A world beyond the host: a namespace at the other end of a veth pair that has no route to any pod.
pub(crate) fn outside() -> OwnedFd {
    let world = netns();
    let mut socket = Socket::route().unwrap();
    let veth = Veth {
        name: "up0",
        bridge: 0,
        mtu: 1400,
        peer: "world0",
        peer_address: [2, 0, 0, 0, 0, 9],
        netns: world.as_fd(),
    };
    link::add_veth(&mut socket, &veth).unwrap();
    let up = link::find(&mut socket, "up0").unwrap().unwrap().index;
    addr::add(&mut socket, up, ip(HOST4), 24).unwrap();
    addr::add(&mut socket, up, ip(HOST6), 64).unwrap();
    route::add_default(&mut socket, up, ip(WORLD4)).unwrap();
    inside(&world, || {
        let mut socket = Socket::route().unwrap();
        link::set_up(&mut socket, 1).unwrap();
        let down = link::find(&mut socket, "world0").unwrap().unwrap().index;
        link::set_up(&mut socket, down).unwrap();
        addr::add(&mut socket, down, ip(WORLD4), 24).unwrap();
        addr::add(&mut socket, down, ip(WORLD6), 64).unwrap();
        [HOST4, HOST6].into_iter().for_each(await_way_to);
    });
    world
}

/// A link that is up carries packets only when the kernel's link watch has seen it, which it looks for once a second: until
/// then they are dropped, and a connection's second try may be too early as well. A refusal says that the way is there.
fn await_way_to(host: &str) {
    let target = socket(ip(host), 9);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect_timeout(&target, Duration::from_millis(200)) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
            other => assert!(Instant::now() < end, "no way to {target}: {other:?}"),
        }
    }
}

pub(crate) const HOST4: &str = "198.51.100.1";
pub(crate) const WORLD4: &str = "198.51.100.2";
pub(crate) const HOST6: &str = "2001:db8::1";
pub(crate) const WORLD6: &str = "2001:db8::2";

/// A server in a namespace that says to each client whom it sees; ends when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(netns: &OwnedFd, address: SocketAddr) -> Self {
        let listener = inside(netns, || TcpListener::bind(address).unwrap());
        listener.set_nonblocking(true).unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                let mut poll = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
                nix::poll::poll(&mut poll, 20_u16).unwrap();
                if let Ok((mut client, peer)) = listener.accept() {
                    let _ = client.write_all(peer.ip().to_canonical().to_string().as_bytes());
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Connects from the calling thread's namespace: whom the server saw.
pub(crate) fn ask(address: SocketAddr) -> std::io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(std::io::Error::other)
}

pub(crate) fn socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Links of the test's host.
pub(crate) fn links() -> Vec<Link> {
    on_host(|| link::list(&mut Socket::route().unwrap()).unwrap())
}

pub(crate) fn has_link(name: &str) -> bool {
    links().iter().any(|link| link.name == name)
}

/// Waits for a condition, with a bound.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what} did not come about within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many pod records there are.
pub(crate) fn record_count(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("network/pods")).unwrap().count()
}

/// A link with an address on the test's host, with its peer elsewhere.
pub(crate) fn occupy(name: &str, subnet: &str) -> OwnedFd {
    let elsewhere = netns();
    let mut socket = Socket::route().unwrap();
    let veth = Veth {
        name,
        bridge: 0,
        mtu: 1500,
        peer: "x0",
        peer_address: [2, 0, 0, 0, 0, 7],
        netns: elsewhere.as_fd(),
    };
    link::add_veth(&mut socket, &veth).unwrap();
    let index = link::find(&mut socket, name).unwrap().unwrap().index;
    let subnet: Subnet = subnet.parse().unwrap();
    addr::add(&mut socket, index, subnet.gateway(), subnet.prefix()).unwrap();
    elsewhere
}
