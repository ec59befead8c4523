//! Sources for frames: another one for each, written into it.

use aya_ebpf::programs::XdpContext;

/// Which sources are made, and how many were.
#[repr(C)]
pub struct Sources {
    /// State of a xorshift generator.
    random: u64,
    /// Sources made so far.
    pub made: u64,
    /// Number of the first source.
    first: u64,
    /// How many there are, at most 2^32.
    count: u64,
}

impl Sources {
    /// Writes the next source into a frame. A test run goes on with the frame that the last one left.
    #[inline(always)]
    pub fn write(&mut self, ctx: &XdpContext) {
        self.made += 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let number = self.first + ((self.random >> 32) * self.count >> 32);
        let start = ctx.data();
        if start + 54 > ctx.data_end() {
            return;
        }
        // SAFETY: the frame has these bytes, as was just checked.
        unsafe {
            if *((start + 13) as *const u8) == 0 {
                ((start + 26) as *mut u32).write_unaligned(mix4(number as u32).to_be());
            } else {
                ((start + 22) as *mut u64).write_unaligned(mix6(number).to_be());
                ((start + 30) as *mut u64).write_unaligned(mix6(!number).to_be());
            }
        }
    }
}

/// The source of a number; another one for each.
#[inline(always)]
fn mix4(number: u32) -> u32 {
    let mut it = number;
    it = (it ^ it >> 16).wrapping_mul(0x85eb_ca6b);
    it = (it ^ it >> 13).wrapping_mul(0xc2b2_ae35);
    it ^ it >> 16
}

/// Half of a source of a number.
#[inline(always)]
fn mix6(number: u64) -> u64 {
    let mut it = number;
    it = (it ^ it >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    it = (it ^ it >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    it ^ it >> 33
}
