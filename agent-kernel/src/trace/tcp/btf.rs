//! Where this kernel keeps the members of its structs, from its own description (BTF,
//! Documentation/bpf/btf.rst). It must not know what they are for.

use crate::error::{Error, ErrorKind, named};
use std::collections::HashMap;

const FILE: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// The structs and unions of a kernel.
#[derive(Debug)]
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// Where the names begin.
    strings: usize,
    /// By number of the type.
    composites: HashMap<u32, Composite>,
}

#[derive(Debug)]
struct Composite {
    name: u32,
    /// Where its members are described.
    members: usize,
    count: usize,
    /// Offsets are in the lower 24 bits, beside the width of a bit field.
    has_bit_fields: bool,
}

impl Btf {
    /// Of the running kernel.
    pub(super) fn of_kernel() -> Result<Self, Error> {
        let bytes = std::fs::read(FILE).map_err(|error| {
            Error::io(named("file", FILE), error)
                .with_remedy("use a kernel that was built with CONFIG_DEBUG_INFO_BTF")
        })?;
        Self::parse(bytes).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, named("file", FILE), "it is no BTF that we know")
        })
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let at = |offset: u32| usize::try_from(offset).ok();
        if bytes.first_chunk() != Some(&MAGIC.to_ne_bytes()) {
            return None;
        }
        let header = at(word(4)?)?;
        let start = header + at(word(8)?)?;
        let end = start + at(word(12)?)?;
        let strings = header + at(word(16)?)?;
        let mut composites = HashMap::new();
        let (mut position, mut id) = (start, 1);
        while position < end {
            let (name, info) = (word(position)?, word(position + 4)?);
            let (kind, count) = ((info >> 24) & 0x1f, at(info & 0xffff)?);
            position += 12;
            if kind == KIND_STRUCT || kind == KIND_UNION {
                let has_bit_fields = info >> 31 == 1;
                let members = position;
                composites.insert(id, Composite { name, members, count, has_bit_fields });
            }
            position += described(kind, count)?;
            id += 1;
        }
        Some(Self { bytes, strings, composites })
    }

    /// Where a member lies in a struct, perhaps in a nameless part of it, bytes.
    pub(super) fn offset(&self, of: &str, member: &str) -> Option<u32> {
        let named = self.composites.values().filter(|composite| self.is_named(composite.name, of));
        named.filter_map(|composite| self.offset_in(composite, member)).next()
    }

    fn offset_in(&self, composite: &Composite, member: &str) -> Option<u32> {
        (0..composite.count).find_map(|index| {
            let at = composite.members + 12 * index;
            let (name, of, place) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let bits = if composite.has_bit_fields { place & 0xff_ffff } else { place };
            if self.is_named(name, member) {
                // A bit field begins inside a byte, and can't be read as a whole.
                return (bits % 8 == 0).then_some(bits / 8);
            }
            let inner = self.is_named(name, "").then(|| self.composites.get(&of)).flatten()?;
            Some(bits / 8 + self.offset_in(inner, member)?)
        })
    }

    fn is_named(&self, name: u32, expected: &str) -> bool {
        let start = self.strings + name as usize;
        let text = self.bytes.get(start..).unwrap_or_default();
        text.strip_prefix(expected.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

/// How much follows the head of a type, bytes; `None` for a kind that is not known.
fn described(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        KIND_STRUCT | KIND_UNION => 12 * count,
        // ENUM, FUNC_PROTO
        6 | 13 => 8 * count,
        // DATASEC, ENUM64
        15 | 19 => 12 * count,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct a { int x; struct { int y; }; }`
    fn small() -> Vec<u8> {
        let strings = b"\0a\0x\0y\0";
        let types: [u32; 25] = [
            // 1: int
            0,
            1 << 24,
            4,
            32, //
            // 2: the nameless struct
            0,
            4 << 24 | 1,
            4,
            5,
            1,
            0, //
            // 3: a pointer
            0,
            2 << 24,
            1, //
            // 4: struct a
            1,
            4 << 24 | 2,
            8,
            3,
            1,
            0,
            0,
            2,
            32, //
            // 5: a forward declaration
            0,
            7 << 24,
            0,
        ];
        let types_bytes = u32::try_from(size_of_val(&types)).expect("short");
        let header = [0x0001_eb9f_u32, 24, 0, types_bytes, types_bytes, strings.len() as u32];
        let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn members_are_found_also_in_nameless_parts() {
        let btf = Btf::parse(small()).expect("valid");
        assert_eq!(btf.offset("a", "x"), Some(0));
        assert_eq!(btf.offset("a", "y"), Some(4));
        assert_eq!(btf.offset("a", "z"), None);
        assert_eq!(btf.offset("b", "x"), None);
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(Btf::parse(Vec::new()).is_none());
        let mut unknown_kind = small();
        unknown_kind[24 + 7] = 31;
        assert!(Btf::parse(unknown_kind).is_none());
        let mut cut = small();
        cut.truncate(60);
        assert!(Btf::parse(cut).is_none());
    }
}
