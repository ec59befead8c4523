//! One host's answer to a read of a list: its records, or why there are none.

use super::ErrorView;
use crate::output::Table;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// So many hosts are named in a remark.
const NAMED: usize = 10;

/// What a list consists of.
pub(crate) trait Record: Serialize {
    /// Key of the list in a host's row.
    const NOUN: &'static str;
    /// Columns for people.
    const COLUMNS: &'static [&'static str];
    /// Further columns of `-o wide`.
    const WIDE_COLUMNS: &'static [&'static str];

    /// A cell for every column, the wide ones last.
    fn cells(&self) -> Vec<String>;

    /// Whether it is the whole answer: then its fields are in the host's row, and there is no list.
    fn is_whole(&self) -> bool {
        false
    }
}

/// `{"host":…,"routes":[…]}` or `{"host":…,"error":{…}}`
#[derive(Debug)]
pub(crate) struct HostRow<T> {
    pub(crate) host: String,
    pub(crate) result: Result<Vec<T>, ErrorView>,
}

/// `{"host":…,"kernel":…}`
#[derive(Serialize)]
struct SingleRow<'a, T> {
    host: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

impl<T: Record> Serialize for HostRow<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok([record]) = self.result.as_deref()
            && record.is_whole()
        {
            return SingleRow { host: &self.host, record }.serialize(serializer);
        }
        let mut row = serializer.serialize_map(Some(2))?;
        row.serialize_entry("host", &self.host)?;
        match &self.result {
            Ok(records) => row.serialize_entry(T::NOUN, records)?,
            Err(error) => row.serialize_entry("error", error)?,
        }
        row.end()
    }
}

/// Who has nothing to show: a table has no line of them. `None` when all have something.
pub(crate) fn without<T: Record>(rows: &[HostRow<T>]) -> Option<String> {
    let nothing = |row: &&HostRow<T>| row.result.as_ref().is_ok_and(Vec::is_empty);
    let hosts: Vec<&str> = rows.iter().filter(nothing).map(|row| row.host.as_str()).collect();
    let (first, more) = hosts.split_at(hosts.len().min(NAMED));
    let names = first.join(", ");
    match (hosts.len(), more.len()) {
        (0, _) => None,
        (_, 0) => Some(format!("no {} on {names}", T::NOUN)),
        (_, more) => Some(format!("no {} on {names} and {more} more", T::NOUN)),
    }
}

/// A line a record; hosts that failed have a line with the reason.
pub(crate) fn table<T: Record>(rows: &[HostRow<T>], wide: bool) -> Table {
    if rows.iter().all(|row| row.result.is_err()) {
        let mut table = Table::new(&["HOST", "ERROR"]);
        for row in rows {
            let why = row.result.as_ref().err().map(|error| error.message.clone());
            table.row([row.host.clone(), why.unwrap_or_default()]);
        }
        return table;
    }
    let more = if wide { T::WIDE_COLUMNS } else { &[] };
    let columns = T::COLUMNS.len() + more.len();
    let error: &[_] = if rows.iter().any(|row| row.result.is_err()) { &["ERROR"] } else { &[] };
    let mut table = Table::new(&[&["HOST"], T::COLUMNS, more, error].concat());
    for row in rows {
        let line = |cells: Vec<String>| std::iter::once(row.host.clone()).chain(cells);
        match &row.result {
            Ok(records) => {
                for record in records {
                    let mut cells = record.cells();
                    cells.truncate(columns);
                    table.row(line(cells));
                }
            }
            Err(error) => {
                let blank = vec![String::new(); columns];
                table.row(line(blank).chain([error.message.clone()]));
            }
        }
    }
    table
}
