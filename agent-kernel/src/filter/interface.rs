//! Interfaces that rules name: what they are called, and their numbers in the kernel. It must not know
//! the rules.

use super::table::{Row, Table};
use super::{pins::Pins, program::Program};
use crate::error::{Error, ErrorKind, named};
use agent_records::InterfaceName;
use agent_records::lookup::MAX_INTERFACES;
use nix::net::if_::if_nametoindex;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{PoisonError, RwLock};

/// Bytes of a name, at most (IFNAMSIZ with its zero, netdevice(7)).
const NAME_BYTES: usize = 15;

/// Every name that this process has heard: a rule's key is small and is copied.
static NAMES: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

/// The name of an interface, whether there is one or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(NonZeroU32);

impl Interface {
    /// Of this name.
    pub fn named(name: &str) -> Self {
        let at = |names: &Vec<&str>| names.iter().position(|known| *known == name);
        let known = at(&NAMES.read().unwrap_or_else(PoisonError::into_inner));
        let index = known.unwrap_or_else(|| {
            let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
            at(&names).unwrap_or_else(|| {
                names.push(Box::leak(name.to_owned().into_boxed_str()));
                names.len() - 1
            })
        });
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("nobody names four billion interfaces"))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        names[self.0.get() as usize - 1]
    }
}

/// Interfaces by number, from 1 on.
pub(super) type Numbers = BTreeMap<u8, Interface>;

/// The interface of a number, 0 being every interface; `None` when it was never given out.
pub(super) fn numbered(numbers: &Numbers, number: u8) -> Option<Option<Interface>> {
    if number == 0 { Some(None) } else { numbers.get(&number).copied().map(Some) }
}

/// Numbers of the interfaces that rules name, and which of them are there.
pub(super) struct Interfaces {
    names: Row<InterfaceName>,
    there: Table<u32, u32>,
    numbers: Numbers,
}

impl Interfaces {
    /// Takes over what the maps hold.
    pub(super) fn open(program: &mut Program, pins: &Pins) -> Result<Self, Error> {
        let names: Row<InterfaceName> = Row::open(program, pins, "interface_names")?;
        let numbers = (0_u8..).zip(names.values()?).filter_map(|(number, InterfaceName(bytes))| {
            let end = bytes.iter().position(|byte| *byte == 0)?;
            let name = std::str::from_utf8(&bytes[..end]).ok().filter(|name| !name.is_empty())?;
            (number > 0).then(|| (number, Interface::named(name)))
        });
        let there = Table::open(program, pins, "interfaces")?;
        Ok(Self { numbers: numbers.collect(), names, there })
    }

    /// Number of an interface that has one.
    pub(super) fn number(&self, interface: Option<Interface>) -> Option<u8> {
        let Some(interface) = interface else { return Some(0) };
        let mut numbers = self.numbers.iter();
        numbers.find(|(_, known)| **known == interface).map(|(number, _)| *number)
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Gives numbers to new ones; those that are not `used` lose theirs where room is needed.
    ///
    /// `Invalid` for what no interface can be called, `Full` when rules name too many, with nothing
    /// changed.
    pub(super) fn admit(
        &mut self,
        new: &BTreeSet<Interface>,
        used: impl FnOnce() -> BTreeSet<Interface>,
    ) -> Result<(), Error> {
        let new: Vec<_> = new.iter().filter(|it| self.number(Some(**it)).is_none()).collect();
        let bad = new.iter().find(|it| it.name().is_empty() || it.name().len() > NAME_BYTES);
        if let Some(bad) = bad {
            let why = format!("a name has 1 to {NAME_BYTES} bytes");
            return Err(Error::new(ErrorKind::Invalid, named("interface", bad.name()), why));
        }
        let max = MAX_INTERFACES as usize;
        if self.numbers.len() + new.len() > max {
            let used = used();
            if used.len() + new.len() > max {
                let why = format!("rules name {max} interfaces already");
                return Err(Error::new(ErrorKind::Full, "filter", why)
                    .with_remedy("unblock what names interfaces that are gone"));
            }
            self.numbers.retain(|_, interface| used.contains(interface));
        }
        for interface in new {
            let number = (1..).find(|it| !self.numbers.contains_key(it)).expect("there is room");
            let mut bytes = [0; 16];
            bytes[..interface.name().len()].copy_from_slice(interface.name().as_bytes());
            // The old index of the number, before its new name.
            self.numbers.remove(&number);
            self.publish()?;
            self.names.set(number.into(), InterfaceName(bytes))?;
            self.numbers.insert(number, *interface);
        }
        self.publish()
    }

    /// Tells the program which interfaces of this thread's network namespace are the ones that rules
    /// name.
    pub(super) fn publish(&mut self) -> Result<(), Error> {
        let wanted: BTreeMap<u32, u32> = self
            .numbers
            .iter()
            .filter_map(|(number, it)| Some((if_nametoindex(it.name()).ok()?, (*number).into())))
            .collect();
        let there: BTreeMap<u32, u32> = self.there.pinned.dump()?.into_iter().collect();
        for (index, number) in &wanted {
            if there.get(index) != Some(number) {
                self.there.insert(*index, *number)?;
            }
        }
        for index in there.keys().filter(|index| !wanted.contains_key(index)) {
            self.there.remove(index)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_interface() {
        let (one, other) = (Interface::named("eth0"), Interface::named("eth0.100"));
        assert_eq!(one, Interface::named("eth0"));
        assert_ne!(one, other);
        assert_eq!((one.name(), other.name()), ("eth0", "eth0.100"));
    }
}
