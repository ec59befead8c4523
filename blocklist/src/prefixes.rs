//! Many prefixes as one value: sorted, without repeats, packed on the wire and on disk.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kctl_proto::agent::v1 as pb;
use std::cmp::Ordering;

/// A million addresses take 18 MB.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefixes(Vec<IpNet>);

/// What leads from some prefixes to others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Only in the later ones.
    pub added: Prefixes,
    /// Only in the earlier ones.
    pub removed: Prefixes,
}

/// Packed bytes that are no prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("prefixes: {0}")]
pub struct InvalidPacked(&'static str);

impl FromIterator<IpNet> for Prefixes {
    /// Sorts them, cuts host bits off and drops repeats.
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let mut prefixes: Vec<_> = prefixes.into_iter().map(|prefix| prefix.trunc()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self(prefixes)
    }
}

impl Prefixes {
    /// In order: by family, address, length, so that what lies inside a prefix follows it.
    pub fn as_slice(&self) -> &[IpNet] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether exactly this prefix is among them.
    pub fn contains(&self, prefix: IpNet) -> bool {
        self.0.binary_search(&prefix).is_ok()
    }

    /// Those that share addresses with a prefix: those around it, then it and those inside it.
    pub fn overlapping(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        let around = std::iter::successors(prefix.supernet(), IpNet::supernet);
        let first = self.0.partition_point(|other| *other < prefix);
        let inside = self.0[first..].iter().take_while(move |other| prefix.contains(*other));
        around.filter(|around| self.contains(*around)).chain(inside.copied())
    }

    /// What leads from these to others.
    pub fn difference(&self, later: &Self) -> Difference {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let (mut old, mut new) = (self.0.as_slice(), later.0.as_slice());
        while let ([a, old_rest @ ..], [b, new_rest @ ..]) = (old, new) {
            match a.cmp(b) {
                Ordering::Less => removed.push(*a),
                Ordering::Greater => added.push(*b),
                Ordering::Equal => {}
            }
            if a <= b {
                old = old_rest;
            }
            if b <= a {
                new = new_rest;
            }
        }
        removed.extend_from_slice(old);
        added.extend_from_slice(new);
        Difference { added: Self(added), removed: Self(removed) }
    }

    /// These with a difference made. What is removed and not there, or added and there, is fine.
    pub fn apply(&self, difference: &Difference) -> Self {
        let removed = difference.removed.0.as_slice();
        let mut kept = Cursor::new(removed);
        let mut prefixes = Vec::with_capacity(self.len() + difference.added.len());
        let mut added = difference.added.0.iter().copied().peekable();
        for &prefix in &self.0 {
            while let Some(new) = added.next_if(|new| *new <= prefix) {
                if new != prefix {
                    prefixes.push(new);
                }
            }
            if !kept.contains(prefix) || difference.added.contains(prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes.extend(added);
        Self(prefixes)
    }

    /// How many of these lie wholly in one of `others`, which are sorted. Addresses of which only
    /// parts are in several others don't count.
    pub fn covered_by(&self, others: &[IpNet]) -> u64 {
        let mut covered = 0;
        let mut others = others.iter().peekable();
        // The widest of the others that begin before here: prefixes nest or lie apart.
        let mut around: Option<IpNet> = None;
        for prefix in &self.0 {
            while let Some(other) = others.next_if(|other| *other <= prefix) {
                if around.is_none_or(|around| !around.contains(other)) {
                    around = Some(*other);
                }
            }
            covered += u64::from(around.is_some_and(|around| around.contains(prefix)));
        }
        covered
    }

    /// For the wire, in messages of at most `most` prefixes. None makes one empty message.
    pub fn packed(&self, most: usize) -> impl Iterator<Item = pb::Prefixes> {
        let chunks = self.0.chunks(most.max(1)).map(pack);
        let empty = self.is_empty().then(pb::Prefixes::default);
        empty.into_iter().chain(chunks)
    }
}

/// Packs some prefixes as they come.
pub fn pack<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> pb::Prefixes {
    let mut packed = pb::Prefixes::default();
    for prefix in prefixes {
        match prefix {
            IpNet::V4(v4) => {
                packed.v4.extend(v4.addr().octets());
                packed.v4.push(v4.prefix_len());
            }
            IpNet::V6(v6) => {
                packed.v6.extend(v6.addr().octets());
                packed.v6.push(v6.prefix_len());
            }
        }
    }
    packed
}

/// Appends what [`pack`] packed, without host bits.
pub fn unpack(packed: &pb::Prefixes, prefixes: &mut Vec<IpNet>) -> Result<(), InvalidPacked> {
    let (v4, rest4) = packed.v4.as_chunks::<5>();
    let (v6, rest6) = packed.v6.as_chunks::<17>();
    if !rest4.is_empty() || !rest6.is_empty() {
        return Err(InvalidPacked("v4 must be of 5 bytes each and v6 of 17"));
    }
    prefixes.reserve(v4.len() + v6.len());
    for &[a, b, c, d, length] in v4 {
        let prefix = Ipv4Net::new([a, b, c, d].into(), length);
        prefixes.push(
            prefix
                .map_err(|_| InvalidPacked("the length of an IPv4 prefix is 0 to 32"))?
                .trunc()
                .into(),
        );
    }
    for bytes in v6 {
        let (address, length) = bytes.split_first_chunk::<16>().expect("17 bytes");
        let prefix = Ipv6Net::new((*address).into(), length[0]);
        prefixes.push(
            prefix
                .map_err(|_| InvalidPacked("the length of an IPv6 prefix is 0 to 128"))?
                .trunc()
                .into(),
        );
    }
    Ok(())
}

/// Looks prefixes up that come in order, at a cost that falls with how near they are to each other.
#[derive(Debug, Clone)]
pub struct Cursor<'a>(&'a [IpNet]);

impl<'a> Cursor<'a> {
    /// At the beginning of a sorted slice.
    pub fn new(sorted: &'a [IpNet]) -> Self {
        Self(sorted)
    }

    /// Whether a prefix is there that is not before the last one that was asked for.
    pub fn contains(&mut self, prefix: IpNet) -> bool {
        let mut step = 1;
        while self.0.get(step - 1).is_some_and(|other| *other < prefix) {
            self.0 = &self.0[step..];
            step = (step * 2).min(self.0.len().max(1));
        }
        let near = &self.0[..step.min(self.0.len())];
        self.0 = &self.0[near.partition_point(|other| *other < prefix)..];
        self.0.first() == Some(&prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_prefix;
    use std::collections::BTreeSet;

    fn prefixes(texts: &[&str]) -> Prefixes {
        texts.iter().map(|text| parse_prefix(text).expect("valid")).collect()
    }

    fn texts(prefixes: &Prefixes) -> Vec<String> {
        prefixes.as_slice().iter().map(ToString::to_string).collect()
    }

    /// Numbers that look random and are the same in each run.
    fn numbers(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |x| {
            let x = x ^ (x << 13);
            let x = x ^ (x >> 7);
            Some(x ^ (x << 17))
        })
        .skip(1)
    }

    fn random(seed: u64, count: usize) -> Vec<IpNet> {
        let one = |number: u64| -> IpNet {
            let [a, b, c, d, length, family, ..] = number.to_le_bytes();
            // Few addresses, so that there are repeats and overlaps.
            match family % 3 {
                0 => {
                    let address = std::net::Ipv6Addr::from([
                        0x2001,
                        u16::from(a % 4),
                        0,
                        0,
                        0,
                        0,
                        0,
                        u16::from(b),
                    ]);
                    Ipv6Net::new(address, length % 129).expect("in range").into()
                }
                _ => Ipv4Net::new([10, a % 2, c % 4, d].into(), length % 33)
                    .expect("in range")
                    .into(),
            }
        };
        numbers(seed).take(count).map(one).collect()
    }

    #[test]
    fn a_difference_leads_from_one_to_the_other() {
        for seed in 1..50 {
            let old: Prefixes = random(seed, 300).into_iter().collect();
            let new: Prefixes = random(seed + 1_000, 300).into_iter().collect();
            let difference = old.difference(&new);
            let (a, b): (BTreeSet<_>, BTreeSet<_>) =
                (old.0.iter().copied().collect(), new.0.iter().copied().collect());
            assert!(difference.added.0.iter().eq(b.difference(&a)));
            assert!(difference.removed.0.iter().eq(a.difference(&b)));
            assert_eq!(old.apply(&difference), new);
            // Twice is once, and what is added wins.
            assert_eq!(new.apply(&difference), new);
        }
        let both = Difference { added: prefixes(&["10.0.0.1"]), removed: prefixes(&["10.0.0.1"]) };
        assert_eq!(texts(&prefixes(&["10.0.0.1"]).apply(&both)), ["10.0.0.1/32"]);
    }

    #[test]
    fn overlaps_and_covers_are_those_of_a_plain_look() {
        for seed in 1..50 {
            let own: Prefixes = random(seed, 200).into_iter().collect();
            let others: Prefixes = random(seed + 7, 40).into_iter().collect();
            let plain = own.0.iter().filter(|own| others.0.iter().any(|it| it.contains(*own)));
            assert_eq!(own.covered_by(&others.0), plain.count() as u64);
            for &prefix in &others.0 {
                let found: BTreeSet<_> = own.overlapping(prefix).collect();
                let plain = own.0.iter().filter(|it| it.contains(&prefix) || prefix.contains(*it));
                assert_eq!(found, plain.copied().collect());
            }
        }
    }

    #[test]
    fn a_cursor_finds_what_a_search_finds() {
        for seed in 1..50 {
            let own: Prefixes = random(seed, 500).into_iter().collect();
            let asked: Prefixes = random(seed + 3, 300).into_iter().collect();
            let mut cursor = Cursor::new(&own.0);
            for &prefix in &asked.0 {
                assert_eq!(cursor.contains(prefix), own.contains(prefix), "{prefix}");
                assert_eq!(cursor.contains(prefix), own.contains(prefix), "{prefix} again");
            }
        }
    }

    #[test]
    fn packed_they_come_back_without_host_bits() {
        let own: Prefixes = random(5, 1_000).into_iter().collect();
        let mut back = Vec::new();
        let mut messages = 0;
        for message in own.packed(300) {
            unpack(&message, &mut back).expect("valid");
            messages += 1;
        }
        assert_eq!(messages, own.len().div_ceil(300));
        assert_eq!(back.into_iter().collect::<Prefixes>(), own);
        assert_eq!(Prefixes::default().packed(5).count(), 1);

        let packed = |v4: &[u8], v6: &[u8]| pb::Prefixes { v4: v4.into(), v6: v6.into() };
        let mut prefixes = Vec::new();
        unpack(&packed(&[10, 0, 0, 5, 24], &[]), &mut prefixes).expect("valid");
        assert_eq!(prefixes[0].to_string(), "10.0.0.0/24");
        for bad in
            [packed(&[10, 0, 0, 5], &[]), packed(&[10, 0, 0, 5, 33], &[]), packed(&[], &[129; 17])]
        {
            assert!(unpack(&bad, &mut prefixes).is_err(), "{bad:?}");
        }
    }
}
