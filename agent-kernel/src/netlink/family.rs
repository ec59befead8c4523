//! Address families, and dumps that the kernel tells a family at a time.

use super::request::{Answer, raw_dump};
use crate::{Error, ErrorKind};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

impl Family {
    /// Whether a message is of this family: each begins with it.
    pub(super) fn begins(self, payload: &[u8]) -> bool {
        payload.first() == Some(&self.number())
    }

    fn number(self) -> u8 {
        AddressFamily::from(self).into()
    }

    pub(super) fn unspecified(self) -> IpAddr {
        match self {
            Self::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Self::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Inet => Self::Inet,
            Family::Inet6 => Self::Inet6,
        }
    }
}

/// The answers of one family or of both.
pub(super) struct Answers(Vec<(Family, Answer)>);

impl Answers {
    /// Asks for one family, or for both.
    pub(super) fn dump(
        family: Option<Family>,
        request: impl Fn(Family) -> RouteNetlinkMessage,
    ) -> Result<Self, Error> {
        let mut answers = Vec::new();
        for family in family.map_or(vec![Family::Inet, Family::Inet6], |only| vec![only]) {
            match raw_dump(&request(family)) {
                Ok(answer) => answers.push((family, answer)),
                // What the request asks for (a table, a link) is not there, or not in this family.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(answers))
    }

    /// Their objects, read as they are taken; `read` leaves out what it answers `None` for.
    pub(super) fn objects<T: Send>(
        self,
        read: impl Fn(Family, &[u8]) -> io::Result<Option<T>> + Send + Sync,
    ) -> impl Iterator<Item = Result<T, Error>> + Send {
        let read = Arc::new(read);
        self.0.into_iter().flat_map(move |(family, answer)| {
            let read = Arc::clone(&read);
            answer.objects(move |payload| {
                // A kernel without IPv6 answers with what it has instead. Every message begins with
                // its family.
                let asked_for = payload.first() == Some(&family.number());
                if asked_for { read(family, payload) } else { Ok(None) }
            })
        })
    }
}
