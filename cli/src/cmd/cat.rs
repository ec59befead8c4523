//! `cat`: files below /proc and /sys, as their bytes.

use super::{
    read::{ReadArgs, asks, pieces},
    sysctl::parse_path,
};
use crate::{
    args::Global,
    connect::Target,
    exit::Exit,
    output::{self, Format, note},
    view::{ErrorView, file::FileView, read::HostRow},
};
use clap::Args;
use kctl_proto::{Piece, agent::v1 as agent};
use std::{collections::BTreeMap, time::Duration};

/// Arguments of `cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Below /proc or /sys
    #[arg(value_name = "PATH", value_parser = parse_path)]
    path: String,
    /// Stop after so many bytes of each host, at most 268435456 [default: 16777216]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256 << 20))]
    max_bytes: Option<u64>,
    #[command(flatten)]
    read: ReadArgs,
}

asks! { file_service_client FileServiceClient
    ReadFileRequest ReadFileResponse read_file,
}

/// Runs `cat`.
pub(crate) async fn run(global: &Global, args: CatArgs) -> anyhow::Result<Exit> {
    let format = global.format()?;
    let target = Target::of(global)?;
    let selection = args.read.selection(&target)?;
    let one = matches!(target, Target::Agent(_)) || args.read.names_one_host();
    let request = agent::ReadFileRequest {
        path: args.path.clone(),
        max_bytes: args.max_bytes.unwrap_or_default(),
    };
    let mut files = Files {
        path: args.path,
        format,
        raw: format.for_people() && one,
        begun: BTreeMap::new(),
        rows: Vec::new(),
        hosts: 0,
        failed: 0,
    };
    let hear = |host, piece| files.hear(host, piece);
    pieces(global, &target, selection, &request, Duration::ZERO, hear).await?;
    files.finish()?;
    Ok(Exit::of_read(files.hosts, files.failed, args.read.strict()))
}

/// What hosts have sent so far.
struct Files {
    path: String,
    format: Format,
    /// Of one host, for people: passed on as it comes.
    raw: bool,
    begun: BTreeMap<String, FileView>,
    rows: Vec<HostRow<FileView>>,
    hosts: usize,
    failed: usize,
}

impl Files {
    fn hear(&mut self, host: String, piece: Piece<agent::ReadFileResponse>) -> anyhow::Result<()> {
        match piece {
            Piece::Part(part) => {
                let file = self.begun.entry(host).or_insert_with(|| FileView::new(&self.path));
                if self.raw {
                    output::bytes(&part.data)?;
                    file.end(part.truncated);
                    return Ok(());
                }
                file.add(part);
                Ok(())
            }
            Piece::Error(error) => {
                self.hosts += 1;
                self.failed += 1;
                self.begun.remove(&host);
                let error = ErrorView::from(error);
                if self.format.for_people() {
                    note(&format!("{host}: {}", error.message));
                    return Ok(());
                }
                self.row(HostRow { host, result: Err(error) })
            }
            Piece::End => {
                self.hosts += 1;
                let file = self.begun.remove(&host).unwrap_or_else(|| FileView::new(&self.path));
                if file.truncated() && self.format.for_people() {
                    note(&format!("{host}: cut short; see --max-bytes"));
                }
                match self.format.for_people() {
                    true if self.raw => Ok(()),
                    true => {
                        output::print(&format!("==> {host} <==\n"))?;
                        output::bytes(file.bytes())?;
                        // Else the next header would hang at its end.
                        let ended = file.bytes().last().is_none_or(|byte| *byte == b'\n');
                        if ended { Ok(()) } else { output::print("\n") }
                    }
                    false => self.row(HostRow { host, result: Ok(vec![file]) }),
                }
            }
        }
    }

    fn row(&mut self, row: HostRow<FileView>) -> anyhow::Result<()> {
        if self.format == Format::Jsonl {
            return output::line(&row);
        }
        self.rows.push(row);
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        for host in std::mem::take(&mut self.begun).into_keys() {
            let message = format!("host {host:?}: the answer was cut short");
            let error = agent::Error { code: "DATA_LOSS".to_owned(), message };
            self.hear(host, Piece::Error(error))?;
        }
        if self.format.for_people() || self.format == Format::Jsonl {
            return Ok(());
        }
        self.rows.sort_by(|a, b| a.host.cmp(&b.host));
        output::rows(self.format, "hosts", &self.rows, || output::Table::new(&[]))
    }
}
