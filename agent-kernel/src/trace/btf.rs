//! What the kernel tells of its own types, Documentation/bpf/btf.rst. It must not know what for.

use crate::error::{Error, named};
use std::collections::HashMap;
use std::io;
use std::path::Path;

const MAGIC: u16 = 0xeb9f;
/// Members of members without a name are looked at so deep.
const DEPTH: u32 = 8;
/// What precedes the name of a tracepoint's function.
const TRACEPOINT: &str = "btf_trace_";

/// Kinds of types.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const POINTER: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// The kernel's types.
#[derive(Debug)]
pub(crate) struct Btf {
    bytes: Vec<u8>,
    /// Where the strings are.
    strings: usize,
    /// Where each type is, by its number.
    types: Vec<usize>,
    /// Numbers of structs and of the functions of tracepoints, by name.
    named: HashMap<Vec<u8>, u32>,
}

/// One type: its head, and where what follows begins.
struct Type {
    kind: u32,
    count: u32,
    has_bitfields: bool,
    /// Size, or number of another type.
    value: u32,
    members: usize,
}

impl Btf {
    /// Of the kernel that runs; `sys` is where sysfs is.
    pub(crate) fn read(sys: &Path) -> Result<Self, Error> {
        let path = sys.join("kernel/btf/vmlinux");
        let object = || named("file", path.display());
        let bytes = std::fs::read(&path).map_err(|error| Error::io(object(), error))?;
        Self::parse(bytes).ok_or_else(|| Error::io(object(), io::Error::other("is no BTF")))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let magic = bytes.first_chunk::<2>().map(|magic| u16::from_ne_bytes(*magic));
        if magic != Some(MAGIC) {
            return None;
        }
        let mut btf = Self { bytes, strings: 0, types: vec![0], named: HashMap::new() };
        let header = btf.word(4)?;
        let mut at = header.checked_add(btf.word(8)?)? as usize;
        let end = at.checked_add(btf.word(12)? as usize)?;
        btf.strings = header.checked_add(btf.word(16)?)? as usize;
        while at < end {
            let number = u32::try_from(btf.types.len()).ok()?;
            btf.types.push(at);
            let found = btf.type_at(at)?;
            let name = btf.string(btf.word(at)?)?;
            let is_wanted = match found.kind {
                kind::STRUCT => !name.is_empty(),
                kind::TYPEDEF => name.starts_with(TRACEPOINT.as_bytes()),
                _ => false,
            };
            if is_wanted {
                let name = name.to_vec();
                btf.named.entry(name).or_insert(number);
            }
            at = found.members.checked_add(found.count as usize * member_bytes(found.kind))?;
        }
        Some(btf)
    }

    /// Where a member begins, bytes from the start of its struct; `None` when there is none.
    pub(crate) fn member(&self, of: &str, member: &str) -> Option<u32> {
        self.member_of(*self.named.get(of.as_bytes())?, member.as_bytes(), DEPTH)
    }

    /// How long a struct is, bytes.
    pub(crate) fn size(&self, of: &str) -> Option<u32> {
        self.numbered(*self.named.get(of.as_bytes())?).map(|found| found.value)
    }

    /// The arguments of a tracepoint, each with whether it is a pointer; `None` when there is no such
    /// tracepoint.
    pub(crate) fn tracepoint(&self, name: &str) -> Option<Vec<bool>> {
        let typedef = self.numbered(*self.named.get(format!("{TRACEPOINT}{name}").as_bytes())?)?;
        let pointer = self.numbered(typedef.value)?;
        let function = self.numbered(pointer.value)?;
        let is_function = typedef.kind == kind::TYPEDEF
            && pointer.kind == kind::POINTER
            && function.kind == kind::FUNC_PROTO;
        let argument = |at: u32| self.word(function.members + 8 * at as usize + 4);
        let is_pointer = |at| self.bare(argument(at)?).map(|found| found.kind == kind::POINTER);
        // The first is the tracer's own.
        if is_function { (1..function.count).map(is_pointer).collect() } else { None }
    }

    fn member_of(&self, number: u32, member: &[u8], depth: u32) -> Option<u32> {
        let found = self.bare(number)?;
        if depth == 0 || !matches!(found.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        (0..found.count).find_map(|index| {
            let at = found.members + index as usize * member_bytes(found.kind);
            let (name, number, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let (bits, width) =
                if found.has_bitfields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            match self.string(name)? {
                [] => Some(bits / 8 + self.member_of(number, member, depth - 1)?),
                name => (name == member && width == 0).then_some(bits / 8),
            }
        })
    }

    /// A type without what doesn't change its shape.
    fn bare(&self, mut number: u32) -> Option<Type> {
        for _ in 0..DEPTH {
            let found = self.numbered(number)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    number = found.value
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn numbered(&self, number: u32) -> Option<Type> {
        // Number 0 is void.
        self.type_at(*self.types.get(number as usize).filter(|at| **at != 0)?)
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        let kind = info >> 24 & 0x1f;
        let count = match kind {
            kind::INT | kind::ARRAY | kind::VAR | kind::DECL_TAG => 1,
            kind::STRUCT
            | kind::UNION
            | kind::ENUM
            | kind::ENUM64
            | kind::FUNC_PROTO
            | kind::DATASEC => info & 0xffff,
            _ => 0,
        };
        let value = self.word(at + 8)?;
        Some(Type { kind, count, has_bitfields: info >> 31 != 0, value, members: at + 12 })
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let rest = self.bytes.get(self.strings.checked_add(at as usize)?..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

/// Bytes of each thing that follows a type's head.
fn member_bytes(of: u32) -> usize {
    match of {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ENUM | kind::FUNC_PROTO => 8,
        _ => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn running() -> Btf {
        Btf::read(Path::new("/sys")).expect("the kernel's BTF")
    }

    #[test]
    fn members_are_where_bpftool_finds_them() {
        let btf = running();
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["-j", "btf", "dump", "file", "/sys/kernel/btf/vmlinux"]);
        let dump = bpftool.output().expect("bpftool").stdout;
        let dump: serde_json::Value = serde_json::from_slice(&dump).expect("JSON");
        let types = dump["types"].as_array().expect("types");
        for (of, member) in
            [("task_struct", "tgid"), ("cred", "euid"), ("linux_binprm", "filename")]
        {
            let found = types.iter().find(|it| it["kind"] == "STRUCT" && it["name"] == of);
            let found = found.expect(of);
            let members = found["members"].as_array().expect("members");
            let bits =
                &members.iter().find(|it| it["name"] == member).expect(member)["bits_offset"];
            let offset = btf.member(of, member).map(|offset| u64::from(offset) * 8);
            assert_eq!(offset, bits.as_u64(), "{of}.{member}");
            assert_eq!(btf.size(of).map(u64::from), found["size"].as_u64(), "{of}");
        }
    }

    #[test]
    fn what_is_in_a_part_without_a_name_is_found() {
        // All of it is in one, for the sake of a random order of members.
        assert!(running().member("mm_struct", "arg_start").is_some_and(|offset| offset > 0));
    }

    #[test]
    fn what_there_is_not_is_not_found() {
        let btf = running();
        assert_eq!(btf.member("task_struct", "no_such_member"), None);
        assert_eq!(btf.member("no_such_struct", "tgid"), None);
        // A bit of a byte has no address.
        assert_eq!(btf.member("task_struct", "in_execve"), None);
        assert_eq!(btf.tracepoint("no_such_tracepoint"), None);
    }

    #[test]
    fn tracepoints_tell_their_arguments() {
        let btf = running();
        assert_eq!(btf.tracepoint("sys_exit"), Some(vec![true, false]));
        assert_eq!(btf.tracepoint("sched_process_exec"), Some(vec![true, false, true]));
    }

    #[test]
    fn broken_input_ends() {
        let whole = std::fs::read("/sys/kernel/btf/vmlinux").expect("the kernel's BTF");
        for length in [0, 1, 10, 24, 1_000, 100_000] {
            if let Some(btf) = Btf::parse(whole[..length].to_vec()) {
                assert_eq!(btf.member("task_struct", "tgid"), None);
            }
        }
    }
}
