//! Who is called what on which network, and what each container may look up.
//!
//! All that is known of a container is replaced at once or dropped at once; nobody else's entries are touched.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::name::Name;
use super::numbered::Numbered;
use crate::error::{Error, Result};

/// One container, as proad tells it. Mirror of `DnsSandbox` in `python/proa/schema/keeper.py`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The container's.
    pub id: String,
    /// The prepared namespace that it will start in; none for a container that runs.
    pub key: Option<u64>,
    /// In the order in which names are looked up.
    pub networks: Vec<Membership>,
    /// None for a container with only internal networks.
    pub upstreams: Vec<Upstream>,
    /// Names without a dot are not asked of the upstreams.
    pub ndots: bool,
}

/// A network that a container is on, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub id: String,
    pub name: String,
    /// The first is what its addresses' reverse look-up answers.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// (alias, name): of the container's own, for names of this network.
    pub links: Vec<(String, String)>,
}

/// A server that is asked what the networks do not know.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upstream {
    pub address: IpAddr,
    pub port: u16,
    /// It is asked from the host's network namespace, not from the container's.
    pub host: bool,
}

impl Sandbox {
    /// Whether every name is one.
    pub fn check(&self) -> Result<()> {
        for network in &self.networks {
            let links = network.links.iter().flat_map(|(alias, name)| [alias, name]);
            for name in network.names.iter().chain(links) {
                label(name).ok_or_else(|| Error::Invalid(format!("bad name {name:?}")))?;
            }
        }
        Ok(())
    }
}

type Label = Box<[u8]>;

fn label(name: &str) -> Option<Label> {
    Name::parse(name).map(|name| name.as_bytes().into())
}

/// One container's address on one network.
#[derive(Debug)]
struct Member {
    sandbox: u32,
    addresses: Rc<[IpAddr]>,
}

#[derive(Debug, Default)]
struct Network {
    names: HashMap<Label, Vec<Member>>,
    /// Who has an address, and its full name, `web.shop`, on the wire.
    addresses: HashMap<IpAddr, (u32, Label)>,
}

/// How a container sees one of its networks.
#[derive(Debug)]
struct View {
    network: Rc<str>,
    /// `None` where the network's name can be part of no name.
    name: Option<Label>,
    links: HashMap<Label, Label>,
}

#[derive(Debug)]
struct Known {
    id: String,
    told: Sandbox,
    views: Vec<View>,
}

/// All networks and containers. A container's number is its place; it is not used twice.
#[derive(Debug, Default)]
pub struct Table {
    networks: HashMap<Rc<str>, Network>,
    known: Numbered<Known>,
    numbers: HashMap<String, u32>,
    last: u32,
}

impl Table {
    /// Replace what is known of a container; answers its number.
    pub fn set(&mut self, told: Sandbox) -> u32 {
        let number = self.numbers.get(&told.id).copied().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        if self.known.get(&number).is_some_and(|known| known.told == told) {
            return number;
        }
        self.leave(number);
        let views = told.networks.iter().map(|membership| self.join(number, membership)).collect();
        self.numbers.insert(told.id.clone(), number);
        self.known.insert(number, Known { id: told.id.clone(), told, views });
        number
    }

    /// Forget a container; answers the number that it had.
    pub fn drop(&mut self, id: &str) -> Option<u32> {
        let number = self.numbers.remove(id)?;
        self.leave(number);
        Some(number)
    }

    #[must_use]
    pub fn number(&self, id: &str) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    #[must_use]
    pub fn sandbox(&self, number: u32) -> Option<&Sandbox> {
        self.known.get(&number).map(|known| &known.told)
    }

    pub fn sandboxes(&self) -> impl Iterator<Item = (u32, &Sandbox)> {
        self.known.iter().map(|(number, known)| (*number, &known.told))
    }

    /// The addresses of a name as a container sees it; `None` for a name that none of its networks knows.
    #[must_use]
    pub fn look_up(&self, number: u32, name: &Name) -> Option<Vec<IpAddr>> {
        let views = &self.known.get(&number)?.views;
        let name_alone = name.as_bytes();
        let plain = views.iter().find_map(|view| self.look_in(view, name_alone));
        plain.or_else(|| {
            name.cuts().find_map(|(host, network)| {
                let named = views.iter().filter(|view| view.name.as_deref() == Some(network));
                named.into_iter().find_map(|view| self.look_in(view, host))
            })
        })
    }

    /// The full name, on the wire without its root, of who has an address on one of a container's networks.
    #[must_use]
    pub fn look_back(&self, number: u32, address: IpAddr) -> Option<&[u8]> {
        let views = &self.known.get(&number)?.views;
        let networks = views.iter().filter_map(|view| self.networks.get(&view.network));
        networks.filter_map(|network| network.addresses.get(&address)).map(|(_, name)| &**name).next()
    }

    fn look_in(&self, view: &View, name: &[u8]) -> Option<Vec<IpAddr>> {
        let network = self.networks.get(&view.network)?;
        let target = view.links.get(name).map_or(name, |target| target);
        let members = network.names.get(target)?;
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(members.len());
        for address in members.iter().flat_map(|member| member.addresses.iter()) {
            addresses.push(*address);
        }
        Some(addresses)
    }

    fn join(&mut self, number: u32, membership: &Membership) -> View {
        let id: Rc<str> = match self.networks.get_key_value(membership.id.as_str()) {
            Some((id, _)) => Rc::clone(id),
            None => membership.id.as_str().into(),
        };
        let network = self.networks.entry(Rc::clone(&id)).or_default();
        let addresses: Rc<[IpAddr]> = membership.addresses.as_slice().into();
        let mut names: Vec<Label> = membership.names.iter().filter_map(|name| label(name)).collect();
        let full = membership.names.first().and_then(|first| label(&format!("{first}.{}", membership.name)));
        if let Some(full) = full.or_else(|| names.first().cloned()) {
            for address in &membership.addresses {
                network.addresses.insert(*address, (number, full.clone()));
            }
        }
        names.sort_unstable();
        names.dedup();
        for name in names {
            let member = Member { sandbox: number, addresses: Rc::clone(&addresses) };
            network.names.entry(name).or_default().push(member);
        }
        let links = membership.links.iter();
        let links = links.filter_map(|(alias, name)| Some((label(alias)?, label(name)?))).collect();
        View { network: id, name: label(&membership.name), links }
    }

    fn leave(&mut self, number: u32) {
        let Some(known) = self.known.remove(&number) else { return };
        self.numbers.remove(&known.id);
        for membership in &known.told.networks {
            let Some(network) = self.networks.get_mut(membership.id.as_str()) else { continue };
            for name in membership.names.iter().filter_map(|name| label(name)) {
                let Some(members) = network.names.get_mut(&name) else { continue };
                members.retain(|member| member.sandbox != number);
                if members.is_empty() {
                    network.names.remove(&name);
                }
            }
            for address in &membership.addresses {
                if network.addresses.get(address).is_some_and(|(owner, _)| *owner == number) {
                    network.addresses.remove(address);
                }
            }
            if network.names.is_empty() && network.addresses.is_empty() {
                self.networks.remove(membership.id.as_str());
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn membership(network: &str, names: &[&str], addresses: &[&str]) -> Membership {
        Membership {
            id: format!("{network}-id"),
            name: network.into(),
            names: names.iter().map(ToString::to_string).collect(),
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            links: Vec::new(),
        }
    }

    pub fn sandbox(id: &str, networks: Vec<Membership>) -> Sandbox {
        Sandbox { id: id.into(), key: None, networks, upstreams: Vec::new(), ndots: false }
    }

    fn found(table: &Table, number: u32, name: &str) -> Option<Vec<String>> {
        let addresses = table.look_up(number, &Name::parse(name).expect("a name"))?;
        Some(addresses.iter().map(ToString::to_string).collect())
    }

    fn backwards(table: &Table, number: u32, address: &str) -> Option<String> {
        let name = table.look_back(number, address.parse().expect("an address"))?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    #[test]
    fn names_aliases_and_full_names_are_found_on_the_networks_one_is_on() {
        let mut table = Table::default();
        let one = table.set(sandbox(
            "1",
            vec![membership("shop", &["web", "www", "0123456789ab"], &["10.0.0.2", "fd00::2"])],
        ));
        let two = table.set(sandbox(
            "2",
            vec![membership("shop", &["db"], &["10.0.0.3"]), membership("back.end", &["db"], &["10.1.0.3"])],
        ));
        let three = table.set(sandbox("3", vec![membership("back.end", &["job.1"], &["10.1.0.4"])]));
        for name in ["web", "WWW", "0123456789ab", "web.shop"] {
            assert_eq!(found(&table, two, name), Some(vec!["10.0.0.2".into(), "fd00::2".into()]), "{name}");
            assert_eq!(found(&table, three, name), None, "{name}");
        }
        assert_eq!(found(&table, two, "db"), Some(vec!["10.0.0.3".into()]), "the first network comes first");
        assert_eq!(found(&table, two, "db.back.end"), Some(vec!["10.1.0.3".into()]));
        assert_eq!(found(&table, one, "db.back.end"), None);
        assert_eq!(found(&table, two, "job.1"), Some(vec!["10.1.0.4".into()]));
        assert_eq!(found(&table, two, "job.1.back.end"), Some(vec!["10.1.0.4".into()]));
        assert_eq!(backwards(&table, two, "10.0.0.2").as_deref(), Some("\x03web\x04shop"));
        assert_eq!(backwards(&table, three, "10.0.0.2"), None);
    }

    #[test]
    fn who_shares_a_name_is_answered_with_the_others_until_it_goes() {
        let mut table = Table::default();
        let member = |number: u8| membership("shop", &["web"], &[&format!("10.0.0.{number}")]);
        let one = table.set(sandbox("1", vec![member(1)]));
        for number in 2..5 {
            table.set(sandbox(&number.to_string(), vec![member(number)]));
        }
        assert_eq!(found(&table, one, "web").map(|found| found.len()), Some(4));
        assert!(table.drop("3").is_some() && table.drop("3").is_none());
        assert_eq!(found(&table, one, "web").map(|found| found.len()), Some(3));
    }

    #[test]
    fn setting_replaces_and_twice_changes_nothing() {
        let mut table = Table::default();
        let told = sandbox("1", vec![membership("shop", &["web", "web"], &["10.0.0.1"])]);
        let one = table.set(told.clone());
        assert_eq!(table.set(told), one);
        assert_eq!(found(&table, one, "web"), Some(vec!["10.0.0.1".into()]));
        assert_eq!(table.set(sandbox("1", vec![membership("other", &["web2"], &["10.9.0.1"])])), one);
        assert_eq!((found(&table, one, "web"), backwards(&table, one, "10.0.0.1")), (None, None));
        assert_eq!(found(&table, one, "web2.other"), Some(vec!["10.9.0.1".into()]));
        table.drop("1");
        assert!(table.networks.is_empty() && table.known.is_empty() && table.numbers.is_empty());
    }

    #[test]
    fn links_are_the_containers_own() {
        let mut table = Table::default();
        table.set(sandbox("1", vec![membership("shop", &["web"], &["10.0.0.1"])]));
        let mut linked = membership("shop", &["app"], &["10.0.0.2"]);
        linked.links = vec![("Backend".into(), "web".into())];
        let two = table.set(sandbox("2", vec![linked]));
        let three = table.set(sandbox("3", vec![membership("shop", &["job"], &["10.0.0.3"])]));
        assert_eq!(found(&table, two, "backend"), Some(vec!["10.0.0.1".into()]));
        assert_eq!(found(&table, two, "backend.shop"), Some(vec!["10.0.0.1".into()]));
        assert_eq!(found(&table, three, "backend"), None);
    }

    #[test]
    fn an_address_that_a_new_container_has_stays_its_own() {
        let mut table = Table::default();
        table.set(sandbox("1", vec![membership("shop", &["old"], &["10.0.0.1"])]));
        let two = table.set(sandbox("2", vec![membership("shop", &["new"], &["10.0.0.1"])]));
        table.drop("1");
        assert_eq!(backwards(&table, two, "10.0.0.1").as_deref(), Some("\x03new\x04shop"));
    }

    #[test]
    fn bad_names_are_refused() {
        assert!(sandbox("1", vec![membership("shop", &["we_b.x-1"], &[])]).check().is_ok());
        assert!(sandbox("1", vec![membership("shop", &["a..b"], &[])]).check().is_err());
    }
}
