//! Lists of sources, and which of all sources are on one. Sources are numbered; agent-ebpf/src/sources.rs
//! makes the same ones of the same numbers.

use agent_kernel::filter::{Rule, RuleKey, Until};
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// What is blocked.
pub(crate) struct List {
    family: Family,
    singles: u32,
    pub(crate) prefixes: Vec<IpNet>,
}

/// Numbers of sources.
pub(crate) struct Sources {
    pub(crate) family: Family,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl List {
    /// The first addresses of a family.
    pub(crate) fn singles(family: Family, count: u32) -> Self {
        let prefixes = (0..count).map(|number| source(family, number).into()).collect();
        Self { family, singles: count, prefixes }
    }

    /// Random IPv4 prefixes.
    pub(crate) fn prefixes(lengths: Range<u8>, count: u32) -> Self {
        let prefix = |number: u32| {
            let span = u32::from(lengths.end - lengths.start);
            let length = lengths.start + u8::try_from(number % span).expect("less than the span");
            let address = Ipv4Addr::from_bits(mix4(number + 1_000_000_000));
            Ipv4Net::new(address, length).expect("a length of the family").trunc().into()
        };
        Self { family: Family::V4, singles: 0, prefixes: (0..count).map(prefix).collect() }
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.prefixes.extend(other.prefixes);
        self
    }

    /// Sources that are on it, if any is.
    pub(crate) fn hits(&self) -> Option<Sources> {
        let count = u64::from(self.singles);
        (count > 0).then_some(Sources { family: self.family, first: 0, count })
    }

    /// Sources that are not.
    pub(crate) fn misses(&self) -> Option<Sources> {
        let first = u64::from(self.singles);
        Some(Sources { family: self.family, first, count: (1 << 32) - first })
    }

    pub(crate) fn changes(&self) -> Vec<(RuleKey, Option<Rule>)> {
        let drop = Some(Rule { drop: Some(Until::FOREVER), monitor: None });
        self.prefixes.iter().map(|prefix| (RuleKey::any(*prefix), drop)).collect()
    }
}

/// The source of a number.
pub(crate) fn source(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(mix4(number)).into(),
        Family::V6 => {
            let (high, low) = (mix6(number.into()), mix6(!u64::from(number)));
            Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
        }
    }
}

fn mix4(number: u32) -> u32 {
    let mut it = number;
    it = (it ^ it >> 16).wrapping_mul(0x85eb_ca6b);
    it = (it ^ it >> 13).wrapping_mul(0xc2b2_ae35);
    it ^ it >> 16
}

fn mix6(number: u64) -> u64 {
    let mut it = number;
    it = (it ^ it >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    it = (it ^ it >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    it ^ it >> 33
}
