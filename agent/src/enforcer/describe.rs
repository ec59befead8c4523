//! The host's status, from what the enforcer owns.

use super::{Enforcement, Interface};
use agent_kernel::filter::Filter;
use kctl_proto::agent::v1 as pb;

/// How many settings that were put back are told.
const ROLLED_BACK: usize = 8;

impl Enforcement {
    /// Everything at once, as the controller and `kctl hosts` see it.
    pub(super) fn describe(&self) -> pb::HostStatus {
        let filter = self.filter.as_ref();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        pb::HostStatus {
            name: self.config.name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.kernel.clone(),
            boot_id: self.boot.id.clone(),
            labels: self.config.labels.clone().into_iter().collect(),
            filter: Some(pb::FilterStatus {
                interfaces: self.describe_interfaces(),
                unfiltered_interfaces: self.unfiltered(),
                entries: filter.map_or(0, Filter::entries),
                max_entries: filter.map_or(0, |filter| filter.max_entries().into()),
                memory_bytes: self.memory_bytes,
                protected: filter.map_or(0, Filter::guards),
                absent_interfaces: self.absent_interfaces(),
            }),
            store: Some(self.state()),
            addresses: self.network.own_addresses(),
            protected: self.default_guard().iter().map(ToString::to_string).collect(),
            management_ports: self.network.ssh_ports.iter().copied().map(u32::from).collect(),
            missing: self.missing(),
            local_entries: count(self.set.local()),
            suspended_entries: count(self.set.suspended().len()),
            refusal: self.refusal.clone(),
            not_enforced: self.not_enforced(),
            rolled_back: self.rolled_back.iter().cloned().collect(),
            auto_made: self.auto_made,
            alerts: self.alerts.clone(),
            detection: filter.ok().map(|_| self.detection()),
        }
    }

    /// Notes a network setting that was put back.
    pub(crate) fn rolled_back(&mut self, setting: pb::RolledBack) {
        if self.rolled_back.len() == ROLLED_BACK {
            self.rolled_back.pop_front();
        }
        self.rolled_back.push_back(setting);
    }

    /// Notes what fires now.
    pub(crate) fn set_alerts(&mut self, alerts: Vec<pb::AlertEvent>) {
        self.alerts = alerts;
    }

    /// The chosen interfaces, and how each is filtered or why not.
    pub(crate) fn describe_interfaces(&self) -> Vec<pb::filter_status::Interface> {
        let describe = |(name, it): (&String, &Interface)| pb::filter_status::Interface {
            name: name.clone(),
            ifindex: it.ifindex,
            mode: it.attached.as_ref().map_or("", |mode| mode.name()).to_owned(),
            error: it.attached.as_ref().err().cloned().unwrap_or_default(),
            reason: it.reason.clone().unwrap_or_default(),
        };
        self.interfaces.iter().map(describe).collect()
    }

    fn missing(&self) -> Vec<pb::Missing> {
        let unsaved = self.unsaved.as_ref().map(|why| pb::Missing {
            what: "state".to_owned(),
            why: format!("the blocklist can't be saved: {why}"),
            remedy: format!("look at the disk of {}", self.config.state_dir.display()),
        });
        let filter = self.filter.as_ref().err().cloned();
        filter.into_iter().chain(unsaved).chain(self.sources_missing.iter().cloned()).collect()
    }

    /// Notes events that this host can't make.
    pub(crate) fn add_missing(&mut self, missing: Vec<pb::Missing>) {
        self.sources_missing.extend(missing);
    }
}
