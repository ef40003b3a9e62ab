//! Other firewalls of the node, which may drop what pods send and receive.
//!
//! An accept in one base chain does not keep another one from dropping, so rules of our own table cannot help. Docker makes
//! the policy of iptables' FORWARD chain a drop for its own bridges' sake: two rules at its end, after all that Docker and
//! DOCKER-USER have to say, let the pods' packets pass. ufw and firewalld have their own commands for that, which keep it over
//! a reload, and whose policy is the operator's: Status names them.
//!
//! Rules of the kernel's older ip_tables (iptables-legacy) are not seen.

use std::fmt;

use super::firewall;
use crate::{
    Error,
    netlink::{
        Socket,
        message::Message,
        nft::{self, Chain, Meta, Rule, Table},
    },
    subnet::{Subnet, bytes},
};

/// Chain of iptables in which forwarded packets are decided about.
const FORWARD: &str = "FORWARD";
/// Docker's chain for the operator's own rules.
const DOCKER_USER: &str = "DOCKER-USER";

/// The program that a table's chains are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Docker,
    Ufw,
    Firewalld,
    Unknown,
}

/// A table that drops what no rule of it lets pass, and has no rule for the pods.
#[derive(Debug)]
pub(super) struct Barrier {
    tool: Tool,
    table: Table,
    chain: String,
}

/// The bridge's name, the comment of its table, and its subnets.
#[derive(Debug, Clone)]
pub(super) struct Bridge {
    pub(super) name: String,
    /// Empty before the bridge is made.
    pub(super) owner: String,
    pub(super) subnets: Vec<Subnet>,
}

/// Lets the pods' packets pass where Docker's policy is to drop them.
pub(super) fn let_pass(socket: &mut Socket, bridge: &Bridge, barriers: &[Barrier]) -> Result<(), Error> {
    let docker = barriers.iter().filter(|one| one.tool == Tool::Docker);
    let rules: Vec<Message> = docker.flat_map(|one| passage(&one.table, bridge)).collect();
    if rules.is_empty() {
        return Ok(());
    }
    socket.transaction(rules).map_err(Error::netlink("let pods pass Docker's firewall"))?;
    tracing::info!(
        bridge = bridge.name,
        "Docker's policy is to drop forwarded packets: two rules at the end of FORWARD let those of the bridge pass"
    );
    Ok(())
}

/// Fails for a firewall that pods cannot pass unless its operator says so.
///
/// # Errors
/// [`Error::Firewall`], for Status.
pub(super) fn check(bridge: &Bridge, barriers: &[Barrier]) -> Result<(), Error> {
    let name = &bridge.name;
    for barrier in barriers {
        let remedy = match barrier.tool {
            // Rules for it come with the bridge.
            Tool::Docker => continue,
            Tool::Ufw => format!("`ufw route allow in on {name}` and `ufw route allow out on {name}`"),
            Tool::Firewalld => format!(
                "`firewall-cmd --permanent --zone=trusted --add-interface={name}` and `firewall-cmd --reload`"
            ),
            // It may let them pass by rules that say it in other words.
            Tool::Unknown => {
                tracing::debug!(
                    bridge = name,
                    "{barrier} drops forwarded packets, and no rule of it names the bridge or its subnets"
                );
                continue;
            }
        };
        return Err(Error::Firewall { firewall: barrier.to_string(), remedy });
    }
    Ok(())
}

/// Takes the rules of [`let_pass`] back.
pub(super) fn undo(socket: &mut Socket, owner: &str) -> Result<(), Error> {
    let failed = |error| Error::netlink("remove our rules from Docker's firewall")(error);
    let chains = nft::list_chains(socket).map_err(failed)?;
    for chain in chains.iter().filter(|chain| chain.name == FORWARD) {
        let rules = nft::list_rules(socket, &chain.table).map_err(failed)?;
        for rule in rules.iter().filter(|rule| rule.comment == owner) {
            match socket.transaction(vec![nft::delete_rule(&chain.table, rule)]) {
                // Gone meanwhile.
                Err(error) if error.is_absent() => {}
                done => done.map_err(failed)?,
            }
        }
    }
    Ok(())
}

/// In iptables' own form, so that `iptables -S` shows them.
fn passage(table: &Table, bridge: &Bridge) -> [Message; 2] {
    [Meta::IifName, Meta::OifName].map(|key| {
        let rule = [firewall::name(key, true, &bridge.name), vec![nft::accept()]].concat();
        nft::add_rule(table, FORWARD, &bridge.owner, &rule)
    })
}

/// The firewalls that drop what pods forward, as far as it shows.
pub(super) fn barriers(socket: &mut Socket, bridge: &Bridge) -> Result<Vec<Barrier>, Error> {
    let failed = |error| Error::netlink("look for other firewalls")(error);
    let chains = nft::list_chains(socket).map_err(failed)?;
    let mut found = Vec::new();
    for chain in chains.iter().filter(|chain| chain.hook == Some(nft::FORWARD)) {
        let tool = Tool::of(&chains, &chain.table);
        // firewalld rejects by the last rule of its chain.
        let stops = chain.drops || (tool == Tool::Firewalld && chain.name == "filter_FORWARD");
        if !stops || chain.table.name == bridge.name || !is_about(&chain.table, bridge) {
            continue;
        }
        let rules = nft::list_rules(socket, &chain.table).map_err(failed)?;
        let passes = |rule: &Rule| match tool {
            // A rule that names the bridge may be there to drop something.
            Tool::Docker => rule.comment == bridge.owner,
            _ => names(rule, bridge),
        };
        if !rules.iter().any(passes) {
            found.push(Barrier { tool, table: chain.table.clone(), chain: chain.name.clone() });
        }
    }
    Ok(found)
}

/// Whether the pods have addresses of the table's family.
fn is_about(table: &Table, bridge: &Bridge) -> bool {
    match table.family {
        firewall::NFPROTO_INET => true,
        firewall::NFPROTO_IPV4 => bridge.subnets.iter().any(|subnet| subnet.is_v4()),
        firewall::NFPROTO_IPV6 => bridge.subnets.iter().any(|subnet| !subnet.is_v4()),
        _ => false,
    }
}

/// Whether a rule compares something with the bridge's name, with a beginning of it (`holdfast+`), or with a subnet.
fn names(rule: &Rule, bridge: &Bridge) -> bool {
    let is_name = |value: &[u8]| {
        let end = value.iter().position(|byte| *byte == 0);
        let name = bridge.name.as_bytes();
        match end {
            Some(end) => &value[..end] == name,
            None => value.len() > 2 && name.starts_with(value),
        }
    };
    let is_subnet = |value: &[u8]| {
        let of = |subnet: &Subnet| {
            let whole = usize::from(subnet.prefix()).div_ceil(8);
            value.len() >= whole.max(2) && bytes(subnet.base()).starts_with(value)
        };
        bridge.subnets.iter().any(of)
    };
    rule.compared.iter().any(|value| is_name(value) || is_subnet(value))
}

impl Tool {
    fn of(chains: &[Chain], table: &Table) -> Self {
        let has = |of: fn(&str) -> bool| chains.iter().any(|chain| chain.table == *table && of(&chain.name));
        if table.name == "firewalld" {
            Self::Firewalld
        } else if has(|name| name == DOCKER_USER) && has(|name| name == FORWARD) {
            Self::Docker
        } else if has(|name| name.starts_with("ufw-") || name.starts_with("ufw6-")) {
            Self::Ufw
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.table.family {
            firewall::NFPROTO_IPV4 => "ip",
            firewall::NFPROTO_IPV6 => "ip6",
            _ => "inet",
        };
        let tool = match self.tool {
            Tool::Docker => "Docker",
            Tool::Ufw => "ufw",
            Tool::Firewalld => "firewalld",
            Tool::Unknown => "a firewall",
        };
        write!(f, "{tool} (nftables table {family} {}, chain {})", self.table.name, self.chain)
    }
}
