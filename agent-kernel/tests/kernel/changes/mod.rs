//! Changes of the network as they are told, compared with what ip(8) shows before and after.

mod many;
mod model;
mod one;
mod uevent;

use crate::support::{World, run};
use agent_kernel::netlink::{Changes, NetChange, NetEvent};
use model::Model;
use std::future::Future;
use std::time::{Duration, Instant};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// A world without addresses that the kernel makes by itself.
fn quiet() -> World {
    let world = World::new();
    for which in ["default", "lo"] {
        run(&format!("sysctl -qw net.ipv6.conf.{which}.addr_gen_mode=1"));
    }
    world
}

/// Somebody who listens, and believes what is told.
struct Listener {
    changes: Changes,
    model: Model,
}

impl Listener {
    fn new() -> Self {
        Self::with_buffer(8 << 20)
    }

    /// Begins when nothing changes any more.
    fn with_buffer(bytes: usize) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let changes = Changes::open_with_buffer(bytes).expect("changes");
            let mut listener = Self { changes, model: Model::nothing() };
            listener.wait();
            listener.model = Model::read();
            if !listener.model.is_in_flux() && listener.wait().is_empty() {
                return listener;
            }
            assert!(Instant::now() < deadline, "the network is never quiet");
        }
    }

    /// What is told until nothing more is for a while, believed.
    fn hear(&mut self) -> Vec<NetEvent> {
        let heard = self.wait();
        heard.iter().for_each(|event| self.model.apply(event));
        heard
    }

    fn wait(&mut self) -> Vec<NetEvent> {
        let mut heard = Vec::new();
        loop {
            let more = block_on(async {
                let readable = self.changes.readable();
                tokio::time::timeout(Duration::from_millis(30), readable).await
            });
            let Ok(readable) = more else { return heard };
            readable.expect("a socket");
            heard.extend(self.changes.drain().expect("events"));
        }
    }

    /// What is told of a command until it is enough, after which the picture is right.
    fn told(&mut self, line: &str, is_enough: impl Fn(&[NetEvent]) -> bool) -> Vec<NetEvent> {
        run(line);
        let mut heard = Vec::new();
        self.settle(&mut heard, is_enough);
        heard
    }

    /// Hears until it is enough and the picture is right.
    fn settle(&mut self, heard: &mut Vec<NetEvent>, is_enough: impl Fn(&[NetEvent]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            heard.extend(self.hear());
            if is_enough(heard) && self.model.is_real() {
                return;
            }
            if Instant::now() > deadline {
                self.model.assert_is_real();
                panic!("not enough: {heard:#?}");
            }
        }
    }
}

/// How often each kind of event is there, and what became of the object.
fn summary(events: &[NetEvent]) -> Vec<(&'static str, NetChange)> {
    let kind = |event: &NetEvent| match event {
        NetEvent::Link { change, .. } => ("link", *change),
        NetEvent::Addr { change, .. } => ("addr", *change),
        NetEvent::Route { change, .. } => ("route", *change),
        NetEvent::Neigh { change, .. } => ("neigh", *change),
        NetEvent::Lost(count) => panic!("{count} lost"),
    };
    events.iter().map(kind).collect()
}
