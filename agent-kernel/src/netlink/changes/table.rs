//! Known objects by key, at most so many, and which of them a dump has shown. It must not know what the
//! objects are.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Table<K, V> {
    known: HashMap<K, Known<V>>,
    most: usize,
    /// Of the dump that goes on, or of the last one.
    dump: u32,
    /// There was no room for some object since the last dump began.
    full: bool,
}

#[derive(Debug)]
struct Known<V> {
    value: V,
    /// The last dump that showed it, or that was going on when it was told.
    dump: u32,
}

/// What became of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Same,
    New,
    Other,
    /// It is not kept.
    NoRoom,
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { known: HashMap::new(), most, dump: 0, full: false }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.known.get(key).map(|known| &known.value)
    }

    /// An object to be changed, noted as shown; and whether it was so before.
    pub(super) fn show(&mut self, key: &K) -> Option<(bool, &mut V)> {
        let known = self.known.get_mut(key)?;
        let before = std::mem::replace(&mut known.dump, self.dump);
        Some((before == self.dump, &mut known.value))
    }

    /// Whether there is room for another; where there is not, that is remembered.
    pub(super) fn has_room(&mut self) -> bool {
        let room = self.known.len() < self.most;
        self.full |= !room;
        room
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.known.insert(key, Known { value, dump: self.dump });
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.known.remove(key).map(|known| known.value)
    }

    /// Whether every object that was told is known.
    pub(super) fn is_whole(&self) -> bool {
        !self.full
    }

    /// A dump begins: nothing of it is shown yet.
    pub(super) fn begin(&mut self) {
        self.dump = self.dump.wrapping_add(1);
        self.full = false;
    }

    /// Takes out what the dump has not shown, at most so many at once.
    pub(super) fn take_unseen(&mut self, most: usize) -> Vec<(K, V)> {
        let dump = self.dump;
        let unseen = self.known.extract_if(|_, known| known.dump != dump);
        unseen.take(most).map(|(key, known)| (key, known.value)).collect()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Table<K, V> {
    /// An object as it is now.
    pub(super) fn place(&mut self, key: K, value: &V, same: impl Fn(&V, &V) -> bool) -> Placed {
        if let Some((_, known)) = self.show(&key) {
            if same(known, value) {
                return Placed::Same;
            }
            known.clone_from(value);
            return Placed::Other;
        }
        if !self.has_room() {
            return Placed::NoRoom;
        }
        self.insert(key, value.clone());
        Placed::New
    }
}
