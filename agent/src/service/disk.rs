//! `DiskService`: what sysfs tells of this host's block devices, and procfs of its mounts.

use super::blocking::blocking;
use super::chunks::{Chunks, chunks};
use super::interval::interval;
use crate::text::{text, text_or_empty};
use agent_kernel::file::Roots;
use agent_kernel::proc::{Mount, Mounts, Usage, Usages, mounts};
use agent_kernel::sys::{self, Counters, Disk, DiskQuery, DiskRates, Operations, Sample};
use kctl_proto::agent::v1::{self as pb, disk_service_server::DiskService};
use std::convert::Infallible;
use std::path::PathBuf;
use tonic::{Request, Response, Status};

/// More mounts of one device are left out: a container host has thousands of bind mounts.
const MOST_MOUNTS: usize = 100;

/// Answers for the devices of one sysfs and the mounts of one procfs.
#[derive(Debug)]
pub(super) struct Disks {
    proc_root: PathBuf,
    sys_root: PathBuf,
    usages: Usages,
}

impl Disks {
    pub(super) fn new(roots: &Roots) -> Self {
        let (proc_root, sys_root) = (roots.proc.clone(), roots.sys.clone());
        Self { proc_root, sys_root, usages: Usages::default() }
    }
}

#[tonic::async_trait]
impl DiskService for Disks {
    type ListDisksStream = Chunks<pb::ListDisksResponse>;

    async fn list_disks(
        &self,
        request: Request<pb::ListDisksRequest>,
    ) -> Result<Response<Self::ListDisksStream>, Status> {
        let request = request.into_inner();
        let interval = interval(request.interval_ms)?;
        let query = DiskQuery { name: request.name, all: request.all };
        let mut samples = None;
        if !interval.is_zero() {
            let root = self.proc_root.clone();
            let before = blocking(move || sys::sample(&root)).await?;
            tokio::time::sleep(interval).await;
            let root = self.proc_root.clone();
            samples = Some((before, blocking(move || sys::sample(&root)).await?));
        }
        let (sys_root, proc_root) = (self.sys_root.clone(), self.proc_root.clone());
        let usages = self.usages.clone();
        let disks = blocking(move || {
            let disks: Vec<_> = sys::disks(&sys_root, query)?.collect();
            let seen = mounts(&proc_root)?;
            Ok(disks_to_proto(disks, &seen, &usages, samples.as_ref()))
        })
        .await?;
        let message = |disks| pb::ListDisksResponse { disks };
        Ok(Response::new(chunks(disks.into_iter().map(Ok), message, never)))
    }

    type ListMountsStream = Chunks<pb::ListMountsResponse>;

    async fn list_mounts(
        &self,
        request: Request<pb::ListMountsRequest>,
    ) -> Result<Response<Self::ListMountsStream>, Status> {
        let all = request.into_inner().all;
        let (proc_root, usages) = (self.proc_root.clone(), self.usages.clone());
        let mounts = blocking(move || {
            let seen = mounts(&proc_root)?;
            let chosen: Vec<_> =
                seen.mounts.iter().filter(|mount| all || !mount.is_pseudo()).collect();
            Ok(mounts_to_proto(&seen, &chosen, &usages))
        })
        .await?;
        let message = |mounts| pb::ListMountsResponse { mounts };
        Ok(Response::new(chunks(mounts.into_iter().map(Ok), message, never)))
    }
}

fn never(never: Infallible) -> Status {
    match never {}
}

fn disks_to_proto(
    disks: Vec<Disk>,
    seen: &Mounts,
    usages: &Usages,
    samples: Option<&(Sample, Sample)>,
) -> Vec<pb::Disk> {
    let mounts_of = |disk: &Disk| -> Vec<&Mount> {
        // One more than is shown, to know that there are more.
        seen.mounts.iter().filter(|mount| disk.backs(mount)).take(MOST_MOUNTS + 1).collect()
    };
    let mounted: Vec<_> = disks.iter().map(mounts_of).collect();
    // All of them in one go: the time for those that hang is for all of them together.
    let mut converted = mounts_to_proto(seen, &mounted.concat(), usages).into_iter();
    let disks = disks.into_iter().zip(mounted);
    disks
        .map(|(disk, mounted)| {
            let mounts = converted.by_ref().take(mounted.len()).collect();
            disk_to_proto(disk, mounts, samples)
        })
        .collect()
}

fn disk_to_proto(
    disk: Disk,
    mut mounts: Vec<pb::Mount>,
    samples: Option<&(Sample, Sample)>,
) -> pb::Disk {
    let mounts_truncated = mounts.len() > MOST_MOUNTS;
    mounts.truncate(MOST_MOUNTS);
    let rates = samples.and_then(|(before, now)| now.rates(before, disk.major, disk.minor));
    pb::Disk {
        name: disk.name,
        major: disk.major,
        minor: disk.minor,
        r#type: disk.kind.to_owned(),
        parent: disk.parent.unwrap_or_default(),
        size_bytes: disk.size_bytes,
        logical_block_bytes: disk.logical_block_bytes,
        physical_block_bytes: disk.physical_block_bytes,
        model: text_or_empty(disk.model),
        vendor: text_or_empty(disk.vendor),
        serial: text_or_empty(disk.serial),
        rotational: disk.rotational,
        removable: disk.removable,
        read_only: disk.read_only,
        scheduler: disk.scheduler.unwrap_or_default(),
        schedulers: disk.schedulers,
        holders: disk.holders,
        slaves: disk.slaves,
        backing_file: text_or_empty(disk.backing_file),
        dm_name: text_or_empty(disk.dm_name),
        mounts,
        mounts_truncated,
        io: Some(io_to_proto(&disk.counters)),
        rates: rates.map(rates_to_proto),
    }
}

fn io_to_proto(counters: &Counters) -> pb::disk::Io {
    let operations = |operations: Operations| pb::disk::Operations {
        count: operations.count,
        merged: operations.merged,
        bytes: operations.bytes,
        time_ms: operations.time_ms,
    };
    pb::disk::Io {
        reads: Some(operations(counters.reads)),
        writes: Some(operations(counters.writes)),
        discards: counters.discards.map(operations),
        flushes: counters.flushes.map(|(count, _)| count),
        flush_time_ms: counters.flushes.map(|(_, time_ms)| time_ms),
        in_flight: counters.in_flight,
        io_time_ms: counters.io_time_ms,
        weighted_time_ms: counters.weighted_time_ms,
    }
}

fn rates_to_proto(rates: DiskRates) -> pb::disk::Rates {
    pb::disk::Rates {
        reads_per_second: rates.reads_per_second,
        writes_per_second: rates.writes_per_second,
        read_bytes_per_second: rates.read_bytes_per_second,
        write_bytes_per_second: rates.write_bytes_per_second,
        read_wait_ms: rates.read_wait_ms,
        write_wait_ms: rates.write_wait_ms,
        queue_length: rates.queue_length,
        utilisation_percent: rates.utilisation_percent,
    }
}

fn mounts_to_proto(seen: &Mounts, mounts: &[&Mount], usages: &Usages) -> Vec<pb::Mount> {
    let namespace = if seen.of_init { "init" } else { "agent" };
    let answers = usages.ask(seen, mounts.iter().copied());
    let convert = |(mount, answer): (&&Mount, Result<Usage, String>)| pb::Mount {
        path: text(&mount.path),
        root: text(&mount.root),
        fs_type: text(&mount.fs_type),
        source: text(&mount.source),
        options: text(&mount.options),
        major: mount.major,
        minor: mount.minor,
        namespace: namespace.to_owned(),
        usage: answer.as_ref().ok().map(usage_to_proto),
        error: answer.err().unwrap_or_default(),
    };
    mounts.iter().zip(answers).map(convert).collect()
}

fn usage_to_proto(usage: &Usage) -> pb::mount::Usage {
    pb::mount::Usage {
        total_bytes: usage.total_bytes,
        used_bytes: usage.used_bytes,
        available_bytes: usage.available_bytes,
        inodes_total: usage.inodes_total,
        inodes_used: usage.inodes_used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use std::fmt::Write as _;
    use std::fs::{create_dir_all, write};
    use tonic::Code;

    /// Two devices; the second has more mounts than are shown, all of them gone.
    fn fixture() -> (tempfile::TempDir, Disks) {
        let root = tempfile::tempdir().expect("a folder");
        let (proc, sys) = (root.path().join("proc"), root.path().join("sys"));
        for (name, numbers, model) in [("vda", "254:0", &b"A\xff"[..]), ("vdb", "254:16", b"B")] {
            let folder = sys.join("class/block").join(name);
            create_dir_all(folder.join("device")).expect("a folder");
            write(folder.join("dev"), numbers).expect("written");
            write(folder.join("size"), "8").expect("written");
            write(folder.join("stat"), "1 2 3 4 5 6 7 8 9 10 11").expect("written");
            write(folder.join("device/model"), model).expect("written");
        }
        let mut table = "1 0 254:0 / /nonexistent/a\\040b rw - ext4 /dev/vda rw\n\
            2 0 0:9 / /nonexistent/tmp rw - tmpfs tmpfs rw\n\
            3 0 0:10 / /nonexistent/proc rw - proc proc rw\n"
            .to_owned();
        for id in 4..200 {
            let path = format!("/nonexistent/{id}");
            writeln!(table, "{id} 0 254:16 / {path} rw - ext4 /dev/vdb rw").expect("a text");
        }
        create_dir_all(proc.join("self")).expect("a folder");
        let stats = " 254 0 vda 1 2 3 4 5 6 7 8 9 10 11\n 254 16 vdb 1 2 3 4 5 6 7 8 9 10 11\n";
        write(proc.join("diskstats"), stats).expect("written");
        write(proc.join("self/mountinfo"), table).expect("written");
        let service = Disks::new(&Roots { proc, sys });
        (root, service)
    }

    async fn disks(
        service: &Disks,
        request: pb::ListDisksRequest,
    ) -> Result<Vec<pb::Disk>, Status> {
        let answer = service.list_disks(Request::new(request)).await?.into_inner();
        let parts: Vec<_> = answer.map(|part| part.expect("a part").disks).collect().await;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn each_device_has_its_own_mounts_and_not_too_many() {
        let (_root, service) = fixture();
        let found = disks(&service, pb::ListDisksRequest::default()).await.expect("devices");
        let names: Vec<_> = found.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["vda", "vdb"]);
        assert_eq!(found[0].model, "A\\xff");
        let paths = |disk: &pb::Disk| -> Vec<String> {
            disk.mounts.iter().map(|mount| mount.path.clone()).collect()
        };
        assert_eq!(paths(&found[0]), ["/nonexistent/a b"]);
        assert_eq!((paths(&found[1])[0].as_str(), found[1].mounts.len()), ("/nonexistent/4", 100));
        assert_eq!((found[0].mounts_truncated, found[1].mounts_truncated), (false, true));
        let mount = &found[0].mounts[0];
        assert_eq!(mount.error, "no such file or directory");
        assert_eq!((mount.usage, mount.namespace.as_str()), (None, "agent"));
        assert_eq!(found[0].rates, None);
        let io = found[0].io.expect("counters");
        assert_eq!((io.reads.map(|it| it.bytes), io.discards), (Some(3 * 512), None));
    }

    #[tokio::test]
    async fn rates_want_an_interval_and_an_unknown_device_is_not_found() {
        let (_root, service) = fixture();
        let name = "vdb".to_owned();
        let request = pb::ListDisksRequest { name, interval_ms: 1, ..Default::default() };
        let found = disks(&service, request).await.expect("devices");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].rates.map(|rates| rates.reads_per_second), Some(0.0));
        let request = pb::ListDisksRequest { interval_ms: 5_001, ..Default::default() };
        let refused = disks(&service, request).await.expect_err("too long");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let request = pb::ListDisksRequest { name: "sdz".to_owned(), ..Default::default() };
        assert_eq!(disks(&service, request).await.expect_err("none").code(), Code::NotFound);
    }

    #[tokio::test]
    async fn mounts_without_files_are_shown_when_asked_for() {
        let (_root, service) = fixture();
        for (all, count) in [(false, 198), (true, 199)] {
            let request = Request::new(pb::ListMountsRequest { all });
            let answer = service.list_mounts(request).await.expect("mounts").into_inner();
            let parts: Vec<_> = answer.map(|part| part.expect("a part").mounts).collect().await;
            let types: Vec<_> = parts.concat().into_iter().map(|mount| mount.fs_type).collect();
            assert_eq!(types.len(), count);
            assert_eq!(types.contains(&"proc".to_owned()), all);
        }
    }
}
