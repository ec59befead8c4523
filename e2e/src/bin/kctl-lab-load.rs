//! Makes load of a known size for tests and benchmarks: opens a file so many times, at so many a second
//! or as fast as it can, and prints how many times it did.

use std::{
    fs::File,
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

/// Opens come in bursts this far apart.
const BURST: Duration = Duration::from_millis(2);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, count, rate] = args.as_slice() else {
        eprintln!("usage: kctl-lab-load PATH COUNT OPENS-A-SECOND (0 for no bound)");
        return ExitCode::from(2);
    };
    let (Ok(count), Ok(rate)) = (count.parse::<u64>(), rate.parse::<u64>()) else {
        eprintln!("kctl-lab-load: COUNT and OPENS-A-SECOND are numbers");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let mut opened = 0;
    while opened < count {
        // As many as the rate asks for by now.
        let due = match rate {
            0 => count,
            rate => (u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX) * rate / 1_000)
                .min(count),
        };
        while opened < due {
            if let Err(error) = File::open(path) {
                eprintln!("kctl-lab-load: {path}: {error}");
                return ExitCode::FAILURE;
            }
            opened += 1;
        }
        if opened < count {
            sleep(BURST);
        }
    }
    println!("{opened}");
    ExitCode::SUCCESS
}
