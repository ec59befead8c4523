//! What numbers of netlink are called: the words of ip(8), and links by their index.

use super::{
    attribute::{attributes, header, text},
    request,
};
use crate::{Error, ErrorKind, error::named};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use nix::libc;
use std::{borrow::Cow, io};

/// Words for numbers.
pub(super) type Words = &'static [(u32, &'static str)];

/// A number's word, or the number as text where it has none.
pub(super) fn word(words: Words, number: u32) -> Cow<'static, str> {
    let known = words.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string().into(), |(_, word)| (*word).into())
}

/// The words for the bits that are set.
pub(super) fn bits(words: Words, set: u32) -> Vec<&'static str> {
    words.iter().filter(|(bit, _)| set & bit != 0).map(|(_, word)| *word).collect()
}

/// Names of links, by index in order.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<(u32, String)>);

impl Links {
    /// Those of the calling thread's network namespace.
    pub(super) fn read() -> Result<Self, Error> {
        let mut message = LinkMessage::default();
        // Counters are most of what the kernel tells about a link, and most of its work.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        Self::of(&request::raw_dump(&RouteNetlinkMessage::GetLink(message))?)
    }

    /// Those of a list of links.
    pub(super) fn of(answer: &request::Answer) -> Result<Self, Error> {
        let links = answer.payloads().map(|payload| payload.and_then(link));
        let mut links: Vec<_> =
            links.collect::<Result<_, _>>().map_err(|error| Error::io(request::OBJECT, error))?;
        links.sort_unstable();
        Ok(Self(links))
    }

    /// Gives a link a name, or a new one.
    pub(super) fn set(&mut self, index: u32, name: &str) {
        match self.0.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(at) if self.0[at].1 == name => {}
            Ok(at) => name.clone_into(&mut self.0[at].1),
            Err(at) => self.0.insert(at, (index, name.to_owned())),
        }
    }

    /// Takes its name from a link.
    pub(super) fn forget(&mut self, index: u32) {
        self.0.retain(|(known, _)| *known != index);
    }

    /// A link's name, where it has one.
    pub(super) fn known(&self, index: u32) -> Option<&str> {
        let found = self.0.binary_search_by_key(&index, |(index, _)| *index);
        found.ok().map(|at| self.0[at].1.as_str())
    }

    /// A link's name; `if7` for one that came or went meanwhile.
    pub(super) fn name(&self, index: u32) -> String {
        self.known(index).map_or_else(|| format!("if{index}"), str::to_owned)
    }

    /// The index of a link.
    pub(super) fn index(&self, name: &str) -> Result<u32, Error> {
        let found = self.0.iter().find(|(_, known)| *known == name).map(|(index, _)| *index);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, named("link", name), "no such device"))
    }
}

/// Index and name of a link (RTM_NEWLINK).
pub(super) fn link(payload: &[u8]) -> io::Result<(u32, String)> {
    // `struct ifinfomsg`
    let ([_, _, _, _, i0, i1, i2, i3, ..], rest): (&[u8; 16], _) = header(payload)?;
    let mut name = String::new();
    for attribute in attributes(rest) {
        if let (libc::IFLA_IFNAME, value) = attribute? {
            name = text(value);
        }
    }
    Ok((u32::from_ne_bytes([*i0, *i1, *i2, *i3]), name))
}
