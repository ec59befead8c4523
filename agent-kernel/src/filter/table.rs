//! One kernel map with its name, so that every failure says which. It must not know what it holds.

use super::bpf;
use super::pins::{Pin, Pins};
use super::program::Program;
use crate::error::{Error, named};
use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

/// One call for one value costs as much as that many of all values read in large steps.
const ONE_BY_ONE: usize = 8;

/// A descriptor of a pinned map, for what aya's own types don't do.
#[derive(Debug)]
pub(super) struct Pinned {
    name: &'static str,
    data: MapData,
}

impl Pinned {
    pub(super) fn open(pins: &Pins, name: &'static str) -> Result<Self, Error> {
        let data = MapData::from_pin(pins.path(&Pin::Map(name.to_owned())))
            .map_err(|error| Error::wrapped(object(name), error))?;
        Ok(Self { name, data })
    }

    /// Every element of a hash or an array.
    pub(super) fn dump<K: Pod, V: Pod>(&self) -> Result<Vec<(K, V)>, Error> {
        bpf::dump(self.data.fd(), &object(self.name), usize::MAX)
    }

    /// The elements of an array below an index, and maybe some more.
    fn below<V: Pod>(&self, end: u32) -> Result<Vec<(u32, V)>, Error> {
        bpf::dump(self.data.fd(), &object(self.name), end as usize)
    }

    /// Puts as many values at as many keys.
    fn write<K: Pod, V: Pod>(&self, keys: &[K], values: &[V]) -> Result<(), Error> {
        bpf::write(self.data.fd(), &object(self.name), keys, values)
    }

    pub(super) fn max_entries(&self) -> Result<u32, Error> {
        let info = self.data.info().map_err(|error| Error::wrapped(object(self.name), error))?;
        Ok(info.max_entries())
    }
}

/// A hash.
#[derive(Debug)]
pub(super) struct Table<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    pub(super) pinned: Pinned,
}

impl<K: Pod, V: Pod> Table<K, V> {
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        name: &'static str,
    ) -> Result<Self, Error> {
        Ok(Self { map: program.take(name)?, pinned: Pinned::open(pins, name)? })
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::wrapped(object(self.pinned.name), error)),
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Result<(), Error> {
        self.map
            .insert(key, value, 0)
            .map_err(|error| Error::wrapped(object(self.pinned.name), error))
    }

    /// One that is gone already is no error: somebody else may have removed it.
    pub(super) fn remove(&mut self, key: &K) -> Result<(), Error> {
        absent_is_fine(
            self.map.remove(key).map_err(|e| Error::wrapped(object(self.pinned.name), e)),
        )
    }
}

/// An array.
pub(super) struct Row<V: Pod> {
    map: Array<MapData, V>,
    pub(super) pinned: Pinned,
}

impl<V: Pod> Row<V> {
    pub(super) fn open(
        program: &mut Program,
        pins: &Pins,
        name: &'static str,
    ) -> Result<Self, Error> {
        Ok(Self { map: program.take(name)?, pinned: Pinned::open(pins, name)? })
    }

    pub(super) fn set(&mut self, index: u32, value: V) -> Result<(), Error> {
        self.map
            .set(index, value, 0)
            .map_err(|error| Error::wrapped(object(self.pinned.name), error))
    }

    pub(super) fn get(&self, index: u32) -> Result<V, Error> {
        self.map.get(&index, 0).map_err(|error| Error::wrapped(object(self.pinned.name), error))
    }

    /// Some values, all below an index: one by one or out of all, whichever is cheaper.
    pub(super) fn some(
        &self,
        indexes: &BTreeSet<u32>,
        end: u32,
    ) -> Result<BTreeMap<u32, V>, Error> {
        if indexes.len() < end as usize / ONE_BY_ONE {
            return indexes.iter().map(|index| Ok((*index, self.get(*index)?))).collect();
        }
        let all = self.pinned.below::<V>(end)?.into_iter();
        Ok(all.filter(|(index, _)| indexes.contains(index)).collect())
    }

    /// The values below an index, and maybe some more.
    pub(super) fn below(&self, end: u32) -> Result<Vec<V>, Error> {
        Ok(self.pinned.below(end)?.into_iter().map(|(_, value)| value).collect())
    }

    /// Puts values in, in large steps.
    pub(super) fn write(&mut self, values: &BTreeMap<u32, V>) -> Result<(), Error> {
        let (keys, values): (Vec<u32>, Vec<V>) = values.iter().map(|(k, v)| (*k, *v)).unzip();
        self.pinned.write(&keys, &values)
    }

    /// All values, by index.
    pub(super) fn values(&self) -> Result<Vec<V>, Error> {
        Ok(self.pinned.dump::<u32, V>()?.into_iter().map(|(_, value)| value).collect())
    }
}

pub(super) fn absent_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == crate::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Kernel memory that a pinned map takes, bytes; 0 where the kernel doesn't tell.
pub(super) fn memory_bytes(pins: &Pins, pin: &Pin) -> Result<u64, Error> {
    let path = pins.path(pin);
    let failed = |error| Error::io(named("pin", path.display()), error);
    let fd = bpf::open_pin(&path).map_err(failed)?;
    Ok(bpf::fdinfo(fd.as_fd(), "memlock").map_err(failed)?.unwrap_or(0))
}

pub(super) fn object(name: &str) -> String {
    format!("map {name}")
}
