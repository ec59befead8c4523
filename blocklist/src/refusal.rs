//! What `block` refuses unless it is forced: entries that would cut off somebody who must get through.

use crate::{Action, EntryKey, Feed};
use ipnet::IpNet;
use std::fmt;

/// A prefix that must stay reachable, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protected {
    /// One address, or a prefix of the never-block list.
    pub prefix: IpNet,
    /// Whose address it is, as part of a sentence: "the controller's address". `None` for an entry of
    /// the never-block list.
    pub whose: Option<String>,
}

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would block an address that must stay reachable.
    #[error("{prefix} covers {address}, {whose}; name a port with --port, or use --force")]
    Covers {
        /// The entry's prefix.
        prefix: IpNet,
        /// The address or prefix in danger.
        address: DisplayHost,
        /// Whose it is.
        whose: String,
    },
    /// The never-block list has it, so it would not take effect.
    #[error(
        "{prefix}: {listed} is on the never-block list and always passes; take it off first with \
        `kctl protect remove`"
    )]
    Listed {
        /// The entry's prefix.
        prefix: IpNet,
        /// What the list has.
        listed: DisplayHost,
    },
    /// It would close a port that people manage hosts through, to everybody.
    #[error("{prefix} with port {port} closes {what} to everyone; use --force if that is meant")]
    Closes {
        /// The entry's prefix.
        prefix: IpNet,
        /// The ports: `22`, `20-30`.
        port: String,
        /// Whose port it is: "web-1's ssh port".
        what: String,
    },
}

/// A prefix shown without `/32` or `/128`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplayHost(IpNet);

impl fmt::Display for DisplayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

/// The first reason to refuse an entry, if there is one.
///
/// `protected` are prefixes that must stay reachable; loopback is always among them. `listed` are those
/// of feeds on the never-block list.
/// `management_ports` are TCP ports with whose they are; only an entry for everyone closes them.
pub fn refusal(
    key: &EntryKey,
    protected: &[Protected],
    listed: &[Feed],
    management_ports: &[(u16, String)],
) -> Option<Refusal> {
    if key.action != Action::Drop {
        return None;
    }
    let Some(service) = key.service else {
        let refused = std::iter::once(&loopback(key.prefix))
            .chain(protected)
            .find(|protected| overlap(key.prefix, protected.prefix))
            .map(|protected| match &protected.whose {
                Some(whose) => Refusal::Covers {
                    prefix: key.prefix,
                    address: DisplayHost(protected.prefix),
                    whose: whose.clone(),
                },
                None => {
                    Refusal::Listed { prefix: key.prefix, listed: DisplayHost(protected.prefix) }
                }
            });
        return refused.or_else(|| {
            let listed =
                listed.iter().find_map(|it| it.prefixes().overlapping(key.prefix).next())?;
            Some(Refusal::Listed { prefix: key.prefix, listed: DisplayHost(listed) })
        });
    };
    if key.prefix.prefix_len() > 0 || service.protocol == Some(crate::Protocol::Udp) {
        return None;
    }
    management_ports.iter().find(|(port, _)| service.contains(*port)).map(|(_, what)| {
        Refusal::Closes { prefix: key.prefix, port: service.ports(), what: what.clone() }
    })
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The loopback addresses, which are always among the protected: those of IPv4, or that of IPv6.
pub fn loopback_of(v4: bool) -> IpNet {
    if v4 {
        ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into()
    } else {
        std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST).into()
    }
}

fn loopback(like: IpNet) -> Protected {
    let prefix = loopback_of(matches!(like, IpNet::V4(_)));
    Protected { prefix, whose: Some("loopback".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Selection, Service, parse_prefix};

    fn key(prefix: &str, service: Option<(u16, Option<Protocol>)>) -> EntryKey {
        EntryKey {
            prefix: parse_prefix(prefix).expect("valid"),
            service: service.map(|(port, protocol)| Service::port(port, protocol)),
            interface: None,
            action: Action::Drop,
            source: "user:a".to_owned(),
            selection: Selection::All,
        }
    }

    fn check(key: &EntryKey) -> Option<String> {
        let own = Protected {
            prefix: parse_prefix("10.0.0.7").expect("valid"),
            whose: Some("web-1's own address".to_owned()),
        };
        let listed = Protected { prefix: parse_prefix("10.2.0.0/16").expect("valid"), whose: None };
        refusal(key, &[own, listed], &[], &[(22, "web-1's ssh port".to_owned())])
            .map(|r| r.to_string())
    }

    #[test]
    fn covering_a_protected_address_is_refused() {
        let refused = check(&key("10.0.0.0/24", None)).expect("refused");
        assert_eq!(
            refused,
            "10.0.0.0/24 covers 10.0.0.7, web-1's own address; name a port with --port, or use --force"
        );
        assert!(check(&key("127.0.0.1", None)).expect("refused").contains("loopback"));
        assert!(check(&key("::/0", None)).expect("refused").contains("loopback"));
        assert_eq!(check(&key("10.0.1.0/24", None)), None);
        assert_eq!(check(&key("10.0.0.0/24", Some((80, None)))), None);
    }

    #[test]
    fn force_is_no_advice_against_the_never_block_list() {
        for prefix in ["10.2.3.4", "10.2.0.0/15"] {
            let refused = check(&key(prefix, None)).expect("refused");
            assert!(refused.contains("10.2.0.0/16 is on the never-block list"), "{refused}");
            assert!(!refused.contains("--force"), "{refused}");
        }
    }

    #[test]
    fn closing_a_management_port_to_everyone_is_refused() {
        assert!(check(&key("0.0.0.0/0", Some((22, None)))).expect("refused").contains("ssh port"));
        assert!(check(&key("::/0", Some((22, Some(Protocol::Tcp))))).is_some());
        assert_eq!(check(&key("0.0.0.0/0", Some((22, Some(Protocol::Udp))))), None);
        assert_eq!(check(&key("10.0.0.0/8", Some((22, None)))), None);
        assert_eq!(check(&key("0.0.0.0/0", Some((80, None)))), None);
        let range = |port, last| EntryKey {
            service: Some(Service { port, last, protocol: Some(Protocol::Tcp) }),
            ..key("0.0.0.0/0", None)
        };
        let refused = check(&range(20, 30)).expect("refused");
        assert!(refused.contains("with port 20-30 closes web-1's ssh port"), "{refused}");
        assert_eq!(check(&range(23, 65_535)), None);
    }
}
