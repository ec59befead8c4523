//! Which records are free. It must not know what is in them.

#[derive(Debug)]
pub(super) struct Places {
    /// A bit for each that is taken, and for those beyond the last.
    taken: Vec<u64>,
    available: usize,
    /// The word where any free one is looked for first.
    next: usize,
}

impl Places {
    /// All free.
    pub(super) fn new(count: u32) -> Self {
        let mut taken = vec![0; count.div_ceil(64) as usize];
        if let (Some(last), 1..) = (taken.last_mut(), count % 64) {
            *last = u64::MAX << (count % 64);
        }
        Self { taken, available: count as usize, next: 0 }
    }

    /// Takes this one, if it is free.
    pub(super) fn claim(&mut self, number: u32) -> bool {
        let Some(word) = self.taken.get_mut(number as usize / 64) else { return false };
        let bit = 1 << (number % 64);
        let is_free = *word & bit == 0;
        *word |= bit;
        self.available -= usize::from(is_free);
        is_free
    }

    /// Takes a free one.
    pub(super) fn take(&mut self) -> Option<u32> {
        let words = (self.next..self.taken.len()).chain(0..self.next);
        let word = words.into_iter().find(|word| self.taken[*word] != u64::MAX)?;
        self.next = word;
        let first = u32::try_from(word * 64).expect("as many as numbers");
        let number = first + self.taken[word].trailing_ones();
        self.claim(number).then_some(number)
    }

    /// How many can be taken.
    pub(super) fn available(&self) -> usize {
        self.available
    }

    /// Gives back one that is taken.
    pub(super) fn free(&mut self, number: u32) {
        self.taken[number as usize / 64] &= !(1 << (number % 64));
        self.available += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_given_out_once_until_it_is_freed() {
        let mut places = Places::new(70);
        assert!(places.claim(3) && !places.claim(3) && !places.claim(70));
        assert_eq!(places.available(), 69);
        let mut taken: Vec<u32> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!((places.available(), taken.len()), (0, 69));
        taken.push(3);
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..70));
        places.free(41);
        assert_eq!((places.available(), places.take(), places.take()), (1, Some(41), None));
    }
}
