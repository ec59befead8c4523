//! What detection costs a connection attempt, and a packet that is none.

use crate::lists::{Family, List, Sources};
use crate::peers::{Lookup, Peers, frame};
use crate::world::World;
use crate::{ROUNDS, median};
use agent_kernel::filter::{Detection, FloodLimits, Limit};
use std::time::Duration;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Sources that come again and again.
const FEW: u64 = 1_000;

/// Each kind of detection and none, with a flood of random sources, with a thousand sources, and with
/// packets of connections.
pub(crate) fn print(world: &World) {
    println!("\nns above an empty program: TCP packets of IPv4 / IPv6, by what is detected");
    println!(
        "{:<28}{:>18}{:>22}{:>18}",
        "", "SYN, any source", "SYN, 1,000 sources", "ACK, any source"
    );
    let window = Duration::from_secs(10);
    // Above what comes, so that nothing is told; a port that is suspect is a row of its own.
    let most = Limit { count: u32::MAX, window };
    let scan = Some(Limit { count: 20, window });
    let connections = Some(most);
    let flood = |limit| Some(FloodLimits { port: limit, source: u32::MAX, window });
    let none = Detection::default();
    for (name, detection) in [
        ("nothing", none),
        ("scans", Detection { scan, ..none }),
        ("connections", Detection { connections, ..none }),
        ("floods", Detection { flood: flood(u32::MAX), ..none }),
        ("all three", Detection { scan, connections, flood: flood(u32::MAX) }),
        ("all three, port suspect", Detection { scan, connections, flood: flood(2) }),
    ] {
        let cells = [Family::V4, Family::V6].map(|family| row(world, family, &detection));
        let cell = |at: usize| format!("{:.1} / {:.1}", cells[0][at], cells[1][at]);
        println!("{name:<28}{:>18}{:>22}{:>18}", cell(0), cell(1), cell(2));
    }
}

fn row(world: &World, family: Family, detection: &Detection) -> [f64; 3] {
    let list = List::singles(family, 0);
    let mut peers = Peers::load(0, &list);
    let (mut filled, _) = world.filled(&list);
    filled.filter.set_detection(detection).expect("valid");
    let any = Sources { family, first: 0, count: 1 << 32 };
    let few = Sources { family, first: 0, count: FEW };
    let [syn, ack] = [SYN, ACK].map(|flags| {
        let mut frame = frame(family);
        let tcp = if family == Family::V4 { 34 } else { 54 };
        frame[tcp + 13] = flags;
        frame
    });
    [(&any, &syn), (&few, &syn), (&any, &ack)].map(|(sources, frame)| {
        let mut net: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let empty = peers.measure_frame(Lookup::Empty, sources, frame);
                let its = Lookup::Other(filled.program());
                peers.measure_frame(its, sources, frame) - empty
            })
            .collect();
        median(&mut net)
    })
}
