//! nftables messages: tables, chains, rules, maps and their elements (`linux/netfilter/nf_tables.h`).
//!
//! A small encoder of our own: netlink-packet-netfilter knows tables, chains and sets, but of the expressions that
//! masquerade and host ports are made of (nat, masq, fib, ct, concatenated lookups) none, and would have to be fed
//! bytes. Numbers of nftables are in network byte order; register contents that the kernel computes (meta, ct, fib)
//! are in that of the host.

use rustix::io::Errno;

use super::{
    message::{Message, attr, attrs, text},
    socket::{NetlinkError, Socket},
};

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 0xc;
#[cfg(test)]
const GETSETELEM: u16 = SUBSYSTEM | 0xd;
const DELSETELEM: u16 = SUBSYSTEM | 0xe;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `struct nfgenmsg` with family inet.
const INET: [u8; 4] = [1, 0, 0, 0];

const SET_MAP: u32 = 8;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// The first of the 16 registers of 4 bytes.
pub(crate) const REGISTER: u32 = 8;

/// A chain that the kernel calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// "nat" or "filter".
    pub(crate) kind: &'static str,
    /// NF_INET_PRE_ROUTING and so on.
    pub(crate) number: u32,
    /// Lower ones come first.
    pub(crate) priority: i32,
}

/// NF_INET_PRE_ROUTING.
pub(crate) const PREROUTING: u32 = 0;
/// NF_INET_FORWARD.
pub(crate) const FORWARD: u32 = 2;
/// NF_INET_LOCAL_OUT.
pub(crate) const OUTPUT: u32 = 3;
/// NF_INET_POST_ROUTING.
pub(crate) const POSTROUTING: u32 = 4;

/// What nft prints of a map's key and value: data type numbers, six bits each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    kind: u32,
    length: u32,
}

/// Data type ipv4_addr.
pub(crate) const IPV4: Field = Field { kind: 7, length: 4 };
/// Data type ipv6_addr.
pub(crate) const IPV6: Field = Field { kind: 8, length: 16 };
/// Data type inet_proto.
pub(crate) const PROTOCOL: Field = Field { kind: 12, length: 4 };
/// Data type inet_service.
pub(crate) const PORT: Field = Field { kind: 13, length: 4 };

fn concat(fields: &[Field]) -> (u32, u32) {
    fields.iter().fold((0, 0), |(kind, length), field| ((kind << 6) | field.kind, length + field.length))
}

/// Makes the table, or finds it; `owner` is kept as its comment.
pub(crate) fn new_table(table: &str, owner: &str) -> Message {
    Message::new(NEWTABLE, CREATE, &INET).text(1, table).attr(6, &comment(owner))
}

/// libnftnl's user data of tables and rules: type 0 is the comment, then its length, then the text with its zero byte.
fn comment(text: &str) -> Vec<u8> {
    let mut userdata = vec![0, text.len() as u8 + 1];
    userdata.extend_from_slice(text.as_bytes());
    userdata.push(0);
    userdata
}

fn read_comment(userdata: &[u8]) -> String {
    text(userdata.get(2..).unwrap_or_default())
}

/// Removes the table with all that is in it.
pub(crate) fn delete_table(table: &str) -> Message {
    Message::new(DELTABLE, 0, &INET).text(1, table)
}

/// Comment of the table; `None` if there is no such table.
pub(crate) fn table_owner(socket: &mut Socket, table: &str) -> Result<Option<String>, NetlinkError> {
    match socket.get(Message::new(GETTABLE, 0, &INET).text(1, table)) {
        Ok(payload) => {
            let userdata = payload.get(INET.len()..).and_then(|rest| attr(rest, 6)).unwrap_or_default();
            Ok(Some(read_comment(userdata)))
        }
        Err(NetlinkError::Errno(Errno::NOENT)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a chain; without a hook it is one to jump to.
pub(crate) fn new_chain(table: &str, chain: &str, hook: Option<Hook>) -> Message {
    let message = Message::new(NEWCHAIN, CREATE, &INET).text(1, table).text(3, chain);
    match hook {
        Some(hook) => {
            message.nest(4, |nest| nest.be32(1, hook.number).be32(2, hook.priority as u32)).text(7, hook.kind)
        }
        None => message,
    }
}

/// Makes a map; `id` names it within the transaction.
pub(crate) fn new_map(table: &str, map: &str, id: u32, key: &[Field], value: &[Field]) -> Message {
    let ((key_kind, key_length), (value_kind, value_length)) = (concat(key), concat(value));
    Message::new(NEWSET, CREATE, &INET)
        .text(1, table)
        .text(2, map)
        .be32(3, SET_MAP)
        .be32(4, key_kind)
        .be32(5, key_length)
        .be32(6, value_kind)
        .be32(7, value_length)
        .be32(10, id)
}

/// An element of a map: key and value, each field padded to four bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) map: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Adds an element; success if it is there already, EEXIST if its key is there with another value.
pub(crate) fn add_element(table: &str, element: &Element) -> Message {
    elements(NEWSETELEM, CREATE, table, element)
}

/// Takes an element out; the kernel says ENOENT if it is not there.
pub(crate) fn delete_element(table: &str, element: &Element) -> Message {
    elements(DELSETELEM, 0, table, element)
}

fn elements(kind: u16, flags: u16, table: &str, element: &Element) -> Message {
    Message::new(kind, flags, &INET).text(1, table).text(2, element.map).nest(3, |list| {
        list.nest(1, |item| {
            let item = item.nest(1, |key| key.attr(DATA_VALUE, &element.key));
            if kind == DELSETELEM { item } else { item.nest(2, |data| data.attr(DATA_VALUE, &element.value)) }
        })
    })
}

/// Adds a rule to the end of a chain.
pub(crate) fn new_rule(table: &str, chain: &str, expressions: &[Expression]) -> Message {
    rule_at_end(INET, table, chain, expressions)
}

fn rule_at_end(family: [u8; 4], table: &str, chain: &str, expressions: &[Expression]) -> Message {
    Message::new(NEWRULE, CREATE | APPEND, &family).text(1, table).text(2, chain).nest(4, |list| {
        expressions.iter().fold(list, |list, expression| {
            list.nest(1, |item| item.text(1, expression.name).nest(2, |data| data.raw(&expression.data)))
        })
    })
}

/// A table that may be of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// NFPROTO_INET, NFPROTO_IPV4 and so on.
    pub(crate) family: u8,
    pub(crate) name: String,
}

impl Table {
    fn body(&self) -> [u8; 4] {
        [self.family, 0, 0, 0]
    }
}

/// A chain of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) table: Table,
    pub(crate) name: String,
    /// Number of the hook of one that the kernel calls.
    pub(crate) hook: Option<u32>,
    /// Its policy is to drop what no rule of it has decided.
    pub(crate) drops: bool,
}

/// All chains of all tables.
pub(crate) fn list_chains(socket: &mut Socket) -> Result<Vec<Chain>, NetlinkError> {
    const NF_DROP: u32 = 0;
    let entries = socket.dump(&Message::new(GETCHAIN, 0, &[0; 4]))?;
    let chain = |payload: &Vec<u8>| {
        let (family, rest) = (*payload.first()?, payload.get(INET.len()..)?);
        let table = Table { family, name: text(attr(rest, 1)?) };
        let hook = attr(rest, 4).and_then(|hook| be32(attr(hook, 1)?));
        let policy = attr(rest, 5).and_then(be32);
        Some(Chain { table, name: text(attr(rest, 3)?), hook, drops: policy == Some(NF_DROP) })
    };
    Ok(entries.iter().filter_map(chain).collect())
}

/// A rule of any table, as far as it can be told what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: String,
    handle: Vec<u8>,
    pub(crate) comment: String,
    /// Values that it compares something with.
    pub(crate) compared: Vec<Vec<u8>>,
}

/// The rules of a table.
pub(crate) fn list_rules(socket: &mut Socket, table: &Table) -> Result<Vec<Rule>, NetlinkError> {
    let entries = socket.dump(&Message::new(GETRULE, 0, &table.body()).text(1, &table.name))?;
    let rule = |payload: &Vec<u8>| {
        let rest = payload.get(INET.len()..)?;
        // Whatever a kernel makes of the filter in the request.
        (text(attr(rest, 1)?) == table.name).then_some(())?;
        Some(Rule {
            chain: text(attr(rest, 2)?),
            handle: attr(rest, 3)?.to_vec(),
            comment: attr(rest, 7).map(read_comment).unwrap_or_default(),
            compared: attr(rest, 4).map(compared).unwrap_or_default(),
        })
    };
    Ok(entries.iter().filter_map(rule).collect())
}

fn compared(expressions: &[u8]) -> Vec<Vec<u8>> {
    let value = |expression: &[u8]| {
        (text(attr(expression, 1)?) == "cmp").then_some(())?;
        Some(attr(attr(attr(expression, 2)?, 3)?, DATA_VALUE)?.to_vec())
    };
    attrs(expressions).filter_map(|(_, expression)| value(expression)).collect()
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Adds a rule to the end of a chain of any table.
pub(crate) fn add_rule(table: &Table, chain: &str, note: &str, expressions: &[Expression]) -> Message {
    rule_at_end(table.body(), &table.name, chain, expressions).attr(7, &comment(note))
}

/// Removes a rule of any table.
pub(crate) fn delete_rule(table: &Table, rule: &Rule) -> Message {
    Message::new(DELRULE, 0, &table.body()).text(1, &table.name).text(2, &rule.chain).attr(3, &rule.handle)
}

/// One expression of a rule: its name and its attributes.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    name: &'static str,
    data: Vec<u8>,
}

fn expression(name: &'static str, fill: impl FnOnce(Message) -> Message) -> Expression {
    let message = fill(Message::new(0, 0, &[])).finish(0);
    Expression { name, data: message[super::message::HEADER..].to_vec() }
}

/// Keys of `meta`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    /// Input interface's name.
    IifName = 6,
    /// Output interface's name.
    OifName = 7,
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    NfProto = 15,
    /// Transport protocol.
    L4Proto = 16,
}

/// Loads packet metadata into a register.
pub(crate) fn meta(key: Meta, register: u32) -> Expression {
    expression("meta", |data| data.be32(1, register).be32(2, key as u32))
}

/// Loads from the network header.
pub(crate) fn network_header(offset: u32, length: u32, register: u32) -> Expression {
    payload(1, offset, length, register)
}

/// Loads the destination port.
pub(crate) fn destination_port(register: u32) -> Expression {
    payload(2, 2, 2, register)
}

fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expression {
    expression("payload", |data| data.be32(1, register).be32(2, base).be32(3, offset).be32(4, length))
}

/// Goes on only if the register holds this value (or, with `equal` false, any other).
pub(crate) fn compare(register: u32, equal: bool, value: &[u8]) -> Expression {
    expression("cmp", |data| {
        data.be32(1, register).be32(2, u32::from(!equal)).nest(3, |nest| nest.attr(DATA_VALUE, value))
    })
}

/// Keeps the bits of a mask.
pub(crate) fn mask(register: u32, mask: &[u8]) -> Expression {
    expression("bitwise", |data| {
        data.be32(1, register)
            .be32(2, register)
            .be32(3, mask.len() as u32)
            .nest(4, |nest| nest.attr(DATA_VALUE, mask))
            .nest(5, |nest| nest.attr(DATA_VALUE, &vec![0; mask.len()]))
    })
}

/// Loads the kind of the destination address (RTN_LOCAL and so on).
pub(crate) fn destination_kind(register: u32) -> Expression {
    expression("fib", |data| data.be32(1, register).be32(2, 3).be32(3, 2))
}

/// Loads the connection's status bits.
pub(crate) fn connection_status(register: u32) -> Expression {
    expression("ct", |data| data.be32(1, register).be32(2, 2))
}

/// Looks a key up in a map of the same transaction; the rule ends where there is none.
pub(crate) fn lookup(map: &str, id: u32, key: u32, value: u32) -> Expression {
    expression("lookup", |data| data.text(1, map).be32(2, key).be32(3, value).be32(4, id))
}

/// Sends the packet to the address and port in the registers.
pub(crate) fn dnat(family: u8, address: u32, port: u32) -> Expression {
    expression("nat", |data| {
        data.be32(1, 1)
            .be32(2, u32::from(family))
            .be32(3, address)
            .be32(4, address)
            .be32(5, port)
            .be32(6, port)
    })
}

/// Lets the packet leave with an address of the outgoing interface.
pub(crate) fn masquerade() -> Expression {
    expression("masq", |data| data)
}

/// Goes through another chain.
pub(crate) fn jump(chain: &str) -> Expression {
    verdict(-3, Some(chain))
}

/// Drops the packet.
pub(crate) fn drop() -> Expression {
    verdict(0, None)
}

/// Lets the packet pass, as far as this table is concerned.
pub(crate) fn accept() -> Expression {
    verdict(1, None)
}

fn verdict(code: i32, chain: Option<&str>) -> Expression {
    expression("immediate", |data| {
        data.be32(1, 0).nest(2, |nest| {
            nest.nest(DATA_VERDICT, |verdict| {
                let verdict = verdict.be32(1, code as u32);
                match chain {
                    Some(chain) => verdict.text(2, chain),
                    None => verdict,
                }
            })
        })
    })
}

/// Keys and values of a map, as the kernel has them.
#[cfg(test)]
pub(crate) fn list_elements(socket: &mut Socket, table: &str, map: &'static str) -> Vec<Element> {
    let dump = Message::new(GETSETELEM, 0, &INET).text(1, table).text(2, map);
    let Ok(entries) = socket.dump(&dump) else { return Vec::new() };
    let mut found = Vec::new();
    for payload in &entries {
        for (_, item) in attr(&payload[4..], 3).into_iter().flat_map(attrs) {
            let value =
                |kind| attr(item, kind).and_then(|nest| attr(nest, DATA_VALUE)).unwrap_or_default().to_vec();
            found.push(Element { map, key: value(1), value: value(2) });
        }
    }
    found
}
